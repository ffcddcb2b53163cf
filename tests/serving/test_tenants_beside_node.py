"""What one process does to a tenant, others beside the node know once they have seen it."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from feeds.cli_cluster import init_cluster
from feeds.engine import FeedEngine
from feeds.errors import NotFound
from feeds.model import ActivityDraft, FeedId, TenantId
from feeds.new_keys import create_key
from feeds.node import EngineNode
from feeds.node_config import NodeConfig
from feeds.remote import open_remote
from feeds.testing_ports import free_ports
from serving.errors import KeyRefused
from serving.quotas import QuotaConfig, TenantQuotas
from serving.tenants import Authenticator
from serving.testing import wait_until

ACME = TenantId("acme")
ANN = FeedId("user", "ann")
WAIT_S = 30.0


@pytest.fixture
def engines() -> Iterator[tuple[FeedEngine, FeedEngine]]:
    """Two engines beside one node, as two workers have them."""
    with tempfile.TemporaryDirectory(prefix="hw") as directory, ExitStack() as stack:
        (path,) = init_cluster(Path(directory), "test", free_ports(1), nodes=1, plain=True)
        config = NodeConfig.load(path)
        stack.enter_context(EngineNode.running(config))
        one, other = [stack.enter_context(open_remote(config.socket)) for _ in range(2)]
        one.create_tenant(ACME).result(WAIT_S)
        wait_until(lambda: other.tenants() == [ACME], "the tenant to be seen")
        yield one, other


def refuses(authenticator: Authenticator, api_key: str) -> bool:
    try:
        authenticator.key(f"Bearer {api_key}")
    except KeyRefused:
        return True
    return False


def test_a_key_that_one_worker_revokes_is_refused_by_another_that_holds_it(
    engines: tuple[FeedEngine, FeedEngine],
) -> None:
    one, other = engines
    authenticator = Authenticator(other.key, time.monotonic, 10, 3_600.0)
    other.subscribe(authenticator.changed, authenticator.missed)
    made = create_key(one, ACME)
    made.stored.result(WAIT_S)
    wait_until(lambda: not refuses(authenticator, made.api_key), "the key to be seen")
    one.revoke_key(ACME, made.key_id).result(WAIT_S)
    wait_until(lambda: refuses(authenticator, made.api_key), "the key to be refused")


def test_a_quota_that_one_worker_sets_is_kept_by_another(
    engines: tuple[FeedEngine, FeedEngine],
) -> None:
    one, other = engines
    quotas = TenantQuotas(lambda tenant: other.tenant(tenant).quotas, QuotaConfig(), lambda: 0)
    other.subscribe(quotas.changed, quotas.missed)
    quotas.request(ACME)
    assert quotas.limits(ACME).requests_per_s == QuotaConfig().requests_per_s
    one.set_quotas(ACME, {"requests_per_s": 7}).result(WAIT_S)
    wait_until(lambda: quotas.limits(ACME).requests_per_s == 7, "the quota to be seen")


def test_a_tenant_that_one_worker_deletes_is_unknown_to_another_that_knew_it(
    engines: tuple[FeedEngine, FeedEngine],
) -> None:
    one, other = engines
    draft = ActivityDraft(actor="user:ann", verb="post", object="1")
    other.post(ACME, ANN, draft).result(WAIT_S)
    first = other.tenant(ACME).index
    one.delete_tenant(ACME).result(WAIT_S)

    def unknown() -> bool:
        try:
            other.read(ACME, ANN)
        except NotFound:
            return True
        return False

    wait_until(unknown, "the deletion to be seen")
    wait_until(lambda: one.deleting() == [], "the rows to be removed")
    one.create_tenant(ACME).result(WAIT_S)
    wait_until(lambda: other.tenants() == [ACME], "the new tenant to be seen")
    assert other.tenant(ACME).index > first
    assert other.read(ACME, ANN).rows == []
    assert not other.post(ACME, ANN, draft).result(WAIT_S).duplicate
