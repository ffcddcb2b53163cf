"""Slates for tests: made by a real ranker, of seeded noise."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from feeds.model import TenantId
from ranking.candidates import Query
from ranking.exploration import EpsilonExplorer
from ranking.ranker import Ranker
from ranking.scorers.base import Scorer
from ranking.scorers.recency import RecencyScorer
from ranking.slates import Slate
from ranking.table import ActivityTable
from ranking.testing import T0_US, all_candidates, posted, query, table_of
from serving.slate_log.record import LoggedSlate, decode, encode, log
from serving.slate_log.segments import SegmentReader, key_of
from serving.slate_log.shelf import segments_of

__all__ = ["ACME", "Made", "entry", "logged_slates", "made_slate"]

ACME = TenantId("acme")


class Made(NamedTuple):
    """A slate, who asked, and the table it was made from."""

    query: Query
    slate: Slate
    table: ActivityTable

    def logged(self, *, candidates: bool = False) -> LoggedSlate:
        """The slate as it is logged."""
        assert self.slate.scoring is not None
        rows = self.slate.scoring.kept.rows
        return log(self.query, self.slate, self.table.ids(rows) if candidates else None)


def logged_slates(directory: Path, tenant: str = ACME) -> list[LoggedSlate]:
    """The tenant's slates in a log, in the order of its segments."""
    return [
        decode(record.content)
        for segment in segments_of(directory / tenant)
        for record in SegmentReader(segment.path)
    ]


def made_slate(
    name: str,
    activities: int = 5,
    *,
    tenant: str = ACME,
    scorer: Scorer | None = None,
    epsilon: float = 0.3,
    model_version: str | None = None,
) -> Made:
    """A slate with this id, of this many candidates of which all but one are shown."""
    seed = int.from_bytes(key_of(name)[:4])
    draws = np.random.default_rng(seed)
    table = table_of(
        posted(f"{name}-{number}", T0_US - int(draws.integers(10**12)), actor=f"user:a{number % 3}")
        for number in range(activities)
    )
    asked = replace(
        query(T0_US + seed, seed=seed, limit=max(1, activities - 1)),
        tenant=TenantId(tenant),
        request_id=name,
    )
    ranker = Ranker(
        scorer=scorer or RecencyScorer(),
        explorer=EpsilonExplorer(epsilon),
        model_version=model_version,
    )
    return Made(asked, ranker.rank(asked, all_candidates(table), table), table)


def entry(name: str, activities: int = 5, *, tenant: str = ACME) -> tuple[bytes, bytes]:
    """Key and content of a logged slate."""
    return key_of(name), encode(made_slate(name, activities, tenant=tenant).logged())
