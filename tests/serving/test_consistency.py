"""A read begins once what it sees is as fresh as it asks, or is refused."""

import asyncio
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from feeds.cli_cluster import init_cluster
from feeds.errors import FeedsError, InvalidInput, NoLeader, StaleRead
from feeds.node import EngineNode
from feeds.node_config import NodeConfig
from feeds.remote import RemoteReplica
from feeds.testing_ports import free_ports
from serving.consistency import Consistency, FollowedReads, OwnReads
from serving.telemetry import Metrics
from serving.testing import Served, served, wait_until

ACTIVITY = {"actor": "user:ann", "verb": "post", "object": "o"}


class StillLog:
    """A followed log that moves when it is told to: the memory twin of a node's."""

    def __init__(self, applied_index: int, last_index: int, lag_s: float = 0.0) -> None:
        self.applied_index = applied_index
        self.lag_s = lag_s
        self.last_index: int | FeedsError = last_index
        self.comes: set[int] = set()

    def barrier(self) -> "Future[int]":
        future: Future[int] = Future()
        if isinstance(self.last_index, FeedsError):
            future.set_exception(self.last_index)
        else:
            future.set_result(self.last_index)
        return future

    def seen(self, index: int, seconds: float) -> "Future[bool]":
        assert seconds == 0.5
        if index in self.comes:
            self.applied_index = index
        future: Future[bool] = Future()
        future.set_result(index <= self.applied_index)
        return future


def admit(log: StillLog, consistency: Consistency, min_index: int = 0) -> None:
    reads = FollowedReads(log, Metrics(), max_lag_s=1.0, wait_s=0.5)
    run(lambda: reads.admit(consistency, min_index))


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def awaited() -> None:
        await work()

    asyncio.run(awaited())


def test_a_bounded_read_is_refused_where_the_store_is_too_far_behind() -> None:
    admit(StillLog(3, 9, lag_s=1.0), "bounded")
    with pytest.raises(StaleRead, match=r"may be 1\.5 s old, and max_lag_s is 1: read again"):
        admit(StillLog(9, 9, lag_s=1.5), "bounded")
    with pytest.raises(StaleRead, match="of an unknown age"):
        admit(StillLog(9, 9, lag_s=float("inf")), "bounded")


def test_own_writes_are_waited_for_however_old_the_rest_may_be() -> None:
    log = StillLog(3, 9, lag_s=5.0)
    admit(log, "read_your_writes", 3)
    log.comes.add(7)
    admit(log, "read_your_writes", 7)
    assert log.applied_index == 7
    with pytest.raises(StaleRead, match="sees the log up to 7, and 9 did not come within"):
        admit(log, "read_your_writes", 9)


def test_an_index_that_the_log_does_not_have_is_bad_input() -> None:
    with pytest.raises(InvalidInput, match="min_index is 10, and the log ends at 9"):
        admit(StillLog(3, 9), "read_your_writes", 10)
    with pytest.raises(InvalidInput, match="the log ends at 3"):
        run(lambda: OwnReads(Applied(3)).admit("read_your_writes", 4))
    run(lambda: OwnReads(Applied(3)).admit("read_your_writes", 3))
    run(lambda: OwnReads(Applied(3)).admit("linearizable", 0))


def test_a_linearizable_read_waits_for_the_barrier() -> None:
    log = StillLog(3, 9)
    log.comes.add(9)
    admit(log, "linearizable")
    assert log.applied_index == 9
    with pytest.raises(StaleRead, match=r"and 9 did not come within read_wait_s, 0\.5 s"):
        admit(StillLog(3, 9), "linearizable")
    log.last_index = NoLeader("nobody leads")
    with pytest.raises(NoLeader):
        admit(log, "linearizable")


class Applied:
    """An engine of this process, as far as it is asked here."""

    def __init__(self, index: int) -> None:
        self._index = index

    def applied_index(self) -> int:
        return self._index


@pytest.fixture
def config() -> Iterator[NodeConfig]:
    """A cluster of one that does not run yet."""
    with tempfile.TemporaryDirectory(prefix="hw") as directory:  # a socket's path is short
        (path,) = init_cluster(Path(directory), "test", free_ports(1), nodes=1, plain=True)
        yield NodeConfig.load(path)


def beside(stack: ExitStack, config: NodeConfig) -> tuple[Served, httpx.Client]:
    """A service beside the node, which must run, and a client of a tenant."""
    settings = {"max_lag_s": 0.5, "read_wait_s": 0.3, "write_retry_s": 0.3, "retry_after_s": 2}
    data_dir = config.data_dir.parent / "serve"
    service = stack.enter_context(served(data_dir, engine=config.socket, **settings))
    return service, stack.enter_context(service.tenant("acme"))


def post(client: httpx.Client, number: int) -> httpx.Response:
    return client.post(
        "/v2/feeds/user/ann/activities",
        json=ACTIVITY | {"object": f"o{number}"},
        headers={"Idempotency-Key": f"k{number}"},
    )


def reads(client: httpx.Client, **asked: str | int) -> list[httpx.Response]:
    return [
        client.get("/v2/feeds/user/ann", params=asked),
        client.get("/v2/users/bob/feeds/explore", params=asked),
    ]


def test_reads_beside_a_node_are_as_fresh_as_they_ask(config: NodeConfig) -> None:
    with EngineNode.running(config), ExitStack() as stack:
        _, client = beside(stack, config)
        for number in range(5):
            index = post(client, number).json()["index"]
            for asked in (
                {},
                {"consistency": "bounded"},
                {"min_index": index},
                {"consistency": "read_your_writes", "min_index": index},
                {"consistency": "linearizable"},
            ):
                for reply in reads(client, **asked):
                    assert reply.status_code == 200, reply.text
                    assert len(reply.json()["results"]) == number + 1
        for reply in reads(client, min_index=10**9):
            assert (reply.status_code, reply.json()["code"]) == (400, 4)
            assert "min_index is 1000000000" in reply.json()["detail"]
        ready = client.get("/readyz").json()
        assert (ready["problems"], ready["replica"]["role"]) == ([], "leader")


def test_what_does_not_go_together_is_refused(config: NodeConfig) -> None:
    with EngineNode.running(config), ExitStack() as stack:
        _, client = beside(stack, config)
        for asked in (
            {"consistency": "linearizable", "min_index": 1},
            {"consistency": "read_your_writes"},
            {"consistency": "eventual"},
            {"min_index": -1},
        ):
            for reply in reads(client, **asked):
                assert (reply.status_code, reply.json()["code"]) == (400, 4)


def test_a_node_that_is_gone_is_a_503_that_says_when_to_try_again(config: NodeConfig) -> None:
    with ExitStack() as stack:
        with EngineNode.running(config):
            _, client = beside(stack, config)
            index = post(client, 0).json()["index"]
            wait_until(lambda: reads(client)[0].status_code == 200, "the first read")
        reply = post(client, 1)
        assert (reply.status_code, reply.json()["exception"]) == (503, "NoLeaderException")
        assert reply.headers["retry-after"] == "2"
        for reply in reads(client, min_index=index):  # what was seen is still there
            assert len(reply.json()["results"]) == 1
        wait_until(lambda: reads(client)[0].status_code == 503, "bounded reads to be refused")
        for reply in reads(client):
            assert (reply.status_code, reply.json()["exception"]) == (503, "StaleReadException")
            assert "max_lag_s is 0.5" in reply.json()["detail"]
            assert reply.headers["retry-after"] == "2"
        for reply in reads(client, consistency="linearizable"):
            assert (reply.status_code, reply.json()["exception"]) == (503, "NoLeaderException")
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "does not say how it is" in ready.json()["problems"][-1]
        metrics = client.get("/metrics").text
        assert 'headwater_stale_reads_total{consistency="bounded"}' in metrics
        with EngineNode.running(config):
            wait_until(lambda: reads(client)[0].status_code == 200, "the node to be followed again")
            assert post(client, 1).status_code == 201
            for reply in reads(client):
                assert len(reply.json()["results"]) == 2


def test_a_lost_answer_says_how_to_repeat_the_write(config: NodeConfig) -> None:
    let_go, sent = threading.Event(), list[httpx.Response]()
    with EngineNode.running(config) as node, ExitStack() as stack:
        service, client = beside(stack, config)
        stack.callback(let_go.set)
        reads = service.services.reads
        assert isinstance(reads, FollowedReads)
        followed = reads._log
        assert isinstance(followed, RemoteReplica)
        writer = threading.Thread(target=lambda: sent.append(post(client, 1)))
        node.replica.loop.call_soon_threadsafe(let_go.wait, 30)  # the node stands still
        writer.start()
        wait_until(lambda: bool(followed._client._waiting), "the write to be sent")
        connection = followed._client._socket
        assert connection is not None
        connection.shutdown(socket.SHUT_RDWR)
        writer.join(30)
        (reply,) = sent
        assert (reply.status_code, reply.json()["exception"]) == (503, "OutcomeUnknownException")
        assert "same Idempotency-Key" in reply.json()["more_info"]
        assert reply.headers["retry-after"] == "2"
        let_go.set()
        wait_until(lambda: post(client, 1).status_code == 201, "the node to go on")
        found = client.get("/v2/feeds/user/ann", params={"consistency": "linearizable"})
        assert len(found.json()["results"]) == 1
