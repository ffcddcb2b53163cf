"""The cluster's clock is moved by time alone, whoever leads and whatever is lost."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from feeds import machine
from feeds.clock_mover import CLOCK_EVERY_S, ClockMover
from feeds.commands import Command, MoveClock, Once, RecordEvents
from feeds.machine.clock import clock_us
from feeds.results import RecordResult
from feeds.store.memory import MemoryStore

NODES = 3
TTL_S = 40
SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A command in the log, and when its leader wrote it."""

    command: Command
    written_s: float


class Replica:
    """A node's store, which has applied the first so many entries; its clock began at `born_s`."""

    def __init__(self, born_s: float) -> None:
        self.store = MemoryStore()
        self.applied = 0
        self.born_s = born_s
        self.mover: ClockMover | None = None

    def apply(self, entry: Entry) -> object:
        self.applied += 1
        outcome = machine.apply(entry.command, self.applied, self.store)
        self.store.write(outcome.writes)
        return outcome.result


class Cluster:
    """A log that one node writes at a time, and the others apply when they come to it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.log: list[Entry] = []
        self.decided = 0
        self.replicas = [Replica(1_000.0 * node) for node in range(NODES)]
        self.keys = 0
        self.elect(0)

    def elect(self, leader: int) -> None:
        self.leader = self.replicas[leader]
        for replica in self.replicas:
            replica.mover = None
        born_s = self.leader.born_s
        self.leader.mover = ClockMover(self.leader.store, lambda: self.now_s + born_s)

    def lose(self) -> None:
        """The leader falls before anyone has what is not decided; the next one leads."""
        del self.log[self.decided :]
        self.elect((self.replicas.index(self.leader) + 1) % NODES)

    def write(self, ahead_s: float) -> None:
        assert self.leader.mover is not None
        move = self.leader.mover.due()
        if move is not None:
            self.log.append(Entry(move, self.now_s))
        self.keys += 1
        stamp_us = int(ahead_s * SECOND_US)
        once = Once(f"k{self.keys}", b"", stamp_us, stamp_us + TTL_S * SECOND_US)
        command = RecordEvents(tenant="demo", events=(), once=once)
        self.log.append(Entry(command, self.now_s))

    def forward_late(self) -> None:
        """What a former leader had measured is written by another one, again."""
        moves = [entry for entry in self.log if isinstance(entry.command, MoveClock)]
        if moves:
            self.log.append(Entry(moves[-1].command, self.now_s))

    def decide(self) -> None:
        self.decided = len(self.log)

    def catch_up(self, node: int) -> None:
        replica = self.replicas[node]
        for entry in self.log[replica.applied : self.decided]:
            replica.apply(entry)


actions = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(0, 3 * CLOCK_EVERY_S, allow_subnormal=False)),
        st.tuples(st.just("write"), st.floats(-1e5, 1e5).filter(lambda ahead: ahead >= -1e4)),
        st.tuples(st.just("lose"), st.just(0.0)),
        st.tuples(st.just("forward"), st.just(0.0)),
        st.tuples(st.just("decide"), st.just(0.0)),
        st.tuples(st.just("catch up"), st.sampled_from((0.0, 1.0, 2.0))),
    ),
    max_size=60,
)


def play(happened: list[tuple[str, float]]) -> Cluster:
    cluster = Cluster()
    for what, much in happened:
        match what:
            case "pass":
                cluster.now_s += much
            case "write":
                cluster.write(max(0.0, much))
            case "lose":
                cluster.lose()
            case "forward":
                cluster.forward_late()
            case "decide":
                cluster.decide()
            case _:
                cluster.catch_up(int(much))
    cluster.decide()
    return cluster


@given(actions)
@settings(max_examples=300, deadline=None)
def test_clock_never_goes_faster_than_time_and_no_key_is_forgotten_early(
    happened: list[tuple[str, float]],
) -> None:
    """Of any two entries; whatever clients stamp, and however leaders change."""
    cluster = play(happened)
    replica = Replica(0.0)
    clocks_us: list[int] = []
    for entry in cluster.log:
        clocks_us.append(clock_us(replica.store))
        result = replica.apply(entry)
        if isinstance(entry.command, RecordEvents):
            assert RecordResult(replica.applied, 0) == result
    times = [entry.written_s for entry in cluster.log]
    for place, (time_s, before_us) in enumerate(zip(times, clocks_us, strict=True)):
        assert before_us <= time_s * SECOND_US + 1
        if isinstance(cluster.log[place].command, MoveClock):
            continue
        for later_s, after_us in zip(times[place:], clocks_us[place:], strict=True):
            assert after_us - before_us <= (later_s - time_s + CLOCK_EVERY_S) * SECOND_US + 1


@given(st.lists(st.floats(0.1, 3 * CLOCK_EVERY_S), min_size=1, max_size=40))
@settings(deadline=None)
def test_clock_under_one_leader_is_as_old_as_the_last_move(pauses_s: list[float]) -> None:
    """It loses nothing where moves are applied before the next is due."""
    cluster = Cluster()
    moved_s = 0.0
    for pause_s in pauses_s:
        cluster.now_s += pause_s
        before = len(cluster.log)
        cluster.write(0.0)
        moved_s = cluster.now_s if len(cluster.log) - before > 1 else moved_s
        cluster.decide()
        cluster.catch_up(0)
        assert cluster.now_s - moved_s < CLOCK_EVERY_S
        assert abs(clock_us(cluster.leader.store) - moved_s * SECOND_US) <= len(pauses_s)


def test_nothing_is_proposed_where_nothing_is_written() -> None:
    cluster = Cluster()
    cluster.now_s = 1e6
    assert [] == cluster.log
    cluster.write(0.0)
    assert [MoveClock, RecordEvents] == [type(entry.command) for entry in cluster.log]


def test_silence_of_more_than_a_day_counts_as_a_day() -> None:
    cluster = Cluster()
    cluster.now_s = 1e6
    cluster.write(0.0)
    cluster.decide()
    cluster.catch_up(0)
    assert 86_400 * SECOND_US == clock_us(cluster.leader.store)
