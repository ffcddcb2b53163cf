"""Related activities: what is like one, in the order of the tenant's ranking where a user asks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import Final

import orjson
from msgspec.structs import replace as replace_fields

from feeds.errors import NotFound
from feeds.model import ActivityId, Follow, TenantId, UserId, position_of
from ranking.related import RELATIONS, RelatedSource, Seed, related
from ranking.slates import RankedActivity, Slate
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
            ranked = [
                replace_fields(place, reason=RELATIONS[source.relations[place.activity_id]][1])
                for place in slate.ranked
            ]
            slate = replace(slate, ranked=ranked)
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
        ids: Sequence[ActivityId] = table.ids(found.rows[:limit])
        places = zip(ids, found.strengths.tolist(), found.relations, strict=False)
        return Slate(
            request_id=self.reader.request_id(),
            tenant=tenant,
            user=UserId(""),
            kind="personalized",
            ranked=[
                RankedActivity(activity, place, strength, NEAREST, RELATIONS[relation][1])
                for place, (activity, strength, relation) in enumerate(places)
            ],
            scorer=NEAREST,
        )


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
