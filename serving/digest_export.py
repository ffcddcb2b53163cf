"""The digests of all users of a tenant as files: for an e-mail job, and for anyone's own analysis.

    out/manifest.json
    out/digests-00000.jsonl        or .parquet: a row an activity, users in the order of their names

One directory is one run. The manifest alone says what is there: files come first, then the manifest
is replaced. So a run that is killed goes on behind its last file, as of the time that it began at;
files that the manifest does not name are written again.
"""

import contextlib
import fcntl
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import orjson

from feeds.errors import DataDirectoryLocked, FormatUnsupported, InvalidInput, StorageError
from feeds.export import ExportDisk
from feeds.model import TenantId, UserId, format_time
from feeds.reader import StoreReader
from ranking.slates import Slate
from serving.digest import DigestMaker

__all__ = ["DigestExport", "DigestManifest", "Format", "RunOptions", "count_users"]

Format = Literal["jsonl", "parquet"]

USERS_A_FILE: Final = 200
"""Users of one file: what is held in memory, some 0.2 MB for 10 activities each."""

LIMIT_MAX: Final = 100
"""Activities of one digest at most."""

SCHEMA_VERSION: Final = 1
"""Rises when the rows or the manifest change."""

_MANIFEST: Final = "manifest.json"
_USERS_READ_MAX: Final = 1_000

Row = dict[str, Any]  # Any: a column's own type


class DigestFile(msgspec.Struct, frozen=True):
    """A file of a run."""

    path: str
    rows: int
    sha256: str


class RunOptions(msgspec.Struct, frozen=True):
    """What a run was asked for; one that goes on must be asked for the same."""

    tenant: str
    tenant_created_us: int
    format: Format
    limit: int
    since_us: int | None


class DigestManifest(msgspec.Struct, frozen=True):
    """What a run consists of: the digests of every user up to `last_user`, as of one time."""

    schema_version: int
    options: RunOptions
    as_of_us: int
    last_user: str = ""
    users: int = 0
    rows: int = 0
    finished: bool = False
    files: tuple[DigestFile, ...] = ()


def count_users(store: StoreReader, tenant: TenantId, home_group: str) -> int:
    """How many users a run has, about 20 us each."""
    return sum(len(part) for part in _users(store, tenant, home_group, "", _USERS_READ_MAX))


def _users(
    store: StoreReader, tenant: TenantId, home_group: str, behind: str, chunk: int
) -> Iterator[list[UserId]]:
    while part := store.users(tenant, home_group, chunk, behind):
        yield part
        behind = part[-1]


@dataclass(frozen=True, slots=True)
class DigestExport:
    """One run, in a directory of its own."""

    out: Path
    options: RunOptions
    disk: ExportDisk
    users_a_file: int = USERS_A_FILE

    @contextlib.contextmanager
    def begun(self, now_us: int) -> Iterator[DigestManifest]:
        """The manifest to go on from: of a new run, or of one that was stopped.

        Raises `InvalidInput` where the directory holds another run, or one that is finished,
        `DataDirectoryLocked` where one is under way, or `StorageError`.
        """
        if not 1 <= self.options.limit <= LIMIT_MAX:
            raise InvalidInput(f"limit is {self.options.limit}: ask for 1 to {LIMIT_MAX}")
        try:
            self.disk.make_directory(self.out)
            with (self.out / "LOCK").open("a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise DataDirectoryLocked(
                        f"another run writes to {self.out}: wait until it has ended"
                    ) from None
                yield self._manifest(now_us)
        except OSError as error:
            raise StorageError(
                f"the digests in {self.out} stopped: {error.strerror or error}; put it right and "
                "run the same again, what is in the manifest stays"
            ) from error

    def run(
        self,
        maker: DigestMaker,
        manifest: DigestManifest,
        progress: Callable[[int], None] = lambda _: None,
    ) -> DigestManifest:
        """Write what is missing; `progress` gets how many users are done."""
        tenant = TenantId(self.options.tenant)
        parts = _users(maker.store, tenant, maker.home_group, manifest.last_user, self.users_a_file)
        for users in parts:
            rows = [row for user in users for row in self._rows(maker, user)]
            manifest = self._add(manifest, users, rows)
            progress(manifest.users)
        manifest = msgspec.structs.replace(manifest, finished=True)
        self._replace(manifest)
        return manifest

    def _rows(self, maker: DigestMaker, user: UserId) -> list[Row]:
        slate = maker.digest(user, self.options.limit)
        bodies = maker.store.bodies(maker.tenant, slate.ranked.feed_positions)
        return [_row(slate, place, body) for place, body in enumerate(bodies) if body is not None]

    def _add(
        self, manifest: DigestManifest, users: Sequence[UserId], rows: Sequence[Row]
    ) -> DigestManifest:
        files = manifest.files
        if rows:
            name = f"digests-{len(files):05}.{self.options.format}"
            data = _parquet(rows) if self.options.format == "parquet" else _jsonl(rows)
            self.disk.write(self.out / name, data)
            self.disk.sync_directory(self.out)
            files = (*files, DigestFile(name, len(rows), hashlib.sha256(data).hexdigest()))
        grown = msgspec.structs.replace(
            manifest,
            last_user=users[-1],
            users=manifest.users + len(users),
            rows=manifest.rows + len(rows),
            files=files,
        )
        self._replace(grown)
        return grown

    def _replace(self, manifest: DigestManifest) -> None:
        unfinished = self.out / f"{_MANIFEST}.new"
        self.disk.write(unfinished, msgspec.json.format(msgspec.json.encode(manifest)))
        self.disk.replace(unfinished, self.out / _MANIFEST)

    def _manifest(self, now_us: int) -> DigestManifest:
        path = self.out / _MANIFEST
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=DigestManifest)
        except FileNotFoundError:
            return DigestManifest(SCHEMA_VERSION, self.options, now_us)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StorageError(
                f"{path} cannot be read ({error}): give another directory, or delete this one"
            ) from error
        if manifest.schema_version != SCHEMA_VERSION:
            raise FormatUnsupported(
                f"{path} has schema version {manifest.schema_version}, this release writes "
                f"{SCHEMA_VERSION}: give another directory"
            )
        if manifest.options != self.options:
            raise InvalidInput(
                f"{self.out} holds a run with other options: give another directory, or the same "
                "options to go on"
            )
        if manifest.finished:
            raise InvalidInput(
                f"{self.out} holds a finished run, as of {format_time(manifest.as_of_us)}: give "
                "another directory"
            )
        return manifest


def _row(slate: Slate, place: int, body: bytes) -> Row:
    ranked = slate.ranked[place]
    return {
        "user": slate.user,
        "position": ranked.position,
        "activity_id": ranked.activity_id,
        "score": ranked.score,
        "source": ranked.source,
        "reason": ranked.reason,
        "slate_id": slate.request_id,
        "model_version": slate.model_version,
        "activity": body,
    }


def _jsonl(rows: Sequence[Row]) -> bytes:
    lines = [row | {"activity": orjson.Fragment(row["activity"])} for row in rows]
    return b"".join([orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines])


def _parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - only this format needs it
    import pyarrow.parquet as pq  # noqa: PLC0415

    texts = ("user", "activity_id", "source", "reason", "slate_id", "model_version", "activity")
    types = {name: pa.string() for name in texts} | {
        "position": pa.int32(),
        "score": pa.float64(),
    }
    schema = pa.schema([(name, types[name]) for name in rows[0]])
    readable = [row | {"activity": row["activity"].decode()} for row in rows]
    buffer = BytesIO()
    pq.write_table(pa.Table.from_pylist(readable, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()
