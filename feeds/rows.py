"""Rows of feeds in order: scanning in bounded chunks, and merging pulled targets.

A row is handled as its suffix, the bytes behind tenant and feed in its key: position (16), then the
text of its origin. Suffixes sort as rows do, newest first, so rows of several feeds merge as bytes.
Its value is the log index of the command that wrote it, 8 bytes, which sort as the indexes do.
"""

import heapq
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import eq
from typing import Any

from feeds.keys import POSITION_BYTES, FeedRowKey, PulledKey, after, write_number
from feeds.model import Position
from feeds.store.base import View
from feeds.values import PulledEdge, decode_pulled

__all__ = [
    "distinct",
    "feed_rows",
    "home_rows",
    "positions_in",
    "pulled_edges",
    "pulled_rows",
    "scan",
    "visible_rows",
]

CHUNK_MIN = 32
CHUNK_MAX = 1_024
SHAPES_MAX = 128
"""Shapes of pages that are kept ready: up to 64 kB each, and 40 ns a row to make anew."""
_INVERT = 0xFFFF_FFFF_FFFF_FFFF


def scan(
    view: View, family: str, start: bytes, stop: bytes, chunk: int = CHUNK_MAX
) -> Iterator[tuple[bytes, bytes]]:
    """Pairs from `start` to `stop`, read in chunks that grow from `chunk`: as few as are used."""
    size = max(CHUNK_MIN, min(chunk, CHUNK_MAX))
    while True:
        pairs = list(view.scan(family, start, stop, size))
        yield from pairs
        if len(pairs) < size:
            return
        start = pairs[-1][0] + b"\0"
        size = min(2 * size, CHUNK_MAX)


def feed_rows(
    view: View, tenant: str, feed: str, behind: bytes = b"", chunk: int = CHUNK_MAX
) -> Iterator[tuple[bytes, bytes]]:
    """(suffix, value) of every stored row of a feed behind the suffix `behind`."""
    prefix = FeedRowKey.prefix(tenant, feed)
    length = len(prefix)
    for key, value in scan(view, "feeds", prefix + behind, after(prefix), chunk):
        yield key[length:], value


def positions_in(keys: Sequence[bytes], length: int) -> list[Position]:
    """The positions in keys of one feed, each once; `length` is that of tenant and feed in them.

    Origins are of any length, so the keys are packed side by side, each up to the end of its
    position, and the positions unpacked: two calls, in 0.4 of the time of a slice for each key.
    """
    pack, unpack = _side_by_side(length, len(keys))
    return distinct(list(unpack(pack(*keys))))


def distinct(positions: list[Position]) -> list[Position]:
    """Positions in order, where the same stand side by side, each once."""
    behind = iter(positions)
    next(behind, None)
    return list(dict.fromkeys(positions)) if any(map(eq, positions, behind)) else positions


@lru_cache(maxsize=SHAPES_MAX)
def _side_by_side(
    length: int, count: int
) -> tuple[Callable[..., bytes], Callable[[bytes], tuple[Any, ...]]]:
    """What packs `count` keys up to their positions, and what unpacks these. Any: bytes."""
    heads = struct.Struct(f"{length + POSITION_BYTES}s" * count)
    positions = struct.Struct(f"{length}x{POSITION_BYTES}s" * count)
    return heads.pack, positions.unpack


def home_rows(
    view: View, tenant: str, feed: str, behind: bytes = b"", chunk: int = CHUNK_MAX
) -> Iterator[tuple[bytes, bytes]]:
    """(position, value) of what was posted to the feed itself, newest first."""
    for row in feed_rows(view, tenant, feed, behind, chunk):
        if len(row[0]) == POSITION_BYTES:
            yield row


def pulled_edges(view: View, tenant: str, feed: str) -> dict[str, PulledEdge]:
    """The targets that are merged into a feed when it is read."""
    prefix = PulledKey.prefix(tenant, feed)
    return {
        key[len(prefix) :].decode(): decode_pulled(value)
        for key, value in scan(view, "follows", prefix, after(prefix))
    }


def pulled_rows(
    view: View,
    tenant: str,
    target: str,
    edge: PulledEdge,
    *,
    scan_max: int,
    behind: bytes = b"",
) -> Iterator[tuple[bytes, bytes]]:
    """(suffix, value) of the rows of `target` that belong to the follower with this edge.

    Those not older than the edge's `since_us`, and those posted after it. Of the rows that are
    older, `scan_max` are looked through for late ones.
    """
    origin = target.encode()
    since = (_INVERT - edge.since_us).to_bytes(8)
    index = write_number(edge.index)
    older = 0
    for position, value in home_rows(view, tenant, target, behind, CHUNK_MIN):
        if position[:8] <= since or value > index:
            yield position + origin, value
        elif (older := older + 1) >= scan_max:
            return


def visible_rows(
    view: View,
    tenant: str,
    feed: str,
    edges: Mapping[str, PulledEdge],
    *,
    scan_max: int,
    behind: bytes = b"",
    chunk: int = CHUNK_MAX,
) -> Iterator[tuple[bytes, bytes]]:
    """(suffix, value) of a feed's rows, merged with those of its pulled `edges`, newest first.

    A row that is both stored and pulled comes twice, side by side.
    """
    own = feed_rows(view, tenant, feed, behind, chunk)
    if not edges:
        return own
    pulled = (
        pulled_rows(view, tenant, target, edge, scan_max=scan_max, behind=behind)
        for target, edge in edges.items()
    )
    return heapq.merge(own, *pulled)
