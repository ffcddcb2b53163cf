"""From the log to the store: however commands share batches, the state is that of each alone."""

import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.applier import Applier
from feeds.commands import (
    AddKey,
    Command,
    CreateTenant,
    DeleteTenant,
    FollowFeed,
    MoveClock,
    PostActivity,
    RevokeKey,
    SetQuotas,
    WipeTenant,
    encode_command,
)
from feeds.events import Posted
from feeds.flushing import InlineFlusher
from feeds.model import activity_id
from feeds.store.base import COLUMN_FAMILIES
from feeds.store.memory import MemoryStore
from feeds.testing_engine import NOW_US

FEW = st.integers(0, 2)
TENANTS = st.sampled_from(("one", "two"))
INCARNATIONS = st.sampled_from((0, 0, 1, 2, 5))
"""Of the two that the log begins with; of none, which always fits; of one that may come later."""


def posted(tenant: str, number: int, incarnation: int) -> PostActivity:
    facts = Posted(
        time_us=NOW_US,
        activity_id=activity_id(NOW_US, b"%d" % number),
        actor="user:a",
        verb="post",
        object="o",
        feed="user:a",
    )
    return PostActivity(
        tenant=tenant, posted=facts, body=b"{}", places_max=9, incarnation=incarnation
    )


def followed(tenant: str, number: int, incarnation: int) -> FollowFeed:
    return FollowFeed(
        tenant=tenant,
        follower=f"timeline:{number}",
        target="user:a",
        time_us=NOW_US,
        copy_limit=9,
        copy_max=9,
        pull_above=9,
        follows_max=3,
        incarnation=incarnation,
    )


def key_added(tenant: str, number: int, incarnation: int) -> AddKey:
    return AddKey(
        tenant=tenant,
        key_id=f"k{number}",
        secret_sha256=b"s",
        scopes=(),
        keys_max=2,
        incarnation=incarnation,
    )


COMMANDS: st.SearchStrategy[list[Command]] = st.lists(
    st.one_of(
        st.builds(CreateTenant, tenant=TENANTS, now_us=FEW),
        st.sampled_from(
            (
                DeleteTenant(tenant="one", incarnation=1),
                DeleteTenant(tenant="two", incarnation=2),
                DeleteTenant(tenant="one", incarnation=9),
            )
        ),
        st.builds(WipeTenant, tenant=TENANTS, rows_max=st.integers(1, 9)),
        st.builds(
            SetQuotas,
            tenant=TENANTS,
            quotas=st.fixed_dictionaries({"requests_per_s": FEW}),
            incarnation=INCARNATIONS,
        ),
        st.builds(key_added, TENANTS, FEW, INCARNATIONS),
        st.builds(RevokeKey, tenant=TENANTS, key_id=st.sampled_from(("k0", "k1"))),
        st.builds(posted, TENANTS, FEW, INCARNATIONS),
        st.builds(followed, TENANTS, FEW, INCARNATIONS),
        st.builds(MoveClock, seen_us=FEW, to_us=FEW),
    ),
    max_size=24,
).map(lambda log: [*(CreateTenant(tenant=tenant, now_us=1) for tenant in ("one", "two")), *log])


def chained(store: MemoryStore, before: int) -> int:
    """A hash over everything in a store, and over what it was before."""
    for family in COLUMN_FAMILIES:
        for key, value in store.scan(family, b"", b"\xff" * 99):
            before = zlib.crc32(b"%b %b=%b" % (family.encode(), key, value), before)
    return before


@settings(deadline=None)
@given(COMMANDS, st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_batches_of_any_size_give_the_states_of_a_store_that_is_opened_for_each_command(
    log: list[Command], sizes: list[int]
) -> None:
    """The reference keeps nothing from one command to the next; states are equal at each batch."""
    alone, together = MemoryStore(), MemoryStore()
    many = Applier(together, 0, 1 << 20, InlineFlusher(together))
    begun, place = 0, 0
    for index, command in enumerate(log, 1):
        data = encode_command(command)
        one = Applier(alone, index - 1, 1 << 20, InlineFlusher(alone))
        assert one.apply(index, 1, data) == many.hold(index, 1, data)
        if index - begun == sizes[place % len(sizes)]:
            many.commit()
            begun, place = index, place + 1
            assert chained(alone, index) == chained(together, index)
    many.commit()
    assert chained(alone, 0) == chained(together, 0)
