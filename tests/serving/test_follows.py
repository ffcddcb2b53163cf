"""The law: what is held of follows is what the store has, whatever was followed meanwhile."""

import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.engine import FeedEngine
from feeds.model import FeedId, TenantId
from serving.follows import CHANGES_MAX, HeldFollows

TENANTS = (TenantId("acme"), TenantId("bravo"))
NOW_US = 1_600_000_000_000_000


def opened(directory: Path) -> FeedEngine:
    engine = FeedEngine.open(directory, clock=lambda: NOW_US)
    for tenant in TENANTS:
        engine.create_tenant(tenant).result()
    return engine


def home(number: int) -> FeedId:
    return FeedId("timeline", f"u{number}")


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["follow", "unfollow", "read"]),
            st.sampled_from(TENANTS),
            st.integers(0, 3),
            st.integers(0, 4),
        ),
        max_size=40,
    ),
    follows_max=st.integers(0, 8),
)
def test_what_is_held_is_what_is_stored(
    steps: list[tuple[str, TenantId, int, int]], follows_max: int
) -> None:
    with TemporaryDirectory() as directory, opened(Path(directory)) as engine:
        held = HeldFollows(engine, follows_max)
        for step, tenant, user, target in steps:
            followed = FeedId("user", f"t{target}")
            if step == "follow":
                engine.follow(tenant, home(user), followed).result()
            elif step == "unfollow":
                engine.unfollow(tenant, home(user), followed).result()
            stored = engine.follows(tenant, home(user))
            assert list(held.of(tenant, home(user)).items()) == list(stored.items())
            assert len(held) <= follows_max


def test_a_repeated_read_reads_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        engine.follow(TENANTS[0], home(1), FeedId("user", "ann")).result()
        held = HeldFollows(engine, 10)

        assert held.of(TENANTS[0], home(1)) is held.of(TENANTS[0], home(1))
        assert len(held) == 1


def test_a_follow_of_one_who_is_held_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as engine:
        for name in ("bob", "ann", "cy"):
            engine.follow(TENANTS[0], home(1), FeedId("user", name)).result()
        held = HeldFollows(engine, 10)
        before = held.of(TENANTS[0], home(1))
        engine.follow(TENANTS[0], home(1), FeedId("user", "al")).result()
        engine.unfollow(TENANTS[0], home(1), FeedId("user", "bob")).result()
        expected = list(engine.follows(TENANTS[0], home(1)).items())
        monkeypatch.setattr(engine, "follows", None)  # reading them would fail

        assert list(held.of(TENANTS[0], home(1)).items()) == expected
        assert list(before) == ["user:ann", "user:bob", "user:cy"], "another may still use it"
        assert len(held) == 3


def test_more_changes_than_may_wait_are_read_anew(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        held = HeldFollows(engine, 1_000)
        assert held.of(TENANTS[0], home(1)) == {}
        for number in range(CHANGES_MAX + 2):
            engine.follow(TENANTS[0], home(1), FeedId("user", f"t{number}")).result()
        assert len(held) == 0
        assert len(held.of(TENANTS[0], home(1))) == CHANGES_MAX + 2


def test_an_acknowledged_follow_is_seen_while_others_read(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        held, ended = HeldFollows(engine, 1_000), threading.Event()

        def read() -> None:
            while not ended.is_set():
                held.of(TENANTS[0], home(1))

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            for number in range(300):
                engine.follow(TENANTS[0], home(1), FeedId("user", f"t{number}")).result()
                assert len(held.of(TENANTS[0], home(1))) == number + 1
        finally:
            ended.set()
            for reader in readers:
                reader.join(30)
