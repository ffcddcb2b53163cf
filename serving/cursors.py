"""Pages of a ranked feed: a slate is pinned while its reader turns pages, and a cursor names it.

A ranked order is made once and cut into pages, so that no activity comes twice and none is skipped
while others post. What is held is bounded by number and by age, about 5 KB a slate. A cursor is
opaque, says nothing secret, and is good only for the tenant, the user and the feed it was made for.
Where several processes answer, they share their slates (`serving.shared_slates`).
"""

import base64
import binascii
import struct
from array import array
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from feeds.errors import InvalidCursor
from feeds.model import Position, TenantId, UserId
from ranking.candidates import FeedKind
from ranking.slates import Slate
from serving.errors import SlateExpired

__all__ = ["PinnedSlate", "SlateCursor", "SlateStore", "Slates", "expired"]

_FORM: Final = struct.Struct(">B16sH")
_VERSION: Final = 1
_POSITION_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class PinnedSlate:
    """A slate as columns, about 5 KB for 100 places: what its next pages are made from.

    `packed` are the activities' positions one behind the other; `head` is the slate's encoded
    description.
    """

    tenant: TenantId
    user: UserId
    kind: FeedKind
    request_id: str
    head: bytes
    packed: bytes
    scores: "array[float]"
    propensities: "array[float]"
    sources: tuple[str, ...]
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, slate: Slate, head: bytes) -> "PinnedSlate":
        """The slate's places, packed."""
        ranked = slate.ranked
        return cls(
            slate.tenant,
            slate.user,
            slate.kind,
            slate.request_id,
            head,
            b"".join(ranked.feed_positions),
            array("d", ranked.scores),
            array("d", ranked.propensities),
            tuple(ranked.sources),
            tuple(ranked.reasons),
        )

    def __len__(self) -> int:
        """How many places the slate has."""
        return len(self.scores)

    def positions(self, first: int, end: int) -> list[Position]:
        """Where the activities from one place to before another stand in every feed."""
        packed, size = self.packed, _POSITION_BYTES
        return [Position(packed[at : at + size]) for at in range(first * size, end * size, size)]


class SlateCursor(NamedTuple):
    """The place of a slate at which the next page begins."""

    request_id: str
    offset: int

    def encode(self) -> str:
        """The cursor as text that can stand in a URL."""
        packed = _FORM.pack(_VERSION, bytes.fromhex(self.request_id), self.offset)
        return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> "SlateCursor":
        """Read what `encode` wrote; raises `InvalidCursor`."""
        try:
            packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            version, request_id, offset = _FORM.unpack(packed)
        except (ValueError, binascii.Error, struct.error):
            version, request_id, offset = 0, b"", 0
        if version != _VERSION:
            raise InvalidCursor(
                f"{text[:80]!r} is not a cursor of a ranked feed: take `next` of an earlier page, "
                "or leave the cursor out to read from the top"
            )
        return cls(request_id.hex(), offset)


class Slates(Protocol):
    """The slates whose next pages can still be read."""

    def __len__(self) -> int:
        """How many slates are held."""
        ...

    def pin(self, slate: PinnedSlate) -> None:
        """Hold a slate; what is too old, or too much, leaves."""
        ...

    def find(
        self, cursor: SlateCursor, tenant: TenantId, user: UserId, kind: FeedKind
    ) -> PinnedSlate:
        """The slate of a cursor.

        Raises `SlateExpired` where it is no longer held, which is also the answer to a cursor of
        somebody else: a stranger learns nothing from it.
        """
        ...

    def forget(self, tenant: TenantId) -> None:
        """Hold no slate of the tenant any more."""
        ...

    def close(self) -> None:
        """Hold nothing any more; twice is harmless."""
        ...


def expired(kind: FeedKind) -> SlateExpired:
    """What to raise where a cursor's slate is not there."""
    return SlateExpired(
        f"the {kind} feed that this cursor continues is no longer held",
        more_info="Read the feed again without a cursor.",
    )


class SlateStore:
    """`Slates` in the memory of one process: the latest `slates_max`, for `ttl_s`."""

    def __init__(self, monotonic: Callable[[], float], slates_max: int, ttl_s: float) -> None:
        self._monotonic = monotonic
        self._slates_max = slates_max
        self._ttl_s = ttl_s
        self._held: OrderedDict[str, tuple[PinnedSlate, float]] = OrderedDict()

    def __len__(self) -> int:
        """How many slates are held."""
        return len(self._held)

    def pin(self, slate: PinnedSlate) -> None:
        """Hold a slate; what is too old, or too much, leaves."""
        now = self._monotonic()
        self._held[slate.request_id] = (slate, now + self._ttl_s)
        while self._held and (
            len(self._held) > self._slates_max or next(iter(self._held.values()))[1] <= now
        ):
            self._held.popitem(last=False)

    def find(
        self, cursor: SlateCursor, tenant: TenantId, user: UserId, kind: FeedKind
    ) -> PinnedSlate:
        """As `Slates.find`."""
        slate, until = self._held.get(cursor.request_id, (None, 0.0))
        if (
            slate is None
            or until <= self._monotonic()
            or (slate.tenant, slate.user, slate.kind) != (tenant, user, kind)
        ):
            raise expired(kind)
        return slate

    def forget(self, tenant: TenantId) -> None:
        """As `Slates.forget`."""
        for request_id in [one for one, (slate, _) in self._held.items() if slate.tenant == tenant]:
            del self._held[request_id]

    def close(self) -> None:
        """Hold nothing any more."""
        self._held.clear()
