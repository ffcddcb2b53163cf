"""What the loader leaves for the request processes, in a directory a tenant.

OUT/<tenant>/<version>-<digest>/    bundles that were verified; never changed, sometimes removed
OUT/<tenant>/live.json              which of them is live; replaced whole
OUT/<tenant>/problem.json           why the registry's live version is not; absent if all is well
OUT/<tenant>.deleted                up to which version the registry's are those of a deleted tenant
"""

import re
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from feeds.model import format_time
from ranking.errors import BundleDamaged
from ranking.files import replace_file
from ranking.registry import ModelVersion

__all__ = [
    "LIVE",
    "PROBLEM",
    "Live",
    "Problem",
    "bundle_name",
    "clear_problem",
    "is_bundle_name",
    "leave_behind",
    "left_behind",
    "read_live",
    "read_problem",
    "write_live",
    "write_problem",
]

LIVE: Final = "live.json"
PROBLEM: Final = "problem.json"

_BYTES_MAX: Final = 65_536
_BUNDLE_NAME: Final = re.compile(r"[1-9][0-9]*-[0-9a-f]{12}")


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """The live model: `path` is the bundle's directory beside the file, `digest` the bundle's."""

    version: int
    digest: str
    path: str
    published_at: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a version (0: not known which) is not handed over, as a sentence, since when."""

    version: int
    sentence: str
    since: str


Kind = TypeVar("Kind", Live, Problem)


def bundle_name(version: ModelVersion) -> str:
    """The directory of a version's bundle; the digest tells a registry that was made anew apart."""
    return f"{version.version}-{version.digest[:12]}"


def is_bundle_name(name: str) -> bool:
    """Whether a directory may hold a bundle: nothing with a path in it is."""
    return _BUNDLE_NAME.fullmatch(name) is not None


def write_live(home: Path, version: ModelVersion) -> None:
    """Make a verified version live in the tenant's directory."""
    live = Live(
        version=version.version,
        digest=version.digest,
        path=bundle_name(version),
        published_at=format_time(version.published_us),
    )
    replace_file(home / LIVE, msgspec.json.encode(live))


def read_live(home: Path) -> Live | None:
    """What is live in a tenant's directory; raises `BundleDamaged` where the file is no such."""
    live = _read(home / LIVE, Live)
    if live is not None and not is_bundle_name(live.path):
        raise BundleDamaged(f"{home / LIVE} names {live.path!r}, which is no bundle: remove it")
    return live


def write_problem(home: Path, version: int, sentence: str, now_us: int) -> None:
    """Leave word why a version is not handed over."""
    problem = Problem(version=version, sentence=sentence, since=format_time(now_us))
    replace_file(home / PROBLEM, msgspec.json.encode(problem))


def read_problem(home: Path) -> Problem | None:
    """What the loader left word of; None if all is well."""
    return _read(home / PROBLEM, Problem)


def clear_problem(home: Path) -> None:
    """All is well."""
    (home / PROBLEM).unlink(missing_ok=True)


def leave_behind(out: Path, tenant: str) -> None:
    """The tenant was deleted: what is live of it now shall never be handed over again."""
    live = read_live(out / tenant)
    if live is not None and live.version > left_behind(out, tenant):
        replace_file(out / f"{tenant}.deleted", str(live.version).encode())


def left_behind(out: Path, tenant: str) -> int:
    """The last version that belongs to a deleted tenant of this name; 0 if none does."""
    try:
        return int((out / f"{tenant}.deleted").read_bytes()[:20])
    except FileNotFoundError:
        return 0
    except ValueError as error:
        raise BundleDamaged(
            f"{out / tenant}.deleted is no version: write the last one of the deleted tenant there"
        ) from error


def _read(path: Path, kind: type[Kind]) -> Kind | None:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_BYTES_MAX), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleDamaged(
            f"{path} cannot be read ({error}): remove it, and the loader writes it again"
        ) from error
