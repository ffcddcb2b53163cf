"""What would rank a feed (an arm), and the probability of every activity in every place. Pure.

The slate log has the propensity of a place given the places before it. Where a place is worth what
its activity is worth (the position-based model), less is needed: the probability of the activity in
the place whatever stands before it. Weights made of these are smaller than products over places,
and as unbiased.
"""

import functools
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ranking.candidates import Candidates, Query
from ranking.config import FeedOptions, RankingConfig
from ranking.exploration import NoExplorer
from ranking.fallback import bound, fallback_scorer
from ranking.features import Factors
from ranking.pipeline import build_ranker, build_sources
from ranking.ranker import Ranker
from ranking.scorers.base import Scorer
from ranking.scorers.popularity import PopularityScorer
from ranking.slates import Slate
from ranking.sources import propose
from ranking.table import ActivityTable
from training.errors import SimulationError

__all__ = ["SERVING", "Arm", "default_arms", "placement"]

Floats = npt.NDArray[np.float64]


SERVING = "exploring"
"""Name of the arm that serves by default."""

EXPLORED_RATE = 0.3
"""Share of places that chance fills in the arm that serves by default, so that its log can tell."""


KEPT = 1_024
"""Tables of chances that are kept: there is one for each number of candidates."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to rank a tenant's feeds: a config, with a model or without.

    Without a `scorer`, the config's fallback ranks. Raises `SimulationError` for what has no
    closed-form chances of a place: Thompson sampling, pins, places of new authors, and filters
    behind the selection.
    """

    name: str
    config: RankingConfig = field(default_factory=RankingConfig.default)
    scorer: Scorer | None = None
    factors: Factors | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be judged."""
        for kind in ("personalized", "explore"):
            if problem := _unforeseeable(self.config.feed(kind)):
                raise SimulationError(
                    f"{self.name}: {kind}.{problem}, whose chances of a place are not known in "
                    "closed form: simulate without it"
                )

    def rank(self, query: Query, table: ActivityTable) -> Slate:
        """The slate that it serves."""
        query = replace(query, limit=self.config.feed(query.kind).slate_size)
        return self._ranker(query).rank(query, self._candidates(query, table), table)

    def order(self, query: Query, table: ActivityTable) -> npt.NDArray[np.int32]:
        """Rows of all candidates that the filters let pass, as it ranks them without chance."""
        query = replace(query, limit=self.config.feed(query.kind).slate_size)
        ranker = replace(self._ranker(query), explorer=NoExplorer())
        scoring = ranker.rank(query, self._candidates(query, table), table).scoring
        assert scoring is not None  # a ranker's slate has it
        shown = scoring.shown
        rows: npt.NDArray[np.int32] = scoring.kept.rows[np.r_[shown.places, shown.reserve]]
        return rows

    def placement(self, query: Query, candidates: int, places: int) -> Floats:
        """The probability of each rank of its order in each place, float64[candidates, places]."""
        options = self.config.feed(query.kind).exploration
        return placement(candidates, places, options.rate if options.policy == "epsilon" else 0.0)

    def _candidates(self, query: Query, table: ActivityTable) -> Candidates:
        return propose(build_sources(self.config, query.kind, self.factors), query, table)

    def _ranker(self, query: Query) -> Ranker:
        scorer = self.scorer or fallback_scorer(self.config.feed(query.kind).fallback)
        return build_ranker(
            self.config,
            query.kind,
            bound(scorer, query),
            factors=self.factors,
            model_version=self.name if self.scorer else None,
        )


def default_arms(explored_rate: float = EXPLORED_RATE) -> tuple[Arm, ...]:
    """The arm that serves by default, newest first with some chance, then two to compare."""
    chance = {"exploration": {"policy": "epsilon", "rate": explored_rate}}
    explored = RankingConfig.parse({"personalized": chance, "explore": chance})
    plain = RankingConfig.parse({"explore": {"exploration": {"policy": "none"}}})
    return (
        Arm(SERVING, explored),
        Arm("newest", plain),
        Arm("popular", plain, scorer=PopularityScorer()),
    )


def _unforeseeable(feed: FeedOptions) -> str | None:
    if feed.exploration.policy == "thompson":
        return "exploration.policy is thompson"
    if feed.pins:
        return "pins names activities"
    if feed.adjustments.new_author.on:
        return "adjustments.new_author is on"
    on = [name for name, each in feed.post_filters.named().items() if each.on]
    return f"post_filters.{on[0]} is on" if on else None


@functools.lru_cache(maxsize=KEPT)
def placement(candidates: int, places: int, epsilon: float) -> Floats:
    """The probability that epsilon-greedy exploration puts each rank in each place.

    float64[candidates, places]; a place's column adds up to 1 while there are candidates, a rank's
    row to at most 1. In each place, with probability `epsilon`, any candidate that is left comes,
    all equally likely, otherwise the first that is left (`ranking.exploration.EpsilonExplorer`).

    A rank is followed through the places by how many of those before it have gone, at most one a
    place: O(candidates * places^2). The array is kept, and read-only.

    >>> placement(3, 2, 0.0).tolist()
    [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    >>> placement(2, 2, 1.0).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    gone = np.arange(places + 1)
    ahead = np.arange(candidates)[:, None] - gone[None, :]
    still = np.zeros((candidates, places + 1))
    still[:, 0] = 1.0
    still[ahead < 0] = 0.0
    chances = np.zeros((candidates, places))
    for place in range(min(places, candidates)):
        left = candidates - place
        chances[:, place] = (1 - epsilon) * np.where(ahead == 0, still, 0).sum(axis=1)
        chances[:, place] += epsilon / left * still.sum(axis=1)
        before_goes = np.where(ahead > 0, (1 - epsilon) + epsilon * ahead / left, 0.0)
        behind_goes = epsilon * (left - 1 - ahead) / left
        moved = np.zeros_like(still)
        moved[:, 1:] = (still * before_goes)[:, :-1]
        still = still * behind_goes + moved
    chances.flags.writeable = False
    return chances
