"""Nodes as processes on data directories that are damaged, old, half replaced, or not theirs.

Each is refused with what is wrong and what to do, or made safe; none serves wrong data.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from feeds.answers import answer
from feeds.cli_cluster import init_cluster, node_status, start_cluster, stop_cluster
from feeds.client import EngineClient
from feeds.commands import AddKey, Command, CreateTenant, encode_command
from feeds.errors import InvalidInput, NoLeader, OutcomeUnknown
from feeds.identity import Identity
from feeds.results import Accepted
from feeds.store.rocks import RocksStore
from feeds.testing_ports import free_ports

WAIT_S = 30.0
NOBODY = 65_534


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S:g} s for {what}"
        time.sleep(0.002)


def put(client: EngineClient, command: Command) -> int:
    """As a client does: again while it may not have been written; the commands bear it."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            applied = client.propose(encode_command(command)).result(WAIT_S)
        except (NoLeader, OutcomeUnknown):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return answer(applied, Accepted).index


def write(directory: Path, node: str, first: int, count: int) -> int:
    """Keys `first` and on, through a node; the index of the last."""
    client = EngineClient.connect(directory / f"{node}.sock")
    try:
        index = put(client, CreateTenant(tenant="t", now_us=1))
        for number in range(first, first + count):
            key = AddKey(tenant="t", key_id=f"k{number}", secret_sha256=b"x" * 32, scopes=("read",))
            index = put(client, key)
    finally:
        client.close()
    return index


def keys_of(directory: Path, node: str) -> set[bytes]:
    with RocksStore.open(directory / node / "store") as store:
        return {name for name, _ in store.scan("config", b"k", b"l")}


def files_of(data: Path) -> dict[str, bytes]:
    """What must not be changed by who refuses.

    RocksDB writes its manifest anew whenever it is opened; the rows are in the other files.
    """
    return {
        str(path.relative_to(data)): path.read_bytes()
        for path in sorted(data.rglob("*"))
        if path.is_file()
        and path.name != "LOCK"
        and (path.parent.name != "store" or path.suffix == ".sst")
    }


def refusal(directory: Path, node: str = "n1", *prefix: str) -> str:
    """What a node says that does not start."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "serving", "node", "--config", f"{directory}/{node}.toml"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert (1, "") == (done.returncode, done.stdout), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A cluster of one that was written to, flushed, written to again, and stopped in order."""
    with tempfile.TemporaryDirectory(prefix="hw") as short:  # a socket's path is short
        init_cluster(Path(short), "test", free_ports(), nodes=1, plain=True)
        for first in (0, 10):
            try:
                start_cluster(Path(short))
                write(Path(short), "n1", first, 10)
            finally:
                stop_cluster(Path(short))
        yield Path(short)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where a cluster lies; others may look into it."""
    with tempfile.TemporaryDirectory(prefix="hw") as short:
        Path(short).chmod(0o755)
        yield Path(short) / "c"


@pytest.fixture
def one(made: Path, directory: Path) -> Path:
    """A copy of the cluster of one."""
    shutil.copytree(made, directory)
    directory.chmod(0o755)
    return directory


@pytest.fixture
def three(directory: Path) -> Iterator[Path]:
    """A cluster of three that was written to and runs."""
    init_cluster(directory, "test", free_ports(), plain=True)
    try:
        start_cluster(directory)
        write(directory, "n1", 0, 20)
        yield directory
    finally:
        stop_cluster(directory)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def first_segment(data: Path) -> Path:
    return min((data / "log").glob("*.log"))


DAMAGES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "a byte of the log": (
        lambda data: flip(first_segment(data), 60),
        ("log/00000000000000000001.log is damaged at offset 60", "restore it from a backup"),
    ),
    "the log's header": (
        lambda data: flip(first_segment(data), 3),
        ("no header of a segment", "restore it from a backup"),
    ),
    "the vote": (
        lambda data: flip(data / "log" / "hard_state", 12),
        ("hard_state is damaged", "must not vote", "start it with --join"),
    ),
    "whose it is": (
        lambda data: (data / "NODE").write_bytes(b"{"),
        ("NODE is damaged", "start it with --join"),
    ),
    "its format": (
        lambda data: (data / "FORMAT").write_text("9\n"),
        ("has format '9'", "start the release that wrote it"),
    ),
    "the store's manifest": (
        lambda data: flip(next((data / "store").glob("MANIFEST-*")), 20),
        ("store", "restore it from a backup"),
    ),
    "the store's current file": (
        lambda data: (data / "store" / "CURRENT").write_bytes(b"MANIFEST-999999\n"),
        ("store", "restore it from a backup"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_with_what_to_do_and_nothing_is_changed(one: Path, damage: str) -> None:
    data = one / "n1"
    break_it, sentences = DAMAGES[damage]
    break_it(data)
    before = files_of(data)
    told = refusal(one)
    for sentence in sentences:
        assert sentence in told
    assert str(data) in told
    assert before == files_of(data)


def test_directory_that_is_put_back_is_whole_again(one: Path) -> None:
    copy = shutil.copytree(one / "n1", one / "copy")
    flip(first_segment(one / "n1"), 60)
    with pytest.raises(InvalidInput, match=r"n1 has ended: .* is damaged at offset"):
        start_cluster(one)
    shutil.rmtree(one / "n1")
    copy.rename(one / "n1")
    start_cluster(one)
    try:
        write(one, "n1", 20, 1)
    finally:
        stop_cluster(one)
    assert len(keys_of(one, "n1")) == 21


def test_directory_that_a_node_uses_is_refused_to_a_second_one(three: Path) -> None:
    told = refusal(three, "n2")
    process = int((three / "n2.pid").read_text())
    assert f"{three}/n2 is in use by process {process}: stop that process" in told


def test_directory_that_cannot_be_written_is_refused(one: Path) -> None:
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:  # who may write everywhere becomes someone who may not
        if shutil.which("setpriv") is None:
            pytest.skip("as root, this needs setpriv (util-linux) to become someone else")
        prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
        for path in one.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    data = one / "n1"
    data.chmod(0o555)
    before = files_of(data)
    try:
        told = refusal(one, "n1", *prefix)
    finally:
        data.chmod(0o755)
    assert f"{data} cannot be used" in told
    assert "Permission denied" in told
    assert "that can be written" in told
    assert before == files_of(data)


def test_store_that_cannot_be_written_is_refused(one: Path) -> None:
    """Someone started it once as another user: the directory is ours, and its files are not."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("this needs root, to give files to someone else, and setpriv (util-linux)")
    data = one / "n1"
    for path in one.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for path in (one, data, data / "LOCK", data / "NODE", data / "FORMAT"):
        os.chown(path, NOBODY, NOBODY)
    told = refusal(one, "n1", "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    assert str(data / "store") in told
    assert "ermission denied" in told


def running(directory: Path, node: str) -> bool:
    """Whether a node's process runs."""
    status = Path(f"/proc/{int((directory / f'{node}.pid').read_text())}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill(directory: Path, node: str) -> None:
    process = int((directory / f"{node}.pid").read_text())
    os.kill(process, signal.SIGKILL)
    wait_for(lambda: not running(directory, node), f"{node} to be dead")


def follower_of(directory: Path) -> tuple[str, str]:
    """(a follower, the leader)."""

    def leaders() -> list[str]:
        found = {node: node_status(directory / f"{node}.sock") for node in ("n1", "n2", "n3")}
        return [node for node, one in found.items() if one is not None and one.role == "leader"]

    wait_for(lambda: bool(leaders()), "a leader")
    leader = leaders()[0]
    return next(node for node in ("n1", "n2", "n3") if node != leader), leader


def caught_up(directory: Path, node: str, index: int) -> bool:
    status = node_status(directory / f"{node}.sock")
    return status is not None and status.role == "follower" and status.applied_index >= index


def test_older_copy_of_a_directory_is_refused_while_the_leader_knows(three: Path) -> None:
    """It would have forgotten what it acknowledged. It stops, and says what to do instead."""
    victim, leader = follower_of(three)
    kill(three, victim)
    shutil.copytree(three / victim, three / "older")
    start_cluster(three)
    index = write(three, leader, 20, 20)
    wait_for(lambda: caught_up(three, victim, index), "it to acknowledge")
    kill(three, victim)
    shutil.rmtree(three / victim)
    (three / "older").rename(three / victim)
    start_cluster(three)
    wait_for(lambda: not running(three, victim), "it to stop")
    log = (three / f"{victim}.log").read_text()
    assert "its data directory is an older one" in log
    assert "start it with --join" in log
    write(three, leader, 40, 1)
    shutil.rmtree(three / victim)
    Identity.create("test", victim, joining=True).save(three / victim)
    start_cluster(three)
    index = write(three, leader, 41, 1)
    wait_for(lambda: caught_up(three, victim, index), "it to join")
    stop_cluster(three)
    assert [42, 42, 42] == [len(keys_of(three, node)) for node in ("n1", "n2", "n3")]


SMALL_NODE = """
import signal, sys
from pathlib import Path
from threading import Event
from feeds.config import FeedsConfig
from feeds.node import EngineNode, configure_logs
from feeds.node_config import NodeConfig

configure_logs("info")
stop = Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
limits = FeedsConfig(segment_bytes_max=100_000, flush_every_bytes=200_000)
with EngineNode.running(NodeConfig.load(Path(sys.argv[2])), limits):
    while not stop.wait(0.05):
        pass
"""
"""A node that soon drops its log; `stop_cluster` knows it by its arguments."""


class SmallNodes:
    """Three nodes that soon drop their logs, with 12 MB in them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, node: str) -> None:
        with (self.directory / f"{node}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", SMALL_NODE, "node", str(self.directory / f"{node}.toml")],
                stdout=log,
                stderr=log,
            )
        self._processes.append(process)
        (self.directory / f"{node}.pid").write_text(f"{process.pid}\n")

    def fill(self) -> None:
        _, leader = follower_of(self.directory)
        client = EngineClient.connect(self.directory / f"{leader}.sock")
        put(client, CreateTenant(tenant="t", now_us=1))
        for number in range(120):
            noise = os.urandom(50_000).hex()
            put(client, AddKey(tenant="t", key_id=f"b{number}", secret_sha256=b"", scopes=(noise,)))
        client.close()

    def close(self) -> None:
        stop_cluster(self.directory)
        for process in self._processes:
            process.wait(WAIT_S)


@pytest.fixture
def small(directory: Path) -> Iterator[SmallNodes]:
    init_cluster(directory, "test", free_ports(), plain=True)
    nodes = SmallNodes(directory)
    with closing(nodes):
        for node in ("n1", "n2", "n3"):
            path = directory / f"{node}.toml"
            path.write_text(path.read_text().replace("log_keep_mb = 256", "log_keep_mb = 1"))
            nodes.start(node)
        nodes.fill()
        yield nodes


def joined(data: Path) -> bool:
    found = Identity.load(data)
    return found is not None and not found.joining


def test_node_killed_while_a_snapshot_comes_in_takes_another_and_is_whole(
    small: SmallNodes,
) -> None:
    """Killed again and again: while it comes in, and while it is put in place, if that is seen."""
    directory = small.directory
    victim, leader = follower_of(directory)
    kill(directory, victim)
    data = directory / victim
    shutil.rmtree(data)
    Identity.create("test", victim, joining=True).save(data)
    cut_off = 0
    for sign in ("snapshot.part", "snapshot.part", "snapshot.ready", "INSTALL"):
        small.start(victim)
        wait_for(lambda sign=sign: (data / sign).exists() or joined(data), "a snapshot")  # type: ignore[misc]
        kill(directory, victim)
        cut_off += (data / "snapshot.part").exists() or (data / "snapshot.ready").exists()
    assert cut_off, "it was never caught at it"
    small.start(victim)
    index = write(directory, leader, 0, 1)
    wait_for(lambda: joined(data) and caught_up(directory, victim, index), "it to be whole")
    stop_cluster(directory)
    assert not [path.name for path in data.iterdir() if "snapshot" in path.name]
    assert not (data / "INSTALL").exists()
    assert keys_of(directory, leader) == keys_of(directory, victim)
    assert len(keys_of(directory, victim)) == 121


def test_directories_of_two_nodes_that_were_swapped_are_refused(one: Path) -> None:
    init_cluster(one / "other", "other", free_ports(), nodes=1, plain=True)
    (one / "n1").rename(one / "mine")
    (one / "other" / "n1").rename(one / "n1")
    told = refusal(one)
    assert "belongs to cluster 'other', and the config says 'test'" in told
    assert "choose another data_dir, or correct cluster_id" in told


def test_configuration_that_is_none_is_told(one: Path) -> None:
    (one / "n1.toml").write_text("node = [")
    assert "n1.toml cannot be read as TOML" in refusal(one)
