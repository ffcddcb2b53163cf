"""What a model learnt from, in bins: the histograms of its training set, kept with the version.

Bins end at exact quantiles of the column (values of it, no sketch), which counts nothing twice
and depends on no later sample. A value that fills a bin alone has one to itself, so that a column
that was constant shows a move to either side; what is missing has the last bin.
"""

from typing import Annotated, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from ranking.scorers.base import Scorer
from training.errors import TrainingError
from training.sets.dataset import TrainingSet

__all__ = [
    "BINS",
    "HISTOGRAMS",
    "Histogram",
    "TrainingHistograms",
    "training_histograms",
]

HISTOGRAMS: Final = "training_histograms.json"
"""The document of a version that holds them."""

BINS: Final = 10
"""Bins of a column that has as many values, at its deciles."""

SHAPE_BINS: Final = 40
"""Bins of equal width that the scores are drawn by."""

_EDGES_MAX: Final = 64
_COLUMNS_MAX: Final = 512
_VERSION: Final = 1

Numbers = npt.NDArray[np.floating]
Edges = Annotated[tuple[float, ...], msgspec.Meta(max_length=_EDGES_MAX)]
Counts = Annotated[
    tuple[Annotated[int, msgspec.Meta(ge=0)], ...], msgspec.Meta(max_length=_EDGES_MAX + 2)
]


class Histogram(msgspec.Struct, frozen=True):
    """A column's rows by bin: bin i has the values above edge i - 1, up to and with edge i.

    `edges` rise; `counts` has the bins, one more than edges, then the rows that are NaN.
    """

    edges: Edges
    counts: Counts

    def __post_init__(self) -> None:
        """Refuse what is no histogram; raises `ValueError`."""
        edges = np.asarray(self.edges, np.float64)
        if not (np.isfinite(edges).all() and (np.diff(edges) > 0).all()):
            raise ValueError("the edges of a histogram do not rise")
        if len(self.counts) != len(self.edges) + 2 or not sum(self.counts):
            raise ValueError("a histogram has two counts more than edges, not all of them 0")

    @classmethod
    def of(cls, sample: Numbers, bins: int = BINS) -> "Histogram":
        """Rows by bins at the quantiles of the sample, float[n], n above 0."""
        return _counted(sample, _quantile_edges(sample, bins))

    @classmethod
    def even(cls, sample: Numbers, bins: int = SHAPE_BINS) -> "Histogram":
        """Rows by bins of equal width, to be drawn: from the least to the largest of the sample."""
        finite = sample[np.isfinite(sample)].astype(np.float64)
        edges = np.linspace(finite.min(), finite.max(), bins + 1) if len(finite) else np.zeros(0)
        return _counted(sample, np.unique(edges))

    def again(self, sample: Numbers) -> "Histogram":
        """Another sample, float[n], n above 0, by the same bins."""
        return _counted(sample, np.asarray(self.edges, np.float64))

    @property
    def rows(self) -> int:
        """How many rows were counted."""
        return sum(self.counts)

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """float64[bins + 1]: the share of each bin, and of the missing; they add up to 1."""
        return np.asarray(self.counts, np.float64) / self.rows

    @property
    def missing(self) -> float:
        """Share of the rows that are NaN."""
        return self.counts[-1] / self.rows


class TrainingHistograms(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of a training set of `requests`, and the scores that the model gives its rows.

    Its rows were `shown` to users, or else are all candidates of a request. Scores are of rows that
    the model learnt from: trees know them a little better than what comes later.
    """

    version: Literal[1] = _VERSION
    scorer: str
    shown: bool
    requests: int
    features: Annotated[dict[str, Histogram], msgspec.Meta(max_length=_COLUMNS_MAX)]
    score: Histogram
    score_shape: Histogram

    def to_json(self) -> bytes:
        """As JSON; floats come back as they were."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, document: bytes) -> "TrainingHistograms":
        """Read what `to_json` wrote; raises `TrainingError` for what is no such document."""
        try:
            return msgspec.json.decode(document, type=cls)
        except (msgspec.MsgspecError, ValueError) as error:
            raise TrainingError(
                f"{HISTOGRAMS} of the version cannot be read ({error}): train a new version"
            ) from error


def training_histograms(data: TrainingSet, scorer: Scorer) -> bytes:
    """The document of what a model learnt from, a row or more; memory is a column at a time."""
    scores = scorer.score(data.columns(scorer.spec.names))
    return TrainingHistograms(
        scorer=scorer.name,
        shown=data.positions is not None and bool((data.positions >= 0).any()),
        requests=len(data),
        features={name: Histogram.of(data.values[:, at]) for at, name in enumerate(data.names)},
        score=Histogram.of(scores),
        score_shape=Histogram.even(scores),
    ).to_json()


def _counted(sample: Numbers, edges: npt.NDArray[np.float64]) -> Histogram:
    values = np.asarray(sample, np.float64)
    places = np.searchsorted(edges, values, side="left")
    places[np.isnan(values)] = len(edges) + 1
    counts = np.bincount(places, minlength=len(edges) + 2)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def _quantile_edges(sample: Numbers, bins: int) -> npt.NDArray[np.float64]:
    """The inner quantiles, all values of the sample; one more below a value that fills a bin."""
    finite = sample[np.isfinite(sample)].astype(np.float64)
    if not len(finite):
        return np.zeros(0)
    levels = np.arange(1, bins) / bins
    edges, times = np.unique(np.quantile(finite, levels, method="inverted_cdf"), return_counts=True)
    return np.unique(np.concatenate([edges, np.nextafter(edges[times > 1], -np.inf)]))
