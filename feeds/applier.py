"""From the log to the store: a command's effects and the applied index are in one write batch.

Several commands may share a batch: all of each, or nothing.
"""

from collections.abc import Sequence

import structlog

from feeds import machine
from feeds.change_journal import ChangeJournal, Listener
from feeds.commands import WipeTenant, decode_command
from feeds.errors import InvalidInput
from feeds.events import Event
from feeds.flushing import Flusher
from feeds.keys import APPLIED, write_number
from feeds.model import TenantId
from feeds.results import Drained, Rejected, encode_result
from feeds.store.base import Store, Written
from feeds.store.held import HeldWrites

__all__ = ["Applier", "Listener"]

_log = structlog.get_logger(__name__)


class Applier:
    """Applies the commands of a log to a store, once each; called on the replica's thread alone.

    The store is flushed every `flush_every_bytes` of commands, so that the log before is needless.
    """

    def __init__(
        self, store: Store, applied_index: int, flush_every_bytes: int, flusher: Flusher
    ) -> None:
        self._held = HeldWrites(store, self._stamp)
        self._applied_index = applied_index
        self._applied_term = 0
        self._flush_every_bytes = flush_every_bytes
        self._unflushed_bytes = 0
        self._flusher = flusher
        self._journal = ChangeJournal(store)
        self._left: list[bytes] = []
        self._wiped: list[str] = []
        self._listeners: tuple[Listener, ...] = ()
        self._untold: list[tuple[TenantId, int, Sequence[Event]]] = []

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` after every command that leaves events, from now on."""
        self._listeners = (*self._listeners, listener)

    def apply(self, index: int, term: int, data: bytes) -> bytes:
        """The encoded answer of a command of the log; what was applied before is passed over.

        The empty command, which a leader begins with, moves the applied index and nothing else.
        Raises `StorageError` where the disk fails, and `FormatUnsupported` for a command of another
        version: nothing of it is written then.
        """
        answer = self.hold(index, term, data)
        self.commit()
        return answer

    def hold(self, index: int, term: int, data: bytes) -> bytes:
        """As `apply`, but what it does is in the store only after `commit`.

        Commands behind it see it; nobody may be told of it before.
        """
        if index <= self._applied_index:
            return b""
        self._flusher.check()
        answer, tenant, writes = self._decide(index, data) if data else (b"", None, ())
        self._applied_index, self._applied_term = index, term
        self._held.hold(writes, self._journal.note(index, tenant))
        self._unflushed_bytes += len(data)
        return answer

    def commit(self) -> None:
        """Write what is held, and tell the listeners. Raises `StorageError`."""
        self._held.write_out()
        if self._unflushed_bytes >= self._flush_every_bytes and self._flusher.request(
            self._applied_index
        ):
            self._unflushed_bytes = 0
        untold, self._untold = self._untold, []
        for tenant, index, events in untold:
            self._tell(tenant, index, events)

    def take_left(self) -> list[bytes]:
        """The keys of the outbox that were written since this was asked, in log order."""
        left, self._left = self._left, []
        return left

    def take_wiped(self) -> list[str]:
        """The tenants of which the last row was removed since this was asked."""
        wiped, self._wiped = self._wiped, []
        return wiped

    def _stamp(self) -> Written:
        applied = write_number(self._applied_index) + write_number(self._applied_term)
        return "meta", APPLIED, applied

    def _decide(self, index: int, data: bytes) -> tuple[bytes, str | None, Sequence[Written]]:
        """(the encoded answer, whose events are left, what to write) of a command."""
        try:
            command = decode_command(data)
        except InvalidInput as error:
            return encode_result(Rejected("invalid", str(error))), None, ()
        outcome = machine.apply(command, index, self._held)
        writes, events = outcome.writes, outcome.events
        for family, key, value in writes:
            if family == "outbox" and value is not None:
                self._left.append(key)
        if (events or outcome.of_tenant) and self._listeners:
            self._untold.append((TenantId(command.tenant), index, events))
        if type(command) is WipeTenant and outcome.result == Drained(index) and writes:
            self._wiped.append(command.tenant)
        told = bool(events) or outcome.of_tenant
        return encode_result(outcome.result), command.tenant if told else None, writes

    def _tell(self, tenant: TenantId, index: int, events: Sequence[Event]) -> None:
        for listener in self._listeners:
            try:
                listener(tenant, index, events)
            except Exception:  # noqa: BLE001 - a listener must not stop the log
                _log.exception("listener_failed", tenant=tenant, index=index)
