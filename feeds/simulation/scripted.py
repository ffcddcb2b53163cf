"""A world in which nothing is left to chance, which tells what happens and holds messages back."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final

from feeds.errors import InvalidInput
from feeds.replication.config import LogConfig, MemberConfig
from feeds.replication.journal import Journal
from feeds.replication.member import Member
from feeds.replication.messages import Message
from feeds.simulation.world import Machine, World

__all__ = ["MESSAGE_S", "Letter", "ScriptedWorld"]

MESSAGE_S: Final = 0.001
"""Seconds that every message takes."""

SYNC_S: Final = 0.0005
"""Seconds that a sync of the log takes; a slow disk a hundred times that."""

SEGMENT_BYTES: Final = 150
"""After so many bytes a segment of the log is full: three or four short commands."""


class Settled(Random):
    """Where a schedule would draw, this says the same each time."""

    kept = 1.0
    """Share of the bytes that were not synced that a loss of power leaves."""

    def random(self) -> float:
        """Nothing is lost, doubled, or written by chance."""
        return 1.0 - 2**-53

    def uniform(self, a: float, b: float) -> float:
        """The middle."""
        return (a + b) / 2

    def randint(self, a: int, b: int) -> int:
        """As much as is kept."""
        return a + round((b - a) * self.kept)

    def choice(self, seq: Any) -> Any:  # Any: as the class it extends
        """The first."""
        return seq[0]


class _Timer(Random):
    """Draws election timers: the nodes' order decides."""

    def __init__(self, place: Callable[[], int]) -> None:
        super().__init__(0)
        self._place = place

    def uniform(self, a: float, b: float) -> float:
        """A little later for each place in the order."""
        return a + (b - a) * self._place() / 10


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that is held back on its way."""

    source: str
    target: str
    message: Message


class ScriptedWorld(World):
    """A world that tells what happens, and holds messages back."""

    def __init__(self, root: Path, nodes: int, config: MemberConfig) -> None:
        super().__init__(root, 0, nodes, config)
        self.settled = Settled()
        self.random = self.settled
        self.delay_s = (MESSAGE_S, MESSAGE_S)
        self.sync_s = (SYNC_S, SYNC_S)
        self.order = list(self.names)
        self.told: list[str] = []
        """What has happened since it was last taken."""
        self.holding: set[tuple[str, str]] = set()
        self.held: list[Letter] = []
        self._roles: dict[str, tuple[str, int]] = {}
        self._log_config = LogConfig(segment_bytes_max=SEGMENT_BYTES)

    def note(self, what: str) -> None:
        """Tell it, besides."""
        what = what.replace(f"{self.disk.root}/", "")
        super().note(what)
        self.told.append(what)

    def turn(self, name: str) -> None:
        """Let a node act on what it was given, and not only when its clock ticks."""
        self._step(self._nodes[name], lambda _: None)

    def deliver(self, letter: Letter) -> None:
        """Let a message arrive at once."""
        self._arrive(letter.source, letter.target, self.encode(letter.message))

    def journal(self, name: str) -> Journal:
        """What a running node has written."""
        journal = self._nodes[name].journal
        if journal is None:
            raise InvalidInput(f"{name} is down: start it first")
        return journal

    def decided(self) -> dict[int, bytes]:
        """The commands that any node has applied, by index."""
        return {index: self._committed[index][1] for index in sorted(self._committed)}

    def put_back(self, name: str, directory: Path, machine: Machine) -> None:
        """Make a node's disk what it was once."""
        node = self._nodes[name]
        shutil.rmtree(node.directory)
        shutil.copytree(directory, node.directory)
        node.machine, node.refused = replace(machine), None

    def _timer(self, name: str) -> Random:
        return _Timer(lambda: self.order.index(name))

    def _send(self, source: str, target: str, message: Any) -> None:  # Any: as the class it extends
        if (source, target) in self.holding:
            self.held.append(Letter(source, target, message))
        else:
            super()._send(source, target, message)

    def _look_at(self, node: Any, member: Member) -> None:  # Any: as the class it extends
        super()._look_at(node, member)
        status = member.status()
        role = (status.role, status.term)
        if role != self._roles.get(node.name) and status.role in ("leader", "candidate"):
            verb = "leads" if status.role == "leader" else "stands"
            self.note(f"{node.name} {verb} in term {status.term}")
        elif self._roles.get(node.name, ("", 0))[0] == "leader" != status.role:
            self.note(f"{node.name} leads no longer")
        self._roles[node.name] = role

    def kill(self, name: str) -> None:
        """End a node's process; when it is there again, its role is news again."""
        super().kill(name)
        self._roles.pop(name, None)
