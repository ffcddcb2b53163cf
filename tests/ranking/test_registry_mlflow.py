"""The registry on MLflow with SQLite."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ranking.mlflow_registry
from ranking.errors import ModelNotFound, RegistryUnavailable
from ranking.registry import ModelRegistry, open_registry
from ranking.testing import T0_US
from ranking.testing_mlflow import HalfPublishedContract
from ranking.testing_models import ACME, RegistryContract, model_bundle


def _uri(directory: Path) -> str:
    return f"mlflow+sqlite:///{directory}/mlflow.db"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and nothing else: making them takes seconds."""
    directory = tmp_path_factory.mktemp("mlflow")
    open_registry(_uri(directory)).close()
    return directory / "mlflow.db"


@pytest.fixture
def registry(tmp_path: Path, empty: Path) -> Iterator[ModelRegistry]:
    shutil.copy(empty, tmp_path)
    registry = open_registry(_uri(tmp_path), lambda: T0_US)
    yield registry
    registry.close()


class TestMlflowRegistry(RegistryContract, HalfPublishedContract):
    @pytest.fixture(autouse=True)
    def _with_tables(self, empty: Path) -> None:
        self.empty = empty

    def open_registry(self, directory: Path, clock: Callable[[], int]) -> ModelRegistry:
        if not directory.exists():
            directory.mkdir()
            shutil.copy(self.empty, directory)
        return open_registry(_uri(directory), clock)

    def files_of(self, directory: Path) -> Path:
        return directory / "artifacts" / "acme"


def test_bundle_lies_beside_the_database_as_plain_files(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    registry.publish(ACME, model_bundle().save(tmp_path / "bundle"))
    stored = {path.name for path in (tmp_path / "artifacts" / "acme").rglob("*") if path.is_file()}
    assert stored == {"manifest.json", "golden.npz"}


def test_metrics_and_notes_stand_in_mlflow(registry: ModelRegistry, tmp_path: Path) -> None:
    registry.publish(ACME, model_bundle().save(tmp_path / "bundle"), "first try")
    client = ranking.mlflow_registry.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    version = client.get_model_version("acme.ranker", "1")
    run = client.get_run(version.run_id)
    assert version.description == "first try"
    assert run.data.metrics == {"ndcg_at_10": 0.25, "requests": 20.0}
    assert run.data.tags["mlflow.note.content"] == "first try"
    assert run.info.status == "FINISHED"


def test_version_that_another_tool_registered_is_refused(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    client = ranking.mlflow_registry.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    client.create_registered_model("acme.ranker")
    client.create_model_version("acme.ranker", source=str(tmp_path))
    client.set_registered_model_alias("acme.ranker", "live", "1")
    assert registry.versions(ACME) == []
    with pytest.raises(ModelNotFound, match="was not published by headwater"):
        registry.alias(ACME, "live")


def test_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database at all, but long enough to be one" * 50)
    with pytest.raises(RegistryUnavailable, match=r"mlflow\.db cannot be read"):
        open_registry(_uri(tmp_path))


def test_mlflow_is_imported_for_its_own_uri_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from ranking.registry import open_registry; "
        f"open_registry('dir:{tmp_path}').versions('acme'); sys.exit('mlflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
