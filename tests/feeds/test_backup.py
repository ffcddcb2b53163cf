"""Backups: what comes back is what was there, and damage is found and named."""

from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from feeds.backup import backup_directory, load_manifest, restore, verify
from feeds.engine import FeedEngine
from feeds.errors import DataDirectoryLocked, InvalidInput, LogDamaged, SnapshotDamaged
from feeds.identity import Identity
from feeds.model import ActivityDraft, FeedId, TenantId
from feeds.store.base import COLUMN_FAMILIES
from feeds.store.rocks import RocksStore
from serving.cli import build

TENANT = TenantId("t")
FEED = FeedId("user", "a")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with FeedEngine.open(tmp_path / "data") as engine:
        engine.create_tenant(TENANT).result()
        for number in range(50):
            draft = ActivityDraft(actor="user:a", verb="post", object=f"note:{number}")
            engine.post(TENANT, FEED, draft).result()
    return tmp_path / "data"


def contents(data: Path) -> list[list[tuple[bytes, bytes]]]:
    with RocksStore.open(data / "store") as store:
        return [list(store.scan(family, b"", b"\xff" * 8)) for family in COLUMN_FAMILIES]


def test_restored_directory_holds_what_was_backed_up_and_goes_on(
    data: Path, tmp_path: Path
) -> None:
    manifest = backup_directory(data, tmp_path / "backup")
    assert restore(tmp_path / "backup", tmp_path / "again") == manifest
    assert contents(tmp_path / "again") == contents(data)
    with FeedEngine.open(tmp_path / "again") as engine:
        assert engine.applied_index() == manifest.index == 51
        draft = ActivityDraft(actor="user:a", verb="post", object="note:new")
        assert engine.post(TENANT, FEED, draft).result().index == 52
        assert len(engine.rows(TENANT, FEED, 100)) == 51


@pytest.mark.parametrize("seed", range(5))
def test_one_flipped_byte_anywhere_is_found_and_nothing_is_restored(
    data: Path, tmp_path: Path, seed: int
) -> None:
    backup = tmp_path / "backup"
    manifest = backup_directory(data, backup)
    random = Random(seed)
    file = random.choice([file for file in manifest.files if file.bytes])
    path = backup / "store" / file.name
    damaged = bytearray(path.read_bytes())
    damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
    path.write_bytes(damaged)
    for attempt in (lambda: list(verify(backup)), lambda: restore(backup, tmp_path / "again")):
        with pytest.raises(SnapshotDamaged, match=file.name):
            attempt()
    assert not (tmp_path / "again").exists()


def test_missing_cut_or_strange_file_is_found(data: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    manifest = backup_directory(data, backup)
    path = backup / "store" / max(manifest.files, key=lambda file: file.bytes).name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(SnapshotDamaged, match="bytes"):
        list(verify(backup))
    path.unlink()
    with pytest.raises(SnapshotDamaged, match="missing"):
        list(verify(backup))
    path.write_bytes(content)
    (backup / "store" / "strange.sst").touch()
    with pytest.raises(SnapshotDamaged, match="strange"):
        list(verify(backup))


def test_unfinished_backup_is_none(data: Path, tmp_path: Path) -> None:
    backup_directory(data, tmp_path / "backup")
    (tmp_path / "backup" / "manifest.json").unlink()
    with pytest.raises(SnapshotDamaged, match="unfinished"):
        load_manifest(tmp_path / "backup")


def test_nothing_is_overwritten(data: Path, tmp_path: Path) -> None:
    backup_directory(data, tmp_path / "backup")
    with pytest.raises(InvalidInput, match="there already"):
        backup_directory(data, tmp_path / "backup")
    with pytest.raises(InvalidInput, match="not empty"):
        restore(tmp_path / "backup", data)


def test_open_directory_is_not_backed_up_from_outside(data: Path, tmp_path: Path) -> None:
    with FeedEngine.open(data), pytest.raises(DataDirectoryLocked):
        backup_directory(data, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


def test_restored_copy_of_a_node_is_no_node(data: Path, tmp_path: Path) -> None:
    Identity.create("c", "n1").save(data)
    backup_directory(data, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "again")
    assert Identity.load(tmp_path / "again") is None


def test_commands_say_what_they_did(data: Path, tmp_path: Path) -> None:
    runner, commands = CliRunner(), build({"backup", "restore", "verify"})
    backup, again = str(tmp_path / "backup"), str(tmp_path / "again")
    steps = [
        (["backup", backup, "--data-dir", str(data)], "up to log index 51"),
        (["verify", backup], "sound"),
        (["restore", backup, "--data-dir", again], "restored up to log index 51"),
        (["verify", again], "activities 50"),
        (["verify", again, "--json"], '"sound": true'),
    ]
    for arguments, told in steps:
        ran = runner.invoke(commands, arguments)
        assert ran.exit_code == 0, ran.output
        assert told in ran.output
    ran = runner.invoke(commands, ["backup", backup])
    assert ran.exit_code == 2
    segment = max((data / "log").glob("*.log"))
    segment.write_bytes(segment.read_bytes().replace(b"note:7", b"note:8"))
    ran = runner.invoke(commands, ["verify", str(data)])
    assert ran.exit_code == 1
    assert "is damaged at offset" in ran.output
    with pytest.raises(LogDamaged):
        FeedEngine.open(data)
