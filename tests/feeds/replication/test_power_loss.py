"""What a loss of power leaves of a log is cut, and damage of what was durable is refused."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
import structlog.testing
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from feeds.errors import LogDamaged
from feeds.replication.config import LogConfig
from feeds.replication.log import SegmentLog
from feeds.replication.segment import HEADER_BYTES, RECORD_BYTES
from feeds.simulation.disk import SimulatedDisk

SECTOR, PAGE = 512, 4096
ONE_SEGMENT = LogConfig()
SEGMENTS = LogConfig(segment_bytes_max=3_000)
GROUPS = st.lists(st.lists(st.integers(0, 1_500), min_size=1, max_size=5), min_size=1, max_size=6)
CONFIGS = st.sampled_from([ONE_SEGMENT, SEGMENTS])


def noise(size: int, seed: int = 1) -> bytes:
    return Random(seed).randbytes(size)


@dataclass
class Written:
    """A log, and what was known to be durable when each of its records was written."""

    directory: Path
    config: LogConfig
    commands: list[bytes] = field(default_factory=list)
    places: list[tuple[Path, int]] = field(default_factory=list)
    """Where each record begins."""
    witnesses: list[int] = field(default_factory=list)
    """Index up to which the log was durable when each was written."""
    durable: int = 0

    def write(self, groups: list[tuple[list[int], bool]]) -> None:
        """Append commands of these sizes; after some groups, sync."""
        log = SegmentLog.open(self.directory, config=self.config)
        for sizes, synced in groups:
            commands = [noise(size, len(self.commands) + n) for n, size in enumerate(sizes)]
            log.append(1, commands)
            path = max(self.directory.glob("*.log"))
            end = path.stat().st_size - sum(RECORD_BYTES + size for size in sizes)
            for command in commands:
                self.commands.append(command)
                self.places.append((path, end))
                self.witnesses.append(log.durable_index)
                end += RECORD_BYTES + len(command)
            if synced:
                log.sync()
        self.durable = log.durable_index
        log.close()

    def end(self, index: int) -> int:
        """Where a record ends."""
        return self.places[index - 1][1] + RECORD_BYTES + len(self.commands[index - 1])

    def durable_bytes(self) -> int:
        """Bytes of the last segment that were synced."""
        path = max(self.directory.glob("*.log"))
        ends = [self.end(n) for n in range(1, self.durable + 1) if self.places[n - 1][0] == path]
        return max([HEADER_BYTES, *ends])


def found(directory: Path, config: LogConfig, applied: int = 0) -> list[bytes]:
    log = SegmentLog.open(directory, applied, config)
    try:
        return [record.command for record in log.records(0)]
    finally:
        log.close()


def lose_blocks(path: Path, start: int, choices: st.DataObject) -> None:
    """Any blocks of what lies behind `start` never reached the disk, nor perhaps did the end."""
    written = bytearray(path.read_bytes())
    del written[choices.draw(st.integers(start, len(written)), label="size") :]
    block = choices.draw(st.sampled_from([SECTOR, PAGE]), label="block")
    numbers = range(start // block, -(-len(written) // block))
    for number in numbers:
        fill = choices.draw(st.sampled_from(["kept", "zeros", "noise"]), label=f"block {number}")
        begin, end = max(start, number * block), min(len(written), (number + 1) * block)
        if fill != "kept":
            written[begin:end] = bytes(end - begin) if fill == "zeros" else noise(end - begin)
    path.write_bytes(written)


@given(groups=GROUPS, synced=st.lists(st.booleans(), min_size=6), config=CONFIGS, choices=st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_is_lost_of_what_was_not_synced_the_log_opens_with_all_that_was(
    tmp_path_factory: pytest.TempPathFactory,
    groups: list[list[int]],
    synced: list[bool],
    config: LogConfig,
    choices: st.DataObject,
) -> None:
    written = Written(tmp_path_factory.mktemp("log"), config)
    written.write(list(zip(groups, synced, strict=False)))
    lose_blocks(max(written.directory.glob("*.log")), written.durable_bytes(), choices)
    left = found(written.directory, config)
    assert written.durable <= len(left) <= len(written.commands)
    assert written.commands[: len(left)] == left
    log = SegmentLog.open(written.directory, config=config)
    log.append(2, [b"next"])
    log.close()
    assert [*left, b"next"] == found(written.directory, config)


@given(groups=GROUPS, synced=st.lists(st.booleans(), min_size=6), config=CONFIGS, choices=st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_is_damaged_of_what_a_later_record_knew_to_be_durable_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
    groups: list[list[int]],
    synced: list[bool],
    config: LogConfig,
    choices: st.DataObject,
) -> None:
    written = Written(tmp_path_factory.mktemp("log"), config)
    written.write(list(zip(groups, synced, strict=False)))
    pairs = [
        (index, later)
        for later, witness in enumerate(written.witnesses, 1)
        for index in range(1, witness + 1)
    ]
    assume(pairs)
    index, later = choices.draw(st.sampled_from(pairs), label="damaged, witness")
    path, offset = written.places[index - 1]
    data = bytearray(path.read_bytes())
    stop = written.places[later - 1][1] if written.places[later - 1][0] == path else len(data)
    begin = choices.draw(st.integers(offset, written.end(index) - 1), label="begin")
    end = min(stop, begin + choices.draw(st.sampled_from([1, 24, SECTOR, PAGE]), label="size"))
    kind = choices.draw(st.sampled_from(["flipped", "zeros", "noise"]), label="kind")
    fills = {
        "flipped": bytes(byte ^ 0x10 for byte in data[begin:end]),
        "zeros": bytes(end - begin),
        "noise": noise(end - begin),
    }
    sound = bytes(data[: written.end(index)])
    data[begin:end] = fills[kind]
    assume(data[: len(sound)] != sound)
    path.write_bytes(data)
    with pytest.raises(LogDamaged) as refused:
        found(written.directory, config)
    assert f"{path} is damaged at offset {offset}:" in str(refused.value)
    assert path.read_bytes() == data


def group_with_a_hole(directory: Path) -> Written:
    """One durable record, and a group of which the first page was lost."""
    written = Written(directory, ONE_SEGMENT)
    written.write([([100], True), ([PAGE] * 3, False)])
    path, offset = written.places[1]
    data = bytearray(path.read_bytes())
    data[offset:PAGE] = bytes(PAGE - offset)
    path.write_bytes(data)
    return written


def test_hole_in_a_group_that_was_not_synced_is_cut_and_told_once(tmp_path: Path) -> None:
    written = group_with_a_hole(tmp_path)
    path, offset = written.places[1]
    size = path.stat().st_size
    with structlog.testing.capture_logs() as told:
        assert written.commands[:1] == found(tmp_path, ONE_SEGMENT)
        assert written.commands[:1] == found(tmp_path, ONE_SEGMENT)
    (line,) = told
    assert ("log_tail_cut", path.name, offset, size - offset, 2) == tuple(
        line[name] for name in ("event", "file", "offset", "bytes", "index")
    )
    assert path.stat().st_size == offset


def test_record_behind_a_hole_does_not_come_back_to_life(tmp_path: Path) -> None:
    """Not even on a file system that shows, in what is new, what its blocks held before."""
    written = group_with_a_hole(tmp_path)
    behind = written.places[1][0].read_bytes()[written.places[2][1] :]
    log = SegmentLog.open(tmp_path)
    log.append(2, [b"new"])
    log.sync()
    log.close()
    with max(tmp_path.glob("*.log")).open("ab") as file:
        file.write(behind)
    assert [*written.commands[:1], b"new"] == found(tmp_path, ONE_SEGMENT)


def test_what_was_truncated_does_not_come_back_to_life(tmp_path: Path) -> None:
    log = SegmentLog.open(tmp_path)
    log.append(1, [b"a", b"b", b"c"])
    log.sync()
    (path,) = tmp_path.iterdir()
    behind = path.read_bytes()[-(RECORD_BYTES + 1) :]
    log.truncate_from(2)
    log.append(2, [b"B"])
    log.close()
    with max(tmp_path.glob("*.log")).open("ab") as file:
        file.write(behind)
    assert [b"a", b"B"] == found(tmp_path, ONE_SEGMENT)


def test_start_is_a_witness_of_what_it_found(tmp_path: Path) -> None:
    """Its first record begins a segment, which says that all before was durable."""
    written = Written(tmp_path, ONE_SEGMENT)
    written.write([([10, 10], False)])
    written.write([([10], False)])
    path, offset = written.places[1]
    assert path != written.places[2][0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(LogDamaged, match=f"offset {offset}: .*, and newer segments follow"):
        found(tmp_path, ONE_SEGMENT)


def test_damage_of_the_last_durable_group_is_known_by_the_store_alone(tmp_path: Path) -> None:
    """Nothing that was written later tells it from a torn tail: what is not promised."""
    written = Written(tmp_path, ONE_SEGMENT)
    written.write([([10], True), ([10, 10], True)])
    path, offset = written.places[1]
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(LogDamaged, match="the store has applied this record"):
        found(tmp_path, ONE_SEGMENT, applied=3)
    assert written.commands[:1] == found(tmp_path, ONE_SEGMENT, applied=1)


@pytest.mark.parametrize("size", [HEADER_BYTES, HEADER_BYTES + 7])
def test_segment_without_a_record_makes_way_for_one_of_another_salt(
    tmp_path: Path, size: int
) -> None:
    written = Written(tmp_path, ONE_SEGMENT)
    written.write([([10], False)])
    (path,) = tmp_path.iterdir()
    os.truncate(path, size)
    before = path.read_bytes()[:HEADER_BYTES]
    assert [] == found(tmp_path, ONE_SEGMENT)
    log = SegmentLog.open(tmp_path)
    assert 1 == log.append(1, [b"x"])
    log.close()
    assert before != path.read_bytes()[:HEADER_BYTES]
    assert [b"x"] == found(tmp_path, ONE_SEGMENT)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_what_was_lost_or_cut_off_never_comes_back(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """Power is lost again and again, on a disk that shows what its blocks held before."""
    directory, random = tmp_path_factory.mktemp("log"), Random(seed)
    disk = SimulatedDisk(directory, (64, SECTOR))
    expected: list[bytes] = []
    with disk.installed():
        for step in range(8):
            log = SegmentLog.open(directory)
            found = [record.command for record in log.records(0)]
            assert found == expected[: len(found)]
            expected = found
            if expected and random.random() < 0.5:
                del expected[random.randrange(len(expected)) :]
                log.truncate_from(len(expected) + 1)
            commands = [b"%d" % step * random.randint(1, 9) for _ in range(random.randint(1, 3))]
            log.append(1, commands)
            expected += commands
            log.close()
            disk.lose_power(directory, random)


def survivors(root: Path, count: int) -> list[bytes]:
    """What is left of 3 synced and 4 unsynced sectors over some that were cut off, many times."""
    kept = []
    disk = SimulatedDisk(root)
    with disk.installed():
        for seed in range(count):
            directory = root / f"{seed}"
            directory.mkdir()
            path = directory / "file"
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(file, b"o" * 7 * SECTOR)
            os.ftruncate(file, 0)
            os.write(file, b"d" * 3 * SECTOR)
            os.fsync(file)
            os.write(file, b"u" * 4 * SECTOR)
            os.close(file)
            directory_file = os.open(directory, os.O_RDONLY)
            os.fsync(directory_file)
            os.close(directory_file)
            disk.lose_power(directory, Random(seed))
            kept.append(path.read_bytes())
    return kept


def test_simulated_disk_loses_any_page_and_nothing_that_was_synced(tmp_path: Path) -> None:
    left = survivors(tmp_path, 300)
    assert all(content[: 3 * SECTOR] == b"d" * 3 * SECTOR for content in left)
    tails = [content[3 * SECTOR :] for content in left]
    assert min(map(len, tails)) < SECTOR
    assert max(map(len, tails)) == 4 * SECTOR
    holes = [tail for tail in tails if tail[:SECTOR].count(b"u") == 0 and b"u" in tail]
    assert any(hole[:SECTOR] == bytes(SECTOR) for hole in holes), "zeros"
    assert any(hole[:SECTOR] == b"o" * SECTOR for hole in holes), "what was there before"
    assert any(len(set(hole[:SECTOR])) > 100 for hole in holes), "noise"
