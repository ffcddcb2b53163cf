"""A page of a ranked feed as bytes: stored bodies are spliced, nothing is decoded."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from feeds.engine import FeedEngine
from feeds.model import Follow, Position, TenantId
from ranking.slates import Slate
from serving.activity_table import ActivityTables
from serving.cursors import PinnedSlate, SlateCursor

__all__ = ["Page", "RankedPages", "explanation_bytes", "slate_head"]


class Page(NamedTuple):
    """An encoded page of a slate, the cursor of the next one (None at the end), what it shows."""

    content: bytes
    next: str | None
    shown: Sequence[Position] = ()


@dataclass(frozen=True, slots=True)
class RankedPages:
    """Cuts slates into pages. Activities removed since then are passed over: pages stay full."""

    engine: FeedEngine
    tables: ActivityTables

    def page(
        self,
        slate: PinnedSlate,
        offset: int,
        limit: int,
        follows: Mapping[str, Follow],
        explained: Slate | None = None,
        withdrawn: Collection[Position] = (),
    ) -> Page:
        """The page that begins at a place, with its explanation if it was asked for.

        `follows` are the user's; what is `withdrawn` is passed over like what was removed.
        """
        places, bodies, after = self._living(slate, offset, limit, withdrawn)
        origins = self._origins(slate.tenant, [position for _, position in places], follows)
        results = [
            body[:-1] + b"," + _ranking(slate, place, origin)[1:]
            for (place, _), body, origin in zip(places, bodies, origins, strict=True)
        ]
        cursor = SlateCursor(slate.request_id, after).encode() if after < len(slate) else None
        parts = [slate.head[:-1], b',"results":[', b",".join(results), b'],"next":']
        parts.append(orjson.dumps(cursor))
        if explained is not None and explained.explanation is not None:
            shown = [place for place, _ in places]
            parts += [b',"explanation":', explanation_bytes(explained, shown)]
        parts.append(b"}")
        return Page(b"".join(parts), cursor, [position for _, position in places])

    def _living(
        self, slate: PinnedSlate, offset: int, limit: int, withdrawn: Collection[Position]
    ) -> tuple[list[tuple[int, Position]], list[bytes], int]:
        """The next places whose activity exists, their bodies, and the place behind them."""
        places: list[tuple[int, Position]] = []
        bodies: list[bytes] = []
        while len(places) < limit and offset < len(slate):
            end = min(offset + limit - len(places), len(slate))
            asked = slate.positions(offset, end)
            found = self.engine.bodies(slate.tenant, asked)
            for place, position, body in zip(range(offset, end), asked, found, strict=True):
                if body is not None and position not in withdrawn:
                    places.append((place, position))
                    bodies.append(body)
            offset = end
        return places, bodies, offset

    def _origins(
        self, tenant: TenantId, positions: Sequence[Position], follows: Mapping[str, Follow]
    ) -> list[str | None]:
        """The followed feed that each activity reached the user by; None where there is none."""
        table = self.tables.ready(tenant)
        if table is None or not follows:
            return [None] * len(positions)
        names = table.names.feeds.names
        rows = table.rows(positions)
        return [
            None if row < 0 else _origin(feeds, index, time_us, follows, names)
            for row, feeds, index, time_us in zip(
                rows.tolist(),
                table.feeds[rows].tolist(),
                table.index[rows].tolist(),
                table.time_us[rows].tolist(),
                strict=True,
            )
        ]


def _origin(
    feeds: Sequence[int],
    index: int,
    time_us: int,
    follows: Mapping[str, Follow],
    names: Sequence[str],
) -> str | None:
    """The first in byte order of the followed feeds that the activity belongs to, as the engine."""
    first: str | None = None
    for number in feeds:
        if number < 0:
            break
        name = names[number]
        edge = follows.get(name)
        if edge is None or not (index > edge.index or time_us >= edge.since_us):
            continue
        if first is None or name < first:
            first = name
    return first


def _ranking(slate: PinnedSlate, place: int, origin: str | None) -> bytes:
    """What a place of a slate adds to its activity, as a JSON object."""
    return orjson.dumps(
        {
            "origin": origin,
            "position": place,
            "score": slate.scores[place],
            "source": slate.sources[place],
            "reason": slate.reasons[place],
            "propensity": slate.propensities[place],
        }
    )


def slate_head(slate: Slate) -> bytes:
    """What a slate says of itself, as a JSON object; NaN is null."""
    return orjson.dumps(
        {
            "slate_id": slate.request_id,
            "kind": slate.kind,
            "scorer": slate.scorer,
            "model_version": slate.model_version,
            "config_version": slate.config_version,
            "degraded": slate.degraded,
            "quality": slate.quality,
        }
    )


def explanation_bytes(slate: Slate, places: Sequence[int]) -> bytes:
    """The stages, what was removed and why, and the features of these places, as JSON."""
    explanation = slate.explanation
    return orjson.dumps(
        {
            "config_version": slate.config_version,
            "stages": explanation.stages if explanation else (),
            "removed": slate.removed,
            "activities": [explanation.activities[place] for place in places]
            if explanation
            else (),
        }
    )
