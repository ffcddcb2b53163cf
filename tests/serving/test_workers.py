"""Workers beside an engine node, as they are run: processes, signals, kills."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from feeds.cli_cluster import init_cluster, start_cluster, stop_cluster
from feeds.model import ActivityDraft, FeedId, TenantId
from feeds.remote import open_remote
from feeds.testing_ports import free_ports
from serving.testing import ALL_SCOPES, COMMAND, ServiceProcess, add_tenant, wait_until

ACME = TenantId("acme")
TOKEN = "operators-alone-0123456789"
PERSONALIZED = "/v2/users/bob/feeds/personalized"
POSTS = "/v2/feeds/user/ann/activities"


@pytest.fixture
def cluster() -> Iterator[Path]:
    """A cluster of one that runs."""
    with tempfile.TemporaryDirectory(prefix="hw") as directory:  # a socket's path is short
        init_cluster(Path(directory), "test", free_ports(1), nodes=1, plain=True)
        start_cluster(Path(directory))
        try:
            yield Path(directory)
        finally:
            stop_cluster(Path(directory))


@pytest.fixture
def key(cluster: Path) -> str:
    """The API key of a tenant with a followed feed of 30 activities."""
    with open_remote(cluster / "n1.sock") as engine:
        made = add_tenant(engine, ACME, ALL_SCOPES)
        engine.follow(ACME, FeedId("timeline", "bob"), FeedId("user", "ann")).result()
        for number in range(30):
            draft = ActivityDraft(actor=f"user:u{number}", verb="post", object=f"o{number}")
            engine.post(ACME, FeedId("user", "ann"), draft).result()
    return made


@pytest.fixture
def start(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., ServiceProcess]]:
    """Starts a service beside the node, which ends with the test."""
    monkeypatch.setenv("HEADWATER_WRITE_RETRY_S", "0.3")
    monkeypatch.setenv("HEADWATER_METRICS_TOKEN", TOKEN)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with ExitStack() as stack:

        def started(*options: str) -> ServiceProcess:
            beside = ("--engine", str(cluster / "n1.sock"), "--no-loader")
            return stack.enter_context(ServiceProcess(tmp_path, *beside, *options))

        yield started


Start = Callable[..., ServiceProcess]


def workers(service: ServiceProcess) -> list[psutil.Process]:
    """Those that run."""
    found = psutil.Process(service.process.pid).children()
    return [one for one in found if one.is_running() and "serving.worker" in one.cmdline()]


@contextmanager
def standing_still(process: psutil.Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def ask(service: ServiceProcess, key: str, path: str, **asked: str | int) -> httpx.Response:
    """A read over a connection of its own, so that any worker may take it."""
    with service.client(key) as client:
        return client.get(path, params=asked)


def post(service: ServiceProcess, key: str, name: str) -> httpx.Response:
    body = {"actor": "user:ann", "verb": "post", "object": name}
    with service.client(key) as client:
        return client.post(POSTS, json=body, headers={"Idempotency-Key": name})


def answered(request: Callable[[], httpx.Response]) -> int:
    """The status; 0 where the worker that had taken the connection was killed."""
    try:
        return request().status_code
    except httpx.TransportError:
        return 0


def ids(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [entry["id"] for entry in reply.json()["results"]]


def logged(service: ServiceProcess, event: str) -> int:
    """How many times the service has logged it."""
    return service.log.read_text().count(f'"event": "{event}"')


def slates(service: ServiceProcess) -> float:
    """Ranked reads of the tenant, whichever worker is asked."""
    lines = ask(service, TOKEN, "/metrics/tenants").text.splitlines()
    of_acme = 'headwater_tenant_ranked_reads_total{tenant="acme"'
    return sum(float(line.split()[-1]) for line in lines if line.startswith(of_acme))


def lags(service: ServiceProcess, key: str) -> list[str]:
    """The workers whose lag the metrics tell."""
    lines = ask(service, key, "/metrics").text.splitlines()
    assert "headwater_outbox_tasks 0.0" in lines
    found = [line for line in lines if line.startswith("headwater_store_lag_seconds{")]
    return sorted(line.split('"')[1] for line in found)


def test_each_worker_explains_what_any_of_them_served(
    key: str, start: Start, tmp_path: Path
) -> None:
    service = start("--workers", "2")
    service.address()
    first, second = workers(service)
    for serving, other in ((first, second), (second, first)):
        with standing_still(other):
            page = ask(service, key, PERSONALIZED).json()
            path = f"/v2/slates/{page['slate_id']}/explain"
            assert ask(service, key, path).status_code == 200
        with standing_still(serving):
            explained = ask(service, key, path).json()
        assert explained["recomputed"]["bit_identical"] is True
        shown = [entry["activity_id"] for entry in explained["activities"]]
        assert [entry["id"] for entry in page["results"]][:3] == shown[:3]
    segments = {path.name for path in (tmp_path / "data" / "slates" / ACME).glob("*.slates")}
    assert {name.split("-")[1] for name in segments} == {"001.slates", "002.slates"}
    lines = ask(service, key, "/metrics").text.splitlines()
    counted = [line for line in lines if line.startswith("headwater_slates_logged_total")]
    assert float(counted[0].split()[-1]) >= 2


def test_a_worker_honours_what_another_was_told_and_repeats_nothing_that_it_served(
    key: str, start: Start
) -> None:
    service = start("--workers", "2")
    service.address()
    first, second = workers(service)
    wait_until(lambda: lags(service, key) == ["1", "2"], "both workers to tell their lag")

    with standing_still(second):
        served = ids(ask(service, key, PERSONALIZED, limit=10))
    with standing_still(first):
        refreshed = ask(service, key, PERSONALIZED, limit=10)
        with service.client(key) as client:
            muted = refreshed.json()["results"][0]["actor"]
            said = {"user": "bob", "kind": "mute", "author": muted}
            index = client.post("/v2/feedback", json=said).json()["index"]
    with standing_still(second):
        last = ask(service, key, PERSONALIZED, limit=30, min_index=index)

    assert not set(served) & set(ids(refreshed))
    assert len({*served, *ids(refreshed), *ids(last)}) == 30
    assert muted not in {entry["actor"] for entry in last.json()["results"]}
    assert len(ids(last)) == 29


def test_workers_serve_one_feed_whoever_dies(
    cluster: Path, key: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_SERVED_MAX", "0")
    service = start("--workers", "2")
    service.address()
    first, second = workers(service)
    wait_until(lambda: lags(service, key) == ["1", "2"], "both workers to tell their lag")

    # Each worker sees what the other wrote, and turns the pages that the other began.
    for number, (stopped, other) in enumerate([(first, second), (second, first)]):
        with standing_still(stopped):
            posted = post(service, key, f"new{number}").json()
        with standing_still(other):
            page = ask(service, key, PERSONALIZED, limit=10, min_index=posted["index"])
            assert posted["activity"]["id"] in ids(page)
        found = ids(page)
        for turn in range(2):
            with standing_still((stopped, other)[turn]):
                page = ask(service, key, PERSONALIZED, limit=10, cursor=page.json()["next"])
                found += ids(page)
        assert 30 == len(found) == len(set(found))

    # Neither holds what training needs.
    for worker in (first, second):
        mapped = "\n".join(region.path for region in worker.memory_maps())
        assert not [name for name in ("pandas", "sklearn", "pyarrow") if f"/{name}" in mapped]

    # One that is killed is replaced, and requests are answered meanwhile.
    first.kill()
    statuses = []

    def replaced() -> bool:
        statuses.append(answered(lambda: ask(service, key, PERSONALIZED)))
        return logged(service, "worker_ready") == 3

    wait_until(replaced, "another worker")
    assert set(statuses) <= {0, 200}
    assert 200 in statuses
    assert first.pid not in [one.pid for one in workers(service)]
    assert 2 == len(workers(service))
    wait_until(lambda: lags(service, key) == ["1", "2"], "both workers to tell their lag")
    with standing_still(second):
        assert 32 == len(ids(ask(service, key, "/v2/feeds/user/ann", limit=100)))

    # While the node is gone nothing is taken, and what may be old is not shown.
    os.kill(int((cluster / "n1.pid").read_text()), signal.SIGKILL)
    refused = post(service, key, "late")
    assert refused.status_code == 503
    assert refused.json()["exception"] in {"NoLeaderException", "OutcomeUnknownException"}
    assert refused.headers["retry-after"] == "1"
    wait_until(
        lambda: ask(service, key, PERSONALIZED).status_code == 503, "old reads to be refused"
    )
    stale = ask(service, key, PERSONALIZED)
    assert (stale.json()["exception"], stale.headers["retry-after"]) == ("StaleReadException", "1")
    start_cluster(cluster)
    wait_until(lambda: post(service, key, "late").status_code == 201, "writes to be taken again")
    for other in workers(service):
        with standing_still(other):
            wait_until(lambda: ask(service, key, PERSONALIZED).status_code == 200, "reads")
            shown = ask(service, key, "/v2/feeds/user/ann", limit=100, consistency="linearizable")
            assert 33 == len(ids(shown))

    running = workers(service)
    assert service.end() == 0
    assert not any(one.is_running() for one in running)
    assert list(tmp_path.glob("headwater-*")) == []


def test_what_a_tenant_asked_is_counted_by_all_workers_and_outlives_them(
    cluster: Path, key: str, start: Start
) -> None:
    service = start("--workers", "2")
    service.address()
    first, second = workers(service)
    for stopped, times in ((first, 3), (second, 2)):
        with standing_still(stopped):
            for _ in range(times):
                assert ask(service, key, PERSONALIZED).status_code == 200
    for stopped in (second, first):
        wait_until(lambda: slates(service) == 5, "the other's numbers, which come in a second")
        with standing_still(stopped):
            assert slates(service) == 5

    first.kill()
    wait_until(lambda: logged(service, "worker_ready") == 3, "another worker")
    with standing_still(second):
        assert slates(service) == 5

    assert 'headwater_node_role{role="leader"} 1' in ask(service, key, "/metrics").text
    stop_cluster(cluster)
    assert "headwater_node_up 0" in ask(service, key, "/metrics").text


def test_workers_end_where_who_started_them_is_killed(key: str, start: Start) -> None:
    service = start("--workers", "2")
    service.address()
    running = workers(service)
    service.end(signal.SIGKILL)
    wait_until(lambda: not any(is_alive(one) for one in running), "the workers to end")
    assert key


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_workers_need_a_node(tmp_path: Path) -> None:
    told = subprocess.run(
        [str(COMMAND), "serve", "--workers", "2", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.returncode == 1
    assert "make a cluster with `headwater cluster init`" in told.stderr
    assert "--engine SOCKET" in told.stderr


def test_a_node_that_does_not_answer_is_told(tmp_path: Path) -> None:
    told = subprocess.run(
        [
            *(str(COMMAND), "serve", "--port", "0", "--data-dir", str(tmp_path)),
            *("--engine", str(tmp_path / "none.sock")),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.returncode == 1
    assert "no engine answers" in told.stderr


def test_workers_follow_an_activated_config_without_a_restart(
    cluster: Path, key: str, start: Start
) -> None:
    del cluster
    service = start("--workers", "2")
    service.address()
    first, second = workers(service)
    wait_until(lambda: lags(service, key) == ["1", "2"], "both workers to tell their lag")
    with service.client(key) as client:
        assert client.post("/v2/ranking-configs", json={}).status_code == 201

    # What one worker activated ranks at the other, which had held what was active before.
    for version, (stopped, other) in enumerate([(first, second), (second, first), (first, second)]):
        with standing_still(other):
            assert ask(service, key, PERSONALIZED).json()["config_version"] == version % 2
        with standing_still(stopped), service.client(key) as client:
            path = f"/v2/ranking-configs/{(version + 1) % 2}/activate"
            reply = client.post(path, json={"expected_version": version % 2})
            assert reply.status_code == 200, reply.text
        with standing_still(other):
            page = ask(service, key, PERSONALIZED, min_index=reply.json()["index"])
            assert page.json()["config_version"] == (version + 1) % 2


def test_a_worker_that_cannot_start_ends_the_service(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sqlite3.py").write_text("raise SystemExit('no slates here')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    service = start("--workers", "2")
    assert service.process.wait(60) == 1
    log = service.log.read_text()
    assert "no slates here" in log
    assert "ended with status 1 before it was ready" in log
