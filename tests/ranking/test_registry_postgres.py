"""The registry on MLflow with a real PostgreSQL, its files at an address of fsspec."""

import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from ranking.errors import RegistryUnavailable
from ranking.registry import ModelRegistry, open_registry
from ranking.registry_database import open_database
from ranking.testing import T0_US
from ranking.testing_mlflow import HalfPublishedContract
from ranking.testing_models import ACME, RegistryContract, model_bundle
from ranking.testing_postgres import Postgres, postgres

_NUMBERS = count()


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as server:
        address = server.create("empty")
        open_registry(f"mlflow+{address}#memory://empty").close()  # MLflow's tables take seconds
        yield server


@pytest.fixture
def address(server: Postgres) -> str:
    return server.create(f"registry{next(_NUMBERS)}", template="empty")


class TestPostgresRegistry(RegistryContract, HalfPublishedContract):
    @pytest.fixture(autouse=True)
    def _with_database(self, address: str) -> None:
        self.address = address

    def open_registry(self, directory: Path, clock: Callable[[], int]) -> ModelRegistry:
        directory.mkdir(exist_ok=True)
        return open_registry(f"mlflow+{self.address}#{directory}", clock)

    def files_of(self, directory: Path) -> Path:
        return directory / "acme"


def test_files_go_to_any_address_that_fsspec_knows(address: str, tmp_path: Path) -> None:
    registry = open_registry(f"mlflow+{address}#memory://models", lambda: T0_US)
    bundle = model_bundle().save(tmp_path / "bundle")
    version = registry.publish(ACME, bundle, documents={"card.md": b"# card"})
    fetched = registry.fetch(version, tmp_path / "fetched")
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
        path.name: path.read_bytes() for path in bundle.iterdir()
    }
    assert registry.documents(version) == {"card.md": b"# card"}
    registry.close()


def test_writers_take_turns_by_a_lock_of_the_database(address: str) -> None:
    database = open_database(f"{address}#memory://x")
    order = []

    def second() -> None:
        with open_database(f"{address}#memory://x").locked():
            order.append("second")

    with database.locked():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


def test_server_that_is_away_is_told_soon_and_without_the_password() -> None:
    uri = "mlflow+postgresql://ann:secret@127.0.0.1:1/models#memory://x"
    with pytest.raises(RegistryUnavailable, match=r"ann:\*\*\*@127\.0\.0\.1:1/models cannot") as it:
        open_registry(uri)
    assert "secret" not in str(it.value)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("mlflow+postgresql://ann:secret@host/models", "does not say where the files"),
        ("mlflow+postgresql://host", "no MLflow store of ours"),
        ("mlflow+postgresql://ann:secret@host:port/models#x", "no MLflow store of ours"),
    ],
)
def test_address_without_its_parts_is_refused(uri: str, said: str) -> None:
    with pytest.raises(RegistryUnavailable, match=said) as it:
        open_registry(uri)
    assert "secret" not in str(it.value)
