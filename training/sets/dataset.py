"""TrainingSet: requests with their candidates as flat arrays; features as of each request."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ranking.features import FeatureMatrix
from training.errors import TrainingError
from training.sets.replay import Answerable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NEGATIVES", "TrainingSet", "collect", "joined"]

POSITION = "position"
"""The feature that says where an activity was shown; a column of its own here."""

NEGATIVES = (
    "Negatives are the other candidates of the same request at that time, and nothing else: no "
    "activity counts as shown and passed over, and none is sampled from elsewhere."
)
"""What a label of 0 means; a sentence for every report."""


@dataclass(frozen=True)
class TrainingSet:
    """q requests with n candidates in all; the rows of a request lie together, in request order.

    Within a request rows are in the order of positions (newest first), so that a stable sort by
    score breaks ties as serving does.
    """

    names: tuple[str, ...]
    """The features, in column order."""
    values: npt.NDArray[np.float32]
    """float32[n, len(names)], NaN where missing."""
    labels: npt.NDArray[np.int8]
    """int8[n]: relevance, 0 for what was not touched in the request."""
    activities: npt.NDArray[np.int64]
    """int64[n]: the log index at which each candidate was posted."""
    sizes: npt.NDArray[np.int64]
    """int64[q]: candidates of each request, possibly none."""
    wanted: npt.NDArray[np.int64]
    """int64[q]: activities that were touched, candidates or not."""
    times_us: npt.NDArray[np.int64]
    """int64[q]: when each request was, microseconds since the epoch."""
    users: tuple[str, ...]
    """q users: whose request it was."""
    positions: npt.NDArray[np.int32] | None = None
    """int32[n]: the 0-based place where each was shown, -1 not known; None where none is."""
    engaged: npt.NDArray[np.int8] | None = None
    """int8[n, kinds]: 1 for an engagement of each of `ENGAGEMENT_KINDS`, 0 for none, -1 where it is
    too early to say; None where kinds are not told apart. Not kept by `save`."""

    def __len__(self) -> int:
        """How many requests there are."""
        return len(self.sizes)

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """int64[q + 1]: where each request's rows start, and the end of the last."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.sizes)])

    @property
    def request_of_row(self) -> npt.NDArray[np.int64]:
        """int64[n]: the request that each row belongs to."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.sizes)

    @property
    def relevant(self) -> npt.NDArray[np.int64]:
        """int64[q]: touched activities that are among the candidates."""
        counts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.labels > 0)])
        found: npt.NDArray[np.int64] = np.diff(counts[self.starts])
        return found

    @property
    def reach(self) -> float:
        """Share of the touched activities that were among the candidates at all; 0 of none."""
        return float(self.relevant.sum() / max(int(self.wanted.sum()), 1))

    @property
    def matrix(self) -> FeatureMatrix:
        """All rows as one feature matrix."""
        return FeatureMatrix(self.names, self.values)

    def columns(self, names: tuple[str, ...]) -> FeatureMatrix:
        """All rows with these features in this order, C-contiguous; itself if they are its own.

        `position` is 0 for all, as it is when serving.
        Raises `TrainingError` for a feature that training sets do not have.
        """
        if names == self.names:
            return self.matrix
        if unknown := [name for name in names if name not in (*self.names, POSITION)]:
            raise TrainingError(
                f"the model reads {', '.join(unknown)}, which no request of the past has: it can "
                "be served, not judged"
            )
        values = np.zeros((len(self.labels), len(names)), np.float32)
        for place, name in enumerate(names):
            if name in self.names:
                values[:, place] = self.values[:, self.names.index(name)]
        return FeatureMatrix(names, values)

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that change with any value, label or request."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update("\0".join((*self.names, "", *self.users)).encode())
        arrays = [self.values, self.labels, self.sizes, self.wanted, self.times_us]
        for array in arrays if self.positions is None else [*arrays, self.positions]:
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def save(self, path: Path) -> Path:
        """Write it as an uncompressed `.npz` file without pickle; returns the path."""
        with path.open("wb") as stream:
            np.savez(
                stream,
                allow_pickle=False,
                names=np.array(self.names, np.str_),
                values=self.values,
                labels=self.labels,
                activities=self.activities,
                sizes=self.sizes,
                wanted=self.wanted,
                times_us=self.times_us,
                users=np.array(self.users, np.str_),
                **({} if self.positions is None else {"positions": self.positions}),
            )
        return path

    @classmethod
    def load(cls, path: Path) -> "TrainingSet":
        """Read what `save` wrote; raises `TrainingError` where that is not what the file holds."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(
                    names=tuple(arrays["names"].tolist()),
                    values=arrays["values"],
                    labels=arrays["labels"],
                    activities=arrays["activities"],
                    sizes=arrays["sizes"],
                    wanted=arrays["wanted"],
                    times_us=arrays["times_us"],
                    users=tuple(arrays["users"].tolist()),
                    positions=arrays.get("positions"),
                )
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise TrainingError(
                f"{path} is not a training set ({error}); workers need the same files: give them a "
                "shared directory"
            ) from error

    def to_frame(self) -> "pd.DataFrame":
        """One row a candidate: request, user, time, activity, label, then the features."""
        import pandas as pd  # noqa: PLC0415 - half a second that only notebooks pay

        request = self.request_of_row
        head = pd.DataFrame(
            {
                "request": request,
                "user": np.array(self.users, object)[request],
                "time": pd.to_datetime(self.times_us[request], unit="us", utc=True),
                "activity": self.activities,
                "label": self.labels,
            }
        )
        return pd.concat([head, pd.DataFrame(self.values, columns=list(self.names))], axis=1)


def joined(first: TrainingSet, second: TrainingSet) -> TrainingSet:
    """The requests of both sets, which have the same features."""
    if first.names != second.names:
        raise ValueError("training sets of different features cannot be joined")
    return TrainingSet(
        names=first.names,
        values=np.concatenate([first.values, second.values]),  # noqa: PD011 - no pandas
        labels=np.concatenate([first.labels, second.labels]),
        activities=np.concatenate([first.activities, second.activities]),
        sizes=np.concatenate([first.sizes, second.sizes]),
        wanted=np.concatenate([first.wanted, second.wanted]),
        times_us=np.concatenate([first.times_us, second.times_us]),
        users=first.users + second.users,
        positions=None
        if first.positions is None and second.positions is None
        else np.concatenate([_places(first), _places(second)]),
    )


def _places(data: TrainingSet) -> npt.NDArray[np.int32]:
    if data.positions is None:
        return np.full(len(data.labels), -1, np.int32)
    return data.positions


def collect(
    answerables: Iterable[Answerable], names: tuple[str, ...], *, teaching: bool = False
) -> TrainingSet:
    """The requests as one set.

    With `teaching`, requests that have nothing to compare are left out: those without a relevant
    candidate, or with no other.
    """
    kept = list(_teaching(answerables) if teaching else answerables)
    none = np.zeros((0, len(names)), np.float32)
    return TrainingSet(
        names=names,
        values=np.concatenate([none, *(a.features.values for a in kept)]),  # noqa: PD011 - no pandas
        labels=np.concatenate([np.zeros(0, np.int8), *(a.labels for a in kept)]),
        activities=np.concatenate([np.zeros(0, np.int64), *(a.activities for a in kept)]),
        sizes=np.array([len(a.labels) for a in kept], np.int64),
        wanted=np.array([len(a.request.labels) for a in kept], np.int64),
        times_us=np.array([a.request.now_us for a in kept], np.int64),
        users=tuple(a.request.user for a in kept),
        positions=np.concatenate([a.positions for a in kept])
        if any(a.request.shown for a in kept)
        else None,
    )


def _teaching(answerables: Iterable[Answerable]) -> Iterator[Answerable]:
    return (a for a in answerables if len(np.unique(a.labels)) > 1)
