"""At every visit: what each arm's slate would truly have been worth, and the best there is.

A slate is worth the sum over its places of the probability that the place is looked at times the
expected worth of its activity. An arm that explores is worth the mean over its slates, which is
exact too: `policy.placement` gives the probability of each activity in each place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ranking.candidates import FeedKind
from training.simulation.community import Visit
from training.simulation.platform import LocalPlatform
from training.simulation.policy import Arm
from training.simulation.preferences import Preferences, examination

__all__ = ["Judge", "JudgedVisit"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class JudgedVisit:
    """One visit as the truth has it, and as the slate log would.

    `optimum` is the worth of the best slate, `served` the expected worth of the slate that was
    shown, `values` that of every arm by name. For the counterfactual estimates there is, place by
    place, float64[places]: `rewards`, what came of it; `logged`, the probability with which the
    serving arm puts that activity there; `wanted`, with which each other arm does.
    """

    day: int
    user: str
    kind: FeedKind
    optimum: float
    served: float
    values: Mapping[str, float]
    rewards: Floats
    logged: Floats
    wanted: Mapping[str, Floats]


@dataclass(slots=True)
class Judge:
    """Watches a community: `visits` are those that were judged, in order.

    `twin` knows what the platform knows and `serving` is the arm that serves, one of the `arms`,
    which have names of their own. Days before `from_day` are left out.
    """

    truth: Preferences
    twin: LocalPlatform
    arms: Sequence[Arm]
    serving: Arm
    from_day: int = 0
    visits: list[JudgedVisit] = field(default_factory=list)

    def watch(self, visit: Visit) -> None:
        """Judge a visit, before the twin hears of its reactions."""
        if visit.day < self.from_day:
            return
        places = self.truth.config.places
        looks = examination(self.truth.config, places)
        worth = self._worth(visit)
        query = self.twin.query(visit.user, visit.kind, visit.now_us)
        values, placed = {}, {}
        for arm in self.arms:
            order = self.twin.numbers(arm.order(query, self.twin.table))
            chances = arm.placement(query, len(order), places)
            values[arm.name] = float(worth[order] @ chances @ looks)
            placed[arm.name] = _placed(visit.numbers, order, chances)
        logged = placed.pop(self.serving.name)
        self.visits.append(
            JudgedVisit(
                day=visit.day,
                user=visit.user,
                kind=visit.kind,
                optimum=_optimum(visit, worth, looks),
                served=float(worth[visit.numbers] @ looks[: len(visit.numbers)]),
                values=values,
                rewards=visit.rewards,
                logged=logged,
                wanted=placed,
            )
        )

    def _worth(self, visit: Visit) -> Floats:
        """The expected worth of every activity once it is looked at, float64[activities]."""
        every = np.arange(len(visit.activities))
        return self.truth.worth(
            self.truth.chances(visit.member, visit.activities, every, visit.followed, visit.now_us)
        )


def _placed(shown: npt.NDArray[np.int64], order: npt.NDArray[np.int64], chances: Floats) -> Floats:
    """The probability of what was shown in its place; 0 for what is no candidate."""
    at = order[None, :] == shown[:, None]
    if not at.size:
        return np.zeros(len(shown))
    return np.where(at.any(axis=1), chances[at.argmax(axis=1), np.arange(len(shown))], 0.0)


def _optimum(visit: Visit, worth: Floats, looks: Floats) -> float:
    """The worth of the best slate of all that is new to the member, as the feed has it."""
    open_to = ~visit.passed
    if visit.kind == "explore":
        open_to &= ~visit.followed[visit.activities.author]
    best = np.sort(worth[open_to])[::-1][: len(looks)]
    return float(best @ looks[: len(best)])
