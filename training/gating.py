"""Bringing a version before the gates: in a training run, or later, with what is live by then."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feeds.model import TenantId
from ranking.bundle import ModelBundle
from training.comparison import ComparisonReport, Played, chronological, compare, play
from training.config import TrainingConfig
from training.counterfactual_slates import compare_with_served
from training.dataset import TrainingSet
from training.errors import ExportDamaged, TrainingError
from training.evaluation import request_ndcg
from training.event_log import EventLog, read_deleted_users, read_event_log
from training.gates import (
    Gate,
    GateReport,
    better_gate,
    counterfactual_gate,
    deleted_users_gate,
    fairness_gate,
    latency_gate,
    parity_gate,
    size_gate,
    unjudged,
)
from training.parity import parity_of
from training.selection import Judged
from training.served import has_slates
from training.steps import SetFiles
from training.trained_users import TRAINED_USERS

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
    theirs = _rival(lambda: read_event_log(plan.export, plan.tenant), ours, live, config)
    return _report(
        plan.export, bundle, ours, theirs, judged.documents, live, config, judged_us, timer
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
) -> GateReport:
    """Gate a bundle in a directory on the test part of an export, beside what is live."""
    bundle = ModelBundle.load(directory)
    log = read_event_log(export, tenant)
    ours = play(log, bundle, config, "the version")
    theirs = _rival(lambda: log, ours, live, config)
    return _report(export, bundle, ours, theirs, documents, live, config, judged_us, timer)


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
    log: Callable[[], EventLog], ours: Played, live: Live | None, config: TrainingConfig
) -> Played:
    """What is live on the same requests; without a model, chronological."""
    if live is None:
        return chronological(ours.test, config)
    return play(log(), ModelBundle.load(live.directory), config, live.name)


def _report(
    export: Path,
    bundle: ModelBundle,
    ours: Played,
    theirs: Played,
    documents: Mapping[str, bytes],
    live: Live | None,
    config: TrainingConfig,
    judged_us: int,
    timer: Timer,
) -> GateReport:
    tenant, gates = bundle.tenant, config.gates
    comparison = compare(ours, theirs, config.evaluation, config.seed)
    deleted = read_deleted_users(export, tenant)
    return GateReport(
        tenant=tenant,
        digest=bundle.digest,
        live=live.version if live else 0,
        judged_us=judged_us,
        gates=(
            better_gate(comparison, gates),
            fairness_gate(comparison, gates),
            _counterfactual(export, bundle, config),
            _parity(export, tenant, live),
            latency_gate(bundle, ours.test, gates, timer),
            size_gate(bundle, gates),
            deleted_users_gate(tenant, documents.get(TRAINED_USERS), deleted),
        ),
    )


def _counterfactual(export: Path, bundle: ModelBundle, config: TrainingConfig) -> Gate:
    """By the slates beside the events, where there are any; factors are those that were served."""
    name, tenant = "counterfactual", bundle.tenant
    if not has_slates(export, tenant):
        return unjudged(name, _NO_SLATES.format(tenant=tenant))
    try:
        report = compare_with_served(
            export, export, tenant, bundle.scorer(), factors=bundle.factors(), seed=config.seed
        )
    except ExportDamaged:
        raise
    except TrainingError as error:  # no slate can be used
        return unjudged(name, f"{error}.")
    return counterfactual_gate(report)


def _parity(export: Path, tenant: TenantId, live: Live | None) -> Gate:
    if live is None:
        return unjudged("parity", "no version is live, so none was served.")
    if not has_slates(export, tenant):
        return unjudged("parity", _NO_SLATES.format(tenant=tenant))
    scorer = ModelBundle.load(live.directory).scorer()
    return parity_gate(parity_of(export, tenant, scorer, live.version))


_NO_SLATES: Final = (
    "there are no slates beside the events: `headwater slates export --tenant {tenant}` into the "
    "same directory."
)
