"""Ranking configs in the log: numbered, bounded, compared and set, each tenant's its own."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from feeds.change_journal import FollowedChanges, Listener
from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from feeds.events import Event
from feeds.keys import RankingConfigKey, RankingConfigsKey, after
from feeds.model import TenantId
from feeds.store.memory import MemoryStore
from feeds.testing_engine import NOW_US, ManualClock, memory_engine
from feeds.values import RankingConfigs

ACME, BRAVO = TenantId("acme"), TenantId("bravo")
KEPT = 4
CONFIG = FeedsConfig(ranking_configs_max=KEPT, ranking_config_bytes_max=100)


def engine_in(store: MemoryStore | None = None, clock: ManualClock | None = None) -> FeedEngine:
    return memory_engine(CONFIG, clock, (ACME, BRAVO), store)


class Model:
    """What one tenant's configs must be: every version ever saved, and the active ones in order."""

    def __init__(self) -> None:
        self.documents: dict[int, bytes] = {}
        self.kept: list[int] = []
        self.active = 0
        self.previous: int | None = None

    def save(self, document: bytes) -> int:
        version = len(self.documents) + 1
        self.documents[version] = document
        self.kept.append(version)
        spared = (self.active, self.previous, version)
        while len(self.kept) > KEPT:
            self.kept.remove(next(one for one in self.kept if one not in spared))
        return version

    def activate(self, version: int) -> None:
        if version != self.active:
            self.active, self.previous = version, self.active


class ConfigsEqualModel(RuleBasedStateMachine):
    """Clients of two tenants save and activate by what they saw, however long ago that was."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.engine = engine_in(self.store)
        self.models = {ACME: Model(), BRAVO: Model()}
        self.seen = {(tenant, client): 0 for tenant in (ACME, BRAVO) for client in range(3)}

    @rule(tenant=st.sampled_from((ACME, BRAVO)), document=st.binary(max_size=5))
    def save(self, tenant: TenantId, document: bytes) -> None:
        version = self.models[tenant].save(document)
        assert version == self.engine.save_ranking_config(tenant, document).result().version

    @rule(tenant=st.sampled_from((ACME, BRAVO)), client=st.integers(0, 2))
    def look(self, tenant: TenantId, client: int) -> None:
        self.seen[tenant, client] = self.engine.ranking_configs(tenant).active

    @rule(
        tenant=st.sampled_from((ACME, BRAVO)), client=st.integers(0, 2), version=st.integers(0, 12)
    )
    def activate(self, tenant: TenantId, client: int, version: int) -> None:
        model, expected = self.models[tenant], self.seen[tenant, client]
        done = self.engine.activate_ranking_config(tenant, version, expected)
        if expected != model.active:
            with pytest.raises(Conflict, match="somebody was faster"):
                done.result()
        elif version and version not in model.kept:
            with pytest.raises(NotFound, match=f"version {version} is not kept"):
                done.result()
        else:
            before = model.active
            model.activate(version)
            told = done.result()
            assert (told.version, told.previous) == (
                version,
                before if version != before else model.previous,
            )
            self.seen[tenant, client] = version

    @invariant()
    def is_as_the_model(self) -> None:
        for tenant, model in self.models.items():
            configs = self.engine.ranking_configs(tenant)
            assert [one.version for one in configs.saved] == model.kept
            assert (configs.active, configs.previous) == (model.active, model.previous)
            assert configs.last == len(model.documents)
            for one in configs.saved:
                assert (
                    self.engine.ranking_config(tenant, one.version) == model.documents[one.version]
                )
            expected = (model.active, model.documents.get(model.active))
            assert expected == self.engine.active_ranking_config(tenant)

    @invariant()
    def keeps_no_document_beyond_those_that_are_listed(self) -> None:
        for tenant, model in self.models.items():
            prefix = RankingConfigKey.prefix(tenant)
            rows = self.store.keys("config", prefix, after(prefix), 100)
            assert rows == [RankingConfigKey(tenant, version).encode() for version in model.kept]
            assert len(rows) <= KEPT


TestConfigsEqualModel = ConfigsEqualModel.TestCase


@given(st.permutations(range(6)))
def test_of_those_who_saw_the_same_one_is_first_and_the_others_are_told(order: list[int]) -> None:
    with engine_in() as engine:
        for number in range(3):
            engine.save_ranking_config(ACME, b"%d" % number).result()
        told = [engine.activate_ranking_config(ACME, 1 + n % 3, 0) for n in order]
        assert told[0].result().version == 1 + order[0] % 3
        for late in told[1:]:
            with pytest.raises(Conflict):
                late.result()
        assert engine.ranking_configs(ACME).active == 1 + order[0] % 3


def test_rolling_back_again_and_again_changes_between_two_versions() -> None:
    clock = ManualClock()
    with engine_in(clock=clock) as engine:
        engine.save_ranking_config(ACME, b"1").result()
        engine.activate_ranking_config(ACME, 1, 0).result()
        clock.advance(5)
        for active, before in ((0, 1), (1, 0), (0, 1)):
            engine.activate_ranking_config(ACME, active, before).result()
            configs = engine.ranking_configs(ACME)
            assert (configs.active, configs.previous) == (active, before)
        assert configs.activated_us == NOW_US + 5_000_000


def test_activating_what_is_active_keeps_the_way_back() -> None:
    with engine_in() as engine:
        engine.save_ranking_config(ACME, b"1").result()
        engine.activate_ranking_config(ACME, 1, 0).result()
        assert engine.activate_ranking_config(ACME, 1, 1).result().previous == 0
        assert engine.ranking_configs(ACME).previous == 0


def test_same_key_again_saves_and_activates_once() -> None:
    with engine_in() as engine:
        first = engine.save_ranking_config(ACME, b"1", "k").result()
        assert first == engine.save_ranking_config(ACME, b"1", "k").result()
        with pytest.raises(Conflict, match="used with other content"):
            engine.save_ranking_config(ACME, b"2", "k").result()
        done = engine.activate_ranking_config(ACME, 1, 0, "a").result()
        assert done == engine.activate_ranking_config(ACME, 1, 0, "a").result()
        assert engine.ranking_configs(ACME).last == 1


def test_what_cannot_be_is_refused_before_it_is_logged() -> None:
    with engine_in() as engine:
        before = engine.applied_index()
        with pytest.raises(LimitExceeded, match="101 bytes, ranking_config_bytes_max is 100"):
            engine.save_ranking_config(ACME, b"x" * 101)
        for version, expected in ((-1, 0), (0, -1), (2**64, 0)):
            with pytest.raises(InvalidInput):
                engine.activate_ranking_config(ACME, version, expected)
        with pytest.raises(NotFound):
            engine.save_ranking_config(TenantId("nobody"), b"")
        for version in (0, -1, 1, 2**70):
            with pytest.raises(NotFound, match="is not kept"):
                engine.ranking_config(ACME, version)
        assert before == engine.applied_index()


def test_config_that_keeps_too_few_versions_is_refused() -> None:
    (problem,) = FeedsConfig(ranking_configs_max=2).problems()
    assert "at least 3" in problem


def test_tenant_without_any_has_the_default() -> None:
    with engine_in() as engine:
        assert RankingConfigs() == engine.ranking_configs(ACME)
        assert (0, None) == engine.active_ranking_config(ACME)


@given(st.sampled_from(("a", "b", "ab")), st.sampled_from(("a", "b", "ab")), st.integers(0, 2**63))
def test_keys_of_tenants_are_apart(one: str, other: str, version: int) -> None:
    key = RankingConfigKey(one, version).encode()
    assert key.startswith(RankingConfigKey.prefix(other)) == (one == other)
    assert (RankingConfigsKey(one).encode() == RankingConfigsKey(other).encode()) == (one == other)


def test_every_change_is_told_here_and_beside_without_events() -> None:
    store = MemoryStore()
    heard: list[tuple[str, int, int]] = []
    followed: list[tuple[str, int, int]] = []

    def note(to: list[tuple[str, int, int]]) -> Listener:
        def listen(tenant: TenantId, index: int, events: Sequence[Event]) -> None:
            to.append((tenant, index, len(events)))

        return listen

    with engine_in(store) as engine:
        changes = FollowedChanges(store)
        engine.subscribe(note(heard))
        changes.subscribe(note(followed), lambda: None)
        saved = engine.save_ranking_config(ACME, b"1").result().index
        active = engine.activate_ranking_config(ACME, 1, 0).result().index
        engine.activate_ranking_config(ACME, 1, 1).result()
        changes.advance()
    assert [(ACME, saved, 0), (ACME, active, 0)] == heard == followed


def test_versions_are_there_after_a_restart(tmp_path: Path) -> None:
    with FeedEngine.open(tmp_path) as engine:
        engine.create_tenant(ACME).result()
        engine.save_ranking_config(ACME, b"one").result()
        engine.activate_ranking_config(ACME, 1, 0).result()
        before = engine.ranking_configs(ACME)
    with FeedEngine.open(tmp_path) as engine:
        assert before == engine.ranking_configs(ACME)
        assert (1, b"one") == engine.active_ranking_config(ACME)
