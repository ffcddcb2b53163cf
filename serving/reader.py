"""Ranked feeds: from a user's request to a page, whatever fails on the way.

The candidates come from the engine and the tenant's activity table, the order from the tenant's
live model. Where there is no model, where it fails or where the deadline is over, the same ranker
orders by time and the answer says so in `degraded`: a feed is never refused because ranking failed.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter_ns
from typing import Final, NamedTuple, Protocol

import numpy as np
import structlog

from feeds.engine import FeedEngine
from feeds.errors import LimitExceeded
from feeds.model import FeedId, Position, TenantId, UserId, position_of
from ranking.candidates import Candidates, Feedback, FeedKind, Query, Slate, Stage
from ranking.config import RankingConfig
from ranking.fallback import fallback_scorer
from ranking.features import Factors
from ranking.pipeline import build_feedback_filters, build_ranker, build_sources
from ranking.ranker import Ranker
from ranking.scorers.base import Scorer
from ranking.scorers.expression import ExpressionScorer
from ranking.sources import CandidateSource, propose
from ranking.table import ActivityTable
from serving.activity_table import ActivityTables
from serving.cursors import PinnedSlate, SlateCursor, Slates
from serving.feedback import is_said, withdrawn
from serving.follows import HeldFollows
from serving.pages import Page, RankedPages, slate_head
from serving.ranking_configs import NoRankingConfigs, RankingConfigs, service_config
from serving.served import Served, ServedMemory, followed_by, repeats
from serving.settings import Settings
from serving.sources import EngineFollowingSource, PositionsSource, SparedSource, own_table
from serving.telemetry import Metrics

__all__ = ["FeedReader", "LiveModel", "LiveModels", "bound"]

_log = structlog.get_logger(__name__)

NO_MODEL: Final = "this tenant has no live model: ordered by time"
NO_TABLE: Final = "the activity table is loading: ordered by time among fewer candidates"
TOO_LATE: Final = "the deadline was over before the model could score: ordered by time"
FAILED: Final = "the live model failed: ordered by time"
_OUTCOMES: Final = {NO_MODEL: "no_model", NO_TABLE: "no_table", TOO_LATE: "deadline"}

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
    served: Served = field(default_factory=lambda: ServedMemory(time.monotonic, 0, 0, 0))
    _service_config: RankingConfig = field(init=False)

    def __post_init__(self) -> None:
        """Make the config of tenants that have none of their own, once."""
        object.__setattr__(self, "_service_config", service_config(self.settings))

    async def read(
        self,
        tenant: TenantId,
        user: UserId,
        kind: FeedKind,
        *,
        limit: int,
        cursor: str | None = None,
        explain: bool = False,
        exclude: Sequence[str] = (),
    ) -> Page:
        """A page of a ranked feed: the first one makes the slate, a cursor turns its pages.

        A new slate does not repeat what the user was served lately, unless there is less than a
        page of anything else. Raises `InvalidCursor`, `LimitExceeded` for too many activities to
        exclude, or `SlateExpired` where the slate of the cursor is no longer held.
        """
        page = await self._page(tenant, user, kind, limit, cursor, explain, self._excluded(exclude))
        self.served.note(tenant, user, page.shown)
        return page

    async def _page(
        self,
        tenant: TenantId,
        user: UserId,
        kind: FeedKind,
        limit: int,
        cursor: str | None,
        explain: bool,
        excluded: Collection[bytes],
    ) -> Page:
        pages = RankedPages(self.engine, self.tables)
        config = self.config(tenant)
        places = min(config.feed(kind).slate_size, self.settings.slate_size_max)
        if cursor is not None:
            place = SlateCursor.decode(cursor)
            pinned = self.slates.find(place, tenant, user, kind)
            query = replace(self._query(tenant, user, kind, places), excluded=excluded)
            gone = await self._withdrawn(query, config, pinned, place.offset)
            return pages.page(pinned, place.offset, limit, query.follows, withdrawn=gone)
        served = self.served.of(tenant, user) - {position_of(p.id) for p in config.feed(kind).pins}
        query = self._query(tenant, user, kind, places)
        query = replace(query, excluded=excluded, served=served)
        sources = self._sources(query, config)
        slate = await self._rank(query, config, sources, explain=explain, page=limit)
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
        caller: Callable[[], Mapping[str, Mapping[bytes, float]]] = dict,
    ) -> tuple[Slate, list[str]]:
        """The caller's activities in the best order, explained, and those that do not exist.

        `caller` gives numbers of its own, by name and position. Repeats count once. Raises
        `LimitExceeded`, or `InvalidCursor` for what is no activity id.
        """
        limit = self.settings.candidates_max
        if len(activities) > limit:
            raise LimitExceeded(
                f"{len(activities)} candidates, candidates_max is {limit}: ask for fewer at a time"
            )
        positions = {name: position_of(name) for name in activities}
        query = self._query(tenant, user, "personalized", len(positions))
        query = replace(query, caller=caller())
        source = PositionsSource("caller", limit, list(positions.values()))
        slate = await self._rank(query, self.config(tenant), (source,), explain=True)
        told = {place.activity_id for place in slate.ranked}
        told |= {removed.activity_id for removed in slate.removed}
        unknown = [name for name in positions if name not in told]
        return slate, unknown

    async def rank_source(
        self, tenant: TenantId, user: UserId, source: CandidateSource, limit: int
    ) -> tuple[Query, Slate]:
        """What one source proposes, filtered and ranked as the user's personalized feed is."""
        query = self._query(tenant, user, "personalized", limit)
        return query, await self._rank(query, self.config(tenant), (source,), explain=False)

    async def rank_feed(
        self,
        tenant: TenantId,
        user: UserId,
        config: RankingConfig,
        limit: int,
        served: Collection[bytes],
    ) -> tuple[Query, Slate]:
        """The personalized feed by a config, without what counts as served; nothing is held."""
        query = replace(self._query(tenant, user, "personalized", limit), served=served)
        slate = await self._rank(query, config, self._sources(query, config), explain=False)
        return query, slate

    async def table(self, tenant: TenantId) -> ActivityTable:
        """The tenant's table until the next await; one of the newest activities while it loads."""
        table = self.tables.ready(tenant)
        table = table or await self._loaded(tenant, self.settings.deadline_ms)
        if table is None:
            table = await asyncio.to_thread(own_table, self.engine, tenant, (), RECENT_CANDIDATES)
        return table

    @staticmethod
    def request_id() -> str:
        """A name that no other reply has: 128 random bits in hexadecimal."""
        return os.urandom(16).hex()

    async def _withdrawn(
        self, query: Query, config: RankingConfig, slate: PinnedSlate, offset: int
    ) -> Collection[Position]:
        """What of the slate's further places the user has taken back since it was made."""
        if not is_said(query):
            return ()
        filters = build_feedback_filters(config, query.kind)
        asked = [position_of(slate.activity_id(place)) for place in range(offset, len(slate))]
        table = self.tables.ready(query.tenant)
        if table is None or (table.rows(asked) < 0).any():
            table = await asyncio.to_thread(own_table, self.engine, query.tenant, asked)
        return withdrawn(query, filters, asked, table)

    def _excluded(self, exclude: Sequence[str]) -> Collection[bytes]:
        limit = self.settings.exclude_max
        if len(exclude) > limit:
            raise LimitExceeded(
                f"{len(exclude)} activities to exclude, exclude_max is {limit}: name fewer"
            )
        return frozenset(position_of(activity) for activity in exclude)

    def config(self, tenant: TenantId) -> RankingConfig:
        """How the tenant's feeds come about."""
        return self.configs.get(tenant) or self._service_config

    def _query(self, tenant: TenantId, user: UserId, kind: FeedKind, limit: int) -> Query:
        """The request with the user's side, read now; its seed derives from request and user."""
        request_id = self.request_id()
        seed = hashlib.blake2b(f"{request_id}:{user}".encode(), digest_size=8).digest()
        record = self.engine.user_record(tenant, user)
        return Query(
            tenant=tenant,
            user=user,
            kind=kind,
            now_us=self.clock_us(),
            limit=limit,
            request_id=request_id,
            seed=int.from_bytes(seed),
            record=record,
            follows=self.follows.of(tenant, FeedId(self.settings.home_group, user)),
            feedback=Feedback.of(record),
        )

    def _sources(self, query: Query, config: RankingConfig) -> tuple[CandidateSource, ...]:
        """The mix of the config, with the following rows as the engine has them."""
        sources: list[CandidateSource] = []
        for source in build_sources(config, query.kind):
            if source.name == "following":
                home = EngineFollowingSource(self.engine, self.settings.home_group, source.quota)
                sources.append(home.read(query))
            else:
                sources.append(SparedSource(source, self._source_failed))
        return tuple(sources)

    def _source_failed(self, name: str) -> None:
        self.metrics.source_failures.labels(name).inc()

    async def _rank(
        self,
        query: Query,
        config: RankingConfig,
        sources: Sequence[CandidateSource],
        *,
        explain: bool,
        page: int = 0,
    ) -> Slate:
        """Gather, score with the live model or by time, and count what happened.

        A slate of less than a `page` is filled up with what was served lately.
        """
        deadline_ms = min(config.feed(query.kind).deadline_ms, self.settings.deadline_ms)
        started_ns = self.clock_ns()
        gathered = await self._gather(query, sources, deadline_ms)
        gathered_ns = self.clock_ns()
        late = (gathered_ns - started_ns) / 1e6 > deadline_ms
        model = None if late else self.models.get(query.tenant)
        without = TOO_LATE if late else NO_MODEL
        slate = self._score(query, config, gathered, model, without, explain)
        missing, again = page - len(slate.ranked), None
        if missing > 0:
            again = repeats(query, config, gathered.candidates, gathered.table)
        if again is not None:
            rest = replace(query, served=(), limit=missing)
            refill = self._score(
                rest, config, gathered._replace(candidates=again), model, without, explain
            )
            slate = followed_by(slate, refill)
        gather_us = (gathered_ns - started_ns) // 1_000
        outcome = _OUTCOMES.get(slate.degraded, "failed") if slate.degraded else "model"
        self.metrics.note_slate(query.kind, outcome, {"gather": gather_us, **slate.timings_us})
        if slate.explanation is None:
            return slate
        stages = (*_source_stages(gathered.candidates, gather_us), *slate.explanation.stages)
        return replace(slate, explanation=replace(slate.explanation, stages=stages))

    async def _gather(
        self, query: Query, sources: Sequence[CandidateSource], deadline_ms: float
    ) -> _Gathered:
        """The candidates as rows of the shared table, or of one made for this request.

        The latter where the shared one is not there in time, or does not reach back to a candidate:
        then the store is read in a thread, and other requests go on.
        """
        table = self.tables.ready(query.tenant) or await self._loaded(query.tenant, deadline_ms)
        if table is None:
            known = _positions(sources)
            own = await asyncio.to_thread(
                own_table, self.engine, query.tenant, known, RECENT_CANDIDATES
            )
            return _Gathered(self._propose(sources, query, own), own, NO_TABLE)
        if not self._reaches(query, sources, table):
            sources = [_proposed(source, query, table) for source in sources]
            known = _positions(sources)
            table = await asyncio.to_thread(own_table, self.engine, query.tenant, known)
        return _Gathered(self._propose(sources, query, table), table, None)

    async def _loaded(self, tenant: TenantId, deadline_ms: float) -> ActivityTable | None:
        """The shared table, waited for until the deadline; None if it is not there by then."""
        try:
            await asyncio.wait_for(self.tables.get(tenant), deadline_ms / 1e3)
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

    def _propose(
        self, sources: Sequence[CandidateSource], query: Query, table: ActivityTable
    ) -> Candidates:
        return propose(sources, query, table, self.settings.candidates_max)

    def _score(
        self,
        query: Query,
        config: RankingConfig,
        gathered: _Gathered,
        model: LiveModel | None,
        without: str,
        explain: bool,
    ) -> Slate:
        """The slate by the model; by time where there is none, or where it fails."""
        candidates, table, degraded = gathered
        if model is not None:
            try:
                ranker = _ranker(config, query, model)
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
        slate = _ranker(config, query, None).rank(query, candidates, table, explain)
        return replace(slate, degraded=degraded or without)


def _ranker(config: RankingConfig, query: Query, model: LiveModel | None) -> Ranker:
    """The feed's ranker with the live model, or with the fallback where there is none."""
    kind = query.kind
    if model is None:
        scorer = bound(fallback_scorer(config.feed(kind).fallback), query)
        return build_ranker(config, kind, scorer)
    scorer, version = bound(model.scorer, query), str(model.version)
    return build_ranker(config, kind, scorer, factors=model.factors, model_version=version)


def bound(scorer: Scorer, query: Query) -> Scorer:
    """An expression reads the request's moment, its seed and the caller's numbers."""
    return scorer.for_query(query) if isinstance(scorer, ExpressionScorer) else scorer


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
