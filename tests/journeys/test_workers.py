"""Two machines of three: workers beside nodes that follow, while the leader is killed."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from feeds.cli_cluster import init_cluster, node_status, start_cluster, stop_cluster
from feeds.model import FeedId, TenantId
from feeds.remote import open_remote
from feeds.testing_ports import free_ports
from serving.testing import ServiceProcess, add_tenant, wait_until

ACME = TenantId("acme")
NODES = ("n1", "n2", "n3")


@pytest.fixture
def cluster() -> Iterator[Path]:
    """A cluster of three that runs."""
    with tempfile.TemporaryDirectory(prefix="hw") as directory:  # a socket's path is short
        init_cluster(Path(directory), "test", free_ports(3), plain=True)
        start_cluster(Path(directory))
        try:
            yield Path(directory)
        finally:
            stop_cluster(Path(directory))


def leader(cluster: Path) -> str:
    statuses = {node: node_status(cluster / f"{node}.sock") for node in NODES}
    return next(node for node, status in statuses.items() if status and status.role == "leader")


def post(client: httpx.Client, name: str) -> httpx.Response:
    body = {"actor": "user:ann", "verb": "post", "object": name}
    path = "/v2/feeds/user/ann/activities"
    return client.post(path, json=body, headers={"Idempotency-Key": name})


def test_what_one_machine_took_another_shows_while_the_leader_dies(
    cluster: Path, tmp_path: Path
) -> None:
    leading = leader(cluster)
    one, other = [node for node in NODES if node != leading]
    with open_remote(cluster / f"{one}.sock") as engine:
        key = add_tenant(engine, ACME)
        engine.follow(ACME, FeedId("timeline", "bob"), FeedId("user", "ann")).result()
    with ExitStack() as stack:
        clients = []
        for node in (one, other):
            (tmp_path / node).mkdir()
            options = ("--engine", str(cluster / f"{node}.sock"), "--no-loader", "--workers", "1")
            service = stack.enter_context(ServiceProcess(tmp_path / node, *options))
            clients.append(stack.enter_context(service.client(key)))

        def write_and_read(number: int) -> None:
            """A write at one machine is in both feeds of the other at once."""
            written, read = clients[number % 2], clients[1 - number % 2]
            replies: list[httpx.Response] = []

            def taken() -> bool:
                replies.append(post(written, f"o{number}"))
                return replies[-1].status_code == 201

            wait_until(taken, "the write to be taken")
            refused = [reply for reply in replies if reply.status_code != 201]
            assert {reply.status_code for reply in refused} <= {503}
            assert all("retry-after" in reply.headers for reply in refused)
            posted = replies[-1].json()
            for path in ("/v2/feeds/user/ann", "/v2/users/bob/feeds/personalized"):
                shown = read.get(path, params={"limit": 100, "min_index": posted["index"]})
                assert shown.status_code == 200, shown.text
                found = [entry["id"] for entry in shown.json()["results"]]
                assert posted["activity"]["id"] in found
                assert len(found) == len(set(found)) == number + 1

        for number in range(10):
            write_and_read(number)
        os.kill(int((cluster / f"{leading}.pid").read_text()), signal.SIGKILL)
        for number in range(10, 20):
            write_and_read(number)
        for client in clients:
            wait_until(lambda: client.get("/readyz").status_code == 200, "readiness")  # noqa: B023
            shown = client.get("/v2/feeds/user/ann", params={"consistency": "linearizable"})
            assert shown.status_code == 200
        start_cluster(cluster)
        write_and_read(20)
