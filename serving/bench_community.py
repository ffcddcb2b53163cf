"""The community that the benchmarks of ranked reads run on, and the model that ranks it.

Seeded: one user follows topics in which a few hundred authors posted, many users engaged. The model
has the 30 features and 100 trees of the goal; what it learnt is noise, which costs as much to
compute as knowledge. `Shape` says how much there is of each, for who measures how costs grow.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    "Shape",
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
_TAGS = 40
_ETA = 0.3
_EVENTS_PER_ACTIVITY = 15
_EVENTS_MAX = 30_000
_STEP_US = 60_000_000
_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How much there is of everything."""

    activities: int = 800
    """Posted to a tenant, by 150 authors into 12 topics."""

    followed: int = 8
    """Feeds that the reader follows: topics first, then the feeds of users who never posted."""

    events: int | None = None
    """Impressions and engagements of a tenant; 15 an activity, 30,000 at most."""

    tenants: int = 1
    """Tenants, all alike."""

    features: int = FEATURE_COUNT
    """Columns that the model reads."""

    trees: int = TREES
    """Trees of depth 6."""

    @property
    def events_count(self) -> int:
        """Impressions and engagements of a tenant."""
        if self.events is not None:
            return self.events
        return min(self.activities * _EVENTS_PER_ACTIVITY, _EVENTS_MAX)

    def tenant(self, number: int) -> TenantId:
        """The name of a tenant; the first is `TENANT`."""
        return TENANT if number == 0 else TenantId(f"{TENANT}-{number}")


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


def feature_spec(count: int = FEATURE_COUNT) -> FeatureSpec:
    """So many features: the factors', and the first of the registry."""
    factors = [name for name, feature in FEATURES.items() if feature.family == "factors"]
    others = [name for name in FEATURES if name not in factors]
    return FeatureSpec(names=(*others[: count - len(factors)], *factors))


def trees(spec: FeatureSpec, count: int = TREES) -> Booster:
    """So many trees, scoring on one thread."""
    draws = np.random.default_rng(SEED)
    values = draws.normal(size=(4_000, len(spec.names))).astype(np.float32)
    labels = (draws.random(4_000) + values[:, 0] > 1).astype(np.float32)
    sample = DMatrix(values, labels, feature_names=list(spec.names))
    parameters = {
        "max_depth": DEPTH,
        "nthread": 1,
        "seed": SEED,
        "objective": "binary:logistic",
        # With many trees each learns less, so that the last have something left to split.
        "eta": _ETA * min(1.0, TREES / count),
    }
    booster = train(parameters, sample, num_boost_round=count)
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


def populate(
    engine: FeedEngine, shape: Shape | None = None, tenant: TenantId = TENANT
) -> list[ActivityId]:
    """Follows, then posts by many authors into topics, then what users did with them."""
    shape = shape or Shape()
    draws = random.Random(SEED)  # noqa: S311 - a community that can be made again
    engine.create_tenant(tenant).result()
    home = FeedId("timeline", READER)
    for numbers in _batches(shape.followed):
        for following in [engine.follow(tenant, home, _target(number)) for number in numbers]:
            following.result()
    start = NOW_US - (shape.activities + 1) * _STEP_US
    posted: list[ActivityId] = []
    for numbers in _batches(shape.activities):
        posts = [
            engine.post(tenant, FeedId("user", f"a{n % _AUTHORS}"), _draft(n, start, draws))
            for n in numbers
        ]
        posted += [post.result().activity.id for post in posts]
    for numbers in _batches(shape.events_count):
        engine.record(tenant, [_event(number, posted, draws) for number in numbers]).result()
    return posted


def _batches(count: int) -> Iterator[range]:
    """The numbers up to a count, as many at a time as may wait for the log."""
    return (range(first, min(first + _BATCH, count)) for first in range(0, count, _BATCH))


def _target(number: int) -> FeedId:
    return FeedId("topic", f"t{number}") if number < _TOPICS else FeedId("user", f"quiet{number}")


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
