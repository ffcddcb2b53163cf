"""The feed engine: reads of a view, and writes through a replica.

A write is checked and stamped here, and proposed to a replica: of this process (`FeedEngine.open`),
or of another one that the view follows. Reads answer from the view at once.
"""

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol, Self, TypeVar

import msgspec

from feeds.answers import answered
from feeds.applier import Listener
from feeds.change_journal import Gap
from feeds.checks import check_number
from feeds.commands import (
    AddKey,
    Command,
    CreateTenant,
    DeleteTenant,
    RevokeKey,
    RotateKey,
    SetQuotas,
    Unkeyed,
)
from feeds.config import FeedsConfig
from feeds.credentials import APP_SCOPES, NO_TENANT, OPERATOR, SCOPES, check_key_id
from feeds.errors import InvalidInput
from feeds.events import Engagement, Event, FeedbackGiven, Followed, Impression
from feeds.idempotency import LastingKey, operation
from feeds.model import (
    Activity,
    ActivityDraft,
    FeedId,
    TenantId,
    check_tenant_id,
    id_time_us,
)
from feeds.quotas import check_quotas
from feeds.reader import StoreReader
from feeds.replication.base import Replica, ReplicaStatus
from feeds.results import (
    Accepted,
    ConfigActivated,
    ConfigSaved,
    FollowResult,
    Placed,
    PostResult,
    RecordResult,
    RemoveResult,
    Result,
    UnfollowResult,
    is_early,
)
from feeds.retry import RetryingReplica
from feeds.state import LocalReplica, ReplicaFactory, StateMachine
from feeds.store.base import Store, View
from feeds.values import TenantRecord

__all__ = ["Changes", "FeedEngine", "Listener", "ReplicaFactory", "system_clock_us"]

_Answer = TypeVar("_Answer", bound=Result)
_Value = TypeVar("_Value")


def system_clock_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1_000


def random_name() -> str:
    """A name that no other write has: 128 random bits."""
    return secrets.token_urlsafe(16)


class Changes(Protocol):
    """Where what was applied can be heard of."""

    def subscribe(self, listener: Listener, gap: Gap) -> None:
        """Call `listener` for every command that leaves events, from now on, in log order.

        Where some were missed, `gap` is called.
        """
        ...


class FeedEngine(StoreReader):
    """Everything a node can be asked: the reads of `StoreReader`, and writes.

    Writes return a future that is done once the write is durable, applied and visible to reads.
    What cannot be right raises `InvalidInput` or `NotFound` at once and is never logged; a future
    fails with `Conflict`, `LimitExceeded` or a `StorageError`; over a cluster with `NoLeader` or
    `OutcomeUnknown` too.
    """

    def __init__(
        self,
        view: View,
        replica: Replica,
        config: FeedsConfig | None = None,
        clock: Callable[[], int] = system_clock_us,
        *,
        changes: Changes | None = None,
        release: Callable[[], None] = lambda: None,
        name_operation: Callable[[], str] = random_name,
    ) -> None:
        """Read `view`, write to `replica`, tell `changes`; the replica is closed with this engine.

        `release` is called when it is. With `retry_s`, a write is repeated until its outcome is
        known; `name_operation` gives each a name that no other write has. Raises `InvalidInput` for
        a configuration that cannot be.
        """
        config = config or FeedsConfig()
        if problems := config.problems():
            raise InvalidInput("; ".join(problems))
        super().__init__(view, config)
        self._known_lock = threading.Lock()
        self._tenant_changes = 0
        self._replica = replica
        if config.retry_s:
            self._replica = RetryingReplica(replica, config.retry_s, is_early)
        self._name_operation = name_operation
        self._clock = clock
        self._changes = changes
        if changes is not None:
            changes.subscribe(self._tenant_changed, self._tenants_missed)
        self._release = release
        self._closing = threading.Lock()
        self._closed = False

    @classmethod
    def embedded(
        cls,
        store: Store,
        replica_factory: ReplicaFactory,
        config: FeedsConfig | None = None,
        clock: Callable[[], int] = system_clock_us,
        release: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Self:
        """The engine on a store and a replica of this process; `release` follows their close.

        `clock` is stamped in commands; `monotonic` tells for how long keys are remembered.
        """
        config = config or FeedsConfig()
        if problems := config.problems():
            raise InvalidInput("; ".join(problems))
        machine = StateMachine(store, config, clock=monotonic)

        def close() -> None:
            try:
                machine.close()
            finally:
                release()

        replica = LocalReplica(machine, replica_factory)
        return cls(store, replica, config, clock, changes=machine, release=close)

    @classmethod
    def open(
        cls,
        directory: Path,
        config: FeedsConfig | None = None,
        clock: Callable[[], int] = system_clock_us,
    ) -> Self:
        """The engine on a data directory: RocksDB, and one replica on a durable log.

        Raises `DataDirectoryLocked`, `FormatUnsupported`, `LogDamaged` or another `StorageError`.
        """
        from feeds.opening import open_parts  # noqa: PLC0415 - RocksDB only where it is used

        store, replica_factory, release = open_parts(directory, config or FeedsConfig())
        try:
            return cls.embedded(store, replica_factory, config, clock, release)
        except BaseException:
            store.close()
            release()
            raise

    def tenant(self, tenant: TenantId) -> TenantRecord:
        """As `StoreReader.tenant`; held until the tenant is changed, where that can be heard of."""
        changes = self._tenant_changes
        record = super().tenant(tenant)
        with self._known_lock:
            # What was changed while it was read may be older than the change: not worth holding.
            if self._changes is not None and changes == self._tenant_changes:
                self._known[tenant] = record
        return record

    def create_tenant(self, tenant: str) -> "Future[None]":
        """Create a tenant; nothing happens if it exists."""
        command = CreateTenant(tenant=check_tenant_id(tenant), now_us=self._clock())
        return self._propose(command, Accepted, lambda _: None)

    def delete_tenant(self, tenant: TenantId) -> "Future[None]":
        """Delete a tenant with all that it has: it is as unknown as any other that never was.

        What it left in the store is removed from then on; `deleting` names it until that is done,
        and none of its name can be created before.
        """
        self._check_tenant(tenant)
        command = DeleteTenant(tenant=tenant, incarnation=0)
        return self._propose(command, Accepted, lambda _: None)

    def add_key(
        self,
        tenant: TenantId,
        key_id: str,
        secret_sha256: bytes,
        scopes: Sequence[str] = APP_SCOPES,
    ) -> "Future[None]":
        """Give a tenant an API key by its public id and the hash of its secret.

        With `NO_TENANT` and the scope `OPERATOR` it is an operator's.
        """
        self._check_owner(tenant)
        known = (OPERATOR,) if tenant == NO_TENANT else SCOPES
        if unknown := [scope for scope in scopes if scope not in known]:
            raise InvalidInput(f"scope {unknown[0][:80]!r} is not known: use {' or '.join(known)}")
        if not scopes:
            raise InvalidInput(f"a key without scopes allows nothing: use {' or '.join(known)}")
        command = AddKey(
            tenant=tenant,
            key_id=check_key_id(key_id),
            secret_sha256=_check_hash(secret_sha256),
            scopes=tuple(dict.fromkeys(scopes)),
            now_us=self._clock(),
            keys_max=self._config.tenant_keys_max,
        )
        return self._propose(command, Accepted, lambda _: None)

    def rotate_key(
        self,
        tenant: TenantId,
        key_id: str,
        new_key_id: str,
        secret_sha256: bytes,
        grace_s: int,
    ) -> "Future[None]":
        """Let a new key have the scopes of an old one, which is good for `grace_s` seconds more."""
        self._check_owner(tenant)
        check_number("grace_s", grace_s, 0, self._config.key_grace_s_max, "key_grace_s_max")
        now_us = self._clock()
        command = RotateKey(
            tenant=tenant,
            key_id=check_key_id(key_id),
            new_key_id=check_key_id(new_key_id),
            secret_sha256=_check_hash(secret_sha256),
            now_us=now_us,
            expires_us=now_us + grace_s * 1_000_000,
            keys_max=self._config.tenant_keys_max,
        )
        return self._propose(command, Accepted, lambda _: None)

    def revoke_key(self, tenant: TenantId, key_id: str) -> "Future[bool]":
        """Take an API key from a tenant; the future says whether it had it."""
        self._check_owner(tenant)
        command = RevokeKey(tenant=tenant, key_id=check_key_id(key_id))
        return self._propose(command, RemoveResult, lambda result: result.removed)

    def set_quotas(self, tenant: TenantId, quotas: dict[str, int | None]) -> "Future[None]":
        """Change some of a tenant's quotas, by name; None is the server's default."""
        self._check_tenant(tenant)
        command = SetQuotas(tenant=tenant, quotas=check_quotas(quotas))
        return self._propose(command, Accepted, lambda _: None)

    def post(
        self,
        tenant: TenantId,
        feed: FeedId,
        draft: ActivityDraft,
        key: str | LastingKey | None = None,
    ) -> "Future[PostResult]":
        """Post an activity to a feed, the feeds in its `to`, and before their followers.

        The same activity (foreign id and time, or content and time) again keeps its place, takes
        the new content, and goes to the feeds that are new; it ranks by its first content. The same
        idempotency `key` again answers as the first time.
        """
        own = self._check_tenant(tenant).quotas.storage_bytes
        limit = self._config.tenant_storage_bytes if own is None else own
        command, activity = self._intake.post(tenant, feed, draft, key, self._clock(), limit)
        return self._propose(command, Placed, lambda placed: _posted(placed, activity))

    def remove(
        self,
        tenant: TenantId,
        activity_id: str,
        *,
        time_us: int | None = None,
        key: str | LastingKey | None = None,
    ) -> "Future[RemoveResult]":
        """Remove an activity from every feed."""
        self._check_tenant(tenant)
        command = self._intake.remove(
            tenant, activity_id, time_us=time_us, key=key, now_us=self._clock()
        )
        return self._propose(command, RemoveResult, _same)

    def follow(
        self,
        tenant: TenantId,
        follower: FeedId,
        target: FeedId,
        *,
        copy_limit: int | None = None,
        derived: bool = False,
        time_us: int | None = None,
        key: str | LastingKey | None = None,
    ) -> "Future[FollowResult]":
        """Let `follower` follow `target`, with its newest `copy_limit` activities."""
        self._check_tenant(tenant)
        command = self._intake.follow(
            tenant,
            follower,
            target,
            copy_limit=self._config.copy_limit_default if copy_limit is None else copy_limit,
            derived=derived,
            time_us=time_us,
            key=key,
            now_us=self._clock(),
        )
        return self._propose(command, FollowResult, _same)

    def unfollow(
        self,
        tenant: TenantId,
        follower: FeedId,
        target: FeedId,
        *,
        keep_history: bool = False,
        time_us: int | None = None,
        key: str | LastingKey | None = None,
    ) -> "Future[UnfollowResult]":
        """Let `follower` no longer follow `target`; its rows stay with `keep_history`."""
        self._check_tenant(tenant)
        command = self._intake.unfollow(
            tenant,
            follower,
            target,
            keep_history=keep_history,
            time_us=time_us,
            key=key,
            now_us=self._clock(),
        )
        return self._propose(command, UnfollowResult, _same)

    def record(
        self,
        tenant: TenantId,
        events: Sequence[Impression | Engagement],
        key: str | LastingKey | None = None,
        content: bytes | None = None,
    ) -> "Future[RecordResult]":
        """Record impressions and engagements; those of unknown activities are left out, and named.

        The counters have moved when the future is done. The same idempotency `key` again records
        nothing; `content` is what was sent, where the caller stamped times that were not in it.
        """
        self._check_tenant(tenant)
        command = self._intake.record(tenant, events, key, self._clock(), content)
        return self._propose(command, RecordResult, _same)

    def save_ranking_config(
        self, tenant: TenantId, document: bytes, key: str | LastingKey | None = None
    ) -> "Future[ConfigSaved]":
        """Save a ranking config, which the caller has checked, as the tenant's next version.

        Whether its bytes are a ranking config is not looked at here. It is not active yet.
        """
        self._check_tenant(tenant)
        command = self._intake.save_config(tenant, document, key, self._clock())
        return self._propose(command, ConfigSaved, _same)

    def activate_ranking_config(
        self,
        tenant: TenantId,
        version: int,
        expected_version: int,
        key: str | LastingKey | None = None,
    ) -> "Future[ConfigActivated]":
        """Let a version rank the tenant's feeds, if `expected_version` has done so until now.

        Version 0 is the default. The future fails with `Conflict` where another version is active,
        and with `NotFound` where this one is not kept.
        """
        self._check_tenant(tenant)
        command = self._intake.activate_config(
            tenant, version, expected_version, key, self._clock()
        )
        return self._propose(command, ConfigActivated, _same)

    def give_feedback(
        self,
        tenant: TenantId,
        given: FeedbackGiven,
        key: str | LastingKey | None = None,
        content: bytes | None = None,
    ) -> "Future[RecordResult]":
        """Take in what a user said to show; every read after the future is done honours it.

        An activity that does not exist, where its tags are meant, is named in `unknown`. Fails with
        `LimitExceeded` where `muted_max` are muted. `key` and `content` are as of `record`.
        """
        self._check_tenant(tenant)
        command = self._intake.feedback(tenant, given, key, self._clock(), content)
        return self._propose(command, RecordResult, _same)

    def subscribe(self, listener: Listener, gap: Gap = lambda: None) -> None:
        """Call `listener` for every command that leaves events, from now on, in log order.

        Without events, the tenant itself was changed: its keys, quotas or ranking configs, or that
        it exists. It is called on the replica's thread before the command's future is done, perhaps
        when the view is at a later command already; what it raises is logged and goes no further.
        Beside a node, commands may be missed: then `gap` is called, on that thread too.
        """
        if self._changes is None:
            raise InvalidInput("this engine hears of no changes: follow where they are applied")
        self._changes.subscribe(listener, gap)

    def status(self) -> ReplicaStatus:
        """Where the replica stands."""
        return self._replica.status()

    def close(self) -> None:
        """Finish what was proposed, and let go of everything; twice is harmless."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            try:
                self._replica.close()
            finally:
                self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tenant_changed(self, tenant: TenantId, index: int, events: Sequence[Event]) -> None:
        del index
        if not events or any(type(event) is Followed for event in events):  # see `note_merging`
            with self._known_lock:
                self._tenant_changes += 1
                self._known.pop(tenant, None)

    def _tenants_missed(self) -> None:
        with self._known_lock:
            self._tenant_changes += 1
            self._known.clear()

    def _propose(
        self, command: Command, kind: type[_Answer], value: Callable[[_Answer], _Value]
    ) -> "Future[_Value]":
        """Propose a command; the future is the `value` of its answer, or its error.

        It names the tenant as it is known here: another one of its name is not meant.
        """
        if command.tenant and hasattr(command, "incarnation"):
            index = self._check_tenant(TenantId(command.tenant)).index
            command = msgspec.structs.replace(command, incarnation=index)
        if self._config.retry_s:
            command = self._repeatable(command)
        return answered(self._replica.propose(self._intake.encode(command)), kind, value)

    def _repeatable(self, command: Command) -> Command:
        """The command with a key of its own, where it has none and would act twice without."""
        if isinstance(command, Unkeyed) or command.once is not None:
            return command
        config = self._config
        once = operation(
            self._name_operation(), config.operation_ttl_s, self._clock(), config.dedup_keys_max
        )
        return msgspec.structs.replace(command, once=once)


def _check_hash(secret_sha256: bytes) -> bytes:
    if len(secret_sha256) != 32:  # noqa: PLR2004 - SHA-256 has 32 bytes
        raise InvalidInput("secret_sha256 is not 32 bytes: hash the secret with hash_secret")
    return secret_sha256


def _same(result: _Value) -> _Value:
    return result


def _posted(placed: Placed, activity: Activity) -> PostResult:
    """With the id and time of the first post, where an idempotency key was used again."""
    if placed.activity_id != activity.id:
        activity = msgspec.structs.replace(
            activity, id=placed.activity_id, time_us=id_time_us(placed.activity_id)
        )
    return PostResult(activity, placed.index, placed.duplicate)
