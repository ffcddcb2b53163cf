"""A deleted tenant is unknown at once, and soon not a byte of it is left; no other one notices."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.change_journal import FollowedChanges
from feeds.commands import (
    ActivateVersion,
    AddKey,
    Command,
    CreateTenant,
    DeleteTenant,
    FanOut,
    GiveFeedback,
    PostActivity,
    RecordEvents,
    SaveVersion,
    SetQuotas,
    WipeTenant,
    encode_command,
)
from feeds.config import FeedsConfig
from feeds.counters import UserRecord
from feeds.engine import FeedEngine
from feeds.erasing import Eraser
from feeds.errors import Conflict, NotFound
from feeds.events import Engagement, Event, FeedbackGiven, Posted
from feeds.keys import FanOutKey, WipeKey
from feeds.machine import apply
from feeds.model import ActivityDraft, FeedId, TenantId, UserId, activity_id, position_of
from feeds.new_keys import create_key
from feeds.replication.memory import MemoryReplica
from feeds.results import Drained, Rejected, decode_result
from feeds.state import StateMachine
from feeds.store.base import COLUMN_FAMILIES, View, Write
from feeds.store.memory import MemoryStore
from feeds.store.rocks import RocksStore
from feeds.testing_engine import NOW_US, ManualClock, memory_engine
from feeds.values import RankingConfigs

GONE, KEPT = TenantId("gonetenant"), TenantId("kept")
SMALL = FeedsConfig(
    fanout_inline_max=1,
    fanout_rows_max=1,
    unfollow_rows_max=1,
    unfollow_scan_max=2,
    wipe_rows_max=3,
)


def rows_of(view: View) -> Iterator[tuple[str, bytes, bytes]]:
    for family in COLUMN_FAMILIES:
        for key, value in view.scan(family, b"", b"\xff" * 32):
            yield family, key, value


def traces(view: View) -> list[tuple[str, bytes]]:
    """Every row in which the deleted tenant's name is, whatever the row is."""
    name = GONE.encode()
    return [(family, key) for family, key, value in rows_of(view) if name in key or name in value]


def state_of(view: View, tenant: TenantId) -> list[tuple[str, bytes, bytes]]:
    """The rows of a tenant, as the families of data and `config` hold them."""
    return [
        row for row in rows_of(view) if tenant.encode() in row[1] and not row[1].startswith(b"c\0")
    ]


def fill(engine: FeedEngine, tenant: TenantId, steps: list[int]) -> None:
    """Writes of every kind, some with tasks that are left."""
    author, ids = FeedId("user", "ann"), [activity_id(NOW_US, b"none")]
    create_key(engine, tenant, ["read", "admin"]).stored.result()
    engine.set_quotas(tenant, {"requests_per_s": 9}).result()
    for number, step in enumerate(steps):
        follower = FeedId("timeline", f"f{step}")
        if step < 4:
            engine.follow(tenant, follower, author, key=f"key {number}").result()
        elif step < 6:
            engine.unfollow(tenant, FeedId("timeline", f"f{step - 4}"), author).result()
        elif step < 8:
            draft = ActivityDraft(
                actor="user:ann",
                verb="post",
                object=f"{tenant} note:{number}",
                custom={"tags": ["a", "b"], "of": tenant},
            )
            ids.append(engine.post(tenant, author, draft, key=f"key {number}").result().activity.id)
        elif step < 10:
            liked = Engagement(time_us=NOW_US, user=UserId("bob"), activity_id=ids[-1], kind="like")
            engine.record(tenant, [liked], key=f"key {number}").result()
        elif step < 12:
            saved = engine.save_ranking_config(tenant, b'{"of":"%s"}' % tenant.encode()).result()
            active = engine.ranking_configs(tenant).active
            engine.activate_ranking_config(tenant, saved.version, active, f"key {number}").result()
        else:
            actor, tags = (f"user:{tenant}", ()) if step == 12 else ("", (str(tenant),))
            said = FeedbackGiven(
                time_us=NOW_US, user=UserId(f"u{step}"), kind="mute", actor=actor, tags=tags
            )
            engine.give_feedback(tenant, said, key=f"key {number}").result()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 13), max_size=25), st.lists(st.integers(0, 13), max_size=10))
def test_no_row_holds_a_deleted_tenants_name_and_no_row_of_another_is_touched(
    gone: list[int], kept: list[int]
) -> None:
    store = MemoryStore()
    with memory_engine(SMALL, tenants=(GONE, KEPT), store=store) as engine:
        fill(engine, GONE, gone)
        fill(engine, KEPT, kept)
        before = state_of(store, KEPT)
        engine.delete_tenant(GONE).result()
        assert engine.deleting() == []
        assert traces(store) == []
        assert state_of(store, KEPT) == before
        assert engine.tenants() == [KEPT]


class Held:
    """A store that commands are applied to by hand, so that a deletion can be seen on its way."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self.machine = StateMachine(self.store, SMALL)
        self.index = self.machine.applied().index

    def apply(self, command: Command) -> object:
        self.index += 1
        return decode_result(self.machine.apply(self.index, 1, encode_command(command)))


def held_with_rows() -> Held:
    store = MemoryStore()
    with memory_engine(SMALL, tenants=(GONE, KEPT), store=store) as engine:
        fill(engine, GONE, [0, 1, 2, 3, 6, 7, 8, 4, 6, 10, 11, 12, 13])
        copy = MemoryStore()
        for family in COLUMN_FAMILIES:
            copy.write([Write(family, *pair) for pair in store.scan(family, b"", b"\xff" * 32)])
    return Held(copy)


def posted(tenant: TenantId, incarnation: int) -> PostActivity:
    made = activity_id(NOW_US, b"late")
    facts = Posted(
        time_us=NOW_US, activity_id=made, actor="a:b", verb="v", object="o", feed="user:ann"
    )
    return PostActivity(
        tenant=tenant, posted=facts, body=b"{}", places_max=9, incarnation=incarnation
    )


def test_deletion_is_ended_by_bounded_commands_wherever_it_stops() -> None:
    held = held_with_rows()
    incarnation = reader(held).tenant(GONE).index
    held.apply(DeleteTenant(tenant=GONE, incarnation=incarnation))
    commands = 0
    while held.store.get("outbox", WipeKey(GONE).encode()) is not None:
        before = len(list(rows_of(held.store)))
        held = Held(held.store)  # another node goes on, with what is in the store
        answer = held.apply(WipeTenant(tenant=GONE, rows_max=2))
        assert isinstance(answer, Drained)
        assert before - len(list(rows_of(held.store))) <= 4
        commands += 1
    assert commands > 20
    assert traces(held.store) == []
    assert held.apply(WipeTenant(tenant=GONE, rows_max=2)) == Drained(held.index)


def reader(held: Held) -> FeedEngine:
    return FeedEngine(held.store, MemoryReplica(held.machine.apply, held.index), SMALL)


def test_from_the_first_moment_on_it_is_as_unknown_as_one_that_never_was() -> None:
    held = held_with_rows()
    engine = reader(held)
    incarnation, (key,) = engine.tenant(GONE).index, engine.keys(GONE)
    held.apply(DeleteTenant(tenant=GONE, incarnation=incarnation))
    assert (engine.tenants(), engine.deleting()) == ([KEPT], [GONE])
    assert engine.key(key.key_id) is None
    for tenant in (GONE, TenantId("never")):
        with pytest.raises(NotFound, match=f"tenant '{tenant}' does not exist"):
            engine.read(tenant, FeedId("user", "ann"))
        with pytest.raises(NotFound, match=f"tenant '{tenant}' does not exist"):
            engine.remove(tenant, "87a9eec0-fd5f-11e8-8080-80013fed2f5b")
        with pytest.raises(NotFound):
            create_key(engine, tenant)
        with pytest.raises(NotFound):
            engine.delete_tenant(tenant)
    late: list[Command] = [
        posted(GONE, incarnation),
        posted(GONE, 0),
        RecordEvents(tenant=GONE, events=()),
        AddKey(tenant=GONE, key_id="late", secret_sha256=bytes(32), scopes=(), incarnation=1),
        SetQuotas(tenant=GONE, quotas={}, incarnation=incarnation),
        SaveVersion(tenant=GONE, document=b"{}", now_us=1, versions_max=9, incarnation=incarnation),
        ActivateVersion(tenant=GONE, version=0, expected=2, now_us=1, incarnation=incarnation),
        GiveFeedback(
            tenant=GONE,
            given=FeedbackGiven(time_us=1, user=UserId("bob"), kind="mute", actor="user:a"),
            muted_max=9,
            incarnation=incarnation,
        ),
    ]
    before = list(rows_of(held.store))
    for command in late:
        answer = held.apply(command)
        assert isinstance(answer, Rejected)
        assert answer.code == "unknown"
    created = held.apply(CreateTenant(tenant=GONE, now_us=1))
    assert isinstance(created, Rejected)
    assert isinstance(created.error(), Conflict)
    changed = {row[:2] for row in set(rows_of(held.store)) ^ set(before)}
    assert {family for family, _ in changed} == {"meta"}, "only the log index moved"


def test_tasks_of_a_deleted_tenant_write_nothing_more() -> None:
    held = held_with_rows()
    incarnation = reader(held).tenant(GONE).index
    for number in range(4):
        held.apply(
            PostActivity(
                tenant=GONE,
                posted=Posted(
                    time_us=NOW_US,
                    activity_id=activity_id(NOW_US, b"%d" % number),
                    actor="a:b",
                    verb="v",
                    object="o",
                    feed="user:ann",
                ),
                body=b"{}",
                places_max=9,
                inline_max=0,
                tasks_max=100,
            )
        )
    held.apply(DeleteTenant(tenant=GONE, incarnation=incarnation))
    rows = list(held.store.scan("feeds", b"", b"\xff"))
    position = position_of(activity_id(NOW_US, b"1"))
    task = FanOut(tenant=GONE, place="user:ann", position=position, rows_max=100)
    assert held.store.get("outbox", FanOutKey(GONE, "user:ann", position).encode())
    held.apply(task)
    assert held.store.get("outbox", FanOutKey(GONE, "user:ann", position).encode()) is None
    assert list(held.store.scan("feeds", b"", b"\xff")) == rows


def test_another_of_the_same_name_sees_nothing_and_takes_nothing_meant_for_the_first() -> None:
    with memory_engine(SMALL, tenants=(GONE,)) as engine:
        fill(engine, GONE, [0, 1, 6, 7, 8, 10, 11, 12])
        first = engine.tenant(GONE).index
        old_keys = engine.keys(GONE)
        engine.delete_tenant(GONE).result()
        engine.create_tenant(GONE).result()
        assert engine.tenant(GONE).index > first
        assert engine.keys(GONE) == []
        assert engine.key(old_keys[0].key_id) is None
        assert engine.recent(GONE, 10) == []
        assert engine.follows(GONE, FeedId("timeline", "f0")) == {}
        assert engine.events(GONE, 0, 100) == []
        assert engine.usage(GONE).activities == 0
        assert engine.tenant(GONE).quotas.requests_per_s is None
        assert engine.remembered(GONE, "key 0") is None
        assert engine.ranking_configs(GONE) == RankingConfigs()
        assert engine.active_ranking_config(GONE) == (0, None)
        assert engine.user_record(GONE, UserId("u12")) == UserRecord.empty()

        view = engine._view
        late = apply(posted(GONE, first), 1_000, view)
        assert isinstance(late.result, Rejected)
        assert late.writes == ()
        stale = apply(DeleteTenant(tenant=GONE, incarnation=first), 1_000, view)
        assert list(stale.writes) == []
        assert not isinstance(
            apply(posted(GONE, engine.tenant(GONE).index), 1_000, view).result, Rejected
        )


def test_who_follows_hears_of_it_or_that_something_was_missed() -> None:
    held = held_with_rows()
    heard: list[tuple[TenantId, list[Event]]] = []
    gaps: list[bool] = []
    near, far = FollowedChanges(held.store), FollowedChanges(held.store)
    near.subscribe(
        lambda tenant, _, events: heard.append((tenant, list(events))), lambda: gaps.append(True)
    )
    far.subscribe(lambda *_: None, lambda: gaps.append(False))
    held.apply(DeleteTenant(tenant=GONE, incarnation=reader(held).tenant(GONE).index))
    near.advance()
    while held.store.get("outbox", WipeKey(GONE).encode()) is not None:
        held.apply(WipeTenant(tenant=GONE, rows_max=100))
        near.advance()
    assert heard == [(GONE, [])]
    assert gaps == []
    far.advance()
    assert gaps == [False]


def test_listeners_beside_the_log_hear_of_it_before_it_is_answered() -> None:
    heard: list[tuple[TenantId, int]] = []
    with memory_engine(SMALL, tenants=(GONE, KEPT)) as engine:
        engine.subscribe(lambda tenant, _, events: heard.append((tenant, len(events))))
        engine.delete_tenant(GONE).result()
        assert heard == [(GONE, 0)]


def test_no_table_file_holds_a_byte_of_it_once_it_is_erased(tmp_path: Path) -> None:
    clock = ManualClock()
    with RocksStore.open(tmp_path / "store") as store:
        engine = FeedEngine.embedded(store, MemoryReplica, FeedsConfig(), clock)
        for tenant in (GONE, KEPT):
            engine.create_tenant(tenant).result()
            fill(engine, tenant, [0, 1, 2, 6, 7, 8, 5, 6, 10, 12, 13] * 5)
        store.flush()
        assert _files_with(tmp_path, GONE)
        engine.delete_tenant(GONE).result()
        assert traces(store) == []
        eraser = Eraser()
        eraser.erase(store, GONE).result(60.0)
        eraser.close()
        tables = [path for path in _files_with(tmp_path, GONE) if path.suffix == ".sst"]
        assert tables == []
        assert _files_with(tmp_path, KEPT)
        engine.close()
    with RocksStore.open(tmp_path / "store") as store:  # makes the list of files anew
        assert traces(store) == []
    assert _files_with(tmp_path, GONE) == []


def _files_with(directory: Path, tenant: str) -> list[Path]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [path for path in files if tenant.encode() in path.read_bytes()]
