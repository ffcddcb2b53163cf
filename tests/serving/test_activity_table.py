"""The law: a table that followed, and one loaded from the store, give the same features."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.change_journal import FollowedChanges, Gap, Listener
from feeds.counters import HOUR_US
from feeds.engine import FeedEngine
from feeds.errors import StorageError
from feeds.events import ENGAGEMENT_KINDS, Engagement, Impression
from feeds.model import ActivityDraft, ActivityId, FeedId, TenantId, UserId, identify
from feeds.replication.memory import MemoryReplica
from feeds.store.base import COLUMN_FAMILIES, Write
from feeds.store.memory import MemoryStore
from feeds.testing_engine import memory_engine
from ranking.buckets import ENGAGEMENT, IMPRESSION
from ranking.candidates import Candidates, Query
from ranking.features import FeatureSpec, build
from ranking.table import ActivityTable
from serving.activity_table import FOLLOWER_BYTES, ActivityTables
from serving.table_loading import load_table
from serving.telemetry import Metrics

ACME = TenantId("acme")
NOW_US = 1_600_000_000_000_000
USERS = ("ann", "bob", "eve")
CAPACITY = 1_000


def tables_on(
    engine: FeedEngine, bytes_max: int = 2**30, backlog_max: int = 10_000
) -> ActivityTables:
    return ActivityTables(
        engine, Metrics(), bytes_max=bytes_max, capacity=CAPACITY, backlog_max=backlog_max
    )


def opened(directory: Path, *tenants: str) -> FeedEngine:
    engine = FeedEngine.open(directory, clock=lambda: NOW_US)
    for tenant in tenants or (ACME,):
        engine.create_tenant(tenant).result()
    return engine


def post(engine: FeedEngine, name: str, tenant: TenantId = ACME, **fields: Any) -> ActivityId:
    """Post, and wait until it is applied."""
    activity, future = posting(engine, name, tenant, **fields)
    future.result()
    return activity


def posting(
    engine: FeedEngine, name: str, tenant: TenantId = ACME, **fields: Any
) -> tuple[ActivityId, Future[Any]]:
    hours = fields.pop("hours", 0)
    actor = fields.pop("actor", "user:ann")
    draft = ActivityDraft(
        actor=actor,
        verb="post",
        object=name,
        foreign_id=name,
        time_us=NOW_US - hours * HOUR_US,
        custom={"tags": list(fields.pop("tags", ()))},
        to=tuple(fields.pop("to", ())),
    )
    future = engine.post(tenant, FeedId.parse(actor), draft)
    return identify(draft, draft.time_us or 0), future


def like(
    engine: FeedEngine, activity: ActivityId, user: str = "bob", hours: int = 0
) -> Future[Any]:
    event = Engagement(
        time_us=NOW_US - hours * HOUR_US, user=UserId(user), activity_id=activity, kind="like"
    )
    return engine.record(ACME, [event])


def features(engine: FeedEngine, table: ActivityTable, user: str) -> dict[str, list[bytes]]:
    """Every feature of every activity, as bytes, by activity id."""
    query = Query(
        tenant=ACME,
        user=UserId(user),
        kind="personalized",
        now_us=NOW_US,
        limit=10,
        request_id="r",
        seed=1,
        record=engine.user_record(ACME, UserId(user)),
        follows=engine.follows(ACME, FeedId("timeline", user)),
    )
    rows = table.alive_rows()
    candidates = Candidates(rows, np.zeros(len(rows), np.int8), ("all",))
    values: npt.NDArray[np.float32] = build(FeatureSpec(), query, candidates, table).values
    return dict(zip(table.ids(rows), [row.tobytes() for row in values], strict=True))


def assert_same(engine: FeedEngine, table: ActivityTable) -> None:
    loaded = load_table(engine, ACME, CAPACITY)
    for user in USERS:
        assert features(engine, table, user) == features(engine, loaded, user)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def awaited() -> None:
        await work()

    asyncio.run(awaited())


numbers = st.integers(0, 5)
hours = st.integers(0, 40 * 24)
operation = st.one_of(
    st.tuples(st.just("post"), numbers, hours, st.sampled_from(USERS), st.sets(numbers)),
    st.tuples(st.just("remove"), numbers),
    st.tuples(st.just("show"), numbers, hours, st.sampled_from(USERS)),
    st.tuples(st.sampled_from(ENGAGEMENT_KINDS), numbers, hours, st.sampled_from(USERS)),
)
operations = st.lists(operation, max_size=40)


def perform(
    engine: FeedEngine, posted: dict[int, ActivityId], operation: tuple[Any, ...]
) -> Future[Any] | None:
    """Start the operation; later ones are applied after it."""
    match operation:
        case ("post", number, ago, author, tags):
            named = [f"t{tag}" for tag in sorted(tags)]
            posted[number], future = posting(
                engine, f"a{number}", hours=ago, actor=f"user:{author}", tags=named
            )
            return future
        case ("remove", number) if number in posted:
            return engine.remove(ACME, posted[number])
        case ("show", number, ago, user) if number in posted:
            event = Impression(
                time_us=NOW_US - ago * HOUR_US, user=UserId(user), activity_id=posted[number]
            )
            return engine.record(ACME, [event])
        case (kind, number, ago, user) if number in posted:
            engaged = Engagement(
                time_us=NOW_US - ago * HOUR_US,
                user=UserId(user),
                activity_id=posted[number],
                kind=kind,
            )
            return engine.record(ACME, [engaged])
    return None


@settings(max_examples=25, deadline=None)
@given(operations=operations, loaded_after=st.integers(0, 40))
def test_following_and_loading_give_the_same_features(
    operations: list[tuple[Any, ...]], loaded_after: int
) -> None:
    with TemporaryDirectory() as directory:
        with opened(Path(directory)) as engine:
            tables, posted = tables_on(engine), dict[int, ActivityId]()

            async def follow() -> None:
                last = None
                for number, operation in enumerate(operations):
                    if number == loaded_after:
                        await tables.get(ACME)
                    last = perform(engine, posted, operation) or last
                if last is not None:
                    last.result()
                table = await tables.get(ACME)
                assert_same(engine, table)
                followed.update({user: features(engine, table, user) for user in USERS})

            followed: dict[str, dict[str, list[bytes]]] = {}
            run(follow)
        with FeedEngine.open(Path(directory), clock=lambda: NOW_US) as engine:
            loaded = load_table(engine, ACME, CAPACITY)
            assert followed == {user: features(engine, loaded, user) for user in USERS}


def counts_of(table: ActivityTable, authors: list[str], tags: list[str]) -> list[bytes]:
    """All that the table counts of names, as bytes; decays as of `NOW_US`."""
    held = []
    for names, interner, counts in (
        (authors, table.names.authors, table.author_counts),
        (tags, table.names.tags, table.tag_counts),
    ):
        rows = interner.numbers(names)
        assert (rows >= 0).all()
        held += [counts.totals[rows].tobytes(), counts.last_us[rows].tobytes()]
        for ring in (counts.hour, counts.day):
            weights = ring.decays(NOW_US, [HOUR_US])
            held += [ring.weigh(rows, kind, weights).tobytes() for kind in (IMPRESSION, ENGAGEMENT)]
    return held


def assert_counted_as_stored(engine: FeedEngine, table: ActivityTable) -> None:
    """What the table knows of any author or tag is what the store has of it."""
    authors = [name for name in table.names.authors.names if name]
    tags = [name for name in table.names.tags.names if name]
    stored = ActivityTable(1_000)
    for author, record in zip(authors, engine.counters(ACME, "author", authors), strict=True):
        stored.load_author(author, record)
    for tag, record in zip(tags, engine.counters(ACME, "tag", tags), strict=True):
        stored.load_tag(tag, record)
    assert counts_of(table, authors, tags) == counts_of(stored, authors, tags)


@settings(max_examples=50, deadline=None)
@given(operations=operations, capacity=st.integers(1, 4), read_every=st.integers(1, 5))
def test_names_are_counted_as_in_the_store_whatever_left_the_table(
    operations: list[tuple[Any, ...]], capacity: int, read_every: int
) -> None:
    with TemporaryDirectory() as directory, opened(Path(directory)) as engine:
        tables = ActivityTables(
            engine, Metrics(), bytes_max=1, capacity=capacity, backlog_max=10_000
        )
        posted = dict[int, ActivityId]()

        async def follow() -> None:
            await tables.get(ACME)
            last = None
            for number, operation in enumerate(operations):
                if operation[0] == "remove" and last is not None:
                    # The table misses what waits of an activity that it lacks and that is removed.
                    last.result()
                    await tables.get(ACME)
                last = perform(engine, posted, operation) or last
                if last is not None and number % read_every == 0:
                    last.result()
                    assert_counted_as_stored(engine, await tables.get(ACME))

        run(follow)


class CopiedView:
    """A view of a memory store as of the last `catch_up`: the memory twin of a secondary."""

    def __init__(self, store: MemoryStore) -> None:
        self._of = store
        self._copy = MemoryStore()

    def catch_up(self) -> None:
        copy = MemoryStore()
        for family in COLUMN_FAMILIES:
            copy.write([Write(family, *row) for row in self._of.scan(family, b"", b"\xff" * 9)])
        self._copy = copy

    def get(self, family: str, key: bytes) -> bytes | None:
        return self._copy.get(family, key)

    def get_many(self, family: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._copy.get_many(family, keys)

    def scan(
        self, family: str, start: bytes, stop: bytes, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._copy.scan(family, start, stop, limit)

    def keys(self, family: str, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        return self._copy.keys(family, start, stop, limit)


class FollowedEngine:
    """An engine in memory, and another one that sees it as of the last `catch_up`."""

    def __init__(self) -> None:
        store = MemoryStore()
        self.writer = memory_engine(tenants=(ACME,), store=store)
        self._view = CopiedView(store)
        self._view.catch_up()
        self._changes = FollowedChanges(self._view)
        self.reader = FeedEngine(self._view, MemoryReplica(lambda *_: b"", 0), changes=self)

    def subscribe(self, listener: Listener, gap: Gap) -> None:
        self._changes.subscribe(listener, gap)
        self.gap = gap

    def catch_up(self) -> None:
        self._view.catch_up()
        self._changes.advance()


catch_ups = st.sampled_from([("catch up",), ("catch up",), ("read",)])


@settings(max_examples=200, deadline=None)
@given(
    operations=st.lists(st.one_of(operation, operation, operation, catch_ups), max_size=60),
    loaded_after=st.integers(0, 20),
    missed=st.sets(st.integers(0, 60), max_size=2),
)
def test_following_a_store_in_any_grouping_and_loading_give_the_same_features(
    operations: list[tuple[Any, ...]], loaded_after: int, missed: set[int]
) -> None:
    followed = FollowedEngine()
    tables, posted = tables_on(followed.reader), dict[int, ActivityId]()

    async def follow() -> None:
        for number, done in enumerate(operations):
            if number == loaded_after or done[0] == "read":
                await tables.get(ACME)
            if done[0] == "catch up":
                followed.catch_up()
            elif done[0] != "read":
                perform(followed.writer, posted, done)
            if number in missed:
                followed.gap()
        followed.catch_up()
        assert_same(followed.reader, await tables.get(ACME))
        assert_same(followed.writer, await tables.get(ACME))

    run(follow)


@settings(max_examples=200, deadline=None)
@given(
    operations=st.lists(st.one_of(operation, operation, operation, catch_ups), max_size=60),
    capacity=st.integers(1, 4),
)
def test_names_are_counted_as_in_a_followed_store_whatever_left_the_table(
    operations: list[tuple[Any, ...]], capacity: int
) -> None:
    followed = FollowedEngine()
    tables = ActivityTables(
        followed.reader, Metrics(), bytes_max=1, capacity=capacity, backlog_max=10_000
    )
    posted = dict[int, ActivityId]()

    async def follow() -> None:
        await tables.get(ACME)
        for done in operations:
            if done[0] in ("catch up", "read", "remove"):
                # The table misses what waits of an activity that it lacks and that is removed.
                followed.catch_up()
            if done[0] in ("read", "remove"):
                assert_counted_as_stored(followed.reader, await tables.get(ACME))
            if done[0] not in ("catch up", "read"):
                perform(followed.writer, posted, done)
        followed.catch_up()
        assert_counted_as_stored(followed.reader, await tables.get(ACME))

    run(follow)


def test_what_the_store_had_counted_already_is_not_counted_again() -> None:
    followed = FollowedEngine()
    tables = ActivityTables(followed.reader, Metrics(), bytes_max=1, capacity=1, backlog_max=10_000)

    async def come_back_amid_a_group() -> None:
        old = post(followed.writer, "old", actor="user:eve", hours=-1)
        post(followed.writer, "newer", actor="user:bob", hours=-2)
        followed.catch_up()
        table = await tables.get(ACME)
        assert table.names.authors.get("user:eve") < 0
        like(followed.writer, old)
        post(followed.writer, "newest", actor="user:eve", hours=-3)
        like(followed.writer, old)
        followed.catch_up()
        table = await tables.get(ACME)
        assert table.names.authors.get("user:eve") >= 0
        assert_counted_as_stored(followed.reader, table)

    run(come_back_amid_a_group)


def test_commands_that_were_missed_load_the_table_anew() -> None:
    followed = FollowedEngine()
    tables = tables_on(followed.reader)

    async def miss() -> None:
        before = await tables.get(ACME)
        followed.gap()
        assert tables.ready(ACME) is None
        assert before is not await tables.get(ACME)

    run(miss)


def test_a_name_that_comes_back_has_what_it_had(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        first = post(engine, "a", actor="user:ann", tags=["x"])
        like(engine, first).result()
        engine.remove(ACME, first).result()
        tables = tables_on(engine)

        async def come_back() -> None:
            table = await tables.get(ACME)
            assert table.names.authors.get("user:ann") < 0
            post(engine, "b", actor="user:ann", tags=["x", "y"])
            table = await tables.get(ACME)
            assert table.author_counts.totals[table.names.authors.get("user:ann")].sum() == 2
            assert_counted_as_stored(engine, table)

        run(come_back)


def test_a_table_loaded_while_others_write_misses_and_repeats_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        tables = tables_on(engine, backlog_max=50)
        activities = [posting(engine, f"a{n}", tags=["x"], hours=n)[0] for n in range(40)]
        written = threading.Event()

        def write() -> None:
            last: Future[Any] | None = None
            for n in range(1_500):
                if n % 7 == 3:
                    last = engine.remove(ACME, activities[n % 40])
                elif n % 7 == 5:
                    name = f"a{(n + 20) % 40}"
                    author = f"user:{USERS[n % 3]}"
                    activities[(n + 20) % 40], last = posting(
                        engine, name, actor=author, tags=["x", f"t{n % 5}"], hours=n % 60
                    )
                else:
                    last = like(engine, activities[n % 40], USERS[n % 3], hours=n % 50)
                if n % 100 == 0:
                    last.result()
            assert last is not None
            last.result()
            written.set()

        async def load_again_and_again() -> None:
            followed = []
            writer = threading.Thread(target=write)
            writer.start()
            while not written.is_set():
                if len(followed) < 20:
                    followed.append(tables_on(engine))
                await followed[-1].get(ACME)
                await tables.get(ACME)
            writer.join()
            assert len(followed) > 2
            for each in (tables, *followed):
                assert_same(engine, await each.get(ACME))

        run(load_again_and_again)


def test_every_table_loaded_amid_writes_ends_up_the_same(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        activity = post(engine, "a", tags=["x"])

        async def load_each_time() -> None:
            followed = []
            for _ in range(30):
                futures = [like(engine, activity, "eve") for _ in range(50)]
                tables = tables_on(engine)
                await tables.get(ACME)
                followed.append(tables)
                for future in futures:
                    await asyncio.wrap_future(future)
            for tables in followed:
                assert_same(engine, await tables.get(ACME))

        run(load_each_time)


def test_an_acknowledged_write_is_in_the_next_read(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        tables = tables_on(engine)

        async def read_after_each_write() -> None:
            await tables.get(ACME)
            for number in range(20):
                activity = post(engine, f"a{number}")
                table = tables.ready(ACME)
                assert table is not None
                assert activity in table.ids(table.alive_rows())

        run(read_after_each_write)


def test_too_much_waiting_loads_the_table_again(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        tables = tables_on(engine, backlog_max=5)

        async def overflow() -> None:
            await tables.get(ACME)
            for number in range(6):
                post(engine, f"a{number}")
            assert tables.ready(ACME) is None
            assert len(await tables.get(ACME)) == 6
            post(engine, "another")
            assert_same(engine, await tables.get(ACME))

        run(overflow)


def test_events_are_applied_while_nobody_reads(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        tables = tables_on(engine, backlog_max=5)

        async def write_more_than_may_wait() -> None:
            await tables.start([ACME])
            for number in range(20):
                post(engine, f"a{number}")
                await asyncio.sleep(0)
            for _ in range(100):
                if tables.loaded():
                    break
                await asyncio.sleep(0)
            table = tables.ready(ACME)
            assert table is not None
            assert len(table) == 20

        run(write_more_than_may_wait)


TENANTS = tuple(TenantId(name) for name in ("a", "b", "c", "d"))


def bytes_of(engine: FeedEngine, tenant: TenantId) -> int:
    """What a tenant counts for whose table holds what the store has."""
    return FOLLOWER_BYTES + load_table(engine, tenant, CAPACITY).memory_bytes


async def ask(tables: ActivityTables, *tenants: TenantId) -> None:
    for tenant in tenants:
        await tables.get(tenant)


def test_the_table_asked_for_longest_ago_leaves(tmp_path: Path) -> None:
    a, b, c, _ = TENANTS
    with opened(tmp_path, *TENANTS) as engine:
        two = bytes_of(engine, a) + bytes_of(engine, b)
        tables = tables_on(engine, bytes_max=two)
        run(lambda: ask(tables, a, b, a, c))
        assert tables.loaded() == [a, c]
        tables = tables_on(engine, bytes_max=two - 1)
        run(lambda: ask(tables, a, b))
        assert tables.loaded() == [b]


def test_small_tables_stay_where_a_large_one_would_not(tmp_path: Path) -> None:
    with opened(tmp_path, *TENANTS) as engine:
        large, *small = TENANTS
        for number in range(100):
            post(engine, f"{number}", large)
        room = sum(bytes_of(engine, tenant) for tenant in small)
        assert room < bytes_of(engine, large)
        tables = tables_on(engine, bytes_max=room)
        run(lambda: ask(tables, *small, *small))
        assert tables.loaded() == small
        run(lambda: ask(tables, large))
        assert tables.loaded() == [large]
        run(lambda: ask(tables, large, *small))
        assert tables.loaded() == small


def test_a_table_that_grows_beyond_the_room_lets_others_go(tmp_path: Path) -> None:
    a, b, *_ = TENANTS
    with opened(tmp_path, a, b) as engine:
        tables = tables_on(engine, bytes_max=bytes_of(engine, a) + bytes_of(engine, b) + 1_000)

        async def grow() -> None:
            await tables.start((a, b))
            await tables.get(a)
            assert tables.loaded() == [b, a]
            post(engine, "first", a)
            for _ in range(100):
                if b not in tables.loaded():
                    break
                await asyncio.sleep(0)
            assert len(await tables.get(a)) == 1
            tables.stop()

        run(grow)
        assert tables.loaded() == [a]


def test_a_read_that_waited_has_its_table_though_others_came_meanwhile(tmp_path: Path) -> None:
    with opened(tmp_path, *TENANTS) as engine:
        tables = tables_on(engine, bytes_max=1)

        async def all_at_once() -> None:
            found = await asyncio.gather(*(tables.get(tenant) for tenant in TENANTS))
            for tenant in TENANTS:
                post(engine, "later", tenant)
            assert [len(await tables.get(tenant)) for tenant in TENANTS] == [1, 1, 1, 1]
            assert [len(table) for table in found[:-1]] == [0, 0, 0]

        run(all_at_once)
        assert len(tables.loaded()) == 1


def test_first_tables_are_loaded_as_far_as_there_is_room(tmp_path: Path) -> None:
    with opened(tmp_path, *TENANTS) as engine:
        loads = Metrics()
        tables = ActivityTables(
            engine,
            loads,
            bytes_max=bytes_of(engine, TENANTS[0]),
            capacity=CAPACITY,
            backlog_max=1,
        )

        async def begin() -> None:
            await tables.start(TENANTS)
            tables.stop()

        run(begin)
        assert tables.loaded() == [TENANTS[1]]
        assert loads.table_loads.labels("first")._value.get() == 2


def test_a_load_that_failed_lets_nothing_wait(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        tables = tables_on(engine)

        async def fail_once() -> None:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(engine, "recent", _fails)
                with pytest.raises(StorageError):
                    await tables.get(ACME)
            post(engine, "meanwhile")
            assert tables._followers[ACME]._waiting == 0
            assert len(await tables.get(ACME)) == 1

        run(fail_once)


def _fails(*_: object) -> None:
    raise StorageError("the disk is gone")


def test_tenants_are_kept_apart(tmp_path: Path) -> None:
    a, b = TenantId("a"), TenantId("b")
    with opened(tmp_path, a, b) as engine:
        tables = tables_on(engine)

        async def fill() -> None:
            await tables.get(a)
            await tables.get(b)
            post(engine, "of-a", a)
            assert len(await tables.get(a)) == 1
            assert len(await tables.get(b)) == 0

        run(fill)


def test_readers_share_one_load(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        post(engine, "a")
        tables = tables_on(engine)

        async def read_at_once() -> None:
            first, second = await asyncio.gather(tables.get(ACME), tables.get(ACME))
            assert first is second

        run(read_at_once)
