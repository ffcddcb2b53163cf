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
from functools import partial
from time import perf_counter_ns
from typing import Final, NamedTuple, Protocol

import numpy as np
import structlog

from feeds.engine import FeedEngine
from feeds.errors import LimitExceeded
from feeds.model import FeedId, Position, TenantId, UserId, position_of
from ranking.candidates import Candidates, Feedback, FeedKind, Query, Slate
from ranking.config import RankingConfig
from ranking.fallback import bound, fallback_scorer
from ranking.features import Factors
from ranking.pipeline import build_feedback_filters, build_ranker, build_sources
from ranking.ranker import Ranker
from ranking.scorers.base import Scorer
from ranking.sources import CandidateSource, propose
from ranking.table import ActivityTable
from serving.activity_table import ActivityTables
from serving.configs import ActiveVersion, RankingConfigs
from serving.current_request import note_source, note_step
from serving.cursors import PinnedSlate, SlateCursor, Slates
from serving.feedback import is_said, withdrawn
from serving.follows import HeldFollows
from serving.pages import Page, RankedPages, slate_head
from serving.proposals import known_positions, proposed, source_stages
from serving.served import Served, ServedMemory, followed_by, repeats
from serving.served_requests import RecentRequests, ServedRequest
from serving.settings import Settings
from serving.shadows import ShadowTrials
from serving.slate_log.writer import NoSlateLog, SlateNotes
from serving.sources import EngineFollowingSource, PositionsSource, SparedSource, own_table
from serving.telemetry import Metrics

__all__ = ["FeedReader", "LiveModel", "LiveModels", "bound"]

_log = structlog.get_logger(__name__)

NO_MODEL: Final = "this tenant has no live model: ordered by time"
LOADING: Final = "the model is loading: ordered by time"
NO_TABLE: Final = "the activity table is loading: ordered by time among fewer candidates"
TOO_LATE: Final = "the deadline was over before the model could score: ordered by time"
FAILED: Final = "the live model failed: ordered by time"
_OUTCOMES: Final = {
    NO_MODEL: "no_model",
    LOADING: "loading",
    NO_TABLE: "no_table",
    TOO_LATE: "deadline",
}

TRIED_WAIT_MS: Final = 30_000.0
"""Milliseconds that a read which nobody waits for as a feed gives the table to load."""

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
        """The tenant's live model, None where there is none in memory."""
        ...

    def loading(self, tenant: TenantId) -> bool:
        """Whether it is being loaded."""
        ...

    def shadow(self, tenant: TenantId) -> LiveModel | None:
        """The tenant's model on trial, None where there is none in memory."""
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
    configs: RankingConfigs
    recent: RecentRequests
    clock_ns: Callable[[], int] = perf_counter_ns
    served: Served = field(default_factory=lambda: ServedMemory(time.monotonic, 0, 0, 0))
    shadows: ShadowTrials | None = None
    slate_log: SlateNotes = field(default_factory=NoSlateLog)

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
        self.engine.tenant(tenant)  # of one that was deleted meanwhile nothing is kept
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
        active = self.configs.of(tenant)
        config, places = active.config, self._places(active.config, kind)
        if cursor is not None:
            place = SlateCursor.decode(cursor)
            pinned = self.slates.find(place, tenant, user, kind)
            query = replace(self._query(tenant, user, kind, places), excluded=excluded)
            gone = await self._withdrawn(query, config, pinned, place.offset)
            return pages.page(pinned, place.offset, limit, query.follows, withdrawn=gone)
        model = self.models.get(tenant)
        served = self.served.of(tenant, user) - {position_of(p.id) for p in config.feed(kind).pins}
        query = self._query(tenant, user, kind, places)
        query = replace(query, excluded=excluded, served=served)
        sources = self._sources(query, config, model)
        slate = await self._rank(query, active, model, sources, explain=explain, page=limit)
        self.recent.note(tenant, ServedRequest(user, kind, query.now_us, query.seed))
        pinned = PinnedSlate.of(slate, slate_head(slate))
        began_ns = self.clock_ns()
        page = pages.page(pinned, 0, limit, query.follows, slate)
        note_step("hydrate", began_ns, {"hydrate": (self.clock_ns() - began_ns) // 1_000})
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
        active, model = self.configs.of(tenant), self.models.get(tenant)
        slate = await self._rank(query, active, model, (source,), explain=True)
        told = {place.activity_id for place in slate.ranked}
        told |= {removed.activity_id for removed in slate.removed}
        unknown = [name for name in positions if name not in told]
        return slate, unknown

    async def rank_source(
        self, tenant: TenantId, user: UserId, source: CandidateSource, limit: int
    ) -> tuple[Query, Slate]:
        """What one source proposes, filtered and ranked as the user's personalized feed is."""
        query = self._query(tenant, user, "personalized", limit)
        active, model = self.configs.of(tenant), self.models.get(tenant)
        return query, await self._rank(query, active, model, (source,), explain=False)

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
        active, model = ActiveVersion(0, config), self.models.get(tenant)
        sources = self._sources(query, config, model)
        return query, await self._rank(query, active, model, sources, explain=False)

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

    async def try_config(
        self, tenant: TenantId, request: ServedRequest, config: RankingConfig
    ) -> Slate:
        """The slate of an earlier request by any config, as of now; explained.

        Nobody is served it: it is neither counted nor held, and waits for the table if it must.
        """
        places = self._places(config, request.kind)
        query = self._query(tenant, request.user, request.kind, places)
        query = replace(query, seed=request.seed)
        model = self.models.get(tenant)
        gathered = await self._gather(query, self._sources(query, config, model), TRIED_WAIT_MS)
        return self._score(query, config, gathered, model, NO_MODEL, explain=True)

    def _places(self, config: RankingConfig, kind: FeedKind) -> int:
        return min(config.feed(kind).slate_size, self.settings.slate_size_max)

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
        return self.configs.of(tenant).config

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

    def _sources(
        self, query: Query, config: RankingConfig, model: LiveModel | None
    ) -> tuple[CandidateSource, ...]:
        """The mix of the config, with the following rows as the engine has them."""
        sources: list[CandidateSource] = []
        for source in build_sources(config, query.kind, model.factors if model else None):
            if source.name == "following":
                home = EngineFollowingSource(self.engine, self.settings.home_group, source.quota)
                sources.append(note_source(home.name, partial(home.read, query)))
            else:
                sources.append(SparedSource(source, self._source_failed))
        return tuple(sources)

    def _source_failed(self, name: str) -> None:
        self.metrics.source_failures.labels(name).inc()

    async def _rank(
        self,
        query: Query,
        active: ActiveVersion,
        model: LiveModel | None,
        sources: Sequence[CandidateSource],
        *,
        explain: bool,
        page: int = 0,
    ) -> Slate:
        """Gather, score with the live model or by time, and count what happened.

        A slate of less than a `page` is filled up with what was served lately.
        """
        config = active.config
        deadline_ms = min(config.feed(query.kind).deadline_ms, self.settings.deadline_ms)
        started_ns = self.clock_ns()
        gathered = await self._gather(query, sources, deadline_ms)
        gathered_ns = self.clock_ns()
        late = (gathered_ns - started_ns) / 1e6 > deadline_ms
        model = None if late else model
        without = LOADING if self.models.loading(query.tenant) else NO_MODEL
        without = TOO_LATE if late else without
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
        slate = replace(slate, config_version=active.version)
        self.engine.tenant(query.tenant)  # of one that was deleted meanwhile nothing is kept
        tried = query if again is None else replace(query, served=())
        self._try_shadow(tried, config, gathered, slate)
        gather_us = (gathered_ns - started_ns) // 1_000
        outcome = _OUTCOMES.get(slate.degraded, "failed") if slate.degraded else "model"
        self.slate_log.note(query, slate, gathered.table)
        stages_us = {"gather": gather_us, **slate.timings_us}
        self.metrics.note_slate(query.kind, outcome, stages_us)
        note_step("rank", started_ns, stages_us, query.kind, outcome)
        if slate.explanation is None:
            return slate
        stages = (*source_stages(gathered.candidates, gather_us), *slate.explanation.stages)
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
            known = known_positions(sources)
            own = await asyncio.to_thread(
                own_table, self.engine, query.tenant, known, RECENT_CANDIDATES
            )
            return _Gathered(self._propose(sources, query, own), own, NO_TABLE)
        if not self._reaches(query, sources, table):
            sources = [proposed(source, query, table) for source in sources]
            known = known_positions(sources)
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
        positions = known_positions(sources)
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

    def _try_shadow(
        self, query: Query, config: RankingConfig, gathered: _Gathered, live: Slate
    ) -> None:
        """Have the tenant's model on trial rank the same candidates, after the reply."""
        model = self.models.shadow(query.tenant)
        if model is None or self.shadows is None or live.degraded or not live.ranked:
            return
        if self.shadows.samples(query.seed):
            candidates, table, _ = gathered
            positions = table.positions(candidates.rows)  # by then, rows may be of others

            def again() -> Slate:
                rows = table.rows(positions)
                still = candidates.take(np.flatnonzero(rows >= 0))
                still = replace(still, rows=rows[rows >= 0])
                return _ranker(config, query, model).rank(query, still, table)

            self.shadows.offer(query, live, model, again)


def _ranker(config: RankingConfig, query: Query, model: LiveModel | None) -> Ranker:
    """The feed's ranker with the live model, or with the fallback where there is none."""
    kind = query.kind
    if model is None:
        scorer = bound(fallback_scorer(config.feed(kind).fallback), query)
        return build_ranker(config, kind, scorer)
    scorer, version = bound(model.scorer, query), str(model.version)
    return build_ranker(config, kind, scorer, factors=model.factors, model_version=version)
