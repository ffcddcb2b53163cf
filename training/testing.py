"""Twins for tests: actions turned into events without an engine, and an export without a log."""

import bisect
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from feeds.actions import Action, Engage, Follow, Post, Show
from feeds.counters import DAY_US, HOUR_US
from feeds.events import (
    EVENT_SCHEMA,
    EVENT_SCHEMA_VERSION,
    Engagement,
    Event,
    Followed,
    Impression,
    Posted,
)
from feeds.model import (
    Activity,
    ActivityId,
    UserId,
    encode_body,
    format_time,
    parse_time,
)
from training.events.log import MANIFEST, EventLog, ExportedFile, Manifest, row_of
from training.sources.base import id_of

__all__ = ["community", "events_of", "log_of", "write_export"]


def log_of(events: Iterable[Event], tenant: str = "acme") -> EventLog:
    """The events as a log: one command for each, from index 1."""
    listed = list(events)
    return EventLog(tenant, list(range(1, len(listed) + 1)), listed)


def events_of(actions: Iterable[Action]) -> Iterator[Event]:
    """The events that an engine leaves when actions are replayed through it.

    This twin knows posts, follows, impressions and engagements.
    """
    posted: dict[str, list[int]] = defaultdict(list)
    for action in actions:
        if isinstance(action, Post):
            event = _posted(action)
            for feed in {event.feed, *event.to}:
                bisect.insort(posted[feed], event.time_us)
            yield event
        elif isinstance(action, Follow):
            copied = posted[action.target][-action.copy_limit :]
            yield Followed(
                time_us=action.time_us,
                follower=action.follower,
                target=action.target,
                since_us=copied[0] if copied else action.time_us,
                derived=action.derived,
            )
        elif isinstance(action, Engage):
            yield Engagement(kind=action.kind, value=action.value, **_shown(action))
        elif isinstance(action, Show):
            yield Impression(**_shown(action))
        else:
            raise NotImplementedError(f"the twin knows no {type(action).__name__}")


def community(seed: int, users: int = 40, days: int = 30, topics: int = 4) -> Iterator[Action]:
    """A made-up app with a known truth, in time order: each user likes one topic, and new posts.

    Every day two activities of each topic are posted, each by an author of its own topic. Then
    each user likes one of the day's activities of the topic that is the user's own, and follows its
    author at first.
    """
    random = np.random.default_rng(seed)
    start_us = parse_time("2020-01-01T00:00:00")
    followed: set[int] = set()
    for day in range(days):
        morning_us = start_us + day * DAY_US
        posts = [
            _community_post(morning_us + number * 1_000_000, day, number, number % topics)
            for number in range(2 * topics)
        ]
        yield from posts
        for place, user in enumerate(random.permutation(users).tolist()):
            time_us = morning_us + HOUR_US + place * 60_000_000
            topic = user % topics
            liked = posts[topic + topics * int(random.integers(2))]
            yield Engage(time_us=time_us, user=f"u{user}", activity_id=id_of(liked), kind="like")
            if user not in followed:
                followed.add(user)
                yield Follow(time_us=time_us, follower=f"timeline:u{user}", target=liked.feed)


def write_export(log: EventLog, out: Path, ranking_config: str | None = None) -> Path:
    """Write the log as `feeds.export` lays it out, one file a day; returns `out`.

    With the document of a ranking config, that was active, as version 1.
    """
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    root = out / f"tenant={log.tenant}"
    root.mkdir(parents=True, exist_ok=True)
    rows = [row_of(index, event) for index, event in zip(log.indexes, log.events, strict=True)]
    rows.sort(key=_day)  # stable: within a day in log order
    files = []
    for day, group in itertools.groupby(rows, key=_day):
        day_rows = list(group)
        name = f"events-{day_rows[0]['index']}-{day_rows[-1]['index']}.parquet"
        path = Path(f"day={format_time(day * DAY_US)[:10]}") / name
        (root / path.parent).mkdir(parents=True, exist_ok=True)
        schema = pa.schema([(column, _arrow_type(kind)) for column, kind in EVENT_SCHEMA])
        pq.write_table(pa.Table.from_pylist(day_rows, schema), root / path)
        digest = hashlib.sha256((root / path).read_bytes()).hexdigest()
        files.append(ExportedFile(str(path), len(day_rows), digest))
    manifest = Manifest(
        EVENT_SCHEMA_VERSION,
        max(log.indexes, default=0),
        tuple(files),
        ranking_config_version=0 if ranking_config is None else 1,
        ranking_config=ranking_config,
    )
    (root / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return out


def _posted(action: Post) -> Posted:
    activity_id = id_of(action)
    tags = tuple(str(tag) for tag in action.custom.get("tags", ()))
    activity = Activity(
        id=activity_id,
        actor=action.actor,
        verb=action.verb,
        object=action.object,
        time_us=action.time_us,
        foreign_id=action.foreign_id,
        to=action.to,
        custom=action.custom,
    )
    return Posted(
        time_us=action.time_us,
        activity_id=activity_id,
        actor=action.actor,
        verb=action.verb,
        object=action.object,
        feed=action.feed,
        to=action.to,
        tags=tags,
        length=len(encode_body(activity)),
    )


def _shown(action: Engage | Show) -> dict[str, Any]:  # Any: keywords of mixed types
    return {
        "time_us": action.time_us,
        "user": UserId(action.user),
        "activity_id": ActivityId(action.activity_id),
        "feed": action.feed,
        "position": action.position,
        "slate_id": action.slate_id,
    }


def _community_post(time_us: int, day: int, number: int, topic: int) -> Post:
    author = f"user:author{number}"
    return Post(
        time_us=time_us,
        feed=author,
        actor=author,
        verb="post",
        object=f"note:{day}-{number}",
        foreign_id=f"note:{day}-{number}",
        to=(f"topic:t{topic}",),
        custom={"tags": [f"t{topic}"]},
    )


def _day(row: dict[str, Any]) -> int:  # Any: a row of mixed columns
    return int(row["time"]) // DAY_US


def _arrow_type(name: str) -> Any:  # Any: pyarrow has no types
    import pyarrow as pa  # noqa: PLC0415

    if name.startswith("timestamp"):
        return pa.timestamp("us", tz="UTC")
    if name.startswith("list"):
        return pa.list_(pa.string())
    return {"bool": pa.bool_(), "float32": pa.float32(), "string": pa.string()}.get(
        name
    ) or pa.type_for_alias(name)
