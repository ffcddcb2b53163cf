"""Live models are swapped whole, and an old one stays where the new one cannot be loaded."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from feeds.model import TenantId
from ranking.bundle import BundleLimits
from ranking.registry import Alias, ModelVersion
from ranking.scorers.base import Scorer
from ranking.testing import T0_US, feature_matrix
from ranking.testing_models import ACME, boosted_scorer, factor_table, model_bundle
from serving.handover import (
    Handed,
    bundle_name,
    handed_file,
    withdraw,
    write_handed,
    write_problem,
)
from serving.model_loading import load_bundle
from serving.models import LoadedModel, ModelCache, ModelCacheConfig, ModelCounts, ModelStatus
from serving.settings_models import model_memory_bytes

DEADLINE_S = 60
BETA, GAMMA = TenantId("beta"), TenantId("gamma")


class Out:
    """What a loader would have left."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def hand_over(
        self,
        version: int,
        tenant: TenantId = ACME,
        owner: TenantId | None = None,
        *,
        alias: Alias = "live",
        scorer: Scorer | None = None,
    ) -> Path:
        """Make a version live; its seed is its number. Returns the bundle's directory."""
        bundle = model_bundle(owner or tenant, scorer, seed=version)
        handed = ModelVersion(
            tenant=tenant,
            version=version,
            kind=bundle.kind,
            digest=bundle.digest,
            published_us=T0_US,
        )
        home = self.path / tenant
        if not (home / bundle_name(handed)).exists():
            bundle.save(home / bundle_name(handed))
        write_handed(home, handed, alias)
        return home / bundle_name(handed)


@pytest.fixture
def out(tmp_path: Path) -> Out:
    return Out(tmp_path / "out")


@pytest.fixture
def cache(out: Out) -> ModelCache:
    return ModelCache(out.path)


def _version(cache: ModelCache, tenant: TenantId = ACME) -> str | None:
    model = cache.get(tenant)
    return None if model is None else model.version


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what it waits for is seen by looking alone
            await asyncio.sleep(0)


def _refresh(cache: ModelCache) -> None:
    asyncio.run(cache.refresh())


def test_nothing_handed_over_is_no_model(cache: ModelCache, out: Out) -> None:
    _refresh(cache)
    assert cache.get(ACME) is None
    assert cache.counts() == ModelCounts(live=0, problems=0)
    (out.path / ACME).mkdir(parents=True)
    (out.path / "Not a tenant").mkdir()
    _refresh(cache)
    assert cache.get(ACME) is None
    assert cache.status(ACME) == ModelStatus()


def test_model_is_loaded_with_all_that_scoring_needs(cache: ModelCache, out: Out) -> None:
    out.hand_over(1)
    _refresh(cache)
    model = cache.get(ACME)
    assert model is not None
    assert (model.tenant, model.version, model.digest) == (ACME, "1", model_bundle().digest)
    assert model.spec == model.scorer.spec == model.bundle.spec
    assert model.factors is None
    features = feature_matrix(model.spec, 30, 1)
    np.testing.assert_array_equal(
        model.scorer.score(features), model_bundle().scorer().score(features)
    )


def test_promoted_model_takes_the_place_of_the_old_one(cache: ModelCache, out: Out) -> None:
    for version in (1, 2):
        out.hand_over(version)
        _refresh(cache)
        assert _version(cache) == str(version)
    status = cache.status(ACME)
    assert (status.version, status.previous, status.cause) == ("2", "1", None)


def test_status_says_what_ranks_and_since_when(out: Out) -> None:
    times_us = iter((T0_US, T0_US + 1))
    cache = ModelCache(out.path, clock_us=lambda: next(times_us))
    out.hand_over(1)
    _refresh(cache)
    _refresh(cache)
    model = cache.get(ACME)
    assert model is not None
    status = cache.status(ACME)
    assert (status.scorer, status.spec_fingerprint, status.since_us) == (
        model.scorer.name,
        model.spec.fingerprint,
        T0_US,
    )
    assert cache.status(BETA) == ModelStatus()


def test_roll_back_takes_the_former_object_without_loading(cache: ModelCache, out: Out) -> None:
    path = out.hand_over(1)
    _refresh(cache)
    first = cache.get(ACME)
    out.hand_over(2)
    _refresh(cache)
    (path / "golden.npz").unlink()
    out.hand_over(1)
    _refresh(cache)
    assert cache.get(ACME) is first


def test_unchanged_file_is_not_read_again(cache: ModelCache, out: Out) -> None:
    path = out.hand_over(1)
    _refresh(cache)
    model = cache.get(ACME)
    (path / "golden.npz").unlink()
    _refresh(cache)
    assert cache.get(ACME) is model
    assert cache.status(ACME).cause is None


@pytest.mark.parametrize("damage", ["byte", "gone", "live", "path", "owner", "spec"])
def test_model_that_fails_to_load_keeps_the_old_one_and_says_so(
    cache: ModelCache, out: Out, damage: str
) -> None:
    out.hand_over(1)
    _refresh(cache)
    path = out.hand_over(2, owner=BETA if damage == "owner" else None)
    said = {
        "byte": "golden.npz is damaged",
        "gone": "cannot be read",
        "live": "live.json cannot be read",
        "path": "which is no bundle",
        "owner": "belongs to tenant beta",
        "spec": "this code computes version",
    }[damage]
    if damage == "byte":
        content = bytearray((path / "golden.npz").read_bytes())
        content[-1] ^= 1
        (path / "golden.npz").write_bytes(content)
    elif damage == "spec":
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["spec"]["version"] += 1
        (path / "manifest.json").write_text(json.dumps(manifest))
    elif damage == "gone":
        path.rename(path.with_name("elsewhere"))
    elif damage == "live":
        handed_file(out.path / ACME, "live").write_bytes(b"{")
    elif damage == "path":
        live = handed_file(out.path / ACME, "live").read_bytes()
        handed_file(out.path / ACME, "live").write_bytes(
            live.replace(b'"path":"2', b'"path":"../2')
        )
    with capture_logs() as logs:
        _refresh(cache)
    assert [(log["event"], log["tenant"]) for log in logs] == [("model_not_loaded", ACME)]
    assert said in logs[0]["problem"]
    assert _version(cache) == "1"
    assert said in (cache.status(ACME).cause or "")
    out.hand_over(3)
    _refresh(cache)
    assert (_version(cache), cache.status(ACME).cause) == ("3", None)


def test_model_that_failed_is_tried_again_after_a_while(out: Out) -> None:
    times_s = [0.0]
    cache = ModelCache(out.path, ModelCacheConfig(retry_s=30), lambda: times_s[-1])
    path = out.hand_over(1)
    path.rename(path.with_name("elsewhere"))
    _refresh(cache)
    path.with_name("elsewhere").rename(path)
    for now_s, expected in ((29.0, None), (30.0, "1")):
        times_s.append(now_s)
        _refresh(cache)
        assert _version(cache) == expected


def test_problem_of_the_loader_is_shown(cache: ModelCache, out: Out) -> None:
    out.hand_over(1)
    write_problem(out.path / ACME, 2, "ranker.ubj is damaged", T0_US)
    _refresh(cache)
    status = cache.status(ACME)
    assert (status.version, status.cause) == ("1", "version 2: ranker.ubj is damaged")
    assert (cache.counts().live, cache.counts().problems) == (1, 1)
    (out.path / ACME / "problem.json").unlink()
    _refresh(cache)
    assert cache.status(ACME).cause is None


def test_removed_tenant_is_dropped(cache: ModelCache, out: Out) -> None:
    out.hand_over(1)
    _refresh(cache)
    (out.path / ACME).rename(out.path.parent / "gone")
    _refresh(cache)
    assert cache.get(ACME) is None
    assert cache.counts() == ModelCounts(live=0, problems=0)


async def _asked(cache: ModelCache, tenant: TenantId) -> str | None:
    """The version of a model that a request asks for, once it is there."""
    await _until(lambda: cache.get(tenant) is not None)
    return _version(cache, tenant)


def test_beyond_the_limit_the_tenant_not_asked_for_longest_leaves(out: Out) -> None:
    async def ask() -> None:
        cache = ModelCache(out.path, ModelCacheConfig(tenants_max=2))
        for tenant in (ACME, BETA, GAMMA):
            out.hand_over(1, tenant)
        await cache.refresh()
        assert [_version(cache, tenant) for tenant in (BETA, ACME)] == ["1", "1"]
        await cache.refresh()
        assert cache.counts().live == 2
        assert await _asked(cache, GAMMA) == "1"
        assert cache.counts().live == 2
        assert [_version(cache, tenant) for tenant in (GAMMA, ACME)] == ["1", "1"]
        assert cache.get(BETA) is None
        assert await _asked(cache, BETA) == "1"
        await cache.stop()

    asyncio.run(ask())


def test_model_that_a_request_asks_for_is_loaded_once_and_at_once(out: Out) -> None:
    gate, loads = threading.Event(), []

    def load(home: Path, tenant: TenantId, handed: Handed, limits: BundleLimits) -> LoadedModel:
        loads.append(tenant)
        assert gate.wait(DEADLINE_S) or tenant == ACME
        return load_bundle(home, tenant, handed, limits)

    async def ask() -> None:
        cache = ModelCache(out.path, ModelCacheConfig(tenants_max=1), load=load)
        out.hand_over(1, ACME)
        out.hand_over(1, BETA)
        gate.set()
        await cache.refresh()  # ACME fills the cache
        gate.clear()
        loads.clear()
        assert not cache.loading(BETA)
        for _ in range(50):
            assert cache.get(BETA) is None
            assert cache.loading(BETA)
            assert cache.status(BETA).loading
            await asyncio.sleep(0)
        await cache.refresh()
        gate.set()
        assert await _asked(cache, BETA) == "1"
        assert loads == [BETA]
        assert not cache.loading(BETA)
        await cache.stop()

    asyncio.run(ask())


def test_memory_is_bounded_by_bytes(out: Out) -> None:
    tenants = [TenantId(f"tenant-{number}") for number in range(6)]
    for tenant in tenants:
        out.hand_over(1, tenant)
    one = model_memory_bytes(model_bundle(tenants[0]).file_bytes)

    async def ask() -> None:
        cache = ModelCache(out.path, ModelCacheConfig(bytes_max=3 * one))
        await cache.refresh()
        assert cache.counts() == ModelCounts(3, 0, 3 * one)
        out.hand_over(2, tenants[0])
        await cache.refresh()
        assert _version(cache, tenants[0]) == "2"
        assert cache.counts() == ModelCounts(3, 0, 3 * one)
        for tenant in tenants * 2:
            await _asked(cache, tenant)
            assert cache.counts() == ModelCounts(3, 0, 3 * one)
        await cache.stop()

    asyncio.run(ask())


def test_version_before_leaves_before_another_tenant_does(out: Out) -> None:
    one = model_memory_bytes(model_bundle().file_bytes)

    async def swap() -> None:
        cache = ModelCache(out.path, ModelCacheConfig(bytes_max=3 * one))
        out.hand_over(1, ACME)
        out.hand_over(1, BETA)
        await cache.refresh()
        out.hand_over(2, ACME)
        await cache.refresh()
        assert (cache.status(ACME).previous, cache.counts().memory_bytes) == ("1", 3 * one)
        out.hand_over(1, GAMMA)
        await cache.refresh()
        assert await _asked(cache, GAMMA) == "1"
        assert cache.status(ACME).previous is None
        assert cache.counts() == ModelCounts(3, 0, 3 * one)
        await cache.stop()

    asyncio.run(swap())


def test_many_tenants_are_served_from_room_for_few(out: Out) -> None:
    tenants = [TenantId(f"tenant-{number}") for number in range(100)]
    for tenant in tenants:
        out.hand_over(1, tenant)

    async def ask() -> None:
        cache = ModelCache(out.path, ModelCacheConfig(tenants_max=10))
        await cache.refresh()
        assert cache.counts().live == 10
        for tenant in tenants * 2:
            assert await _asked(cache, tenant) == "1"
            assert cache.counts().live <= 10
        await cache.stop()

    asyncio.run(ask())


def test_former_version_is_at_once_there_after_a_restart(out: Out) -> None:
    out.hand_over(1)
    out.hand_over(2)
    out.hand_over(1, alias="previous")
    cache = ModelCache(out.path)
    _refresh(cache)
    assert (_version(cache), cache.status(ACME).previous) == ("2", "1")
    out.hand_over(1)
    _refresh(cache)
    assert _version(cache) == "1"


@pytest.mark.parametrize("late", ["ends late", "never ends"])
def test_model_that_loads_too_slowly_never_replaces_a_good_one(out: Out, late: str) -> None:
    gate = threading.Event()

    def load(home: Path, tenant: TenantId, handed: Handed, limits: BundleLimits) -> LoadedModel:
        if handed.version == 2:
            gate.wait(DEADLINE_S)
        return load_bundle(home, tenant, handed, limits)

    async def swap() -> None:
        times_s = [0.0]
        config = ModelCacheConfig(load_s_max=1, retry_s=30)
        cache = ModelCache(out.path, config, lambda: times_s[-1], load=load)
        out.hand_over(1)
        out.hand_over(1, BETA)
        await cache.refresh()
        good = cache.get(ACME)
        assert good is not None
        out.hand_over(2)
        with capture_logs() as logs:
            await cache.refresh()
        assert "did not load within 1 s" in (cache.status(ACME).cause or "")
        assert [log["event"] for log in logs] == ["model_not_loaded"]
        if late == "ends late":
            gate.set()
            times_s.append(29.0)
            await cache.refresh()
            assert cache.get(ACME) is good
        times_s.append(30.0)
        out.hand_over(3, BETA)
        await cache.refresh()
        assert _version(cache, BETA) == "3", "one that hangs does not hold up others"
        if late == "never ends":
            assert cache.get(ACME) is good
        else:
            async with asyncio.timeout(DEADLINE_S):
                while _version(cache) != "2":  # it is tried again
                    await cache.refresh()
        gate.set()
        await cache.stop()

    asyncio.run(swap())


def test_model_that_is_too_large_never_replaces_a_good_one(out: Out) -> None:
    config = ModelCacheConfig(model_bytes_max=model_bundle().file_bytes)
    cache = ModelCache(out.path, config)
    out.hand_over(1)
    _refresh(cache)
    out.hand_over(2, scorer=boosted_scorer())
    _refresh(cache)
    assert _version(cache) == "1"
    assert "are allowed: train with fewer factors or trees" in (cache.status(ACME).cause or "")


def test_shadow_is_loaded_beside_the_live_model_until_it_is_withdrawn(
    cache: ModelCache, out: Out
) -> None:
    out.hand_over(2, alias="shadow")
    _refresh(cache)
    assert (cache.shadow(ACME), cache.status(ACME).shadow) == (None, None)
    out.hand_over(1)
    _refresh(cache)
    shadow = cache.shadow(ACME)
    assert shadow is not None
    assert (_version(cache), shadow.version, cache.status(ACME).shadow) == ("1", "2", "2")
    one = model_memory_bytes(model_bundle().file_bytes)
    assert cache.counts() == ModelCounts(1, 0, 2 * one)
    out.hand_over(2)
    _refresh(cache)
    assert cache.get(ACME) is shadow, "it is not loaded again"
    assert cache.shadow(ACME) is None, "a model is not on trial against itself"
    withdraw(out.path / ACME, "shadow")
    _refresh(cache)
    assert cache.counts() == ModelCounts(1, 0, 2 * one)
    out.hand_over(1)
    _refresh(cache)
    assert (_version(cache), cache.shadow(ACME)) == ("1", None)


def test_shadow_that_cannot_be_loaded_leaves_the_live_model_alone(
    cache: ModelCache, out: Out
) -> None:
    out.hand_over(1)
    (out.hand_over(2, alias="shadow") / "golden.npz").write_bytes(b"")
    with capture_logs() as logs:
        _refresh(cache)
    assert {(log["event"], log.get("alias")) for log in logs} == {
        ("model_swapped", None),
        ("model_not_loaded", "shadow"),
    }
    status = cache.status(ACME)
    assert (status.version, status.cause, status.shadow) == ("1", None, None)
    assert "golden.npz" in (status.shadow_cause or "")
    assert cache.counts().problems == 0


def test_shadow_pushes_nobody_out_of_memory(out: Out) -> None:
    one = model_memory_bytes(model_bundle().file_bytes)
    cache = ModelCache(out.path, ModelCacheConfig(bytes_max=2 * one))
    out.hand_over(1, ACME)
    out.hand_over(1, BETA)
    out.hand_over(2, BETA, alias="shadow")
    _refresh(cache)
    assert cache.counts().live == 2
    assert cache.shadow(BETA) is None
    assert "no room for it in models_bytes_max" in (cache.status(BETA).shadow_cause or "")


def test_swaps_while_scoring_give_no_error_and_no_mixture(out: Out) -> None:
    versions = range(1, 6)
    matrices = {str(seed): model_bundle(seed=seed).golden for seed in versions}

    async def score(cache: ModelCache, seen: set[str], stop: asyncio.Event) -> None:
        while not stop.is_set():
            model = cache.get(ACME)
            assert model is not None
            _check_whole(model)
            seen.add(model.version)
            await asyncio.sleep(0)

    def _check_whole(model: LoadedModel) -> None:
        golden = model.bundle.golden
        assert golden.values.tobytes() == matrices[model.version].values.tobytes()
        assert len(model.scorer.score(golden)) == len(golden)
        assert model.scorer is model.bundle.scorer()

    async def swap() -> set[str]:
        out.hand_over(1)
        cache = ModelCache(out.path, ModelCacheConfig(poll_s=0.001))
        await cache.start()
        seen: set[str] = set()
        stop = asyncio.Event()
        scoring = [asyncio.create_task(score(cache, seen, stop)) for _ in range(3)]
        for version in [*versions, 1]:
            await asyncio.to_thread(out.hand_over, version)
            await _until(lambda: _version(cache) == str(version))  # noqa: B023 - awaited here
        stop.set()
        await asyncio.gather(*scoring)
        await cache.stop()
        await cache.stop()
        return seen

    assert asyncio.run(swap()) == set(matrices)


def test_watching_survives_a_directory_that_cannot_be_read(out: Out) -> None:
    async def watch() -> str | None:
        cache = ModelCache(out.path, ModelCacheConfig(poll_s=0.001))
        out.path.touch()
        with capture_logs() as logs:
            await cache.start()
            await _until(lambda: len(logs) > 1)
        assert {log["event"] for log in logs} == {"models_not_watched"}
        out.path.unlink()
        out.hand_over(1)
        await _until(lambda: cache.get(ACME) is not None)
        await cache.stop()
        return _version(cache)

    assert asyncio.run(watch()) == "1"


_TRAINING = "{'mlflow', 'pandas', 'sklearn', 'dask', 'distributed', 'lightfm', 'sqlalchemy'}"


@pytest.mark.parametrize("scoring", [False, True])
def test_request_process_imports_nothing_of_training(tmp_path: Path, scoring: bool) -> None:
    home = tmp_path / ACME
    bundle = model_bundle(scorer=boosted_scorer(), factors=factor_table())
    version = ModelVersion(
        tenant=ACME, version=1, kind=bundle.kind, digest=bundle.digest, published_us=T0_US
    )
    bundle.save(home / bundle_name(version))
    write_handed(home, version)
    score = (
        "cache = ModelCache(Path(sys.argv[1])); asyncio.run(cache.refresh()); "
        "model = cache.get('acme'); model.scorer.score(model.bundle.golden); "
        "model.scorer.contributions(model.bundle.golden); "
    )
    code = (
        "import asyncio, sys; from pathlib import Path; "
        "from serving.imports import refuse_training_imports; refuse_training_imports(); "
        "from serving.models import ModelCache; "
        f"{score if scoring else ''}"
        f"sys.exit(', '.join({_TRAINING} & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_importing_the_cache_imports_nothing_of_training_nor_xgboost() -> None:
    code = (
        "import sys, serving.models; "
        f"sys.exit(', '.join(({_TRAINING} | {{'xgboost'}}) & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
