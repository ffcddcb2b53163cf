"""Where trained models are published, promoted and fetched from.

A tenant's versions are numbered from 1. Aliases name versions: `live` is what serving follows,
`previous` is what was live before, `shadow` is for a version on trial.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol

import msgspec

from feeds.model import TenantId, check_tenant_id
from feeds.training_time import TrainedHours, with_time
from ranking.bundle import ModelBundle, ModelKind
from ranking.documents import check_documents
from ranking.errors import (
    AliasConflict,
    BundleDamaged,
    ModelNotFound,
    RankingError,
    RegistryUnavailable,
)
from ranking.files import copy_files, locked, replace_file, sweep_drafts, whole_directory
from ranking.manifest import manifest_digest

__all__ = [
    "ALIASES",
    "POLICIES",
    "Alias",
    "DirectoryRegistry",
    "ModelRegistry",
    "ModelVersion",
    "Policy",
    "check_fetched",
    "check_published",
    "known_aliases",
    "open_registry",
    "promoted",
    "rolled_back",
    "shadowed",
    "wall_clock_us",
]

Alias = Literal["live", "previous", "shadow"]

ALIASES: Final[tuple[Alias, ...]] = ("live", "previous", "shadow")
"""All of them, the most urgent first."""

Policy = Literal["by_hand", "gated"]

POLICIES: Final[tuple[Policy, ...]] = ("by_hand", "gated")
"""Who promotes a tenant's versions: a person, or whoever trained one that passed every gate."""

VERSIONS_MAX: Final = 1_000_000
"""Versions of one tenant; the directory names of more would no longer sort."""

NOTES_CHARS_MAX: Final = 5_000
"""Characters of a version's notes."""

_MLFLOW: Final = ("mlflow+sqlite", "mlflow+postgresql")
_ALIASES: Final = "aliases.json"
_POLICY: Final = "policy.json"
_TRAINED: Final = "trained_hours.json"
_VERSION: Final = "version.json"
_BUNDLE: Final = "bundle"
_DOCUMENTS: Final = "documents"


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One published bundle. `digest` is the bundle's; `published_us` microseconds since 1970."""

    tenant: TenantId
    version: int
    kind: ModelKind
    digest: str
    published_us: int
    notes: str = ""
    metrics: Mapping[str, float] = {}


_NONE: Final[Mapping[str, bytes]] = MappingProxyType({})


class ModelRegistry(Protocol):
    """Versions of models by tenant. Safe for several threads and processes.

    Every method raises `RegistryUnavailable` where the registry cannot be reached or read.
    """

    def tenants(self) -> list[TenantId]:
        """The tenants with a published version, in order of their names."""
        ...

    def publish(
        self,
        tenant: TenantId,
        bundle: Path,
        notes: str = "",
        documents: Mapping[str, bytes] = _NONE,
    ) -> ModelVersion:
        """Load the bundle in a directory, to be sure of it, and copy it in as the next version.

        `documents` by file name go with it: a version is there with all of them, or not at all.
        Raises `BundleDamaged`, or `RankingError` for a bundle of another tenant.
        """
        ...

    def documents(self, version: ModelVersion) -> dict[str, bytes]:
        """The documents of a version by name; raises `ModelNotFound`."""
        ...

    def attach(self, version: ModelVersion, documents: Mapping[str, bytes]) -> None:
        """Add documents to a version, or replace those of the same name.

        Raises `ModelNotFound`, or `RankingError` for what is no document.
        """
        ...

    def policy(self, tenant: TenantId) -> Policy:
        """Who promotes the tenant's versions; `by_hand` unless it was set."""
        ...

    def set_policy(self, tenant: TenantId, policy: Policy) -> None:
        """Decide on it, also before the tenant has a version."""
        ...

    def trained_hours(self, tenant: TenantId) -> TrainedHours:
        """How long the tenant was trained in the last hours that it was."""
        ...

    def add_trained(self, tenant: TenantId, at_us: int, seconds: float) -> None:
        """Note so much more training, which ended then; also before the tenant has a version."""
        ...

    def all_trained_hours(self) -> dict[TenantId, TrainedHours]:
        """The same of every tenant that was ever trained, in one pass."""
        ...

    def versions(self, tenant: TenantId) -> list[ModelVersion]:
        """Every version, newest first; none for an unknown tenant."""
        ...

    def alias(self, tenant: TenantId, name: Alias) -> ModelVersion | None:
        """The version that an alias names, or None. Cheap: made for polling."""
        ...

    def aliases(self) -> dict[TenantId, Mapping[Alias, int] | None]:
        """What every tenant's aliases name, in one pass: made for polling many.

        None for a tenant whose aliases cannot be read: asking for one of them says why.
        """
        ...

    def promote(self, tenant: TenantId, version: int, expected: int | None = None) -> ModelVersion:
        """Make a version live; what was live becomes `previous`.

        With `expected`, only if that version is live now (0: none is), or else `AliasConflict`.
        Raises `ModelNotFound` where there is no such version.
        """
        ...

    def roll_back(self, tenant: TenantId) -> ModelVersion:
        """Exchange `live` and `previous`; raises `ModelNotFound` where there is no previous one."""
        ...

    def set_shadow(self, tenant: TenantId, version: int | None) -> ModelVersion | None:
        """Put a version on trial beside the live one, or with None end the trial.

        Raises `ModelNotFound` where there is no such version.
        """
        ...

    def fetch(self, version: ModelVersion, directory: Path) -> Path:
        """Copy a version's bundle into a new directory, which appears whole or not at all.

        Raises `ModelNotFound`, `BundleDamaged` where it is not the bundle that was published, and
        `FileExistsError` where the directory exists. The bundle's files are checked by loading it.
        """
        ...

    def close(self) -> None:
        """Release connections; closing twice is harmless."""
        ...


def open_registry(uri: str, clock: Callable[[], int] | None = None) -> ModelRegistry:
    """The registry at a URI: `dir:DIRECTORY`, or MLflow on SQLite or PostgreSQL.

    MLflow's are `mlflow+sqlite:///FILE` and `mlflow+postgresql://USER@HOST/NAME#ARTIFACTS`, as in
    `ranking.registry_database`. `clock` gives microseconds since 1970, for `published_us`; the
    real time unless it is given.
    """
    clock = wall_clock_us if clock is None else clock
    scheme, _, rest = uri.partition(":")
    if scheme == "dir" and rest:
        return DirectoryRegistry(Path(rest), clock)
    if scheme in _MLFLOW and rest.startswith("//") and len(rest) > len("///"):
        try:
            from ranking.mlflow_registry import MlflowRegistry  # noqa: PLC0415  (3 s to import)
        except ModuleNotFoundError as error:
            raise RegistryUnavailable(
                f"the registry {scheme}: needs {error.name}: install headwater[train]"
            ) from error
        return MlflowRegistry(uri.removeprefix("mlflow+"), clock)
    raise RegistryUnavailable(
        f"{scheme!r} is not a model registry: write dir:DIRECTORY, mlflow+sqlite:///FILE, or "
        "mlflow+postgresql://USER@HOST/NAME#ARTIFACTS"
    )


def wall_clock_us() -> int:
    """The real time, in microseconds since the epoch."""
    return time.time_ns() // 1_000


def known_aliases(aliases: Mapping[str, int]) -> dict[Alias, int]:
    """Those of the aliases that mean something to us. Pure."""
    return {name: aliases[name] for name in ALIASES if name in aliases}


def promoted(
    aliases: Mapping[str, int], version: int, expected: int | None = None
) -> dict[str, int]:
    """The aliases after a promotion; raises `AliasConflict`. Pure."""
    live = aliases.get("live", 0)
    if expected is not None and expected != live:
        now = f"version {live} is live" if live else "none is live"
        wanted = f"version {expected} was expected to be" if expected else "none was expected to be"
        raise AliasConflict(f"{wanted}, but {now}: look at it, and promote again if you still want")
    if version == live:
        return dict(aliases)
    return {**aliases, "live": version, **({"previous": live} if live else {})}


def rolled_back(aliases: Mapping[str, int], tenant: TenantId) -> dict[str, int]:
    """The aliases with live and previous exchanged; raises `ModelNotFound`. Pure."""
    if "previous" not in aliases or "live" not in aliases:
        raise ModelNotFound(
            f"tenant {tenant} has no previous version to roll back to: promote a version"
        )
    return {**aliases, "live": aliases["previous"], "previous": aliases["live"]}


def shadowed(aliases: Mapping[str, int], version: int | None) -> dict[str, int]:
    """The aliases with this version on trial, or none. Pure."""
    others = {name: number for name, number in aliases.items() if name != "shadow"}
    return others if version is None else {**others, "shadow": version}


def check_published(
    tenant: TenantId, directory: Path, notes: str, documents: Mapping[str, bytes]
) -> ModelBundle:
    """The bundle that is to be published; raises `BundleDamaged`, `RankingError` if foreign."""
    check_documents(documents)
    if len(notes) > NOTES_CHARS_MAX:
        raise RankingError(
            f"the notes have {len(notes)} characters, at most {NOTES_CHARS_MAX} are kept"
        )
    bundle = ModelBundle.load(directory)
    if bundle.tenant != tenant:
        raise RankingError(
            f"the bundle in {directory} belongs to tenant {bundle.tenant}, not to {tenant}: "
            "publish it there, or train for this tenant"
        )
    return bundle


def check_fetched(version: ModelVersion, directory: Path) -> None:
    """Raise `BundleDamaged` where a directory does not hold the bundle that was published."""
    if manifest_digest(directory) != version.digest:
        raise BundleDamaged(
            f"version {version.version} of tenant {version.tenant} holds another bundle than was "
            "published: publish it again"
        )


class DirectoryRegistry:
    """A registry of plain files: `<root>/<tenant>/<number>/{version.json, bundle/}`.

    Aliases stand in `<root>/<tenant>/aliases.json`, replaced whole. Writers of a tenant take turns
    by a lock file; readers need none.
    """

    def __init__(self, root: Path, clock: Callable[[], int] = wall_clock_us) -> None:
        self._root = root
        self._clock = clock

    def tenants(self) -> list[TenantId]:
        """The tenants with a published version, in order of their names."""
        homes = {
            path.parent.parent.name for path in self._root.glob(f"[a-z0-9]*/[0-9]*/{_VERSION}")
        }
        return [TenantId(name) for name in sorted(homes)]

    def publish(
        self,
        tenant: TenantId,
        bundle: Path,
        notes: str = "",
        documents: Mapping[str, bytes] = _NONE,
    ) -> ModelVersion:
        """See `ModelRegistry.publish`."""
        published = check_published(tenant, bundle, notes, documents)
        home = self._home(tenant)
        try:
            with locked(home / "LOCK"):
                sweep_drafts(home)
                version = ModelVersion(
                    tenant=tenant,
                    version=max(self._numbers(tenant), default=0) + 1,
                    kind=published.kind,
                    digest=published.digest,
                    published_us=self._clock(),
                    notes=notes,
                    metrics=dict(published.metrics),
                )
                self._write(version, bundle, documents)
        except OSError as error:
            raise _unavailable(home, error) from error
        return version

    def documents(self, version: ModelVersion) -> dict[str, bytes]:
        """See `ModelRegistry.documents`."""
        self._version(version.tenant, version.version)
        home = self._path(version.tenant, version.version) / _DOCUMENTS
        try:
            return {path.name: path.read_bytes() for path in sorted(home.glob("[!.]*"))}
        except OSError as error:
            raise _unavailable(home, error) from error

    def attach(self, version: ModelVersion, documents: Mapping[str, bytes]) -> None:
        """See `ModelRegistry.attach`."""
        home = self._path(version.tenant, version.version) / _DOCUMENTS
        self._version(version.tenant, version.version)
        try:
            with locked(self._home(version.tenant) / "LOCK"):
                check_documents({**self.documents(version), **documents})
                home.mkdir(exist_ok=True)  # a release before documents published it
                for name, content in documents.items():
                    replace_file(home / name, content)
        except OSError as error:
            raise _unavailable(home, error) from error

    def policy(self, tenant: TenantId) -> Policy:
        """See `ModelRegistry.policy`."""
        policy: Policy = _read(self._home(tenant) / _POLICY, Policy, "by_hand")
        return policy

    def set_policy(self, tenant: TenantId, policy: Policy) -> None:
        """See `ModelRegistry.set_policy`."""
        home = self._home(tenant)
        try:
            with locked(home / "LOCK"):
                replace_file(home / _POLICY, msgspec.json.encode(policy))
        except OSError as error:
            raise _unavailable(home, error) from error

    def trained_hours(self, tenant: TenantId) -> TrainedHours:
        """See `ModelRegistry.trained_hours`."""
        hours: TrainedHours = _read(self._home(tenant) / _TRAINED, dict[int, float], {})
        return hours

    def add_trained(self, tenant: TenantId, at_us: int, seconds: float) -> None:
        """See `ModelRegistry.add_trained`."""
        home = self._home(tenant)
        try:
            with locked(home / "LOCK"):
                hours = with_time(self.trained_hours(tenant), at_us, seconds)
                replace_file(home / _TRAINED, msgspec.json.encode(hours))
        except OSError as error:
            raise _unavailable(home, error) from error

    def all_trained_hours(self) -> dict[TenantId, TrainedHours]:
        """See `ModelRegistry.all_trained_hours`."""
        homes = sorted(path.parent.name for path in self._root.glob(f"[a-z0-9]*/{_TRAINED}"))
        return {TenantId(name): self.trained_hours(TenantId(name)) for name in homes}

    def versions(self, tenant: TenantId) -> list[ModelVersion]:
        """See `ModelRegistry.versions`."""
        return [self._version(tenant, number) for number in sorted(self._numbers(tenant))[::-1]]

    def alias(self, tenant: TenantId, name: Alias) -> ModelVersion | None:
        """See `ModelRegistry.alias`."""
        number = self._aliases(tenant).get(name)
        return None if number is None else self._version(tenant, number)

    def aliases(self) -> dict[TenantId, Mapping[Alias, int] | None]:
        """See `ModelRegistry.aliases`."""
        return {tenant: self._known_aliases(tenant) for tenant in self.tenants()}

    def promote(self, tenant: TenantId, version: int, expected: int | None = None) -> ModelVersion:
        """See `ModelRegistry.promote`."""
        wanted = self._version(tenant, version)
        self._move(tenant, lambda aliases: promoted(aliases, version, expected))
        return wanted

    def roll_back(self, tenant: TenantId) -> ModelVersion:
        """See `ModelRegistry.roll_back`."""
        aliases = self._move(tenant, lambda aliases: rolled_back(aliases, tenant))
        return self._version(tenant, aliases["live"])

    def set_shadow(self, tenant: TenantId, version: int | None) -> ModelVersion | None:
        """See `ModelRegistry.set_shadow`."""
        wanted = None if version is None else self._version(tenant, version)
        self._move(tenant, lambda aliases: shadowed(aliases, version))
        return wanted

    def fetch(self, version: ModelVersion, directory: Path) -> Path:
        """See `ModelRegistry.fetch`."""
        self._version(version.tenant, version.version)
        with whole_directory(directory) as draft:
            source = self._path(version.tenant, version.version) / _BUNDLE
            try:
                copy_files(source, draft)
            except OSError as error:
                raise _unavailable(source, error) from error
            check_fetched(version, draft)
        return directory

    def close(self) -> None:
        """Nothing is held open."""

    def _home(self, tenant: TenantId) -> Path:
        return self._root / check_tenant_id(tenant)

    def _path(self, tenant: TenantId, number: int) -> Path:
        return self._home(tenant) / f"{number:06d}"

    def _numbers(self, tenant: TenantId) -> list[int]:
        paths = self._home(tenant).glob("[0-9]*")
        return [int(path.name) for path in paths if path.name.isascii() and path.name.isdigit()]

    def _version(self, tenant: TenantId, number: int) -> ModelVersion:
        path = self._path(tenant, number) / _VERSION
        try:
            return msgspec.json.decode(path.read_bytes(), type=ModelVersion)
        except FileNotFoundError:
            known = ", ".join(str(each) for each in sorted(self._numbers(tenant))[-10:]) or "none"
            raise ModelNotFound(
                f"tenant {tenant} has no version {number}: the latest are {known}"
            ) from None
        except (OSError, msgspec.MsgspecError) as error:
            raise _unavailable(path, error) from error

    def _aliases(self, tenant: TenantId) -> dict[str, int]:
        aliases: dict[str, int] = _read(self._home(tenant) / _ALIASES, dict[str, int], {})
        return aliases

    def _known_aliases(self, tenant: TenantId) -> Mapping[Alias, int] | None:
        try:
            return known_aliases(self._aliases(tenant))
        except RegistryUnavailable:
            return None

    def _move(
        self, tenant: TenantId, change: Callable[[Mapping[str, int]], dict[str, int]]
    ) -> dict[str, int]:
        home = self._home(tenant)
        if not home.is_dir():
            raise ModelNotFound(f"tenant {tenant} has no versions: publish one first")
        try:
            with locked(home / "LOCK"):
                aliases = change(self._aliases(tenant))
                replace_file(home / _ALIASES, msgspec.json.encode(aliases, order="sorted"))
        except OSError as error:
            raise _unavailable(home, error) from error
        return aliases

    def _write(self, version: ModelVersion, bundle: Path, documents: Mapping[str, bytes]) -> None:
        if version.version >= VERSIONS_MAX:
            raise RegistryUnavailable(f"tenant {version.tenant} has {VERSIONS_MAX} versions")
        with whole_directory(self._path(version.tenant, version.version)) as draft:
            (draft / _BUNDLE).mkdir()
            copy_files(bundle, draft / _BUNDLE)
            check_fetched(version, draft / _BUNDLE)
            (draft / _DOCUMENTS).mkdir()
            for name, content in documents.items():
                (draft / _DOCUMENTS / name).write_bytes(content)
            (draft / _VERSION).write_bytes(msgspec.json.encode(version))


def _read(path: Path, kind: Any, absent: Any) -> Any:  # Any: of the kind that is asked for
    """What a file holds as JSON, or where it is absent; raises `RegistryUnavailable`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return absent
    except (OSError, msgspec.MsgspecError) as error:
        raise _unavailable(path, error) from error


def _unavailable(path: Path, error: Exception) -> RegistryUnavailable:
    return RegistryUnavailable(
        f"the registry cannot be read or written at {path} ({error}): check the disk and its rights"
    )
