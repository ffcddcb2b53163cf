"""Benchmarks of a ranked read: from the engine's rows to reply bytes, and the ranker alone.

A seeded community: one user follows topics in which a few hundred authors posted, many users
engaged. The model has the 30 features and 100 trees of the goal; what it learnt is noise, which
costs as much to compute as knowledge.
"""

import asyncio
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from xgboost import Booster, DMatrix, train

from feeds.engine import FeedEngine
from feeds.events import ENGAGEMENT_KINDS, Engagement, Impression
from feeds.model import ActivityDraft, ActivityId, FeedId, TenantId, UserId, position_of
from ranking.bench import rank_bench
from ranking.candidates import Query
from ranking.config import RankingConfig
from ranking.features import FEATURES, Factors, FeatureSpec, build
from ranking.pipeline import build_sources
from ranking.scorers.base import Scorer
from ranking.scorers.boosted import BoostedScorer
from ranking.scorers.factorization import Embeddings, FactorTable
from ranking.sources import propose
from serving.activity_table import ActivityTables
from serving.configs import HeldConfigs, service_config
from serving.cursors import SlateStore
from serving.follows import HeldFollows
from serving.measure import Figure, Stopwatch, Times, rounds
from serving.reader import FeedReader, LiveModel
from serving.served_requests import RecentRequests
from serving.settings import load_settings
from serving.telemetry import Metrics

__all__ = ["rank", "ranker"]

TENANT: Final = TenantId("bench")
READER: Final = UserId("reader")
NOW_US: Final = 1_700_000_000_000_000
FEATURE_COUNT: Final = 30
TREES: Final = 100
DEPTH: Final = 6
CANDIDATES: Final = 500
PAGE: Final = 25
DIMENSIONS: Final = 32
SEED: Final = 1
ROUNDS_MIN: Final = 50
ROUNDS_PER_S_EXPECTED: Final = 250
"""Sizes the ranker's bench so that it takes about the seconds that were asked for."""

_ACTIVITIES = 800
_AUTHORS = 150
_TOPICS = 12
_FOLLOWED = 8
_TAGS = 40
_EVENTS = 12_000
_STEP_US = 60_000_000
_BATCH = 500


@dataclass(frozen=True, slots=True)
class _Model:
    version: str
    scorer: Scorer
    factors: Factors | None


@dataclass(frozen=True, slots=True)
class _OneModel:
    model: _Model

    def get(self, tenant: TenantId) -> LiveModel | None:
        del tenant
        return self.model

    def loading(self, tenant: TenantId) -> bool:
        del tenant
        return False

    def shadow(self, tenant: TenantId) -> LiveModel | None:
        del tenant
        return None


def rank(directory: Path, seconds: float) -> Iterator[Figure]:
    """Read the first page of a personalized feed, 500 candidates, again and again."""
    with FeedEngine.open(directory / "rank", clock=lambda: NOW_US) as engine:
        posted = _populate(engine)
        yield asyncio.run(_measure(engine, posted, seconds))


def ranker(directory: Path, seconds: float) -> Iterator[Figure]:
    """The ranker alone, on a table of 20,000 activities in memory: candidates to slate."""
    del directory
    report = rank_bench(max(ROUNDS_MIN, int(seconds * ROUNDS_PER_S_EXPECTED)), trees=TREES)
    total, score = report.stages["total"], report.stages["score"]
    yield Figure.of_times(
        "ranker",
        f"{report.candidates} candidates, {report.features} features, {report.trees} trees: "
        f"Ranker.rank on {report.activities:,} activities",
        Times(report.rounds, total.p50_us, total.p99_us),
        "its scorer alone",
        Times(report.rounds, score.p50_us, score.p99_us),
        goal="",
        apply_us=report.apply_us,
        **{f"{name}_us": stage.p50_us for name, stage in report.stages.items()},
    )


async def _measure(engine: FeedEngine, posted: Sequence[ActivityId], seconds: float) -> Figure:
    spec, metrics = _spec(), Metrics()
    booster = _trees(spec)
    model = _Model("1", BoostedScorer(spec, bytes(booster.save_raw("ubj"))), _factors(posted))
    tables = ActivityTables(engine, metrics, tables_max=1, capacity=100_000, backlog_max=10_000)
    await tables.start([TENANT])
    settings = load_settings(candidates_max=CANDIDATES, deadline_ms=60_000.0)
    reader = FeedReader(
        engine=engine,
        tables=tables,
        follows=HeldFollows(engine, settings.follows_held_max),
        models=_OneModel(model),
        slates=SlateStore(time.monotonic, 100, 900.0),
        settings=settings,
        metrics=metrics,
        clock_us=lambda: NOW_US,
        configs=HeldConfigs(engine, service_config(settings), settings.configs_held_max),
        recent=RecentRequests(settings.preview_requests_max, settings.preview_tenants_max),
    )
    values, user_us = await _matrix(engine, tables, spec, model.factors)
    page = await reader.read(TENANT, READER, "personalized", limit=PAGE)
    booster.set_param({"nthread": 1})
    reads, predictions = Stopwatch(), Stopwatch()
    for _ in rounds(seconds):
        with reads:
            await reader.read(TENANT, READER, "personalized", limit=PAGE)
        with predictions:
            booster.inplace_predict(values, validate_features=False)
    tables.stop()
    return Figure.of_times(
        "rank",
        f"{len(values)} candidates, {len(spec.names)} features, {TREES} trees: rows to reply bytes",
        reads.times(),
        "inplace_predict alone",
        predictions.times(),
        goal="6 ms p50, 12 ms p99",
        candidates=len(values),
        reply_bytes=len(page.content),
        user_side_us=user_us,
        **_stage_means(metrics),
    )


async def _matrix(
    engine: FeedEngine, tables: ActivityTables, spec: FeatureSpec, factors: Factors | None
) -> tuple[np.ndarray, float]:
    """The feature matrix of one request, and the time of reading the user's side, microseconds."""
    table = await tables.get(TENANT)
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
    candidates = propose(
        build_sources(RankingConfig.default(), "personalized"), query, table, CANDIDATES
    )
    return build(spec, query, candidates, table, factors).values, user_us


def _spec() -> FeatureSpec:
    """30 features: the factors', and the first of the registry."""
    factors = [name for name, feature in FEATURES.items() if feature.family == "factors"]
    others = [name for name in FEATURES if name not in factors]
    return FeatureSpec(names=(*others[: FEATURE_COUNT - len(factors)], *factors))


def _trees(spec: FeatureSpec) -> Booster:
    draws = np.random.default_rng(SEED)
    values = draws.normal(size=(4_000, len(spec.names))).astype(np.float32)
    labels = (draws.random(4_000) + values[:, 0] > 1).astype(np.float32)
    matrix = DMatrix(values, labels, feature_names=list(spec.names))
    parameters = {"max_depth": DEPTH, "nthread": 1, "seed": SEED, "objective": "binary:logistic"}
    return train(parameters, matrix, num_boost_round=TREES)


def _factors(posted: Sequence[ActivityId]) -> FactorTable:
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


def _stage_means(metrics: Metrics) -> Mapping[str, float]:
    """Mean microseconds of each stage, by `<stage>_us`."""
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    for family in metrics.registry.collect():
        if family.name == "headwater_rank_stage_seconds":
            for sample in family.samples:
                kept = {"_sum": sums, "_count": counts}.get(sample.name[len(family.name) :])
                if kept is not None:
                    kept[sample.labels["stage"]] = sample.value
    return {f"{stage}_us": sums[stage] / counts[stage] * 1e6 for stage in sums if counts[stage]}


def _populate(engine: FeedEngine) -> list[ActivityId]:
    """Follows, then posts by many authors into topics, then what users did with them."""
    draws = random.Random(SEED)  # noqa: S311 - a community that can be made again
    engine.create_tenant(TENANT).result()
    home = FeedId("timeline", READER)
    for number in range(_FOLLOWED):
        engine.follow(TENANT, home, FeedId("topic", f"t{number}")).result()
    start = NOW_US - (_ACTIVITIES + 1) * _STEP_US
    posts = [
        engine.post(TENANT, FeedId("user", f"a{number % _AUTHORS}"), _draft(number, start, draws))
        for number in range(_ACTIVITIES)
    ]
    posted = [post.result().activity.id for post in posts]
    for first in range(0, _EVENTS, _BATCH):
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
