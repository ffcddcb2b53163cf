"""A logged slate ranked again by any config: the candidates and features of then, the state of now.

What scored it scores again, from the features that were logged, so that old and new are told apart
by the config alone, and by nothing that has happened since. What a config brings that was no
candidate then, by other sources or pins, no log can tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from feeds.model import position_of
from ranking.candidates import Candidates, FeedKind, Query
from ranking.config import RankingConfig
from ranking.extractors.caller import CALLER
from ranking.fallback import bound, fallback_scorer
from ranking.features import Factors, FeatureMatrix, FeatureSpec
from ranking.pipeline import build_ranker, weighed
from ranking.scorers.base import Scorer
from ranking.slates import Slate
from ranking.table import ActivityTable
from serving.slate_log.record import LoggedSlate

__all__ = ["LoggedCandidates", "NotReplayed", "unseen"]

_SCORE: Final = "logged_score"
"""What the scores are called as numbers that come with the candidates."""

_SPEC: Final = FeatureSpec((CALLER + _SCORE,))
_KINDS: Final[tuple[FeedKind, ...]] = ("personalized", "explore")


class NotReplayed(Exception):
    """Why a slate cannot be ranked again, as a sentence."""


@dataclass(frozen=True, slots=True)
class _Scored:
    """Candidates come with their scores: those are read, as the scorer of this name gave them."""

    name: str
    spec: FeatureSpec = _SPEC

    def score(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        return features.column(_SPEC.names[0])


@dataclass(frozen=True, slots=True)
class LoggedCandidates:
    """The candidates of a logged slate that are still there: rows of a table, and their features.

    `whole` says whether all that the filters kept then was logged, or only what was shown.
    """

    slate: LoggedSlate
    candidates: Candidates
    features: FeatureMatrix
    ids: Sequence[str]
    whole: bool

    @classmethod
    def of(cls, slate: LoggedSlate, table: ActivityTable) -> "LoggedCandidates":
        """Those of the table; raises `NotReplayed` where none of them is left."""
        logged = slate.candidates or slate.places
        if not len(logged):
            raise NotReplayed("it had no activity")
        ids = logged.activity_ids()
        rows = table.rows([position_of(one) for one in ids])
        there = np.flatnonzero(rows >= 0)
        if not len(there):
            raise NotReplayed("nothing that it was made from is left")
        sources = logged.source_places()[there]
        return cls(
            slate,
            Candidates(rows[there], sources, slate.sources),
            slate.features_of(logged).take(there),
            [ids[place] for place in there.tolist()],
            slate.candidates is not None,
        )

    def rank(
        self,
        query: Query,
        config: RankingConfig,
        scorer: Scorer | None,
        factors: Factors | None,
        table: ActivityTable,
    ) -> Slate:
        """What the config makes of them; `scorer` None is the config's fallback.

        Raises `NotReplayed` where that reads what was not logged.
        """
        names = [name for name in self.features.names if name.startswith(CALLER)]
        query = replace(query, caller={name.removeprefix(CALLER): {} for name in names})
        found = scorer or bound(fallback_scorer(config.feed(query.kind).fallback), query)
        scores = self._scores(weighed(config, query.kind, found))
        positions = map(position_of, self.ids)
        brought: dict[bytes, float] = dict(zip(positions, scores.tolist(), strict=True))
        asked = replace(query, caller={_SCORE: brought})
        ranker = build_ranker(config, query.kind, _Scored(found.name), factors=factors)
        return ranker.rank(asked, self.candidates, table, explain=True)

    def _scores(self, scorer: Scorer) -> npt.NDArray[np.float32]:
        absent = [name for name in scorer.spec.names if name not in self.features.names]
        if absent:
            raise NotReplayed(f"its log has no {', '.join(absent)}, which {scorer.name} reads")
        columns = [self.features.names.index(name) for name in scorer.spec.names]
        values = np.ascontiguousarray(self.features.values[:, columns])
        return scorer.score(FeatureMatrix(scorer.spec.names, values))


def unseen(old: RankingConfig, new: RankingConfig) -> list[str]:
    """What differs between two configs and cannot show in logged slates, as sentences."""
    told = []
    for kind in _KINDS:
        before, after = old.feed(kind), new.feed(kind)
        parts = [
            name for name in ("sources", "pins") if getattr(before, name) != getattr(after, name)
        ]
        if parts:
            told.append(
                f"the {' and '.join(parts)} of the {kind} feed differ, and what was no candidate "
                "then is in no log: preview with mode=fresh to see what they bring"
            )
    return told
