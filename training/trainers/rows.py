"""What row trainers learn from, and what they give: candidates with features, and a scorer.

**Position.** What stands higher is engaged with more, whatever it is. So the place where a
candidate was shown is a feature in training and the first place for all when serving (Zinkevich,
"Rules of Machine Learning", rule 36; Ling and others, "Model Ensemble for Click Prediction in Bing
Search Ads", WWW 2017). Trees may not mix it with other features (`position_apart`): it is a term of
its own in the log odds, as examination is a factor in a position-based model, and holding it
constant moves all candidates alike, whichever constant it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from feeds.events import ENGAGEMENT_KINDS
from ranking.features import FeatureMatrix, FeatureParameters, FeatureSpec
from ranking.scorers.base import Scorer
from training.errors import TooFewEvents, TrainingError
from training.sets.dataset import TrainingSet

__all__ = [
    "POSITION",
    "UNKNOWN",
    "Examples",
    "Fitted",
    "OnRound",
    "RowTrainer",
    "check_teaching",
    "position_apart",
    "user_weights",
]

UNKNOWN = -1
"""In `shown_at`: nobody logged where, or whether, it was shown. In `engaged`: too early to say."""

POSITION = "position"
"""The feature of the place where a candidate was shown, 0-based; 0 for all when serving."""

Floats = npt.NDArray[np.float32]
OnRound = Callable[[int, float], None]
"""Told at each look at validation how many rounds there were, and how good they are (higher is
better); it may raise to end the training."""


@dataclass(frozen=True)
class Examples:
    """q requests with n candidates in all; the rows of a request lie together, in request order.

    A view of arrays that others hold: nothing is copied.
    """

    names: tuple[str, ...]
    """The features, in column order."""
    values: Floats
    """float32[n, len(names)], NaN where missing."""
    relevance: npt.NDArray[np.int8]
    """int8[n]: 0 for what was not touched in the request."""
    sizes: npt.NDArray[np.int64]
    """int64[q]: candidates of each request, possibly none."""
    users: npt.NDArray[np.str_]
    """str[q]: whose request it was."""
    engaged: Mapping[str, npt.NDArray[np.int8] | npt.NDArray[np.bool_]] = field(
        default_factory=dict
    )
    """int8[n] for each kind of engagement: 1 where the candidate got one, 0 where not, `UNKNOWN`
    where it is too early to say; bool[n] where it never is."""
    shown_at: npt.NDArray[np.integer] | None = None
    """int[n]: the 0-based place where the candidate was shown, `UNKNOWN` where that is not
    known; None where nothing was logged."""
    parameters: FeatureParameters = field(default_factory=FeatureParameters)
    """The numbers that the features were computed with."""

    @classmethod
    def of(cls, data: TrainingSet) -> Self:
        """The requests of a training set."""
        return cls(
            data.names,
            data.values,
            data.labels,
            data.sizes,
            np.array(data.users, np.str_),
            engaged={}
            if data.engaged is None
            else {kind: data.engaged[:, place] for place, kind in enumerate(ENGAGEMENT_KINDS)},
            shown_at=data.positions,
        )

    def __len__(self) -> int:
        """How many candidates there are."""
        return len(self.relevance)

    @cached_property
    def request_of_row(self) -> npt.NDArray[np.int64]:
        """int64[n]: the request that each row belongs to."""
        return np.repeat(np.arange(len(self.sizes), dtype=np.int64), self.sizes)

    @property
    def known_places(self) -> bool:
        """Whether it is known of any candidate where it was shown."""
        return self.shown_at is not None and bool((self.shown_at >= 0).any())

    def taught(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The names, and `position` as the last where places are known; never without."""
        others = tuple(name for name in names if name != POSITION)
        return (*others, POSITION) if self.known_places else others

    def spec(self, names: tuple[str, ...]) -> FeatureSpec:
        """The spec of these features, computed as here."""
        return FeatureSpec(names, parameters=self.parameters)

    def matrix(self, names: tuple[str, ...]) -> FeatureMatrix:
        """float32[n, len(names)], C-contiguous; the values themselves where all are asked for.

        `position` is the place where a candidate was shown, NaN where unknown, unless the features
        have it already. Raises `TrainingError` for a feature that is not there.
        """
        if names == self.names:
            return FeatureMatrix(names, self.values)
        values = np.empty((len(self), len(names)), np.float32)
        for place, name in enumerate(names):
            values[:, place] = self._column(name)
        return FeatureMatrix(names, values)

    def _column(self, name: str) -> npt.NDArray[np.float32]:
        if name in self.names:
            column: Floats = self.values[:, self.names.index(name)]
            return column
        if name == POSITION and self.shown_at is not None:
            return np.where(self.shown_at >= 0, self.shown_at, np.nan).astype(np.float32)
        raise TrainingError(
            f"the training set has no feature {name}: it has {', '.join(self.names)}"
        )


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was learnt: a scorer that serves as it is, and how it came about.

    `figures` are numbers by name: rounds, seconds, how good it is on validation. `notes` are
    sentences for the report, of what was left out and why.
    """

    scorer: Scorer
    figures: Mapping[str, float]
    notes: tuple[str, ...] = ()


class RowTrainer(Protocol):
    """Hyperparameters of a model of candidates: a frozen dataclass, small, importable."""

    @property
    def name(self) -> str:
        """The model's name in reports and on the command line."""
        ...

    def fit(
        self,
        train: Examples,
        validation: Examples,
        *,
        seed: int = 0,
        on_round: OnRound | None = None,
    ) -> Fitted:
        """Learn from `train`; stop, and calibrate, on `validation`.

        Equal inputs and seed give equal bytes. Raises `TooFewEvents` where there is nothing to
        learn: no engagement, nothing else, or all of one user.
        """
        ...


def check_teaching(data: Examples, labels: npt.NDArray[np.bool_], what: str) -> None:
    """Raise `TooFewEvents` unless some rows are positive, some are not, and two users have some."""
    positive = int(labels.sum())
    if positive in {0, len(labels)}:
        raise TooFewEvents(
            f"{what}: {positive} of {len(labels)} candidates were engaged with, and a model learns "
            "from both: record more impressions and engagements"
        )
    users = np.unique(data.users[data.request_of_row[labels]])
    if len(users) < 2:  # noqa: PLR2004 - one user is no audience
        raise TooFewEvents(
            f"{what}: all {positive} engagements are of the user {users[0]}: a model of one user's "
            "habits would serve nobody else; record those of others"
        )


def position_apart(names: tuple[str, ...]) -> list[list[str]]:
    """XGBoost's interaction constraints that keep the position from mixing with other features."""
    others = [name for name in names if name != POSITION]
    return [[POSITION], others] if others and len(others) < len(names) else []


def user_weights(users: npt.NDArray[np.str_], power: float) -> Floats:
    """float32[q]: a weight for each request by its user's number of requests, 1 on average."""
    _, user, counts = np.unique(users, return_inverse=True, return_counts=True)
    weights = counts[user].astype(np.float64) ** -power
    return np.asarray(weights / weights.mean(), np.float32)
