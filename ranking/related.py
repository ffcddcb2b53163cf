"""Activities that are like one: by who engaged, what they are about, who made them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from feeds.model import ActivityId
from ranking.candidates import Query
from ranking.interning import UNKNOWN, Interner
from ranking.table import ActivityTable
from ranking.vectors import Vectors

__all__ = ["RELATIONS", "Related", "RelatedSource", "Seed", "newest_rows", "related"]

RELATED_MAX: Final = 200
"""Related activities that are found at most, the nearest first."""

LOOKED_MAX: Final = 20_000
"""Activities that are looked at, the newest."""

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
    factors, and 1 for the same author. The newest `LOOKED_MAX` are looked at: some 5 ms.
    """
    rows = newest_rows(table, LOOKED_MAX)
    author = _known(table.names.authors, seed.author)
    parts = {
        "co_engaged": _cosine(table.names.users, seed.engagers, table.engagers[rows]),
        "same_tags": _cosine(table.names.tags, seed.tags, table.tags[rows]),
        "same_author": (table.author[rows] == author).astype(np.float32),
    }
    if vectors is not None:
        parts["factors"] = _factors(seed, rows, table, vectors, _strength(parts))
    strength = _strength(parts)
    near = np.flatnonzero((strength > 0) & (rows != table.rows([seed.position])[0]))
    keys = (table.tail[rows[near]], -table.time_us[rows[near]], -strength[near])
    best = near[np.lexsort(keys)][:RELATED_MAX]
    names = list(parts)
    weighted = np.array([RELATIONS[name][0] * part[best] for name, part in parts.items()])
    relations = [names[place] for place in weighted.argmax(axis=0).tolist()]
    return Related(rows[best], strength[best], relations)


def newest_rows(table: ActivityTable, limit: int) -> npt.NDArray[np.int32]:
    """The rows of the newest activities, int32, in no order; about 1 ms of 100,000."""
    rows = table.alive_rows()
    if len(rows) > limit:
        rows = rows[np.argpartition(-table.time_us[rows], limit)[:limit]]
    return rows.astype(np.int32)


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


def _factors(
    seed: Seed,
    rows: npt.NDArray[np.int32],
    table: ActivityTable,
    vectors: Vectors,
    strength: Strengths,
) -> Strengths:
    """The cosine of the factors, where they are known and not opposed; 0 elsewhere."""
    scanned = np.lexsort((-table.time_us[rows], -strength))[:SCANNED_MAX]
    found = np.zeros(len(rows), dtype=np.float32)
    of_rows = vectors.activity_vectors([seed.position, *table.positions(rows[scanned])])
    norms = np.linalg.norm(of_rows, axis=1)
    with np.errstate(all="ignore"):
        cosine = of_rows[1:] @ of_rows[0] / (norms[1:] * norms[0])
    found[scanned] = np.clip(np.nan_to_num(cosine, nan=0.0, posinf=0.0, neginf=0.0), 0, 1)
    return found
