"""Random schedules: what a seed makes of a cluster's life, and whether the laws held."""

import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from feeds.errors import OutcomeUnknown
from feeds.replication.config import ConsensusConfig, MemberConfig
from feeds.simulation.world import LawBroken, World

__all__ = ["Outcome", "run_schedule"]

SCRATCH: Final = Path("/dev/shm")  # noqa: S108 - memory is enough where syncs are simulated

CONFIG: Final = MemberConfig(
    consensus=ConsensusConfig(append_entries_max=8, append_bytes_max=400, apply_entries_max=16),
    propose_timeout_s=2.0,
    group_commit_ops_min=2,
    group_commit_ops_max=8,
    log_keep_bytes_max=8_000,
    log_keep_s_max=1.5,
    snapshot_retry_s=0.2,
)
"""Limits so low that every path is taken within seconds."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a schedule; `broken` says which law did not hold."""

    seed: int
    acknowledged: int
    unknown: int
    broken: str | None
    trace: tuple[str, ...]
    digest: int
    """Of the whole trace: the same seed gives the same one."""


class _Clients:
    """Clients that propose at any node, all the time."""

    def __init__(self, world: World, random: Random) -> None:
        self.unknown = 0
        self._world = world
        self._random = random
        self._count = 0
        self.active = True

    def begin(self) -> None:
        """Propose now, and again after a while."""
        if self.active:
            for _ in range(self._random.choice((1, 1, 1, 2, 12))):
                self._propose()
            self._world.later(self._random.expovariate(40.0), self.begin)

    def _propose(self) -> None:
        self._count += 1
        size = self._random.choice((1, 20, 20, 20, 700))
        command = b"op%d " % self._count + b"x" * size
        self._world.propose(self._random.choice(self._world.names), command, self._hear)

    def _hear(self, outcome: object) -> None:
        self.unknown += isinstance(outcome, OutcomeUnknown)


def run_schedule(
    seed: int,
    seconds: float = 6.0,
    world_of: Callable[[Path, int, int, MemberConfig], World] = World,
) -> Outcome:
    """Run the schedule of a seed for so many simulated seconds, then heal it and see it through."""
    scratch = SCRATCH if SCRATCH.is_dir() else None
    with tempfile.TemporaryDirectory(dir=scratch, prefix="headwater-sim-") as directory:
        world = world_of(Path(directory), seed, 5 if seed % 10 == 0 else 3, CONFIG)
        clients = _Clients(world, world.random)
        broken = None
        try:
            with world.running():
                _live(world, clients, seconds)
        except LawBroken as error:
            broken = str(error)
        digest = zlib.crc32("\n".join(world.trace).encode())
        return Outcome(
            seed, len(world.acknowledged), clients.unknown, broken, tuple(world.trace), digest
        )


def _live(world: World, clients: _Clients, seconds: float) -> None:
    clients.begin()
    end_s = world.now_s + seconds
    world.run(world.random.uniform(0.0, 1.5))
    while world.now_s < end_s:
        action = world.random.choice(_ACTIONS)
        action(world)
        world.run(world.random.expovariate(6.0))
    clients.active = False
    _heal(world)


def _heal(world: World) -> None:
    """Mend everything, and expect a write to get through and everyone to agree."""
    world.note("everything is mended")
    world.blocked.clear()
    world.lost = world.doubled = 0.0
    world.delay_s = (0.0005, 0.004)
    world.disk.failing.clear()
    world.disk.full.clear()
    world.disk.low.clear()
    world.slow.clear()
    for name in world.names:
        world.start(name)
        if world.member(name) is None:
            world.note(f"{name} stays down: {world.refused(name)}")
    for name in world.names:  # one that refuses its own directory is replaced
        if world.member(name) is None:
            world.replace(name)
    heard: list[object] = []
    written = world.run_until(lambda: _written(world, heard), 20.0)
    if not written:
        raise LawBroken(
            "no write got through after all was mended\n" + "\n".join(world.trace[-60:])
        )
    world.run(CONFIG.propose_timeout_s)  # whoever still waits is told by then
    newest = max(world.acknowledged)
    world.run_until(
        lambda: all(world.machine(name).state.position.index >= newest for name in world.names),
        20.0,
    )
    world.check_end()


def _written(world: World, heard: list[object]) -> bool:
    before = max(world.acknowledged, default=0)
    leader = world.leader()
    if leader is not None and not heard:
        world.propose(leader, b"last", heard.append)
        world.run(0.2)
        if max(world.acknowledged, default=0) == before:
            heard.clear()
            return False
        return True
    heard.clear()
    return False


def _any(world: World) -> str:
    return world.random.choice(world.names)


def _partition(world: World) -> None:
    lonely = _any(world)
    one_way = world.random.random() < 0.3  # noqa: PLR2004
    for name in world.names:
        if name != lonely:
            world.blocked.add((lonely, name))
            if not one_way:
                world.blocked.add((name, lonely))
    world.note(f"{lonely} is cut off" + (" one way" if one_way else ""))


def _cut_leader(world: World) -> None:
    leader = world.leader()
    if leader is not None:
        _cut_off(world, leader)


def _mend(world: World) -> None:
    world.blocked.clear()
    world.note("the network is mended")


def _kill(world: World) -> None:
    world.kill(_any(world))


def _lose_power(world: World) -> None:
    world.lose_power(_any(world))


def _kill_leader(world: World) -> None:
    leader = world.leader()
    if leader is not None:
        world.lose_power(leader) if world.random.random() < 0.5 else world.kill(leader)  # noqa: PLR2004


def _lose_all_power(world: World) -> None:
    for name in world.names:
        world.lose_power(name)


def _start(world: World) -> None:
    for name in world.names:
        world.start(name)


def _flush(world: World) -> None:
    world.flush(_any(world))


def _flush_all(world: World) -> None:
    for name in world.names:
        world.flush(name)


def _worsen(world: World) -> None:
    world.lost = world.random.choice((0.0, 0.0, 0.05, 0.3))
    world.doubled = world.random.choice((0.0, 0.0, 0.1))
    world.delay_s = world.random.choice(((0.0005, 0.004), (0.0005, 0.05), (0.0005, 0.4)))
    world.note(f"loss {world.lost}, doubling {world.doubled}, delay {world.delay_s[1]}")


def _slow_disk(world: World) -> None:
    name = _any(world)
    world.slow ^= {name}
    world.note(f"{name}'s disk is " + ("slow" if name in world.slow else "quick again"))


def _full_disk(world: World) -> None:
    """A node's disk is full, or there is room again; on the others there is, or little is left."""
    name, before = _any(world), list(world.disk.full)
    world.disk.full.clear()
    directory = world.directory(name)
    if directory not in before:
        world.disk.full.add(directory)
    world.note(f"{name}'s disk is " + ("full" if world.disk.full else "empty again"))
    low = int(world.now_s * 1_000) % 8  # which of three, by what the clock happens to say
    names = [one for place, one in enumerate(world.names[:3]) if low >> place & 1]
    world.disk.low = {world.directory(one) for one in names}
    world.note(f"little is left on the disks of {names}")


def _lose_leader_in_mid_sync(world: World) -> None:
    """A leader forgets what its disk was still to write, while the one peer that has it is away."""
    leader = world.leader()
    if leader is None:
        return
    peers = [name for name in world.names if name != leader]
    away = world.random.choice(peers)
    world.slow.add(leader)
    _cut_off(world, away)
    world.run(0.1)
    world.lose_power(leader)
    world.slow.discard(leader)
    world.blocked.clear()
    _cut_off(world, world.random.choice([name for name in peers if name != away]))
    world.start(leader)


def _cut_off(world: World, lonely: str) -> None:
    for name in world.names:
        if name != lonely:
            world.blocked |= {(lonely, name), (name, lonely)}
    world.note(f"{lonely} is cut off")


def _leap(world: World) -> None:
    """Every process is stopped for a while: time goes on, nothing else does."""
    world.now_s += world.random.choice((0.1, 0.5, 2.0))
    world.note("time leaps")


def _replace(world: World) -> None:
    """Replace a node while all others run and none is joining, as the rule for it demands."""
    if all(world.role(name) not in (None, "joining") for name in world.names):
        world.replace(_any(world))


_ACTIONS: Final[tuple[Callable[[World], None], ...]] = (
    _partition,
    _cut_leader,
    _mend,
    _mend,
    _kill,
    _lose_power,
    _kill_leader,
    _lose_all_power,
    _start,
    _start,
    _start,
    _flush,
    _flush,
    _flush_all,
    _worsen,
    _worsen,
    _leap,
    _replace,
    _slow_disk,
    _full_disk,
    _lose_leader_in_mid_sync,
)
