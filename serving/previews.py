"""What a ranking config would change: the last slates ranked by the active one and by the new.

`logged` ranks the slates of the log again, each with its own candidates and features; `fresh` ranks
the last request of each user and feed as of now, with all that the config's sources bring. Both
configs see the same, with the chances that the request had, so that what differs is the config's
doing. Each ranking is a turn of the event loop: others' requests go between.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final, Literal, NamedTuple

import numpy as np

from feeds.errors import Overloaded
from feeds.model import ActivityId, TenantId, UserId
from ranking.comparison import kendall_tau, overlap_at
from ranking.config import RankingConfig
from ranking.scorers.base import Scorer
from ranking.slates import Slate
from serving.configs import RankingConfigs
from serving.errors import ConfigRefused
from serving.reader import FeedReader
from serving.replays import LoggedCandidates, NotReplayed, unseen
from serving.served_requests import ServedRequest, ServedRequests
from serving.slate_log.explain import ModelVersions
from serving.slate_log.record import LoggedSlate
from serving.slate_log.requests import LoggedSlates

__all__ = [
    "OVERLAP_PLACES",
    "NewPlace",
    "Preview",
    "PreviewMode",
    "PreviewedSlate",
    "Previews",
]

OVERLAP_PLACES: Final = 10
"""Places that the overlap is told of."""

PreviewMode = Literal["logged", "fresh"]
Ranked = Literal["candidates", "shown", "now"]


class _Pair(NamedTuple):
    """A request ranked by the old config and by the new one, and of what."""

    request: ServedRequest
    ranked: Ranked
    old: Slate
    new: Slate


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
    `removed` counts what the new config's filters took out. `ranked` says of what: all `candidates`
    of then, what was `shown` then, or what is there `now`.
    """

    request: ServedRequest
    old: Sequence[ActivityId]
    new: Sequence[NewPlace]
    old_length: int
    new_length: int
    overlap: float
    kendall_tau: float
    removed: Mapping[str, int]
    ranked: Ranked
    changed: bool

    @property
    def first_changed(self) -> bool:
        """Whether another activity stands first."""
        return [one.id for one in self.new[:1]] != list(self.old[:1])


@dataclass(frozen=True, slots=True)
class Preview:
    """What a config changes for the slates that were ranked again, the newest first.

    `unseen` says what the mode cannot show, and `skipped` counts slates that could not be ranked
    again by the reason.
    """

    active_version: int
    mode: PreviewMode
    slates: Sequence[PreviewedSlate]
    unseen: Sequence[str] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def overlap(self) -> float | None:
        """The mean overlap of old and new; None without requests."""
        return _mean([slate.overlap for slate in self.slates])

    @property
    def kendall_tau(self) -> float | None:
        """The mean of Kendall's tau where there is one."""
        return _mean([slate.kendall_tau for slate in self.slates])

    @property
    def changed(self) -> float | None:
        """The share of slates that are not the same, place by place."""
        return _mean([float(slate.changed) for slate in self.slates])

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
        logged: LoggedSlates,
        versions: ModelVersions,
        configs: RankingConfigs,
        places_max: int,
    ) -> None:
        """`places_max` places of each slate are shown."""
        self._reader = reader
        self._requests = requests
        self._logged = logged
        self._versions = versions
        self._configs = configs
        self._places_max = places_max
        self._under_way: set[TenantId] = set()

    async def preview(
        self, tenant: TenantId, config: RankingConfig, count: int, mode: PreviewMode = "logged"
    ) -> Preview:
        """What the config changes for the last `count` logged slates, or fresh requests.

        Raises `ConfigRefused` where it leaves nothing of anything, and `Overloaded` while another
        preview of the tenant is under way.
        """
        if tenant in self._under_way:
            raise Overloaded("a preview of this tenant is under way: try again when it has ended")
        self._under_way.add(tenant)
        try:
            active = self._configs.of(tenant)
            skipped: Counter[str] = Counter()
            slates, news = [], []
            pairs = self._replayed if mode == "logged" else self._fresh
            async for request, ranked, old, new in pairs(
                tenant, active.config, config, count, skipped
            ):
                slates.append(self._beside(request, ranked, old, new))
                news.append(new)
        finally:
            self._under_way.discard(tenant)
        hidden = unseen(active.config, config) if mode == "logged" else ()
        preview = Preview(active.version, mode, slates, hidden, dict(skipped.most_common()))
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

    async def _fresh(
        self,
        tenant: TenantId,
        old: RankingConfig,
        new: RankingConfig,
        count: int,
        skipped: Counter[str],
    ) -> AsyncIterator[_Pair]:
        """The last requests, one for each user and feed, as of now; none is skipped."""
        del skipped
        for request in await self._requests.last(tenant, count):
            before = await self._ranked(tenant, request, old)
            yield _Pair(request, "now", before, await self._ranked(tenant, request, new))

    async def _replayed(
        self,
        tenant: TenantId,
        old: RankingConfig,
        new: RankingConfig,
        count: int,
        skipped: Counter[str],
    ) -> AsyncIterator[_Pair]:
        """The last logged slates, from the candidates and features of then."""
        scorers: dict[str, Scorer | str] = {}
        for slate in await self._logged.last(tenant, count):
            try:
                yield await self._replay(tenant, slate, old, new, scorers)
            except NotReplayed as problem:
                skipped[str(problem)] += 1

    async def _replay(
        self,
        tenant: TenantId,
        slate: LoggedSlate,
        old: RankingConfig,
        new: RankingConfig,
        scorers: dict[str, Scorer | str],
    ) -> _Pair:
        """Both rankings of a logged slate; raises `NotReplayed`."""
        scorer = await self._scorer(tenant, slate, scorers)
        request = _request(slate)
        logged = slate.candidates or slate.places
        size_max = self._reader.settings.slate_size_max
        query, table = await self._reader.as_then(tenant, request, size_max, logged.activity_ids())
        model = self._reader.models.get(tenant)
        factors = model.factors if model is not None and scorer is not None else None
        candidates = LoggedCandidates.of(slate, table)
        before, after = (
            candidates.rank(
                replace(query, limit=min(config.feed(slate.kind).slate_size, size_max)),
                config,
                scorer,
                factors,
                table,
            )
            for config in (old, new)
        )
        return _Pair(request, "candidates" if candidates.whole else "shown", before, after)

    async def _scorer(
        self, tenant: TenantId, slate: LoggedSlate, scorers: dict[str, Scorer | str]
    ) -> Scorer | None:
        """The model that scored the slate; None where none did. Raises `NotReplayed`."""
        version = slate.model_version
        if version is None:
            return None
        if version not in scorers:
            live = self._versions.live(tenant, version)
            scorers[version] = await asyncio.to_thread(self._versions.find, slate, live)
        found = scorers[version]
        if isinstance(found, str):
            raise NotReplayed(found)
        return found

    async def _ranked(
        self, tenant: TenantId, request: ServedRequest, config: RankingConfig
    ) -> Slate:
        await asyncio.sleep(0)  # others' requests go first
        return await self._reader.try_config(tenant, request, config)

    def _beside(
        self, request: ServedRequest, ranked: Ranked, old: Slate, new: Slate
    ) -> PreviewedSlate:
        before, after = list(old.ranked.activity_ids), list(new.ranked.activity_ids)
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
            for one in islice(new.ranked, self._places_max)
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
            ranked=ranked,
            changed=before != after,
        )


def _request(slate: LoggedSlate) -> ServedRequest:
    user = UserId(slate.user)
    return ServedRequest(user, slate.kind, slate.time_us, slate.seed, slate.slate_id)


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
