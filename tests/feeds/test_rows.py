"""Laws of cutting positions out of the keys of a feed's rows."""

from hypothesis import given
from hypothesis import strategies as st

from feeds.keys import FeedRowKey, after
from feeds.model import Position
from feeds.rows import distinct, positions_in

positions = st.sampled_from([b"\0", b"\1", b"a", b"\xff"]).flatmap(
    lambda byte: st.integers(0, 16).map(lambda count: Position(byte * count + bytes(16 - count)))
)
origins = st.just("") | st.from_regex(r"[a-z]{1,3}:[a-z]{1,40}", fullmatch=True)
rows = st.lists(st.tuples(positions, origins), max_size=40)


@given(rows, st.sampled_from(["timeline:a", "t:" + "b" * 200]))
def test_positions_are_those_of_the_rows_in_order_each_once(
    rows: list[tuple[Position, str]], feed: str
) -> None:
    keys = sorted({FeedRowKey("demo", feed, *row).encode() for row in rows})
    found = positions_in(keys, len(FeedRowKey.prefix("demo", feed)))
    assert sorted({position for position, _ in rows}) == found


@given(st.lists(positions))
def test_distinct_keeps_the_first_of_each(positions: list[Position]) -> None:
    positions.sort()
    assert list(dict.fromkeys(positions)) == distinct(positions)


@given(st.from_regex(r"[a-z0-9]{1,4}", fullmatch=True), st.from_regex(r"[a-z]:[a-z]{1,4}"))
def test_bounds_hold_every_row_and_no_other(tenant: str, feed: str) -> None:
    prefix = FeedRowKey.prefix(tenant, feed)
    assert (prefix, after(prefix)) == FeedRowKey.bounds(tenant, feed)
