"""A made-up event log of any size, as columns: to measure with, not to learn from.

Authors post with tags, users follow authors, slates of recent activities are shown, some are
engaged with after a while, and a few events come in late. Users and tags are as unequal as they are
in life. Nobody has a taste: `training.simulation` is for that.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from feeds.counters import DAY_US, HOUR_US
from feeds.events import ENGAGEMENT_KINDS, EVENT_SCHEMA, EVENT_SCHEMA_VERSION
from feeds.model import activity_id, format_time
from training.events.log import MANIFEST, ExportedFile, Manifest
from training.sources.base import Progress, no_progress

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SyntheticLog", "write_synthetic_log"]

_START_US: Final = 1_704_067_200_000_000  # 2024-01-01
_SLATE: Final = 10
_FILE_ROWS: Final = 250_000
_KIND_SHARES: Final = (0.70, 0.15, 0.05, 0.03, 0.05, 0.02, 0.0, 0.0)
_TYPES: Final = ("posted", "followed", "impression", "engagement")
_POSTED, _FOLLOWED, _IMPRESSION, _ENGAGEMENT = range(4)

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SyntheticLog:
    """How large a log is, and of what."""

    events: int
    users: int
    days: int = 30
    seed: int = 1
    posts_share: float = 0.02
    follows_share: float = 0.03
    engaged_share: float = 0.15
    """Engagements for each impression."""
    late_share: float = 0.01
    """Of the engagements, which are known hours after they happened."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Events in the order in which they were known; what a type does not have is -1."""

    kind_of_event: npt.NDArray[np.int8]
    time_us: Ints
    user: npt.NDArray[np.int32]
    activity: npt.NDArray[np.int32]
    slate: npt.NDArray[np.int32]
    position: npt.NDArray[np.int32]
    engagement: npt.NDArray[np.int8]


def write_synthetic_log(
    size: SyntheticLog, out: Path, tenant: str = "synthetic", progress: Progress = no_progress
) -> Path:
    """Write a log as `headwater export` lays it out; returns `out`. About 2 s a million events.

    The same size and seed give the same events.
    """
    random = np.random.default_rng(size.seed)
    posts = max(1, int(size.events * size.posts_share))
    drawn, posted_us = _drawn(size, posts, random)
    names = _Names.of(size, posts, posted_us, random)
    root = out / f"tenant={tenant}"
    root.mkdir(parents=True, exist_ok=True)
    files: list[ExportedFile] = []
    day = drawn.time_us // DAY_US
    ordered = np.argsort(day, kind="stable")
    for part in _parts(day[ordered]):
        progress("write events", part.start, len(ordered))
        rows = ordered[part]
        table = names.table(drawn, rows)
        files.append(_write(root, int(day[rows[0]]), rows, table))
    manifest = Manifest(EVENT_SCHEMA_VERSION, len(ordered), tuple(files))
    (root / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return out


def _drawn(size: SyntheticLog, posts: int, random: np.random.Generator) -> tuple[_Drawn, Ints]:
    follows = int(size.events * size.follows_share)
    rest = max(_SLATE, size.events - posts - follows)
    slates = max(1, round(rest / (1 + size.engaged_share) / _SLATE))
    shown, span_us = slates * _SLATE, size.days * DAY_US
    posted_us = np.sort(random.integers(0, span_us, posts))
    posted_us[0] = 0
    slate_us = np.sort(random.integers(HOUR_US, span_us, slates))
    newest = np.searchsorted(posted_us, slate_us) - 1
    recent = max(_SLATE, posts // size.days)
    back = random.exponential(recent, (slates, _SLATE)).astype(np.int64)
    activity = np.maximum(newest[:, None] - back, 0).ravel()
    reader = _unequal(size.users, slates, random)
    engaged = np.sort(random.permutation(shown)[: max(0, rest - shown)])
    delay_us = random.exponential(20 * 60e6, len(engaged)).astype(np.int64)
    late = random.random(len(engaged)) < size.late_share
    slate = np.repeat(np.arange(slates), _SLATE)
    position = np.tile(np.arange(_SLATE), slates)
    engaged_us = slate_us[slate[engaged]] + delay_us
    parts = (
        _part(_POSTED, posted_us, activity=np.arange(posts)),
        _part(
            _FOLLOWED,
            random.integers(0, span_us, follows),
            user=_unequal(size.users, follows, random),
        ),
        _part(_IMPRESSION, slate_us[slate], reader[slate], activity, slate, position),
        _part(
            _ENGAGEMENT,
            engaged_us,
            reader[slate[engaged]],
            activity[engaged],
            slate[engaged],
            position[engaged],
            random.choice(len(ENGAGEMENT_KINDS), len(engaged), p=_KIND_SHARES),
        ),
    )
    joined = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
    known_us = joined[1].copy()
    known_us[len(known_us) - len(engaged) :] += np.where(late, 3 * HOUR_US, 0)
    order = np.argsort(known_us, kind="stable")
    kind_of_event, time_us, *others = (column[order] for column in joined)
    return _Drawn(kind_of_event, time_us + _START_US, *others), posted_us + _START_US


def _part(
    kind: int,
    time_us: Ints,
    user: npt.NDArray[Any] | None = None,
    activity: npt.NDArray[Any] | None = None,
    slate: npt.NDArray[Any] | None = None,
    position: npt.NDArray[Any] | None = None,
    engagement: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], ...]:  # Any: integers of any width
    none = np.full(len(time_us), -1, np.int32)
    return (
        np.full(len(time_us), kind, np.int8),
        time_us,
        *(
            none if each is None else each.astype(np.int32)
            for each in (user, activity, slate, position)
        ),
        none.astype(np.int8) if engagement is None else engagement.astype(np.int8),
    )


def _unequal(names: int, count: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """`count` draws of `names`, the most frequent of which come up a few hundred times as often."""
    shares = random.lognormal(0, 1.2, names)
    chosen: npt.NDArray[np.int64] = random.choice(names, count, p=shares / shares.sum())
    return chosen


@dataclass(frozen=True, slots=True)
class _Names:
    """The texts that numbers stand for, and what each activity is like."""

    users: Any  # Any: pyarrow has no types
    homes: Any
    activities: Any
    slates: int
    feeds: Any
    author: Ints
    tags: Any
    topics: Any
    length: npt.NDArray[np.int32]
    followed: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls, size: SyntheticLog, posts: int, posted_us: Ints, random: np.random.Generator
    ) -> "_Names":
        import pyarrow as pa  # noqa: PLC0415 - half a second that only training pays

        authors = max(2, size.users // 50)
        tags = [f"t{number}" for number in range(200)]
        of_posts = _unequal(len(tags), posts * 3, random).reshape(posts, 3)
        counts = random.integers(1, 4, posts)
        lists = [
            [tags[tag] for tag in row[:count]]
            for row, count in zip(of_posts.tolist(), counts.tolist(), strict=True)
        ]
        ids = [
            activity_id(time_us, str(number).encode())
            for number, time_us in enumerate(posted_us.tolist())
        ]
        return cls(
            users=pa.array([f"u{number}" for number in range(size.users)]),
            homes=pa.array([f"timeline:u{number}" for number in range(size.users)]),
            activities=pa.array(ids),
            slates=size.events,
            feeds=pa.array([f"user:a{number}" for number in range(authors)]),
            author=_unequal(authors, posts, random),
            tags=pa.array(lists),
            topics=pa.array([[f"topic:{row[0]}"] for row in lists]),
            length=random.integers(100, 2_000, posts).astype(np.int32),
            followed=_unequal(authors, size.events, random),
        )

    def table(self, drawn: _Drawn, rows: Ints) -> "pa.Table":
        """Some events as rows of the export."""
        import pyarrow as pa  # noqa: PLC0415

        kind, time_us = drawn.kind_of_event[rows], drawn.time_us[rows]
        activity, slate = drawn.activity[rows], drawn.slate[rows]
        posted, followed = kind == _POSTED, kind == _FOLLOWED
        seen = kind >= _IMPRESSION
        author = np.where(posted, self.author[activity], -1)
        target = np.where(followed, self.followed[rows], -1)
        stamp = pa.timestamp("us", tz="UTC")
        columns = {
            "index": pa.array(rows + 1),
            "ordinal": pa.array(np.zeros(len(rows), np.int32)),
            "type": _taken(pa.array(_TYPES), kind),
            "time": pa.array(time_us).cast(stamp),
            "user": _taken(self.users, np.where(seen, drawn.user[rows], -1)),
            "activity_id": _taken(self.activities, activity),
            "actor": _taken(self.feeds, author),
            "verb": _taken(pa.array(["post"]), posted - 1),
            "object": _taken(self.activities, np.where(posted, activity, -1)),
            "feed": _filled(_taken(self.feeds, author), seen),
            "to": _taken(self.topics, np.where(posted, activity, -1)),
            "tags": _taken(self.tags, np.where(posted, activity, -1)),
            "length": _taken(pa.array(self.length), np.where(posted, activity, -1)),
            "follower": _taken(self.homes, np.where(followed, drawn.user[rows], -1)),
            "target": _taken(self.feeds, target),
            "since": pa.array(time_us, mask=~followed).cast(stamp),
            "derived": pa.array(np.zeros(len(rows), np.bool_), mask=~followed),
            "keep_history": pa.nulls(len(rows), pa.bool_()),
            "kind": _taken(pa.array(ENGAGEMENT_KINDS), drawn.engagement[rows]),
            "position": pa.array(drawn.position[rows], mask=~seen),
            "slate_id": _slate_ids(slate, seen),
            "value": pa.array(np.ones(len(rows), np.float32), mask=kind != _ENGAGEMENT),
        }
        return pa.table({name: columns[name] for name, _ in EVENT_SCHEMA})


def _taken(values: Any, places: npt.NDArray[Any]) -> Any:  # Any: pyarrow has no types
    """The value of each place, null where it is -1."""
    import pyarrow as pa  # noqa: PLC0415

    places = places.astype(np.int64)
    return values.take(pa.array(places, mask=places < 0))


def _filled(values: Any, chosen: npt.NDArray[np.bool_]) -> Any:  # Any: pyarrow has no types
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    return pc.if_else(pa.array(chosen), "", values)


def _slate_ids(slate: npt.NDArray[np.int32], seen: npt.NDArray[np.bool_]) -> Any:
    """The names of slates; Any: pyarrow has no types."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    numbers = pc.cast(pa.array(slate, mask=~seen), pa.string())
    return pc.binary_join_element_wise("slate", numbers, "-")


def _parts(day: Ints) -> Iterator[slice]:
    """Rows of one day, a file's worth at a time."""
    starts = np.flatnonzero(np.append(True, np.diff(day) != 0))
    for start, stop in zip(starts, [*starts[1:], len(day)], strict=True):
        for begin in range(int(start), int(stop), _FILE_ROWS):
            yield slice(begin, min(begin + _FILE_ROWS, int(stop)))


def _write(root: Path, day: int, rows: Ints, table: "pa.Table") -> ExportedFile:
    import pyarrow.parquet as pq  # noqa: PLC0415

    directory = root / f"day={format_time(day * DAY_US)[:10]}"
    directory.mkdir(exist_ok=True)
    path = directory / f"events-{rows[0] + 1}-{rows[-1] + 1}.parquet"
    pq.write_table(table, path, compression="zstd")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return ExportedFile(str(path.relative_to(root)), len(rows), digest)
