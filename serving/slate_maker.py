"""From a query to a slate, whatever fails or takes too long on the way.

The candidates come from the engine and the tenant's activity table, the order from the tenant's
live model. Where there is no model, where it fails or where there is no time for it, the config's
fallback orders them, and by time where that fails too or the deadline is over. The slate says so in
`degraded`, and in `quality` what else was given up for lack of time (`serving.quality`): a feed is
never refused because ranking failed, or was slow.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, NamedTuple, Protocol

import numpy as np
import structlog

from feeds.engine import FeedEngine
from feeds.model import TenantId
from ranking.candidates import Candidates, Query
from ranking.scorers.expression import ExpressionScorer
from ranking.slates import Slate
from ranking.sources import NEWEST, CandidateSource, propose, proposed_max
from ranking.table import ActivityTable
from serving.activity_table import ActivityTables
from serving.configs import ActiveVersion
from serving.current_request import note_source, note_step
from serving.proposals import known_positions, proposed, source_stages
from serving.quality import (
    Deadline,
    Plan,
    QualityConfig,
    QualityFactor,
    SourceCosts,
    sentence_of,
)
from serving.rankers import HeldRankers, LiveModel
from serving.served import followed_by, repeats
from serving.settings import Settings
from serving.shadows import ShadowTrials
from serving.slate_log.writer import SlateNotes
from serving.sources import (
    EngineFollowingSource,
    PositionsSource,
    SparedSource,
    TimedSource,
    own_table,
)
from serving.telemetry import Metrics

__all__ = ["OUTCOMES", "LiveModels", "Reading", "SlateMaker", "quality_config"]

_log = structlog.get_logger(__name__)

NO_MODEL: Final = "this tenant has no live model: ordered by time"
LOADING: Final = "the model is loading: ordered by time"
NO_TABLE: Final = "the activity table is loading: ordered by time among fewer candidates"
TOO_LATE: Final = "the deadline was over before the model could score: ordered by time"
TOO_BUSY: Final = "the model was left out for lack of time: ordered by time"
FAILED: Final = "the live model failed: ordered by time"
OUTCOMES: Final = {
    NO_MODEL: "no_model",
    LOADING: "loading",
    NO_TABLE: "no_table",
    TOO_LATE: "deadline",
    TOO_BUSY: "quality",
}
_BY_TIME, _BY_EXPRESSION = "ordered by time", "ordered by the fallback expression"

MODEL_COST: Final = "model"
"""Name under which the cost of ranking by a model is held among those of the sources."""

RECENT_CANDIDATES: Final = 200
"""Newest activities that stand in for the table while it is loading."""

ALWAYS_ASKED: Final = frozenset({"editorial", "following", NEWEST})
"""Sources that no lack of time leaves out: what the app pins, what the user follows, and what is
shown where nothing was found."""


class LiveModels(Protocol):
    """The live model of each tenant (`serving.models.ModelCache`)."""

    def get(self, tenant: TenantId) -> LiveModel | None:
        """The tenant's live model, None where there is none in memory."""
        ...

    def loading(self, tenant: TenantId) -> bool:
        """Whether it is being loaded."""
        ...

    def shadow(self, tenant: TenantId) -> LiveModel | None:
        """The tenant's model on trial, None where there is none in memory."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """A read under way: who asks, what ranks, and how much it may cost.

    A slate of less than a `page` is filled up with what was served lately.
    """

    query: Query
    active: ActiveVersion
    model: LiveModel | None
    rankers: HeldRankers
    deadline: Deadline
    plan: Plan = field(default_factory=Plan)
    explain: bool = False
    page: int = 0


class _Gathered(NamedTuple):
    """What there is to rank: rows of a table, and why that is less than it should be."""

    candidates: Candidates
    table: ActivityTable
    degraded: str | None


@dataclass(frozen=True, slots=True)
class SlateMaker:
    """Makes slates. To be used on one event loop; `clock_ns` is monotonic."""

    engine: FeedEngine
    tables: ActivityTables
    models: LiveModels
    settings: Settings
    metrics: Metrics
    quality: QualityFactor
    costs: SourceCosts
    shadows: ShadowTrials | None
    slate_log: SlateNotes
    clock_ns: Callable[[], int]

    async def make(self, reading: Reading, given: Sequence[CandidateSource] | None = None) -> Slate:
        """Gather and rank, and count what happened; `given` are asked instead of the config's."""
        if not reading.plan.allows("chronological"):
            reading = _unserved(reading)  # the newest, served lately or not, in one pass
        query, began_ns = reading.query, self.clock_ns()
        sources = self._sources(reading) if given is None else self._spared(given)
        gathered = await self._gather(reading, sources)
        gather_us = (self.clock_ns() - began_ns) // 1_000
        reading = self._hurried(reading)
        slate, again = self._ranked(reading, gathered)
        self.engine.check_exists(query.tenant)  # of one deleted meanwhile nothing is kept
        self._try_shadow(reading if again is None else _unserved(reading), gathered, slate)
        outcome = OUTCOMES.get(slate.degraded, "failed") if slate.degraded else "model"
        slate = self._told(slate, reading)
        self.slate_log.note(query, slate, gathered.table)
        if gathered.degraded is None:  # else it waited for the table, which is no measure
            self.quality.note(reading.deadline.took_ms(), self.settings.deadline_ms)
            self.metrics.quality_factor.set(self.quality.factor)
        stages_us = {"gather": gather_us, **slate.timings_us}
        self.metrics.note_slate(query.kind, outcome, stages_us)
        note_step("rank", began_ns, stages_us, query.kind, outcome)
        if slate.explanation is None:
            return slate
        late = reading.deadline.late_sources
        gathering = source_stages(gathered.candidates, gather_us, late)
        stages = (*gathering, *slate.explanation.stages)
        return replace(slate, explanation=replace(slate.explanation, stages=stages))

    async def tried(self, reading: Reading) -> Slate:
        """The slate alone: nobody is served it, so nothing is counted, logged or tried."""
        gathered = await self._gather(reading, self._sources(reading))
        return self._scored(reading, gathered)

    async def loaded(self, tenant: TenantId, wait_ms: float) -> ActivityTable | None:
        """The shared table, waited for so long; None if it is not there by then."""
        table = self.tables.ready(tenant)
        if table is not None:
            return table
        try:
            await asyncio.wait_for(self.tables.get(tenant), max(wait_ms, 1.0) / 1e3)
        except TimeoutError:
            return None
        return self.tables.ready(tenant)

    def _sources(self, reading: Reading) -> tuple[CandidateSource, ...]:
        """The mix of the config within the plan, the following rows as the engine has them.

        Some source is asked in any case: a feed without candidates is none.
        """
        query, plan, factors = reading.query, reading.plan, None
        if reading.model is not None:
            factors = reading.model.factors
        cheapest = not plan.allows("chronological")
        sources: list[CandidateSource] = []
        asked, options = False, reading.active.config.feed(query.kind).sources
        for source in reading.rankers.sources(reading.active.config, query.kind, factors):
            spared = source.name in ALWAYS_ASKED
            if asked and not spared and (cheapest or not plan.allows("sources")):
                reading.deadline.late_sources.append(source.name)
                continue
            quota = min(query.limit, source.quota) if cheapest else plan.scaled(source.quota)
            if source.name == "following":
                sources.append(self._following(query, plan, source.quota, quota))
            elif source.name == "editorial":
                sources.append(SparedSource(source, self._source_failed, source.quota))
            else:
                each = SparedSource(source, self._source_failed, quota)
                timeout_ms: float = getattr(options, source.name).timeout_ms
                timed = TimedSource(each, reading.deadline, self.costs, timeout_ms)
                sources.append(timed if asked else each)
            asked = asked or source.name != "editorial"
        return tuple(sources)

    def _following(self, query: Query, plan: Plan, quota_full: int, quota: int) -> CandidateSource:
        """The user's home feed as of now, no more of it than the plan can use.

        That is half as much again as the candidates: some rows hold what was removed, or is pinned.
        """
        rows_max = plan.scaled(proposed_max(quota_full)) if plan.allows("chronological") else quota
        rows_max = min(rows_max, self.settings.candidates_max * 3 // 2)
        home = EngineFollowingSource(
            self.engine, self.settings.home_group, quota, rows_max=rows_max
        )
        return note_source(home.name, partial(home.read, query))

    def _spared(self, given: Sequence[CandidateSource]) -> list[CandidateSource]:
        """The sources; those that have yet to look for anything may fail."""
        return [
            each
            if isinstance(each, PositionsSource)
            else SparedSource(each, self._source_failed, each.quota)
            for each in given
        ]

    def _source_failed(self, name: str) -> None:
        self.metrics.source_failures.labels(name).inc()

    def _hurried(self, reading: Reading) -> Reading:
        """The read once its candidates are there: without what there is no time left for."""
        deadline = reading.deadline
        if deadline.over():
            return replace(reading, plan=reading.plan.without("model", "chronological"))
        if not self.costs.fits(MODEL_COST, deadline.left_ms()):
            return replace(reading, plan=reading.plan.without("model"))
        return reading

    def _ranked(self, reading: Reading, gathered: _Gathered) -> tuple[Slate, Candidates | None]:
        """The slate; where it is less than a page, with what was served lately, which follows."""
        query, deadline = reading.query, reading.deadline
        began_ms = deadline.took_ms()
        slate = self._scored(reading, gathered)
        if slate.model_version is not None and not reading.explain:
            self.costs.note(MODEL_COST, deadline.took_ms() - began_ms)
        missing, again = reading.page - len(slate.ranked), None
        if missing > 0:
            again = repeats(query, reading.active.config, gathered.candidates, gathered.table)
        if again is None:
            return slate, None
        rest = replace(_unserved(reading), query=replace(query, served=(), limit=missing))
        return followed_by(slate, self._scored(rest, gathered._replace(candidates=again))), again

    async def _gather(self, reading: Reading, sources: Sequence[CandidateSource]) -> _Gathered:
        """The candidates as rows of the shared table, or of one made for this request.

        The latter where the shared one is not there in time, or does not reach back to a candidate:
        then the store is read in a thread, and other requests go on.
        """
        query, plan = reading.query, reading.plan
        most = plan.scaled(self.settings.candidates_max)
        if not plan.allows("chronological"):
            most = min(query.limit, most)
        table = await self.loaded(query.tenant, reading.deadline.left_ms())
        if table is None:
            known = known_positions(sources)
            own = await asyncio.to_thread(
                own_table, self.engine, query.tenant, known, RECENT_CANDIDATES
            )
            return _Gathered(propose(sources, query, own, most), own, NO_TABLE)
        if not self._reaches(query, sources, table):
            sources = [proposed(source, query, table) for source in sources]
            known = known_positions(sources)
            table = await asyncio.to_thread(own_table, self.engine, query.tenant, known)
        return _Gathered(propose(sources, query, table, most), table, None)

    def _reaches(
        self, query: Query, sources: Sequence[CandidateSource], table: ActivityTable
    ) -> bool:
        """False if an activity that is known by its position was left out of the table."""
        if table.whole:
            return True
        positions = known_positions(sources)
        rows = table.rows(positions).tolist()
        behind = [position for position, row in zip(positions, rows, strict=True) if row < 0]
        return not any(self.engine.bodies(query.tenant, behind)) if behind else True

    def _scored(self, reading: Reading, gathered: _Gathered) -> Slate:
        """The slate by the model; by the fallback where there is none, or no time for it."""
        query, plan, model = reading.query, reading.plan, reading.model
        candidates, table, degraded = gathered
        without = LOADING if self.models.loading(query.tenant) else NO_MODEL
        if not plan.allows("chronological"):
            without = TOO_LATE
        elif model is not None and not plan.allows("model"):
            without = TOO_BUSY
        elif model is not None:
            try:
                ranker = reading.rankers.live(reading.active.config, query, model, plan)
                slate = ranker.rank(query, candidates, table, reading.explain)
            except Exception as error:  # noqa: BLE001 - whatever a model does, the feed is answered
                without = FAILED
                _log.error(
                    "model_failed",
                    tenant=query.tenant,
                    version=model.version,
                    error=type(error).__name__,
                )
            else:
                return slate if degraded is None else replace(slate, degraded=degraded)
        return replace(self._without_model(reading, gathered), degraded=degraded or without)

    def _without_model(self, reading: Reading, gathered: _Gathered) -> Slate:
        """The slate by the config's fallback; by time where that fails, or the time is over."""
        query, config, rankers = reading.query, reading.active.config, reading.rankers
        candidates, table, _ = gathered
        if reading.plan.allows("chronological"):
            try:
                ranker = rankers.fallback(config, query)
                return ranker.rank(query, candidates, table, reading.explain)
            except Exception as error:  # noqa: BLE001 - whatever it does, the feed is answered
                _log.error("fallback_failed", tenant=query.tenant, error=type(error).__name__)
            ranker = rankers.newest(config, query.kind)
        else:
            ranker = rankers.cheapest(config, query.kind)
        return ranker.rank(query, candidates, table, reading.explain)

    def _told(self, slate: Slate, reading: Reading) -> Slate:
        """The slate with its config and what was given up for lack of time, which is counted."""
        quality = reading.deadline.told(reading.plan)
        for step in quality.steps:
            self.metrics.quality_steps.labels(step).inc()
        degraded = slate.degraded
        if degraded is not None and slate.scorer == ExpressionScorer.name:
            degraded = degraded.replace(_BY_TIME, _BY_EXPRESSION)
        causes = [cause for cause in (degraded, sentence_of(quality)) if cause is not None]
        return replace(
            slate,
            config_version=reading.active.version,
            degraded="; ".join(causes) or None,
            quality=quality,
        )

    def _try_shadow(self, reading: Reading, gathered: _Gathered, live: Slate) -> None:
        """Have the tenant's model on trial rank the same candidates, after the reply.

        Not where the live ranking gave something up: there is no time for it, nor a likeness.
        """
        query = reading.query
        model = self.models.shadow(query.tenant)
        if model is None or self.shadows is None or live.degraded or not live.ranked:
            return
        if reading.plan.given_up or not self.shadows.samples(query.seed):
            return
        candidates, table, _ = gathered
        positions = table.positions(candidates.rows)  # by then, rows may be of others

        def again() -> Slate:
            rows = table.rows(positions)
            still = candidates.take(np.flatnonzero(rows >= 0))
            still = replace(still, rows=rows[rows >= 0])
            ranker = reading.rankers.live(reading.active.config, query, model, reading.plan)
            return ranker.rank(query, still, table)

        self.shadows.offer(query, live, model, again)


def quality_config(settings: Settings) -> QualityConfig:
    """When quality gives way to time, as the settings say."""
    return QualityConfig(
        factor_min=settings.quality_min,
        late_share=settings.quality_late_share,
        rise=settings.quality_rise,
        target_share=settings.quality_target_share,
    )


def _unserved(reading: Reading) -> Reading:
    """The same read, where nothing counts as served."""
    return replace(reading, query=replace(reading.query, served=()))
