"""Activities that are like one: by who engaged, what they are about, who made them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from feeds.model import ActivityId
from ranking.candidates import Query
from ranking.extractors.base import Vectors
from ranking.interning import UNKNOWN, Interner
from ranking.table import ActivityTable

__all__ = ["RELATIONS", "Related", "RelatedSource", "Seed", "related"]

RELATED_MAX: Final = 200
"""Related activities that are found at most, the nearest first."""

SCANNED_MAX: Final = 1_000
"""Activities whose factors are compared at most: the nearest by all else, then the newest."""

RELATIONS: Final[Mapping[str, tuple[float, str]]] = MappingProxyType(
    {
        "co_engaged": (1.0, "engaged with by the same people"),
        "factors": (0.8, "liked like it"),
        "same_tags": (0.6, "about the same"),
        "same_author": (0.3, "by the same author"),
    }
)
"""What each relation weighs in the strength, and what to tell the end user of it."""

Strengths = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Seed:
    """The activity to start from, by names: it need not be in the table."""

    position: bytes
    author: str
    tags: Sequence[str] = ()
    engagers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Related:
    """Rows of a table, int32[n], the nearest first; how near each is, and by which relation."""

    rows: npt.NDArray[np.int32]
    strengths: Strengths
    relations: Sequence[str]


def related(seed: Seed, table: ActivityTable, vectors: Vectors | None = None) -> Related:
    """At most `RELATED_MAX` activities that have anything to do with the seed; never itself.

    Each relation is a number from 0 to 1: the cosine of the sets of engagers, of tags and of the
    factors, and 1 for the same author. Cost: some 5 ms for 100,000 activities.
    """
    own = int(table.rows([seed.position])[0])
    parts = {
        "co_engaged": _cosine(table.names.users, seed.engagers, table.engagers),
        "same_tags": _cosine(table.names.tags, seed.tags, table.tags),
        "same_author": (table.author == _known(table.names.authors, seed.author)).astype(
            np.float32
        ),
    }
    if vectors is not None:
        parts["factors"] = _factors(seed, table, vectors, _strength(parts))
    strength = _strength(parts)
    strength[~table.alive] = 0
    if own >= 0:
        strength[own] = 0
    rows = np.flatnonzero(strength > 0)
    order = np.lexsort((table.tail[rows], -table.time_us[rows], -strength[rows]))[:RELATED_MAX]
    best = rows[order]
    weighted = np.array([RELATIONS[name][0] * part[best] for name, part in parts.items()])
    names = list(parts)
    return Related(
        best.astype(np.int32),
        strength[best],
        [names[place] for place in weighted.argmax(axis=0).tolist()] if len(best) else [],
    )


@dataclass(slots=True)
class RelatedSource:
    """Proposes what is related to a seed; afterwards `relations` tells by what, by activity."""

    seed: Seed
    vectors: Vectors | None = None
    quota: int = RELATED_MAX
    name: str = "related"
    relations: dict[ActivityId, str] = field(default_factory=dict)

    def propose(self, query: Query, table: ActivityTable) -> npt.NDArray[np.int32]:
        """The rows of what is related, the nearest first."""
        del query
        found = related(self.seed, table, self.vectors)
        self.relations = dict(zip(table.ids(found.rows), found.relations, strict=True))
        return found.rows


def _known(names: Interner, name: str) -> int:
    """The number of a name; one that nothing has where it is not known."""
    number = names.get(name)
    return number if number != UNKNOWN else -2


def _strength(parts: Mapping[str, Strengths]) -> Strengths:
    total: Strengths = np.sum(
        [RELATIONS[name][0] * part for name, part in parts.items()], axis=0, dtype=np.float32
    )
    return total


def _cosine(names: Interner, wanted: Sequence[str], held: npt.NDArray[np.int32]) -> Strengths:
    """The cosine of the wanted names with those of each row: shared / sqrt(wanted * held)."""
    marked = np.zeros(names.size + 1, dtype=np.bool_)
    marked[names.numbers(list(wanted))] = True
    marked[UNKNOWN] = False
    shared = marked[held].sum(axis=1)
    count = (held >= 0).sum(axis=1)
    cosine: Strengths = (shared / np.sqrt(np.maximum(count * len(wanted), 1))).astype(np.float32)
    return cosine


def _factors(seed: Seed, table: ActivityTable, vectors: Vectors, strength: Strengths) -> Strengths:
    """The cosine of the factors, where they are known and not opposed; 0 elsewhere."""
    alive = np.flatnonzero(table.alive)
    order = np.lexsort((-table.time_us[alive], -strength[alive]))[:SCANNED_MAX]
    rows = alive[order].astype(np.int32)
    found = np.zeros(len(table.alive), dtype=np.float32)
    of_rows = vectors.activity_vectors([seed.position, *table.positions(rows)])
    norms = np.linalg.norm(of_rows, axis=1)
    with np.errstate(all="ignore"):
        cosine = of_rows[1:] @ of_rows[0] / (norms[1:] * norms[0])
    found[rows] = np.clip(np.nan_to_num(cosine, nan=0.0, posinf=0.0, neginf=0.0), 0, 1)
    return found
