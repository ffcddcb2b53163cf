"""Replaying an action log through the engine, as fast as the engine takes it.

Writes are pipelined: their order is that of the log, their futures are awaited behind. Impressions
and engagements that follow each other become one batch. Every write has an idempotency key made
from its place and content, and names the key of the write before it: whatever fails, what has
taken effect is the log up to some action. Replaying the log again (after a crash, or because it has
grown) adds what was missing, and nothing twice.
"""

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn

import msgspec

from feeds import actions
from feeds.actions import Action
from feeds.engine import FeedEngine
from feeds.errors import Conflict, FeedsError, InvalidInput, Overloaded
from feeds.events import Engagement, Impression
from feeds.idempotency import LastingKey, digest_events
from feeds.model import ActivityDraft, ActivityId, FeedId, TenantId, UserId, format_time
from feeds.results import FollowResult, PostResult, RecordResult, RemoveResult, UnfollowResult

__all__ = ["BATCH_EVENTS_MAX", "PENDING_MAX", "ImportReport", "replay"]

BATCH_EVENTS_MAX: Final = 500
"""Impressions and engagements in one command."""

PENDING_MAX: Final = 512
"""Commands whose futures are awaited behind; enough to fill a group commit and the next one."""

KEY_TTL_S: Final = 10 * 365 * 86_400
"""Seconds for which an import's writes are remembered: logs are replayed again after long times."""

OVERLOAD_S_MAX: Final = 60.0
"""Seconds for which one write is sent again while the engine has too much to do for it."""

_PROGRESS_EVERY = 500
_encode = msgspec.msgpack.Encoder().encode

Answer = PostResult | RemoveResult | FollowResult | UnfollowResult | RecordResult


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What a replay did: `counts` by kind of action, and of what had no effect.

    `duplicate` counts posts of activities that were there and batches that were recorded before;
    `unknown` counts activities that were engaged with and do not exist.
    """

    counts: dict[str, int]
    actions: int
    seconds: float
    actions_per_s: float
    last_index: int
    last_time: str
    """Time of the latest action, as `feeds.model.format_time`; empty where there was none."""


def replay(
    engine: FeedEngine,
    tenant: TenantId,
    log: Iterable[Action],
    progress: Callable[[int], None] = lambda _: None,
    pause: Callable[[float], None] = time.sleep,
) -> ImportReport:
    """Put every action of a log through the engine in order; all are durable on return.

    `progress` is called with the number of actions so far, every 500. Where the engine has too much
    to do it is waited for, with `pause`, as long as it says. Raises the first action's
    error, with its number, or the log's own; what came before it has taken place, and nothing else.
    """
    started = time.monotonic()
    pipeline = _Pipeline(engine, tenant, pause)
    number = last_us = 0
    for number, action in enumerate(_finished(log, pipeline), 1):
        pipeline.add(number, action)
        last_us = max(last_us, action.time_us)
        if number % _PROGRESS_EVERY == 0:
            progress(number)
    pipeline.finish()
    progress(number)
    seconds = time.monotonic() - started
    return ImportReport(
        counts=dict(sorted(pipeline.counts.items())),
        actions=number,
        seconds=seconds,
        actions_per_s=number / seconds if seconds else 0.0,
        last_index=pipeline.last_index,
        last_time=format_time(last_us) if number else "",
    )


def _finished(log: Iterable[Action], pipeline: "_Pipeline") -> Iterator[Action]:
    """The actions; where the log breaks off, those before are sent before its error is raised."""
    try:
        yield from log
    except Exception:
        pipeline.finish()
        raise


@dataclass(slots=True)
class _Write:
    """A write that was sent, and how to send it again."""

    number: int
    key: LastingKey
    propose: Callable[[LastingKey], "Future[Any]"]  # Any: each kind's own result
    future: "Future[Any]"
    refused_s: float = 0.0


class _Pipeline:
    """Bounded: at most `PENDING_MAX` futures, those of one batch, and one batch are held."""

    def __init__(
        self,
        engine: FeedEngine,
        tenant: TenantId,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.last_index = 0
        self._engine = engine
        self._tenant = tenant
        self._pause = pause
        self._batch: list[Impression | Engagement] = []
        self._batch_number = 0
        self._sent_key: str | None = None
        self._pending: deque[_Write] = deque()

    def add(self, number: int, action: Action) -> None:
        """Propose an action, or keep it for the batch that it belongs to."""
        self._settle(PENDING_MAX)
        self.counts[str(type(action).__struct_config__.tag)] += 1
        if isinstance(action, actions.Show | actions.Engage):
            self._add_event(number, action)
            return
        self._send_batch()
        try:
            self._send(number, action, lambda key: self._propose(action, key))
        except FeedsError as error:
            self._fail(number, error)

    def finish(self) -> None:
        """Send what is left, and wait for everything."""
        self._send_batch()
        self._settle(0)

    def _add_event(self, number: int, action: actions.Show | actions.Engage) -> None:
        if not self._batch:
            self._batch_number = number
        self._batch.append(_event(action))
        if len(self._batch) >= BATCH_EVENTS_MAX:
            self._send_batch()

    def _send_batch(self) -> None:
        """Send the batch, cut where an earlier import of a shorter log had cut it.

        With an event that cannot be they go one by one, so that those before it take effect.
        """
        batch, self._batch = self._batch, []
        together = BATCH_EVENTS_MAX
        while batch:
            number = self._batch_number
            try:
                part = batch[: self._sent_before(number, batch) or together]
                self._send(number, part[0], partial(self._engine.record, self._tenant, part))
            except InvalidInput as error:
                if together == 1:
                    self._fail(number, error)
                together = 1
            except FeedsError as error:
                self._fail(number, error)
            else:
                self._batch_number += len(part)
                batch = batch[len(part) :]

    def _sent_before(self, number: int, batch: list[Impression | Engagement]) -> int:
        """How many of these events an earlier import sent together from this place; 0 if none."""
        digest = self._engine.remembered(self._tenant, _key(number, batch[0]))
        if digest is None:
            return 0
        lengths = range(len(batch), 0, -1)
        found = next((n for n in lengths if digest_events(batch[:n]) == digest), 0)
        if not found:
            raise Conflict(
                "an earlier import had other actions behind this one: import what is new as a log "
                "of its own"
            )
        return found

    def _send(
        self,
        number: int,
        content: Action | Impression | Engagement,
        propose: Callable[[LastingKey], "Future[Any]"],  # Any: as above
    ) -> None:
        key = LastingKey(_key(number, content), KEY_TTL_S, self._sent_key)
        self._pending.append(_Write(number, key, propose, propose(key)))
        self._sent_key = key.text

    def _fail(self, number: int, error: FeedsError) -> NoReturn:
        """Raise the error of this action, or of one before it that is still to come."""
        self._settle(0)
        raise _numbered(number, error) from error

    def _settle(self, pending_max: int) -> None:
        while len(self._pending) > pending_max:
            write = self._pending.popleft()
            try:
                self._count(write.future.result())
            except Overloaded as error:
                if write.refused_s >= OVERLOAD_S_MAX:
                    raise _numbered(write.number, error) from error
                write.refused_s += error.retry_after_s
                self._pending.appendleft(write)
                self._send_again(error.retry_after_s)
            except FeedsError as error:
                raise _numbered(write.number, error) from error

    def _send_again(self, pause_s: float) -> None:
        """Send what was refused for the moment and all behind it, which names it as its past."""
        wait([write.future for write in self._pending])
        self._pause(pause_s)
        for write in self._pending:
            write.future = write.propose(write.key)

    def _count(self, answer: Answer) -> None:
        self.last_index = max(self.last_index, answer.index)
        if isinstance(answer, RecordResult):
            self.counts["unknown"] += len(answer.unknown)
        if isinstance(answer, PostResult | RecordResult):
            self.counts["duplicate"] += answer.duplicate

    def _propose(self, action: Action, key: LastingKey) -> "Future[Any]":  # Any: as above
        match action:
            case actions.Post():
                feed = FeedId.parse(action.feed)
                return self._engine.post(self._tenant, feed, _draft(action), key)
            case actions.Remove():
                return self._engine.remove(
                    self._tenant, action.activity_id, time_us=action.time_us, key=key
                )
            case actions.Follow():
                return self._engine.follow(
                    self._tenant,
                    FeedId.parse(action.follower),
                    FeedId.parse(action.target),
                    copy_limit=action.copy_limit,
                    derived=action.derived,
                    time_us=action.time_us,
                    key=key,
                )
            case actions.Unfollow():
                return self._engine.unfollow(
                    self._tenant,
                    FeedId.parse(action.follower),
                    FeedId.parse(action.target),
                    keep_history=action.keep_history,
                    time_us=action.time_us,
                    key=key,
                )
            case _:
                raise InvalidInput(f"{type(action).__name__} is no action of its own")


def _draft(action: actions.Post) -> ActivityDraft:
    return ActivityDraft(
        actor=action.actor,
        verb=action.verb,
        object=action.object,
        target=action.target,
        foreign_id=action.foreign_id,
        time_us=action.time_us,
        to=action.to,
        custom=action.custom,
    )


def _event(action: actions.Show | actions.Engage) -> Impression | Engagement:
    user, activity = UserId(action.user), ActivityId(action.activity_id)
    if isinstance(action, actions.Show):
        return Impression(
            time_us=action.time_us,
            user=user,
            activity_id=activity,
            feed=action.feed,
            position=action.position,
            slate_id=action.slate_id,
        )
    return Engagement(
        time_us=action.time_us,
        user=user,
        activity_id=activity,
        kind=action.kind,
        feed=action.feed,
        position=action.position,
        slate_id=action.slate_id,
        value=action.value,
    )


def _key(number: int, content: Action | Impression | Engagement) -> str:
    """The idempotency key of the write that begins with the action in this place."""
    digest = hashlib.blake2b(_encode(content), digest_size=12).hexdigest()
    return f"import:{number}:{digest}"


def _numbered(number: int, error: FeedsError) -> FeedsError:
    return type(error)(f"action {number}: {error}")
