"""Events that teach little, or are wrong: a clear sentence or a sound version, never half a one."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from msgspec.structs import replace

from feeds.counters import DAY_US
from feeds.events import Engagement, Event, Impression, Posted, Removed
from feeds.model import TenantId, UserId
from ranking.registry import open_registry
from training import TrainingConfig, TrainingResult, train_tenant
from training.errors import TrainingError
from training.testing import community, events_of, log_of, write_export

FEW = "are too few .*: at least 40 are needed; record more"

SOUND = list(events_of(community(1, users=12, days=12)))


def shown(event: Engagement) -> Impression:
    """The sight of an activity, a second before something was done with it."""
    return Impression(
        time_us=event.time_us - 1_000_000, user=event.user, activity_id=event.activity_id
    )


def each(
    change: Callable[[Engagement], Iterable[Event]], events: Iterable[Event] = SOUND
) -> list[Event]:
    """The events with other ones for each engagement."""
    return [
        new
        for event in events
        for new in (change(event) if isinstance(event, Engagement) else (event,))
    ]


def shuffled() -> list[Event]:
    events = list(SOUND)
    random.Random(1).shuffle(events)
    return events


def a_year_ahead() -> list[Event]:
    return [
        replace(event, time_us=event.time_us + 365 * DAY_US) if number % 50 == 0 else event
        for number, event in enumerate(SOUND)
    ]


def liked_when_removed() -> list[Event]:
    end_us = max(event.time_us for event in SOUND)
    gone = {event.activity_id for event in SOUND if isinstance(event, Posted)}
    gone = set(sorted(gone)[::8])
    removed = [Removed(time_us=end_us + 1, activity_id=activity) for activity in sorted(gone)]
    liked = [event for event in SOUND if isinstance(event, Engagement)]
    late = [replace(e, time_us=end_us + 2) for e in liked if e.activity_id in gone]
    assert late
    return [*SOUND, *removed, *late]


def train(events: list[Event], home: Path) -> TrainingResult:
    write_export(log_of(events), home / "events")
    return train_tenant(
        home / "events",
        "acme",
        out=home / "out",
        registry=f"dir:{home / 'registry'}",
        scheduler="inline",
        promote=True,
        config=TrainingConfig(trainers=("logistic",)),
    )


def versions(home: Path) -> list[int]:
    registry = open_registry(f"dir:{home / 'registry'}")
    try:
        return [version.version for version in registry.versions(TenantId("acme"))]
    finally:
        registry.close()


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([], "no events were exported yet; record some"),
        (SOUND[:1], f"0 engagements {FEW}"),
        (SOUND[:10], f"1 engagements {FEW}"),
        (each(lambda _: ()), f"0 engagements {FEW}"),
        (each(lambda event: (shown(event),)), f"0 engagements {FEW}"),
    ],
    ids=["none", "one", "ten", "only posts", "only what nobody liked"],
)
def test_too_few_events_are_told_and_nothing_is_published(
    events: list[Event], told: str, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=told):
        train(events, tmp_path)
    assert versions(tmp_path) == []
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "events",
    [
        each(lambda event: (shown(event), event)),
        each(lambda event: (replace(event, user=UserId("u0")),)),
        each(lambda event: (event, event)),
        shuffled(),
        a_year_ahead(),
        liked_when_removed(),
    ],
    ids=[
        "all that was shown is liked",
        "one user likes everything",
        "everything comes twice",
        "nothing comes in order",
        "some clocks are a year ahead",
        "likes of what was removed",
    ],
)
def test_strange_events_give_a_sound_version_that_the_gates_have_judged(
    events: list[Event], tmp_path: Path
) -> None:
    result = train(events, tmp_path)
    assert versions(tmp_path) == [result.version]
    assert result.promoted == result.gates.passed
    assert result.report.rankers
    assert result.bundle.is_dir()
