"""Ranked feeds: from a user's request to a page, or to the order of what the caller brings.

How a slate comes about, and what stands in where something fails or takes too long, is in
`serving.slate_maker`.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter_ns
from typing import Final

from feeds.engine import FeedEngine
from feeds.errors import LimitExceeded
from feeds.model import FeedId, Position, TenantId, UserId, position_of
from ranking.candidates import Feedback, FeedKind, Query
from ranking.config import RankingConfig
from ranking.pipeline import build_feedback_filters
from ranking.slates import Slate
from ranking.sources import CandidateSource
from ranking.table import ActivityTable
from serving.activity_table import ActivityTables
from serving.configs import ActiveVersion, RankingConfigs
from serving.current_request import note_step
from serving.cursors import PinnedSlate, SlateCursor, Slates
from serving.feedback import is_said, withdrawn
from serving.follows import HeldFollows
from serving.pages import Page, RankedPages, slate_head
from serving.quality import NO_LIMIT, Deadline, Plan, QualityFactor, SourceCosts, TimeGiven
from serving.rankers import HeldRankers, LiveModel
from serving.served import Served, ServedMemory
from serving.served_requests import RecentRequests, ServedRequest
from serving.settings import Settings
from serving.shadows import ShadowTrials
from serving.slate_log.writer import NoSlateLog, SlateNotes
from serving.slate_maker import (
    RECENT_CANDIDATES,
    LiveModels,
    Reading,
    SlateMaker,
    quality_config,
)
from serving.sources import PositionsSource, own_table
from serving.telemetry import Metrics

__all__ = ["FeedReader"]

TRIED_WAIT_MS: Final = 30_000.0
"""Milliseconds that a read which nobody waits for as a feed gives the table to load."""


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
    rankers: HeldRankers = field(default_factory=HeldRankers)
    _quality: QualityFactor = field(init=False)
    _maker: SlateMaker = field(init=False)

    def __post_init__(self) -> None:
        """Make what the reads of this worker have in common: its factor, and the costs it knows."""
        limits = quality_config(self.settings)
        object.__setattr__(self, "_quality", QualityFactor(limits))
        maker = SlateMaker(
            engine=self.engine,
            tables=self.tables,
            models=self.models,
            settings=self.settings,
            metrics=self.metrics,
            quality=self._quality,
            costs=SourceCosts(limits),
            shadows=self.shadows,
            slate_log=self.slate_log,
            clock_ns=self.clock_ns,
        )
        object.__setattr__(self, "_maker", maker)

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
        time: TimeGiven = NO_LIMIT,
    ) -> Page:
        """A page of a ranked feed: the first one makes the slate, a cursor turns its pages.

        `time` is what the request says of its time.
        A new slate does not repeat what the user was served lately, unless there is less than a
        page of anything else. Raises `InvalidCursor`, `LimitExceeded` for too many activities to
        exclude, or `SlateExpired` where the slate of the cursor is no longer held.
        """
        excluded = self._excluded(exclude)
        page = await self._page(tenant, user, kind, limit, cursor, explain, excluded, time)
        self.engine.check_exists(tenant)  # of one that was deleted meanwhile nothing is kept
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
        time: TimeGiven,
    ) -> Page:
        pages = RankedPages(self.engine, self.tables)
        active = self.configs.of(tenant)
        config, places = active.config, self._places(active.config, kind)
        if cursor is not None:
            place = SlateCursor.decode(cursor)
            pinned = self.slates.find(place, tenant, user, kind)
            query = self._query(tenant, user, kind, places, excluded=excluded)
            gone = await self._withdrawn(query, config, pinned, place.offset)
            return pages.page(pinned, place.offset, limit, query.follows, withdrawn=gone)
        model = self.models.get(tenant)
        served = self.served.of(tenant, user) - {position_of(p.id) for p in config.feed(kind).pins}
        query = self._query(tenant, user, kind, places, excluded=excluded, served=served)
        reading = self._reading(query, active, model, time, explain=explain, page=limit)
        slate = await self._maker.make(reading)
        self.recent.note(tenant, _request(query))
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
        time: TimeGiven = NO_LIMIT,
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
        reading = self._reading(query, active, model, time, explain=True)
        reading = replace(reading, plan=reading.plan.whole())
        slate = await self._maker.make(reading, (source,))
        told = set(slate.ranked.activity_ids)
        told |= {removed.activity_id for removed in slate.removed}
        unknown = [name for name in positions if name not in told]
        return slate, unknown

    async def rank_source(
        self, tenant: TenantId, user: UserId, source: CandidateSource, limit: int
    ) -> tuple[Query, Slate]:
        """What one source proposes, filtered and ranked as the user's personalized feed is."""
        query = self._query(tenant, user, "personalized", limit)
        active, model = self.configs.of(tenant), self.models.get(tenant)
        return query, await self._maker.make(self._reading(query, active, model), (source,))

    async def rank_feed(
        self,
        tenant: TenantId,
        user: UserId,
        config: RankingConfig,
        limit: int,
        served: Collection[bytes],
    ) -> tuple[Query, Slate]:
        """The personalized feed by a config that is made of the active one; nothing is held.

        What counts as `served` is left out.
        """
        query = self._query(tenant, user, "personalized", limit, served=served)
        active = replace(self.configs.of(tenant), config=config)
        reading = self._reading(query, active, self.models.get(tenant))
        reading = replace(reading, rankers=HeldRankers())
        return query, await self._maker.make(reading)

    async def table(self, tenant: TenantId) -> ActivityTable:
        """The tenant's table until the next await; one of the newest activities while it loads."""
        table = await self._maker.loaded(tenant, self.settings.deadline_ms)
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
        active, model = ActiveVersion(0, config), self.models.get(tenant)
        deadline = Deadline(self.clock_ns, TRIED_WAIT_MS, self.clock_ns())
        return await self._maker.tried(
            Reading(query, active, model, HeldRankers(), deadline, explain=True)
        )

    async def as_then(
        self, tenant: TenantId, request: ServedRequest, limit: int, activities: Sequence[str]
    ) -> tuple[Query, ActivityTable]:
        """An earlier request at its time and with its chances, the user's side as of now.

        And a table that holds the activities, as far as they exist, until the next await.
        """
        query = self._query(tenant, request.user, request.kind, limit)
        query = replace(query, now_us=request.time_us, seed=request.seed)
        asked = [position_of(one) for one in activities]
        table = await self._maker.loaded(tenant, TRIED_WAIT_MS)
        if table is None or (table.rows(asked) < 0).any():
            table = await asyncio.to_thread(own_table, self.engine, tenant, asked)
        return query, table

    def _places(self, config: RankingConfig, kind: FeedKind) -> int:
        return min(config.feed(kind).slate_size, self.settings.slate_size_max)

    async def _withdrawn(
        self, query: Query, config: RankingConfig, slate: PinnedSlate, offset: int
    ) -> Collection[Position]:
        """What of the slate's further places the user has taken back since it was made."""
        if not is_said(query):
            return ()
        filters = build_feedback_filters(config, query.kind)
        asked = slate.positions(offset, len(slate))
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

    def _query(
        self,
        tenant: TenantId,
        user: UserId,
        kind: FeedKind,
        limit: int,
        *,
        excluded: Collection[bytes] = (),
        served: Collection[bytes] = (),
    ) -> Query:
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
            excluded=excluded,
            served=served,
            feedback=Feedback.of(record),
        )

    def _reading(
        self,
        query: Query,
        active: ActiveVersion,
        model: LiveModel | None,
        time: TimeGiven = NO_LIMIT,
        *,
        explain: bool = False,
        page: int = 0,
    ) -> Reading:
        """The read with what it may cost; the cheapest answer where no time is left, or given."""
        deadline = self._deadline(active.config, query.kind, time)
        plan = self._plan(deadline)
        return Reading(query, active, model, self.rankers, deadline, plan, explain, page)

    def _deadline(self, config: RankingConfig, kind: FeedKind, time: TimeGiven) -> Deadline:
        """The shortest of what request, config and settings allow, from when the request came."""
        limit_ms = min(config.feed(kind).deadline_ms, self.settings.deadline_ms)
        if time.deadline_ms is not None:
            limit_ms = min(limit_ms, time.deadline_ms)
        began_ns = self.clock_ns() if time.began_ns is None else time.began_ns
        return Deadline(self.clock_ns, limit_ms, began_ns)

    def _plan(self, deadline: Deadline) -> Plan:
        plan = self._quality.plan(deadline.waited_share())
        return plan.without("model", "chronological") if deadline.over() else plan


def _request(query: Query) -> ServedRequest:
    """What a preview may ask again."""
    return ServedRequest(query.user, query.kind, query.now_us, query.seed, query.request_id)
