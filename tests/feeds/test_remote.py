"""An engine beside a node: it reads the node's store, and writes through its socket."""

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner

from feeds.cli_cluster import init_cluster
from feeds.config import FeedsConfig
from feeds.errors import InvalidInput, NotFound, StorageError
from feeds.events import Event
from feeds.model import ActivityDraft, FeedId, TenantId
from feeds.node import EngineNode
from feeds.node_config import NodeConfig
from feeds.remote import open_beside, open_remote
from feeds.replication.base import PeerStatus, ReplicaStatus
from feeds.socket_server import silence_s
from serving.cli import build

DEMO = TenantId("demo")
AUTHOR = FeedId("user", "ann")
WAIT_S = 30.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def node() -> Iterator[NodeConfig]:
    """A cluster of one, in this process."""
    with tempfile.TemporaryDirectory(prefix="hw") as directory:  # a socket's path is short
        (path,) = init_cluster(Path(directory), "test", free_port(), nodes=1, plain=True)
        config = NodeConfig.load(path)
        with EngineNode.running(config):
            yield config


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def draft(number: int) -> ActivityDraft:
    return ActivityDraft(actor="user:ann", verb="post", object=f"v{number}")


def test_write_is_seen_once_its_future_is_done(node: NodeConfig) -> None:
    with open_remote(node.socket) as engine:
        engine.create_tenant("demo").result(WAIT_S)
        for number in range(50):
            posted = engine.post(DEMO, AUTHOR, draft(number)).result(WAIT_S)
            assert posted.index <= engine.applied_index()
            assert number + 1 == len(engine.rows(DEMO, AUTHOR, 100))


def test_writes_of_another_process_are_there_from_the_start(node: NodeConfig) -> None:
    with open_remote(node.socket) as one, open_remote(node.socket) as other:
        one.create_tenant("demo").result(WAIT_S)
        one.post(DEMO, AUTHOR, draft(0)).result(WAIT_S)
        with open_remote(node.socket) as later:
            assert 1 == len(later.rows(DEMO, AUTHOR, 10))
        other.post(DEMO, AUTHOR, draft(1)).result(WAIT_S)
        assert 2 == len(other.rows(DEMO, AUTHOR, 10))


def test_feed_that_another_process_makes_a_merged_one_is_merged_here(node: NodeConfig) -> None:
    timeline, limits = FeedId("timeline", "bob"), FeedsConfig(pull_followers_min=1, retry_s=5)
    beside = open_beside(node.socket)
    with beside.engine as here, open_remote(node.socket, limits) as there:
        here.create_tenant("demo").result(WAIT_S)
        here.follow(DEMO, timeline, AUTHOR).result(WAIT_S)
        last = here.post(DEMO, AUTHOR, draft(0)).result(WAIT_S)
        assert 1 == len(here.rows(DEMO, timeline, 10))  # and holds what it knows of the tenant
        wait_for(lambda: last.index <= there.applied_index(), "the other is behind")
        there.follow(DEMO, FeedId("timeline", "cid"), AUTHOR).result(WAIT_S)
        posted = there.post(DEMO, AUTHOR, draft(1)).result(WAIT_S)
        assert 2 == len(there.rows(DEMO, timeline, 10))
        assert beside.replica.wait_applied(posted.index, WAIT_S)
        assert 2 == len(here.rows(DEMO, timeline, 10))


def test_bad_input_is_refused_before_it_is_sent(node: NodeConfig) -> None:
    with open_remote(node.socket) as engine:
        before = engine.status().last_index
        with pytest.raises(NotFound, match="'demo' does not exist"):
            engine.post(DEMO, AUTHOR, draft(0))
        with pytest.raises(InvalidInput, match="is not a feed"):
            engine.read(DEMO, FeedId.parse("nothing"))
        assert before == engine.status().last_index


def test_no_engine_is_told_with_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="headwater cluster start"),
        open_remote(tmp_path / "none.sock", wait_s=0.1),
    ):
        pass


def test_commands_work_against_a_running_cluster(node: NodeConfig, tmp_path: Path) -> None:
    app = build({"import", "export", "tenants"})

    def run(*arguments: str | Path) -> dict[str, object]:
        told = [str(argument) for argument in (*arguments, "--engine", node.socket, "--json")]
        result = CliRunner().invoke(app, told, catch_exceptions=False)
        answer: dict[str, object] = json.loads(result.stdout)
        return answer

    made = run("tenants", "create", "demo")
    assert str(made["key_id"]) in str(made["api_key"])
    listed = run("tenants", "list")
    assert ["demo"] == [one["tenant"] for one in listed["tenants"]]  # type: ignore[attr-defined]
    log = tmp_path / "actions.jsonl"
    action = {
        "type": "post",
        "time_us": 1_500_000_000_000_000,
        "feed": "user:ann",
        "actor": "user:ann",
        "verb": "ship",
        "object": "v1",
    }
    log.write_text(
        "".join(json.dumps(action | {"object": f"v{number}"}) + "\n" for number in range(600))
    )
    told = run("import", log, "--tenant", "demo")
    assert {"post": 600, "duplicate": 0} == told.get("counts"), told
    told = run("import", log, "--tenant", "demo")
    assert {"post": 600, "duplicate": 600} == told.get("counts"), told
    report = run("export", "--tenant", "demo", "--out", tmp_path / "out")
    assert 600 == report["events_total"]
    assert "exists" in str(run("tenants", "create", "demo")["error"])


def test_view_moves_to_the_store_of_a_snapshot(node: NodeConfig) -> None:
    with open_remote(node.socket) as engine:
        engine.create_tenant("demo").result(WAIT_S)
        view = engine._view
        view.reopen()  # type: ignore[attr-defined]
        engine.post(DEMO, AUTHOR, draft(0)).result(WAIT_S)
        view.reopen()  # type: ignore[attr-defined]
        assert 1 == len(engine.rows(DEMO, AUTHOR, 10))


def test_changes_are_told_before_a_write_is_done_whoever_wrote(node: NodeConfig) -> None:
    with open_remote(node.socket) as one, open_remote(node.socket) as other:
        one.create_tenant("demo").result(WAIT_S)
        heard: list[tuple[int, str]] = []
        gaps: list[bool] = []

        def listen(tenant: TenantId, index: int, events: Sequence[Event]) -> None:
            assert tenant == DEMO
            assert one.applied_index() >= index
            heard.extend((index, type(event).__name__) for event in events)

        one.subscribe(listen, lambda: gaps.append(True))
        expected = []
        for number in range(40):
            writer = (one, other)[number % 2]
            followed = number % 4 > 1
            if followed:
                done = writer.follow(DEMO, FeedId("timeline", f"u{number}"), AUTHOR)
                index = done.result(WAIT_S).index
            else:
                index = writer.post(DEMO, AUTHOR, draft(number)).result(WAIT_S).index
            expected.append((index, "Followed" if followed else "Posted"))
            if writer is one:
                assert heard == expected
        last = one.follow(DEMO, FeedId("timeline", "last"), AUTHOR).result(WAIT_S)
        assert heard == [*expected, (last.index, "Followed")]
        assert gaps == []


def test_it_is_known_how_far_behind_the_store_may_be(node: NodeConfig) -> None:
    beside = open_beside(node.socket)
    with beside.engine as engine:
        assert beside.replica.seen(engine.applied_index(), 0).result(WAIT_S)
        assert not beside.replica.seen(engine.applied_index() + 100, 0).result(WAIT_S)
        wait_for(lambda: beside.replica.lag_s < 1, "the node to say that nothing is missing")


def test_a_node_that_is_gone_lets_the_lag_grow() -> None:
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="hw"))
        (path,) = init_cluster(Path(directory), "test", free_port(), nodes=1, plain=True)
        config = NodeConfig.load(path)
        with EngineNode.running(config):
            beside = open_beside(config.socket)
            stack.enter_context(beside.engine)
            beside.engine.create_tenant("demo").result(WAIT_S)
            heard: list[int] = []
            gaps: list[bool] = []
            beside.engine.subscribe(
                lambda _, index, __: heard.append(index), lambda: gaps.append(True)
            )
            beside.engine.post(DEMO, AUTHOR, draft(0)).result(WAIT_S)
        wait_for(lambda: beside.replica.lag_s > 0.5, "the lag to grow")
        assert 1 == len(beside.engine.rows(DEMO, AUTHOR, 10))  # what was seen is still there
        gaps.clear()
        with EngineNode.running(config):
            wait_for(lambda: beside.replica.lag_s < 0.5, "the node to be followed again")
            index = beside.engine.post(DEMO, AUTHOR, draft(1)).result(WAIT_S).index
            assert heard[-1] == index
            assert 2 == len(heard)
            assert gaps == []


def test_silence_is_the_leaders_or_a_majoritys() -> None:
    def status(role: str, leader: str | None, *silent_s: float | None) -> ReplicaStatus:
        peers = tuple(
            PeerStatus(f"n{number}", connected=True, silent_s=seconds)
            for number, seconds in enumerate(silent_s, 2)
        )
        return ReplicaStatus(role, 1, 0, 0, 0, "n1", leader, peers=peers)

    assert 0.0 == silence_s(status("leader", "n1"))
    assert 0.1 == silence_s(status("leader", "n1", 0.1, 9.0))
    assert 0.3 == silence_s(status("leader", "n1", 0.1, 9.0, 0.3, 8.0))
    assert 0.3 == silence_s(status("leader", "n1", 0.1, None, 0.3, None))
    assert silence_s(status("leader", "n1", None, None)) is None
    assert 0.2 == silence_s(status("follower", "n3", 0.1, 0.2))
    assert silence_s(status("follower", "n3", 0.1, None)) is None
    assert silence_s(status("follower", None, 0.1, 0.2)) is None
    assert silence_s(status("candidate", None, 0.1, 0.2)) is None


def test_a_node_is_an_engine_and_nothing_else() -> None:
    heavy = "fastapi starlette uvicorn mlflow dask pandas pyarrow xgboost sklearn scipy ranking"
    code = (
        "import sys, feeds.node, feeds.cli_cluster; "
        f"print([name for name in {heavy.split()!r} if name in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "[]" == told.stdout.strip()
