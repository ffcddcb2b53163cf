"""`headwater bench point_in_time`: features as of every impression, beside the replay of reducers.

A seeded log of about as many events as can be worked off in the time. The replay takes every event
singly and asks at each request, as training did before; it goes through the beginning of the log.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from feeds.model import TenantId, UserId, position_of
from ranking.candidates import Candidates
from ranking.features import FeatureSpec, build
from training.asof.answers import features_as_of
from training.asof.case import Questions
from training.cluster import open_workers
from training.config import ClusterConfig, TrainingConfig
from training.events.columns import EventColumns, read_columns
from training.events.log import EventLog, read_event_log
from training.events.synthetic import SyntheticLog, write_synthetic_log
from training.sets.building import build_training_set, default_spec, rows_and_questions
from training.sets.labels import label_impressions
from training.sets.replay import ReplayState
from training.sets.shelf import Shelf
from training.sets.spread import features_on_workers
from training.slates.served import NO_SLATES

__all__ = ["GOAL_PER_S", "point_in_time"]

GOAL_PER_S: Final = 100_000
"""Events a second on `CORES` cores."""

CORES: Final = 2
"""Processes of the run that is held to the goal."""

_TENANT: Final = "bench"
_EVENTS_MIN: Final = 5_000
_USERS_PER_EVENT: Final = 0.01
_NOW_US: Final = 1_900_000_000_000_000
_ROWS: Final = 100_000

Told = tuple[str, float] | Mapping[str, str | float]
"""(what is done next, share that is done), or a figure."""


@dataclass(frozen=True, slots=True)
class _Measured:
    per_s: float
    events: int


def point_in_time(work: Path, seconds: float) -> Iterator[Told]:
    """Features of every impression of a log: in this process, then from export to training set."""
    events = max(_EVENTS_MIN, int(seconds * GOAL_PER_S / 4))
    size = SyntheticLog(events, max(20, int(events * _USERS_PER_EVENT)))
    yield "write a log", 0.0
    export = write_synthetic_log(size, work / "export", _TENANT)
    yield "read it", 0.2
    columns = read_columns(export, _TENANT)
    config = TrainingConfig()
    spec = default_spec()
    labelled = label_impressions(columns, config.labels, _NOW_US)
    _, questions = rows_and_questions(columns, labelled, NO_SLATES(len(spec.names)))
    yield "features, all at once", 0.3
    ours = _at_once(columns, questions, spec)
    yield "features, on two workers", 0.4
    spread = _on_workers(columns, questions, spec, work / "shelf")
    yield "features, event by event", 0.5
    theirs = _one_by_one(read_event_log(export, _TENANT), columns, questions, spec, seconds / 2)
    reference = "the reducers, event by event, asked at each request"
    yield {
        "what": "events a second, features of every impression, one core",
        "per_s": ours.per_s,
        "reference": reference,
        "reference_per_s": theirs.per_s,
        "events": ours.events,
        "questions": len(questions),
    }
    yield {
        "what": f"events a second, features of every impression, {CORES} cores",
        "per_s": spread.per_s,
        "reference": "the same on one core, in the same run",
        "reference_per_s": ours.per_s,
        "goal": f"{GOAL_PER_S:,}/s",
        "events": spread.events,
        "questions": len(questions),
    }
    yield "export to training set", 0.7
    began = time.perf_counter()
    made = build_training_set(export, _TENANT, out=work / "sets", clock=lambda: _NOW_US)
    yield {
        "what": "events a second, from export to training set, workers and all",
        "per_s": len(columns) / (time.perf_counter() - began),
        "reference": reference,
        "reference_per_s": theirs.per_s,
        "rows": len(made),
    }


def _at_once(columns: EventColumns, questions: Questions, spec: FeatureSpec) -> _Measured:
    began = time.perf_counter()
    features_as_of(columns, questions, spec, _ROWS)
    return _Measured(len(columns) / (time.perf_counter() - began), len(columns))


def _on_workers(
    columns: EventColumns, questions: Questions, spec: FeatureSpec, directory: Path
) -> _Measured:
    """On processes of a local cluster, which has started and has imported what it needs."""
    directory.mkdir()
    with open_workers(None, ClusterConfig(workers=CORES)) as workers:
        for ready in [workers.submit(_imported, place) for place in range(CORES)]:
            ready.result()
        began = time.perf_counter()
        features_on_workers(workers, Shelf(directory), columns, questions, spec, _ROWS)
        return _Measured(len(columns) / (time.perf_counter() - began), len(columns))


def _imported(place: int) -> int:
    """Nothing but that a worker has this module."""
    return place


def _one_by_one(
    log: EventLog,
    columns: EventColumns,
    questions: Questions,
    spec: FeatureSpec,
    seconds: float,
) -> _Measured:
    """Replay the log, asking each request for its candidates at once, until the time is over."""
    state, taken = ReplayState(TenantId(log.tenant), _ROWS), 0
    began = time.perf_counter()
    for rows in _requests(questions):
        place = int(questions.place[rows[0]])
        for index, event in zip(log.indexes[taken:place], log.events[taken:place], strict=True):
            state.apply(index, event)
        taken = place
        positions = [
            position_of(columns.activities[activity]) for activity in questions.activity[rows]
        ]
        found = state.table.rows(positions)
        candidates = Candidates(found, np.zeros(len(found), np.int8), ("asked",))
        user = UserId(columns.users[int(questions.user[rows[0]])])
        query = state.query(user, int(questions.now_us[rows[0]]))
        build(spec, query, candidates, state.table)
        if time.perf_counter() - began > seconds:
            break
    return _Measured(max(taken, 1) / (time.perf_counter() - began), taken)


def _requests(questions: Questions) -> Iterator[npt.NDArray[np.intp]]:
    """The rows of each request: those of one place and user."""
    if not len(questions):
        return
    changes = (np.diff(questions.place) != 0) | (np.diff(questions.user) != 0)
    cuts = np.flatnonzero(changes) + 1
    yield from np.split(np.arange(len(questions)), cuts)
