"""How far one peer of a leader is: what it has, what is on its way, what it lacks. Pure."""

from collections import deque
from dataclasses import dataclass, field

__all__ = ["Progress"]


@dataclass(slots=True)
class Progress:
    """A peer in one leadership.

    Replies may come late, twice, in another order, or not at all. `match` never goes back; a
    refusal is heeded only if it answers something sent after the last one that was.
    """

    next: int
    """Index of the next entry to send."""
    since_s: float
    """When the leadership began."""
    answered_s: float = 0.0
    """When it was last heard, or sent something while nothing was on its way."""
    match: int = 0
    """Index up to which its log is known to be the leader's."""
    sent: int = 0
    """Number of the last append."""
    lacking: bool = False
    """It needs entries that the leader's log no longer has."""
    snapshot: bool = False
    """A snapshot is on its way."""
    given_up: bool = False
    """It is silent for so long that the log is no longer kept for it."""
    told_commit: int = 0
    """The commit index that it was sent last."""
    news_due_s: float | None = None
    """When it must be told of a newer one at the latest; None where there is none."""
    begun: int = 0
    """`next` at first: behind the leader's log when the leadership began."""
    _under_way: deque[int] = field(default_factory=deque)
    _refused_until: int = 0

    def __post_init__(self) -> None:
        self.begun = self.next

    @property
    def pending(self) -> int:
        """Appends with entries that it has not answered."""
        return len(self._under_way)

    def begin(self, entries: int, now_s: float) -> None:
        """So many entries are on their way with the append `sent`."""
        if not self._under_way:
            self.answered_s = now_s
        self.next += entries
        self._under_way.append(self.sent)

    def acknowledge(self, sequence: int, index: int, now_s: float) -> None:
        """It has everything up to `index`."""
        self.answered_s = now_s
        while self._under_way and self._under_way[0] <= sequence:
            self._under_way.popleft()
        self.match = max(self.match, index)
        if index >= self.next:
            self.next = index + 1
        self.lacking = self.lacking and self.next <= self.match

    def refuse(self, sequence: int, index: int, now_s: float) -> None:
        """Its log may differ from `index` on: go on from there, unless this is old news."""
        self.answered_s = now_s
        if sequence <= self._refused_until or self.snapshot:
            return
        self._refused_until = self.sent
        self.next = min(max(index, self.match + 1), self.next)
        self._under_way.clear()

    def rewind(self, now_s: float | None = None) -> None:
        """What was on its way may be lost: send it again.

        Where it has acknowledged nothing yet, it is asked again behind what the leader began with:
        to begin with the first entry would mean a snapshot wherever the log was ever dropped.
        """
        self.next = self.match + 1 if self.match else min(self.next, self.begun)
        self._under_way.clear()
        self._refused_until = self.sent
        if now_s is not None:
            self.answered_s = now_s

    def forget(self) -> None:
        """It begins with nothing."""
        self.match, self.next, self.begun, self.lacking, self.snapshot = 0, 1, 1, False, False
