"""What users were served lately, so that a new slate does not repeat it; filling up short ones.

Each user's memory is a ring of places, the newest last: the newest `served_max`, none older than
`served_ttl_s`. A process keeps those of the users it served last; workers share them in SQLite.
"""

import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Final, Protocol

import numpy as np

from feeds.model import Position, TenantId, UserId
from ranking.candidates import Candidates, Query
from ranking.config import RankingConfig
from ranking.exploration import Shown
from ranking.features import FeatureMatrix
from ranking.filters import SERVED
from ranking.slates import Explanation, Scoring, Slate
from ranking.table import ActivityTable

__all__ = ["Served", "ServedMemory", "followed_by", "repeats", "ring_after", "ring_positions"]

_PLACE: Final = struct.Struct(">d16s")
"""Until when a position is remembered, in seconds of a monotonic clock, and the position."""


class Served(Protocol):
    """What users were served lately."""

    def note(self, tenant: TenantId, user: UserId, positions: Sequence[Position]) -> None:
        """Remember that a user was served these; the oldest places leave."""
        ...

    def of(self, tenant: TenantId, user: UserId) -> frozenset[bytes]:
        """The positions that the user was served and that are still remembered."""
        ...

    def forget(self, tenant: TenantId) -> None:
        """Remember nothing of the tenant's users any more."""
        ...

    def close(self) -> None:
        """Remember nothing any more; twice is harmless."""
        ...


def ring_after(
    ring: bytes, positions: Sequence[Position], until_s: float, served_max: int
) -> bytes:
    """The ring with these positions at its end; about 24 bytes a place."""
    places = b"".join([_PLACE.pack(until_s, position) for position in positions])
    return (ring + places)[max(0, len(ring) + len(places) - served_max * _PLACE.size) :]


def ring_positions(ring: bytes, now_s: float) -> frozenset[bytes]:
    """The positions of a ring that are still remembered; 10 us for 100."""
    return frozenset(position for until_s, position in _PLACE.iter_unpack(ring) if until_s > now_s)


class ServedMemory:
    """`Served` in the memory of one process: of the `users_max` users that were served last."""

    def __init__(
        self, monotonic: Callable[[], float], served_max: int, users_max: int, ttl_s: float
    ) -> None:
        self._monotonic = monotonic
        self._served_max = served_max
        self._users_max = users_max
        self._ttl_s = ttl_s
        self._rings: OrderedDict[tuple[TenantId, UserId], bytes] = OrderedDict()

    def __len__(self) -> int:
        """Of how many users something is remembered."""
        return len(self._rings)

    def note(self, tenant: TenantId, user: UserId, positions: Sequence[Position]) -> None:
        """As `Served.note`."""
        if not positions or not self._served_max:
            return
        until_s = self._monotonic() + self._ttl_s
        ring = self._rings.pop((tenant, user), b"")
        self._rings[tenant, user] = ring_after(ring, positions, until_s, self._served_max)
        if len(self._rings) > self._users_max:
            self._rings.popitem(last=False)

    def of(self, tenant: TenantId, user: UserId) -> frozenset[bytes]:
        """As `Served.of`."""
        return ring_positions(self._rings.get((tenant, user), b""), self._monotonic())

    def forget(self, tenant: TenantId) -> None:
        """As `Served.forget`."""
        for key in [key for key in self._rings if key[0] == tenant]:
            del self._rings[key]

    def close(self) -> None:
        """Remember nothing any more."""
        self._rings.clear()


def repeats(
    query: Query, config: RankingConfig, candidates: Candidates, table: ActivityTable
) -> Candidates | None:
    """The candidates that were left out because they were served; None where there are none."""
    if not query.served or not config.feed(query.kind).filters.served.on:
        return None
    matches = SERVED.matches(query, candidates, table)
    return candidates.take(np.flatnonzero(matches)) if matches.any() else None


def followed_by(slate: Slate, again: Slate) -> Slate:
    """The slate with the places of another behind its own; what these show was not removed."""
    known = {removed.activity_id for removed in again.removed} | set(again.ranked.activity_ids)
    kept = [each for each in slate.removed if each.activity_id not in known]
    explanation = slate.explanation
    if explanation is not None and again.explanation is not None:
        activities = chain(explanation.activities, again.explanation.activities)
        explanation = Explanation(explanation.stages, list(activities))
    return replace(
        slate,
        ranked=slate.ranked.followed_by(again.ranked),
        removed=[*kept, *again.removed],
        explanation=explanation,
        scoring=_joined(slate.scoring, again.scoring),
    )


def _joined(first: Scoring | None, again: Scoring | None) -> Scoring | None:
    """The numbers of both, those of `again` behind: one matrix, one list of places."""
    if first is None or again is None:
        return None
    behind = len(first.kept)
    kept = Candidates(
        np.concatenate([first.kept.rows, again.kept.rows]),
        np.concatenate([first.kept.source, again.kept.source]),
        first.kept.sources,
    )
    one, two = first.shown, again.shown
    shown = Shown(
        places=np.concatenate([one.places, two.places + behind]),
        propensities=np.concatenate([one.propensities, two.propensities]),
        explored=np.concatenate([one.explored, two.explored]),
        multipliers=np.concatenate([one.multipliers, two.multipliers]),
        reserve=np.concatenate([one.reserve, two.reserve + behind]),
        placed={**one.placed, **{place + behind: rule for place, rule in two.placed.items()}},
    )
    return Scoring(
        kept=kept,
        removed=[
            *(each for each in first.removed if each.filter != SERVED.name),
            *again.removed,
        ],
        spec=first.spec,
        features=FeatureMatrix(
            first.features.names, np.concatenate([first.features.values, again.features.values])
        ),
        scores=np.concatenate([first.scores, again.scores]),
        shown=shown,
        stages=first.stages,
        multipliers={
            name: np.concatenate([of, again.multipliers[name]])
            for name, of in first.multipliers.items()
        },
        placed=shown.placed,
    )
