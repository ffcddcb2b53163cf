"""build_training_set: from exported events and slates to a training set on disk, in bounded memory.

The log becomes columns; labels come from it; rows whose features were logged have them; the sides
of all others are computed by workers, a task a side and part of the users; then each part of the
set is put together, written and forgotten.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from feeds.model import check_tenant_id
from ranking.features import FEATURES, FeatureSpec
from ranking.registry import wall_clock_us
from ranking.scorers.factorization import FactorTable
from training.asof.case import Questions, resolve
from training.asof.inputs import Social
from training.cluster import Task, Workers, open_workers
from training.config import ClusterConfig, TrainingConfig
from training.errors import TrainingError
from training.events.columns import EventColumns, read_columns
from training.events.fingerprints import code_version, fingerprint_of
from training.events.log import read_manifest
from training.sets.files import NewSet, SetManifest, StoredSet, new_set
from training.sets.labels import LabelledImpressions, label_impressions
from training.sets.shelf import Shelf
from training.sets.spread import submit_sides
from training.sets.tasks import Rows, WrittenPart, written_part
from training.slates.served import NO_SLATES, ServedPlaces, has_slates, read_slates
from training.sources.base import Progress, no_progress

__all__ = [
    "LEFT_OUT",
    "MEMORY_BYTES_DEFAULT",
    "MEMORY_BYTES_MIN",
    "build_training_set",
    "default_spec",
    "rows_and_questions",
    "served_places",
]

LEFT_OUT: Final = ("position",)
"""Features that training does not use: where an activity will be shown is not known before."""

MEMORY_BYTES_DEFAULT: Final = 4 * 1024**3
MEMORY_BYTES_MIN: Final = 512 * 1024**2
"""The least memory that a set is built in."""

_ROW_BYTES: Final = 1_500
"""Memory of a row while its part is put together: sides, features, and both again as Arrow."""
_EVENT_BYTES: Final = 500
"""Memory of an event while users' records are searched: its tags one by one, sorted."""
_READING_BYTES: Final = 300
"""Memory of an event while the log is read, labelled and resolved, before workers begin."""
_PART_ROWS_MAX: Final = 262_144
_FACTORS: Final = "factor_"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What the shelf holds, in numbers; `bounds` are rows at which parts begin and end."""

    tenant: str
    events: int
    rows: int
    questions: int
    bounds: tuple[int, ...]
    counts: dict[str, int]
    events_fingerprint: str
    slates_fingerprint: str


def build_training_set(
    events: Path | str,
    tenant: str,
    *,
    out: Path | str,
    slates: Path | str | None = None,
    spec: FeatureSpec | None = None,
    config: TrainingConfig | None = None,
    factors: FactorTable | None = None,
    memory_bytes: int = MEMORY_BYTES_DEFAULT,
    scheduler: str | None = None,
    cluster: ClusterConfig | None = None,
    progress: Progress = no_progress,
    clock: Callable[[], int] = wall_clock_us,
) -> StoredSet:
    """Make a training set of a tenant's exported impressions, one row each.

    Features are those of `spec` (unset: all but the position): as they were logged with the slate,
    or as of the request. `slates` is where `headwater slates export` wrote to; unset, slates beside
    the events are used if there are any. With `factors`, factor features are computed anew.
    `memory_bytes` is for all processes together; `scheduler` as for `train_tenant`.

    An export without impressions gives a set without rows. Raises `TrainingError`; the set that was
    there before is untouched then.
    """
    config = (config or TrainingConfig()).check()
    name = check_tenant_id(tenant)
    spec = spec or default_spec()
    if twice := set(LEFT_OUT) & set(spec.names):
        raise TrainingError(
            f"{min(twice)} is a column of every training set: leave it out of the feature spec"
        )
    cluster = replace(cluster or ClusterConfig(), worker_memory_bytes=memory_bytes)
    share = memory_bytes // (cluster.workers + 1)
    _check_memory(Path(events), name, memory_bytes)
    with new_set(Path(out).resolve(), name) as made:
        scratch = made.directory.with_name(f"{made.directory.name}-shelf")
        scratch.mkdir()
        shelf = Shelf(scratch)
        log = read_columns(events, name, progress)
        progress("labels", 0, None)
        served = served_places(slates, Path(events), log, spec, factors)
        prepared = _prepare(shelf, log, served, config, share, clock(), factors)
        del log, served
        with open_workers(scheduler, cluster) as workers:
            _compute_sides(workers, shelf, prepared, share, progress)
            written = _write_parts(workers, shelf, made, prepared, spec, progress)
        return made.commit(_manifest(prepared, written, spec, config))


def _check_memory(events: Path, tenant: str, memory_bytes: int) -> None:
    """Raises `TrainingError` where the log cannot be read within the memory that is given."""
    _, manifest = read_manifest(events, tenant)
    needed = max(MEMORY_BYTES_MIN, _READING_BYTES * sum(file.rows for file in manifest.files))
    if memory_bytes < needed:
        raise TrainingError(
            f"{memory_bytes} bytes of memory are too few to build a training set of this log: give "
            f"{-(-needed // 1024**2)} MiB at least"
        )


def default_spec() -> FeatureSpec:
    """Every feature but those that training leaves out."""
    return FeatureSpec(tuple(name for name in FEATURES if name not in LEFT_OUT))


def served_places(
    slates: Path | str | None,
    events: Path,
    log: EventColumns,
    spec: FeatureSpec,
    factors: FactorTable | None,
) -> ServedPlaces:
    """The places of logged slates; factor features are not taken from them where there are new."""
    if slates is None and not has_slates(events, log.tenant):
        return NO_SLATES(len(spec.names))
    places = read_slates(slates or events, log.tenant, spec, log.slates, log.activities)
    if factors is not None:
        again = [place for place, name in enumerate(spec.names) if name.startswith(_FACTORS)]
        places.logged[:, again] = False
    return places


def _prepare(
    shelf: Shelf,
    log: EventColumns,
    served: ServedPlaces,
    config: TrainingConfig,
    share: int,
    now_us: int,
    factors: FactorTable | None,
) -> _Prepared:
    """Label the impressions and put what workers need on the shelf."""
    made_us = np.zeros(len(log.slates), np.int64)
    made_us[served.slate] = served.time_us
    labelled = label_impressions(log, config.labels, now_us, made_us)
    rows, questions = rows_and_questions(log, labelled, served)
    case = resolve(log, questions, config.requests.table_rows)
    shelf.put("rows", rows)
    shelf.put("case", case)
    shelf.put("social", Social.of(log, case))
    shelf.put("served", served)
    shelf.put("factors", np.frombuffer(factors.pack() if factors else b"", np.uint8))
    for name in ("users", "activities", "slates"):
        shelf.put(name, getattr(log, name))
    return _Prepared(
        tenant=log.tenant,
        events=len(case.events.place),
        rows=len(rows.request),
        questions=len(questions),
        bounds=_bounds(rows.request, min(_PART_ROWS_MAX, max(1, share // _ROW_BYTES))),
        counts={"events": len(log), **labelled.counts},
        events_fingerprint=log.fingerprint,
        slates_fingerprint=served.fingerprint,
    )


def rows_and_questions(
    log: EventColumns, labelled: LabelledImpressions, served: ServedPlaces
) -> tuple[Rows, Questions]:
    """The rows of the set, and the questions whose answers their features are."""
    place, request = labelled.place, labelled.request
    activity, user = log.activity[place], log.user[place]
    slate = np.full(len(labelled.as_of), -1, np.int32)
    slate[request] = log.slate[place]
    found = served.find(log.slate[place], activity)
    known = found >= 0
    position = (
        np.where(known, served.position[found], log.position[place])
        if len(served)
        else (log.position[place])
    )
    propensity = np.full(len(place), np.nan)
    propensity[known] = served.propensity[found[known]]
    asking = np.ones(len(place), np.bool_)
    asking[known] = ~served.logged[found[known]].all(axis=1)
    ask = np.flatnonzero(asking)
    ask = ask[np.argsort(labelled.as_of[request[ask]], kind="stable")]
    question = np.full(len(place), -1, np.int64)
    question[ask] = np.arange(len(ask))
    rows = Rows(
        request=request,
        question=question,
        served=found,
        user=user,
        activity=activity,
        position=position.astype(np.int32),
        propensity=propensity,
        labels=np.stack(list(labelled.labels.values()), axis=1),
        slate=slate,
        time_us=labelled.request_time_us,
    )
    return rows, Questions(
        place=labelled.as_of[request[ask]],
        now_us=labelled.now_us[request[ask]],
        user=user[ask],
        activity=activity[ask],
    )


def _bounds(request: npt.NDArray[np.int64], rows_max: int) -> tuple[int, ...]:
    """Where parts begin and end: about `rows_max` rows each, no request in two."""
    bounds = [0]
    while bounds[-1] < len(request):
        end = bounds[-1] + rows_max
        if end < len(request):
            first = int(np.searchsorted(request, request[end]))
            end = (
                first
                if first > bounds[-1]
                else int(np.searchsorted(request, request[end], side="right"))
            )
        bounds.append(min(end, len(request)))
    return tuple(bounds)


def _compute_sides(
    workers: Workers, shelf: Shelf, prepared: _Prepared, share: int, progress: Progress
) -> None:
    if not prepared.questions:
        return
    parts = max(workers.places, -(-prepared.events * _EVENT_BYTES // share))
    _awaited(submit_sides(workers, shelf, parts), "features", progress)


def _write_parts(
    workers: Workers,
    shelf: Shelf,
    made: NewSet,
    prepared: _Prepared,
    spec: FeatureSpec,
    progress: Progress,
) -> list[WrittenPart]:
    ranges = zip(prepared.bounds, prepared.bounds[1:], strict=False)
    tasks = [
        workers.submit(written_part, shelf, made.part(number), begin, end, spec)
        for number, (begin, end) in enumerate(ranges)
    ]
    return _awaited(tasks, "write", progress)


def _awaited(tasks: Sequence[Task[T]], what: str, progress: Progress) -> list[T]:
    results = []
    for number, task in enumerate(tasks):
        progress(what, number, len(tasks))
        results.append(task.result())
    progress(what, len(tasks), len(tasks))
    return results


def _manifest(
    prepared: _Prepared, written: Sequence[WrittenPart], spec: FeatureSpec, config: TrainingConfig
) -> SetManifest:
    files = tuple(part.file for part in written if part.file is not None)
    counts = Counter(prepared.counts)
    for part in written:
        counts.update(part.counts)
    labels = asdict(config.labels)
    hashes = [file.sha256 for file in files]
    return SetManifest(
        tenant=prepared.tenant,
        spec=spec.to_json().decode(),
        labels=labels,
        rows=sum(file.rows for file in files),
        requests=sum(file.requests for file in files),
        users=len(frozenset().union(*(part.users for part in written))),
        fingerprint=fingerprint_of(
            [prepared.tenant, spec.fingerprint, repr(sorted(labels.items())), *hashes]
        ),
        events_fingerprint=prepared.events_fingerprint,
        slates_fingerprint=prepared.slates_fingerprint,
        code_version=code_version(),
        counts=dict(sorted(counts.items())),
        files=files,
    )
