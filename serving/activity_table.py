"""Activity tables that follow the store: one a tenant, loaded once, then moved by each event.

The engine tells every applied command from the thread that applies it, or, beside a node, from the
one that catches up with the node's store; here its events wait in a bounded queue and are applied
on the event loop, in slices while nobody asks and all of them before a read, so that a table is
touched by one thread and a read sees every acknowledged write. How a table is loaded while others
write is in `serving.table_loading`.
"""

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import structlog

from feeds.engine import FeedEngine
from feeds.errors import NotFound, StorageError
from feeds.events import Engagement, Event, Impression, Posted
from feeds.model import TenantId, position_of
from ranking.table import ActivityTable
from serving.table_loading import StoredNames, TableLoading
from serving.telemetry import Metrics

__all__ = ["FOLLOWER_BYTES", "ActivityTables", "TableFollower"]

_log = structlog.get_logger(__name__)

OUTSIDE_READ_MAX: Final = 1_000
"""Activities outside of a table whose authors and tags one call reads."""

SLICE_EVENTS: Final = 200
"""Events of a tenant that are applied between two turns of the event loop, about 3 ms."""

STARTED_MAX: Final = 16
"""Tenants whose tables are loaded before the first request is answered; others when asked for."""

FOLLOWER_BYTES: Final = 2_000
"""What a tenant takes besides its table."""


@dataclass(frozen=True, slots=True)
class _Command:
    """The events of a command, and what the store had of names that the table may lack.

    The store may have been further than the command: `names` knows how far.
    """

    index: int
    events: Sequence[Event]
    names: StoredNames


class TableFollower:
    """One tenant's table, and the events that it has yet to see."""

    def __init__(
        self, engine: FeedEngine, tenant: TenantId, backlog_max: int, incarnation: int = 0
    ) -> None:
        self.incarnation = incarnation
        """The log index at which the tenant was created: another of its name has another table."""
        self.table: ActivityTable | None = None
        self.loading: asyncio.Future[ActivityTable] | None = None
        self.awaited = 0
        """Reads that wait for the table: until the last of them has it, it stays."""
        self.memory_bytes = 0
        """What it was found to take."""
        self._engine = engine
        self._tenant = tenant
        self._backlog_max = backlog_max
        self._lock = threading.Lock()
        self._backlog: deque[_Command] = deque()
        self._outside: list[Impression | Engagement] = []
        self._came: list[StoredNames] = []
        self._waiting = 0
        self._overflowed = False
        self._gaps = 0
        self._loaded_index = 0

    def offer(self, index: int, events: Sequence[Event]) -> None:
        """Queue the events of a command; beyond the limit the table is given up instead.

        Called by the thread that applies commands or catches up: the store stands still meanwhile,
        as the command left it or a later one.
        """
        try:
            names = StoredNames.of(self._engine, self._tenant, events, self.table)
        except StorageError as error:
            self.give_up(error)
            return
        with self._lock:
            if self._overflowed:
                return
            self._waiting += len(events)
            self._backlog.append(_Command(index, events, names))
        if self._waiting > self._backlog_max:
            self.give_up()

    def give_up(self, error: StorageError | None = None) -> None:
        """Queue no more: the table is loaded anew when it is asked for."""
        if error is not None:
            _log.warning("table_given_up", tenant=self._tenant, error=type(error).__name__)
        with self._lock:
            self._overflowed = True
            self._waiting = 0
            self._backlog.clear()

    @property
    def gaps(self) -> int:
        """How many times commands were missed."""
        return self._gaps

    def missed(self) -> None:
        """Commands were missed: give the table up, and the one that is being loaded."""
        with self._lock:
            self._gaps += 1
        self.give_up()

    def begin(self, gaps: int) -> bool:
        """Forget what waits: what comes from now on is queued for the table being loaded.

        False if more than `gaps` times commands were missed: then the load must begin anew.
        """
        with self._lock:
            if self._gaps != gaps:
                return False
            self._overflowed = False
            self._waiting = 0
            self._backlog.clear()
            return True

    def adopt(self, table: ActivityTable, index: int) -> None:
        """Take a table that holds everything up to a log index."""
        self.table, self._loaded_index = table, index
        self._outside.clear()
        self._came.clear()

    def drain(self, events_max: int | None = None) -> bool:
        """Apply what waits, at least one command of it; True if some still waits.

        `table` is None afterwards if too much had waited, or if the store could not be read.
        """
        applied = 0
        while events_max is None or applied < events_max:
            with self._lock:
                if self._overflowed:
                    self.table = None
                if not self._backlog:
                    break
                command = self._backlog.popleft()
                self._waiting -= len(command.events)
            applied += len(command.events)
            if self.table is not None and command.index > self._loaded_index:
                self._apply(self.table, command)
        if self.table is not None and applied:
            self._load_came(self.table)
        with self._lock:
            if self._overflowed:
                self.table = None
            return bool(self._backlog)

    def _apply(self, table: ActivityTable, command: _Command) -> None:
        if self._came and command.index > self._came[0].index:
            self._load_came(table)
            self._came = [names for names in self._came if command.index <= names.index]
        for event in command.events:
            if isinstance(event, Posted):
                # What waits belongs to names as they were; a name that comes now has it already.
                self._count_outside(table)
                unknown = command.names.unknown_to(table, event)
                if unknown is None:
                    self.table = None
                    return
                table.apply(command.index, event)
                if unknown.authors or unknown.tags:
                    self._came.append(unknown)
            elif isinstance(event, Impression | Engagement) and not table.holds(event.activity_id):
                self._outside.append(event)
                if len(self._outside) >= OUTSIDE_READ_MAX:
                    self._count_outside(table)
            else:
                table.apply(command.index, event)

    def _load_came(self, table: ActivityTable) -> None:
        """Give the names that came what the store had of them, over what was counted meanwhile.

        It holds all commands up to its index; those that are yet to be applied are counted on top,
        and it is loaded again behind the last of them.
        """
        self._count_outside(table)
        for names in self._came:
            names.load(table)

    def _count_outside(self, table: ActivityTable) -> None:
        """Count events of activities that were left out, for their authors and tags.

        One batched read. What was removed since is missed: its author is no longer known.
        """
        if not self._outside:
            return
        events, self._outside = self._outside, []
        asked = list(dict.fromkeys(event.activity_id for event in events))
        positions = [position_of(activity) for activity in asked]
        try:
            stored = self._engine.activities(self._tenant, positions)
        except StorageError as error:
            self.give_up(error)
            return
        found = zip(asked, stored, strict=True)
        posted = {activity: one[1] for activity, one in found if one is not None}
        for event in events:
            if event.activity_id in posted:
                table.count_outside(event, posted[event.activity_id])


class ActivityTables:
    """The tables of the tenants that were asked for last, together at most `bytes_max`, about.

    The one that was asked for last stays, however large it is; what is being loaded comes on top.
    """

    def __init__(
        self,
        engine: FeedEngine,
        metrics: Metrics,
        *,
        bytes_max: int,
        capacity: int,
        backlog_max: int,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._bytes_max = bytes_max
        self._capacity = capacity
        self._backlog_max = backlog_max
        self._followers: OrderedDict[TenantId, TableFollower] = OrderedDict()
        self._memory_bytes = 0
        self._stirred: dict[TenantId, None] = {}
        self._stirring = threading.Lock()
        self._gate = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = False
        self.following = False
        engine.subscribe(self._listen, self._missed)

    async def start(self, tenants: Sequence[TenantId]) -> None:
        """Follow on the running event loop, and load the first tables, as many as there is room."""
        self._loop = asyncio.get_running_loop()
        for count, tenant in enumerate(tenants[:STARTED_MAX], 1):
            await self.get(tenant)
            if len(self._followers) < count:
                break
        self.following = True

    async def settled(self) -> None:
        """Wait for the loads under way; they read the store, which is about to close."""
        under_way = [held.loading for held in self._followers.values() if held.loading]
        await asyncio.gather(*under_way, return_exceptions=True)

    def stop(self) -> None:
        """No longer wake the event loop."""
        self.following = False
        self._loop = None

    def loaded(self) -> list[TenantId]:
        """The tenants whose table is in memory and has missed nothing."""
        return [tenant for tenant, held in self._followers.items() if held.table is not None]

    def ready(self, tenant: TenantId) -> ActivityTable | None:
        """The tenant's table with every event that was acknowledged before the call, or None.

        To be used until the next await.
        """
        follower = self._followers.get(tenant)
        if follower is None:
            return None
        self._followers.move_to_end(tenant)
        follower.drain()
        return follower.table

    async def get(self, tenant: TenantId) -> ActivityTable:
        """As `ready`, but loads the table on the first call and where events were missed.

        The caller sets the time limit; the load goes on beyond it.
        """
        follower = self._followers.get(tenant)
        cause = "backlog"
        if follower is None:
            cause = "first"
            incarnation = self._engine.tenant(tenant).index
            follower = self._followers[tenant] = TableFollower(
                self._engine, tenant, self._backlog_max, incarnation
            )
            self._weigh(follower)
        self._followers.move_to_end(tenant)
        follower.drain()
        follower.awaited += 1
        try:
            while follower.table is None:
                if follower.loading is None:
                    self._metrics.table_loads.labels(cause).inc()
                    follower.loading = asyncio.ensure_future(self._load(tenant, follower))
                await asyncio.shield(follower.loading)
                follower.drain()
            return follower.table
        finally:
            follower.awaited -= 1
            self._trim()

    def _weigh(self, follower: TableFollower) -> None:
        """Look again at what a tenant's table takes."""
        table_bytes = 0 if follower.table is None else follower.table.memory_bytes
        self._memory_bytes += FOLLOWER_BYTES + table_bytes - follower.memory_bytes
        follower.memory_bytes = FOLLOWER_BYTES + table_bytes

    def _trim(self) -> None:
        """Let the tables that were asked for longest ago go, until the others have room."""
        if self._memory_bytes > self._bytes_max:
            for tenant, held in list(self._followers.items())[:-1]:
                if held.loading is None and not held.awaited:
                    self._drop(tenant, held)
                if self._memory_bytes <= self._bytes_max:
                    break
        self._metrics.tables.set(len(self._followers))
        self._metrics.table_bytes.set(self._memory_bytes)

    def _drop(self, tenant: TenantId, held: TableFollower) -> None:
        del self._followers[tenant]
        self._memory_bytes -= held.memory_bytes

    async def _load(self, tenant: TenantId, follower: TableFollower) -> ActivityTable:
        try:
            started = perf_counter()
            table, index = await asyncio.to_thread(self._read, tenant, follower)
            follower.adopt(table, index)
            if self._followers.get(tenant) is follower:
                self._weigh(follower)
                self._stir(tenant)  # what came meanwhile, should nobody wait for it any more
            _log.info(
                "table_loaded",
                tenant=tenant,
                activities=len(table),
                index=index,
                ms=round((perf_counter() - started) * 1e3, 1),
            )
            return table
        finally:
            follower.loading = None
            if follower.table is None:
                follower.give_up()

    def _read(self, tenant: TenantId, follower: TableFollower) -> tuple[ActivityTable, int]:
        """The table as of one log index, and that index; writes wait for the last part of it."""
        while True:
            gaps = follower.gaps
            loading = TableLoading(self._engine, tenant, self._capacity)
            loading.catch_up()
            with self._gate:
                if follower.begin(gaps):
                    return loading.table, loading.finish()

    def _listen(self, tenant: TenantId, index: int, events: Sequence[Event]) -> None:
        """Called by the thread that applies commands, after each."""
        follower = self._followers.get(tenant)
        if follower is not None and not events:
            self._check_exists(tenant, follower)
        if follower is not None and events:
            follower.offer(index, events)
            self._stir(tenant)
        with self._gate:
            pass

    def _stir(self, tenant: TenantId) -> None:
        """Let the event loop look at a tenant's table; any thread may ask."""
        with self._stirring:
            self._stirred[tenant] = None
        loop = self._loop
        if loop is not None and not self._woken:
            self._woken = True
            loop.call_soon_threadsafe(self._apply_slice)

    def _check_exists(self, tenant: TenantId, follower: TableFollower) -> None:
        """Give up the table of a tenant that was deleted, though there may be one of its name."""
        try:
            if self._engine.tenant(tenant).index == follower.incarnation:
                return
        except NotFound:
            pass
        follower.missed()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._forget, tenant, follower)

    def _forget(self, tenant: TenantId, follower: TableFollower) -> None:
        if self._followers.get(tenant) is follower:
            self._drop(tenant, follower)
            self._trim()

    def _missed(self) -> None:
        """Called by the thread that catches up, where commands were missed."""
        for tenant, follower in list(self._followers.items()):
            follower.missed()
            self._check_exists(tenant, follower)

    def _apply_slice(self) -> None:
        self._woken = False
        with self._stirring:
            stirred, self._stirred = self._stirred, {}
        for tenant in stirred:
            follower = self._followers.get(tenant)
            if follower is not None and follower.table is not None:
                if follower.drain(SLICE_EVENTS):
                    self._stir(tenant)
                self._weigh(follower)
        self._trim()
