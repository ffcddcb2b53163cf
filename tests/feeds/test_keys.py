"""Laws of the keyspace: what is encoded comes back, order is kept, tenants are apart."""

from hypothesis import given
from hypothesis import strategies as st

from feeds.keys import (
    ActivityKey,
    CounterKey,
    DedupKey,
    DegreesKey,
    EventKey,
    ExpiryKey,
    FeedRowKey,
    FollowerKey,
    FollowKey,
    OutboxKey,
    PulledKey,
    TenantKey,
    after,
    read_number,
    write_number,
)
from feeds.model import Position

tenants = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,4}", fullmatch=True)
feeds = st.from_regex(r"[a-z][a-z0-9_]{0,3}:[A-Za-z0-9_-]{1,4}", fullmatch=True)
positions = st.binary(min_size=16, max_size=16).map(Position)
numbers = st.integers(0, 2**64 - 1)
ordinals = st.integers(0, 2**32 - 1)
texts = st.text(max_size=5)


@given(tenants, feeds, positions, st.just("") | feeds)
def test_feed_row_key_comes_back(tenant: str, feed: str, position: Position, origin: str) -> None:
    key = FeedRowKey(tenant, feed, position, origin)
    assert key == FeedRowKey.decode(key.encode())
    assert key.encode().startswith(FeedRowKey.prefix(tenant, feed))


@given(tenants, positions)
def test_activity_key_comes_back(tenant: str, position: Position) -> None:
    key = ActivityKey(tenant, position)
    assert key == ActivityKey.decode(key.encode())


@given(tenants, numbers, ordinals)
def test_event_key_comes_back(tenant: str, index: int, ordinal: int) -> None:
    key = EventKey(tenant, index, ordinal)
    assert key == EventKey.decode(key.encode())


@given(tenants, numbers, texts)
def test_expiry_key_comes_back(tenant: str, expires_us: int, name: str) -> None:
    key = ExpiryKey(tenant, expires_us, name)
    assert key == ExpiryKey.decode(key.encode())


@given(tenants, feeds, feeds)
def test_outbox_and_tenant_keys_come_back(tenant: str, follower: str, target: str) -> None:
    key = OutboxKey(tenant, follower, target)
    assert key == OutboxKey.decode(key.encode())
    assert TenantKey(tenant) == TenantKey.decode(TenantKey(tenant).encode())


@given(
    st.tuples(tenants, feeds, positions, st.just("") | feeds),
    st.tuples(tenants, feeds, positions, st.just("") | feeds),
)
def test_feed_rows_sort_by_tenant_feed_position_and_origin(
    one: tuple[str, str, Position, str], other: tuple[str, str, Position, str]
) -> None:
    assert (one < other) == (FeedRowKey(*one).encode() < FeedRowKey(*other).encode())


@given(st.tuples(tenants, numbers, ordinals), st.tuples(tenants, numbers, ordinals))
def test_events_sort_by_tenant_index_and_ordinal(
    one: tuple[str, int, int], other: tuple[str, int, int]
) -> None:
    assert (one < other) == (EventKey(*one).encode() < EventKey(*other).encode())


@given(st.tuples(tenants, numbers, texts), st.tuples(tenants, numbers, texts))
def test_expiries_sort_by_tenant_and_time(
    one: tuple[str, int, str], other: tuple[str, int, str]
) -> None:
    if one[:2] != other[:2]:
        assert (one < other) == (ExpiryKey(*one).encode() < ExpiryKey(*other).encode())


@given(numbers, numbers)
def test_numbers_sort_as_they_are(one: int, other: int) -> None:
    assert (one < other) == (write_number(one) < write_number(other))
    assert one == read_number(write_number(one))


def _prefixes(tenant: str, feed: str) -> list[bytes]:
    return [
        ActivityKey.prefix(tenant),
        FeedRowKey.prefix(tenant, feed),
        FollowKey.prefix(tenant, feed),
        FollowerKey.prefix(tenant, feed),
        PulledKey.prefix(tenant, feed),
        EventKey.prefix(tenant),
        ExpiryKey.prefix(tenant),
        CounterKey.prefix(tenant, "author"),
    ]


def _keys(tenant: str, feed: str, position: Position, text: str) -> list[bytes]:
    return [
        ActivityKey(tenant, position).encode(),
        FeedRowKey(tenant, feed, position, feed).encode(),
        FollowKey(tenant, feed, feed).encode(),
        FollowerKey(tenant, feed, feed).encode(),
        PulledKey(tenant, feed, feed).encode(),
        DegreesKey(tenant, feed).encode(),
        EventKey(tenant, 1, 2).encode(),
        CounterKey(tenant, "author", text.encode()).encode(),
        DedupKey(tenant, text).encode(),
        ExpiryKey(tenant, 7, text).encode(),
        OutboxKey(tenant, feed, feed).encode(),
    ]


@given(tenants, tenants, feeds, positions, texts)
def test_no_scan_of_a_tenant_meets_a_key_of_another(
    mine: str, other: str, feed: str, position: Position, text: str
) -> None:
    if mine == other:
        return
    for key in _keys(other, feed, position, text):
        for prefix in _prefixes(mine, feed):
            assert not prefix <= key < after(prefix)


@given(tenants, feeds, feeds, positions)
def test_no_scan_of_a_feed_meets_a_row_of_another(
    tenant: str, mine: str, other: str, position: Position
) -> None:
    if mine != other:
        prefix = FeedRowKey.prefix(tenant, mine)
        assert not prefix <= FeedRowKey(tenant, other, position).encode() < after(prefix)


@given(st.binary(min_size=1), st.binary())
def test_after_is_behind_every_key_with_the_prefix(head: bytes, rest: bytes) -> None:
    prefix = head + b"\0"
    assert prefix <= prefix + rest < after(prefix)
