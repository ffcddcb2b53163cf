"""For tests of whatever uses the engine: one in memory, a clock that stands still, a recount."""

from collections.abc import Iterable
from typing import Any

from feeds.config import FeedsConfig
from feeds.counters import CounterRecord, UserRecord, kind_code
from feeds.engine import FeedEngine
from feeds.events import APART_KINDS, Engagement, Event, FeedbackGiven, Impression, Posted
from feeds.keys import Entity
from feeds.model import ActivityDraft, ActivityId, TenantId, UserId, position_of
from feeds.replication.memory import MemoryReplica
from feeds.store.base import COLUMN_FAMILIES, Store
from feeds.store.memory import MemoryStore

__all__ = [
    "NOW_US",
    "ManualClock",
    "check_counters",
    "draft",
    "like",
    "logged_events",
    "memory_engine",
    "stored",
]

NOW_US = 1_600_000_000_000_000
"""Where a `ManualClock` starts: 2020-09-13, in microseconds since the epoch."""


class ManualClock:
    """A clock that moves when it is told to; microseconds since the epoch."""

    def __init__(self, now_us: int = NOW_US) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        """The time."""
        return self.now_us

    def advance(self, seconds: float) -> None:
        """Move on."""
        self.now_us += round(seconds * 1_000_000)


def memory_engine(
    config: FeedsConfig | None = None,
    clock: ManualClock | None = None,
    tenants: tuple[str, ...] = ("demo",),
    store: Store | None = None,
) -> FeedEngine:
    """An engine in memory with these tenants; each write is applied before its call returns."""
    store, clock = store or MemoryStore(), clock or ManualClock()
    engine = FeedEngine.embedded(
        store, MemoryReplica, config, clock, monotonic=lambda: clock() / 1_000_000
    )
    for tenant in tenants:
        engine.create_tenant(TenantId(tenant)).result()
    return engine


def draft(**changes: Any) -> ActivityDraft:  # Any: each field's own type
    """An activity as an app sends it, but for `changes`."""
    fields: dict[str, Any] = {"actor": "user:ann", "verb": "ship", "object": "v1"}
    return ActivityDraft(**(fields | changes))


def like(activity: ActivityId, **changes: Any) -> Engagement:  # Any: as above
    """That bob likes an activity, but for `changes`."""
    fields: dict[str, Any] = {"time_us": NOW_US, "user": "bob", "kind": "like"}
    return Engagement(activity_id=activity, **(fields | changes))


def stored(engine: FeedEngine) -> dict[str, list[tuple[bytes, bytes]]]:
    """All that the engine's store holds."""
    return {
        family: list(engine._view.scan(family, b"", b"\xff" * 99))  # noqa: SLF001
        for family in COLUMN_FAMILIES
    }


def logged_events(engine: FeedEngine, tenant: TenantId, chunk: int = 10_000) -> list[Event]:
    """Every event of a tenant, in log order."""
    found: list[Event] = []
    last = 0
    while read := engine.events(tenant, last, chunk):
        found += [event for _, _, event in read]
        last = read[-1][0]
    return found


def check_counters(engine: FeedEngine, tenant: TenantId) -> None:
    """Assert that every counter equals a recount of the event log, one event at a time.

    The log must hold no removal: it takes an activity's counts with it.
    """
    counts, users = _recount(logged_events(engine, tenant))
    for (entity, name), expected in counts.items():
        found = _counts(engine, tenant, entity, name)
        assert expected == found, f"{entity} {name}: {expected} by the log, {found} in the store"
    for name, expected_user in users.items():
        assert expected_user == engine.user_record(tenant, UserId(name)), name


def _counts(engine: FeedEngine, tenant: TenantId, entity: Entity, name: str) -> CounterRecord:
    if entity == "author" or entity == "tag":  # noqa: PLR1714 - the type checker follows this
        return engine.counters(tenant, entity, [name])[0]
    (activity,) = engine.activities(tenant, [position_of(name)])
    assert activity is not None, name
    return activity[2]


def _recount(
    log: Iterable[Event],
) -> tuple[dict[tuple[Entity, str], CounterRecord], dict[str, UserRecord]]:
    facts: dict[str, Posted] = {}
    counts: dict[tuple[Entity, str], CounterRecord] = {}
    users: dict[str, UserRecord] = {}
    for event in log:
        if isinstance(event, Posted):
            facts[event.activity_id] = event
        if isinstance(event, FeedbackGiven):
            users.setdefault(event.user, UserRecord.empty()).give(event)
        if not isinstance(event, Impression | Engagement):
            continue
        about = facts[event.activity_id]
        names: list[tuple[Entity, str]] = [
            ("activity", event.activity_id),
            ("author", about.actor),
            *(("tag", tag) for tag in dict.fromkeys(about.tags)),
        ]
        for name in names:
            record = counts.setdefault(name, CounterRecord.empty())
            record.add(kind_code(event), event.time_us)
        if isinstance(event, Engagement) and event.kind not in APART_KINDS:
            counts[names[0]].add_engager(event.user)
        user = users.setdefault(event.user, UserRecord.empty())
        user.add(event, position_of(event.activity_id), about.actor, about.tags)
    return counts, users
