"""Benchmark of a ranked read from HTTP request to reply, beside `mlflow models serve`.

The service is a process of its own (`headwater serve`, one worker) on one core, the client on the
others where there are others; they speak over loopback, connections are kept alive. MLflow serves
the same trees on the same core, and is given bare feature rows: it need not look anything up.
"""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import numpy as np
import orjson
import typer
from xgboost import Booster

from feeds.credentials import format_api_key, hash_secret
from feeds.engine import FeedEngine
from feeds.model import TenantId, format_time
from feeds.testing_ports import free_ports
from ranking.bundle import ModelBundle
from ranking.features import Factors, FeatureMatrix
from ranking.registry import DirectoryRegistry
from ranking.scorers.boosted import BoostedScorer
from ranking.table import ActivityTable
from serving.bench_community import (
    NOW_US,
    PAGE,
    READER,
    TENANT,
    TREES,
    factors_of,
    feature_spec,
    matrix,
    populate,
    trees,
    user_side,
)
from serving.configs import service_config
from serving.handover import bundle_name, write_handed
from serving.measure import Doing, Figure, Sizes, Stopwatch, rounds
from serving.settings import load_settings
from serving.sources import own_table

__all__ = ["Client", "Server", "Site", "client_cores", "on_core", "rank_http"]

START_S_MAX: Final = 90.0
"""Seconds that a server may take to answer; MLflow's takes ten to thirty."""

CONNECTIONS: Final = 4
"""Connections at once where requests a second are counted."""

TURNS: Final = 3
"""Times that the servers take turns while requests a second are counted."""

GOALS: Final = {100: "2 ms p50, 5 ms p99", 500: "5 ms p50, 12 ms p99", 2_000: "35 ms p99"}

_ACTIVITIES_PER_CANDIDATE: Final = 4
"""So many that trending finds enough that is not among the newest of what is followed."""
_ACTIVITIES_MIN: Final = 800
_KEY_ID, _SECRET = "benchkey", "secret-of-the-bench-0123456789"
_SAVE: Final = (
    "import sys, mlflow.xgboost, xgboost;"
    "booster = xgboost.Booster(model_file=sys.argv[1]); booster.set_param({'nthread': 1});"
    "mlflow.xgboost.save_model(booster, sys.argv[2])"
)
_RECEIVE_BYTES: Final = 256 * 1024


class Client:
    """One kept-alive connection that sends the same request again and again.

    The request is bytes made beforehand, and of a reply only status and length are looked at.
    """

    def __init__(self, address: str, request: bytes) -> None:
        parts = urlsplit(address)
        self._request = request
        self._received = b""
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=START_S_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self) -> None:
        """Begin a request."""
        self.socket.sendall(self._request)

    def receive(self) -> bytes | None:
        """Read what came: the reply's body once it is whole, None before.

        Raises `ConnectionError` where the server hung up or answered anything but 200.
        """
        data = self.socket.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return None
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(f"the server answered {self._received[:300]!r}")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return None
        self._received = body[length:]
        return body[:length]

    def ask(self) -> bytes:
        """Send a request, and wait for its reply."""
        self.send()
        while (body := self.receive()) is None:
            pass
        return body

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


class Server:
    """A process that answers HTTP on one core, and the request that is sent to it."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.address = ""
        self.request = b""
        self._log = log
        with log.open("wb") as out, on_core(_server_cores()):
            self.process = subprocess.Popen(  # noqa: S603 - our own command, or MLflow's
                arguments,
                stdout=out,
                stderr=out,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                start_new_session=True,
            )

    def wait(self, address: str, request: bytes) -> None:
        """Return once the request is answered; raises `RuntimeError` where it never is."""
        until = time.monotonic() + START_S_MAX
        while time.monotonic() < until and self.process.poll() is None:
            with suppress(OSError), closing(Client(address, request)) as client:
                client.ask()
                self.address, self.request = address, request
                return
            time.sleep(0.1)
        raise RuntimeError(f"{self.process.args!r:.80} did not answer: {self._tail()}")

    def client(self) -> Client:
        """A new connection."""
        return Client(self.address, self.request)

    def cpu_ns(self) -> int:
        """CPU time of the process so far (Linux numbers a process's clock by its id)."""
        return time.clock_gettime_ns((~self.process.pid << 3) | 2)

    def per_s(self, seconds: float) -> float:
        """Requests a second over `CONNECTIONS` connections, each with one under way."""
        clients = {client.socket: client for client in (self.client() for _ in range(CONNECTIONS))}
        answered, started = 0, time.perf_counter()
        for client in clients.values():
            client.send()
        while time.perf_counter() < started + seconds or answered < 2 * CONNECTIONS:
            ready, _, _ = select.select(list(clients), [], [], START_S_MAX)
            for each in ready:
                if clients[each].receive() is not None:
                    answered += 1
                    clients[each].send()
        elapsed = time.perf_counter() - started
        for client in clients.values():
            client.close()
        return answered / elapsed

    def end(self) -> None:
        """End the process, and those that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(15)

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-1_500:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


@dataclass(frozen=True, slots=True)
class Site:
    """A data directory with a community and its model, and what the references need."""

    directory: Path
    booster: Booster
    factors: Factors
    table: ActivityTable

    @classmethod
    def made(cls, directory: Path, candidates: int) -> Self:
        """As many activities as the largest request needs, and a model that is live."""
        directory.mkdir()
        activities = max(_ACTIVITIES_MIN, candidates * _ACTIVITIES_PER_CANDIDATE)
        with FeedEngine.open(directory / "data", clock=lambda: NOW_US) as engine:
            posted = populate(engine, activities)
            engine.add_key(TENANT, _KEY_ID, hash_secret(_SECRET), ("read", "write")).result()
            table = own_table(engine, TENANT, [], activities)
        spec, factors = feature_spec(), factors_of(posted)
        booster = trees(spec)
        golden = np.zeros((2, len(spec.names)), np.float32)
        bundle = ModelBundle(
            TENANT,
            BoostedScorer(spec, bytes(booster.save_raw("ubj"))),
            FeatureMatrix(spec.names, golden),
            factors=factors,
            trained_us=NOW_US,
            training_fingerprint="noise",
            metrics={},
        )
        _hand_over(bundle, directory)
        return cls(directory, booster, factors, table)

    def rows(self, candidates: int) -> np.ndarray:
        """The features of the reader's candidates, as the service computes them."""
        with FeedEngine.open(self.directory / "data", clock=lambda: NOW_US) as engine:
            query, _ = user_side(engine)
        config = service_config(load_settings(candidates_max=candidates))
        return matrix(config, query, self.table, self.factors, candidates)

    @contextmanager
    def service(self, candidates: int, **settings: float) -> Iterator[Server]:
        """The service, answering ranked reads of so many candidates; other `settings` by name."""
        address_file = self.directory / "address"
        address_file.unlink(missing_ok=True)
        arguments = [
            *(sys.executable, "-m", "serving", "serve", "--port", "0", "--no-loader"),
            *("--data-dir", str(self.directory / "data"), "--address-file", str(address_file)),
            *("--clock-start", format_time(NOW_US)),
        ]
        environment = {
            "HEADWATER_CANDIDATES_MAX": str(candidates),
            "HEADWATER_DEADLINE_MS": "60000",
            "HEADWATER_TENANT_REQUESTS_PER_S": "1000000",
            **{f"HEADWATER_{name.upper()}": str(value) for name, value in settings.items()},
        }
        with Server(arguments, environment, self.directory / "service.log") as server:
            until = time.monotonic() + START_S_MAX
            while not _listens(address_file) and server.process.poll() is None:
                if time.monotonic() > until:
                    break
                time.sleep(0.02)
            address = address_file.read_text().strip() if _listens(address_file) else "http://::1:1"
            server.wait(address, _read_request(f"limit={PAGE}"))
            yield server


def rank_http(directory: Path, seconds: float, sizes: Sizes) -> Iterator[Doing | Figure]:
    """Ranked reads of each number of candidates, over HTTP, beside the trees alone and MLflow."""
    site = Site.made(directory / "http", max(sizes.candidates))
    with _mlflow(site, peers=sizes.peers) as mlflow:
        for number, candidates in enumerate(sizes.candidates):
            yield Doing(f"{candidates} candidates over HTTP", number / len(sizes.candidates))
            rows = site.rows(candidates)
            with site.service(candidates) as service:
                yield _latency(service, site.booster, rows, seconds)
                yield _rate(service, site.booster, rows, mlflow, seconds)


def _latency(service: Server, booster: Booster, rows: np.ndarray, seconds: float) -> Figure:
    _check(service, len(rows))
    replies, predictions = Stopwatch(), Stopwatch()
    with closing(service.client()) as client, on_core(client_cores()):
        for _ in range(20):
            content = client.ask()
        began_ns = service.cpu_ns()
        for _ in rounds(seconds):
            with replies:
                client.ask()
            with predictions:
                booster.inplace_predict(rows, validate_features=False)
        cpu_us = (service.cpu_ns() - began_ns) / 1e3
    measured = replies.times()
    return Figure.of_times(
        "rank",
        f"{_what(rows)}: HTTP request to reply",
        measured,
        "inplace_predict alone",
        predictions.times(),
        goal=GOALS.get(len(rows), ""),
        candidates=len(rows),
        reply_bytes=len(content),
        service_cpu_us=cpu_us / measured.repeats,
    )


def _rate(
    service: Server, booster: Booster, rows: np.ndarray, mlflow: "_Mlflow | None", seconds: float
) -> Figure:
    what = f"{_what(rows)}: requests a second over HTTP, {CONNECTIONS} connections"
    goal = "8 x MLflow" if len(rows) == 500 else ""  # noqa: PLR2004 - the goal's own number
    ours: list[float] = []
    theirs: list[float] = []
    with on_core(client_cores()):
        if mlflow is not None:
            mlflow.take(rows)
        for _ in range(TURNS):
            ours.append(service.per_s(seconds / TURNS / 2))
            if mlflow is not None:
                theirs.append(mlflow.server.per_s(seconds / TURNS / 2))
        if mlflow is None:
            alone = Stopwatch()
            for _ in rounds(seconds / 4):
                with alone:
                    booster.inplace_predict(rows, validate_features=False)
            theirs.append(1e6 / alone.times().p50_us)
    reference = (
        "inplace_predict alone"
        if mlflow is None
        else "mlflow models serve, the same trees on bare feature rows"
    )
    return Figure.of_rates(
        "rank", what, float(np.median(ours)), reference, float(np.median(theirs)), goal
    )


def _what(rows: np.ndarray) -> str:
    return f"{len(rows):,} candidates, {rows.shape[1]} features, {TREES} trees"


def _check(service: Server, candidates: int) -> None:
    """Raises `RuntimeError` unless the model ranks as many candidates as the figure says."""
    request = _read_request(f"limit={PAGE}&explain=true")
    with closing(Client(service.address, request)) as client:
        page: dict[str, Any] = orjson.loads(client.ask())  # Any: JSON
    came = {stage["name"]: stage["came"] for stage in page["explanation"]["stages"]}
    if page["degraded"] is not None or came["gather"] != candidates:
        raise RuntimeError(f"ranked {came['gather']} of {candidates}: {page['degraded']}")


@dataclass(frozen=True, slots=True)
class _Mlflow:
    """`mlflow models serve` with the trees of the bench."""

    server: Server

    def take(self, rows: np.ndarray) -> None:
        """Send these rows from now on."""
        self.server.request = _rows_request(rows)


@contextmanager
def _mlflow(site: Site, *, peers: bool) -> Iterator[_Mlflow | None]:
    """MLflow's own server; None, and a sentence on standard error, where it cannot start."""
    if not peers:
        yield None
        return
    command = Path(sys.executable).with_name("mlflow")
    executable = str(command) if command.exists() else shutil.which("mlflow")
    if executable is None:
        typer.echo("mlflow models serve is left out: MLflow is not installed", err=True)
        yield None
        return
    server = None
    try:
        server = _started_mlflow(site, executable)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        typer.echo(f"mlflow models serve is left out: it did not start ({error})", err=True)
    try:
        yield None if server is None else _Mlflow(server)
    finally:
        if server is not None:
            server.end()


def _started_mlflow(site: Site, executable: str) -> Server:
    trees_file, saved = site.directory / "trees.ubj", site.directory / "mlflow"
    site.booster.save_model(trees_file)
    save = [sys.executable, "-c", _SAVE, str(trees_file), str(saved)]
    subprocess.run(save, check=True, capture_output=True, timeout=START_S_MAX)  # noqa: S603
    port = free_ports(1)
    arguments = [
        *(executable, "models", "serve", "-m", str(saved), "--env-manager", "local"),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
    ]
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    server = Server(arguments, {"PATH": search}, site.directory / "mlflow.log")
    try:
        rows = np.zeros((1, len(feature_spec().names)), np.float32)
        server.wait(f"http://127.0.0.1:{port}", _rows_request(rows))
    except RuntimeError:
        server.end()
        raise
    return server


def _rows_request(rows: np.ndarray) -> bytes:
    names = list(feature_spec().names)
    values = [[None if value != value else value for value in row] for row in rows.tolist()]  # noqa: PLR0124 - NaN
    content = orjson.dumps({"dataframe_split": {"columns": names, "data": values}})
    head = (
        "POST /invocations HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def _read_request(query: str) -> bytes:
    return (
        f"GET /v2/users/{READER}/feeds/personalized?{query} HTTP/1.1\r\nHost: bench\r\n"
        f"Authorization: Bearer {format_api_key(_KEY_ID, _SECRET)}\r\n\r\n"
    ).encode()


def _hand_over(bundle: ModelBundle, directory: Path) -> None:
    """Make the bundle live, as the loader would."""
    registry = DirectoryRegistry(directory / "registry")
    bundle.save(directory / "bundle")
    version = registry.publish(TenantId(TENANT), directory / "bundle")
    home = directory / "data" / "models" / TENANT
    home.mkdir(parents=True)
    registry.fetch(version, home / bundle_name(version))
    write_handed(home, version)
    registry.close()


def _listens(address_file: Path) -> bool:
    return address_file.exists() and address_file.read_text().endswith("\n")


def _server_cores() -> set[int]:
    return {max(os.sched_getaffinity(0))}


def client_cores() -> set[int]:
    """All cores but the servers'; that one too where there is no other."""
    cores = os.sched_getaffinity(0)
    return cores - {max(cores)} or cores


@contextmanager
def on_core(cores: set[int]) -> Iterator[None]:
    """Run on these cores; a process that is started meanwhile stays on them."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
