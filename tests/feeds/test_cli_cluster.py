"""`headwater cluster`, `headwater certs` and `headwater node`, as users run them."""

import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from feeds.cli_cluster import _print_table, _told, stop_cluster
from feeds.node_config import NodeConfig
from feeds.replication.base import PeerStatus, ReplicaStatus
from serving.cli import build


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hw") as short:  # a socket's path is short
        yield Path(short) / "c"


def run(*arguments: str | Path | int) -> Result:
    app = build({"cluster", "certs", "node"})
    told = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, told, catch_exceptions=False)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def one_node(directory: Path) -> Iterator[Path]:
    """A cluster of one that is made and not started."""
    made = run("cluster", "init", directory, "--nodes", 1, "--plain", "--port", free_port())
    assert 0 == made.exit_code, made.output
    assert f"next: headwater cluster start {directory}" in made.output
    yield directory
    stop_cluster(directory)


def test_cluster_is_started_looked_at_and_stopped(one_node: Path) -> None:
    started = run("cluster", "start", one_node)
    assert 0 == started.exit_code, started.output
    assert str(one_node / "n1.sock") in started.output
    again = run("cluster", "start", one_node)
    process = (one_node / "n1.pid").read_text().strip()
    assert f"n1: process {process}," in started.output
    assert f"n1: process {process}," in again.output

    table = run("cluster", "status", one_node)
    assert "leader" in table.stdout
    told = json.loads(run("cluster", "status", one_node, "--json").stdout)
    assert "n1" == told["leader"]
    node = told["nodes"]["n1"]
    assert ("leader", 0) == (node["role"], node["lag"])
    for known in ("term", "commit_index", "applied_index", "log_bytes", "snapshot_index", "peers"):
        assert known in node
    alone = run("cluster", "status", "--engine", one_node / "n1.sock", "--json")
    assert 0 == alone.exit_code
    assert "leader" in alone.stdout

    assert "n1: stopped" in run("cluster", "stop", one_node).output
    down = run("cluster", "status", one_node)
    assert (1, True) == (down.exit_code, "unreachable" in down.stdout)
    assert 0 == run("cluster", "stop", one_node).exit_code


def test_people_read_for_how_long_a_peer_was_not_heard_and_a_dash_where_it_never_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    peers = (PeerStatus("n2", True, 7, 1.26), PeerStatus("n3", False))
    status = ReplicaStatus("leader", 1, 7, 7, 100, "n1", "n1", peers=peers)
    _print_table({"n1": status})
    assert "n2 (1.3 s) n3 (-, not connected)" in capsys.readouterr().out
    told = _told({"n1": status})["nodes"]["n1"]["peers"]
    assert [1.26, None] == [peer["silent_s"] for peer in told]


def test_there_is_no_cluster_twice_in_a_directory(one_node: Path) -> None:
    again = run("cluster", "init", one_node)
    assert 1 == again.exit_code
    assert "holds a cluster already" in again.stderr


@pytest.mark.parametrize("command", ["start", "status", "stop"])
def test_directory_without_a_cluster_is_told_with_the_command_that_makes_one(
    command: str, directory: Path
) -> None:
    told = run("cluster", command, directory)
    assert 1 == told.exit_code
    assert f"headwater cluster init {directory}" in told.stderr


def test_cluster_of_four_is_refused_with_what_may_be(directory: Path) -> None:
    told = run("cluster", "init", directory, "--nodes", 4)
    assert 1 == told.exit_code
    assert "a cluster has 1, 3 or 5" in told.stderr


def test_node_that_cannot_start_says_why_and_what_runs_can_be_stopped(one_node: Path) -> None:
    config = one_node / "n1.toml"
    config.write_text(config.read_text().replace('node = "n1"', 'node = "n7"'))
    told = run("cluster", "start", one_node)
    assert 1 == told.exit_code
    assert "'n7' is none of nodes (n1)" in told.stderr


def test_node_with_an_empty_directory_names_both_ways_on(one_node: Path) -> None:
    config = NodeConfig.load(one_node / "n1.toml")
    config = config.model_copy(update={"data_dir": one_node / "empty"})
    (one_node / "other.toml").write_text(config.to_toml())
    told = run("node", "--config", one_node / "other.toml")
    assert 1 == told.exit_code
    assert "headwater cluster init" in told.stderr
    assert "--join" in told.stderr


def test_certificates_are_made_for_named_nodes_and_none_is_replaced(directory: Path) -> None:
    arguments = ("certs", "--out", directory, "--cluster", "prod", "--node", "a", "--node", "b")
    made = run(*arguments)
    assert 0 == made.exit_code, made.output
    assert {"ca.pem", "a.pem", "a.key", "b.pem", "b.key"} <= {
        path.name for path in directory.iterdir()
    }
    assert 0o600 == (directory / "a.key").stat().st_mode & 0o777
    again = run(*arguments)
    assert 1 == again.exit_code
    assert str(directory) in again.stderr


@pytest.mark.parametrize("command", ["init", "start", "status", "stop"])
def test_help_says_what_a_command_does(command: str) -> None:
    told = run("cluster", command, "--help")
    assert 0 == told.exit_code
    assert "Usage" in told.stdout
