"""train_tenant: the steps of a training run in order; the CLI and notebooks call it."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from feeds.errors import FeedsError
from feeds.model import TenantId, check_tenant_id
from ranking.bundle import ModelBundle
from ranking.errors import ModelNotFound, RankingError
from ranking.registry import Alias, ModelRegistry, ModelVersion, open_registry, wall_clock_us
from training.cluster import Task, Workers, open_workers
from training.config import ClusterConfig, SearchConfig, TrainingConfig
from training.errors import TenantsFailed, TrainingError
from training.evaluation.comparison import ComparisonReport
from training.evaluation.report import REPORT, EvaluationReport, LiveReport
from training.evaluation.report_pages import rendered
from training.gates.gating import Live, compare_versions, gate_published, gate_trained
from training.gates.model_card import CARD, SIGNATURE, model_card, signature
from training.gates.promotion import promote_version
from training.gates.verdicts import GATES, GateReport
from training.minutes import Meter, within_quota
from training.selection import (
    Choice,
    Judged,
    choose_model,
    judge_bundle,
    judge_models,
    row_trainers,
)
from training.sources.base import Progress, no_progress
from training.steps import (
    Plan,
    SetFiles,
    Trained,
    build_sets,
    plan_run,
    train_factors,
    train_ranker,
)
from training.trainers.base import Stopwatch
from training.tuning.step import search_rankers

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

STEPS = ("read events", "factors", "replay", "rankers", "choose", "judge", "gates", "publish")
"""The steps of a run, in order."""

_LOOK_S = 1.0
"""Seconds between two looks at a search."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A finished run: `bundle` is the model's directory, `report` also lies at `report_path`.

    `version` is the registry's number, None where nothing was published; `promoted` says whether it
    is live now, and `gates` whether it may be.
    """

    tenant: TenantId
    bundle: Path
    report: EvaluationReport
    report_path: Path
    version: int | None
    gates: GateReport
    promoted: bool

    def as_dict(self) -> dict[str, Any]:  # Any: whatever JSON holds
        """As JSON types."""
        return {
            "tenant": self.tenant,
            "version": self.version,
            "promoted": self.promoted,
            "gates": msgspec.to_builtins(self.gates) | {"passed": self.gates.passed},
            "scorer": self.report.model,
            "training_s": round(self.report.seconds["all"], 2),
            "bundle": str(self.bundle),
            "report_path": str(self.report_path),
            "example_users": list(self.report.example_users),
            "report": self.report.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class _Run:
    """The tasks of one tenant's run after its plan, all handed in."""

    tenant: TenantId
    out: Path
    steps: tuple[Sequence[Task[object]], ...]
    rankers: Sequence[Task[object]]
    judged: Task[Judged]
    gated: Task[GateReport]
    watch: Stopwatch


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
    """Train several tenants: a task graph for each, all handed in before the first is waited for.

    As `train_tenant`; `progress` gets the tenant's name before the step where there are several.
    The events of all are read first: where one's cannot be, none is trained. After that the others
    go on where one fails, or has no minutes left, and `TenantsFailed` has their results.
    """
    config = (config or TrainingConfig()).check()
    checked = [check_tenant_id(tenant) for tenant in tenants]
    if twice := {tenant for tenant in checked if checked.count(tenant) > 1}:
        raise TrainingError(f"tenant {min(twice)} is named twice: name each once")
    home = Path(out).resolve()
    results: list[TrainingResult] = []
    alone = len(checked) == 1
    watch = Stopwatch()
    with ExitStack() as stack:
        opened = None
        if registry is not None:  # what is wrong with it is told before the work
            opened = stack.enter_context(contextlib.closing(open_registry(registry)))
        home.mkdir(parents=True, exist_ok=True)
        checked, failed = within_quota(opened, Path(export), checked, config.budget, wall())
        if not checked:
            raise TenantsFailed(failed, results)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".run-", dir=home)))
        lives = {tenant: _fetch_live(opened, tenant, scratch) for tenant in checked}
        workers = stack.enter_context(open_workers(scheduler, cluster))
        meter = stack.enter_context(Meter(opened, checked, wall, config.budget.note_every_s))
        told = _beaten(progress, meter)
        plans = [
            workers.submit(plan_run, Path(export).resolve(), tenant, scratch / tenant, config)
            for tenant in checked
        ]
        share = max(1, workers.places // len(checked))
        labels = ["" if alone else f"{tenant}: " for tenant in checked]
        for label, plan in zip(labels, plans, strict=True):
            told(f"{label}{STEPS[0]}", 0, len(STEPS))
            plan.result()  # no tenant is trained if another's events cannot be read
        runs = [
            _submit(
                workers, tenant, plan, home / tenant, config, lives[tenant], clock(), watch, share
            )
            for tenant, plan in zip(checked, plans, strict=True)
        ]
        for label, run in zip(labels, runs, strict=True):
            try:
                results.append(_finish(run, opened, promote, told, label, config.search))
            except (TrainingError, RankingError, FeedsError) as error:
                if alone:
                    raise
                failed[run.tenant] = error
            meter.end(run.tenant)
    if failed:
        raise TenantsFailed(failed, results)
    return results


def evaluate(
    export: Path | str,
    tenant: str,
    *,
    registry: str,
    version: int | Alias = "live",
    config: TrainingConfig | None = None,
) -> EvaluationReport:
    """Judge a published version on the test part of an export, beside the baselines.

    Raises `ModelNotFound` where there is no such version.
    """
    name = check_tenant_id(tenant)
    with contextlib.closing(open_registry(registry)) as opened, _scratch() as scratch:
        wanted = find_version(opened, name, version)
        directory = opened.fetch(wanted, scratch / "bundle")
        report = judge_bundle(Path(export), tenant, directory, config or TrainingConfig())
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


def _submit(
    workers: Workers,
    tenant: TenantId,
    plan: Task[Plan],
    out: Path,
    config: TrainingConfig,
    live: Live | None,
    trained_us: int,
    watch: Stopwatch,
    share: int,
) -> _Run:
    """Hand in every step of a tenant's run; each waits for those whose results it takes.

    At most `share` of them run at once, so that no tenant takes the workers from the others.
    """
    factors: Task[Trained] = workers.submit(train_factors, plan)
    sets: Task[SetFiles] = workers.submit(build_sets, plan, factors)
    rankers: list[Task[Trained]] = []
    if config.search is not None:
        rankers.append(workers.submit(search_rankers, sets, config.search))
    for trainer in row_trainers(config):
        # Each waits for the one that has its place: a tenant's share of the workers.
        before = rankers[-share : len(rankers) - share + 1] if len(rankers) >= share else []
        rankers.append(workers.submit(train_ranker, sets, trainer, *before))
    choice: Task[Choice] = workers.submit(choose_model, sets, *rankers)
    judged: Task[Judged] = workers.submit(judge_models, sets, choice, out, trained_us)
    gated: Task[GateReport] = workers.submit(gate_trained, sets, judged, live, trained_us)
    steps = ([factors], [sets], rankers, [choice], [judged], [gated])
    return _Run(tenant, out, steps, rankers, judged, gated, watch)


def _finish(
    run: _Run,
    registry: ModelRegistry | None,
    promote: bool,
    progress: Progress,
    label: str,
    searched: SearchConfig | None,
) -> TrainingResult:
    for number, (step, tasks) in enumerate(zip(STEPS[1:-1], run.steps, strict=True), 1):
        progress(f"{label}{step}", number, len(STEPS))
        for task in tasks:
            if searched is not None and tasks is run.rankers:
                _watch(task, searched, progress, label)
            task.result()
    gates = run.gated.result()
    judged = _beside_live(run.judged.result(), gates)
    progress(f"{label}{STEPS[-1]}", len(STEPS) - 1, len(STEPS))
    version, promoted = None, False
    if registry is not None:
        version, promoted = _publish(run.tenant, judged, gates, registry, promote)
    seconds = judged.report.seconds | {"all": run.watch.seconds}
    report = msgspec.structs.replace(judged.report, seconds=seconds, model_version=version)
    report.write(run.out)
    progress(f"{label}done", len(STEPS), len(STEPS))
    return TrainingResult(
        run.tenant, judged.bundle, report, run.out / REPORT, version, gates, promoted
    )


def _beside_live(judged: Judged, gates: GateReport) -> Judged:
    """With what was live, which the gates measured, in the report."""
    better = next((gate for gate in gates.gates if gate.name == "better"), None)
    if not gates.live or better is None:
        return judged
    live = LiveReport(
        version=gates.live,
        ndcg=better.figures["live_ndcg"],
        difference=better.figures["difference"],
        interval=(better.figures["low"], better.figures["high"]),
        sentence=better.reason,
    )
    return replace(judged, report=msgspec.structs.replace(judged.report, live=live))


def _beaten(progress: Progress, meter: Meter) -> Progress:
    """Progress that counts the time as well."""

    def told(what: str, done: int, total: int | None) -> None:
        meter.beat()
        progress(what, done, total)

    return told


def _watch(task: Task[object], searched: SearchConfig, progress: Progress, label: str) -> None:
    """Tell how much of the time of a search is over, until the task ends."""
    watch, whole = Stopwatch(), int(searched.seconds)
    while not task.wait(_LOOK_S):
        progress(f"{label}search for hyperparameters", min(int(watch.seconds), whole), whole)


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


def _publish(
    tenant: TenantId, judged: Judged, gates: GateReport, registry: ModelRegistry, promote: bool
) -> tuple[int, bool]:
    """Publish with all documents; live, or on trial, as the gates and the policy allow."""
    bundle = ModelBundle.load(judged.bundle)
    documents = judged.documents | {
        REPORT: judged.report.to_json(),
        GATES: gates.to_json(),
        SIGNATURE: signature(bundle),
        CARD: model_card(bundle, judged.report, gates),
        **rendered(judged.report),
    }
    notes = " ".join(judged.report.verdicts)
    version = registry.publish(tenant, judged.bundle, notes, documents)
    return version.version, place_version(registry, version, gates, promote)


def place_version(
    registry: ModelRegistry, version: ModelVersion, gates: GateReport, promote: bool
) -> bool:
    """Put a published version live, or on trial, as gates and policy allow; whether it is live."""
    if not gates.passed:
        return False
    if promote or registry.policy(version.tenant) == "gated":
        # Only in place of what it was judged against: whoever promoted meanwhile had a reason.
        registry.promote(version.tenant, version.version, gates.live)
        return True
    registry.set_shadow(version.tenant, version.version)
    return False


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
