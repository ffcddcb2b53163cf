"""Ranked feeds: from a user's request to a page, whatever fails on the way.

The candidates come from the engine and the tenant's activity table, the order from the tenant's
live model. Where there is no model, where it fails or where there is no time for it, the config's
fallback orders them, and by time where that fails too or the deadline is over. The answer says so
in `degraded`, and in `quality` what else was given up for lack of time (`serving.quality`): a feed
is never refused because ranking failed, or was slow.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter_ns
from typing import Final, NamedTuple, Protocol

import numpy as np
import structlog

from feeds.engine import FeedEngine
from feeds.errors import LimitExceeded
from feeds.model import FeedId, Position, TenantId, UserId, position_of
from ranking.candidates import Candidates, FeedKind, Query, Slate, SlateQuality, Stage
from ranking.config import RankingConfig
from ranking.features import Factors
from ranking.scorers.base import Scorer
from ranking.scorers.expression import ExpressionScorer
from ranking.sources import CandidateSource, propose, proposed
from ranking.table import ActivityTable
from serving.activity_table import ActivityTables
from serving.cursors import PinnedSlate, SlateCursor, Slates
from serving.follows import HeldFollows
from serving.pages import Page, RankedPages, slate_head
from serving.quality import (
    NO_LIMIT,
    Deadline,
    Plan,
    QualityConfig,
    QualityFactor,
    SourceCosts,
    TimeGiven,
    sentence_of,
)
from serving.rankers import HeldRankers
from serving.ranking_configs import NoRankingConfigs, RankingConfigs, service_config
from serving.settings import Settings
from serving.sources import (
    EngineFollowingSource,
    PositionsSource,
    SparedSource,
    TimedSource,
    own_table,
)
from serving.telemetry import Metrics

__all__ = ["FeedReader", "LiveModel", "LiveModels"]

_log = structlog.get_logger(__name__)

NO_MODEL: Final = "this tenant has no live model: ordered by time"
NO_TABLE: Final = "the activity table is loading: ordered by time among fewer candidates"
TOO_LATE: Final = "the deadline was over before the model could score: ordered by time"
TOO_BUSY: Final = "the model was left out for lack of time: ordered by time"
FAILED: Final = "the live model failed: ordered by time"
_OUTCOMES: Final = {
    NO_MODEL: "no_model",
    NO_TABLE: "no_table",
    TOO_LATE: "deadline",
    TOO_BUSY: "quality",
}
_BY_TIME, _BY_EXPRESSION = "ordered by time", "ordered by the fallback expression"

MODEL_COST: Final = "model"
"""Name under which the cost of ranking by a model is held among those of the sources."""

RECENT_CANDIDATES: Final = 200
"""Newest activities that stand in for the table while it is loading."""


class LiveModel(Protocol):
    """What ranks a tenant's feeds (`serving.models.LoadedModel`). Immutable."""

    @property
    def version(self) -> object:
        """Which version of the model it is."""
        ...

    @property
    def scorer(self) -> Scorer:
        """What scores."""
        ...

    @property
    def factors(self) -> Factors | None:
        """The factors that its features need."""
        ...


class LiveModels(Protocol):
    """The live model of each tenant (`serving.models.ModelCache`)."""

    def get(self, tenant: TenantId) -> LiveModel | None:
        """The tenant's live model, None where there is none."""
        ...


class _Gathered(NamedTuple):
    """What there is to rank: rows of a table, and why that is less than it should be."""

    candidates: Candidates
    table: ActivityTable
    degraded: str | None


@dataclass(frozen=True, slots=True)
class FeedReader:
    """Reads ranked feeds. To be used on one event loop.

    `clock_us` is the service's time; `clock_ns` is monotonic, for deadlines and stage times.
    """

    engine: FeedEngine
    tables: ActivityTables
    follows: HeldFollows
    models: LiveModels
    slates: Slates
    settings: Settings
    metrics: Metrics
    clock_us: Callable[[], int]
    clock_ns: Callable[[], int] = perf_counter_ns
    configs: RankingConfigs = field(default_factory=NoRankingConfigs)
    rankers: HeldRankers = field(default_factory=HeldRankers)
    _service_config: RankingConfig = field(init=False)
    _quality: QualityFactor = field(init=False)
    _costs: SourceCosts = field(init=False)

    def __post_init__(self) -> None:
        """Make the config of tenants that have none of their own, and the worker's factor, once."""
        object.__setattr__(self, "_service_config", service_config(self.settings))
        limits = QualityConfig(
            factor_min=self.settings.quality_min,
            late_share=self.settings.quality_late_share,
            rise=self.settings.quality_rise,
            target_share=self.settings.quality_target_share,
        )
        object.__setattr__(self, "_quality", QualityFactor(limits))
        object.__setattr__(self, "_costs", SourceCosts(limits))

    async def read(
        self,
        tenant: TenantId,
        user: UserId,
        kind: FeedKind,
        *,
        limit: int,
        cursor: str | None = None,
        explain: bool = False,
        time: TimeGiven = NO_LIMIT,
    ) -> Page:
        """A page of a ranked feed: the first one makes the slate, a cursor turns its pages.

        `time` is what the request says of its time. Raises `InvalidCursor`, or `SlateExpired` where
        the slate of the cursor is no longer held.
        """
        pages = RankedPages(self.engine, self.tables, self.follows, self.settings.home_group)
        if cursor is not None:
            place = SlateCursor.decode(cursor)
            pinned = self.slates.find(place, tenant, user, kind)
            return pages.page(pinned, place.offset, limit)
        config = self._config(tenant)
        deadline = self._deadline(config, kind, time)
        plan = self._plan(deadline)
        places = min(config.feed(kind).slate_size, self.settings.slate_size_max)
        query = self._query(tenant, user, kind, places)
        sources = self._sources(query, config, deadline, plan)
        slate = await self._rank(query, config, sources, deadline, plan, explain=explain)
        pinned = PinnedSlate.of(slate, slate_head(slate))
        page = pages.page(pinned, 0, limit, query.follows, slate)
        if page.next is not None:
            self.slates.pin(pinned)
            self.metrics.slates.set(len(self.slates))
        return page

    async def rank(
        self,
        tenant: TenantId,
        user: UserId,
        activities: Sequence[str],
        *,
        explain: bool = False,
        time: TimeGiven = NO_LIMIT,
    ) -> tuple[Slate, list[str]]:
        """The caller's activities in the best order, and those that do not exist.

        Repeats count once. Raises `LimitExceeded`, or `InvalidCursor` for what is no activity id.
        """
        limit = self.settings.candidates_max
        if len(activities) > limit:
            raise LimitExceeded(
                f"{len(activities)} candidates, candidates_max is {limit}: ask for fewer at a time"
            )
        positions = {name: position_of(name) for name in activities}
        config = self._config(tenant)
        deadline = self._deadline(config, "personalized", time)
        plan = self._plan(deadline).whole()
        query = self._query(tenant, user, "personalized", len(positions))
        source = PositionsSource("caller", limit, list(positions.values()))
        slate = await self._rank(query, config, (source,), deadline, plan, explain=True)
        told = {place.activity_id for place in slate.ranked}
        told |= {removed.activity_id for removed in slate.removed}
        unknown = [name for name in positions if name not in told]
        return slate if explain else replace(slate, explanation=None), unknown

    def _config(self, tenant: TenantId) -> RankingConfig:
        return self.configs.get(tenant) or self._service_config

    def _query(self, tenant: TenantId, user: UserId, kind: FeedKind, limit: int) -> Query:
        """The request with the user's side, read now; its seed derives from request and user."""
        request_id = os.urandom(16).hex()
        seed = hashlib.blake2b(f"{request_id}:{user}".encode(), digest_size=8).digest()
        return Query(
            tenant=tenant,
            user=user,
            kind=kind,
            now_us=self.clock_us(),
            limit=limit,
            request_id=request_id,
            seed=int.from_bytes(seed),
            record=self.engine.user_record(tenant, user),
            follows=self.follows.of(tenant, FeedId(self.settings.home_group, user)),
        )

    def _deadline(self, config: RankingConfig, kind: FeedKind, time: TimeGiven) -> Deadline:
        """The shortest of what request, config and settings allow, from when the request came."""
        limit_ms = min(config.feed(kind).deadline_ms, self.settings.deadline_ms)
        if time.deadline_ms is not None:
            limit_ms = min(limit_ms, time.deadline_ms)
        began_ns = self.clock_ns() if time.began_ns is None else time.began_ns
        return Deadline(self.clock_ns, limit_ms, began_ns)

    def _plan(self, deadline: Deadline) -> Plan:
        """What the worker's factor allows; the cheapest answer where no time is left, or given."""
        plan = self._quality.plan()
        return plan.without("model", "chronological") if deadline.over() else plan

    def _sources(
        self, query: Query, config: RankingConfig, deadline: Deadline, plan: Plan
    ) -> tuple[CandidateSource, ...]:
        """The mix of the config within the plan, the following rows as the engine has them.

        The first source is asked in any case: a feed without candidates is none.
        """
        sources: list[CandidateSource] = []
        cheapest = not plan.allows("chronological")
        for source in self.rankers.sources(config, query.kind):
            if sources and (cheapest or not plan.allows("sources")):
                break
            quota = min(query.limit, source.quota) if cheapest else plan.scaled(source.quota)
            if source.name == "following":
                rows_max = quota if cheapest else plan.scaled(proposed(source.quota))
                home = EngineFollowingSource(
                    self.engine, self.settings.home_group, quota, rows_max=rows_max
                )
                sources.append(home.read(query))
                continue
            spared = SparedSource(source, self._source_failed, quota)
            timed = TimedSource(spared, deadline, self._costs)
            sources.append(timed if sources else spared)
        return tuple(sources)

    def _source_failed(self, name: str) -> None:
        self.metrics.source_failures.labels(name).inc()

    async def _rank(
        self,
        query: Query,
        config: RankingConfig,
        sources: Sequence[CandidateSource],
        deadline: Deadline,
        plan: Plan,
        *,
        explain: bool,
    ) -> Slate:
        """Gather, score with the live model or without, and count what happened."""
        started_ns = self.clock_ns()
        gathered = await self._gather(query, sources, deadline, plan)
        gather_us = (self.clock_ns() - started_ns) // 1_000
        model = self.models.get(query.tenant)
        if deadline.over():
            plan = plan.without("model", "chronological")
        elif not self._costs.fits(MODEL_COST, deadline.left_ms()):
            plan = plan.without("model")
        scored_ms = deadline.took_ms()
        slate = self._score(query, config, gathered, model, plan, explain)
        if slate.model_version is not None and not explain:
            self._costs.note(MODEL_COST, deadline.took_ms() - scored_ms)
        outcome = _OUTCOMES.get(slate.degraded, "failed") if slate.degraded else "model"
        self.metrics.note_slate(query.kind, outcome, {"gather": gather_us, **slate.timings_us})
        slate = self._told(slate, deadline.told(plan))
        if gathered.degraded is None:  # else it waited for the table, which is no measure
            self._quality.note(deadline.took_ms(), self.settings.deadline_ms)
            self.metrics.quality_factor.set(self._quality.factor)
        if slate.explanation is None:
            return slate
        stages = (*_source_stages(gathered.candidates, gather_us), *slate.explanation.stages)
        return replace(slate, explanation=replace(slate.explanation, stages=stages))

    def _told(self, slate: Slate, quality: SlateQuality) -> Slate:
        """The slate with what was given up for lack of time, which is counted."""
        for step in quality.steps:
            self.metrics.quality_steps.labels(step).inc()
        degraded = slate.degraded
        if degraded is not None and slate.scorer == ExpressionScorer.name:
            degraded = degraded.replace(_BY_TIME, _BY_EXPRESSION)
        causes = [cause for cause in (degraded, sentence_of(quality)) if cause is not None]
        return replace(slate, degraded="; ".join(causes) or None, quality=quality)

    async def _gather(
        self, query: Query, sources: Sequence[CandidateSource], deadline: Deadline, plan: Plan
    ) -> _Gathered:
        """The candidates as rows of the shared table, or of one made for this request.

        The latter where the shared one is not there in time, or does not reach back to a candidate:
        then the store is read in a thread, and other requests go on.
        """
        most = plan.scaled(self.settings.candidates_max)
        if not plan.allows("chronological"):
            most = min(query.limit, most)
        table = self.tables.ready(query.tenant) or await self._loaded(query.tenant, deadline)
        if table is None:
            known = _positions(sources)
            own = await asyncio.to_thread(own_table, self.engine, query, known, RECENT_CANDIDATES)
            return _Gathered(propose(sources, query, own, most), own, NO_TABLE)
        if not self._reaches(query, sources, table):
            sources = [_proposed(source, query, table) for source in sources]
            table = await asyncio.to_thread(own_table, self.engine, query, _positions(sources))
        return _Gathered(propose(sources, query, table, most), table, None)

    async def _loaded(self, tenant: TenantId, deadline: Deadline) -> ActivityTable | None:
        """The shared table, waited for until the deadline; None if it is not there by then."""
        try:
            await asyncio.wait_for(self.tables.get(tenant), max(deadline.left_ms(), 1.0) / 1e3)
        except TimeoutError:
            return None
        return self.tables.ready(tenant)

    def _reaches(
        self, query: Query, sources: Sequence[CandidateSource], table: ActivityTable
    ) -> bool:
        """False if an activity that is known by its position was left out of the table."""
        if table.whole:
            return True
        positions = _positions(sources)
        rows = table.rows(positions).tolist()
        behind = [position for position, row in zip(positions, rows, strict=True) if row < 0]
        return not any(self.engine.bodies(query.tenant, behind)) if behind else True

    def _score(
        self,
        query: Query,
        config: RankingConfig,
        gathered: _Gathered,
        model: LiveModel | None,
        plan: Plan,
        explain: bool,
    ) -> Slate:
        """The slate by the model; by the fallback where there is none, or where it fails."""
        candidates, table, degraded = gathered
        without = NO_MODEL
        if model is not None and plan.allows("model"):
            ranker = self.rankers.live(config, query.kind, model, plan)
            try:
                slate = ranker.rank(query, candidates, table, explain)
            except Exception as error:  # noqa: BLE001 - whatever a model does, the feed is answered
                without = FAILED
                _log.error(
                    "model_failed",
                    tenant=query.tenant,
                    version=model.version,
                    error=type(error).__name__,
                )
            else:
                return replace(slate, degraded=degraded)
        elif model is not None:
            without = TOO_BUSY if plan.allows("chronological") else TOO_LATE
        slate = self._without_model(query, config, gathered, plan, explain)
        return replace(slate, degraded=degraded or without)

    def _without_model(
        self, query: Query, config: RankingConfig, gathered: _Gathered, plan: Plan, explain: bool
    ) -> Slate:
        """The slate by the config's fallback; by time where that fails, or the time is over."""
        if plan.allows("chronological"):
            try:
                ranker = self.rankers.fallback(config, query)
                return ranker.rank(query, gathered.candidates, gathered.table, explain)
            except Exception as error:  # noqa: BLE001 - whatever it does, the feed is answered
                _log.error("fallback_failed", tenant=query.tenant, error=type(error).__name__)
        ranker = self.rankers.newest(config, query.kind)
        return ranker.rank(query, gathered.candidates, gathered.table, explain)


def _positions(sources: Sequence[CandidateSource]) -> list[Position]:
    """The activities that sources know by position, each once."""
    known = [source.positions for source in sources if isinstance(source, PositionsSource)]
    return list(dict.fromkeys(position for positions in known for position in positions))


def _proposed(source: CandidateSource, query: Query, table: ActivityTable) -> PositionsSource:
    """The source's proposal, held by positions, so that it can be ranked in another table."""
    if isinstance(source, PositionsSource):
        return source
    rows = source.propose(query, table)[: source.quota]
    return PositionsSource(source.name, source.quota, table.positions(rows))


def _source_stages(candidates: Candidates, gather_us: int) -> list[Stage]:
    """What the gathering took, and how many candidates each source added."""
    counts = np.bincount(candidates.source, minlength=len(candidates.sources)).tolist()
    return [
        Stage("gather", len(candidates), len(candidates), gather_us),
        *(
            Stage(f"source_{name}", count, count, 0)
            for name, count in zip(candidates.sources, counts, strict=True)
        ),
    ]
