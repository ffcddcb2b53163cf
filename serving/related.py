"""Related activities: what is like one, in the order of the tenant's ranking where a user asks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import Final

import orjson

from feeds.errors import NotFound
from feeds.model import Follow, TenantId, UserId, position_of
from ranking.related import RELATIONS, RelatedSource, Seed, related
from ranking.slates import RankedActivities, Slate
from ranking.vectors import Vectors
from serving.current_request import note_step
from serving.cursors import PinnedSlate
from serving.pages import RankedPages
from serving.reader import FeedReader

__all__ = ["RelatedReader"]

NEAREST: Final = "related"
"""The scorer of a reply that is for nobody in particular: the nearest first."""


@dataclass(frozen=True, slots=True)
class RelatedReader:
    """Reads what is related to an activity. To be used on one event loop."""

    reader: FeedReader

    async def read(self, tenant: TenantId, activity: str, user: UserId | None, limit: int) -> bytes:
        """At most `limit` activities as JSON, never the activity itself.

        For a user, they pass the filters of the personalized feed and are ranked like it. Raises
        `NotFound` where there is no such activity, `InvalidCursor` where that is no id.
        """
        seed = self._seed(tenant, activity)
        model = self.reader.models.get(tenant)
        vectors = _vectors(model.factors if model is not None else None)
        follows: Mapping[str, Follow] = {}
        if user is None:
            slate = await self._nearest(tenant, seed, vectors, limit)
        else:
            source = RelatedSource(seed, vectors)
            query, slate = await self.reader.rank_source(tenant, user, source, limit)
            follows = query.follows
            relations = map(source.relations.__getitem__, slate.ranked.activity_ids)
            slate = replace(slate, ranked=replace(slate.ranked, reasons=_reasons(relations)))
        pages = RankedPages(self.reader.engine, self.reader.tables)
        pinned = PinnedSlate.of(slate, _head(slate, activity))
        return pages.page(pinned, 0, max(limit, 1), follows).content

    def _seed(self, tenant: TenantId, activity: str) -> Seed:
        position = position_of(activity)
        (found,) = self.reader.engine.activities(tenant, [position])
        if found is None:
            raise NotFound(f"there is no activity {activity}: send the id that a feed gave")
        _, posted, counts = found
        return Seed(position, posted.actor, posted.tags, counts.engagers)

    async def _nearest(
        self, tenant: TenantId, seed: Seed, vectors: Vectors | None, limit: int
    ) -> Slate:
        table = await self.reader.table(tenant)
        began_ns = perf_counter_ns()
        found = related(seed, table, vectors)
        note_step("related", began_ns, {"related": (perf_counter_ns() - began_ns) // 1_000})
        rows = found.rows[:limit]
        return Slate(
            request_id=self.reader.request_id(),
            tenant=tenant,
            user=UserId(""),
            kind="personalized",
            ranked=RankedActivities(
                activity_ids=table.ids(rows),
                feed_positions=table.positions(rows),
                scores=found.strengths[:limit].tolist(),
                sources=[NEAREST] * len(rows),
                reasons=_reasons(found.relations[:limit]),
                propensities=[1.0] * len(rows),
            ),
            scorer=NEAREST,
        )


def _reasons(relations: Iterable[str]) -> list[str]:
    return [RELATIONS[relation][1] for relation in relations]


def _vectors(factors: object) -> Vectors | None:
    """The factors of a model, where they tell the vectors of activities."""
    return factors if isinstance(factors, Vectors) else None


def _head(slate: Slate, activity: str) -> bytes:
    return orjson.dumps(
        {
            "activity_id": activity,
            "slate_id": slate.request_id,
            "scorer": slate.scorer,
            "model_version": slate.model_version,
            "degraded": slate.degraded,
        }
    )
