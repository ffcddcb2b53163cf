"""What a ranking config would change: the last requests ranked by the active one and by the new.

Both see the state of now, with the chances that the request had, so that what differs is the
config's doing. Each ranking is a turn of the event loop: others' requests go between.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from feeds.errors import Overloaded
from feeds.model import ActivityId, TenantId
from ranking.comparison import kendall_tau, overlap_at
from ranking.config import RankingConfig
from ranking.slates import Slate
from serving.configs import RankingConfigs
from serving.errors import ConfigRefused
from serving.reader import FeedReader
from serving.served_requests import ServedRequest, ServedRequests

__all__ = ["OVERLAP_PLACES", "NewPlace", "Preview", "PreviewedSlate", "Previews"]

OVERLAP_PLACES: Final = 10
"""Places that the overlap is told of."""


@dataclass(frozen=True, slots=True)
class NewPlace:
    """An activity in a place of the new slate.

    `was` is its place in the old one, None where it was not in it; `moved` how many places it rose.
    """

    id: ActivityId
    position: int
    score: float
    source: str
    was: int | None
    moved: int | None


@dataclass(frozen=True, slots=True)
class PreviewedSlate:
    """One request, with the old and the new slate side by side.

    `overlap` and `kendall_tau` are of the whole slates; NaN where they share fewer than two.
    `removed` counts what the new config's filters took out.
    """

    request: ServedRequest
    old: Sequence[ActivityId]
    new: Sequence[NewPlace]
    old_length: int
    new_length: int
    overlap: float
    kendall_tau: float
    removed: Mapping[str, int]

    @property
    def first_changed(self) -> bool:
        """Whether another activity stands first."""
        return [one.id for one in self.new[:1]] != list(self.old[:1])


@dataclass(frozen=True, slots=True)
class Preview:
    """What a config changes for the requests that were ranked again, the newest first."""

    active_version: int
    slates: Sequence[PreviewedSlate]

    @property
    def overlap(self) -> float | None:
        """The mean overlap of old and new; None without requests."""
        return _mean([slate.overlap for slate in self.slates])

    @property
    def kendall_tau(self) -> float | None:
        """The mean of Kendall's tau where there is one."""
        return _mean([slate.kendall_tau for slate in self.slates])

    @property
    def first_changed(self) -> float | None:
        """The share of users whose first place changes in a feed."""
        changed: dict[str, bool] = {}
        for slate in self.slates:
            user = slate.request.user
            changed[user] = changed.get(user, False) or slate.first_changed
        return _mean(list(changed.values()))

    @property
    def emptied(self) -> int:
        """Requests that had activities and would have none."""
        return sum(slate.old_length > 0 and not slate.new_length for slate in self.slates)


class Previews:
    """Tries configs on the last requests of a tenant; one at a time for each tenant."""

    def __init__(
        self,
        reader: FeedReader,
        requests: ServedRequests,
        configs: RankingConfigs,
        places_max: int,
    ) -> None:
        """`places_max` places of each slate are shown."""
        self._reader = reader
        self._requests = requests
        self._configs = configs
        self._places_max = places_max
        self._under_way: set[TenantId] = set()

    async def preview(self, tenant: TenantId, config: RankingConfig, count: int) -> Preview:
        """What the config changes for the last `count` requests.

        Raises `ConfigRefused` where it leaves nothing of anything, and `Overloaded` while another
        preview of the tenant is under way.
        """
        if tenant in self._under_way:
            raise Overloaded("a preview of this tenant is under way: try again when it has ended")
        self._under_way.add(tenant)
        try:
            active = self._configs.of(tenant)
            slates, news = [], []
            for request in await self._requests.last(tenant, count):
                old = await self._ranked(tenant, request, active.config)
                new = await self._ranked(tenant, request, config)
                slates.append(self._beside(request, old, new))
                news.append(new)
        finally:
            self._under_way.discard(tenant)
        preview = Preview(active.version, slates)
        if preview.emptied and preview.emptied == sum(slate.old_length > 0 for slate in slates):
            _refuse(news)
        return preview

    async def check(self, tenant: TenantId, config: RankingConfig, count: int) -> None:
        """Raise `ConfigRefused` where the config would leave nothing of anything.

        Ends at the first request of which something is left, which is the first one, mostly.
        """
        news, had = [], False
        for request in await self._requests.last(tenant, count):
            new = await self._ranked(tenant, request, config)
            if new.ranked:
                return
            active = self._configs.of(tenant).config
            had = had or bool((await self._ranked(tenant, request, active)).ranked)
            news.append(new)
        if had:
            _refuse(news)

    async def _ranked(
        self, tenant: TenantId, request: ServedRequest, config: RankingConfig
    ) -> Slate:
        await asyncio.sleep(0)  # others' requests go first
        return await self._reader.try_config(tenant, request, config)

    def _beside(self, request: ServedRequest, old: Slate, new: Slate) -> PreviewedSlate:
        before = [place.activity_id for place in old.ranked]
        after = [place.activity_id for place in new.ranked]
        places = {activity: place for place, activity in enumerate(before)}
        shown = [
            NewPlace(
                id=one.activity_id,
                position=one.position,
                score=one.score,
                source=one.source,
                was=(was := places.get(one.activity_id)),
                moved=None if was is None else was - one.position,
            )
            for one in new.ranked[: self._places_max]
        ]
        return PreviewedSlate(
            request=request,
            old=before[: self._places_max],
            new=shown,
            old_length=len(before),
            new_length=len(after),
            overlap=overlap_at(before, after, OVERLAP_PLACES),
            kendall_tau=kendall_tau(before, after),
            removed=_by_filter([new]),
        )


def _by_filter(slates: Sequence[Slate]) -> dict[str, int]:
    """How many candidates each filter took out, the most first."""
    counts = Counter(removed.filter for slate in slates for removed in slate.removed)
    return dict(counts.most_common())


def _refuse(slates: Sequence[Slate]) -> None:
    removed = _by_filter(slates)
    silent = sum(not slate.removed for slate in slates)
    parts = [f"{name} removed {count}" for name, count in removed.items()]
    parts += [f"no source found a candidate for {silent} of them"] if silent else []
    sentence = (
        f"it leaves nothing of the last {len(slates)} requests, of which the active config leaves "
        f"something: {', '.join(parts)}; loosen these filters or turn another source on"
    )
    raise ConfigRefused([sentence])


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if not np.isnan(value)]
    return float(np.mean(finite)) if finite else None
