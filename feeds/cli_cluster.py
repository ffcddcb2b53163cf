"""`headwater cluster` and `headwater certs`: three nodes on this machine, and certificates."""

import datetime as dt
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import psutil
import typer

from feeds.errors import FeedsError, InvalidInput
from feeds.identity import Identity
from feeds.node_config import NodeConfig, TlsFiles
from feeds.replication.base import ReplicaStatus

__all__ = ["certs", "cluster", "init_cluster", "node_status", "start_cluster", "stop_cluster"]

START_S_MAX: Final = 30.0
STOP_S_MAX: Final = 15.0
_STATUS_S_MAX: Final = 2.0

cluster = typer.Typer(
    no_args_is_help=True, help="Three engine nodes on this machine: make, start, look at, stop."
)

_Where = Annotated[Path, typer.Argument(help="The cluster's directory.")]
_DIRECTORY: Final = Path(".headwater/cluster")


@contextmanager
def _sentences() -> Iterator[None]:
    """An error is a sentence, and the command ends with 1."""
    try:
        yield
    except (FeedsError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


@cluster.command("init")
def init(
    directory: _Where = _DIRECTORY,
    cluster_id: Annotated[str, typer.Option(help="The cluster's name.")] = "local",
    port: Annotated[
        int, typer.Option(min=1024, max=65_000, help="The first of the ports, one a node.")
    ] = 7400,
    nodes: Annotated[int, typer.Option(help="How many nodes: 1, 3 or 5.")] = 3,
    plain: Annotated[
        bool, typer.Option("--plain", help="Without certificates: for a trial on this machine.")
    ] = False,
) -> None:
    """Make a configuration, a certificate and an empty data directory for each node."""
    with _sentences():
        paths = init_cluster(directory, cluster_id, port, nodes, plain=plain)
        for path in paths:
            typer.echo(path)
        typer.echo(f"next: headwater cluster start {directory}")


@cluster.command("start")
def start(directory: _Where = _DIRECTORY) -> None:
    """Start the nodes that do not run, and wait until one leads."""
    with _sentences():
        for node, process in start_cluster(directory).items():
            typer.echo(f"{node}: process {process}, socket {_socket(directory, node)}")
        _print_table(_statuses(directory))


@cluster.command("status")
def status(
    directory: _Where = _DIRECTORY,
    engine: Annotated[
        Path | None, typer.Option(help="The socket of one node, instead of a directory.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Role, term, commit and applied index, lag, peers, log and snapshot of every node."""
    with _sentences():
        found = {engine.name: node_status(engine)} if engine else _statuses(directory)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(_told(found)), indent=2).decode())
    else:
        _print_table(found)
    if not engine and not any(_is_leader(one) for one in found.values()):
        raise typer.Exit(1)


@cluster.command("stop")
def stop(directory: _Where = _DIRECTORY) -> None:
    """Stop every node, the followers first."""
    with _sentences():
        for node in stop_cluster(directory):
            typer.echo(f"{node}: stopped")


def certs(
    out: Annotated[Path, typer.Option(help="Where they are written; nothing is replaced.")],
    cluster_id: Annotated[str, typer.Option("--cluster", help="The cluster's name.")],
    node: Annotated[list[str], typer.Option(help="A node's name; once for each.")],
    days: Annotated[int, typer.Option(min=1, max=36_500, help="Days until they expire.")] = 3_650,
) -> None:
    """Make an authority for a cluster, and a certificate and key for each of its nodes.

    Give each node ca.pem, its own certificate and its own key; keep the keys from everyone else.
    """
    from feeds.replication.certificates import make_certificates  # noqa: PLC0415 - it is slow

    with _sentences():
        now = dt.datetime.now(dt.UTC)
        for name, files in make_certificates(out, cluster_id, node, now, days).items():
            typer.echo(f"{name}: {files.cert} {files.key}")
        typer.echo(f"authority: {out / 'ca.pem'}")


def init_cluster(
    directory: Path, cluster_id: str, port: int, nodes: int = 3, *, plain: bool = False
) -> list[Path]:
    """Write the nodes' configurations, certificates and identities; the configurations' paths.

    Raises `InvalidInput` where there is a cluster already.
    """
    if list(directory.glob("n*.toml")):
        raise InvalidInput(
            f"{directory} holds a cluster already: start it, or choose another directory"
        )
    names = [f"n{number}" for number in range(1, nodes + 1)]
    addresses = {name: f"127.0.0.1:{port + place}" for place, name in enumerate(names)}
    configs = []
    for name in names:
        tls = {"ca": "certs/ca.pem", "cert": f"certs/{name}.pem", "key": f"certs/{name}.key"}
        configs.append(
            _checked(
                {
                    "cluster_id": cluster_id,
                    "node": name,
                    "nodes": addresses,
                    "data_dir": name,
                    "socket": f"{name}.sock",
                    "plain": plain,
                    "tls": None if plain else tls,
                }
            )
        )
    if not plain:
        from feeds.replication.certificates import make_certificates  # noqa: PLC0415 - it is slow

        now = dt.datetime.now(dt.UTC)
        make_certificates(directory / "certs", cluster_id, names, now, days=3_650)
    paths = []
    for config in configs:
        Identity.create(cluster_id, config.node).save(directory / config.data_dir)
        path = directory / f"{config.node}.toml"
        path.write_text(config.to_toml())
        paths.append(path)
    return paths


def start_cluster(directory: Path) -> dict[str, int]:
    """Start the nodes that do not run; the process of each. Raises `InvalidInput` if one ends.

    Returns once a node leads.
    """
    processes: dict[str, int] = {}
    spawned: set[str] = set()
    deadline = time.monotonic() + START_S_MAX
    while True:
        for path in _configs(directory):
            node, running = path.stem, _running(directory, path.stem)
            if running is None and node in spawned:
                log = directory / f"{node}.log"
                raise InvalidInput(f"{node} has ended: {_last_line(log)} (see {log})")
            if running is None:
                running = _spawn(directory, path)
                spawned.add(node)
            processes[node] = running
        if any(_is_leader(one) for one in _statuses(directory).values()):
            return processes
        if time.monotonic() > deadline:
            raise InvalidInput(f"no node leads after {START_S_MAX:g} s: see {directory}/n*.log")
        time.sleep(0.05)


def stop_cluster(directory: Path) -> list[str]:
    """Stop every node that runs, the leader last; their names."""
    found: dict[str, ReplicaStatus | None]
    try:
        found = _statuses(directory)
    except InvalidInput:  # a configuration that was broken since must not keep a node running
        found = {path.stem: None for path in _configs(directory)}
    order = sorted(
        found, key=lambda node: (one := found[node]) is not None and one.role == "leader"
    )
    stopped = []
    for node in order:
        process = _running(directory, node)
        if process is None:
            continue
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S_MAX
        while _running(directory, node) is not None:
            if time.monotonic() > deadline:
                raise InvalidInput(f"{node} (process {process}) does not stop: see {node}.log")
            time.sleep(0.02)
        stopped.append(node)
    return stopped


def node_status(socket: Path) -> ReplicaStatus | None:
    """Where the node behind a socket stands; None if it does not answer."""
    from feeds.client import EngineClient  # noqa: PLC0415 - `--help` does without

    if not socket.exists():
        return None
    client = EngineClient(socket, timeout_s=_STATUS_S_MAX)
    try:
        if client.wait_connected(_STATUS_S_MAX):
            return client.status()
    except FeedsError:
        pass
    finally:
        client.close()
    return None


def _checked(values: dict[str, Any]) -> NodeConfig:  # Any: what a configuration holds
    try:
        if values["tls"] is not None:
            values = {**values, "tls": TlsFiles(**values["tls"])}
        return NodeConfig(**values)
    except ValueError as error:
        told = re.sub(r"\s+", " ", str(error))
        raise InvalidInput(f"no cluster can be like that: {told}") from error


def _configs(directory: Path) -> list[Path]:
    paths = sorted(directory.glob("n*.toml"))
    if not paths:
        raise InvalidInput(
            f"{directory} holds no cluster: make one with `headwater cluster init {directory}`"
        )
    return paths


def _spawn(directory: Path, config: Path) -> int:
    """Start a node that outlives this process; its process id."""
    log = str(directory / f"{config.stem}.log")
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "serving", "node", "--config", str(config)],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    (directory / f"{config.stem}.pid").write_text(f"{process}\n")
    return process


def _running(directory: Path, node: str) -> int | None:
    """The process of a node; None if it does not run."""
    try:
        process = int((directory / f"{node}.pid").read_text())
        os.waitpid(process, os.WNOHANG)  # so that a child of ours that ended is gone
    except ChildProcessError:
        pass
    except (OSError, ValueError):
        return None
    try:
        found = psutil.Process(process)
        ended = found.status() == psutil.STATUS_ZOMBIE
        arguments = found.cmdline()  # empty for the moment in which it begins
    except psutil.NoSuchProcess:
        return None
    return process if not ended and (not arguments or "node" in arguments) else None


def _socket(directory: Path, node: str) -> Path:
    return NodeConfig.load(directory / f"{node}.toml").socket


def _statuses(directory: Path) -> dict[str, ReplicaStatus | None]:
    return {path.stem: node_status(NodeConfig.load(path).socket) for path in _configs(directory)}


def _is_leader(status: ReplicaStatus | None) -> bool:
    return status is not None and status.role == "leader"


def _told(found: dict[str, ReplicaStatus | None]) -> dict[str, Any]:  # Any: JSON
    commit = max((one.commit_index for one in found.values() if one is not None), default=0)
    nodes = {}
    for node, one in found.items():
        nodes[node] = (
            {"role": "unreachable"}
            if one is None
            else {**msgspec.to_builtins(one), "lag": commit - one.applied_index}
        )
    leader = next((node for node, one in found.items() if _is_leader(one)), None)
    return {"leader": leader, "commit_index": commit, "nodes": nodes}


def _print_table(found: dict[str, ReplicaStatus | None]) -> None:
    from rich.console import Console  # noqa: PLC0415 - only where a table is printed
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table(box=None, pad_edge=False)
    numbers = ("term", "commit", "applied", "lag", "log", "snapshot")
    for heading in ("node", "role", *numbers, "disk", "peers"):
        table.add_column(heading, justify="right" if heading in numbers else "left")
    told = _told(found)["nodes"]
    for node, one in told.items():
        if one["role"] == "unreachable":
            table.add_row(node, "[red]unreachable[/red]")
            continue
        peers = " ".join(map(_peer, one["peers"]))
        counts = [one[key] for key in ("term", "commit_index", "applied_index", "lag")]
        size = f"{one['log_bytes'] / 1e6:.1f} MB"
        cells = [*(f"{count:,}" for count in counts), size, f"{one['snapshot_index']:,}"]
        disk = "[red]full[/red]" if one["full"] else "ok"
        table.add_row(node, one["role"], *cells, disk, peers)
    Console().print(table)


def _peer(peer: dict[str, Any]) -> str:  # Any: as `_told`
    """A peer, and for how long it was not heard: a dash where it never was."""
    heard = "-" if peer["silent_s"] is None else f"{peer['silent_s']:.1f} s"
    return f"{peer['node']} ({heard}{'' if peer['connected'] else ', not connected'})"


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1][:500] if lines else "it said nothing"
