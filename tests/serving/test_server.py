"""`headwater serve` as it is run: a process, sockets, signals."""

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from itertools import count
from pathlib import Path

import httpx
import psutil
import pytest

from feeds.engine import FeedEngine
from feeds.events import Posted
from feeds.model import ActivityDraft, FeedId, TenantId
from ranking.registry import DirectoryRegistry
from ranking.testing_models import boosted_scorer, model_bundle
from serving.testing import COMMAND, ServiceProcess, add_tenant, wait_until

ACME = TenantId("acme")
PERSONALIZED = "/v2/users/bob/feeds/personalized"
FOREIGN = ("pandas", "sklearn", "scikit_learn", "lightfm", "pyarrow", "polars")


@pytest.fixture
def key(tmp_path: Path) -> str:
    """The API key of a tenant with a followed feed, in the data directory."""
    with FeedEngine.open(tmp_path / "data") as engine:
        made = add_tenant(engine, ACME)
        engine.follow(ACME, FeedId("timeline", "bob"), FeedId("user", "ann"))
        for number in range(30):
            draft = ActivityDraft(actor=f"user:u{number}", verb="post", object=f"o{number}")
            engine.post(ACME, FeedId("user", "ann"), draft).result()
    return made


@pytest.fixture
def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., ServiceProcess]]:
    """Starts services that end with the test, and whose reads no busy machine makes late."""
    monkeypatch.setenv("HEADWATER_DEADLINE_MS", "60000")
    running: list[ServiceProcess] = []

    def started(*options: str) -> ServiceProcess:
        running.append(ServiceProcess(tmp_path, *options))
        return running[-1]

    yield started
    for service in running:
        service.__exit__()


Start = Callable[..., ServiceProcess]


def children(service: ServiceProcess) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children(recursive=True)


def publish(registry: DirectoryRegistry, directory: Path, seed: int) -> int:
    model_bundle(ACME, boosted_scorer(seed=seed), seed=seed).save(directory / f"bundle-{seed}")
    version = registry.publish(ACME, directory / f"bundle-{seed}").version
    return registry.promote(ACME, version).version


def live_version(client: httpx.Client) -> str | None:
    version: str | None = client.get("/v2/model").json()["version"]
    return version


def test_it_prints_its_address_alone_and_ends_cleanly_on_sigterm(
    key: str, start: Start, tmp_path: Path
) -> None:
    service = start("--no-loader", "--log-level", "warning")
    with service.client(key) as client:
        assert client.get("/healthz").status_code == 200

    assert service.end() == 0
    assert service.log.read_text() == (tmp_path / "address").read_text()


def test_no_child_is_left_behind_by_a_full_shutdown(key: str, start: Start) -> None:
    service = start()
    with service.client(key):
        wait_until(lambda: len(children(service)) > 0, "the loader to start")
        left = children(service)

    assert service.end(signal.SIGINT) == 0
    assert not any(child.is_running() for child in left)


def test_what_was_accepted_is_answered_when_the_service_is_told_to_end(
    key: str, start: Start, tmp_path: Path
) -> None:
    service = start()
    with service.client(key):
        wait_until(lambda: len(children(service)) > 0, "the loader to start")
        left = children(service)
    host, _, port = service.address().removeprefix("http://").rpartition(":")
    bodies = [
        b'{"actor":"user:ann","verb":"post","object":"last-%d"}' % number for number in range(50)
    ]
    with ExitStack() as stack:
        connections = []
        for body in bodies:
            connection = HTTPConnection(host, int(port), timeout=30)
            stack.callback(connection.close)
            connection.putrequest("POST", "/v2/feeds/user/ann/activities")
            connection.putheader("Authorization", f"Bearer {key}")
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", str(len(body)))
            connection.putheader("Expect", "100-continue")
            connection.endheaders()
            assert connection.sock.recv(100).startswith(b"HTTP/1.1 100 ")  # its body is awaited
            connection.send(body[:20])
            connections.append(connection)

        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not listens(host, int(port)), "the service to listen no more")
        for connection, body in zip(connections, bodies, strict=True):
            connection.send(body[20:])
        replies = [connection.getresponse() for connection in connections]
        posted = {json.loads(reply.read())["activity"]["id"] for reply in replies}

    assert service.process.wait(30) == 0
    assert [reply.status for reply in replies] == [201] * len(bodies)
    assert not any(child.is_running() for child in left)
    with FeedEngine.open(tmp_path / "data") as engine:
        facts = [event for _, _, event in engine.events(ACME, 0, 10_000)]
    assert posted <= {fact.activity_id for fact in facts if isinstance(fact, Posted)}
    assert len(posted) == len(bodies)


def listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_the_loader_ends_when_the_service_is_killed(key: str, start: Start) -> None:
    service = start()
    with service.client(key):
        wait_until(lambda: "loader_started" in service.log.read_text(), "the loader to start")
        left = children(service)
        assert left

    service.end(signal.SIGKILL)

    wait_until(lambda: not any(child.is_running() for child in left), "the loader to end")


def test_a_loader_that_dies_is_started_again(key: str, start: Start) -> None:
    service = start()
    with service.client(key):
        wait_until(lambda: len(children(service)) > 0, "the loader to start")
        first = children(service)[0]
        first.kill()

        wait_until(
            lambda: any(child.pid != first.pid for child in children(service)),
            "another loader to start",
        )


def test_a_second_process_on_the_directory_is_refused(key: str, start: Start) -> None:
    first = start("--no-loader")
    with first.client(key) as client:
        second = start("--no-loader")
        assert second.process.wait(30) == 1
        said = second.log.read_text()
        assert str(first.process.pid) in said
        assert "Traceback" not in said
        assert client.get("/healthz").status_code == 200


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [COMMAND, "serve", "--port", str(port)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    assert done.returncode == 1
    assert f"127.0.0.1:{port} cannot be listened on" in done.stderr
    assert not (tmp_path / ".headwater").exists()


def test_wrong_settings_are_all_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND, "serve", "--port", "70000", "--log-level", "loud"],
        cwd=tmp_path,
        env=os.environ | {"HEADWATER_DEADLINE_MS": "0"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 1
    for name in ("port", "log_level", "deadline_ms"):
        assert f"{name} is" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_clock_starts_where_it_is_told(tmp_path: Path, start: Start) -> None:
    with FeedEngine.open(tmp_path / "data", clock=lambda: 0) as engine:
        made = add_tenant(engine, ACME)
    service = start("--no-loader", "--clock-start", "1998-04-20T00:00:00")
    with service.client(made) as client:
        reply = client.post(
            "/v2/feeds/user/ann/activities", json={"actor": "a", "verb": "b", "object": "c"}
        )

    assert reply.json()["activity"]["time"].startswith("1998-04-20T00:0")


def test_the_log_holds_neither_keys_nor_content(key: str, start: Start) -> None:
    service = start("--no-loader", "--log-level", "debug")
    secrets = [
        "very-private-text",
        "very-private-user",
        "very-private-path",
        key.rpartition("_")[2],
    ]
    with service.client(key) as client:
        client.post(
            "/v2/feeds/user/very-private-user/activities",
            json={"actor": "user:ann", "verb": "post", "object": "very-private-text"},
        )
        client.get("/v2/users/very-private-user/feeds/personalized")
        client.post("/v2/events", content=b"very-private-text")
        client.get("/very-private-path")
    service.end()

    log = service.log.read_text()
    assert '"event": "request_answered"' in log
    assert [secret for secret in secrets if secret in log] == []


def test_what_was_acknowledged_survives_a_kill_exactly_once(
    key: str, start: Start, tmp_path: Path
) -> None:
    service = start("--no-loader")
    acknowledged: list[tuple[str, str]] = []
    events: list[str] = []
    numbers = count()
    enough = threading.Event()

    def write(client: httpx.Client) -> None:
        while True:
            name = f"w{next(numbers)}"
            try:
                posted = client.post(
                    "/v2/feeds/user/ann/activities",
                    json={"actor": "user:ann", "verb": "post", "object": name},
                    headers={"Idempotency-Key": name},
                )
                activity = posted.json()["activity"]["id"]
                acknowledged.append((name, activity))
                liked = {
                    "type": "engagement",
                    "kind": "like",
                    "user": name,
                    "activity_id": activity,
                }
                recorded = client.post(
                    "/v2/events", json={"events": [liked]}, headers={"Idempotency-Key": f"e-{name}"}
                )
                assert recorded.json()["recorded"] == 1
                events.append(name)
            except httpx.TransportError:
                return
            if len(events) > 150:
                enough.set()

    with service.client(key) as client:
        writers = [threading.Thread(target=write, args=(client,)) for _ in range(4)]
        for writer in writers:
            writer.start()
        assert enough.wait(60)
        service.end(signal.SIGKILL)
        for writer in writers:
            writer.join(30)

    again = start("--no-loader")
    with again.client(key) as client:
        for name, activity in acknowledged[-20:]:
            repeated = client.post(
                "/v2/feeds/user/ann/activities",
                json={"actor": "user:ann", "verb": "post", "object": name},
                headers={"Idempotency-Key": name},
            ).json()
            assert (repeated["duplicate"], repeated["activity"]["id"]) == (True, activity)
    assert again.end() == 0

    with FeedEngine.open(tmp_path / "data") as engine:
        facts = [event for _, _, event in engine.events(ACME, 0, 50_000)]
    posted_ids = [fact.activity_id for fact in facts if isinstance(fact, Posted)]
    liked_by = [fact.user for fact in facts if hasattr(fact, "kind")]
    assert len(posted_ids) == len(set(posted_ids))
    assert {activity for _, activity in acknowledged} <= set(posted_ids)
    assert len(liked_by) == len(set(liked_by))
    assert set(events) <= set(liked_by)


def test_a_promoted_model_swaps_in_and_no_request_fails(
    key: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_DEADLINE_MS", "60000")  # none is late, however busy the machine
    registry = DirectoryRegistry(tmp_path / "registry")
    first = publish(registry, tmp_path, seed=1)
    service = start(
        *("--registry", f"dir:{tmp_path / 'registry'}"),
        "--log-level",
        "warning",
    )
    with service.client(key) as client:
        wait_until(lambda: live_version(client) == str(first), "the first model")
        seen: list[str] = []
        failures: list[str] = []
        stop = threading.Event()

        def read() -> None:
            with service.client(key) as own:
                while not stop.is_set():
                    for path in (PERSONALIZED, "/v2/users/eve/feeds/explore"):
                        reply = own.get(path)
                        if reply.status_code != 200 or reply.json()["degraded"]:
                            failures.append(reply.text)
                        else:
                            seen.append(reply.json()["model_version"])

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            second = publish(registry, tmp_path, seed=2)
            wait_until(lambda: bool(seen) and seen[-1] == str(second), "the second model")
            registry.roll_back(ACME)
            wait_until(lambda: seen[-1] == str(first), "the first model again")
        finally:
            stop.set()
            for reader in readers:
                reader.join(30)

    assert failures == []
    assert set(seen) == {str(first), str(second)}


def test_the_request_process_has_none_of_trainings_libraries(
    key: str, start: Start, tmp_path: Path
) -> None:
    publish(DirectoryRegistry(tmp_path / "registry"), tmp_path, seed=1)
    service = start("--registry", f"dir:{tmp_path / 'registry'}")
    with service.client(key) as client:
        wait_until(lambda: live_version(client) == "1", "the model")
        page = client.get(PERSONALIZED).json()
        process = psutil.Process(service.process.pid)
        mapped = "\n".join(region.path for region in process.memory_maps())
        resident_mb = process.memory_info().rss / 1e6

    assert (page["degraded"], page["model_version"]) == (None, "1")
    assert page["results"]
    assert "xgboost" in mapped
    for name in FOREIGN:
        assert f"/{name}" not in mapped, name
    assert resident_mb < 200
