import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.errors import InvalidCursor
from feeds.model import TenantId, UserId, activity_id, position_of
from ranking.slates import RankedActivities, Slate
from serving.cursors import PinnedSlate, SlateCursor, Slates, SlateStore
from serving.errors import SlateExpired
from serving.shared_slates import SharedSlates

ACME, BOB = TenantId("acme"), UserId("bob")


def slate(request_id: str, places: int = 3, tenant: TenantId = ACME) -> PinnedSlate:
    ranked = RankedActivities(
        activity_ids=[activity_id(n, b"x") for n in range(places)],
        feed_positions=[position_of(activity_id(n, b"x")) for n in range(places)],
        scores=[n / 8 for n in range(places)],
        sources=["following"] * places,
        reasons=["because"] * places,
        propensities=[0.5] * places,
    )
    return PinnedSlate.of(Slate(request_id, tenant, BOB, "explore", ranked), b"{}")


def request_id(number: int) -> str:
    return f"{number:032x}"


@given(number=st.integers(0, 2**128 - 1), offset=st.integers(0, 65_535))
def test_a_cursor_reads_as_it_was_written(number: int, offset: int) -> None:
    cursor = SlateCursor(request_id(number), offset)

    assert SlateCursor.decode(cursor.encode()) == cursor


@given(text=st.text(max_size=60))
def test_whatever_is_no_cursor_is_refused_as_one(text: str) -> None:
    try:
        cursor = SlateCursor.decode(text)
    except InvalidCursor:
        return
    assert SlateCursor.decode(cursor.encode()) == cursor


def test_a_refused_cursor_says_what_to_do() -> None:
    with pytest.raises(InvalidCursor, match="leave the cursor out to read from the top"):
        SlateCursor.decode("nonsense")


def test_a_pinned_slate_keeps_every_place() -> None:
    pinned = slate(request_id(1), places=5)

    assert len(pinned) == 5
    assert pinned.positions(0, 5) == [position_of(activity_id(n, b"x")) for n in range(5)]
    assert pinned.positions(3, 4) == [position_of(activity_id(3, b"x"))]
    assert list(pinned.scores) == [0.0, 0.125, 0.25, 0.375, 0.5]


MakeSlates = Callable[[Callable[[], float], int], Slates]
"""(clock, slates_max) -> slates that expire after 10 s."""


@pytest.fixture(params=["memory", "shared"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeSlates]:
    with ExitStack() as stack:

        def opened(clock: Callable[[], float], slates_max: int) -> Slates:
            slates = (
                SlateStore(clock, slates_max, 10)
                if request.param == "memory"
                else SharedSlates(tmp_path / "slates", clock, slates_max, 10)
            )
            stack.callback(slates.close)
            return slates

        yield opened


def test_a_slate_comes_back_as_it_was_pinned(make: MakeSlates) -> None:
    store, pinned = make(lambda: 0.0, 2), slate(request_id(1), places=7)
    store.pin(pinned)

    assert pinned == store.find(SlateCursor(request_id(1), 3), ACME, BOB, "explore")


def test_the_slate_pinned_longest_ago_leaves_first(make: MakeSlates) -> None:
    store = make(lambda: 0.0, 2)
    for number in range(3):
        store.pin(slate(request_id(number)))

    assert len(store) == 2
    with pytest.raises(SlateExpired) as caught:
        store.find(SlateCursor(request_id(0), 1), ACME, BOB, "explore")
    assert caught.value.answer.status == 410
    assert "without a cursor" in caught.value.more_info
    assert len(store.find(SlateCursor(request_id(2), 1), ACME, BOB, "explore")) == 3


def test_a_slate_expires(make: MakeSlates) -> None:
    now = [0.0]
    store = make(lambda: now[0], 9)
    store.pin(slate(request_id(1)))
    now[0] = 10.0

    with pytest.raises(SlateExpired):
        store.find(SlateCursor(request_id(1), 1), ACME, BOB, "explore")

    store.pin(slate(request_id(2)))
    assert len(store) == 1


@pytest.mark.parametrize(
    ("tenant", "user", "kind"),
    [("other", "bob", "explore"), ("acme", "eve", "explore"), ("acme", "bob", "personalized")],
)
def test_somebody_else_cannot_use_a_cursor(
    make: MakeSlates, tenant: str, user: str, kind: str
) -> None:
    store = make(lambda: 0.0, 9)
    store.pin(slate(request_id(1)))

    with pytest.raises(SlateExpired):
        store.find(SlateCursor(request_id(1), 1), TenantId(tenant), UserId(user), kind)  # type: ignore[arg-type]


def test_a_tenants_slates_are_forgotten_and_no_others(make: MakeSlates) -> None:
    store, other = make(lambda: 0.0, 9), TenantId("other")
    for number, tenant in enumerate((ACME, other, ACME)):
        store.pin(slate(request_id(number), tenant=tenant))
    store.forget(ACME)

    for number in (0, 2):
        with pytest.raises(SlateExpired):
            store.find(SlateCursor(request_id(number), 1), ACME, BOB, "explore")
    assert len(store.find(SlateCursor(request_id(1), 1), other, BOB, "explore")) == 3


def test_a_cursor_of_one_process_is_good_at_another(tmp_path: Path) -> None:
    with (
        closing(SharedSlates(tmp_path / "slates", lambda: 0.0, 9, 10)) as one,
        closing(SharedSlates(tmp_path / "slates", lambda: 0.0, 9, 10)) as other,
    ):
        for number in range(12):
            (one, other)[number % 2].pin(slate(request_id(number)))
        for number in range(3, 12):
            cursor = SlateCursor(request_id(number), 1)
            for store in (one, other):
                assert slate(request_id(number)) == store.find(cursor, ACME, BOB, "explore")
        assert 9 == len(one) == len(other)


def test_slates_that_cannot_be_written_expire_at_once(tmp_path: Path) -> None:
    with (
        closing(SharedSlates(tmp_path / "slates", lambda: 0.0, 9, 10)) as store,
        closing(sqlite3.connect(tmp_path / "slates", isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        store.pin(slate(request_id(1)))
        other.execute("ROLLBACK")
        with pytest.raises(SlateExpired):
            store.find(SlateCursor(request_id(1), 1), ACME, BOB, "explore")
        store.pin(slate(request_id(2)))
        assert len(store.find(SlateCursor(request_id(2), 1), ACME, BOB, "explore")) == 3
