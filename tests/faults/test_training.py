"""Training beside failures: a worker killed, a registry that is gone, a disk that is full.

A run ends with its reason or recovers; nothing is half published, and what is live stays.
"""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import training.run
from feeds.model import TenantId
from ranking.bundle import ModelBundle
from ranking.errors import RegistryUnavailable
from ranking.registry import ModelRegistry, open_registry
from ranking.testing_postgres import Postgres, postgres
from training import train_all, train_tenant
from training.config import (
    BoostedConfig,
    BoostedVariant,
    ClusterConfig,
    EvaluationConfig,
    FactorizationConfig,
    TrainingConfig,
)
from training.errors import ClusterError, DiskFull, TenantsFailed
from training.events.log import EventLog
from training.testing import community, events_of, log_of, write_export
from training.testing_workers import DiesOnce

CONFIG = TrainingConfig(
    factorization=FactorizationConfig(dimensions=4, epochs=3),
    boosted=BoostedConfig(variants=(BoostedVariant("boosted-3", 3),), trees_max=10),
    evaluation=EvaluationConfig(draws=50),
)
TENANTS = (TenantId("acme"), TenantId("other"))
ACME = TENANTS[0]


def made_up(tenant: str, seed: int) -> EventLog:
    return log_of(events_of(community(seed, users=24, days=20)), tenant)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export")
    for seed, tenant in enumerate(TENANTS):
        write_export(made_up(tenant, seed), out)
    return out


@pytest.fixture(scope="module")
def bundle(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of acme's that is already there."""
    out = tmp_path_factory.mktemp("before")
    return train_tenant(export, ACME, out=out, config=CONFIG, scheduler="inline").bundle


def with_live(registry: ModelRegistry, bundle: Path) -> ModelRegistry:
    version = registry.publish(ACME, bundle)
    registry.promote(ACME, version.version)
    return registry


def check_untouched(registry: ModelRegistry, bundle: Path) -> None:
    """Acme has its live version and no other, and its files are whole."""
    (version,) = registry.versions(ACME)
    live = registry.alias(ACME, "live")
    assert live == version
    assert live.digest == ModelBundle.load(bundle).digest
    assert registry.alias(ACME, "shadow") is None


def check_whole(registry: ModelRegistry, tenant: TenantId, number: int, scratch: Path) -> None:
    """The tenant's version loads, with its report and gates."""
    version = registry.versions(tenant)[0]
    assert version.version == number
    fetched = registry.fetch(version, scratch / f"{tenant}-{number}")
    assert ModelBundle.load(fetched).digest == version.digest
    assert {"report.json", "gates.json", "MODEL_CARD.md"} <= set(registry.documents(version))


@pytest.fixture
def registry(bundle: Path, tmp_path: Path) -> Iterator[ModelRegistry]:
    registry = open_registry(f"mlflow+sqlite:///{tmp_path}/mlflow.db")
    yield with_live(registry, bundle)
    registry.close()


STEPS = {
    "factors": "train_matrix",
    "replay": "build_sets",
    "rankers": "train_ranker",
    "judge": "judge_models",
}
"""The function that a worker runs in a step of a run."""


def train_both(export: Path, home: Path, step: str, deaths_max: int) -> list[TenantId]:
    """Train both tenants, a worker each, while the first worker at this step is killed.

    Returns who was trained. The others' reason is the cluster.
    """
    config = ClusterConfig(workers=2, deaths_max=deaths_max)
    marker = home / "killed"
    deadly = DiesOnce(marker, getattr(training.run, STEPS[step]))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training.run, STEPS[step], deadly)
            results = train_all(
                export,
                list(TENANTS),
                out=home / "out",
                registry=f"mlflow+sqlite:///{home}/mlflow.db",
                config=CONFIG,
                cluster=config,
            )
    except TenantsFailed as error:
        results = list(error.results)
        for reason in error.failed.values():
            assert isinstance(reason, ClusterError)
            assert "lost a step of the training" in str(reason)
            assert "nothing was published" in str(reason)
    assert marker.exists()
    return [result.tenant for result in results]


def test_a_step_that_its_worker_takes_with_it_ends_one_tenant_and_the_other_is_whole(
    export: Path, bundle: Path, registry: ModelRegistry, tmp_path: Path
) -> None:
    (trained,) = train_both(export, tmp_path, "rankers", deaths_max=1)
    if trained == ACME:
        check_whole(registry, ACME, 2, tmp_path)
        assert registry.versions(TENANTS[1]) == []
    else:
        check_whole(registry, trained, 1, tmp_path)
        check_untouched(registry, bundle)
    live = registry.alias(ACME, "live")
    assert live is not None
    assert live.version == 1


@pytest.mark.slow
@pytest.mark.parametrize("step", ["factors", "replay", "rankers", "judge"])
def test_a_step_whose_worker_is_killed_runs_again_and_both_are_trained(
    step: str, export: Path, registry: ModelRegistry, tmp_path: Path
) -> None:
    assert train_both(export, tmp_path, step, deaths_max=2) == list(TENANTS)
    check_whole(registry, ACME, 2, tmp_path)
    check_whole(registry, TENANTS[1], 1, tmp_path)
    live = registry.alias(ACME, "live")
    assert live is not None
    assert live.version == 1


def train(
    export: Path, out: Path, registry: str, progress: Callable[[str], None] = lambda _: None
) -> None:
    train_tenant(
        export,
        ACME,
        out=out,
        registry=registry,
        promote=True,
        config=CONFIG,
        scheduler="inline",
        progress=lambda what, *_: progress(what),
    )


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


def test_a_registry_that_goes_away_before_publishing_ends_the_run_and_changes_nothing(
    export: Path, bundle: Path, server: Postgres, tmp_path: Path
) -> None:
    uri = f"mlflow+{server.create('models')}#{tmp_path / 'artifacts'}"
    with_live(open_registry(uri), bundle).close()
    with ExitStack() as stack:

        def leave(what: str) -> None:
            if what == "publish":
                stack.enter_context(server.away())

        with pytest.raises(RegistryUnavailable, match="cannot be read or written"):
            train(export, tmp_path / "out", uri, leave)
    opened = open_registry(uri)
    check_untouched(opened, bundle)
    opened.close()


def test_a_registry_that_refuses_is_told_before_the_work(export: Path, tmp_path: Path) -> None:
    told: list[str] = []
    refusing = f"mlflow+postgresql://ann@127.0.0.1:1/models#{tmp_path}"
    with pytest.raises(RegistryUnavailable, match=r"127\.0\.0\.1:1/models cannot be read"):
        train(export, tmp_path / "out", refusing, told.append)
    assert told == []
    assert not (tmp_path / "out").exists()


FILE_BYTES_MAX = 16_384


@pytest.mark.parametrize("step", ["judge", "publish"])
def test_a_disk_that_takes_no_more_while_publishing_ends_the_run_and_changes_nothing(
    step: str, export: Path, bundle: Path, tmp_path: Path
) -> None:
    """By a limit of the bytes of a file, which needs no rights: the report is larger."""
    directory = tmp_path / "registry"
    registry = with_live(open_registry(f"dir:{directory}"), bundle)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(what: str) -> None:
        if what == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, limits[1]))

    try:
        with pytest.raises(DiskFull, match=r"full .*: nothing was published"):
            train(export, tmp_path / "out", f"dir:{directory}", fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    check_untouched(registry, bundle)
    assert not list(directory.rglob(".draft-*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small disk needs `mount`, and root to run it")
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "headwater-test", str(place)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=False)


@pytest.mark.parametrize("kind", ["dir", "mlflow"])
def test_a_full_disk_of_the_registry_leaves_the_live_model_as_it_is(
    kind: str, export: Path, bundle: Path, small_disk: Path, tmp_path: Path
) -> None:
    place = small_disk / "models"
    uri = f"mlflow+sqlite:///{tmp_path}/mlflow.db#{place}" if kind == "mlflow" else f"dir:{place}"
    registry = with_live(open_registry(uri), bundle)

    def fill(what: str) -> None:
        if what == "publish":
            filler = small_disk / "filler"
            free = shutil.disk_usage(small_disk).free
            filler.write_bytes(bytes(max(0, free - 4 * FILE_BYTES_MAX)))

    with pytest.raises((DiskFull, RegistryUnavailable), match="No space left"):
        train(export, tmp_path / "out", uri, fill)
    check_untouched(registry, bundle)
    (small_disk / "filler").unlink()
    train(export, tmp_path / "out", uri)  # what is left of the failed one is in nobody's way
    check_whole(registry, ACME, 2, tmp_path)
    registry.close()
