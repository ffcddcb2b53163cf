"""The database below MLflow: an SQLite file, or a PostgreSQL.

    sqlite:///FILE[#ARTIFACTS]
    postgresql://USER@HOST[:PORT]/NAME#ARTIFACTS

ARTIFACTS is where files of models lie: a directory or any address of fsspec (`s3://bucket/path`,
`gs://…`, `sftp://…`); beside an SQLite file it is `artifacts` unless one is named. A password is
better left to `PGPASSWORD` or `~/.pgpass`: addresses stand in process lists. In messages it is
masked.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import create_engine, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from ranking.errors import RegistryUnavailable
from ranking.files import locked

__all__ = ["Database", "open_database"]

CONNECT_S_MAX: Final = 5
"""Seconds that PostgreSQL may take to answer before it counts as unreachable."""

_LOCK: Final = 0x4865_6164_7761_7465
"""The key of the advisory lock that writers hold, one for the whole database ("Headwate")."""

_SQLITE: Final = "sqlite:///"
_FORMS: Final = "write sqlite:///FILE, or postgresql://USER@HOST/NAME#ARTIFACTS"


class Database(Protocol):
    """What a registry needs to know of its database."""

    @property
    def uri(self) -> str:
        """As SQLAlchemy takes it, with a password if one was given: never for a message."""
        ...

    @property
    def artifacts(self) -> str:
        """Where files of runs go: an address of fsspec, without a slash at its end."""
        ...

    def reach(self) -> None:
        """Raise `OSError` or SQLAlchemy's own error, soon, where it cannot be reached."""
        ...

    def locked(self) -> AbstractContextManager[None]:
        """Hold the registry alone among all who write to it; wait for it."""
        ...

    def __str__(self) -> str:
        """Its name in messages, without a password."""
        ...


def open_database(address: str) -> Database:
    """The database at an address; raises `RegistryUnavailable` with the forms there are."""
    uri, _, artifacts = address.partition("#")
    if uri.startswith(_SQLITE) and len(uri) > len(_SQLITE):
        return _Sqlite(Path(uri.removeprefix(_SQLITE)).absolute(), artifacts)
    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):
        raise RegistryUnavailable(f"this is no MLflow store of ours: {_FORMS}") from None
    if url.get_backend_name() != "postgresql" or not url.database:
        raise RegistryUnavailable(f"{url} is no MLflow store of ours: {_FORMS}")
    if not artifacts:
        raise RegistryUnavailable(
            f"{url} does not say where the files of models go: add #DIRECTORY or an address that "
            "fsspec knows, for example #s3://bucket/models"
        )
    return _Postgres(url.set(drivername="postgresql+psycopg"), artifacts)


def _address(artifacts: str) -> str:
    """A directory as an address; an address as it is."""
    found = artifacts if "://" in artifacts else Path(artifacts).absolute().as_uri()
    return found.rstrip("/")


class _Sqlite:
    """An SQLite file; writers take turns by a lock file beside it."""

    def __init__(self, file: Path, artifacts: str) -> None:
        self._file = file
        self.artifacts = _address(artifacts or str(file.parent / "artifacts"))

    @property
    def uri(self) -> str:
        return f"{_SQLITE}{self._file}"

    def reach(self) -> None:
        """A file needs no reaching."""

    def locked(self) -> AbstractContextManager[None]:
        return locked(self._file.with_name(f"{self._file.name}.lock"))

    def __str__(self) -> str:
        return str(self._file)


class _Postgres:
    """A PostgreSQL; writers take turns by an advisory lock, which a lost connection releases."""

    def __init__(self, url: URL, artifacts: str) -> None:
        self._url = url
        self.artifacts = _address(artifacts)
        self._engine = create_engine(
            url, poolclass=NullPool, connect_args={"connect_timeout": CONNECT_S_MAX}
        )

    @property
    def uri(self) -> str:
        return self._url.render_as_string(hide_password=False)

    def reach(self) -> None:
        with self._engine.connect():
            pass

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self._engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
            yield

    def __str__(self) -> str:
        return self._url.render_as_string(hide_password=True)
