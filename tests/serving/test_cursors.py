import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.errors import InvalidCursor
from feeds.model import ActivityId, TenantId, UserId, activity_id
from ranking.candidates import RankedActivity, Slate
from serving.cursors import PinnedSlate, SlateCursor, SlateStore
from serving.errors import SlateExpired

ACME, BOB = TenantId("acme"), UserId("bob")


def slate(request_id: str, places: int = 3) -> PinnedSlate:
    ranked = [
        RankedActivity(activity_id(n, b"x"), n, n / 8, "following", "because", 0.5)
        for n in range(places)
    ]
    return PinnedSlate.of(Slate(request_id, ACME, BOB, "explore", ranked), b"{}")


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
    assert [pinned.activity_id(n) for n in range(5)] == [
        ActivityId(activity_id(n, b"x")) for n in range(5)
    ]
    assert list(pinned.scores) == [0.0, 0.125, 0.25, 0.375, 0.5]


def test_the_slate_pinned_longest_ago_leaves_first() -> None:
    store = SlateStore(lambda: 0.0, slates_max=2, ttl_s=10)
    for number in range(3):
        store.pin(slate(request_id(number)))

    assert len(store) == 2
    with pytest.raises(SlateExpired) as caught:
        store.find(SlateCursor(request_id(0), 1), ACME, BOB, "explore")
    assert caught.value.answer.status == 410
    assert "without a cursor" in caught.value.more_info
    assert len(store.find(SlateCursor(request_id(2), 1), ACME, BOB, "explore")) == 3


def test_a_slate_expires() -> None:
    now = [0.0]
    store = SlateStore(lambda: now[0], slates_max=9, ttl_s=10)
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
def test_somebody_else_cannot_use_a_cursor(tenant: str, user: str, kind: str) -> None:
    store = SlateStore(lambda: 0.0, slates_max=9, ttl_s=10)
    store.pin(slate(request_id(1)))

    with pytest.raises(SlateExpired):
        store.find(SlateCursor(request_id(1), 1), TenantId(tenant), UserId(user), kind)  # type: ignore[arg-type]
