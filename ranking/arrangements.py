"""Rules for a page: what stands beside what, and what has a place of its own.

An arrangement moves candidates within a selection; it never drops one and never changes how many
are selected, so whatever it passes over is in a later place or in the reserve.
"""

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from feeds.model import Position
from ranking.buckets import IMPRESSION
from ranking.candidates import Candidates, Query
from ranking.follows import followed
from ranking.interning import UNKNOWN
from ranking.selectors import Selection, window_size
from ranking.table import ActivityTable
from ranking.vectors import Vectors, unit_vectors

__all__ = [
    "Arrangement",
    "Diversity",
    "NewAuthorLift",
    "PageRules",
    "PinnedActivity",
    "Pins",
]

Mask = npt.NDArray[np.bool_]


class Arrangement(Protocol):
    """Moves candidates of a selection to other places."""

    @property
    def name(self) -> str:
        """The arrangement's name, such as `pins`."""
        ...

    def arrange(
        self, selection: Selection, query: Query, candidates: Candidates, table: ActivityTable
    ) -> Selection:
        """The same candidates and as many selected, in another order."""
        ...


@dataclass(frozen=True, slots=True)
class PageRules:
    """Fills each place with the best candidate that every rule allows.

    `per_author` and `per_tag` hold within each page of `page_size` places, `in_row_author` and
    `in_row_tag` for neighbours, the `outside` shares from the top to any place: of the first n, at
    least `outside_min * n` (rounded down) and at most `outside_max * n` (rounded up) come from
    outside of the user's follows. Where no candidate that is left keeps all rules, the shares give
    way, and then the caps. Cost: O(places * candidates / 16) in numpy, about 20 us a place.
    """

    page_size: int = 25
    per_author: int | None = None
    per_tag: int | None = None
    in_row_author: int | None = None
    in_row_tag: int | None = None
    outside_min: float = 0.0
    outside_max: float = 1.0
    name: str = "rules"

    def arrange(
        self, selection: Selection, query: Query, candidates: Candidates, table: ActivityTable
    ) -> Selection:
        """The selected places filled anew; the rest follow in the order they had."""
        rows = candidates.rows[selection.order]
        places = _Places(self, table.author[rows], table.tags[rows], ~followed(query, table)(rows))
        ranks = [places.fill(place) for place in range(selection.count)]
        order = np.concatenate([selection.order[ranks], selection.order[places.left]])
        return selection.reordered(order.astype(np.intp))


@dataclass(slots=True)
class _Places:
    """The places as they fill up; everything is by rank in the selection's order."""

    rules: PageRules
    authors: npt.NDArray[np.int32]
    tags: npt.NDArray[np.int32]
    outside: Mask
    left: Mask = field(init=False)
    _capped: Mask = field(init=False)
    _on_page: Counter[tuple[str, int]] = field(default_factory=Counter)
    _authors_before: deque[int] = field(init=False)
    _tags_before: deque[set[int]] = field(init=False)
    _outside_count: int = 0

    def __post_init__(self) -> None:
        """Nothing is placed yet."""
        self.left = np.ones(len(self.authors), dtype=np.bool_)
        self._capped = np.zeros(len(self.authors), dtype=np.bool_)
        self._authors_before = deque(maxlen=self.rules.in_row_author or 1)
        self._tags_before = deque(maxlen=self.rules.in_row_tag or 1)

    def fill(self, place: int) -> int:
        """The rank that goes to the next place; it is no longer left."""
        if place % self.rules.page_size == 0:
            self._on_page.clear()
            self._capped[:] = False
        kept = self.left & ~self._capped & ~self._too_long_a_row()
        rank = _first(kept & self._wanted_side(place))
        rank = _first(kept) if rank is None else rank
        rank = _first(self.left) if rank is None else rank
        if rank is None:
            raise ValueError(f"place {place} is to be filled, and no candidate is left")
        self._note(rank)
        return rank

    def _note(self, rank: int) -> None:
        rules, author = self.rules, int(self.authors[rank])
        tags = {tag for tag in self.tags[rank].tolist() if tag != UNKNOWN}
        self.left[rank] = False
        self._outside_count += bool(self.outside[rank])
        self._authors_before.append(author)
        self._tags_before.append(tags)
        if self._is_full("author", author, rules.per_author):
            self._capped |= self.authors == author
        for tag in tags:
            if self._is_full("tag", tag, rules.per_tag):
                self._capped |= (self.tags == tag).any(axis=1)

    def _is_full(self, what: str, number: int, cap: int | None) -> bool:
        self._on_page[what, number] += 1
        return cap is not None and self._on_page[what, number] >= cap

    def _too_long_a_row(self) -> Mask:
        """What would make a row of one author, or of one tag, longer than allowed."""
        rules, long = self.rules, np.zeros(len(self.left), dtype=np.bool_)
        authors, tags = self._authors_before, self._tags_before
        if rules.in_row_author == len(authors) and len(set(authors)) == 1:
            long |= self.authors == authors[0]
        if rules.in_row_tag == len(tags):
            shared = list(set.intersection(*tags))
            long |= np.isin(self.tags, shared).any(axis=1)
        return long

    def _wanted_side(self, place: int) -> Mask:
        """Where the shares leave a choice, everything; else what lies outside, or inside."""
        rules, count = self.rules, self._outside_count
        if count < math.floor(rules.outside_min * (place + 1)):
            return self.outside
        if count >= math.ceil(rules.outside_max * (place + 1)):
            return ~self.outside
        return self.left


def _first(mask: Mask) -> int | None:
    """The first rank of a mask, None where there is none."""
    rank = int(mask.argmax()) if len(mask) else 0
    return rank if len(mask) and mask[rank] else None


@dataclass(frozen=True, slots=True)
class Diversity:
    """What resembles the places above it gives way: maximal marginal relevance.

    Carbonell and Goldstein (1998). The next place goes to the highest `relevance * rank - (1 -
    relevance) * likeness`, where rank falls from 1 to 0 over the window and likeness is the highest
    cosine to what stands above, 0 at least, and 0 for an activity that the model does not know.
    Cost: O(places * window) in numpy.
    """

    relevance: float
    vectors: Vectors
    name: str = "diversity"

    def arrange(
        self, selection: Selection, query: Query, candidates: Candidates, table: ActivityTable
    ) -> Selection:
        """The best of the window in places that differ; the rest follow in the order they had."""
        del query
        size = min(window_size(selection.count), len(selection.order))
        window, behind = np.split(selection.order, [size])
        vectors = self.vectors.activity_vectors(table.positions(candidates.rows[window]))
        ranks = self._ranks(unit_vectors(vectors), selection.count)
        left = np.delete(window, ranks)
        return selection.reordered(np.concatenate([window[ranks], left, behind]))

    def _ranks(self, units: npt.NDArray[np.float64], count: int) -> list[int]:
        worth = self.relevance * (1 - np.arange(len(units)) / max(1, len(units)))
        likeness = np.zeros(len(units))
        ranks: list[int] = []
        for _ in range(count):
            rank = int(np.argmax(worth - (1 - self.relevance) * likeness))
            ranks.append(rank)
            worth[rank] = -np.inf
            # Row by row, so that a sum does not depend on how many rows there are, as in BLAS.
            likeness = np.maximum(likeness, np.einsum("nd,d->n", units, units[rank]))
        return ranks


@dataclass(frozen=True, slots=True)
class NewAuthorLift:
    """The best activities of authors that few have seen stand in these places, or above them.

    An author is new below `impressions_max` impressions of all of its activities together. What is
    lifted stays in its place whatever chance decides.
    """

    position: int = 14
    places: int = 2
    impressions_max: int = 1_000
    name: str = "new_author"

    def arrange(
        self, selection: Selection, query: Query, candidates: Candidates, table: ActivityTable
    ) -> Selection:
        """The selection with the first new authors behind `position` moved up to it."""
        del query
        if selection.count <= self.position:
            return selection
        authors = table.author[candidates.rows[selection.order]]
        seen = table.author_counts.totals[authors, IMPRESSION]
        behind = np.flatnonzero(seen[self.position :] < self.impressions_max) + self.position
        lifted = selection.order[behind[: self.places]]
        moved = [
            candidate
            for place, candidate in enumerate(lifted.tolist(), start=self.position)
            if selection.order[place] != candidate and place < selection.count
        ]
        rest = np.delete(selection.order, behind[: self.places])
        order = np.insert(rest, self.position, lifted)
        return selection.reordered(order, dict.fromkeys(moved, self.name))


@dataclass(frozen=True, slots=True)
class PinnedActivity:
    """An activity and the place that it is to have, 0-based."""

    activity: Position
    place: int


@dataclass(frozen=True, slots=True)
class Pins:
    """Activities that stand in a place of their own, if they are candidates at all.

    Pins beyond the last candidate stand at the end. Neither score nor chance moves them.
    """

    pins: Sequence[PinnedActivity]
    name: str = "pin"

    def arrange(
        self, selection: Selection, query: Query, candidates: Candidates, table: ActivityTable
    ) -> Selection:
        """The selection with every pin in its place; what stood there moves down."""
        del query
        rows = table.rows([pin.activity for pin in self.pins]).tolist()
        pinned = {
            int(candidate): pin.place
            for pin, row in zip(self.pins, rows, strict=True)
            for candidate in np.flatnonzero(candidates.rows == row)
        }
        order = selection.order[~np.isin(selection.order, list(pinned))]
        for candidate, place in sorted(pinned.items(), key=lambda pin: pin[1]):
            order = np.insert(order, min(place, len(order)), candidate)
        return selection.reordered(order, dict.fromkeys(pinned, self.name))
