"""`headwater demo`: the whole job on real data, as the commands that a newcomer would type.

Each step is a `headwater` command in a process of its own, so that the demo proves the commands and
not a shortcut through them; their progress bars go to the terminal, their results come back as
JSON. At the end a real service answers, and its feeds are shown with the reason for each place.
"""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Annotated, Any, Final, Literal

import typer

from serving.measure import Stopwatch, Times

__all__ = ["DemoReport", "command"]

Dataset = Literal["movielens", "stackexchange"]

TENANT: Final = "demo"
MARK: Final = "MADE_BY_DEMO"
"""The file that says that a folder is the demo's, to be made anew by the next one."""
REQUESTS: Final = 300
"""Reads of each feed whose latency is measured, after `WARM_UP` others."""
WARM_UP: Final = 30
PLACES: Final = 8
"""Places of a feed that are shown."""
START_TIMEOUT_S: Final = 60.0

FEEDS: Final = {
    "chronological": "/v2/feeds/timeline/{user}?limit=25",
    "personalized": "/v2/users/{user}/feeds/personalized?limit=25",
    "explore": "/v2/users/{user}/feeds/explore?limit=25",
}

Json = dict[str, Any]  # Any: replies of our own commands, read field by field


@dataclass(slots=True)
class DemoReport:
    """What the demo found; written to `report.json` as it is."""

    dataset: str
    tenant: str
    counts: Json = field(default_factory=dict)
    replay: Json = field(default_factory=dict)
    export: Json = field(default_factory=dict)
    training: Json = field(default_factory=dict)
    latency: dict[str, Json] = field(default_factory=dict)
    example_user: str = ""
    feeds: dict[str, list[Json]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_mb: float = 0.0
    statements: list[str] = field(default_factory=list)


def command(
    dataset: Annotated[Dataset, typer.Option(help="Which public data to replay.")] = "movielens",
    path: Annotated[
        Path | None,
        typer.Option(help="Where the data lies: needed for stackexchange, a dump directory."),
    ] = None,
    directory: Annotated[
        Path, typer.Option(help="Where the demo works; its data set's folder is made anew.")
    ] = Path(".headwater/demo"),
    serve: Annotated[bool, typer.Option(help="Leave the service running at the end.")] = False,
    port: Annotated[int, typer.Option(help="The service's port; 0 takes a free one.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Run the whole job on real data: replay, train, publish, serve, compare."""
    _check_input(dataset, path)
    work = directory / dataset
    _make_anew(work)
    report = DemoReport(dataset=dataset, tenant=TENANT)
    with _peak_memory(report):
        key = _replay_and_train(report, work, dataset, path)
        with _service(work, port, report.replay["last_time"], key) as address:
            _read_feeds(report, address, key)
            _conclude(report, work, as_json)
            if serve:
                _stay(address, key, report.example_user)


def _make_anew(work: Path) -> None:
    """An empty folder that is marked as the demo's; one that is not so marked is left alone."""
    if work.exists() and any(work.iterdir()) and not (work / MARK).exists():
        raise typer.BadParameter(
            f"{work} exists and was not made by the demo: name another place with --directory"
        )
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / MARK).touch()


def _check_input(dataset: str, path: Path | None) -> None:
    if dataset == "stackexchange" and path is None:
        raise typer.BadParameter(
            "the stackexchange data set needs --path DIRECTORY, a dump with Posts.xml in it"
        )


def _replay_and_train(report: DemoReport, work: Path, dataset: str, path: Path | None) -> str:
    """Everything up to the promoted model; returns the tenant's API key."""
    actions, data, events = work / "actions.jsonl", work / "data", work / "events"
    source = ["--path", str(path)] if path else []
    prepared = _step(
        report, "prepare", ["--dataset", dataset, *source, "--out", str(actions)], "Reading"
    )
    report.counts = prepared["counts"]
    created = _step(report, "tenants", ["create", TENANT, "--data-dir", str(data)], "Creating")
    report.replay = _step(
        report, "import", [str(actions), "--tenant", TENANT, "--data-dir", str(data)], "Replaying"
    )
    report.export = _step(
        report,
        "export",
        ["--tenant", TENANT, "--data-dir", str(data), "--out", str(events)],
        "Exporting",
    )
    report.training = _step(
        report,
        "train",
        [
            *("--tenant", TENANT, "--events", str(events), "--dataset", dataset),
            *("--registry", _registry(work), "--out", str(work / "training"), "--promote"),
        ],
        "Training",
    )
    report.statements = report.training["report"]["statements"]
    return str(created["api_key"])


def _registry(work: Path) -> str:
    return f"mlflow+sqlite:///{(work / 'registry' / 'mlflow.db').resolve()}"


def _step(report: DemoReport, name: str, arguments: Sequence[str], title: str) -> Json:
    """Run one command of ours, its progress on our stderr; returns what it printed as JSON."""
    print(f"\n{title}: headwater {name} {' '.join(arguments)}", file=sys.stderr, flush=True)  # noqa: T201 (the demo talks)
    started = time.perf_counter()
    done = subprocess.run(  # noqa: S603 (our own command)
        [sys.executable, "-m", "serving", name, *arguments, "--json"],
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        print(f"headwater {name} failed: {_told(done.stdout)}", file=sys.stderr)  # noqa: T201
        raise typer.Exit(done.returncode)
    report.seconds[name] = round(time.perf_counter() - started, 2)
    result: Json = json.loads(done.stdout)
    return result


def _told(output: bytes) -> str:
    """The sentence that a failed command printed as JSON; what else it said is on our stderr."""
    try:
        return str(json.loads(output)["error"])
    except (ValueError, KeyError, TypeError):
        return "its message is above"


@contextmanager
def _service(work: Path, port: int, clock_start: str, key: str) -> Iterator[tuple[str, int]]:
    """The real service in a process of its own, from ready to stopped; yields host and port."""
    address_file, log = work / "address", work / "service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 (our own command)
            [
                *(sys.executable, "-m", "serving", "serve"),
                *("--data-dir", str(work / "data"), "--port", str(port)),
                *("--registry", _registry(work)),
                *("--clock-start", clock_start, "--address-file", str(address_file)),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            # The report shows the best of each feed, however often it was read before.
            env=os.environ | {"OMP_NUM_THREADS": "1", "HEADWATER_SERVED_MAX": "0"},
        )
        try:
            yield _wait_until_ready(process, address_file, log, key)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(
    process: subprocess.Popen[bytes], address_file: Path, log: Path, key: str
) -> tuple[str, int]:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if address_file.exists() and (address := address_file.read_text().strip()):
            host, _, port = address.removeprefix("http://").rpartition(":")
            if _ready(host, int(port), key):
                return host, int(port)
        time.sleep(0.1)
    print(f"The service did not become ready; its log is {log}", file=sys.stderr)  # noqa: T201
    raise typer.Exit(1)


def _ready(host: str, port: int, key: str) -> bool:
    """Whether the service answers, with the model that was just promoted."""
    client = _Client((host, port), key)
    try:
        if client.get("/readyz")[0] != http.HTTPStatus.OK:
            return False
        status, body = client.get("/v2/model")
    except (OSError, http.client.HTTPException):
        return False
    return status == http.HTTPStatus.OK and json.loads(body)["version"] is not None


class _Client:
    """One kept-alive connection to the service: enough to read feeds and time them."""

    def __init__(self, address: tuple[str, int], key: str) -> None:
        self._connection = http.client.HTTPConnection(*address, timeout=10)
        self._headers = {"Authorization": f"Bearer {key}"}

    def get(self, target: str) -> tuple[int, bytes]:
        self._connection.request("GET", target, headers=self._headers)
        reply = self._connection.getresponse()
        return reply.status, reply.read()


def _read_feeds(report: DemoReport, address: tuple[str, int], key: str) -> None:
    """The three feeds of the example user, and how long reading them takes over many users."""
    client = _Client(address, key)
    users: list[str] = report.training["example_users"]
    report.example_user = _example_user(client, users)
    for kind, template in FEEDS.items():
        warming, timed = Stopwatch(), Stopwatch()
        for request in range(WARM_UP + REQUESTS):
            target = template.format(user=users[request % len(users)])
            with warming if request < WARM_UP else timed:
                status, body = client.get(target)
            if status != http.HTTPStatus.OK:
                print(f"GET {target} answered {status}: {body.decode()}", file=sys.stderr)  # noqa: T201
                raise typer.Exit(1)
        report.latency[kind] = _latency(timed.times())
        _, body = client.get(template.format(user=report.example_user))
        report.feeds[kind] = [_place(entry) for entry in json.loads(body)["results"][:PLACES]]


def _latency(times: Times) -> Json:
    """From sending a request to having read its reply, over loopback."""
    return {
        "p50_ms": round(times.p50_us / 1e3, 3),
        "p99_ms": round(times.p99_us / 1e3, 3),
        "requests": times.repeats,
    }


def _example_user(client: _Client, users: Sequence[str]) -> str:
    """The first user whose three feeds all have enough places to look at."""
    for user in users:
        replies = [client.get(template.format(user=user)) for template in FEEDS.values()]
        if all(len(json.loads(body).get("results", ())) >= PLACES for _, body in replies):
            return user
    return users[0]


def _place(entry: Json) -> Json:
    return {
        "title": entry.get("title") or entry["object"],
        "time": entry["time"][:10],
        "reason": entry.get("reason") or f"newest, from {entry.get('origin') or 'your own feed'}",
        "id": entry["id"],
    }


def _conclude(report: DemoReport, work: Path, as_json: bool) -> None:
    """Write `report.json`, and print the tables and the feeds."""
    content = json.dumps(asdict(report), indent=2)
    for home in (work, work.parent):  # of this data set, and of the latest demo
        (home / "report.json").write_text(content + "\n")
    if as_json:
        print(content)  # noqa: T201
    else:
        from serving.demo_view import show  # noqa: PLC0415 (rich only where it is shown)

        show(report, work / "report.json")


def _stay(address: tuple[str, int], key: str, user: str) -> None:
    """Leave the service running until Ctrl-C, saying how to ask it."""
    base = f"http://{address[0]}:{address[1]}"
    print(  # noqa: T201
        f"\nThe service runs at {base} (API: {base}/docs). Ask it:\n"
        f'  curl -H "Authorization: Bearer {key}" '
        f'"{base}/v2/users/{user}/feeds/personalized?limit=5&explain=1"\n'
        "Stop it with Ctrl-C.",
        flush=True,
    )
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


@contextmanager
def _peak_memory(report: DemoReport) -> Iterator[None]:
    """Record the largest sum of resident memory of this process and all below it, in MB.

    Shared pages count once for each process, so the figure is an upper bound.
    """
    import psutil  # noqa: PLC0415 (only the demo measures)

    root, stopped = psutil.Process(), Event()

    def watch() -> None:
        while not stopped.wait(0.2):
            total = 0
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.Error):
                    total += process.memory_info().rss
            report.peak_memory_mb = max(report.peak_memory_mb, round(total / 1e6, 1))

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stopped.set()
        watcher.join()
