"""The community that the benchmarks of ranked reads run on, and the model that ranks it.

Seeded: one user follows topics in which a few hundred authors posted, many users engaged. The model
has the 30 features and 100 trees of the goal; what it learnt is noise, which costs as much to
compute as knowledge.
"""

import random
import time
from collections.abc import Sequence
from typing import Final

import numpy as np
from xgboost import Booster, DMatrix, train

from feeds.engine import FeedEngine
from feeds.events import ENGAGEMENT_KINDS, Engagement, Impression
from feeds.model import ActivityDraft, ActivityId, FeedId, TenantId, UserId, position_of
from ranking.candidates import Query
from ranking.config import RankingConfig
from ranking.features import FEATURES, Factors, FeatureSpec, build
from ranking.pipeline import build_sources
from ranking.scorers.factorization import Embeddings, FactorTable
from ranking.sources import propose
from ranking.table import ActivityTable

__all__ = [
    "NOW_US",
    "PAGE",
    "READER",
    "TENANT",
    "TREES",
    "factors_of",
    "feature_spec",
    "matrix",
    "populate",
    "trees",
    "user_side",
]

TENANT: Final = TenantId("bench")
READER: Final = UserId("reader")
NOW_US: Final = 1_700_000_000_000_000
FEATURE_COUNT: Final = 30
TREES: Final = 100
DEPTH: Final = 6
PAGE: Final = 25
DIMENSIONS: Final = 32
SEED: Final = 1

_AUTHORS = 150
_TOPICS = 12
_FOLLOWED = 8
_TAGS = 40
_EVENTS_PER_ACTIVITY = 15
_EVENTS_MAX = 30_000
_STEP_US = 60_000_000
_BATCH = 500


def user_side(engine: FeedEngine) -> tuple[Query, float]:
    """The reader's request, and the time of reading the user's side, microseconds."""
    started = time.perf_counter_ns()
    record = engine.user_record(TENANT, READER)
    follows = engine.follows(TENANT, FeedId("timeline", READER))
    user_us = (time.perf_counter_ns() - started) / 1e3
    query = Query(
        tenant=TENANT,
        user=READER,
        kind="personalized",
        now_us=NOW_US,
        limit=PAGE,
        request_id="bench",
        seed=SEED,
        record=record,
        follows=follows,
    )
    return query, user_us


def matrix(
    config: RankingConfig,
    query: Query,
    table: ActivityTable,
    factors: Factors | None,
    candidates_max: int,
) -> np.ndarray:
    """The feature matrix of the request."""
    sources = build_sources(config, "personalized")
    candidates = propose(sources, query, table, candidates_max)
    return build(feature_spec(), query, candidates, table, factors).values


def feature_spec() -> FeatureSpec:
    """30 features: the factors', and the first of the registry."""
    factors = [name for name, feature in FEATURES.items() if feature.family == "factors"]
    others = [name for name in FEATURES if name not in factors]
    return FeatureSpec(names=(*others[: FEATURE_COUNT - len(factors)], *factors))


def trees(spec: FeatureSpec) -> Booster:
    """The trees, scoring on one thread."""
    draws = np.random.default_rng(SEED)
    values = draws.normal(size=(4_000, len(spec.names))).astype(np.float32)
    labels = (draws.random(4_000) + values[:, 0] > 1).astype(np.float32)
    sample = DMatrix(values, labels, feature_names=list(spec.names))
    parameters = {"max_depth": DEPTH, "nthread": 1, "seed": SEED, "objective": "binary:logistic"}
    booster = train(parameters, sample, num_boost_round=TREES)
    booster.set_param({"nthread": 1})
    return booster


def factors_of(posted: Sequence[ActivityId]) -> FactorTable:
    """Vectors of the reader, of what was posted and of the tags."""
    draws = np.random.default_rng(SEED)

    def vectors(count: int) -> tuple[np.ndarray, np.ndarray]:
        factors = draws.normal(size=(count, DIMENSIONS)).astype(np.float32)
        return factors, draws.normal(size=count).astype(np.float32)

    tags = [f"tag{number}" for number in range(_TAGS)]
    return FactorTable(
        Embeddings([str(READER)], *vectors(1)),
        Embeddings([bytes(position_of(one)) for one in posted], *vectors(len(posted))),
        Embeddings(tags, *vectors(len(tags))),
    )


def populate(engine: FeedEngine, activities: int) -> list[ActivityId]:
    """Follows, then posts by many authors into topics, then what users did with them."""
    draws = random.Random(SEED)  # noqa: S311 - a community that can be made again
    engine.create_tenant(TENANT).result()
    home = FeedId("timeline", READER)
    for number in range(_FOLLOWED):
        engine.follow(TENANT, home, FeedId("topic", f"t{number}")).result()
    start = NOW_US - (activities + 1) * _STEP_US
    posts = [
        engine.post(TENANT, FeedId("user", f"a{number % _AUTHORS}"), _draft(number, start, draws))
        for number in range(activities)
    ]
    posted = [post.result().activity.id for post in posts]
    events_count = min(activities * _EVENTS_PER_ACTIVITY, _EVENTS_MAX)
    for first in range(0, events_count, _BATCH):
        events = [_event(number, posted, draws) for number in range(first, first + _BATCH)]
        engine.record(TENANT, events).result()
    return posted


def _draft(number: int, start_us: int, draws: random.Random) -> ActivityDraft:
    return ActivityDraft(
        actor=f"user:a{number % _AUTHORS}",
        verb="post",
        object=f"note:{number}",
        time_us=start_us + number * _STEP_US,
        to=(f"topic:t{number % _TOPICS}",),
        custom={
            "text": "x" * draws.randrange(40, 400),
            "tags": [f"tag{draws.randrange(_TAGS)}" for _ in range(3)],
        },
    )


def _event(
    number: int, posted: Sequence[ActivityId], draws: random.Random
) -> Impression | Engagement:
    """Of the reader one in forty, with the oldest tenth: what was engaged with is filtered out."""
    own = number % 40 == 0
    user = READER if own else UserId(f"u{draws.randrange(300)}")
    activity = draws.choice(posted[: len(posted) // 10] if own else posted)
    time_us = NOW_US - draws.randrange(_STEP_US)
    if number % 4:
        return Impression(time_us=time_us, user=user, activity_id=activity)
    kind = draws.choice(ENGAGEMENT_KINDS[:3])
    return Engagement(time_us=time_us, user=user, activity_id=activity, kind=kind)
