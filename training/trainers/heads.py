"""A head for each kind of engagement: how likely it is, calibrated, and freed of the position.

The place where a candidate was shown is a feature in training and constant when serving (see
`rows`). Calibration is learnt on the validation part, with the real places; its error (ECE) is
measured on the half of the users that it did not look at.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ranking.scorers.base import Scorer
from ranking.scorers.boosted import BoostedScorer
from ranking.scorers.calibration import Platt
from ranking.scorers.value import HEAD_KINDS, Head, ValueScorer
from training.config import BoostedConfig
from training.errors import TooFewEvents, TrainingError
from training.trainers.base import Stopwatch
from training.trainers.boosted import grow
from training.trainers.calibration import (
    Method,
    calibrate,
    expected_calibration_error,
    held_out_error,
)
from training.trainers.logistic import LogisticTrainer, log_loss
from training.trainers.rows import (
    UNKNOWN,
    Examples,
    Fitted,
    OnRound,
    check_teaching,
    position_apart,
    user_weights,
)

__all__ = ["HeadsTrainer"]

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class HeadsTrainer:
    """Hyperparameters of a value model: a classifier for each kind, of trees or linear."""

    kinds: tuple[str, ...] = HEAD_KINDS
    """The kinds of engagement that get a head, where there are enough of them."""
    classifier: Literal["trees", "linear"] = "trees"
    calibration: Method = "platt"
    """"platt" has two numbers and suits few rows; "isotonic" follows any rising curve."""
    depth: int = 4
    """Depth of the trees."""
    boosted: BoostedConfig = field(default_factory=BoostedConfig)
    """How the trees grow and when they stop."""
    logistic: LogisticTrainer = field(default_factory=LogisticTrainer)
    """How a linear head learns."""
    positives_min: int = 20
    """Engagements of a kind, in training and in validation, below which it gets no head."""
    heads_min: int = 1
    """Heads below which there is no model: one alone is a classifier like another."""
    weights: Mapping[str, float] | None = None
    """What an engagement of each kind is worth; None: all alike."""

    @property
    def name(self) -> str:
        """The model's name."""
        return f"heads-{self.classifier}"

    def fit(
        self,
        train: Examples,
        validation: Examples,
        *,
        seed: int = 0,
        on_round: OnRound | None = None,
    ) -> Fitted:
        """See `RowTrainer.fit`.

        Rows that were shown teach, or all where no places are known; not those whose window is
        open yet.
        `figures` has for each kind `<kind>_ece` (out of sample), `<kind>_ece_before` calibration,
        and `<kind>_positives`; `on_round` hears of the rounds of one head after another. Raises
        `TrainingError` for a kind that no head can be for.
        """
        if unknown := [kind for kind in self.kinds if kind not in HEAD_KINDS]:
            raise TrainingError(
                f"no head is for {', '.join(unknown)}: kinds are {', '.join(HEAD_KINDS)}"
            )
        watch = Stopwatch()
        heads: list[Head] = []
        figures: dict[str, float] = {}
        notes: list[str] = []
        for kind in self.kinds:
            try:
                head, told = self._head(kind, train, validation, seed, on_round)
            except TooFewEvents as error:
                notes.append(f"There is no head for {kind}: {error}")
                continue
            heads.append(head)
            figures |= told
        if len(heads) < max(1, self.heads_min):
            few = f"{len(heads)} kinds have a head, {self.heads_min} are needed"
            raise TooFewEvents(" ".join((few, *notes)))
        notes.append(_NOTE_PLACES if train.known_places else _NOTE_NO_PLACES)
        scorer = ValueScorer(heads, self.weights or {head.kind: 1.0 for head in heads})
        return Fitted(scorer, figures | {"seconds": watch.seconds}, tuple(notes))

    def _head(
        self,
        kind: str,
        train: Examples,
        validation: Examples,
        seed: int,
        on_round: OnRound | None,
    ) -> tuple[Head, dict[str, float]]:
        rows, labels = self._rows_and_labels(kind, train, "training")
        held_rows, held_labels = self._rows_and_labels(kind, validation, "validation")
        names = train.taught(train.names)
        scorer: Scorer
        if self.classifier == "linear":
            scorer = self.logistic.fit_labels(train, names, labels, rows, seed)
        else:
            scorer = self._trees(
                (train, labels, rows), (validation, held_labels, held_rows), names, seed, on_round
            )
        margins = scorer.score(validation.matrix(names)).astype(np.float64)[held_rows]
        happened = held_labels[held_rows]
        if self.classifier == "linear" and on_round is not None:
            on_round(1, -log_loss(margins, happened))
        halves = _half_of_users(validation, seed)[held_rows]
        head = Head(kind, scorer, calibrate(self.calibration, margins, happened))
        figures = {
            f"{kind}_ece": held_out_error(self.calibration, margins, happened, halves),
            f"{kind}_ece_before": expected_calibration_error(
                Platt().probability(margins), happened
            ),
            f"{kind}_positives": float((labels & rows).sum()),
        }
        return head, {name: value for name, value in figures.items() if np.isfinite(value)}

    def _rows_and_labels(self, kind: str, data: Examples, part: str) -> tuple[Flags, Flags]:
        """bool[n] each: the rows that count, and those with an engagement of this kind."""
        engaged = np.asarray(data.engaged.get(kind, np.zeros(len(data), np.int8)), np.int8)
        labels, rows = engaged > 0, engaged != UNKNOWN
        if data.known_places and data.shown_at is not None:
            rows &= data.shown_at != UNKNOWN
        positives = int((labels & rows).sum())
        if positives < self.positives_min:
            raise TooFewEvents(
                f"{part} has {positives} of them among what was shown, at least "
                f"{self.positives_min} are needed"
            )
        check_teaching(data, labels & rows, f"{kind} in {part}")
        return rows, labels

    def _trees(
        self,
        train: tuple[Examples, Flags, Flags],
        validation: tuple[Examples, Flags, Flags],
        names: tuple[str, ...],
        seed: int,
        on_round: OnRound | None,
    ) -> BoostedScorer:
        matrix = self._matrix(*train, names)
        held_out = self._matrix(*validation, names, matrix)
        booster, trees, _ = grow(
            self._parameters(names, seed), matrix, held_out, self.boosted, on_round, rising=False
        )
        return BoostedScorer(train[0].spec(names), bytes(booster[:trees].save_raw("ubj")))

    def _matrix(
        self, data: Examples, labels: Flags, rows: Flags, names: tuple[str, ...], like: Any = None
    ) -> Any:  # Any: XGBoost has no types
        import xgboost  # noqa: PLC0415 - a second that only workers pay

        weights = user_weights(data.users, self.boosted.user_weight_power)
        return xgboost.QuantileDMatrix(
            data.matrix(names).values[rows],
            label=labels[rows].astype(np.float32),
            weight=weights[data.request_of_row[rows]],
            feature_names=list(names),
            missing=np.nan,
            nthread=self.boosted.threads,
            ref=like,
        )

    def _parameters(self, names: tuple[str, ...], seed: int) -> dict[str, Any]:
        # Any: XGBoost's own names and values
        config = self.boosted
        return {
            "objective": "binary:logistic",
            "eval_metric": "logloss",
            "tree_method": "hist",
            "max_depth": self.depth,
            "learning_rate": config.learning_rate,
            "min_child_weight": config.rows_per_leaf_min,
            "lambda": config.l2,
            "subsample": config.rows_share,
            "colsample_bytree": config.columns_share,
            "interaction_constraints": position_apart(names),
            "nthread": config.threads,
            "seed": seed,
            "verbosity": 0,
        }


_NOTE_PLACES = (
    "Heads learnt from what was shown, with its place as a feature; serving judges every candidate "
    "as if it stood first."
)
_NOTE_NO_PLACES = (
    "No places were logged: heads learnt from all candidates of a request, shown or not, and their "
    "probabilities are those of a candidate, not of an impression. There is no correction for "
    "position."
)


def _half_of_users(data: Examples, seed: int) -> Flags:
    """bool[n]: whether the row's user is in the first of two random halves."""
    users, user = np.unique(data.users, return_inverse=True)
    first = np.random.default_rng(seed).permutation(len(users)) % 2 == 0
    return np.asarray(first[user][data.request_of_row], np.bool_)
