"""Bringing a version before the gates: in a training run, or later, with what is live by then."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from feeds.model import TenantId
from ranking.bundle import ModelBundle
from ranking.scorers.base import Scorer
from training.config import TrainingConfig
from training.errors import ExportDamaged, TrainingError
from training.evaluation.comparison import ComparisonReport, Played, chronological, compare, play
from training.evaluation.counterfactual import CounterfactualReport
from training.evaluation.counterfactual_slates import compare_with_served
from training.evaluation.rankings import request_ndcg
from training.events.log import EventLog, read_deleted_users, read_event_log
from training.gates.parity import check_parity
from training.gates.trained_users import TRAINED_USERS
from training.gates.verdicts import (
    Gate,
    GateReport,
    better_gate,
    counterfactual_gate,
    deleted_users_gate,
    fairness_gate,
    latency_gate,
    parity_gate,
    size_gate,
)
from training.selection import Judged
from training.sets.dataset import TrainingSet
from training.slates.logged import logged_slates
from training.slates.served import has_slates
from training.steps import SetFiles

__all__ = ["Live", "compare_versions", "gate_published", "gate_trained"]

Timer = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Live:
    """The version that is live, fetched into a directory."""

    version: int
    directory: Path

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return f"version {self.version}"


def gate_trained(
    sets: SetFiles,
    judged: Judged,
    live: Live | None,
    judged_us: int,
    timer: Timer = time.perf_counter,
) -> GateReport:
    """Gate the model of a run on the run's own test part, beside what is live."""
    plan, config = sets.plan, sets.plan.config
    bundle = ModelBundle.load(judged.bundle)
    test = TrainingSet.load(plan.set_path("test"))
    scores = bundle.scorer().score(test.columns(bundle.spec.names))
    ours = Played("the new model", test, request_ndcg(test, scores, config.evaluation.k))
    rival = ModelBundle.load(live.directory) if live else None
    theirs = _rival(lambda: read_event_log(plan.export, plan.tenant), ours, live, rival, config)
    served = _served_gates(None, plan.export, bundle, _versions(live, rival), config)
    return _report(
        plan.export, bundle, ours, theirs, judged.documents, served, live, config, judged_us, timer
    )


def gate_published(
    export: Path,
    tenant: TenantId,
    directory: Path,
    documents: Mapping[str, bytes],
    live: Live | None,
    config: TrainingConfig,
    judged_us: int,
    timer: Timer = time.perf_counter,
    *,
    version: int,
    slates: Path | None = None,
) -> GateReport:
    """Gate a bundle in a directory on the test part of an export, beside what is live.

    With exported `slates` (unset: those beside the events, where there are any), also on what was
    served: its own scores and those of the live version must come out again, and it may not be
    worse than what was served.
    """
    bundle = ModelBundle.load(directory)
    log = read_event_log(export, tenant)
    ours = play(log, bundle, config, "the version")
    rival = ModelBundle.load(live.directory) if live else None
    theirs = _rival(lambda: log, ours, live, rival, config)
    versions = _versions(live, rival) | {str(version): bundle.scorer()}
    served = _served_gates(slates, export, bundle, versions, config)
    return _report(export, bundle, ours, theirs, documents, served, live, config, judged_us, timer)


def _versions(live: Live | None, bundle: ModelBundle | None) -> dict[str, Scorer]:
    """The scorer of the live version by its number, as slates name it."""
    return {str(live.version): bundle.scorer()} if live and bundle else {}


def _served_gates(
    slates: Path | None,
    export: Path,
    bundle: ModelBundle,
    versions: Mapping[str, Scorer],
    config: TrainingConfig,
) -> tuple[Gate, Gate]:
    """What the exported slates say; not judged where there are none."""
    tenant = bundle.tenant
    if slates is None and not has_slates(export, tenant):
        return parity_gate(None), counterfactual_gate(None)
    slates = slates or export
    parity = check_parity(logged_slates(slates, tenant), versions.get)
    told: CounterfactualReport | str
    try:
        told = compare_with_served(
            slates, export, tenant, bundle.scorer(), factors=bundle.factors(), seed=config.seed
        )
    except ExportDamaged:
        raise
    except TrainingError as error:  # no slate can be used: the reason is the answer
        told = str(error)
    return parity_gate(parity), counterfactual_gate(told)


def compare_versions(
    export: Path, tenant: TenantId, first: Live, second: Live, config: TrainingConfig
) -> ComparisonReport:
    """Two versions, each in a directory, on the test part of an export."""
    log = read_event_log(export, tenant)
    played = [
        play(log, ModelBundle.load(each.directory), config, each.name) for each in (first, second)
    ]
    return compare(played[0], played[1], config.evaluation, config.seed)


def _rival(
    log: Callable[[], EventLog],
    ours: Played,
    live: Live | None,
    bundle: ModelBundle | None,
    config: TrainingConfig,
) -> Played:
    """What is live on the same requests; without a model, chronological."""
    if live is None or bundle is None:
        return chronological(ours.test, config)
    return play(log(), bundle, config, live.name)


def _report(
    export: Path,
    bundle: ModelBundle,
    ours: Played,
    theirs: Played,
    documents: Mapping[str, bytes],
    served: tuple[Gate, Gate],
    live: Live | None,
    config: TrainingConfig,
    judged_us: int,
    timer: Timer,
) -> GateReport:
    gates = config.gates
    comparison = compare(ours, theirs, config.evaluation, config.seed)
    deleted = read_deleted_users(export, bundle.tenant)
    return GateReport(
        tenant=bundle.tenant,
        digest=bundle.digest,
        live=live.version if live else 0,
        judged_us=judged_us,
        gates=(
            better_gate(comparison, gates),
            fairness_gate(comparison, gates),
            latency_gate(bundle, ours.test, gates, timer),
            size_gate(bundle, gates),
            deleted_users_gate(bundle.tenant, documents.get(TRAINED_USERS), deleted),
            *served,
        ),
    )
