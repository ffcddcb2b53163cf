"""P3: a Stack Exchange replay, first touch of a thread, against newest first.

The protocol of the data's README: candidates are the threads active in the last 14 days that the
user has not touched, users have 3 earlier threads at least, and the last 40 % of the time judges.
What is tried are a formula of recency and tags, as a tenant could write it, and boosted trees;
validation, the 15 % before, chooses one of all.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ranking.features import FeatureSpec
from ranking.scorers.base import Scorer
from ranking.scorers.expression import ExpressionScorer
from training.config import BoostedConfig, BoostedVariant, EvaluationConfig, RequestConfig
from training.errors import SourceError
from training.evaluation.rankings import (
    CHRONOLOGICAL,
    LATEST_ACTIVITY,
    POPULAR,
    RANDOM,
    Scores,
    baseline_scores,
    judge,
    mean_ndcg,
)
from training.protocols.base import Check, Figure, ProtocolOptions, ProtocolReport
from training.sets.dataset import TrainingSet, collect
from training.sets.replay import replay
from training.sets.requests import find_requests
from training.sources import read_source
from training.sources.base import Progress
from training.steps import FEATURE_NAMES
from training.testing import events_of, log_of
from training.trainers.boosted import BoostedTrainer
from training.trainers.rows import Examples

__all__ = ["TITLE", "run"]

TITLE = "Stack Exchange replay, first touch of a thread"

DATASET = "stackexchange-quantumcomputing"
K = 10
REQUESTS = RequestConfig(touches_max=1, active_days=14)
EARLIER_TOUCHES_MIN = 3
SHARES = {"ranker": (0.10, 0.45), "validation": (0.45, 0.60), "test": (0.60, 1.01)}
"""From where to where, as shares of the time, the requests of a part lie."""

POPULAR_COLUMN = "engagements_total"
PUBLISHED = {RANDOM: 0.070, CHRONOLOGICAL: 0.621, LATEST_ACTIVITY: 0.573, POPULAR: 0.038}
"""NDCG@10 by the data's README."""

VARIANTS = (
    BoostedVariant("boosted-3", 3),
    BoostedVariant("boosted-recency", 3, ("recency",)),
    BoostedVariant("boosted-recency-affinity", 3, ("recency", "affinity")),
    BoostedVariant("boosted-recency-social", 3, ("recency", "social")),
)
BLENDS = tuple(itertools.product((0.0, 0.2, 0.4, 0.6, 0.8), (0.0, 0.25, 0.5)))
"""Of each formula that is tried: the weight of the last activity, and that of the tags."""

CONVENTIONS = (
    (
        "A request stands just before a user's first touch of a thread; candidates are threads "
        "active in the last 14 days that the user has not touched, users have 3 earlier threads."
    ),
    (
        "NDCG@10, the mean over requests that have the thread among their candidates; the others "
        "count against reach. Intervals are 95 %, from a bootstrap of users with all their "
        "requests; differences are paired."
    ),
    (
        "Trees learn from 10 to 45 % of the time, validation is 45 to 60 %, the test part the "
        "last 40 %. Validation chooses; the formula and the families of features were written "
        "down with earlier figures of this data in view."
    ),
)


@dataclass(frozen=True, slots=True)
class _Tried:
    """A configuration that was tried: how it did on validation, and what it is."""

    family: str
    described: str
    scorer: Scorer
    validated: float


def run(options: ProtocolOptions, progress: Progress) -> ProtocolReport:
    """Choose a ranking on validation, and judge it beside the baselines of the README."""
    sets = _sets(options, progress)
    tried = _tried(sets, options, progress)
    best = {
        family: max((t for t in tried if t.family == family), key=lambda t: t.validated)
        for family in ("formula", "boosted")
    }
    chosen = max(best.values(), key=lambda t: t.validated)
    progress("judging", len(tried), len(tried))
    test = sets["test"]
    rankings = baseline_scores(test, POPULAR_COLUMN, options.seed)
    rankings |= {family: _scores(one.scorer, test) for family, one in best.items()}
    config = EvaluationConfig(k=K, draws=options.draws)
    results = {r.name: r for r in judge(test, rankings, config, options.seed)}
    verdicts = {
        family: next(c for c in results[family].comparisons if c.baseline == CHRONOLOGICAL)
        for family in best
    }
    to_newest = verdicts[chosen.family]
    figures = tuple(
        Figure(
            name=f"{name} (chosen)" if name == chosen.family else name,
            value=result.ndcg,
            interval=result.interval,
            published=PUBLISHED.get(name),
            chosen=_description(best.get(name)),
        )
        for name, result in results.items()
    )
    return ProtocolReport(
        protocol="p3",
        title=TITLE,
        unit="NDCG@10",
        figures=figures,
        verdicts=tuple(c.sentence for c in verdicts.values()),
        checks=(
            Check(
                to_newest.verdict != "worse",
                f"{chosen.family}, chosen on validation, is not worse than newest first",
            ),
            Check(
                to_newest.verdict == "better",
                f"{chosen.family}, chosen on validation, is better than newest first: "
                f"{to_newest.difference:+.4f} "
                "[{:+.4f}, {:+.4f}]".format(*to_newest.interval),
            ),
        ),
        conventions=CONVENTIONS,
        counts={
            "test requests": len(test),
            "reach": round(test.reach, 3),
            "median candidates": float(np.median(test.sizes)),
            "ranker requests": len(sets["ranker"]),
            "validation requests": len(sets["validation"]),
            "configurations": len(tried),
        },
    )


def _description(tried: _Tried | None) -> str:
    return "" if tried is None else f"{tried.described} with {tried.validated:.4f}"


def _sets(options: ProtocolOptions, progress: Progress) -> Mapping[str, TrainingSet]:
    """The requests of each part, all made in one pass over the log."""
    path = options.data / DATASET
    if not path.is_dir():
        raise SourceError(
            f"{path} is not here: give --data the directory that holds {DATASET}, or set "
            "HEADWATER_DATA"
        )
    progress("reading the dump", 0, None)
    actions, _ = read_source("stackexchange", path, options.cache)
    log = log_of(events_of(actions))
    first_us, last_us = log.events[0].time_us, log.events[-1].time_us
    bounds = {
        name: tuple(first_us + int(share * (last_us - first_us)) for share in shares)
        for name, shares in SHARES.items()
    }
    wanted = [
        request
        for request in find_requests(log.events, REQUESTS)
        if request.earlier_touches >= EARLIER_TOUCHES_MIN or request.time_us < bounds["test"][0]
    ]
    found = []
    for number, answer in enumerate(replay(log, wanted, FeatureSpec(FEATURE_NAMES), REQUESTS)):
        progress("replaying the log", number, len(wanted))
        found.append(answer)
    return {
        name: collect(
            [a for a in found if start <= a.request.time_us < end],
            FEATURE_NAMES,
            teaching=name == "ranker",
        )
        for name, (start, end) in bounds.items()
    }


def _tried(
    sets: Mapping[str, TrainingSet], options: ProtocolOptions, progress: Progress
) -> list[_Tried]:
    """Every configuration, with how it did on validation."""
    blends = BLENDS[:2] if options.short else BLENDS
    variants = VARIANTS[1:2] if options.short else VARIANTS
    validation = sets["validation"]
    found = []

    def add(family: str, described: str, scorer: Scorer) -> None:
        validated = mean_ndcg(validation, _scores(scorer, validation), K)
        found.append(_Tried(family, described, scorer, validated))
        progress(f"trying {described}", len(found), len(blends) + len(variants))

    for activity, tags in blends:
        score = (
            f"{tags} * tag_overlap - {1 - activity:.1f} * ln(1 + age_h) "
            f"- {activity:.1f} * ln(1 + hours_since_active)"
        )
        document = {"score": score, "defaults": {"tag_overlap": 0}}
        add("formula", score, ExpressionScorer.of(document))
    examples = [Examples.of(sets[name]) for name in ("ranker", "validation")]
    for variant in variants:
        trainer = BoostedTrainer(variant, BoostedConfig(), K)
        add("boosted", variant.name, trainer.fit(*examples, seed=options.seed).scorer)
    return found


def _scores(scorer: Scorer, data: TrainingSet) -> Scores:
    return scorer.score(data.columns(scorer.spec.names))
