"""train_tenant: the steps of a training run in order; the CLI and notebooks call it."""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from feeds.model import TenantId, check_tenant_id
from ranking.bundle import ModelBundle
from ranking.errors import ModelNotFound
from ranking.registry import Alias, ModelRegistry, ModelVersion, open_registry, wall_clock_us
from training.cluster import open_workers
from training.config import ClusterConfig, TrainingConfig
from training.errors import TenantsFailed, TrainingError
from training.evaluation.comparison import ComparisonReport
from training.evaluation.report import EvaluationReport
from training.gates.gating import Live, compare_versions, gate_published
from training.gates.promotion import promote_version
from training.gates.verdicts import GATES, GateReport
from training.minutes import Meter, within_quota
from training.run import STEPS, Telling, TenantRun, TrainingResult, place_version, train_steps
from training.selection import judge_bundle
from training.sharing import Steps, carry_out, one
from training.sources.base import Progress, no_progress
from training.steps import Plan, plan_run
from training.trainers.base import Stopwatch

__all__ = [
    "STEPS",
    "TrainingResult",
    "compare_published",
    "evaluate",
    "find_version",
    "gate",
    "place_version",
    "promote",
    "published_bundle",
    "train_all",
    "train_tenant",
]


def train_tenant(
    export: Path | str,
    tenant: str,
    *,
    out: Path | str = ".headwater/training",
    registry: str | None = None,
    promote: bool = False,
    config: TrainingConfig | None = None,
    scheduler: str | None = None,
    cluster: ClusterConfig | None = None,
    progress: Progress = no_progress,
    clock: Callable[[], int] = wall_clock_us,
    wall: Callable[[], int] = wall_clock_us,
) -> TrainingResult:
    """Train, judge and publish a model for a tenant from its exported events.

    The bundle and the report (`report.json`, `.md`, `.html`) are left in `out/<tenant>`. With a
    `registry` (as `open_registry` takes it) the bundle is published with its documents. It becomes
    live if every gate passes and `promote`, or the tenant's policy, says so; else it is put on
    trial as `shadow` if they pass.
    `scheduler` None makes a local Dask cluster, `tcp://…` uses one, `inline` runs in this process.
    `progress` is told of each of `STEPS`; `clock` dates the model, `wall` counts the tenant's
    minutes in the registry. Raises `TrainingError` or `RankingError`, `MinutesSpent` where the
    tenant has no minutes left; nothing is published then.
    """
    (result,) = train_all(
        export,
        [tenant],
        out=out,
        registry=registry,
        promote=promote,
        config=config,
        scheduler=scheduler,
        cluster=cluster,
        progress=progress,
        clock=clock,
        wall=wall,
    )
    return result


def train_all(
    export: Path | str,
    tenants: Sequence[str],
    *,
    out: Path | str = ".headwater/training",
    registry: str | None = None,
    promote: bool = False,
    config: TrainingConfig | None = None,
    scheduler: str | None = None,
    cluster: ClusterConfig | None = None,
    progress: Progress = no_progress,
    clock: Callable[[], int] = wall_clock_us,
    wall: Callable[[], int] = wall_clock_us,
) -> list[TrainingResult]:
    """Train several tenants side by side, each with a fair share of the workers' places.

    As `train_tenant`; `progress` gets the tenant's name before the step where there are several.
    The events of all are read first: where one's cannot be, none is trained. After that the others
    go on where one fails, or has no minutes left, and `TenantsFailed` has their results.
    """
    config = (config or TrainingConfig()).check()
    checked = [check_tenant_id(tenant) for tenant in tenants]
    if twice := {tenant for tenant in checked if checked.count(tenant) > 1}:
        raise TrainingError(f"tenant {min(twice)} is named twice: name each once")
    home = Path(out).resolve()
    alone = len(checked) == 1
    watch = Stopwatch()
    with ExitStack() as stack:
        opened = None
        if registry is not None:  # what is wrong with it is told before the work
            opened = stack.enter_context(contextlib.closing(open_registry(registry)))
        home.mkdir(parents=True, exist_ok=True)
        checked, failed = within_quota(opened, Path(export), checked, config.budget, wall())
        if not checked:
            raise TenantsFailed(failed, [])
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".run-", dir=home)))
        lives = {tenant: _fetch_live(opened, tenant, scratch) for tenant in checked}
        workers = stack.enter_context(open_workers(scheduler, cluster))
        meter = stack.enter_context(Meter(opened, checked, wall, config.budget.note_every_s))
        told = _beaten(progress, meter)
        telling = {name: Telling(told, "" if alone else f"{name}: ") for name in checked}
        reads: dict[str, Steps[Plan]] = {
            name: _read(Path(export).resolve(), name, scratch / name, config, telling[name])
            for name in checked
        }
        plans = dict(carry_out(workers, reads, meter.beat))
        runs: dict[str, Steps[TrainingResult]] = {
            name: train_steps(
                _readable(plans[name]),
                TenantRun(
                    tenant=name,
                    out=home / name,
                    registry=opened,
                    promote=promote,
                    live=lives[name],
                    trained_us=clock(),
                    own_workers=workers.places if alone else 0,
                    watch=watch,
                    telling=telling[name],
                ),
            )
            for name in checked
        }
        ended = {}
        for name, outcome in carry_out(workers, runs, _looking(telling.values(), meter)):
            meter.end(TenantId(name))
            ended[name] = outcome
    results, broken = _apart([ended[name] for name in checked], checked)
    if alone and broken:
        raise broken[checked[0]]
    if failed | broken:
        raise TenantsFailed(failed | broken, results)
    return results


def evaluate(
    export: Path | str,
    tenant: str,
    *,
    registry: str,
    version: int | Alias = "live",
    config: TrainingConfig | None = None,
    progress: Progress = no_progress,
) -> EvaluationReport:
    """Judge a published version on the test part of an export, beside the baselines.

    `progress` is told of the replay of its requests, which takes longest. Raises `ModelNotFound`
    where there is no such version.
    """
    name = check_tenant_id(tenant)
    with contextlib.closing(open_registry(registry)) as opened, _scratch() as scratch:
        wanted = find_version(opened, name, version)
        progress("fetch the version", 0, None)
        directory = opened.fetch(wanted, scratch / "bundle")
        used = config or TrainingConfig()
        report = judge_bundle(Path(export), tenant, directory, used, progress)
    return msgspec.structs.replace(report, model_version=wanted.version)


def gate(
    export: Path | str,
    tenant: str,
    version: int | Alias,
    *,
    registry: str,
    slates: Path | str | None = None,
    config: TrainingConfig | None = None,
    clock: Callable[[], int] = wall_clock_us,
) -> GateReport:
    """Bring a published version before the gates, with what is live now; the answer is kept.

    With exported `slates`, gates on what was served judge too. Raises `ModelNotFound`; what the
    gates say is no error.
    """
    name = check_tenant_id(tenant)
    with contextlib.closing(open_registry(registry)) as opened, _scratch() as scratch:
        wanted = find_version(opened, name, version)
        report = gate_published(
            Path(export),
            name,
            opened.fetch(wanted, scratch / "version"),
            opened.documents(wanted),
            _fetch_live(opened, name, scratch),
            (config or TrainingConfig()).check(),
            clock(),
            version=wanted.version,
            slates=None if slates is None else Path(slates),
        )
        opened.attach(wanted, {GATES: report.to_json()})
    return report


def compare_published(
    export: Path | str,
    tenant: str,
    first: int | Alias,
    second: int | Alias,
    *,
    registry: str,
    config: TrainingConfig | None = None,
) -> ComparisonReport:
    """Two published versions on the test part of an export; raises `ModelNotFound`."""
    name = check_tenant_id(tenant)
    with contextlib.closing(open_registry(registry)) as opened, _scratch() as scratch:
        fetched = []
        for place, version in (("first", first), ("second", second)):
            found = find_version(opened, name, version)
            fetched.append(Live(found.version, opened.fetch(found, scratch / place)))
        return compare_versions(
            Path(export), name, fetched[0], fetched[1], (config or TrainingConfig()).check()
        )


def promote(
    tenant: str,
    version: int | Alias,
    *,
    registry: str,
    expected: int | None = None,
    force: str = "",
) -> ModelVersion:
    """Make a published version live, as `training.gates.promotion.promote_version` allows."""
    name = check_tenant_id(tenant)
    with contextlib.closing(open_registry(registry)) as opened:
        found = find_version(opened, name, version)
        return promote_version(opened, name, found, expected=expected, force=force)


def published_bundle(
    tenant: str, version: int | Alias, *, registry: str
) -> tuple[ModelVersion, ModelBundle]:
    """A published version and its bundle; raises `ModelNotFound`."""
    name = check_tenant_id(tenant)
    with contextlib.closing(open_registry(registry)) as opened, _scratch() as scratch:
        found = find_version(opened, name, version)
        return found, ModelBundle.load(opened.fetch(found, scratch / "version"))


def _read(
    export: Path, tenant: TenantId, scratch: Path, config: TrainingConfig, telling: Telling
) -> Steps[Plan]:
    telling.step(STEPS[0])
    return (yield from one(plan_run, export, tenant, scratch, config))


def _readable(plan: Plan | Exception) -> Plan:
    """The plan; no tenant is trained if another's events cannot be read."""
    if isinstance(plan, Exception):
        raise plan
    return plan


def _looking(telling: Iterable[Telling], meter: Meter) -> Callable[[], None]:
    """What is looked at while nothing ends."""

    def look() -> None:
        meter.beat()
        for each in telling:
            each.look()

    return look


def _apart(
    ended: Sequence[TrainingResult | Exception], tenants: Sequence[TenantId]
) -> tuple[list[TrainingResult], dict[str, Exception]]:
    """The results in the order of the tenants, and why others have none."""
    results = [each for each in ended if not isinstance(each, Exception)]
    pairs = zip(tenants, ended, strict=True)
    return results, {tenant: each for tenant, each in pairs if isinstance(each, Exception)}


def _beaten(progress: Progress, meter: Meter) -> Progress:
    """Progress that counts the time as well."""

    def told(what: str, done: int, total: int | None) -> None:
        meter.beat()
        progress(what, done, total)

    return told


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="headwater-judge-") as temporary:
        yield Path(temporary)


def _fetch_live(registry: ModelRegistry | None, tenant: TenantId, scratch: Path) -> Live | None:
    """The live version in a directory of its own; None where there is none."""
    found = None if registry is None else registry.alias(tenant, "live")
    if registry is None or found is None:
        return None
    return Live(found.version, registry.fetch(found, scratch / f"{tenant}-live"))


def find_version(registry: ModelRegistry, tenant: TenantId, version: int | Alias) -> ModelVersion:
    """A version by number or alias; raises `ModelNotFound`."""
    if isinstance(version, int):
        for known in registry.versions(tenant):
            if known.version == version:
                return known
    elif (found := registry.alias(tenant, version)) is not None:
        return found
    raise ModelNotFound(
        f"tenant {tenant} has no version {version}: `headwater models list --tenant {tenant}` "
        "shows what there is"
    )
