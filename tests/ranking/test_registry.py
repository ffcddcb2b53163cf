"""The registry of plain files, and opening a registry by its URI."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ranking.errors import ModelNotFound, RankingError, RegistryUnavailable
from ranking.registry import (
    NOTES_CHARS_MAX,
    DirectoryRegistry,
    ModelRegistry,
    open_registry,
    promoted,
    rolled_back,
)
from ranking.testing import T0_US
from ranking.testing_models import ACME, RegistryContract, model_bundle


class TestDirectoryRegistry(RegistryContract):
    def open_registry(self, directory: Path, clock: Callable[[], int]) -> ModelRegistry:
        return open_registry(f"dir:{directory}", clock)


def _published(tmp_path: Path) -> DirectoryRegistry:
    registry = DirectoryRegistry(tmp_path / "registry", lambda: T0_US)
    registry.publish(ACME, model_bundle().save(tmp_path / "bundle"))
    return registry


def test_draft_of_a_killed_publisher_is_no_version_and_is_swept(tmp_path: Path) -> None:
    registry = _published(tmp_path)
    draft = tmp_path / "registry" / "acme" / ".draft-killed"
    (draft / "bundle").mkdir(parents=True)
    (draft / "version.json").write_bytes(b"{}")
    assert [version.version for version in registry.versions(ACME)] == [1]
    assert registry.tenants() == [ACME]
    registry.publish(ACME, tmp_path / "bundle")
    assert not draft.exists()


@pytest.mark.parametrize("name", ["aliases.json", "000001/version.json"])
def test_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    registry = _published(tmp_path)
    registry.promote(ACME, 1)
    (tmp_path / "registry" / "acme" / name).write_bytes(b"\xff{")
    with pytest.raises(RegistryUnavailable, match=name):
        registry.alias(ACME, "live")


def test_bundle_without_its_files_is_not_fetched(tmp_path: Path) -> None:
    registry = _published(tmp_path)
    (version,) = registry.versions(ACME)
    bundle = tmp_path / "registry" / "acme" / "000001" / "bundle"
    (bundle / "golden.npz").unlink()
    (bundle / "golden.npz").symlink_to("/etc/passwd")
    with pytest.raises(RegistryUnavailable, match="not a regular file"):
        registry.fetch(version, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


def test_long_notes_are_refused(tmp_path: Path) -> None:
    registry = _published(tmp_path)
    with pytest.raises(RankingError, match="at most 5000"):
        registry.publish(ACME, tmp_path / "bundle", "x" * (NOTES_CHARS_MAX + 1))


@pytest.mark.parametrize("uri", ["", "dir:", "mlflow+sqlite:///", "https://host", "/tmp/registry"])
def test_unknown_uri_is_refused_with_the_forms(uri: str) -> None:
    with pytest.raises(
        RegistryUnavailable, match=r"write (dir:DIRECTORY, mlflow\+)?sqlite:///FILE"
    ):
        open_registry(uri)


def test_moving_aliases_keeps_the_others() -> None:
    assert promoted({"shadow": 3}, 2) == {"shadow": 3, "live": 2}
    assert promoted({"live": 2, "previous": 1}, 3) == {"live": 3, "previous": 2}
    assert rolled_back({"live": 2, "previous": 1, "shadow": 3}, ACME) == {
        "live": 1,
        "previous": 2,
        "shadow": 3,
    }


def test_promoting_for_an_unknown_tenant_makes_no_directory(tmp_path: Path) -> None:
    registry = DirectoryRegistry(tmp_path / "registry")
    with pytest.raises(ModelNotFound, match="no version 1"):
        registry.promote(ACME, 1)
    with pytest.raises(ModelNotFound, match="no versions"):
        registry.roll_back(ACME)
    assert not (tmp_path / "registry").exists()
