"""What a registry on MLflow must pass beside `RegistryContract`: publishing that fails half way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranking.errors import RegistryUnavailable
from ranking.registry import ModelRegistry
from ranking.testing import T0_US
from ranking.testing_models import ACME, model_bundle

__all__ = ["HalfPublishedContract"]

_HOUR_US = 3_600_000_000


class HalfPublishedContract:
    """A run that never got a version is not left behind."""

    def open_registry(self, directory: Path, clock: Callable[[], int]) -> ModelRegistry:
        """A registry whose files lie in a directory, `files_of` a tenant in one of its own."""
        raise NotImplementedError

    def files_of(self, directory: Path) -> Path:
        """Where the files of the runs of `ACME` lie."""
        raise NotImplementedError

    @pytest.fixture
    def _opened(self, tmp_path: Path) -> Any:  # Any: a fixture's generator
        self.now_us = T0_US
        self.files = self.files_of(tmp_path / "registry")
        self.bundle = model_bundle().save(tmp_path / "bundle")
        self.registry = self.open_registry(tmp_path / "registry", lambda: self.now_us)
        self.client: Any = vars(self.registry)["_client"]  # runs are no part of the protocol
        yield
        self.registry.close()

    @pytest.mark.usefixtures("_opened")
    def test_run_whose_files_cannot_be_written_is_deleted(self) -> None:
        """The reason is told, and the next one is published as version 1."""
        self.files.parent.mkdir(parents=True, exist_ok=True)
        self.files.write_bytes(b"in the way")
        with pytest.raises(RegistryUnavailable, match="cannot be read or written"):
            self.registry.publish(ACME, self.bundle)
        assert self._runs() == []
        self.files.unlink()
        assert self.registry.publish(ACME, self.bundle).version == 1
        assert self._runs() == ["FINISHED"]

    @pytest.mark.usefixtures("_opened")
    def test_run_without_a_version_is_deleted_with_its_files(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where the publisher was interrupted."""

        def interrupted(*_: object, **__: object) -> None:
            assert self._stored() == ["card.md", "golden.npz", "manifest.json"]
            raise KeyboardInterrupt

        monkeypatch.setattr(self.client, "create_model_version", interrupted)
        with pytest.raises(KeyboardInterrupt):
            self.registry.publish(ACME, self.bundle, documents={"card.md": b"# card"})
        assert self._runs() == []
        assert self._stored() == []

    @pytest.mark.usefixtures("_opened")
    def test_version_whose_answer_was_lost_keeps_its_run(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """It is there, whatever its publisher was told."""
        create = self.client.create_model_version

        def lost(*given: Any, **named: Any) -> None:
            create(*given, **named)
            raise ConnectionError("the server went away")

        monkeypatch.setattr(self.client, "create_model_version", lost)
        with pytest.raises(RegistryUnavailable, match="went away"):
            self.registry.publish(ACME, self.bundle)
        assert self._runs() == ["FINISHED"]
        (version,) = self.registry.versions(ACME)
        self.registry.fetch(version, tmp_path / "fetched")

    @pytest.mark.usefixtures("_opened")
    def test_run_of_a_killed_publisher_is_deleted_by_the_next_an_hour_later(self) -> None:
        """Not before, and not another tool's."""
        self.registry.publish(ACME, self.bundle)
        self._killed("ours", **{"headwater.digest": "0" * 64})
        self._killed("of another tool")
        self.now_us += _HOUR_US
        self.registry.publish(ACME, self.bundle)
        assert self._runs() == ["FINISHED", "FINISHED", "RUNNING", "RUNNING"]
        self.now_us += 1_000
        self.registry.publish(ACME, self.bundle)
        assert self._runs() == ["FINISHED", "FINISHED", "FINISHED", "RUNNING"]
        assert "ours" not in self._stored()
        assert "of another tool" in self._stored()

    @pytest.mark.usefixtures("_opened")
    def test_run_that_was_killed_after_its_version_is_finished(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Only the mark was missing."""

        def away(*_: object, **__: object) -> None:
            raise ConnectionError("the server went away")

        with monkeypatch.context() as patch:
            patch.setattr(self.client, "set_terminated", away)
            first = self.registry.publish(ACME, self.bundle)
        assert self._runs() == ["RUNNING"]
        self.now_us += 2 * _HOUR_US
        self.registry.publish(ACME, self.bundle)
        assert self._runs() == ["FINISHED", "FINISHED"]
        self.registry.fetch(first, tmp_path / "fetched")

    @pytest.mark.usefixtures("_opened")
    def test_what_cannot_be_deleted_keeps_nobody_from_publishing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is left for another time."""
        self.registry.publish(ACME, self.bundle)
        self._killed("ours", **{"headwater.digest": "0" * 64})
        self.now_us += 2 * _HOUR_US

        def full(*_: object, **__: object) -> None:
            raise OSError("no space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(self.client, "delete_run", full)
            self.registry.publish(ACME, self.bundle)
        assert self._runs() == ["FAILED", "FINISHED", "FINISHED"]
        self.registry.publish(ACME, self.bundle)
        assert self._runs() == ["FINISHED"] * 3

    def _killed(self, file: str, **tags: str) -> None:
        """A run as a killed publisher leaves it: not finished, with a file."""
        run = self.client.create_run(self._experiment(), start_time=T0_US // 1_000, tags=tags)
        home = self.files / run.info.run_id / "artifacts" / "bundle"
        home.mkdir(parents=True)
        (home / file).write_bytes(b"half")

    def _experiment(self) -> str:
        return str(self.client.get_experiment_by_name(f"{ACME}.ranker").experiment_id)

    def _runs(self) -> list[str]:
        """The states of all runs that are not deleted."""
        return sorted(run.info.status for run in self.client.search_runs([self._experiment()]))

    def _stored(self) -> list[str]:
        """The names of all files of runs."""
        return sorted(path.name for path in self.files.rglob("*") if path.is_file())
