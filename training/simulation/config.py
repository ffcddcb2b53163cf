"""Every setting of a simulated community, in one frozen class with its units and limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Final

from feeds.events import EngagementKind
from feeds.model import parse_time
from training.errors import SimulationError

__all__ = ["DAYS_MAX", "USERS_MAX", "SimulationConfig"]

USERS_MAX: Final = 20_000
"""Members that a community can have: each is an agent in the memory of one process."""

DAYS_MAX: Final = 366
"""Days that a simulation can last."""

_VALUES: Final[Mapping[EngagementKind, float]] = MappingProxyType(
    {"click": 1.0, "like": 1.0, "hide": -1.0}
)


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """A community: who is in it, what they like, and how they look at a feed.

    Two simulations with equal configs have the same community, and members who answer the same
    slate alike. What a member does with an activity that is looked at follows from its utility

        bias + taste * (the member's taste for its topic) + quality * (the activity's quality)
             + recency * 2^(-age / half-life) + followed * (whether its author is followed)

    by the logistic function.
    """

    seed: int = 20_260_105
    """Seeds every random choice."""
    users: int = 200
    """Members."""
    days: int = 14
    """Days that are lived through."""
    start: str = "2026-01-05T20:00:00"
    """The first evening, ISO 8601 in UTC; the posts of a day lie in the 24 hours before."""
    topics: int = 8
    """Topics; each activity has one, as its tag."""
    author_share: float = 0.25
    """Share of the members who post."""
    posts_per_day: float = 0.8
    """Posts of an author a day, on average (Poisson; authors differ by a log-normal factor)."""
    visits_per_day: float = 0.7
    """Probability that a member reads a feed on an evening."""
    explore_share: float = 0.0
    """Share of the visits that read the explore feed; the others read the personalized one."""
    places: int = 10
    """Places of a feed that are shown at a visit."""
    follows: float = 6.0
    """Authors that a member follows from the start, on average (Poisson)."""
    within_topic: float = 0.8
    """Share of these follows that go to authors of the member's own first topic."""
    attachment: float = 1.0
    """Power of preferential attachment: an author is chosen with probability in proportion to
    (followers + 1) ** attachment (Barabasi and Albert, 1999, has 1)."""
    follow_after_like: float = 0.1
    """Probability to follow the author of what one likes."""
    taste_concentration: float = 0.3
    """Parameter of the Dirichlet distribution of a member's tastes: small is one-sided."""
    author_quality: float = 0.7
    """Standard deviation of quality between authors, in units of utility."""
    activity_quality: float = 0.5
    """Standard deviation of quality between activities of one author, in units of utility."""
    bias: float = -3.0
    """Utility of an activity without anything that speaks for it."""
    taste: float = 4.0
    """Utility of a topic that is all of a member's taste; tastes add up to 1 over the topics."""
    recency: float = 1.0
    """Utility of an activity of this moment; it halves with each half-life."""
    recency_half_life_h: float = 18.0
    """Hours in which the utility of recency halves."""
    followed: float = 0.5
    """Utility of a followed author."""
    like_bias: float = -1.0
    """Utility that is added before a member who clicked likes."""
    hide_rate: float = 0.05
    """Probability that an activity that was looked at, and is as far from wanted as can be, is
    hidden."""
    examination_power: float = 0.7
    """The place with number p (from 0) is looked at with probability (1 / (p + 1)) ** power: the
    position-based model, as in Joachims, Swaminathan and Schnabel (2017), section 5."""
    values: Mapping[EngagementKind, float] = field(default_factory=lambda: _VALUES)
    """What an engagement of each kind is worth; kinds that are left out are worth 0."""

    def check(self) -> "SimulationConfig":
        """Itself; raises `SimulationError` with every mistake at once."""
        found = [sentence for name in _BOUNDS for sentence in self._outside(name)]
        if unknown := sorted(self.values.keys() - _VALUES.keys()):
            found.append(
                f"values has {', '.join(unknown)}: members do nothing but {', '.join(_VALUES)}"
            )
        if found:
            raise SimulationError("; ".join(found))
        parse_time(self.start)
        return self

    @property
    def start_us(self) -> int:
        """The first evening, microseconds since the epoch."""
        return parse_time(self.start)

    def _outside(self, name: str) -> list[str]:
        low, high = _BOUNDS[name]
        value = getattr(self, name)
        return [] if low <= value <= high else [f"{name} is {value}: from {low} to {high}"]


_BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "seed": (0, 2**63 - 1),
    "users": (2, USERS_MAX),
    "days": (1, DAYS_MAX),
    "topics": (1, 1_000),
    "author_share": (0.001, 1),
    "posts_per_day": (0, 100),
    "visits_per_day": (0, 1),
    "explore_share": (0, 1),
    "places": (1, 100),
    "follows": (0, 1_000),
    "within_topic": (0, 1),
    "attachment": (0, 3),
    "follow_after_like": (0, 1),
    "taste_concentration": (0.001, 1_000),
    "author_quality": (0, 100),
    "activity_quality": (0, 100),
    "bias": (-100, 100),
    "taste": (-100, 100),
    "recency": (-100, 100),
    "recency_half_life_h": (0.01, 100_000),
    "followed": (-100, 100),
    "like_bias": (-100, 100),
    "hide_rate": (0, 1),
    "examination_power": (0, 10),
}
"""The least and the greatest of every number."""

assert {each.name for each in fields(SimulationConfig)} == {*_BOUNDS, "start", "values"}
