"""Three nodes, and the leader is killed while a tenant's rows are being removed."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from feeds.cli_cluster import start_cluster
from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.errors import NotFound
from feeds.model import ActivityDraft, FeedId, TenantId
from feeds.remote import open_remote
from feeds.store.base import COLUMN_FAMILIES
from feeds.testing_cluster import NODES, leader_of, three_nodes, wait_for

WAIT_S = 60.0
GONE, KEPT = TenantId("gonetenant"), TenantId("kept")
AUTHOR = FeedId("user", "ann")
FOLLOWERS, POSTS = 200, 100
CONFIG = FeedsConfig(retry_s=10.0)


@pytest.fixture
def cluster() -> Iterator[Path]:
    with three_nodes() as directory:
        yield directory


def traces(engine: FeedEngine) -> list[tuple[str, bytes]]:
    """Every row that holds the deleted tenant's name, as this engine sees the store."""
    name = GONE.encode()
    return [
        (family, key)
        for family in COLUMN_FAMILIES
        for key, value in engine._view.scan(family, b"", b"\xff" * 32)
        if name in key or name in value
    ]


def fill(engine: FeedEngine, tenant: TenantId) -> None:
    engine.create_tenant(tenant).result(WAIT_S)
    followers = [FeedId("timeline", f"f{number:04}") for number in range(FOLLOWERS)]
    for future in [engine.follow(tenant, follower, AUTHOR) for follower in followers]:
        future.result(WAIT_S)
    drafts = [ActivityDraft(actor="user:ann", verb="post", object=f"{n}") for n in range(POSTS)]
    for posted in [engine.post(tenant, AUTHOR, draft) for draft in drafts]:
        posted.result(WAIT_S)


def sees(engine: FeedEngine, tenant: TenantId) -> bool:
    try:
        return bool(engine.tenant(tenant))
    except NotFound:
        return False


def test_leader_killed_in_mid_deletion_is_followed_by_one_that_ends_it(cluster: Path) -> None:
    leader = leader_of(cluster)
    survivors = [node for node in NODES if node != leader]
    with ExitStack() as stack:
        one, other = [
            stack.enter_context(open_remote(cluster / f"{node}.sock", CONFIG)) for node in survivors
        ]
        for tenant in (GONE, KEPT):
            fill(one, tenant)
        kept = one.read(KEPT, FeedId("timeline", "f0007"), POSTS).bodies
        one.delete_tenant(GONE).result(WAIT_S)
        os.kill(int((cluster / f"{leader}.pid").read_text()), signal.SIGKILL)
        with pytest.raises(NotFound, match="tenant 'gonetenant' does not exist"):
            one.read(GONE, AUTHOR)
        wait_for(lambda: one.deleting() == other.deleting() == [], "the end of the deletion")
        assert traces(one) == traces(other) == []
        assert one.read(KEPT, FeedId("timeline", "f0007"), POSTS).bodies == kept
        one.create_tenant(GONE).result(WAIT_S)
        assert one.read(GONE, FeedId("timeline", "f0007"), POSTS).bodies == []
        wait_for(lambda: sees(other, GONE), "the new tenant to be seen")
        assert other.tenants() == [GONE, KEPT]
        assert other.recent(GONE, 10) == []
        start_cluster(cluster)
        returned = stack.enter_context(open_remote(cluster / f"{leader}.sock", CONFIG))
        wait_for(lambda: returned.applied_index() >= one.applied_index(), "the killed one")
        assert returned.recent(GONE, 10) == []
        assert {key for _, key in traces(returned)} == {key for _, key in traces(one)}
