"""Bringing a version before the gates: in a training run, or later, with what is live by then."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from feeds.model import TenantId
from ranking.bundle import ModelBundle
from ranking.scorers.base import Scorer
from training.config import TrainingConfig
from training.errors import ExportDamaged, TrainingError
from training.evaluation.comparison import (
    ComparisonReport,
    Played,
    chronological,
    compare,
    play,
    scored,
)
from training.evaluation.counterfactual import CounterfactualReport
from training.evaluation.counterfactual_slates import compare_with_served
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

__all__ = ["Judging", "Live", "compare_versions", "gate_published", "gate_trained"]

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
    before = Judging.of(plan.export, ModelBundle.load(judged.bundle), live, config)
    test = TrainingSet.load(plan.set_path("test"))
    answered = TrainingSet.load(plan.set_path("answered test"))
    ours = scored(before.bundle, test, answered, config, "the new model")
    theirs = before.rival(ours, lambda: read_event_log(plan.export, plan.tenant))
    return before.report(ours, theirs, before.served(), judged.documents, judged_us, timer)


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
    before = Judging.of(export, ModelBundle.load(directory), live, config)
    log = read_event_log(export, tenant)
    ours = play(log, export, before.bundle, config, "the version")
    theirs = before.rival(ours, lambda: log)
    served = before.served(slates, version)
    return before.report(ours, theirs, served, documents, judged_us, timer)


def compare_versions(
    export: Path, tenant: TenantId, first: Live, second: Live, config: TrainingConfig
) -> ComparisonReport:
    """Two versions, each in a directory, on the test part of an export."""
    log = read_event_log(export, tenant)
    played = [
        play(log, export, ModelBundle.load(each.directory), config, each.name)
        for each in (first, second)
    ]
    return compare(played[0], played[1], config.evaluation, config.seed)


@dataclass(frozen=True, slots=True)
class Judging:
    """A bundle before the gates, and the live one beside it; both are loaded once."""

    export: Path
    bundle: ModelBundle
    live: Live | None
    live_bundle: ModelBundle | None
    config: TrainingConfig

    @classmethod
    def of(
        cls, export: Path, bundle: ModelBundle, live: Live | None, config: TrainingConfig
    ) -> Self:
        """The bundle as it is, the live one loaded from its directory."""
        live_bundle = ModelBundle.load(live.directory) if live else None
        return cls(export, bundle, live, live_bundle, config)

    def rival(self, ours: Played, log: Callable[[], EventLog]) -> Played:
        """What is live on the same requests; without a model, chronological."""
        if self.live is None or self.live_bundle is None:
            return chronological(ours, self.config)
        return play(log(), self.export, self.live_bundle, self.config, self.live.name)

    def served(self, slates: Path | None = None, version: int | None = None) -> tuple[Gate, Gate]:
        """What exported slates say of parity and worth; not judged where there are none."""
        tenant = self.bundle.tenant
        if slates is None and not has_slates(self.export, tenant):
            return parity_gate(None), counterfactual_gate(None)
        slates = slates or self.export
        parity = check_parity(logged_slates(slates, tenant), self._scorers(version).get)
        return parity_gate(parity), counterfactual_gate(self._compared_with_served(slates))

    def _scorers(self, version: int | None) -> dict[str, Scorer]:
        """The scorers of published versions by their numbers, as slates name them."""
        scorers = {}
        if self.live is not None and self.live_bundle is not None:
            scorers[str(self.live.version)] = self.live_bundle.scorer()
        if version is not None:
            scorers[str(version)] = self.bundle.scorer()
        return scorers

    def _compared_with_served(self, slates: Path) -> CounterfactualReport | str:
        """The estimate, or why there is none."""
        bundle, seed = self.bundle, self.config.seed
        try:
            return compare_with_served(
                slates,
                self.export,
                bundle.tenant,
                bundle.scorer(),
                factors=bundle.factors(),
                seed=seed,
            )
        except ExportDamaged:
            raise
        except TrainingError as error:  # no slate can be used: the reason is the answer
            return str(error)

    def report(
        self,
        ours: Played,
        theirs: Played,
        served: tuple[Gate, Gate],
        documents: Mapping[str, bytes],
        judged_us: int,
        timer: Timer,
    ) -> GateReport:
        """Every gate's verdict."""
        bundle, gates = self.bundle, self.config.gates
        comparison = compare(ours, theirs, self.config.evaluation, self.config.seed)
        deleted = read_deleted_users(self.export, bundle.tenant)
        return GateReport(
            tenant=bundle.tenant,
            digest=bundle.digest,
            live=self.live.version if self.live else 0,
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
