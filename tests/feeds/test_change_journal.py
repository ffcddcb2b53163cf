"""The law: whoever follows a store in any steps hears what whoever applies tells, or of a gap."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.change_journal import ChangeJournal, FollowedChanges
from feeds.engine import FeedEngine
from feeds.events import Event
from feeds.keys import APPLIED, write_number
from feeds.model import ActivityDraft, FeedId, TenantId
from feeds.store.base import Write
from feeds.store.memory import MemoryStore
from feeds.testing_engine import memory_engine

Told = tuple[TenantId, int, tuple[Event, ...]]
TENANTS = (TenantId("demo"), TenantId("other"))


class Heard:
    """A listener that keeps what it heard."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.gaps = 0

    def __call__(self, tenant: TenantId, index: int, events: Sequence[Event]) -> None:
        self.told.append((tenant, index, tuple(events)))

    def gap(self) -> None:
        self.gaps += 1


def post(engine: FeedEngine, tenant: TenantId, number: int) -> None:
    draft = ActivityDraft(actor="user:ann", verb="post", object=f"v{number}")
    engine.post(tenant, FeedId("user", "ann"), draft).result()


def applied(index: int) -> Write:
    return Write("meta", APPLIED, write_number(index) + write_number(1))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("post"), st.sampled_from(TENANTS)),
        st.tuples(st.just("follow"), st.sampled_from(TENANTS)),
        st.just(("silent", TENANTS[0])),
        st.just(("advance", TENANTS[0])),
    ),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(steps=steps)
def test_a_follower_hears_what_the_applier_tells_in_any_grouping(
    steps: list[tuple[str, TenantId]],
) -> None:
    store, direct, followed = MemoryStore(), Heard(), Heard()
    engine = memory_engine(tenants=TENANTS, store=store)
    changes = FollowedChanges(store)
    changes.subscribe(followed, followed.gap)
    engine.subscribe(direct)
    for number, (step, tenant) in enumerate(steps):
        match step:
            case "post":
                post(engine, tenant, number)
            case "follow":
                engine.follow(tenant, FeedId("timeline", f"u{number}"), FeedId("user", "ann"))
            case "silent":
                engine.create_tenant(tenant).result()
            case "advance":
                changes.advance()
                assert direct.told == followed.told
    changes.advance()
    assert direct.told == followed.told
    assert 0 == followed.gaps


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 8), moves=st.lists(st.lists(st.booleans(), max_size=10), max_size=10))
def test_a_ring_of_any_size_misses_nothing_without_saying_so(
    size: int, moves: list[list[bool]]
) -> None:
    store, followed = MemoryStore(), Heard()
    journal, index = ChangeJournal(store, size), 0
    changes = FollowedChanges(store)
    changes.subscribe(followed, followed.gap)
    for move in moves:
        before, told, gaps = index, len(followed.told), followed.gaps
        for leaves_events in move:
            index += 1
            noted = journal.note(index, "demo" if leaves_events else None)
            store.write([*noted, applied(index)])
        changes.advance()
        expected = [before + 1 + n for n, leaves_events in enumerate(move) if leaves_events]
        heard = [index for _, index, _ in followed.told[told:]]
        assert heard == expected or (heard == [] and followed.gaps == gaps + 1)
        if len(move) > size:
            assert gaps + 1 == followed.gaps


def test_a_store_that_went_back_is_a_gap() -> None:
    store, followed = MemoryStore(), Heard()
    engine = memory_engine(store=store)
    for number in range(5):
        post(engine, TENANTS[0], number)
    changes = FollowedChanges(store)
    changes.subscribe(followed, followed.gap)
    store.write([applied(3)])
    changes.advance()
    assert (1, []) == (followed.gaps, followed.told)


def test_a_journal_of_another_size_goes_on_with_what_it_notes() -> None:
    store, followed = MemoryStore(), Heard()
    engine = memory_engine(store=store)
    changes = FollowedChanges(store)
    changes.subscribe(followed, followed.gap)
    for number in range(5):
        post(engine, TENANTS[0], number)
    index = engine.applied_index()
    other = ChangeJournal(store, 3)
    store.write([*other.note(index + 1, "demo"), applied(index + 1)])
    changes.advance()
    assert (1, []) == (followed.gaps, followed.told)
    store.write([*other.note(index + 2, "demo"), applied(index + 2)])
    changes.advance()
    assert 1 == followed.gaps
    assert [index + 2] == [index for _, index, _ in followed.told]


def test_commands_that_a_release_without_a_journal_applied_are_a_gap() -> None:
    store, followed = MemoryStore(), Heard()
    store.write([applied(5)])
    changes = FollowedChanges(store)
    changes.subscribe(followed, followed.gap)
    store.write([applied(7)])
    changes.advance()
    assert 1 == followed.gaps
    store.write([*ChangeJournal(store).note(8, "demo"), applied(8)])
    changes.advance()
    assert 1 == followed.gaps
    store.write([applied(9)])
    store.write([*ChangeJournal(store).note(10, "demo"), applied(10)])
    changes.advance()
    assert 2 == followed.gaps
    assert [8] == [index for _, index, _ in followed.told]


def test_a_listener_that_raises_harms_nobody() -> None:
    store, followed = MemoryStore(), Heard()
    engine = memory_engine(store=store)
    post(engine, TENANTS[0], 0)

    def fail(*_: object) -> None:
        raise ValueError("no")

    changes = FollowedChanges(store)
    changes.subscribe(fail, fail)
    changes.subscribe(followed, followed.gap)
    post(engine, TENANTS[0], 1)
    changes.advance()
    assert 1 == len(followed.told)


def test_the_ring_is_written_round_and_round() -> None:
    store = MemoryStore()
    journal = ChangeJournal(store, 4)
    for index in range(1, 20):
        store.write([*journal.note(index, "demo"), applied(index)])
    assert 4 == len(list(store.scan("meta", b"c\0", b"c\1")))
