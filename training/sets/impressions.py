"""Requests that were really shown, as a training set in memory: what the ranker learns from.

The rows are impressions, their labels those of windows that had closed by the end of the part, and
their features those that were logged with the slate, or as of the request. No look at what came
after: the log is cut where the part ends.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from feeds.events import ENGAGEMENT_KINDS, Posted
from feeds.model import ActivityId, UserId, position_of
from ranking.features import FeatureSpec
from ranking.scorers.factorization import FactorTable
from training.asof.answers import features_as_of
from training.asof.case import Questions
from training.config import TrainingConfig
from training.events.columns import EventColumns, columns_of
from training.events.log import EventLog
from training.sets.building import rows_and_questions, served_places
from training.sets.dataset import TrainingSet
from training.sets.labels import LabelledImpressions, label_impressions
from training.sets.requests import Request
from training.sets.tasks import Rows
from training.slates.served import ServedPlaces

__all__ = ["only_shown", "shown_requests", "slate_requests", "without_places"]

Ints = npt.NDArray[np.int64]


def shown_requests(
    log: EventLog,
    export: Path,
    since_us: int,
    until_us: int,
    spec: FeatureSpec,
    config: TrainingConfig,
    factors: FactorTable | None = None,
    *,
    comparing: bool = True,
) -> TrainingSet | None:
    """The requests with impressions in a part of the log that teach something, in time order.

    Where what was shown is to be compared, those are requests of which something was engaged with
    and something was not; else all of them, for probabilities. At most `train_requests_max`, a
    seeded choice. None where there are fewer than `shown_requests_min`: that is no log of what was
    shown.
    """
    found = _labelled(log, export, until_us, spec, config, factors)
    if found is None:
        return None
    columns, served, labelled = found
    rows, questions = rows_and_questions(columns, labelled, served)
    relevance = _relevance(rows, config)
    kept = _teaching(rows, relevance, since_us, config, comparing)
    if kept is None:
        return None
    values, known = _values(columns, rows, questions, kept, spec, config, factors)
    logged, place = served.logged, rows.served[kept]
    of_slate = np.flatnonzero(place >= 0)
    values[of_slate] = np.where(
        logged[place[of_slate]], served.features[place[of_slate]], values[of_slate]
    )
    return _set(log, columns, rows, kept[known], values[known], relevance, spec)


def slate_requests(
    log: EventLog,
    export: Path,
    since_us: int,
    until_us: int,
    spec: FeatureSpec,
    config: TrainingConfig,
    requests_max: int,
) -> list[Request]:
    """The requests of a part that were answered, with the places of what was shown, in log order.

    Labels are those of windows that had closed by the end of the part; also those are there of
    which nothing was engaged with. At most `requests_max`, a seeded choice; none where there are
    fewer than `shown_requests_min`.
    """
    found = _labelled(log, export, until_us, spec, config)
    if found is None:
        return []
    columns, served, labelled = found
    rows, _ = rows_and_questions(columns, labelled, served)
    asked = np.flatnonzero(rows.time_us >= since_us)
    if len(asked) < config.requests.shown_requests_min:
        return []
    random = np.random.default_rng(config.seed)
    chosen = random.permutation(asked)[:requests_max]
    begin, end = (np.searchsorted(rows.request, chosen, side=side) for side in ("left", "right"))
    relevance = _relevance(rows, config)
    requests = []
    for number, first, last in zip(chosen.tolist(), begin.tolist(), end.tolist(), strict=True):
        ids = [ActivityId(columns.activities[row]) for row in rows.activity[first:last].tolist()]
        told = zip(ids, relevance[first:last].tolist(), strict=True)
        requests.append(
            Request(
                user=UserId(columns.users[rows.user[first]]),
                time_us=int(labelled.now_us[number]) + 1,
                place=int(labelled.as_of[number]),
                earlier_touches=0,
                labels={activity: label for activity, label in told if label},
                shown=dict(zip(ids, rows.position[first:last].tolist(), strict=True)),
            )
        )
    return sorted(requests, key=lambda request: request.place)


def _labelled(
    log: EventLog,
    export: Path,
    until_us: int,
    spec: FeatureSpec,
    config: TrainingConfig,
    factors: FactorTable | None = None,
) -> tuple[EventColumns, ServedPlaces, LabelledImpressions] | None:
    """The log up to the end of a part, its slates, and what came of the impressions by then."""
    end = next((i for i, event in enumerate(log.events) if event.time_us >= until_us), len(log))
    columns = columns_of(EventLog(log.tenant, log.indexes[:end], log.events[:end]))
    if not columns.is_impression.any():
        return None
    served = served_places(None, export, columns, spec, factors)
    made_us = np.zeros(len(columns.slates), np.int64)
    made_us[served.slate] = served.time_us
    return columns, served, label_impressions(columns, config.labels, until_us, made_us)


def _relevance(rows: Rows, config: TrainingConfig) -> npt.NDArray[np.int8]:
    """int8[r]: the highest relevance of any kind that the row was engaged with."""
    weights = np.array([config.requests.labels.get(kind, 0) for kind in ENGAGEMENT_KINDS], np.int8)
    found: npt.NDArray[np.int8] = ((rows.labels == 1) * weights).max(axis=1, initial=0)
    return found


def _teaching(
    rows: Rows,
    relevance: npt.NDArray[np.int8],
    since_us: int,
    config: TrainingConfig,
    comparing: bool,
) -> Ints | None:
    """The rows of requests that teach, in order; None where those are too few."""
    if not len(rows.request):
        return None
    requests = len(rows.time_us)
    sizes = np.bincount(rows.request, minlength=requests)
    engaged = np.bincount(rows.request, relevance > 0, minlength=requests)
    comparable = (engaged > 0) & (engaged < sizes)
    teach = np.flatnonzero(
        (comparable | (not comparing)) & (sizes > 0) & (rows.time_us >= since_us)
    )
    if len(teach) < config.requests.shown_requests_min:
        return None
    random = np.random.default_rng(config.seed)
    chosen = random.permutation(teach)[: config.requests.train_requests_max]
    return np.flatnonzero(np.isin(rows.request, chosen))


def _values(
    columns: EventColumns,
    rows: Rows,
    questions: Questions,
    kept: Ints,
    spec: FeatureSpec,
    config: TrainingConfig,
    factors: FactorTable | None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """float32[kept, names] as of each request, and which rows have features at all."""
    question = rows.question[kept]
    asked = np.sort(question[question >= 0])
    some = Questions(*(getattr(questions, name)[asked] for name in Questions.__slots__))
    answered, features = features_as_of(columns, some, spec, config.requests.table_rows, factors)
    answer_of = np.full(len(questions) + 1, -1, np.int64)
    answer_of[asked[answered]] = np.arange(len(answered))
    answer = answer_of[question]
    values = np.full((len(kept), len(spec.names)), np.nan, np.float32)
    values[answer >= 0] = features.values[answer[answer >= 0]]
    return values, (question < 0) | (answer >= 0)


def _set(
    log: EventLog,
    columns: EventColumns,
    rows: Rows,
    kept: Ints,
    values: npt.NDArray[np.float32],
    relevance: npt.NDArray[np.int8],
    spec: FeatureSpec,
) -> TrainingSet:
    """The rows as a set, those of a request in the order of positions in feeds."""
    ids = [columns.activities[number] for number in rows.activity[kept].tolist()]
    places = np.array([position_of(each) for each in ids], "S16")
    order = np.lexsort((places, rows.request[kept]))
    kept, values = kept[order], values[order]
    posted = {
        event.activity_id: index
        for index, event in zip(log.indexes, log.events, strict=True)
        if isinstance(event, Posted)
    }
    requests, first, sizes = np.unique(rows.request[kept], return_index=True, return_counts=True)
    labels = relevance[kept]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    positive = np.concatenate([[0], np.cumsum(labels > 0)])
    return TrainingSet(
        names=spec.names,
        values=np.ascontiguousarray(values),
        labels=labels,
        activities=np.array([posted.get(ids[row], -1) for row in order.tolist()], np.int64),
        sizes=sizes.astype(np.int64),
        wanted=np.diff(positive[starts]).astype(np.int64),
        times_us=rows.time_us[requests],
        users=tuple(columns.users[number] for number in rows.user[kept[first]].tolist()),
        positions=rows.position[kept],
        engaged=rows.labels[kept],
    )


def only_shown(data: TrainingSet) -> TrainingSet:
    """The requests that teach something, without the candidates that were not shown.

    Teaching are those of which something was engaged with and something was not.
    """
    positions = data.positions
    if positions is None:
        raise ValueError("a set without places does not say what was shown")
    request, shown = data.request_of_row, positions >= 0
    sizes = np.bincount(request[shown], minlength=len(data))
    engaged = np.bincount(request[shown & (data.labels > 0)], minlength=len(data))
    teach = np.flatnonzero((engaged > 0) & (engaged < sizes))
    rows = np.flatnonzero(shown & np.isin(request, teach))
    return TrainingSet(
        names=data.names,
        values=np.ascontiguousarray(data.matrix.values[rows]),
        labels=data.labels[rows],
        activities=data.activities[rows],
        sizes=sizes[teach].astype(np.int64),
        wanted=engaged[teach].astype(np.int64),
        times_us=data.times_us[teach],
        users=tuple(data.users[number] for number in teach.tolist()),
        positions=positions[rows],
    )


def without_places(data: TrainingSet) -> TrainingSet:
    """The set with places that are not known: candidates that nobody was shown."""
    return replace(data, positions=np.full(len(data.labels), -1, np.int32))
