"""Keys of tenants: bounded, exchanged with a time of grace, revoked; through the log."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.commands import AddKey, encode_command
from feeds.config import FeedsConfig
from feeds.credentials import NO_TENANT, OPERATOR, ApiKey, describe_key, parse_api_key, verify
from feeds.engine import FeedEngine
from feeds.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from feeds.events import Event
from feeds.machine import apply
from feeds.model import TenantId
from feeds.new_keys import create_key, rotate_key
from feeds.results import Accepted
from feeds.store.memory import MemoryStore
from feeds.testing_engine import NOW_US, ManualClock, memory_engine

DEMO = TenantId("demo")


def good(engine: FeedEngine, written: str, now_us: int) -> bool:
    parsed = parse_api_key(written)
    assert parsed is not None
    key = engine.key(parsed[0])
    return verify(key, parsed[1]) and key is not None and not key.expired(now_us)


def test_new_key_has_its_scopes_and_its_date() -> None:
    with memory_engine() as engine:
        made = create_key(engine, DEMO, ["read"])
        made.stored.result()
        (stored,) = engine.keys(DEMO)
        assert (stored.scopes, stored.created_us, stored.expires_us) == (("read",), NOW_US, 0)
        assert good(engine, made.api_key, NOW_US)
        assert set(describe_key(stored)) == {"key_id", "scopes", "created", "expires"}


def test_rotated_key_is_good_until_its_grace_ends() -> None:
    clock = ManualClock()
    with memory_engine(clock=clock) as engine:
        old = create_key(engine, DEMO, ["admin"])
        new = rotate_key(engine, DEMO, old.key_id, 60)
        new.stored.result()
        assert {key.key_id: key.scopes for key in engine.keys(DEMO)} == {
            old.key_id: ("admin",),
            new.key_id: ("admin",),
        }
        for after_s, expected in ((59, True), (60, False)):
            assert good(engine, old.api_key, NOW_US + after_s * 1_000_000) is expected
            assert good(engine, new.api_key, NOW_US + after_s * 1_000_000)


def test_rotation_without_grace_removes_the_old_key_also_where_the_tenant_has_all_it_may() -> None:
    with memory_engine(FeedsConfig(tenant_keys_max=1)) as engine:
        old = create_key(engine, DEMO)
        new = rotate_key(engine, DEMO, old.key_id, 0)
        new.stored.result()
        assert [key.key_id for key in engine.keys(DEMO)] == [new.key_id]
        with pytest.raises(LimitExceeded, match="tenant_keys_max is 1: revoke one first"):
            create_key(engine, DEMO).stored.result()


def test_a_second_rotation_does_not_prolong_the_first() -> None:
    with memory_engine() as engine:
        old = create_key(engine, DEMO)
        rotate_key(engine, DEMO, old.key_id, 60).stored.result()
        rotate_key(engine, DEMO, old.key_id, 600).stored.result()
        assert not good(engine, old.api_key, NOW_US + 60_000_000)


def test_expired_keys_make_room() -> None:
    clock = ManualClock()
    with memory_engine(FeedsConfig(tenant_keys_max=2), clock) as engine:
        old = create_key(engine, DEMO)
        rotate_key(engine, DEMO, old.key_id, 60).stored.result()
        with pytest.raises(LimitExceeded):
            create_key(engine, DEMO).stored.result()
        clock.advance(60)
        create_key(engine, DEMO).stored.result()
        assert engine.key(old.key_id) is None
        assert len(engine.keys(DEMO)) == 2


@pytest.mark.parametrize("grace_s", [-1, 30 * 86_400 + 1])
def test_grace_that_cannot_be_is_refused(grace_s: int) -> None:
    with memory_engine() as engine:
        old = create_key(engine, DEMO)
        with pytest.raises(InvalidInput, match=f"grace_s is {grace_s}"):
            rotate_key(engine, DEMO, old.key_id, grace_s)


def test_revoked_key_is_gone_and_other_tenants_cannot_revoke_or_rotate_it() -> None:
    with memory_engine(tenants=("demo", "other")) as engine:
        made = create_key(engine, DEMO)
        other = TenantId("other")
        assert not engine.revoke_key(other, made.key_id).result()
        with pytest.raises(NotFound):
            rotate_key(engine, other, made.key_id, 0).stored.result()
        assert good(engine, made.api_key, NOW_US)
        assert engine.revoke_key(DEMO, made.key_id).result()
        assert engine.key(made.key_id) is None
        assert not engine.revoke_key(DEMO, made.key_id).result()


def test_operators_key_is_no_tenants() -> None:
    with memory_engine() as engine:
        made = create_key(engine, NO_TENANT, [OPERATOR])
        made.stored.result()
        assert engine.keys(DEMO) == []
        assert [key.key_id for key in engine.keys(NO_TENANT)] == [made.key_id]
        with pytest.raises(InvalidInput, match="scope 'operator' is not known"):
            create_key(engine, DEMO, [OPERATOR])
        with pytest.raises(InvalidInput, match="scope 'read' is not known: use operator"):
            create_key(engine, NO_TENANT, ["read"])
        with pytest.raises(InvalidInput, match="a key without scopes allows nothing"):
            create_key(engine, DEMO, [])


def test_listeners_hear_that_keys_were_taken_away() -> None:
    heard: list[tuple[TenantId, list[Event]]] = []
    with memory_engine() as engine:
        engine.subscribe(lambda tenant, _, events: heard.append((tenant, list(events))))
        made = create_key(engine, DEMO)
        assert heard == []
        new = rotate_key(engine, DEMO, made.key_id, 60)
        engine.revoke_key(DEMO, new.key_id).result()
        assert heard == [(DEMO, []), (DEMO, [])]


def test_key_of_a_former_release_is_written_as_that_release_wrote_it() -> None:
    """Without a limit in the command nothing is counted, and nothing beside the key is written."""
    store = MemoryStore()
    command = AddKey(tenant="t", key_id="k123", secret_sha256=b"x" * 32, scopes=("read",))
    outcome = apply(command, 1, store)
    assert outcome.result == Accepted(1)
    assert [(family, key) for family, key, _ in outcome.writes] == [("config", b"kk123")]
    assert encode_command(command)[0] == 3


@given(st.lists(st.sampled_from(["create", "rotate", "revoke", "wait"]), max_size=30))
def test_a_tenant_never_has_more_keys_than_it_may_but_one_that_is_rotated(steps: list[str]) -> None:
    clock, numbers = ManualClock(), itertools.count()
    with memory_engine(FeedsConfig(tenant_keys_max=3), clock) as engine:
        living: dict[str, int] = {}
        for step in steps:
            key_id = f"key{next(numbers)}"
            first = next(iter(living), "none")
            now_us = clock()
            living = {one: until for one, until in living.items() if not 0 < until <= now_us}
            try:
                if step == "create":
                    engine.add_key(DEMO, key_id, bytes(32)).result()
                    living[key_id] = 0
                elif step == "rotate":
                    engine.rotate_key(DEMO, first, key_id, bytes(32), 10).result()
                    living[first] = min(living[first] or 2**62, now_us + 10_000_000)
                    living[key_id] = 0
                elif step == "revoke":
                    engine.revoke_key(DEMO, first).result()
                    living.pop(first, None)
                else:
                    clock.advance(7)
            except (LimitExceeded, NotFound, Conflict):
                continue
            now_us = clock()
            found: list[ApiKey] = [key for key in engine.keys(DEMO) if not key.expired(now_us)]
            expected = {one for one, until in living.items() if not 0 < until <= now_us}
            assert {key.key_id for key in found} == expected
            assert len(found) <= 4
