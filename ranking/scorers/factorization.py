"""Matrix factorization in the manner of LightFM, evaluated with numpy alone.

A user and an activity are vectors; their dot product plus both biases is the score. An activity
that was not there at training is represented by the sum of its tags' vectors, LightFM's way
(Kula 2015, "Metadata embeddings for user and item cold-start recommendations").
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat
from typing import Any, Final, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt

from feeds.model import UserId
from ranking.arrays import Arrays, ArrayShape, pack_arrays, unpack_arrays
from ranking.errors import BundleDamaged
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.scorers.base import column_places, only_added

__all__ = ["Embeddings", "FactorTable", "FactorizationScorer"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Name = TypeVar("Name", str, bytes)

_POSITION_BYTES: Final = 16
_MATRIX: Final = 2
_COLUMNS: Final = ("factor_dot", "factor_bias")
_FILE: Final = "factors.npz"
_NAMED: Final = ("user", "tag")
_SHAPES: Final = {
    f"{side}_{part}": shape
    for side in (*_NAMED, "activity")
    for part, shape in (("factors", ArrayShape("<f4", 2)), ("biases", ArrayShape("<f4", 1)))
} | {
    f"{side}_{part}": shape
    for side in _NAMED
    for part, shape in (("names", ArrayShape("|u1", 1)), ("ends", ArrayShape("<i8", 1)))
}
_SHAPES["activity_positions"] = ArrayShape("|u1", 2)


@dataclass(frozen=True, slots=True)
class Embeddings(Generic[Name]):
    """Vectors of one kind of thing: names[n], factors float32[n, d], biases float32[n].

    Users and tags are named by their text, activities by the 16 bytes of their position. Raises
    `ValueError` for a name that comes twice, shapes that do not fit, and numbers not finite.
    """

    names: Sequence[Name]
    factors: Floats
    biases: Floats

    def __post_init__(self) -> None:
        """Refuse what is not as the docstring says."""
        if self.factors.dtype != np.float32 or self.biases.dtype != np.float32:
            raise ValueError("factors and biases must be float32")
        rows = len(self.names)
        if (
            self.factors.ndim != _MATRIX
            or len(self.factors) != rows
            or self.biases.shape != (rows,)
        ):
            raise ValueError(f"{rows} names need factors [{rows}, d] and biases [{rows}]")
        if not (np.isfinite(self.factors).all() and np.isfinite(self.biases).all()):
            raise ValueError("factors and biases must be finite: training diverged")
        if len(set(self.names)) != rows:
            raise ValueError("a name comes twice")

    @property
    def dimensions(self) -> int:
        """Components of each vector."""
        return int(self.factors.shape[1])

    def sorted(self) -> "Embeddings[Name]":
        """The same vectors, rows in order of their names, contiguous in memory."""
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        return Embeddings(
            [self.names[place] for place in order],
            np.ascontiguousarray(self.factors[order]),
            np.ascontiguousarray(self.biases[order]),
        )

    def rows(self) -> dict[Name, int]:
        """The row of each name."""
        return {name: row for row, name in enumerate(self.names)}


class FactorTable:
    """The vectors of a tenant's users, activities and tags, all of `dimensions`. Immutable.

    An activity's own vector already includes its tags'.
    """

    def __init__(
        self, users: Embeddings[str], activities: Embeddings[bytes], tags: Embeddings[str]
    ) -> None:
        if not users.dimensions == activities.dimensions == tags.dimensions:
            raise ValueError("users, activities and tags must have equally many factors")
        if any(len(position) != _POSITION_BYTES for position in activities.names):
            raise ValueError("an activity is named by the 16 bytes of its position")
        self.dimensions = users.dimensions
        self._users, self._activities, self._tags = (
            users.sorted(),
            activities.sorted(),
            tags.sorted(),
        )
        self._user_rows = self._users.rows()
        self._activity_rows = self._activities.rows()
        self._tag_rows = self._tags.rows()

    def user_vector(self, user: UserId) -> Floats | None:
        """The user's vector, float32[d]; None if the user was not there at training."""
        row = self._user_rows.get(user)
        return None if row is None else self._users.factors[row]

    @property
    def user_names(self) -> Sequence[str]:
        """Every user that has a vector."""
        return self._users.names

    def user_bias(self, user: UserId) -> float:
        """The user's own bias, the same for every activity; NaN if the user is unknown."""
        row = self._user_rows.get(user)
        return math.nan if row is None else float(self._users.biases[row])

    def activity_vectors(self, positions: Sequence[bytes]) -> Floats:
        """The activities' own vectors, float32[n, d]; a row of NaN where there is none."""
        rows = self._rows_of(positions)
        vectors = np.full((len(rows), self.dimensions), np.nan, np.float32)
        known = np.flatnonzero(rows >= 0)
        vectors[known] = self._activities.factors[rows[known]]
        return vectors

    def dot(
        self, user: UserId, positions: Sequence[bytes], tags: Ints, tag_names: Sequence[str]
    ) -> tuple[Floats, Floats]:
        """(dot products, activities' biases) of a user with n activities: two float32[n].

        With the user's own bias, which moves all alike, they add up to LightFM's prediction.
        `tags` is int32[n, k], numbers into `tag_names`, -1 where there is none; it is looked at for
        activities without a vector of their own. Both are NaN for such an activity without a known
        tag, and throughout for an unknown user. A value depends on its own activity alone: other
        candidates do not move a bit of it.
        """
        row = self._user_rows.get(user)
        dots = np.full(len(positions), np.nan, np.float32)
        biases = np.full(len(positions), np.nan, np.float32)
        if row is None:
            return dots, biases
        vector = self._users.factors[row]
        rows = self._rows_of(positions)
        known = np.flatnonzero(rows >= 0)
        if len(known) == len(rows):
            vectors = self._activities.factors.take(rows, axis=0)
            return _dots(vectors, vector), self._activities.biases.take(rows)
        dots[known] = _dots(self._activities.factors.take(rows[known], axis=0), vector)
        biases[known] = self._activities.biases.take(rows[known])
        if len(known) < len(rows):
            cold = np.flatnonzero(rows < 0)
            dots[cold], biases[cold] = self._cold(vector, tags[cold], tag_names)
        return dots, biases

    def _cold(self, vector: Floats, tags: Ints, tag_names: Sequence[str]) -> tuple[Floats, Floats]:
        """Sums over the known tags of each row; a sum of dot products is the dot of the sum."""
        distinct = _distinct(tags, len(tag_names))
        rows = _found(
            map(self._tag_rows.get, map(tag_names.__getitem__, distinct.tolist()), repeat(-1))
        )
        places = np.zeros(len(tag_names) + 1, np.int32)  # tag -1 reads the last one: nothing
        known = np.flatnonzero(rows >= 0)
        places[distinct[known]] = np.arange(1, len(known) + 1, dtype=np.int32)
        rows = rows[known]
        zero = np.zeros(1, np.float32)
        dots = np.concatenate((zero, _dots(self._tags.factors.take(rows, axis=0), vector)))
        biases = np.concatenate((zero, self._tags.biases.take(rows)))
        wanted = places[tags]
        unknown = ~wanted.any(axis=1)
        sums = _sum_columns(dots[wanted]), _sum_columns(biases[wanted])
        for column in sums:
            column[unknown] = np.nan
        return sums

    def _rows_of(self, positions: Sequence[bytes]) -> Ints:
        return _found(map(self._activity_rows.get, positions, repeat(-1)))

    def pack(self) -> bytes:
        """The table as the bytes of `factors.npz`; equal tables give equal bytes."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "activity_positions": np.frombuffer(b"".join(self._activities.names), np.uint8).reshape(
                -1, _POSITION_BYTES
            )
        }
        for side, named in (("user", self._users), ("tag", self._tags)):
            encoded = [name.encode() for name in named.names]
            arrays[f"{side}_names"] = np.frombuffer(b"".join(encoded), np.uint8)
            arrays[f"{side}_ends"] = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        sides = (("user", self._users), ("tag", self._tags), ("activity", self._activities))
        for side, embeddings in sides:
            arrays[f"{side}_factors"] = embeddings.factors
            arrays[f"{side}_biases"] = embeddings.biases
        return pack_arrays(arrays)

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Read the bytes of a `factors.npz`; raises `BundleDamaged` for what is no such file."""
        arrays = unpack_arrays(content, _FILE, _SHAPES)
        try:
            return cls(
                _embeddings(arrays, "user", _names(arrays["user_names"], arrays["user_ends"])),
                _embeddings(arrays, "activity", _positions(arrays["activity_positions"])),
                _embeddings(arrays, "tag", _names(arrays["tag_names"], arrays["tag_ends"])),
            )
        except ValueError as error:  # UnicodeDecodeError is one
            raise BundleDamaged(
                f"{_FILE} is damaged: {error}; fetch the bundle again, or train anew"
            ) from error


class FactorizationScorer:
    """Scores with the factorization alone: the columns `factor_dot` + `factor_bias`."""

    name = "factorization"

    def __init__(self, spec: FeatureSpec | None = None) -> None:
        self.spec = FeatureSpec(_COLUMNS) if spec is None else spec
        column_places(self.name, _COLUMNS, self.spec.names)

    def score(self, features: FeatureMatrix) -> Floats:
        """Higher for what suits the user, float32[n]; NaN where user or activity are unknown."""
        dot, bias = column_places(self.name, _COLUMNS, features.names)
        total: Floats = features.values[:, dot] + features.values[:, bias]
        return total

    def contributions(self, features: FeatureMatrix) -> Floats:
        """Both columns as they are, float32[n, F + 1]."""
        places = column_places(self.name, _COLUMNS, features.names)
        return only_added(features, {place: features.values[:, place] for place in places})


def _embeddings(arrays: Arrays, side: str, names: Sequence[Name]) -> Embeddings[Name]:
    return Embeddings(names, arrays[f"{side}_factors"], arrays[f"{side}_biases"])


def _positions(packed: npt.NDArray[np.uint8]) -> list[bytes]:
    if packed.shape[1] != _POSITION_BYTES:
        raise ValueError(f"positions must have {_POSITION_BYTES} bytes")
    return [row.tobytes() for row in packed]


def _names(packed: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> list[str]:
    places = [0, *ends.tolist()]
    if places[-1] != len(packed) or any(start > end for start, end in pairwise(places)):
        raise ValueError("names do not end where they should")
    text = packed.tobytes()
    return [text[start:end].decode() for start, end in pairwise(places)]


def _found(rows: Iterator[int]) -> Ints:
    return np.fromiter(rows, np.int32)


def _dots(vectors: Floats, vector: Floats) -> Floats:
    """Row by row, so that a row's bits do not depend on how many rows there are, as in BLAS."""
    dots: Floats = np.einsum("nd,d->n", vectors, vector)
    return dots


def _sum_columns(values: Floats) -> Floats:
    """Sums over few columns from left to right, whatever the number of rows."""
    total = values[:, 0].copy() if values.shape[1] else np.zeros(len(values), np.float32)
    for column in range(1, values.shape[1]):
        total += values[:, column]
    return total


def _distinct(tags: Ints, count: int) -> npt.NDArray[np.intp]:
    seen = np.zeros(count + 1, np.bool_)
    seen[tags.ravel()] = True
    return np.flatnonzero(seen[:-1])
