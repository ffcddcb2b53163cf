"""A PostgreSQL of a test's own: on a socket in a directory of its own, gone when the test ends."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

__all__ = ["Postgres", "postgres"]

_DEBIAN = Path("/usr/lib/postgresql")
_SERVERS_USER = "postgres"


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server, whose superuser needs no password."""

    directory: Path
    command: Sequence[object]
    """What starts it (with `start`) and ends it."""
    account: Mapping[str, Any]
    """Who runs it; Any: what subprocess takes."""

    @contextmanager
    def away(self) -> Iterator[None]:
        """Killed for the time of a `with` block, as by a failure of its machine."""
        _run([*self.command, "-m", "immediate", "stop"], self.account)
        yield
        _run([*self.command, "start"], self.account)

    def address(self, database: str) -> str:
        """The address of a database, as `open_registry` takes it after `mlflow+`."""
        return f"postgresql://{_SERVERS_USER}@/{database}?host={self.directory}"

    def create(self, database: str, template: str = "template0") -> str:
        """Make a database, a copy of another one; returns its address."""
        with psycopg.connect(
            host=str(self.directory), user=_SERVERS_USER, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"'.encode())
        return self.address(database)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start a server; skips where PostgreSQL is not installed, and fails there with CI=true."""
    programs = _programs()
    directory = Path(tempfile.mkdtemp(prefix="headwater-postgres-"))
    account = _account()
    if account:
        shutil.chown(directory, _SERVERS_USER, _SERVERS_USER)
    data = directory / "data"
    try:
        _run([programs / "initdb", "-D", data, "-U", _SERVERS_USER, "-A", "trust", "-N"], account)
        options = f"-k {directory} -c listen_addresses= -c fsync=off"
        command = [programs / "pg_ctl", "-D", data, "-w", "-l", directory / "log", "-o", options]
        _run([*command, "start"], account)
        try:
            yield Postgres(directory, command, account)
        finally:
            _run([*command, "-m", "immediate", "stop"], account)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _programs() -> Path:
    found = shutil.which("initdb")
    homes = [Path(found).parent] if found else sorted(_DEBIAN.glob("*/bin"))
    if homes:
        return homes[-1]
    absent = "PostgreSQL is not installed: apt-get install postgresql-15"
    if os.environ.get("CI") == "true":
        pytest.fail(absent)
    pytest.skip(absent)


def _account() -> dict[str, Any]:  # Any: what subprocess takes
    """Who runs the server: it refuses to be root."""
    if os.geteuid() != 0:
        return {}
    try:
        account = pwd.getpwnam(_SERVERS_USER)
    except KeyError:
        pytest.skip(f"root cannot run PostgreSQL, and there is no user {_SERVERS_USER}")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _run(command: Sequence[object], account: Mapping[str, Any]) -> None:  # Any: as above
    # Its output goes to a file: the server would hold a pipe open.
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(  # noqa: S603 - programs of PostgreSQL, found above
            [str(part) for part in command],
            check=False,
            cwd="/",
            stdout=said,
            stderr=said,
            timeout=60,
            **account,
        )
        said.seek(0)
        assert done.returncode == 0, said.read().decode(errors="replace")
