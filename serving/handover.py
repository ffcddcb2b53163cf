"""What the loader leaves for the request processes, in a directory a tenant.

OUT/<tenant>/<version>-<digest>/    bundles that were verified; never changed, sometimes removed
OUT/<tenant>/live.json              which of them is live; replaced whole
OUT/<tenant>/previous.json          which was live before: at hand for a roll-back
OUT/<tenant>/shadow.json            which is on trial
OUT/<tenant>/problem.json           why the registry's live version is not; absent if all is well
OUT/<tenant>/<alias>-problem.json   the same of the other aliases
OUT/trained_hours.json              how long each tenant was trained of late, as of when
OUT/<tenant>.deleted                up to which version the registry's are those of a deleted tenant
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from feeds.model import TenantId, format_time
from feeds.tenants import TRAINED_FILE, Trained
from feeds.training_time import TrainedHours
from ranking.errors import BundleDamaged
from ranking.files import replace_file
from ranking.registry import ALIASES, Alias, ModelVersion

__all__ = [
    "Handed",
    "Problem",
    "bundle_name",
    "clear_problem",
    "handed_file",
    "is_bundle_name",
    "leave_behind",
    "left_behind",
    "problem_file",
    "read_handed",
    "read_problem",
    "withdraw",
    "write_handed",
    "write_problem",
    "write_trained_hours",
]

_BYTES_MAX: Final = 65_536
_BUNDLE_NAME: Final = re.compile(r"[1-9][0-9]*-[0-9a-f]{12}")


class Handed(msgspec.Struct, frozen=True, kw_only=True):
    """A verified version: `path` is the bundle's directory beside the file, `digest` its digest."""

    version: int
    digest: str
    path: str
    published_at: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a version (0: not known which) is not handed over, as a sentence, since when."""

    version: int
    sentence: str
    since: str


Kind = TypeVar("Kind", Handed, Problem)


def handed_file(home: Path, alias: Alias) -> Path:
    """The file that says which bundle an alias names."""
    return home / f"{alias}.json"


def problem_file(home: Path, alias: Alias) -> Path:
    """The file that says why what an alias names is not handed over."""
    return home / ("problem.json" if alias == "live" else f"{alias}-problem.json")


def bundle_name(version: ModelVersion) -> str:
    """The directory of a version's bundle; the digest tells a registry that was made anew apart."""
    return f"{version.version}-{version.digest[:12]}"


def is_bundle_name(name: str) -> bool:
    """Whether a directory may hold a bundle: nothing with a path in it is."""
    return _BUNDLE_NAME.fullmatch(name) is not None


def write_handed(home: Path, version: ModelVersion, alias: Alias = "live") -> None:
    """Let an alias name a verified version in the tenant's directory."""
    handed = Handed(
        version=version.version,
        digest=version.digest,
        path=bundle_name(version),
        published_at=format_time(version.published_us),
    )
    replace_file(handed_file(home, alias), msgspec.json.encode(handed))


def read_handed(home: Path, alias: Alias = "live") -> Handed | None:
    """What an alias names in a tenant's directory; `BundleDamaged` where the file is no such."""
    path = handed_file(home, alias)
    handed = _read(path, Handed)
    if handed is not None and not is_bundle_name(handed.path):
        raise BundleDamaged(f"{path} names {handed.path!r}, which is no bundle: remove it")
    return handed


def withdraw(home: Path, alias: Alias) -> None:
    """The alias names nothing any more."""
    handed_file(home, alias).unlink(missing_ok=True)
    clear_problem(home, alias)


def write_problem(
    home: Path, version: int, sentence: str, now_us: int, alias: Alias = "live"
) -> None:
    """Leave word why a version is not handed over."""
    problem = Problem(version=version, sentence=sentence, since=format_time(now_us))
    replace_file(problem_file(home, alias), msgspec.json.encode(problem))


def read_problem(home: Path, alias: Alias = "live") -> Problem | None:
    """What the loader left word of; None if all is well."""
    return _read(problem_file(home, alias), Problem)


def clear_problem(home: Path, alias: Alias = "live") -> None:
    """All is well."""
    problem_file(home, alias).unlink(missing_ok=True)


def write_trained_hours(out: Path, hours: Mapping[TenantId, TrainedHours], now_us: int) -> None:
    """Tell how long the tenants were trained of late, as `feeds.tenants.read_trained` reads it."""
    out.mkdir(parents=True, exist_ok=True)
    told = Trained(now_us, {tenant: dict(spent) for tenant, spent in hours.items()})
    replace_file(out / TRAINED_FILE, msgspec.json.encode(told))


def leave_behind(out: Path, tenant: str) -> None:
    """The tenant was deleted: what aliases of it name now shall never be handed over again."""
    named = [read_handed(out / tenant, alias) for alias in ALIASES]
    last = max((handed.version for handed in named if handed is not None), default=0)
    if last > left_behind(out, tenant):
        replace_file(out / f"{tenant}.deleted", str(last).encode())


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
