"""`headwater slates export` and `show`, as they are run."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from serving.slate_log.config import SlateRules
from serving.slate_log.segments import SegmentDisk
from serving.slate_log.testing import entry
from serving.slate_log.writer import TenantShelf


def slates(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serving", "slates", *options],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for tenant, names in {"acme": "ab", "other": "c"}.items():
        shelf = TenantShelf(tmp_path / "slates" / tenant, 0, 100_000, SegmentDisk())
        shelf.append([entry(name, tenant=tenant) for name in names], SlateRules(), 7)
    return tmp_path


def test_an_export_is_read_with_pandas(data: Path) -> None:
    out = data / "out"
    options = ("--tenant", "acme", "--out", str(out), "--data-dir", str(data))
    first, again = slates("export", *options, "--json"), slates("export", *options)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["slates"] == 2
    assert "slates: 0" in again.stdout.splitlines()
    frame = pd.read_parquet(out)
    assert sorted(frame.slate_id.unique()) == ["a", "b"]
    assert set(frame.tenant) == {"acme"}
    assert len(frame.day.unique()) >= 1


def test_one_slate_is_shown_and_scored_again(data: Path) -> None:
    shown = slates("show", "c", "--data-dir", str(data))
    assert shown.returncode == 0, shown.stderr
    for words in ("tenant: other", "scorer: recency", "scored again, bit for bit: yes", "age_h"):
        assert words in shown.stdout
    told = json.loads(slates("show", "c", "--data-dir", str(data), "--json").stdout)
    assert (told["tenant"], told["recomputed"]["bit_identical"]) == ("other", True)


def test_what_is_not_there_is_told_in_a_sentence(data: Path) -> None:
    shown = slates("show", "c", "--tenant", "acme", "--data-dir", str(data))
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.startswith("slate 'c' is not in ")
    options = ("--tenant", "nobody", "--out", str(data / "out"), "--data-dir", str(data), "--json")
    told = slates("export", *options)
    assert told.returncode == 1
    assert json.loads(told.stdout)["exception"] == "NotFound"
