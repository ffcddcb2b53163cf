"""Reading exported slates: what was shown with which probability, and the exact features of then.

    out/tenant=acme/_slates.json
    out/tenant=acme/day=2018-03-12/slates-*.parquet

docs/slates.md has the columns. Only files that the manifest names are read, each with the checksum
that it states.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import numpy.typing as npt

from ranking.errors import RankingError
from ranking.features import FeatureSpec
from training.errors import ExportDamaged
from training.events.fingerprints import fingerprint_of
from training.events.log import ExportedFile, check_file, damaged

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["NO_SLATES", "ServedPlaces", "has_slates", "read_slates", "slate_tables"]

MANIFEST: Final = "_slates.json"
SCHEMA_VERSION: Final = 1

_COLUMNS: Final = (
    "slate_id",
    "time",
    "activity_id",
    "position",
    "propensity",
    "spec_fingerprint",
    "feature_names",
    "features",
)

Ints = npt.NDArray[np.int64]


class SlatesManifest(msgspec.Struct, frozen=True):
    """What an export of slates consists of."""

    schema_version: int
    tenant: str
    files: tuple[ExportedFile, ...] = ()


@dataclass(frozen=True, slots=True)
class ServedPlaces:
    """n places of logged slates whose slates and activities an event log names.

    Sorted by (slate, activity), which are numbers of that log; a place stands there once.
    """

    slate: npt.NDArray[np.int32]
    activity: npt.NDArray[np.int32]
    time_us: Ints
    """int64[n]: when the slate was made, by the service's clock."""
    position: npt.NDArray[np.int32]
    propensity: npt.NDArray[np.float64]
    """float64[n]: the probability of this activity in this place, given those before it."""
    features: npt.NDArray[np.float32]
    """float32[n, names of the spec]: as the scorer read them."""
    logged: npt.NDArray[np.bool_]
    """bool[n, names of the spec]: which of those were logged."""
    fingerprint: str

    def __len__(self) -> int:
        return len(self.slate)

    def find(
        self, slate: npt.NDArray[np.int32], activity: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.int64]:
        """The row of each slate and activity, or -1."""
        if not len(self):
            return np.full(len(slate), -1, np.int64)
        most = int(self.activity.max()) + 1
        keys = self.slate.astype(np.int64) * most + self.activity
        wanted = slate.astype(np.int64) * most + activity
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found = (self.slate[at] == slate) & (self.activity[at] == activity)
        return np.where(found, at, -1)


def NO_SLATES(features: int) -> ServedPlaces:  # noqa: N802 - a constant but for its width
    """Where no slates were exported."""
    none = np.zeros(0, np.int32)
    return ServedPlaces(
        slate=none,
        activity=none,
        time_us=np.zeros(0, np.int64),
        position=none,
        propensity=np.zeros(0),
        features=np.zeros((0, features), np.float32),
        logged=np.zeros((0, features), np.bool_),
        fingerprint="",
    )


def read_slates(
    path: Path | str,
    tenant: str,
    spec: FeatureSpec,
    slates: Sequence[str],
    activities: Sequence[str],
) -> ServedPlaces:
    """The places of a tenant's exported slates that the names of an event log stand for.

    A feature counts as logged where the slate's spec had it, of the same version and parameters.
    Raises `ExportDamaged`. Memory: 5 bytes a feature and place.
    """
    _, manifest = _manifest(Path(path), tenant)
    slate_of = {name: number for number, name in enumerate(slates)}
    activity_of = {name: number for number, name in enumerate(activities)}
    tables = slate_tables(path, tenant, _COLUMNS)
    parts = [
        NO_SLATES(len(spec.names)),
        *(_places(table, spec, slate_of, activity_of) for table in tables),
    ]
    fingerprint = fingerprint_of([tenant, *sorted(file.sha256 for file in manifest.files)])
    return _sorted(parts, fingerprint)


def slate_tables(path: Path | str, tenant: str, columns: Sequence[str]) -> Iterator["pa.Table"]:
    """Columns of a tenant's exported slates, a table for each file; raises `ExportDamaged`."""
    import pyarrow as pa  # noqa: PLC0415 - half a second that only training pays
    import pyarrow.parquet as pq  # noqa: PLC0415

    root, manifest = _manifest(Path(path), tenant)
    for file in manifest.files:
        check_file(root, file)
        try:
            yield pq.ParquetFile(root / file.path).read(list(columns))
        except (OSError, pa.ArrowException) as error:
            raise damaged(root / file.path, str(error)) from error


def has_slates(path: Path | str, tenant: str) -> bool:
    """Whether slates of a tenant were exported to a directory."""
    return (Path(path) / f"tenant={tenant}" / MANIFEST).exists()


def _manifest(path: Path, tenant: str) -> tuple[Path, SlatesManifest]:
    root = path / f"tenant={tenant}"
    file = root / MANIFEST
    try:
        manifest = msgspec.json.decode(file.read_bytes(), type=SlatesManifest)
    except FileNotFoundError as error:
        raise ExportDamaged(
            f"{file}: there is no such file; run `headwater slates export --tenant {tenant}` "
            "first, and give the directory that it wrote to"
        ) from error
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged(file, str(error)) from error
    if (manifest.schema_version, manifest.tenant) != (SCHEMA_VERSION, tenant):
        raise ExportDamaged(
            f"{file}: slates of tenant {manifest.tenant} and schema version "
            f"{manifest.schema_version}; this release reads version {SCHEMA_VERSION}: export again"
        )
    return root, manifest


def _places(
    table: "pa.Table", spec: FeatureSpec, slate_of: dict[str, int], activity_of: dict[str, int]
) -> ServedPlaces:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    table = table.filter(pc.greater_equal(table.column("position"), 0))
    slate = np.array(
        [slate_of.get(name, -1) for name in table.column("slate_id").to_pylist()], np.int32
    )
    activity = np.array(
        [activity_of.get(name, -1) for name in table.column("activity_id").to_pylist()], np.int32
    )
    known = (slate >= 0) & (activity >= 0)
    table = table.filter(pa.array(known))
    features, logged = _features(table, spec)
    return ServedPlaces(
        slate=slate[known],
        activity=activity[known],
        time_us=np.asarray(table.column("time").cast(pa.int64()).to_numpy(), np.int64),
        position=np.asarray(table.column("position").to_numpy(), np.int32),
        propensity=np.asarray(table.column("propensity").to_numpy(), np.float64),
        features=features,
        logged=logged,
        fingerprint="",
    )


def _numbers(table: "pa.Table", name: str, number_of: dict[str, int]) -> npt.NDArray[np.int32]:
    return np.array([number_of.get(each, -1) for each in table.column(name).to_pylist()], np.int32)


def _features(
    table: "pa.Table", spec: FeatureSpec
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """float32[n, names] and which of them were logged, spec by spec."""
    features = np.full((table.num_rows, len(spec.names)), np.nan, np.float32)
    logged = np.zeros(features.shape, np.bool_)
    lists = table.column("features").combine_chunks()
    values = lists.values.to_numpy(zero_copy_only=False)
    starts = np.asarray(lists.offsets.to_numpy(), np.int64)[:-1]
    pairs = table.select(["spec_fingerprint", "feature_names"]).to_pylist()
    rows_of: dict[tuple[str, str], list[int]] = {}
    for row, pair in enumerate(pairs):
        rows_of.setdefault((pair["spec_fingerprint"], pair["feature_names"]), []).append(row)
    for (fingerprint, text), some in rows_of.items():
        names = tuple(text.split(","))
        if not _same(fingerprint, names, spec):
            continue
        rows = np.array(some)
        for column, name in enumerate(spec.names):
            if name in names:
                features[rows, column] = values[starts[rows] + names.index(name)]
                logged[rows, column] = True
    return features, logged


@lru_cache(1_024)
def _same(fingerprint: str, names: tuple[str, ...], spec: FeatureSpec) -> bool:
    """Whether a spec is of these names and else as `spec`: that its features are the same."""
    try:
        return FeatureSpec(names, spec.version, spec.parameters).fingerprint == fingerprint
    except RankingError:  # a feature that this release does not know
        return False


def _sorted(parts: Sequence[ServedPlaces], fingerprint: str) -> ServedPlaces:
    slate, activity, time_us, position, propensity, features, logged = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ServedPlaces.__slots__[:-1]
    )
    order = np.lexsort((position, activity, slate))
    first = np.ones(len(order), np.bool_)
    first[1:] = (np.diff(slate[order]) != 0) | (np.diff(activity[order]) != 0)
    kept = order[first]
    return ServedPlaces(
        slate=slate[kept],
        activity=activity[kept],
        time_us=time_us[kept],
        position=position[kept],
        propensity=propensity[kept],
        features=features[kept],
        logged=logged[kept],
        fingerprint=fingerprint,
    )
