"""What sources have proposed, held by positions, and told as stages."""

from collections.abc import Collection, Sequence

import numpy as np

from feeds.model import Position
from ranking.candidates import Candidates, Query
from ranking.slates import Stage
from ranking.sources import CandidateSource
from ranking.table import ActivityTable
from serving.sources import PositionsSource

__all__ = ["known_positions", "proposed", "source_stages"]


def known_positions(sources: Sequence[CandidateSource]) -> list[Position]:
    """The activities that sources know by position, each once."""
    known = [source.positions for source in sources if isinstance(source, PositionsSource)]
    return list(dict.fromkeys(position for positions in known for position in positions))


def proposed(source: CandidateSource, query: Query, table: ActivityTable) -> PositionsSource:
    """The source's proposal, held by positions, so that it can be ranked in another table."""
    if isinstance(source, PositionsSource):
        return source
    rows = source.propose(query, table)[: source.quota]
    return PositionsSource(source.name, source.quota, table.positions(rows))


def source_stages(
    candidates: Candidates, gather_us: int, late: Collection[str] = ()
) -> list[Stage]:
    """What the gathering took, and how many candidates each source added.

    Sources in `late` were left out for lack of time, and added none.
    """
    counts = np.bincount(candidates.source, minlength=len(candidates.sources)).tolist()
    return [
        Stage("gather", len(candidates), len(candidates), gather_us),
        *(
            Stage(f"source_{name}", count, count, 0)
            for name, count in zip(candidates.sources, counts, strict=True)
            if name not in late
        ),
        *(Stage(f"source_{name}_late", 0, 0, 0) for name in dict.fromkeys(late)),
    ]
