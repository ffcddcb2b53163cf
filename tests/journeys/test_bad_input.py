"""What is wrong with the input is one sentence, and leaves nothing half written."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from training.testing import community, events_of, log_of, write_export

DUMP = {
    "Users.xml": '<users><row Id="1"/><row Id="2"/></users>',
    "Posts.xml": '<posts>\n<row Id="1" PostTypeId="1" OwnerUserId="1" Tags="&lt;a&gt;" '
    'Title="What?" CreationDate="2018-03-12T17:00:45.567"/>\n</posts>',
    "Comments.xml": '<comments><row PostId="1" UserId="2" '
    'CreationDate="2018-03-13T17:00:45.567"/></comments>',
    "Votes.xml": "<votes></votes>",
}

PROGRESS = re.compile(r" *\d+\.\d s  ")
"""What a line of progress begins with, where standard error is no terminal."""


def headwater(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "serving", *arguments],
        cwd=home,
        env={name: value for name, value in os.environ.items() if "HEADWATER" not in name},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def refused(home: Path, *arguments: str) -> str:
    """The sentence that a command ends with, after nothing but progress."""
    done = headwater(home, *arguments)
    *before, sentence = done.stderr.splitlines()
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert [line for line in before if not PROGRESS.match(line)] == []
    return sentence


def write_dump(home: Path, **changes: str | None) -> None:
    (home / "dump").mkdir()
    for name, content in DUMP.items():
        changed = changes.get(name.removesuffix(".xml"), content)
        if changed is not None:
            (home / "dump" / name).write_text(changed)


PREPARE = ("prepare", "--dataset", "stackexchange", "--path", "dump", "--out", "acts.jsonl")


def test_the_dump_of_these_tests_is_sound(tmp_path: Path) -> None:
    write_dump(tmp_path)
    assert headwater(tmp_path, *PREPARE).returncode == 0
    assert len((tmp_path / "acts.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {name.removesuffix(".xml"): None for name in DUMP},
            r"dump: Users.xml, .* missing; unpack",
        ),
        ({"Votes": None}, r"dump: Votes\.xml missing; unpack"),
        ({"Posts": DUMP["Posts.xml"][:-9]}, r"Posts\.xml:\d: .* ends too early .* download"),
        ({"Posts": "hello"}, r"Posts\.xml:1: the XML is damaged .* download"),
        ({"Posts": ""}, r"Posts\.xml:1: the XML .* at byte 0 \(no element found\); download"),
        ({"Posts": "<!DOCTYPE a [<!ENTITY b 'c'>]><posts/>"}, r"document type .* refused"),
        ({"Posts": DUMP["Posts.xml"].replace("2018", "9999")}, r"Posts\.xml:2: .* lies outside"),
        ({"Posts": DUMP["Posts.xml"].replace("2018-03", "May 7")}, r"Posts\.xml:2: .* ISO 8601"),
        ({"Posts": "<posts/>"}, r"Posts\.xml: holds no question"),
    ],
    ids=["empty", "a file less", "cut", "no XML", "no bytes", "DOCTYPE", "year", "date", "no post"],
)
def test_a_dump_that_cannot_be_read_leaves_no_action_log(
    tmp_path: Path, changes: dict[str, str | None], said: str
) -> None:
    write_dump(tmp_path, **changes)
    assert re.search(said, refused(tmp_path, *PREPARE))
    assert [path.name for path in tmp_path.iterdir()] == ["dump"]


def test_a_dump_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "dump: there is no such directory" in refused(tmp_path, *PREPARE)
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_that_is_none_is_refused(tmp_path: Path) -> None:
    movielens = ("prepare", "--dataset", "movielens", "--out", "acts.jsonl", "--path", "wheel")
    assert "wheel: there is no such file; give" in refused(tmp_path, *movielens)
    (tmp_path / "wheel").write_text("no")
    assert "leave --path out" in refused(tmp_path, *movielens)
    assert [path.name for path in tmp_path.iterdir()] == ["wheel"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, and a registry with a live version of it."""
    home = tmp_path_factory.mktemp("sound")
    write_export(log_of(events_of(community(1, users=12, days=12))), home / "events")
    done = headwater(home, *train("--promote"))
    assert done.returncode == 0, done.stderr
    shutil.rmtree(home / "out")
    return home


def train(*more: str, scheduler: str = "inline") -> tuple[str, ...]:
    options = ("--events", "events", "--out", "out", "--registry", "dir:registry")
    return ("train", "--tenant", "acme", *options, "--scheduler", scheduler, *more)


EVALUATE = ("evaluate", "--tenant", "acme", "--events", "events", "--registry", "dir:registry")


@pytest.fixture
def home(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "home")
    return tmp_path / "home"


def damage_part(home: Path) -> None:
    part = min((home / "events").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-20])


def damage_manifest(home: Path) -> None:
    manifest = home / "events/tenant=acme/manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-20])


def name_a_file_outside(home: Path) -> None:
    manifest = home / "events/tenant=acme/manifest.json"
    text = re.sub(r'"path":"day=[^"]*"', '"path":"../../../secret.parquet"', manifest.read_text())
    manifest.write_text(text)


def lose_a_part(home: Path) -> None:
    min((home / "events").rglob("*.parquet")).unlink()


def lose_the_export(home: Path) -> None:
    shutil.rmtree(home / "events")


def export_little(home: Path) -> None:
    shutil.rmtree(home / "events")
    write_export(log_of(events_of(community(1, users=3, days=3))), home / "events")


def nothing_wrong(home: Path) -> None:
    assert home.is_dir()


@pytest.mark.parametrize(
    ("harm", "command", "said"),
    [
        (lose_the_export, train(), "no such file; run `headwater export --tenant acme` first"),
        (damage_part, train(), "its checksum is not that of the manifest; delete the export"),
        (lose_a_part, train(), "No such file or directory; delete the export"),
        (damage_manifest, train(), "manifest.json: Input data was truncated; delete the export"),
        (name_a_file_outside, train(), "secret.parquet' lies outside the export"),
        (export_little, train(), "9 engagements are too few .* at least 40 are needed"),
        (nothing_wrong, train("--tenant", "nobody"), "run `headwater export --tenant nobody`"),
        (nothing_wrong, train("--tenant", "acme"), "tenant acme is named twice"),
        (nothing_wrong, train("--tenant", "../x"), "tenant '../x' is not a tenant id"),
        (nothing_wrong, train("--registry", "no"), "'no' is not a model registry: write dir:"),
        (nothing_wrong, train(scheduler="here"), "no Dask workers at here .* --scheduler out"),
        (nothing_wrong, train(scheduler="tcp://127.0.0.1:1"), "no Dask workers at tcp:.*dask sch"),
        (lose_the_export, train(scheduler="")[:-2], "no such file; run `headwater export"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_leaves_neither_bundle_nor_version(
    home: Path, harm: Callable[[Path], None], command: tuple[str, ...], said: str
) -> None:
    harm(home)
    versions = sorted((home / "registry").rglob("*"))
    assert re.search(said, refused(home, *command))
    assert sorted((home / "registry").rglob("*")) == versions
    assert list(home.glob("out/*")) == []


def damage_bundle(home: Path) -> None:
    model = next((home / "registry").rglob("golden.npz"))
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(bytes(content))


def cut_bundle(home: Path) -> None:
    manifest = next((home / "registry").rglob("bundle/manifest.json"))
    manifest.write_bytes(manifest.read_bytes()[:100])


@pytest.mark.parametrize(
    ("harm", "command", "said"),
    [
        (damage_bundle, EVALUATE, r"golden\.npz"),
        (cut_bundle, EVALUATE, "version 1 of tenant acme .* publish it again"),
        (damage_part, EVALUATE, "its checksum is not that of the manifest"),
        (export_little, EVALUATE, "9 engagements are too few"),
        (nothing_wrong, (*EVALUATE, "--version", "99"), "has no version 99: `headwater models"),
        (nothing_wrong, (*EVALUATE, "--version", "best"), "'best' is no version: give its number"),
        (nothing_wrong, (*EVALUATE, "--version", "9" * 5_000), "is no version: give its number"),
        (nothing_wrong, (*EVALUATE, "--tenant", "nobody"), "tenant nobody has no version live"),
    ],
)
def test_a_version_that_cannot_be_judged_is_refused(
    home: Path, harm: Callable[[Path], None], command: tuple[str, ...], said: str
) -> None:
    harm(home)
    assert re.search(said, refused(home, *command))
