"""Models under live traffic: the whole application with real bundles, swapped while it answers."""

import asyncio
import select
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from feeds.engine import FeedEngine
from feeds.model import ActivityDraft, FeedId, TenantId
from feeds.remote import open_remote
from ranking.bundle import BundleLimits, ModelBundle
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.registry import Alias, ModelVersion
from ranking.scorers.base import Scorer
from ranking.scorers.popularity import PopularityScorer
from ranking.testing import T0_US
from ranking.testing_models import ACME, boosted_scorer, factor_table, model_bundle
from serving.bench_server import Client
from serving.bench_site import node
from serving.handover import Handed, bundle_name, write_handed
from serving.measure import Times
from serving.model_loading import load_bundle
from serving.models import LoadedModel, ModelCache, ModelCacheConfig
from serving.slate_log.testing import logged_slates
from serving.telemetry import Metrics
from serving.testing import Served, ServiceProcess, add_tenant, served, wait_until

DEADLINE_S = 120
BETA = TenantId("beta")
PERSONALIZED = "/v2/users/bob/feeds/personalized"
READERS = 8
REQUESTS_MIN = 300

RATE_PER_S = 200
RATE_S = 30
CONNECTIONS = 16
PLACES = 5
SETTLED = 50
"""Replies in a row of the version that was handed over last: then every worker has it."""


def bundles() -> dict[str, ModelBundle]:
    """Models that score otherwise, over other features, with factors and without."""
    few = FeatureSpec(("age_h", "likes_7d", "factor_dot"))
    scorers: dict[str, Scorer] = {
        "1": boosted_scorer(seed=1),
        "2": boosted_scorer(few, seed=2),
        "3": PopularityScorer(),
        "4": boosted_scorer(seed=4, rounds=20),
    }
    return {
        version: model_bundle(
            ACME, scorer, seed=int(version), factors=factor_table() if version == "2" else None
        )
        for version, scorer in scorers.items()
    }


def hand_over(
    out: Path,
    number: int,
    bundle: ModelBundle,
    tenant: TenantId = ACME,
    *,
    alias: Alias = "live",
    damaged: bool = False,
) -> None:
    """What a loader would have done, to a sound bundle or one that was damaged since."""
    version = ModelVersion(
        tenant=tenant,
        version=number,
        kind=bundle.kind,
        digest=bundle.digest,
        published_us=T0_US,
    )
    home = out / tenant
    path = home / bundle_name(version)
    if not path.exists():
        bundle.save(path)
    if damaged:
        (path / "golden.npz").write_bytes(b"")
    write_handed(home, version, alias)


def recomputed(bundle: ModelBundle, explained: list[dict[str, Any]]) -> list[float]:
    """The scores that the bundle gives the features that a reply says it was scored by."""
    names = bundle.spec.names
    values = [
        [np.nan if (value := each["features"][name]) is None else value for name in names]
        for each in explained
    ]
    matrix = FeatureMatrix(names, np.array(values, np.float32).reshape(-1, len(names)))
    scores: list[float] = bundle.scorer().score(matrix).tolist()
    return scores


def check_whole(
    page: Mapping[str, Any], models: Mapping[str, ModelBundle], places: int = 20
) -> None:
    """Every score of a page is, bit for bit, of the version that the page names."""
    assert page["degraded"] is None or page["quality"]["late_sources"], "a busy machine, no more"
    explained = page["explanation"]["activities"]
    bundle = models[page["model_version"]]
    assert page["scorer"] == bundle.scorer().name
    assert [set(each["features"]) for each in explained] == [set(bundle.spec.names)] * places
    assert [result["score"] for result in page["results"]] == recomputed(bundle, explained)
    assert [result["id"] for result in page["results"]] == [
        each["activity_id"] for each in explained
    ]


def fill(engine: FeedEngine, tenant: TenantId) -> str:
    """A tenant with 20 activities that bob follows; returns its key."""
    key = add_tenant(engine, tenant)
    futures = [
        engine.post(
            tenant,
            FeedId("user", f"author-{number % 4}"),
            ActivityDraft(
                actor=f"user:author-{number % 4}",
                verb="post",
                object=f"note:{number}",
                time_us=T0_US + number * 1_000_000,
            ),
        )
        for number in range(20)
    ]
    for future in futures:
        future.result()
    for author in range(4):
        target = FeedId("user", f"author-{author}")
        engine.follow(tenant, FeedId("timeline", "bob"), target).result()
    return key


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def cache(out: Path) -> ModelCache:
    return ModelCache(out, ModelCacheConfig(poll_s=0.01))


@pytest.fixture
def service(tmp_path: Path, cache: ModelCache) -> Iterator[Served]:
    with served(tmp_path / "data", models=cache, deadline_ms=60_000) as service:
        yield service


def test_swaps_under_load_fail_no_request_and_mix_none(
    service: Served, cache: ModelCache, out: Path
) -> None:
    models = bundles()
    key = fill(service.services.engine, ACME)
    hand_over(out, 1, models["1"])
    wait_until(lambda: cache.status(ACME).version == "1", "the first model")
    hand_over(out, 5, model_bundle(seed=5), damaged=True)
    wait_until(lambda: "golden.npz" in (cache.status(ACME).cause or ""), "the damage to show")
    pages: list[dict[str, Any]] = []
    done, news = asyncio.Event(), asyncio.Event()

    async def read(client: httpx.AsyncClient) -> None:
        while not done.is_set() or len(pages) < REQUESTS_MIN:
            reply = await client.get(PERSONALIZED, params={"explain": True})
            assert reply.status_code == 200, reply.text
            pages.append(reply.json())
            news.set()

    async def swap() -> None:
        for version in ("2", "3", "1", "4", "3", "2", "1"):
            await asyncio.to_thread(hand_over, out, int(version), models[version])
            while not pages or pages[-1]["model_version"] != version:
                news.clear()
                await news.wait()
        done.set()

    async def run() -> None:
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            asyncio.timeout(DEADLINE_S),
            httpx.AsyncClient(
                base_url=service.address, headers=headers, timeout=DEADLINE_S
            ) as client,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(swap())
            for _ in range(READERS):
                tasks.create_task(read(client))

    asyncio.run(run())
    assert len(pages) >= REQUESTS_MIN
    assert {page["model_version"] for page in pages} == set(models)
    for page in pages:
        check_whole(page, models)


class Offered:
    """Reads sent when they are due, answered or not those before, while models are swapped."""

    def __init__(
        self, address: str, key: str, out: Path, models: Mapping[str, ModelBundle]
    ) -> None:
        self.bodies: list[bytes] = []
        self.took_ns: list[int] = []
        self.swaps = 0
        self._address = address
        self._request = (
            f"GET {PERSONALIZED}?limit={PLACES}&explain=true HTTP/1.1\r\nHost: test\r\n"
            f"Authorization: Bearer {key}\r\n\r\n"
        ).encode()
        self._out = out
        self._models = models
        self._next = cycle(models)
        self._version = next(self._next)
        self._settled = 0

    def send(self, per_s: float, seconds: float) -> float:
        """Send for so long, and wait for all replies; the seconds until the last one."""
        idle = deque(Client(self._address, self._request) for _ in range(CONNECTIONS))
        under_way: dict[socket.socket, tuple[Client, int]] = {}
        due = deque(int(number * 1e9 / per_s) for number in range(int(per_s * seconds)))
        began_ns = time.perf_counter_ns()
        while due or under_way:
            now_ns = time.perf_counter_ns() - began_ns
            while due and due[0] <= now_ns and idle:
                client = idle.popleft()
                client.send()
                under_way[client.socket] = client, due.popleft()
            wait_s = min(1.0, max(0.0, (due[0] - now_ns) / 1e9)) if due and idle else 1.0
            for ready in select.select(list(under_way), [], [], wait_s)[0]:
                client, due_ns = under_way[ready]
                if (body := client.receive()) is not None:
                    del under_way[ready]
                    idle.append(client)
                    self.took_ns.append(time.perf_counter_ns() - began_ns - due_ns)
                    self._note(body)
        for client in idle:
            client.close()
        return (time.perf_counter_ns() - began_ns) / 1e9

    def _note(self, body: bytes) -> None:
        """Keep a reply, and hand over the next model once all replies are of the last one."""
        self.bodies.append(body)
        self._settled = self._settled + 1 if f'"{self._version}"'.encode() in body else 0
        if self._settled >= SETTLED:
            self._version, self._settled = next(self._next), 0
            hand_over(self._out, int(self._version), self._models[self._version])
            self.swaps += 1


@pytest.mark.slow
def test_swaps_under_two_hundred_reads_a_second_fail_none_and_mix_none(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = bundles()
    for version in reversed(models):
        hand_over(out, int(version), models[version])
    for name, value in (("DEADLINE_MS", 60_000), ("QUALITY_MIN", 1), ("MODELS_DIR", out)):
        monkeypatch.setenv(f"HEADWATER_{name}", str(value))
    with tempfile.TemporaryDirectory(prefix="hw") as short, node(Path(short) / "n") as engine:
        with open_remote(engine) as remote:
            key = fill(remote, ACME)
        beside = ("--engine", str(engine), "--no-loader", "--workers", "2")
        with ServiceProcess(tmp_path, *beside) as service, service.client(key) as client:
            wait_until(
                lambda: client.get(PERSONALIZED).json()["degraded"] is None, "the first model"
            )
            offered = Offered(service.address(), key, out, models)
            elapsed_s = offered.send(RATE_PER_S, RATE_S)
    pages = [orjson.loads(body) for body in offered.bodies]
    assert len(pages) == RATE_PER_S * RATE_S
    for page in pages:
        check_whole(page, models, PLACES)
    assert {page["model_version"] for page in pages} == set(models)
    times = Times.of(offered.took_ns)
    print(f"{len(pages) / elapsed_s:.1f}/s, {offered.swaps} swaps, {times}")  # noqa: T201
    assert offered.swaps > len(models)
    assert len(pages) / elapsed_s > 0.95 * RATE_PER_S, "what is offered is answered"


def test_recomputing_tells_versions_apart(service: Served, cache: ModelCache, out: Path) -> None:
    """The check above would find a mixture: another version's scores are others."""
    models = bundles()
    key = fill(service.services.engine, ACME)
    hand_over(out, 1, models["1"])
    wait_until(lambda: cache.status(ACME).version == "1", "the first model")
    with service.client(key) as client:
        page = client.get(PERSONALIZED, params={"explain": True}).json()
    check_whole(page, models)
    with pytest.raises(AssertionError):
        check_whole({**page, "model_version": "4"}, models)


def test_first_request_of_a_tenant_whose_model_is_not_in_memory(tmp_path: Path, out: Path) -> None:
    gate = threading.Event()

    def load(home: Path, tenant: TenantId, handed: Handed, limits: BundleLimits) -> LoadedModel:
        assert tenant == ACME or gate.wait(DEADLINE_S)
        return load_bundle(home, tenant, handed, limits)

    for tenant in (ACME, BETA):
        hand_over(out, 1, model_bundle(tenant), tenant)
    gate.set()
    metrics = Metrics()
    cache = ModelCache(out, ModelCacheConfig(tenants_max=1), metrics=metrics, load=load)
    with served(tmp_path / "data", models=cache, deadline_ms=60_000) as service:
        key = fill(service.services.engine, BETA)
        gate.clear()
        with service.client(key) as client:
            page = client.get(PERSONALIZED).json()
            assert page["degraded"] == "the model is loading: ordered by time"
            assert (page["model_version"], len(page["results"])) == (None, 20)
            gate.set()
            wait_until(lambda: not cache.loading(BETA), "the model to be loaded")
            page = client.get(PERSONALIZED).json()
            assert (page["degraded"], page["model_version"]) == (None, "1")
            told = client.get("/metrics").text
    assert 'headwater_ranked_reads_total{kind="personalized",outcome="loading"} 1.0' in told
    told = metrics.render().decode()
    assert "headwater_models 1.0" in told
    assert "headwater_model_evictions_total 1.0" in told
    assert 'headwater_model_loads_total{alias="live",outcome="loaded"} 2.0' in told


def test_shadow_that_was_handed_over_is_on_trial_beside_the_live_model(
    tmp_path: Path, out: Path
) -> None:
    models = bundles()
    hand_over(out, 1, models["1"])
    hand_over(out, 2, models["2"], alias="shadow")
    hand_over(out, 3, models["3"], alias="previous")
    with served(
        tmp_path / "data",
        models=ModelCache(out),
        deadline_ms=60_000,
        shadow_sample=1,
    ) as service:
        key = fill(service.services.engine, ACME)
        with service.client(key) as client:
            page = client.get(PERSONALIZED, params={"explain": True}).json()
            check_whole(page, models)
            log = service.services.shadow_log
            wait_until(lambda: log.flush() and bool(logged_slates(log.directory)), "the trial")
            (shadow,) = logged_slates(log.directory)
            status = client.get("/v2/model").json()
    assert (page["model_version"], shadow.model_version) == ("1", "2")
    assert set(shadow.places.activity_ids()) == {result["id"] for result in page["results"]}
    assert (status["version"], status["previous"], status["loading"]) == ("1", "3", False)
    assert (status["shadow"]["version"], status["shadow"]["problem"]) == ("2", None)
