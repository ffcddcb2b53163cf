"""A tenant's run as the steps that workers take, from its plan to a published version."""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from feeds.model import TenantId
from ranking.bundle import ModelBundle
from ranking.registry import ModelRegistry, ModelVersion
from training.evaluation.report import REPORT, EvaluationReport, LiveReport
from training.evaluation.report_pages import rendered
from training.factor_steps import FactorCase, best_factors, prepare_factors, train_matrix
from training.factors import matrix_trainers
from training.gates.gating import Live, gate_trained
from training.gates.model_card import CARD, SIGNATURE, model_card, signature
from training.gates.verdicts import GATES, GateReport
from training.head_steps import heads_trainer, train_heads
from training.selection import Judged, choose_model, judge_models, row_trainers
from training.sharing import Step, Steps, one, telling_of_disk, together
from training.sources.base import Progress
from training.steps import Plan, SetFiles, Trained, build_sets, train_ranker
from training.trainers.base import Stopwatch
from training.tuning.step import for_factors, for_rankers, search_factors, search_rankers

__all__ = ["STEPS", "Telling", "TenantRun", "TrainingResult", "place_version", "train_steps"]

STEPS = ("read events", "factors", "replay", "rankers", "choose", "judge", "gates", "publish")
"""The steps of a run, in order."""


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


class Telling:
    """Tells of a tenant's step, and counts the seconds of a search while it goes on."""

    def __init__(self, progress: Progress, label: str) -> None:
        self._progress = progress
        self._label = label
        self._search: tuple[Stopwatch, int] | None = None

    def step(self, name: str) -> None:
        """It begins one of `STEPS`, or is done."""
        self._search = None
        done = STEPS.index(name) if name in STEPS else len(STEPS)
        self._progress(f"{self._label}{name}", done, len(STEPS))

    def search(self, seconds: float) -> None:
        """It searches for so many seconds, until the next step."""
        self._search = Stopwatch(), int(seconds)

    def look(self) -> None:
        """Tell how much of the time of a search is over."""
        if self._search is not None:
            watch, whole = self._search
            said = f"{self._label}search for hyperparameters"
            self._progress(said, min(int(watch.seconds), whole), whole)


@dataclass(frozen=True, slots=True)
class TenantRun:
    """What a tenant's run needs to know beside its plan."""

    tenant: TenantId
    out: Path
    registry: ModelRegistry | None
    promote: bool
    live: Live | None
    trained_us: int
    own_workers: int
    """Workers that no other tenant waits for; 0 where several are trained together."""
    watch: Stopwatch
    telling: Telling


def train_steps(plan: Plan, run: TenantRun) -> Steps[TrainingResult]:
    """The steps of a tenant's run after its plan, as workers take them; publishing is ours."""
    run.telling.step("factors")
    case = yield from one(prepare_factors, plan)
    tried = yield from together(_factor_steps(case, run.telling))
    factors = best_factors(tried, plan.config.evaluation.k)
    run.telling.step("replay")
    sets = yield from one(build_sets, plan, factors, tried)
    run.telling.step("rankers")
    rankers = yield from together(_ranker_steps(sets, run))
    run.telling.step("choose")
    choice = yield from one(choose_model, sets, *rankers)
    run.telling.step("judge")
    judged = yield from one(judge_models, sets, choice, run.out, run.trained_us)
    run.telling.step("gates")
    gates = yield from one(gate_trained, sets, judged, run.live, run.trained_us)
    run.telling.step("publish")
    result = telling_of_disk(_publish, run, _beside_live(judged, gates), gates)
    run.telling.step("done")
    return result


def _factor_steps(case: FactorCase, telling: Telling) -> list[Step[Trained]]:
    """A step a trainer of factors, and the search before them: it takes longest."""
    config = case.plan.config
    trainers = matrix_trainers(config) if case.enough else ()
    steps = [Step(train_matrix, (case, trainer)) for trainer in trainers]
    if config.search is not None and steps:
        search = for_factors(config.search)
        telling.search(search.seconds)
        steps.insert(0, Step(search_factors, (case, search)))
    return steps


def _ranker_steps(sets: SetFiles, run: TenantRun) -> list[Step[Trained]]:
    """A step a ranker, and the search before them."""
    config = sets.plan.config
    rows_min = config.boosted.distributed_rows_min
    many = rows_min is not None and sets.rows >= rows_min
    trainers = row_trainers(config, on_all_workers=many and run.own_workers > 1)
    steps = [Step(train_ranker, (sets, trainer)) for trainer in trainers]
    if config.search is not None and trainers:
        spent_s = sum(each.figures["seconds"] for each in sets.tried if each.documents)
        search = for_rankers(config.search, spent_s)
        run.telling.search(search.seconds)
        steps.insert(0, Step(search_rankers, (sets, search)))
    if "heads" in config.trainers:
        steps.append(Step(train_heads, (sets, heads_trainer(config))))
    return steps


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


def _publish(run: TenantRun, judged: Judged, gates: GateReport) -> TrainingResult:
    """Leave the report on disk, and publish where there is a registry.

    The report is written first: a disk that is full ends the run before there is a version.
    """
    judged.report.write(run.out)
    version, promoted = None, False
    if run.registry is not None:
        said = " ".join(judged.report.verdicts)
        documents = _documents(judged, gates)
        published = run.registry.publish(run.tenant, judged.bundle, said, documents)
        version = published.version
        promoted = place_version(run.registry, published, gates, run.promote)
    seconds = judged.report.seconds | {"all": run.watch.seconds}
    report = msgspec.structs.replace(judged.report, seconds=seconds, model_version=version)
    with contextlib.suppress(OSError):  # what was written first is whole, but for these two
        report.write(run.out)
    return TrainingResult(
        run.tenant, judged.bundle, report, run.out / REPORT, version, gates, promoted
    )


def _documents(judged: Judged, gates: GateReport) -> dict[str, bytes]:
    """All that goes with a version."""
    bundle = ModelBundle.load(judged.bundle)
    return judged.documents | {
        REPORT: judged.report.to_json(),
        GATES: gates.to_json(),
        SIGNATURE: signature(bundle),
        CARD: model_card(bundle, judged.report, gates),
        **rendered(judged.report),
    }


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
