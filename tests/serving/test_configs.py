"""The law: what is held of configs is what is active, whoever changed it, here or beside a node."""

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.cli_cluster import init_cluster
from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.errors import NotFound
from feeds.model import TenantId
from feeds.node import EngineNode
from feeds.node_config import NodeConfig
from feeds.remote import open_remote
from feeds.testing_engine import memory_engine
from feeds.testing_ports import free_ports
from ranking.config import RankingConfig
from ranking.errors import InvalidRankingConfig
from serving.configs import ActiveVersion, HeldConfigs, read_config, service_config
from serving.settings import load_settings
from serving.testing import wait_until

TENANTS = (TenantId("acme"), TenantId("bravo"), TenantId("coral"))
ACME = TENANTS[0]
DEFAULT = service_config(load_settings())
WAIT_S = 30.0


def document(size: int) -> bytes:
    return orjson.dumps({"personalized": {"slate_size": size}})


def size_of(active: ActiveVersion) -> int:
    return active.config.personalized.slate_size


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(("save", "activate", "read")),
            st.sampled_from(TENANTS),
            st.integers(0, 4),
        ),
        max_size=40,
    ),
    held_max=st.integers(1, 3),
)
def test_what_is_held_is_what_is_active(
    steps: list[tuple[str, TenantId, int]], held_max: int
) -> None:
    with memory_engine(tenants=TENANTS) as engine:
        held = HeldConfigs(engine, DEFAULT, held_max)
        for step, tenant, number in steps:
            active = engine.ranking_configs(tenant).active
            if step == "save":
                engine.save_ranking_config(tenant, document(number + 1)).result()
            elif step == "activate" and number <= engine.ranking_configs(tenant).last:
                engine.activate_ranking_config(tenant, number, active).result()
            for one in TENANTS:
                version, stored = engine.active_ranking_config(one)
                expected = DEFAULT if stored is None else read_config(stored)
                assert ActiveVersion(version, expected) == held.of(one)
            assert len(held) <= held_max


def test_a_repeated_read_reads_nothing() -> None:
    with memory_engine(tenants=TENANTS) as engine:
        engine.save_ranking_config(ACME, document(7)).result()
        engine.activate_ranking_config(ACME, 1, 0).result()
        held = HeldConfigs(engine, DEFAULT, 10)
        assert size_of(held.of(ACME)) == 7
        assert held.of(ACME) is held.of(ACME)
        engine.close()
        assert size_of(held.of(ACME)) == 7


def test_tenant_that_does_not_exist_has_no_config() -> None:
    with memory_engine() as engine, pytest.raises(NotFound):
        HeldConfigs(engine, DEFAULT, 10).of(TenantId("nobody"))


@pytest.mark.parametrize(
    "content", [b"\xff", b"[]", b'{"later": 1}', b'{"personalized": {"x": 1}}']
)
def test_document_that_this_release_cannot_read_leaves_the_default(content: bytes) -> None:
    with memory_engine(tenants=TENANTS) as engine:
        engine.save_ranking_config(ACME, content).result()
        engine.activate_ranking_config(ACME, 1, 0).result()
        active = HeldConfigs(engine, DEFAULT, 10).of(ACME)
        assert (active.version, active.config) == (0, DEFAULT)
        assert "version 1 is active and cannot be read" in str(active.problem)
        with pytest.raises(InvalidRankingConfig):
            read_config(content)


def test_saved_document_is_whole_and_comes_back() -> None:
    config = RankingConfig.parse({"explore": {"slate_size": 3}})
    assert config == read_config(orjson.dumps(config.to_document()))


@pytest.fixture
def node_config() -> Iterator[NodeConfig]:
    """A cluster of one that does not run yet."""
    with tempfile.TemporaryDirectory(prefix="hw") as directory:  # a socket's path is short
        (path,) = init_cluster(Path(directory), "test", free_ports(1), nodes=1, plain=True)
        yield NodeConfig.load(path)


def beside(stack: ExitStack, config: NodeConfig) -> FeedEngine:
    return stack.enter_context(open_remote(config.socket, FeedsConfig(retry_s=10.0)))


def test_workers_follow_an_activation_without_a_restart(node_config: NodeConfig) -> None:
    """And what was activated while the node was away from a worker, whose changes it missed."""
    with ExitStack() as stack:
        running = stack.enter_context(ExitStack())
        running.enter_context(EngineNode.running(node_config))
        writer = beside(stack, node_config)
        engines = [beside(stack, node_config) for _ in range(2)]
        workers = [HeldConfigs(engine, DEFAULT, 10) for engine in engines]
        writer.create_tenant(ACME).result(WAIT_S)
        wait_until(lambda: all(ACME in each.tenants() for each in engines), "the tenant")
        for number in range(1, 6):
            writer.save_ranking_config(ACME, document(number)).result(WAIT_S)
        for number in range(1, 4):
            writer.activate_ranking_config(ACME, number, number - 1).result(WAIT_S)
            for worker in workers:
                wait_until(lambda: size_of(worker.of(ACME)) == number, "the activation")  # noqa: B023
                assert worker.of(ACME).version == number
        running.close()
        with FeedEngine.open(node_config.data_dir) as alone:
            alone.activate_ranking_config(ACME, 5, 3).result(WAIT_S)
        running.enter_context(EngineNode.running(node_config))
        for worker in workers:
            wait_until(lambda: size_of(worker.of(ACME)) == 5, "what was missed")  # noqa: B023


def test_of_clients_that_race_one_is_first_and_every_worker_agrees(
    node_config: NodeConfig,
) -> None:
    with EngineNode.running(node_config), ExitStack() as stack:
        engines = [beside(stack, node_config) for _ in range(3)]
        engines[0].create_tenant(ACME).result(WAIT_S)
        wait_until(lambda: all(one.tenants() == [ACME] for one in engines), "the tenant")
        for number in range(1, 4):
            engines[0].save_ranking_config(ACME, document(number)).result(WAIT_S)
        won: list[int] = []

        def race(number: int) -> None:
            done = engines[number - 1].activate_ranking_config(ACME, number, 0)
            if done.exception(WAIT_S) is None:
                won.append(number)

        threads = [threading.Thread(target=race, args=(number,)) for number in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        for one in engines:
            wait_until(lambda: one.ranking_configs(ACME).active == won[0], "the winner")  # noqa: B023


def test_reads_from_many_threads_amid_activations_end_up_as_the_store() -> None:
    with tempfile.TemporaryDirectory() as directory, FeedEngine.open(Path(directory)) as engine:
        engine.create_tenant(ACME).result()
        for number in range(1, 4):
            engine.save_ranking_config(ACME, document(number)).result()
        held = HeldConfigs(engine, DEFAULT, 10)

        async def read_and_activate() -> None:
            reads = [asyncio.to_thread(read_often) for _ in range(3)]
            await asyncio.gather(*reads, asyncio.to_thread(activate_often))

        def read_often() -> None:
            for _ in range(2_000):
                active = held.of(ACME)
                assert active.version in (0, size_of(active))

        def activate_often() -> None:
            active = 0
            for turn in range(200):
                engine.activate_ranking_config(ACME, 1 + turn % 3, active).result()
                active = 1 + turn % 3
                assert held.of(ACME).version == active

        asyncio.run(read_and_activate())
        assert held.of(ACME).version == engine.ranking_configs(ACME).active


@pytest.mark.parametrize(
    ("candidates_max", "following", "trending"),
    [(100, 400, 100), (500, 400, 100), (1_000, 800, 200), (2_000, 1_600, 400)],
)
def test_quotas_grow_with_candidates_beyond_the_default(
    candidates_max: int, following: int, trending: int
) -> None:
    sources = service_config(load_settings(candidates_max=candidates_max)).personalized.sources
    assert (sources.following.quota, sources.trending.quota) == (following, trending)
    assert (sources.following.on, sources.fresh.on) == (True, False)
