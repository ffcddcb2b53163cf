"""Ranked feeds: from a user's request to a page, whatever fails on the way.

The candidates come from the engine and the tenant's activity table, the order from the tenant's
live model. Where there is no model, where it fails or where the deadline is over, the same ranker
orders by time and the answer says so in `degraded`: a feed is never refused because ranking failed.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter_ns
from typing import Final, NamedTuple, Protocol

import numpy as np
import structlog

from feeds.engine import FeedEngine
from feeds.errors import LimitExceeded
from feeds.model import FeedId, Position, TenantId, UserId, position_of
from ranking.candidates import Candidates, FeedKind, Query, Slate, Stage
from ranking.exploration import EpsilonExplorer
from ranking.features import Factors
from ranking.ranker import Ranker, default_ranker
from ranking.scorers.base import Scorer
from ranking.scorers.recency import RecencyScorer
from ranking.sources import CandidateSource, default_sources, propose
from ranking.table import ActivityTable
from serving.activity_table import ActivityTables
from serving.current_request import note_source, note_step
from serving.cursors import PinnedSlate, SlateCursor, Slates
from serving.follows import HeldFollows
from serving.pages import Page, RankedPages, slate_head
from serving.settings import Settings
from serving.sources import EngineFollowingSource, PositionsSource, SparedSource, own_table
from serving.telemetry import Metrics

__all__ = ["FeedReader", "LiveModel", "LiveModels"]

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

    async def read(
        self,
        tenant: TenantId,
        user: UserId,
        kind: FeedKind,
        *,
        limit: int,
        cursor: str | None = None,
        explain: bool = False,
    ) -> Page:
        """A page of a ranked feed: the first one makes the slate, a cursor turns its pages.

        Raises `InvalidCursor`, or `SlateExpired` where the slate of the cursor is no longer held.
        """
        pages = RankedPages(self.engine, self.tables, self.follows, self.settings.home_group)
        if cursor is not None:
            place = SlateCursor.decode(cursor)
            pinned = self.slates.find(place, tenant, user, kind)
            return pages.page(pinned, place.offset, limit)
        query = self._query(tenant, user, kind, self.settings.slate_size_max)
        slate = await self._rank(query, self._sources(query), explain=explain)
        pinned = PinnedSlate.of(slate, slate_head(slate))
        began_ns = self.clock_ns()
        page = pages.page(pinned, 0, limit, query.follows, slate)
        note_step("hydrate", began_ns, {"hydrate": (self.clock_ns() - began_ns) // 1_000})
        if page.next is not None:
            self.slates.pin(pinned)
            self.metrics.slates.set(len(self.slates))
        return page

    async def rank(
        self, tenant: TenantId, user: UserId, activities: Sequence[str], *, explain: bool = False
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
        query = self._query(tenant, user, "personalized", len(positions))
        source = PositionsSource("caller", limit, list(positions.values()))
        slate = await self._rank(query, (source,), explain=True)
        told = {place.activity_id for place in slate.ranked}
        told |= {removed.activity_id for removed in slate.removed}
        unknown = [name for name in positions if name not in told]
        return slate if explain else replace(slate, explanation=None), unknown

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

    def _sources(self, query: Query) -> tuple[CandidateSource, ...]:
        """The default mix, with the following rows as the engine has them."""
        sources: list[CandidateSource] = []
        for source in default_sources(query.kind):
            if source.name == "following":
                home = EngineFollowingSource(self.engine, self.settings.home_group, source.quota)
                sources.append(note_source(home.name, partial(home.read, query)))
            else:
                sources.append(SparedSource(source, self._source_failed))
        return tuple(sources)

    def _source_failed(self, name: str) -> None:
        self.metrics.source_failures.labels(name).inc()

    async def _rank(
        self, query: Query, sources: Sequence[CandidateSource], *, explain: bool
    ) -> Slate:
        """Gather, score with the live model or by time, and count what happened."""
        started_ns = self.clock_ns()
        gathered = await self._gather(query, sources)
        gathered_ns = self.clock_ns()
        late = (gathered_ns - started_ns) / 1e6 > self.settings.deadline_ms
        model = None if late else self.models.get(query.tenant)
        slate = self._score(query, gathered, model, TOO_LATE if late else NO_MODEL, explain)
        gather_us = (gathered_ns - started_ns) // 1_000
        outcome = _OUTCOMES.get(slate.degraded, "failed") if slate.degraded else "model"
        stages_us = {"gather": gather_us, **slate.timings_us}
        self.metrics.note_slate(query.kind, outcome, stages_us)
        note_step("rank", started_ns, stages_us, query.kind, outcome)
        if slate.explanation is None:
            return slate
        stages = (*_source_stages(gathered.candidates, gather_us), *slate.explanation.stages)
        return replace(slate, explanation=replace(slate.explanation, stages=stages))

    async def _gather(self, query: Query, sources: Sequence[CandidateSource]) -> _Gathered:
        """The candidates as rows of the shared table, or of one made for this request.

        The latter where the shared one is not there in time, or does not reach back to a candidate:
        then the store is read in a thread, and other requests go on.
        """
        table = self.tables.ready(query.tenant) or await self._loaded(query.tenant)
        if table is None:
            known = _positions(sources)
            own = await asyncio.to_thread(own_table, self.engine, query, known, RECENT_CANDIDATES)
            return _Gathered(self._propose(sources, query, own), own, NO_TABLE)
        if not self._reaches(query, sources, table):
            sources = [_proposed(source, query, table) for source in sources]
            table = await asyncio.to_thread(own_table, self.engine, query, _positions(sources))
        return _Gathered(self._propose(sources, query, table), table, None)

    async def _loaded(self, tenant: TenantId) -> ActivityTable | None:
        """The shared table, waited for until the deadline; None if it is not there by then."""
        try:
            await asyncio.wait_for(self.tables.get(tenant), self.settings.deadline_ms / 1e3)
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
        gathered: _Gathered,
        model: LiveModel | None,
        without: str,
        explain: bool,
    ) -> Slate:
        """The slate by the model; by time where there is none, or where it fails."""
        candidates, table, degraded = gathered
        if model is not None:
            ranker = self._ranker(query.kind, model)
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
        slate = self._ranker(query.kind, None).rank(query, candidates, table, explain)
        return replace(slate, degraded=degraded or without)

    def _ranker(self, kind: FeedKind, model: LiveModel | None) -> Ranker:
        ranker = (
            default_ranker(kind, RecencyScorer())
            if model is None
            else default_ranker(
                kind, model.scorer, factors=model.factors, model_version=str(model.version)
            )
        )
        if kind == "explore":
            return replace(ranker, explorer=EpsilonExplorer(self.settings.explore_epsilon))
        return ranker


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
