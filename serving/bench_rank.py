"""Benchmarks of a ranked read in one process: from rows to reply bytes, and the ranker alone.

From an HTTP request to its reply, it is measured in `serving.bench_http`.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feeds.engine import FeedEngine
from feeds.model import ActivityId, TenantId
from ranking.bench import rank_bench
from ranking.config import RankingConfig
from ranking.features import Factors
from ranking.scorers.base import Scorer
from ranking.scorers.boosted import BoostedScorer
from serving.activity_table import ActivityTables
from serving.bench_community import (
    NOW_US,
    PAGE,
    READER,
    TENANT,
    TREES,
    factors_of,
    feature_spec,
    matrix,
    populate,
    trees,
    user_side,
)
from serving.configs import HeldConfigs, service_config
from serving.cursors import SlateStore
from serving.follows import HeldFollows
from serving.measure import Figure, Stopwatch, Times, rounds
from serving.rankers import LiveModel
from serving.reader import FeedReader
from serving.served_requests import RecentRequests
from serving.settings import load_settings
from serving.telemetry import Metrics

__all__ = ["rank", "ranker"]

CANDIDATES: Final = 500
ROUNDS_MIN: Final = 50
ROUNDS_PER_S_EXPECTED: Final = 250
"""Sizes the ranker's bench so that it takes about the seconds that were asked for."""


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
        posted = populate(engine)
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
    spec, metrics = feature_spec(), Metrics()
    booster = trees(spec)
    model = _Model("1", BoostedScorer(spec, bytes(booster.save_raw("ubj"))), factors_of(posted))
    tables = ActivityTables(engine, metrics, bytes_max=1, capacity=100_000, backlog_max=10_000)
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
    query, user_us = user_side(engine)
    table = await tables.get(TENANT)
    values = matrix(RankingConfig.default(), query, table, model.factors, CANDIDATES)
    page = await reader.read(TENANT, READER, "personalized", limit=PAGE)
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
