"""Scripted schedules: a story of a cluster, told command by command, on the simulated world.

`Scenario.run` takes one command of a script (`feeds.testing_scenarios`) and answers what happened.
Nothing is left to chance: every message takes a millisecond, and whose election timer runs out
first is said (`first n2`; else by name). Time passes where a command says so. The commands are the
methods of `Scenario` whose names begin with `do_`; the docstring of each is its manual.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from feeds.errors import FeedsError, InvalidInput
from feeds.replication.base import Applied, LogPosition
from feeds.replication.config import ConsensusConfig, MemberConfig
from feeds.replication.member import Member
from feeds.replication.segment import SegmentReader, encode_record
from feeds.simulation.scripted import MESSAGE_S, Letter, ScriptedWorld
from feeds.simulation.telling import tell_message, tell_status
from feeds.simulation.words import answer_of, follow, word_of
from feeds.simulation.world import Machine
from feeds.testing_scenarios import ScriptCommand

__all__ = ["Scenario"]

WAIT_S: Final = 0.2
"""Seconds that a proposal is waited for."""


class Scenario:
    """A cluster that a script's commands act on; closed with `close`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._exits = ExitStack()
        self._made: ScriptedWorld | None = None
        self._copies: dict[str, tuple[Path, Machine]] = {}

    def run(self, command: ScriptCommand) -> list[str]:
        """Do what a command says; what happened, in the order it did."""
        action = getattr(self, f"do_{command.name.replace('-', '_')}", None)
        if action is None:
            known = sorted(name[3:].replace("_", "-") for name in dir(self) if name[:3] == "do_")
            raise InvalidInput(f"there is no command {command.name!r}: write {', '.join(known)}")
        answers = list(action(*command.words, **command.options) or ())
        happened = self._take_told()
        return [*happened, *answers]

    def close(self) -> None:
        """End every node."""
        self._exits.close()

    # The cluster, and time.

    def do_cluster(self, **options: str) -> None:
        """`cluster nodes=3`: start that many. Limits of `MemberConfig` may be set beside it."""
        nodes = int(options.pop("nodes", "3"))
        pace = ConsensusConfig(
            append_entries_max=int(options.pop("append_entries_max", "1024")),
            commit_news_s=0.0,  # what is decided is told in the moment: stories are shorter so
        )
        member = MemberConfig(
            consensus=pace,
            propose_timeout_s=2.0,
            **{name: int(value) for name, value in options.items()},
        )
        self._made = ScriptedWorld(self._root, nodes, member)
        self._exits.enter_context(self._made.running())
        self._take_told()

    def do_first(self, *names: str) -> None:
        """`first n2 n3`: the election timers of these run out before the others', in this order."""
        rest = [name for name in self._world.names if name not in names]
        self._world.order = [*names, *rest]

    def do_run(self, time: str) -> None:
        """`run 500ms`, `run 2s`: let time pass."""
        self._world.run(_seconds(time))

    def do_elect(self, name: str) -> list[str]:
        """`elect n1`: its timer is the first to run out; let time pass until it leads."""
        self.do_first(name)
        self._world.run(WAIT_S)  # timers are drawn anew with the next heartbeat
        if not self._world.run_until(lambda: self._world.leader() == name, 3.0):
            raise InvalidInput(f"{name} was not elected: " + "; ".join(self._take_told()))
        self._world.run(WAIT_S)
        return []

    # Clients.

    def do_propose(self, name: str, *commands: str, wait: str = f"{WAIT_S}s") -> None:
        """`propose n1 a b`: clients of n1 propose a and b at once, and wait a moment."""
        self._propose(name, [command.encode() for command in commands], _seconds(wait))

    def do_propose_each(self, name: str, *commands: str) -> None:
        """`propose-each n1 a b`: a client of n1 proposes a, and b once a was answered."""
        for command in commands:
            self.do_propose(name, command)

    def do_follow(self, name: str, follower: str, target: str, *, key: str) -> None:
        """`follow n1 bob alice key=k`: as `propose`; but it takes effect once with its key."""
        self._propose(name, [follow(follower, target, key)], WAIT_S)

    def do_barrier(self, name: str) -> None:
        """`barrier n2`: a client of n2 asks for an index that covers all acknowledged before."""
        member = self._member(name)
        heard: list[int | FeedsError] = []
        member.barrier(heard.append)
        self._world.run_until(lambda: bool(heard), WAIT_S)
        told = heard[0] if heard else "waits"
        self._world.told.append(f"{name}: {told}")

    # The network.

    def do_cut(self, one: str, arrow: str = "", other: str = "") -> None:
        """`cut n1`: from everyone. `cut n1 n2`: both ways. `cut n1 -> n2`: one way."""
        for pair in self._pairs(one, arrow, other):
            self._world.blocked.add(pair)

    def do_mend(self) -> None:
        """`mend`: every connection is whole again."""
        self._world.blocked.clear()

    def do_hold(self, one: str, arrow: str = "", other: str = "") -> None:
        """`hold n1 -> n2`, as `cut`: messages do not arrive; they are kept for `deliver`."""
        self._world.holding |= self._pairs(one, arrow, other)

    def do_held(self) -> list[str]:
        """`held`: the messages that are kept, but for heartbeats."""
        return [line for letter in self._world.held if (line := _letter(letter))]

    def do_deliver(
        self, one: str, arrow: str = "", other: str = "", *, count: str = "", keep: str = ""
    ) -> None:
        """`deliver n1 -> n2`: what is kept arrives, the oldest `count=` of it that say something.

        With `keep=yes` it stays kept, so that it can arrive again.
        """
        pairs = self._pairs(one, arrow, other)
        left = int(count) if count else len(self._world.held)
        for letter in list(self._world.held):
            if left == 0 or (letter.source, letter.target) not in pairs:
                continue
            line = _letter(letter)
            left -= bool(line)
            if line:
                self._world.told.append(line)
            if not keep:
                self._world.held.remove(letter)
            self._world.deliver(letter)
        self._world.run(2 * MESSAGE_S)

    def do_release(self) -> None:
        """`release`: nothing is held any more, and what was is forgotten."""
        self._world.holding.clear()
        self._world.held.clear()

    # Nodes and their disks.

    def do_kill(self, *names: str) -> None:
        """`kill n1`: the process ends; what it wrote stays, synced or not."""
        for name in names:
            self._world.kill(name)

    def do_lose_power(self, *names: str, kept: str = "0%") -> None:
        """`lose-power n1 kept=50%`: killed, and of what was not synced only so much is left."""
        for name in names:
            self._world.settled.kept = float(kept.rstrip("%")) / 100
            self._world.lose_power(name)
            self._world.settled.kept = 1.0

    def do_start(self, *names: str) -> None:
        """`start n1`: on what its directory holds."""
        for name in names:
            self._world.start(name)
        self._world.run(2 * MESSAGE_S)

    def do_replace(self, name: str) -> None:
        """`replace n1`: it is given an empty directory, and joins."""
        self._world.replace(name)

    def do_transfer(self, name: str) -> None:
        """`transfer n1`: before it stops, it lets another one lead."""
        self._member(name).transfer()
        self._world.run(WAIT_S)

    def do_flush(self, *names: str) -> None:
        """`flush n1`: its store is durable; what log is needed by nobody then is dropped."""
        for name in names or self._world.names:
            self._world.flush(name)

    def do_copy(self, name: str) -> None:
        """`copy n1`: keep a copy of its data directory and store."""
        kept = self._root / f"copy-of-{name}"
        shutil.copytree(self._world.directory(name), kept)
        self._copies[name] = kept, replace(self._world.machine(name))

    def do_put_back(self, name: str) -> None:
        """`put-back n1`: kill it, and give it the copy; the mistake that a node must survive."""
        self._world.kill(name)
        self._world.put_back(name, *self._copies[name])

    def do_damage(self, name: str, *, byte: str = "40", segment: str = "0") -> None:
        """`damage n1 byte=40 segment=0`: flip a byte of a segment of its log."""
        path = sorted(self._world.directory(name).glob("*.log"))[int(segment)]
        data = bytearray(path.read_bytes())
        data[int(byte)] ^= 0xFF
        path.write_bytes(data)
        self._world.whole = False

    def do_half_write(self, name: str, term: str, command: str) -> None:
        """`half-write n1 1 c`: while it is down, leave half a record of term 1 behind its log."""
        path = max(self._world.directory(name).glob("*.log"))
        reader = SegmentReader(path)
        *_, last = reader
        assert reader.header is not None
        index, seed = last.index + 1, reader.header.seed
        record = encode_record(seed, index, int(term), last.index, command.encode())
        with path.open("ab") as file:
            file.write(record[: len(record) // 2])

    def do_slow_disk(self, *names: str) -> None:
        """`slow-disk n1`: the syncs of these nodes, and of no others, take 50 ms."""
        self._world.slow = set(names)

    def do_full_disk(self, *names: str) -> None:
        """`full-disk n1`: nothing can be written by these nodes, and by all others."""
        self._world.disk.full = {self._world.directory(name) for name in names}

    def do_low_disk(self, *names: str) -> None:
        """`low-disk n1`: these nodes have less free than they leave, and all others enough."""
        self._world.disk.low = {self._world.directory(name) for name in names}

    def do_break_disk(self, name: str) -> None:
        """`break-disk n1`: its next sync fails."""
        self._world.disk.failing.add(self._world.directory(name))

    # What can be seen.

    def do_status(self, *names: str) -> list[str]:
        """`status`: where every node stands."""
        found = []
        for name in names or self._world.names:
            member = self._world.member(name)
            found.append(tell_status(name, None if member is None else member.status()))
        return found

    def do_peers(self, name: str) -> list[str]:
        """`peers n1`: up to where the leader knows its peers' logs to be its own."""
        peers = self._member(name).status().peers
        return [f"{peer.node} has {peer.match_index}" for peer in peers]

    def do_log(self, *names: str) -> list[str]:
        """`log n1`: its entries as `index:term command`; `-` is what a new leader writes."""
        return [f"{name}: {self._entries(name)}" for name in names or self._world.names]

    def do_store(self, *names: str) -> list[str]:
        """`store n1`: the commands that it has applied."""
        return [
            f"{name}: {' '.join(self._applied(name)) or 'nothing'}"
            for name in names or self._world.names
        ]

    def do_compaction(self, name: str, *, below: str) -> list[str]:
        """`compaction n1 below=9`: ask it to drop the log below an index that is not flushed."""
        dropped = self._member(name).compact(int(below))
        return [f"{name} drops {dropped} segments"]

    def do_may_install(self, name: str, index: str, term: str) -> list[str]:
        """`may-install n1 7 2`: whether it would take a snapshot of entry 7 of term 2."""
        may = self._member(name).may_install(LogPosition(int(index), int(term)))
        return [f"{name}: {'yes' if may else 'no'}"]

    def do_check(self) -> list[str]:
        """`check`: every write that was acknowledged is in the store of every running node."""
        self._world.check_end()
        return [f"acknowledged, and in every running store: {len(self._world.acknowledged)}"]

    # How.

    @property
    def _world(self) -> ScriptedWorld:
        if self._made is None:
            raise InvalidInput("a script begins with `cluster nodes=3`")
        return self._made

    def _member(self, name: str) -> Member:
        member = self._world.member(name)
        if member is None:
            raise InvalidInput(f"{name} is down: start it first")
        return member

    def _take_told(self) -> list[str]:
        if self._made is None:
            return []
        told, self._made.told = self._made.told, []
        return told

    def _pairs(self, one: str, arrow: str, other: str) -> set[tuple[str, str]]:
        names = self._world.names
        if not arrow:
            return {pair for name in names if name != one for pair in ((one, name), (name, one))}
        if arrow == "->":
            return {(one, other)}
        return {(one, arrow), (arrow, one)}

    def _propose(self, name: str, commands: Sequence[bytes], wait_s: float) -> None:
        waiting = {place: word_of(command) for place, command in enumerate(commands)}

        def hear(place: int) -> Callable[[object], None]:
            def tell(outcome: object) -> None:
                word = waiting.pop(place)
                self._world.told.append(f"{word}: {self._outcome(outcome)}")

            return tell

        for place, command in enumerate(commands):
            self._world.propose(name, command, hear(place))
        self._world.turn(name)
        self._world.run_until(lambda: not waiting, wait_s)
        if waiting:
            words = " ".join(waiting.values())
            self._world.told.append(f"{words}: no answer yet")

    def _outcome(self, outcome: object) -> str:
        if not isinstance(outcome, Applied):
            return f"{type(outcome).__name__}: {outcome}"
        answer = answer_of(self._world.decided(), outcome.index)
        return f"is entry {outcome.index}{answer and f', {answer}'}"

    def _entries(self, name: str) -> str:
        journal = self._world.journal(name)
        first = journal.base.index + 1
        entries = []
        while first <= journal.last.index:
            found = journal.entries(first, 100, 10_000)
            entries += [
                f"{index}:{term} {word_of(command)}"
                for index, (term, command) in enumerate(found, first)
            ]
            first += len(found)
        return ", ".join(entries) or "nothing"

    def _applied(self, name: str) -> Iterator[str]:
        for index, command in self._world.decided().items():
            if command and index <= self._world.machine(name).state.position.index:
                yield word_of(command)


def _letter(letter: Letter) -> str:
    told = tell_message(letter.message)
    return f"{letter.source} -> {letter.target}: {told}" if told else ""


def _seconds(text: str) -> float:
    if text.endswith("ms"):
        return float(text[:-2]) / 1_000
    return float(text.removesuffix("s"))
