"""Exports of the slate log: every slate once, by day, whatever kills the export and wherever."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from feeds.counters import DAY_US
from feeds.errors import DataDirectoryLocked, FormatUnsupported, NotFound, StorageError
from feeds.export import ExportDisk
from ranking.features import FeatureMatrix
from ranking.testing import T0_US
from ranking.testing_models import boosted_scorer
from serving.slate_log.config import SlateRules
from serving.slate_log.export import (
    SCHEMA,
    SlatesManifest,
    SlatesReport,
    _Writer,
    export_slates,
)
from serving.slate_log.record import LoggedSlate, encode
from serving.slate_log.segments import SegmentDisk, key_of
from serving.slate_log.shelf import segments_of
from serving.slate_log.testing import ACME, made_slate
from serving.slate_log.writer import TenantShelf

SEGMENT_BYTES = 3_000
BOOSTED = boosted_scorer()
ROOT = Path(__file__).parents[3]


def slate(number: int, *, candidates: bool = False) -> LoggedSlate:
    """A slate on one of three days."""
    made = made_slate(f"s{number}", number % 5, scorer=BOOSTED, model_version="2")
    fields = made.logged(candidates=candidates)
    values = {name: getattr(fields, name) for name in fields.__struct_fields__}
    return LoggedSlate(**values | {"time_us": T0_US + number % 3 * DAY_US + number})


class Log:
    """A slate log on a disk, that two processes append to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.slates: list[LoggedSlate] = []
        self._shelves = [
            TenantShelf(directory / ACME, slot, SEGMENT_BYTES, SegmentDisk()) for slot in (1, 2)
        ]

    def add(self, count: int, *, candidates: bool = False) -> None:
        for number in range(len(self.slates), len(self.slates) + count):
            made = slate(number, candidates=candidates)
            self.slates.append(made)
            batch = [(key_of(made.slate_id), encode(made))]
            self._shelves[number % 2].append(batch, SlateRules(), number)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    filled = Log(tmp_path / "log")
    filled.add(20)
    return filled


def exported(out: Path) -> pd.DataFrame:
    """Every row that the manifest names, each file checked."""
    root = out / "tenant=acme"
    manifest = msgspec.json.decode((root / "_slates.json").read_bytes(), type=SlatesManifest)
    frames = []
    for file in manifest.files:
        data = (root / file.path).read_bytes()
        assert file.sha256 == hashlib.sha256(data).hexdigest()
        table = pq.ParquetFile(root / file.path).read()
        assert [name for name, _ in SCHEMA] == table.column_names
        assert file.rows == table.num_rows
        frame = table.to_pandas()
        day = file.path.split("/")[0].removeprefix("day=")
        assert {str(time.date()) for time in frame.time} <= {day}
        frames.append(frame)
    found = {root / file.path for file in manifest.files}
    assert found == set(root.glob("day=*/*.parquet"))
    return pd.concat(frames).sort_values(["slate_id", "position"]).reset_index(drop=True)


def same(log: Log, found: pd.DataFrame) -> None:
    """All slates of the log are in the export, once, bit for bit."""
    assert found.groupby("slate_id").ngroups == sum(len(each.places) > 0 for each in log.slates)
    for each in log.slates:
        rows = found[(found.slate_id == each.slate_id) & (found.position >= 0)]
        assert each.places.activity_ids() == rows.activity_id.tolist()
        assert list(range(len(each.places))) == rows.position.tolist()
        assert each.places.scores == rows.score.to_numpy(np.float32).tobytes()
        features = np.concatenate([np.zeros(0, np.float32), *rows.features])
        assert each.places.features == features.astype(np.float32).tobytes()
        assert each.propensities == rows.propensity.to_numpy(np.float64).tobytes()
        multipliers = np.concatenate([np.zeros(0), *rows.multipliers])
        assert each.multipliers == {"author_spread": multipliers.tobytes()}
        assert set(rows.multiplier_names) <= {"author_spread"}
        assert {int(time.timestamp() * 1e6 + 0.5) for time in rows.time} <= {each.time_us}
        assert set(rows.seed) <= {each.seed}


def test_every_slate_is_exported_once_by_day(log: Log, tmp_path: Path) -> None:
    report = export_slates(log.directory, ACME, tmp_path / "out")
    found = exported(tmp_path / "out")
    same(log, found)
    assert (report.slates, report.slates_total, report.damaged) == (20, 20, 0)
    assert len(list((tmp_path / "out" / "tenant=acme").glob("day=*"))) == 3
    row = found[~found.explored].iloc[0]
    assert (row.scorer, row.model_version, row.kind) == ("boosted", "2", "personalized")
    assert row.feature_names.split(",") == list(BOOSTED.spec.names)
    assert (row.source, row.reason) == ("test", "from test")
    assert found.placed.isna().all()


def test_scores_come_out_again_from_an_exported_frame(log: Log, tmp_path: Path) -> None:
    export_slates(log.directory, ACME, tmp_path)
    found = exported(tmp_path)
    values = np.stack(found.features.tolist()).astype(np.float32)
    matrix = FeatureMatrix(tuple(found.feature_names[0].split(",")), values)
    assert BOOSTED.score(matrix).tobytes() == found.score.to_numpy(np.float32).tobytes()


def test_candidates_that_were_not_shown_have_no_position(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    log.add(9, candidates=True)
    export_slates(log.directory, ACME, tmp_path)
    found = exported(tmp_path)
    same(log, found)
    rest = found[found.position < 0]
    assert 9 - sum(1 for each in log.slates if len(each.candidates or ()) < 2) == len(rest)
    assert rest.propensity.isna().all()
    assert [0] * len(rest) == [len(each) for each in rest.multipliers]
    assert not found.duplicated(["slate_id", "activity_id"]).any()


def test_a_second_export_adds_only_what_is_new(log: Log, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_slates(log.directory, ACME, out)
    assert 0 == export_slates(log.directory, ACME, out).slates
    for count in (1, 13):
        log.add(count)
        assert count == export_slates(log.directory, ACME, out).slates
    same(log, exported(out))


def test_what_left_the_log_stays_in_the_export(log: Log, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_slates(log.directory, ACME, out)
    segments_of(log.directory / ACME)[0].path.unlink()
    log.add(3)
    report = export_slates(log.directory, ACME, out)
    assert (report.slates, report.slates_total) == (3, 23)
    same(log, exported(out))
    root = out / "tenant=acme" / "_slates.json"
    manifest = msgspec.json.decode(root.read_bytes(), type=SlatesManifest)
    present = {segment.path.name for segment in segments_of(log.directory / ACME)}
    assert present == {segment.name for segment in manifest.segments}


def test_what_is_damaged_is_left_out_and_counted(log: Log, tmp_path: Path) -> None:
    path = segments_of(log.directory / ACME)[0].path
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    headless = segments_of(log.directory / ACME)[1].path
    headless.write_bytes(b"?" + headless.read_bytes()[1:])
    report = export_slates(log.directory, ACME, tmp_path / "out")
    assert report.damaged == 2
    assert 0 < exported(tmp_path / "out").slate_id.nunique() <= report.slates < 20


class Killed(BaseException):
    """What stands for a kill: nothing below may catch it."""


class FailingDisk(ExportDisk):
    """Fails at one operation, before it or after it."""

    def __init__(self, fails_at: int, after: bool, error: BaseException) -> None:
        self._left = fails_at
        self._after = after
        self._error = error

    def _run(self, operation: Any, *arguments: Any) -> None:  # Any: each operation's own
        self._left -= 1
        if self._left == 0 and not self._after:
            raise self._error
        operation(*arguments)
        if self._left == 0:
            raise self._error

    def make_directory(self, path: Path) -> None:
        self._run(super().make_directory, path)

    def write(self, path: Path, data: bytes) -> None:
        self._run(super().write, path, data)

    def sync_directory(self, path: Path) -> None:
        self._run(super().sync_directory, path)

    def replace(self, source: Path, target: Path) -> None:
        self._run(source.replace, target)

    def remove(self, path: Path) -> None:
        self._run(super().remove, path)


@pytest.mark.parametrize("after", [False, True])
def test_an_export_that_is_killed_anywhere_goes_on(tmp_path: Path, after: bool) -> None:
    log = Log(tmp_path / "log")
    log.add(6)
    for fails_at in range(1, 20, 2):
        out = tmp_path / str(fails_at)
        with pytest.raises(Killed):
            export_slates(log.directory, ACME, out, disk=FailingDisk(fails_at, after, Killed()))
        report = export_slates(log.directory, ACME, out)
        assert report.slates_total == 6
        same(log, exported(out))


def test_a_disk_that_fails_is_told(log: Log, tmp_path: Path) -> None:
    disk = FailingDisk(5, False, OSError(28, "No space left on device", "there"))
    with pytest.raises(StorageError, match=r"stopped: No space left on device \(there\)"):
        export_slates(log.directory, ACME, tmp_path, disk=disk)


def test_two_exports_at_once_are_refused(log: Log, tmp_path: Path) -> None:
    with (
        _Writer(tmp_path / "tenant=acme", ExportDisk()).locked(),
        pytest.raises(DataDirectoryLocked, match="another export"),
    ):
        export_slates(log.directory, ACME, tmp_path)


def test_a_tenant_without_a_log_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no slates of tenant 'acme'"):
        export_slates(tmp_path, ACME, tmp_path / "out")


@pytest.mark.parametrize(
    ("manifest", "error", "words"),
    [
        (b"{", StorageError, "cannot be read"),
        (b'{"schema_version": 9, "tenant": "acme"}', FormatUnsupported, "schema version 9"),
        (b'{"schema_version": 1, "tenant": "other"}', FormatUnsupported, "tenant other"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_told(
    log: Log, tmp_path: Path, manifest: bytes, error: type[Exception], words: str
) -> None:
    (tmp_path / "tenant=acme").mkdir()
    (tmp_path / "tenant=acme" / "_slates.json").write_bytes(manifest)
    with pytest.raises(error, match=words):
        export_slates(log.directory, ACME, tmp_path)


def test_a_file_that_is_gone_is_told(log: Log, tmp_path: Path) -> None:
    export_slates(log.directory, ACME, tmp_path)
    next((tmp_path / "tenant=acme").glob("day=*/*.parquet")).unlink()
    with pytest.raises(StorageError, match="is gone"):
        export_slates(log.directory, ACME, tmp_path)


def test_progress_ends_at_the_whole_log(log: Log, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = export_slates(log.directory, ACME, tmp_path, progress=lambda *each: seen.append(each))
    assert isinstance(report, SlatesReport)
    assert seen == sorted(seen)
    assert (
        seen[-1][0] == seen[-1][1] == sum(each.bytes for each in segments_of(log.directory / ACME))
    )


def test_every_column_is_documented_with_its_type() -> None:
    text = (ROOT / "docs" / "slates.md").read_text()
    for name, kind in SCHEMA:
        assert f"| `{name}` | {kind} |" in text, name
