"""How long a ranking takes: the stages of `Ranker.rank` on a made-up tenant of fixed seed.

Nothing here is real input: the figures are about time alone.
"""

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from feeds.counters import HOUR_US, UserRecord
from feeds.events import ENGAGEMENT_KINDS, Engagement, Impression, Posted
from feeds.model import (
    ActivityId,
    FeedId,
    Follow,
    TenantId,
    UserId,
    activity_id,
    position_of,
)
from ranking.candidates import Candidates, Query
from ranking.config import RankingConfig
from ranking.features import FEATURES, FeatureSpec, build
from ranking.pipeline import build_ranker
from ranking.scorers.base import Scorer
from ranking.scorers.popularity import PopularityScorer
from ranking.table import ActivityTable

__all__ = ["Percentiles", "RankBench", "rank_bench"]

_START_US: Final = 1_520_812_800_000_000
_ME: Final = UserId("reader-0")
_OWN_EVENTS: Final = 60
_WARM_UP: Final = 20


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Time of one stage over all rounds, microseconds."""

    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class RankBench:
    """Times of a ranking: by stage, and `total` from candidates to slate.

    `scorer` is `boosted` with `trees` trees, or `popularity` (0 trees) where XGBoost is not
    installed. `apply_us` is the mean time the table took for an impression or engagement.
    """

    rounds: int
    candidates: int
    features: int
    activities: int
    scorer: str
    trees: int
    apply_us: float
    stages: Mapping[str, Percentiles]


def rank_bench(
    rounds: int = 300,
    candidates: int = 500,
    *,
    activities: int = 20_000,
    features: int = 30,
    trees: int = 100,
    seed: int = 1,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> RankBench:
    """Rank `candidates` of `activities` for one well-known user, `rounds` times.

    The table holds `activities` with two events each; the user follows 100 feeds and has 60
    events. The features are the first `features` of the registry. `clock_ns` is monotonic.
    """
    posts = list(_posts(activities, seed))
    table = ActivityTable()
    for index, post in enumerate(posts, start=1):
        table.apply(index, post)
    events = list(_events(posts, 2 * activities, seed))
    began_ns = clock_ns()
    for index, event in enumerate(events, start=len(posts) + 1):
        table.apply(index, event)
    apply_us = (clock_ns() - began_ns) / 1000 / max(1, len(events))

    asked = _query(posts, events)
    chosen = _candidates(table, candidates, seed)
    spec = FeatureSpec(tuple(FEATURES)[:features])
    scorer, grown = _scorer(spec, build(spec, asked, chosen, table).values, trees, seed)
    ranker = build_ranker(RankingConfig.default(), "personalized", scorer)
    times: dict[str, list[float]] = {}
    for turn in range(_WARM_UP + rounds):
        began_ns = clock_ns()
        slate = ranker.rank(asked, chosen, table)
        total_us = (clock_ns() - began_ns) / 1000
        if turn >= _WARM_UP:
            for stage, time_us in (*slate.timings_us.items(), ("total", total_us)):
                times.setdefault(stage, []).append(time_us)
    return RankBench(
        rounds=rounds,
        candidates=len(chosen),
        features=len(spec.names),
        activities=len(table),
        scorer=scorer.name,
        trees=grown,
        apply_us=round(apply_us, 1),
        stages={
            stage: Percentiles(*np.round(np.percentile(all_us, [50, 99]), 1).tolist())
            for stage, all_us in times.items()
        },
    )


def _posts(count: int, seed: int) -> Iterator[Posted]:
    """Activities a minute apart: 3 tags, 2 feeds, an author in ten of them."""
    draws = np.random.default_rng(seed)
    tags = draws.integers(0, 500, (count, 3)).tolist()
    authors = draws.integers(0, max(1, count // 10), count).tolist()
    for number in range(count):
        time_us = _START_US + number * 60_000_000
        author = f"user:author-{authors[number]}"
        yield Posted(
            time_us=time_us,
            activity_id=activity_id(time_us, str(number).encode()),
            actor=author,
            verb="post",
            object=str(number),
            feed=author,
            to=(f"topic:{number % 50}",),
            tags=tuple(f"tag-{tag}" for tag in tags[number]),
            length=200 + number % 700,
        )


def _events(posts: list[Posted], count: int, seed: int) -> Iterator[Impression | Engagement]:
    """Impressions and engagements by turns, a few seconds apart; 60 of the user's own first."""
    draws = np.random.default_rng(seed + 1)
    which = draws.integers(0, max(1, len(posts)), count).tolist()
    readers = draws.integers(1, 5_000, count).tolist()
    begin_us = posts[-1].time_us if posts else _START_US
    for number in range(count if posts else 0):
        time_us = begin_us + number * 5_000_000
        user = _ME if number < _OWN_EVENTS else UserId(f"reader-{readers[number]}")
        shown: ActivityId = posts[which[number]].activity_id
        if number % 2:
            kind = ENGAGEMENT_KINDS[number % 5]
            yield Engagement(time_us=time_us, user=user, activity_id=shown, kind=kind)
        else:
            yield Impression(time_us=time_us, user=user, activity_id=shown)


def _query(posts: list[Posted], events: list[Impression | Engagement]) -> Query:
    by_id = {post.activity_id: post for post in posts}
    record = UserRecord.empty()
    for event in events:
        if event.user == _ME:
            post = by_id[event.activity_id]
            record.add(event, position_of(post.activity_id), post.actor, post.tags)
    home = FeedId("timeline", _ME)
    targets = [FeedId("user", f"author-{number}") for number in range(90)]
    targets += [FeedId("topic", str(number)) for number in range(10)]
    return Query(
        tenant=TenantId("bench"),
        user=_ME,
        kind="personalized",
        now_us=(events[-1].time_us if events else _START_US) + HOUR_US,
        limit=25,
        request_id="bench",
        seed=1,
        record=record,
        follows={str(target): Follow(home, target, _START_US, 1, _START_US) for target in targets},
    )


def _candidates(table: ActivityTable, count: int, seed: int) -> Candidates:
    rows = table.alive_rows()
    draws = np.random.default_rng(seed + 2)
    chosen = rows[draws.choice(len(rows), min(count, len(rows)), replace=False)]
    return Candidates(chosen, np.zeros(len(chosen), dtype=np.int8), ("bench",))


def _scorer(
    spec: FeatureSpec, values: npt.NDArray[np.float32], trees: int, seed: int
) -> tuple[Scorer, int]:
    """Trees grown on noise around the features: as deep as real ones, and as slow."""
    if importlib.util.find_spec("xgboost") is None:
        return PopularityScorer(spec), 0
    import xgboost  # noqa: PLC0415 - half a second, for this measurement alone

    from ranking.scorers.boosted import BoostedScorer  # noqa: PLC0415 - it imports xgboost

    draws = np.random.default_rng(seed + 3)
    sample = np.repeat(values, 20, axis=0) * draws.lognormal(
        0, 0.3, (20 * len(values), values.shape[1])
    ).astype(np.float32)
    labels = np.nan_to_num(sample).argsort(axis=0)[:, :3].mean(axis=1) / len(sample)
    matrix = xgboost.DMatrix(sample, labels + draws.normal(0, 0.1, len(sample)), nthread=1)
    parameters = {"max_depth": 6, "nthread": 1, "seed": seed, "tree_method": "hist"}
    booster = xgboost.train(parameters, matrix, trees)
    return BoostedScorer(spec, bytes(booster.save_raw("ubj"))), trees
