"""From what the loader handed over to an object that scores: what a request process reads.

The loader verified it; here it is read again with every checksum and the golden slate.
"""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from feeds.errors import InvalidInput
from feeds.model import TenantId, check_tenant_id
from ranking.bundle import BundleLimits, ModelBundle
from ranking.errors import BundleDamaged, RankingError
from ranking.features import FeatureSpec
from ranking.registry import Alias
from ranking.scorers.base import Scorer
from ranking.scorers.factorization import FactorTable
from serving.handover import Handed, handed_file, problem_file, read_handed, read_problem
from serving.settings_models import model_memory_bytes

__all__ = [
    "NO_FILE",
    "LoadBundle",
    "LoadedModel",
    "Sight",
    "Stamp",
    "load_bundle",
    "load_handed",
    "look",
]

Stamp = tuple[int, int, int]
"""What changes when a file is replaced: inode, size and time of change."""

NO_FILE: Final[Stamp] = (0, 0, 0)

SETTLED_NS: Final = 2_000_000_000
"""Nanoseconds after which a directory's time of change tells a further change apart."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A tenant's model, ready to score. Immutable: a request keeps the one that it got.

    `memory_bytes` is what it counts for in the limits, more than it takes.
    """

    tenant: TenantId
    version: str
    digest: str
    bundle: ModelBundle
    scorer: Scorer
    factors: FactorTable | None
    spec: FeatureSpec
    load_ms: float
    memory_bytes: int


class LoadBundle(Protocol):
    """How a bundle becomes a model (`load_bundle`)."""

    def __call__(
        self, home: Path, tenant: TenantId, handed: Handed, limits: BundleLimits
    ) -> LoadedModel:
        """The model in a directory of `home`; raises `RankingError`."""
        ...


class Sight(NamedTuple):
    """What a look at a tenant's directory found.

    `previous` is the version at hand for a roll-back; the problems are the loader's. A directory
    that is `settled` and has the same time of change has not changed.
    """

    changed_ns: int
    settled: bool
    live: Stamp = NO_FILE
    shadow: Stamp = NO_FILE
    previous: str | None = None
    problem: str | None = None
    shadow_problem: str | None = None

    def stamp(self, alias: Alias) -> Stamp:
        """The stamp of the file that says what an alias names."""
        return self.shadow if alias == "shadow" else self.live


def look(directory: Path, seen_max: int, before: Mapping[TenantId, Sight]) -> dict[TenantId, Sight]:
    """The tenants that the loader handed something over for; 5 us each where nothing changed."""
    sights = {}
    now_ns = time.time_ns()
    try:
        with os.scandir(directory) as entries:
            for entry in islice(entries, seen_max):
                with suppress(InvalidInput, FileNotFoundError):
                    if entry.is_dir():
                        tenant = check_tenant_id(entry.name)
                        changed_ns = entry.stat().st_mtime_ns
                        sights[tenant] = _sight(
                            directory / entry.name, changed_ns, now_ns, before.get(tenant)
                        )
    except FileNotFoundError:
        return {}
    return dict(sorted(sights.items()))


def _sight(home: Path, changed_ns: int, now_ns: int, before: Sight | None) -> Sight:
    if before is not None and before.settled and before.changed_ns == changed_ns:
        return before
    return Sight(
        changed_ns=changed_ns,
        settled=now_ns - changed_ns > SETTLED_NS,
        live=_stamp(handed_file(home, "live")),
        shadow=_stamp(handed_file(home, "shadow")),
        previous=_previous(home),
        problem=_problem(home, "live"),
        shadow_problem=_problem(home, "shadow"),
    )


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return NO_FILE
    return status.st_ino, status.st_size, status.st_mtime_ns


def _previous(home: Path) -> str | None:
    try:
        handed = read_handed(home, "previous")
    except RankingError:
        return None
    return None if handed is None else str(handed.version)


def _problem(home: Path, alias: Alias) -> str | None:
    try:
        problem = read_problem(home, alias) if problem_file(home, alias).exists() else None
    except RankingError as error:
        return str(error)
    return None if problem is None else f"version {problem.version}: {problem.sentence}"


def load_handed(
    home: Path,
    tenant: TenantId,
    alias: Alias,
    held: Sequence[LoadedModel],
    limits: BundleLimits,
    load: LoadBundle,
) -> LoadedModel | None:
    """The model that an alias names, one of those `held` where it is that; None if none is."""
    handed = read_handed(home, alias)
    if handed is None:
        return None
    for model in held:
        if (model.version, model.digest) == (str(handed.version), handed.digest):
            return model
    return load(home, tenant, handed, limits)


def load_bundle(home: Path, tenant: TenantId, handed: Handed, limits: BundleLimits) -> LoadedModel:
    """Read a bundle and score its golden slate, which warms it; 10 ms of CPU for 100 trees."""
    began_ns = time.perf_counter_ns()
    bundle = ModelBundle.load(home / handed.path, limits, digest=handed.digest)
    if bundle.tenant != tenant:
        raise BundleDamaged(
            f"{home / handed.path} belongs to tenant {bundle.tenant}: publish a model of {tenant}"
        )
    return LoadedModel(
        tenant=tenant,
        version=str(handed.version),
        digest=handed.digest,
        bundle=bundle,
        scorer=bundle.scorer(),
        factors=bundle.factors(),
        spec=bundle.spec,
        load_ms=round((time.perf_counter_ns() - began_ns) / 1e6, 1),
        memory_bytes=model_memory_bytes(bundle.file_bytes),
    )
