"""Whole clusters of members: everyone is told once and in time, whatever happens."""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.errors import (
    NoLeader,
    OutcomeUnknown,
    Overloaded,
)
from feeds.replication.base import Applied
from feeds.replication.config import MemberConfig
from feeds.simulation.world import TICK_S, World

SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None


@dataclass
class _Submitted:
    """A command, when and where it was submitted, and what was told when."""

    name: str
    incarnation: int
    at_s: float
    told: list[tuple[float, object]] = field(default_factory=list)


ACTIONS = st.sampled_from(
    ["propose", "propose", "propose", "cut", "mend", "kill", "start", "lossy", "flush", "wait"]
)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(ACTIONS, st.sampled_from(["n1", "n2", "n3"])), max_size=40),
)
def test_everyone_is_told_once_and_in_time_whatever_happens(
    seed: int, schedule: list[tuple[str, str]]
) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    config = MemberConfig(propose_timeout_s=1.0, proposals_max=10)
    submitted: list[_Submitted] = []
    try:
        with (
            tempfile.TemporaryDirectory(dir=SCRATCH, prefix="member-") as root,
            World(Path(root), seed, config=config).running() as world,
        ):
            world.run(1.0)
            for action, name in schedule:
                _act(world, action, name, submitted)
            world.run(1.0 + 10 * TICK_S)
            _check(world, submitted)
    finally:
        structlog.reset_defaults()


def _act(world: World, action: str, name: str, submitted: list[_Submitted]) -> None:
    if action == "propose":
        one = _Submitted(name, world._nodes[name].incarnation, world.now_s)
        submitted.append(one)
        told = one.told
        world.propose(
            name, b"%d" % len(submitted), lambda outcome: told.append((world.now_s, outcome))
        )
    actions: dict[str, Callable[[], object]] = {
        "cut": lambda: world.blocked.update({(name, other) for other in world.names}),
        "mend": world.blocked.clear,
        "kill": lambda: world.kill(name),
        "start": lambda: world.start(name),
        "lossy": lambda: setattr(world, "lost", 0.3 - world.lost),
        "flush": lambda: world.flush(name),
    }
    actions.get(action, lambda: None)()
    world.run(world.random.uniform(0.0, 0.4))


def _check(world: World, submitted: list[_Submitted]) -> None:
    for one in submitted:
        lived = one.incarnation == world._nodes[one.name].incarnation
        assert len(one.told) <= 1
        assert one.told or not lived, "its node lives, and it was told nothing"
        for at_s, outcome in one.told:
            assert isinstance(outcome, Applied | NoLeader | OutcomeUnknown | Overloaded)
            assert at_s - one.at_s <= 1.0 + 2 * TICK_S
