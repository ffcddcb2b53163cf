"""What a bundle's directory must hold, and reading it without trust.

Sizes are checked before memory is taken, checksums before anything is parsed, links are not
followed, and a file that the manifest does not name is a reason to refuse the directory.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Literal

import msgspec

from ranking.errors import BundleDamaged, RankingError
from ranking.features import FeatureSpec
from ranking.scorers.calibration import Calibration
from ranking.scorers.value import HEAD_KINDS

__all__ = [
    "CURE",
    "FACTORS",
    "FORMAT_VERSION",
    "GOLDEN",
    "LIMITS",
    "MANIFEST",
    "BundleLimits",
    "FileEntry",
    "HeadEntry",
    "Manifest",
    "ModelKind",
    "ScorerParameters",
    "SingleKind",
    "check_files",
    "manifest_digest",
    "read_files",
    "read_manifest",
    "scorer_file",
]

FORMAT_VERSION: Final = 1
"""The version of the directory's format; another one is refused."""

SingleKind = Literal["recency", "popularity", "factorization", "linear", "boosted"]
"""What may be a head."""

ModelKind = Literal[SingleKind, "value"]

MANIFEST: Final = "manifest.json"
GOLDEN: Final = "golden.npz"
FACTORS: Final = "factors.npz"
CURE: Final = "fetch the bundle again, or train anew"

_SUFFIXES: Final[Mapping[ModelKind, str]] = {"boosted": ".ubj", "linear": ".npz"}

_ENTRIES_MAX: Final = 100  # of a directory: enough to name one that is too many


@dataclass(frozen=True, slots=True)
class BundleLimits:
    """How large a bundle may be; checked before anything is read into memory."""

    manifest_bytes_max: int = 1_048_576
    """Bytes of manifest.json."""
    file_bytes_max: int = 1_073_741_824
    """Bytes of each other file: 1 GiB."""
    bytes_max: int = 3_221_225_472
    """Bytes of all files that the manifest names, together: 3 GiB."""
    golden_rows_max: int = 1_000
    """Candidates of the golden slate."""
    dimensions_max: int = 1_024
    """Components of each vector of a factorization."""


LIMITS: Final = BundleLimits()


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size and SHA-256 (64 hex digits) of one file."""

    bytes: int
    sha256: str


class ScorerParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a scorer needs besides its file; what it does not need is left out."""

    iterations: tuple[int, int] = (0, 0)
    """Of a boosted one: its first round and the one after the last, (0, 0) for all."""
    column: str = ""
    """Of a popular one: what it counts."""
    weights: dict[str, float] = {}
    """Of a value model: what each kind of engagement was worth in training."""


class HeadEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One head of a value model: what it is for, what scores it, and its calibration.

    `columns` are those of the spec that it reads, in its own order. Its file, if it has one, is
    `head-<kind>.ubj` or `.npz`.
    """

    kind: str
    scorer: SingleKind
    columns: tuple[str, ...]
    parameters: ScorerParameters
    calibration: Calibration | None

    def __post_init__(self) -> None:
        """Refuse what no ranking config has a weight for: it names a file, too."""
        if self.kind not in HEAD_KINDS:
            raise ValueError(
                f"there is no head for {self.kind!r}: use one of {', '.join(HEAD_KINDS)}"
            )


class _Versioned(msgspec.Struct):
    """The field that every version of the manifest has."""

    format_version: int


class Manifest(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """What manifest.json holds."""

    format_version: int
    kind: ModelKind
    tenant: str
    spec: FeatureSpec
    parameters: ScorerParameters
    trained_at: str
    training_fingerprint: str
    metrics: dict[str, float]
    files: dict[str, FileEntry]
    heads: tuple[HeadEntry, ...] = ()

    @property
    def file_bytes(self) -> int:
        """Bytes of all files that it names, as it promises them."""
        return sum(entry.bytes for entry in self.files.values())


def scorer_file(kind: ModelKind, head: str | None = None) -> str | None:
    """The file of a bundle's scorer, or of one head of it; None for kinds that have none."""
    suffix = _SUFFIXES.get(kind)
    return suffix and ("ranker" if head is None else f"head-{head}") + suffix


def manifest_digest(directory: Path, limits: BundleLimits = LIMITS) -> str:
    """The digest of the bundle in a directory, from its manifest alone: SHA-256, 64 hex digits."""
    return hashlib.sha256(_read(directory, MANIFEST, limits.manifest_bytes_max)).hexdigest()


def read_manifest(directory: Path, limits: BundleLimits) -> tuple[Manifest, str]:
    """The manifest of a bundle, and its digest; raises `BundleDamaged`."""
    encoded = _read(directory, MANIFEST, limits.manifest_bytes_max)
    return _parse_manifest(encoded), hashlib.sha256(encoded).hexdigest()


def _parse_manifest(encoded: bytes) -> Manifest:
    try:
        version = msgspec.json.decode(encoded, type=_Versioned).format_version
        if version == FORMAT_VERSION:
            return msgspec.json.decode(encoded, type=Manifest)
    except (msgspec.MsgspecError, RankingError, UnicodeDecodeError, RecursionError) as error:
        raise BundleDamaged(f"{MANIFEST} cannot be used: {error}; {CURE}") from error
    raise BundleDamaged(
        f"{MANIFEST} is of format version {version}, this code reads version {FORMAT_VERSION}: "
        "train anew, or install the version of headwater that wrote it"
    )


def read_files(directory: Path, manifest: Manifest, limits: BundleLimits) -> dict[str, bytes]:
    """Every file of the bundle by name, as the manifest promises it; raises `BundleDamaged`."""
    scorers = [
        scorer_file(manifest.kind),
        *(scorer_file(head.scorer, head.kind) for head in manifest.heads),
    ]
    wanted = {GOLDEN, *(name for name in scorers if name)}
    if absent := sorted(wanted - manifest.files.keys()):
        raise BundleDamaged(f"{MANIFEST} does not name {', '.join(absent)}; {CURE}")
    if foreign := sorted(manifest.files.keys() - wanted - {FACTORS}):
        raise BundleDamaged(f"{MANIFEST} names {foreign[0]!r}, which no bundle has; {CURE}")
    with os.scandir(directory) as entries:
        found = {entry.name for entry in islice(entries, _ENTRIES_MAX)}
    if extra := sorted(found - manifest.files.keys() - {MANIFEST}):
        raise BundleDamaged(
            f"{extra[0]!r} is in the directory and not in {MANIFEST}: remove it, or {CURE}"
        )
    if manifest.file_bytes > limits.bytes_max:
        raise BundleDamaged(
            f"the bundle has {manifest.file_bytes} bytes, at most {limits.bytes_max} are allowed: "
            "train with fewer factors or trees, or allow more (model_bytes_max)"
        )
    return {
        name: _read_checked(directory, name, entry, limits)
        for name, entry in manifest.files.items()
    }


def check_files(directory: Path, digest: str, limits: BundleLimits = LIMITS) -> None:
    """Raise `BundleDamaged` unless it is the bundle of this digest, every byte of it.

    Nothing is scored: what was verified once, and has not changed, is sound.
    """
    manifest, found = read_manifest(directory, limits)
    if found != digest:
        raise BundleDamaged(f"{MANIFEST} is not the one that was published; {CURE}")
    read_files(directory, manifest, limits)


def _read_checked(directory: Path, name: str, entry: FileEntry, limits: BundleLimits) -> bytes:
    content = _read(directory, name, limits.file_bytes_max, entry.bytes)
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise BundleDamaged(f"{name} is damaged: its SHA-256 is not the manifest's; {CURE}")
    return content


def _read(directory: Path, name: str, bytes_max: int, promised: int | None = None) -> bytes:
    """A regular file's content; sizes are checked before it is read."""
    path = directory / name
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb") as file:  # noqa: PTH123 - a handle, so that no link is followed
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise BundleDamaged(f"{name} is not a regular file; {CURE}")
            if status.st_size > bytes_max:
                raise BundleDamaged(
                    f"{name} has {status.st_size} bytes, at most {bytes_max} are allowed; {CURE}"
                )
            content = file.read(bytes_max)
    except OSError as error:
        raise BundleDamaged(f"{path} cannot be read ({error.strerror}); {CURE}") from error
    if promised is not None and len(content) != promised:
        raise BundleDamaged(
            f"{name} has {len(content)} bytes and the manifest says {promised}; {CURE}"
        )
    return content
