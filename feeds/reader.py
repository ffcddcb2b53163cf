"""Reading: every question that a node's store answers, without writing.

A `StoreReader` needs a view alone, so a worker that follows another process's store can answer too.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal

from feeds.config import FeedsConfig
from feeds.counters import CounterRecord, UserRecord
from feeds.credentials import NO_TENANT, ApiKey
from feeds.errors import InvalidInput, LimitExceeded, NotFound, StorageError
from feeds.events import Event, Posted
from feeds.fanout import followers
from feeds.intake import Intake
from feeds.keys import (
    APPLIED,
    POSITION_BYTES,
    ActivityKey,
    ApiKeyKey,
    CounterKey,
    DedupKey,
    EventKey,
    FeedRowKey,
    FollowKey,
    RankingConfigKey,
    RankingConfigsKey,
    TaskCountKey,
    TenantKey,
    UsageKey,
    after,
    read_number,
)
from feeds.model import (
    FeedId,
    FeedPage,
    FeedRow,
    Follow,
    Position,
    TenantId,
    UserId,
    check_user_id,
    id_at,
    position_of,
)
from feeds.quotas import Usage
from feeds.rows import distinct, positions_in, pulled_edges, scan, visible_rows
from feeds.store.base import View
from feeds.values import (
    PulledEdge,
    RankingConfigs,
    TenantRecord,
    body_of,
    decode_activity,
    decode_api_key,
    decode_counter,
    decode_edge,
    decode_event,
    decode_ranking_configs,
    decode_remembered,
    decode_tenant,
    decode_usage,
    decode_user,
    index_of,
)

__all__ = ["StoreReader", "StoredCounts"]

StoredCounts = tuple[int, Posted, CounterRecord]
"""An activity's log index, facts and counts: a row of the activity table."""

_BEHIND_POSITION = b"\xff"  # behind every origin, which is ASCII


class StoreReader:
    """Answers reads from a view; safe to call from any thread."""

    def __init__(self, view: View, config: FeedsConfig) -> None:
        self._view = view
        self._config = config
        self._intake = Intake(config)
        self._known: dict[TenantId, TenantRecord] = {}

    def applied_index(self) -> int:
        """The log index that the view is at: it moves in one batch with a command's effects."""
        applied = self._view.get("meta", APPLIED)
        return read_number(applied) if applied else 0

    def tenants(self) -> list[TenantId]:
        """Every tenant, by name."""
        return [tenant for tenant, record in self._tenants() if not record.deleted]

    def deleting(self) -> list[TenantId]:
        """The tenants that were deleted, and what they left not yet removed, by name."""
        return [tenant for tenant, record in self._tenants() if record.deleted]

    def tenant(self, tenant: TenantId) -> TenantRecord:
        """When a tenant was created, and its quotas; raises `NotFound` if it does not exist."""
        data = self._view.get("config", TenantKey(tenant).encode())
        record = decode_tenant(data) if data else None
        if record is None or record.deleted:
            raise NotFound(
                f"tenant {str(tenant)[:80]!r} does not exist: "
                "create it with `headwater tenants create`"
            )
        return record

    def check_exists(self, tenant: TenantId) -> None:
        """Raise `NotFound` where there is no such tenant; as of now, mostly without a look-up."""
        self._check_tenant(tenant)

    def usage(self, tenant: TenantId) -> Usage:
        """What a tenant has stored."""
        self._check_tenant(tenant)
        data = self._view.get("meta", UsageKey(tenant).encode())
        return decode_usage(data) if data else Usage()

    def open_tasks(self) -> int:
        """Tasks of all tenants that count towards their limits: fan-outs and ended follows."""
        prefix = TaskCountKey.prefix()
        return sum(
            read_number(count) for _, count in scan(self._view, "meta", prefix, after(prefix))
        )

    def key(self, key_id: str) -> ApiKey | None:
        """The API key with this public id, if it is of a tenant that exists or of an operator."""
        try:
            data = self._view.get("config", ApiKeyKey(key_id).encode())
        except UnicodeEncodeError:
            return None
        key = decode_api_key(data) if data else None
        if key is None:
            return None
        try:
            self._check_owner(key.tenant)
        except NotFound:
            return None
        return key

    def keys(self, tenant: TenantId) -> list[ApiKey]:
        """The API keys of a tenant, or with `NO_TENANT` of the operators, by id."""
        self._check_owner(tenant)
        prefix = ApiKeyKey.prefix()
        keys = (
            decode_api_key(data) for _, data in scan(self._view, "config", prefix, after(prefix))
        )
        return [key for key in keys if key.tenant == tenant]

    def key_counts(self) -> Counter[TenantId]:
        """How many API keys each tenant has, expired ones too; the operators' are `NO_TENANT`'s."""
        prefix = ApiKeyKey.prefix()
        keys = scan(self._view, "config", prefix, after(prefix))
        return Counter(decode_api_key(data).tenant for _, data in keys)

    def read(
        self, tenant: TenantId, feed: FeedId, limit: int | None = None, cursor: str | None = None
    ) -> FeedPage:
        """A page of a feed, newest first, behind the activity whose id is `cursor`.

        Rows whose activity was removed are passed over, so that a page is full while there are
        rows; behind more than `page_scan_max` of them it is short, with a cursor. Raises
        `UnknownFeedGroup`, `InvalidCursor`, or `LimitExceeded` above page_size_max.
        """
        size = self._config.page_size_default if limit is None else limit
        self._check_limit(size, self._config.page_size_max, "page_size_max")
        record, text = self._check_tenant(tenant), self._intake.check_feed(feed)
        edges = pulled_edges(self._view, tenant, text) if record.merging else {}
        behind = position_of(cursor) + _BEHIND_POSITION if cursor is not None else b""
        found, more = self._visible(tenant, text, edges, size + 1, behind)
        if len(found) > size:
            more = found[size - 1][0].position
        rows, bodies = [row for row, _ in found[:size]], [body for _, body in found[:size]]
        return FeedPage(rows, bodies, id_at(more) if more is not None else None)

    def rows(self, tenant: TenantId, feed: FeedId, limit: int) -> list[Position]:
        """The newest positions of a feed, each once; a removed activity may still be among them."""
        self._check_limit(limit, self._config.rows_max, "rows_max")
        record, text = self._check_tenant(tenant), self._intake.check_feed(feed)
        if record.merging and (edges := pulled_edges(self._view, tenant, text)):
            return self._merged_rows(tenant, text, edges, limit)
        start, stop = FeedRowKey.bounds(tenant, text)
        keys = self._view.keys("feeds", start, stop, limit)
        found = positions_in(keys, len(start))
        while len(found) < limit == len(keys):  # some have several origins
            keys = self._view.keys("feeds", keys[-1] + b"\0", stop, limit)
            found = distinct(found + positions_in(keys, len(start)))[:limit]
        return found

    def bodies(self, tenant: TenantId, positions: Sequence[Position]) -> list[bytes | None]:
        """The activities as encoded JSON without `origin`, None where there is none."""
        return [data and body_of(data) for data in self._stored(tenant, positions)]

    def follows(self, tenant: TenantId, feed: FeedId) -> dict[str, Follow]:
        """The edges of a follower by the text of their targets; at most `follows_max`."""
        self._check_tenant(tenant)
        prefix = FollowKey.prefix(tenant, self._intake.check_feed(feed))
        edges: dict[str, Follow] = {}
        for key, data in scan(self._view, "follows", prefix, after(prefix)):
            target, edge = key[len(prefix) :].decode(), decode_edge(data)
            edges[target] = Follow(
                feed,
                FeedId(*target.split(":", 1)),
                edge.created_us,
                edge.index,
                edge.since_us,
                edge.derived,
            )
        return edges

    def users(
        self, tenant: TenantId, home_group: str, limit: int, behind: str = ""
    ) -> list[UserId]:
        """The next users by name, from behind `behind`: whoever did, said or follows anything.

        Who follows is known by the feed of `home_group`. About 20 us each.
        """
        self._check_limit(limit, self._config.rows_max, "rows_max")
        self._check_tenant(tenant)
        prefix = CounterKey.prefix(tenant, "user")
        start = prefix + behind.encode() + b"\0"
        keys = self._view.keys("counters", start, after(prefix), limit)
        known = {key[len(prefix) :] for key in keys}
        known.update(islice(self._following(tenant, home_group, behind), limit))
        return [UserId(name.decode()) for name in sorted(known)[:limit]]

    def _following(self, tenant: TenantId, home_group: str, behind: str) -> Iterator[bytes]:
        """The users whose feed of a group follows anything, from behind one, by name."""
        begin = FollowKey.prefix(tenant, f"{home_group}:")[:-1]
        start = after(begin + behind.encode() + b"\0")
        while keys := self._view.keys("follows", start, after(begin), 1):
            name = keys[0][len(begin) :].partition(b"\0")[0]
            yield name
            start = after(begin + name + b"\0")

    def check_feed(self, feed: FeedId) -> None:
        """Raise `UnknownFeedGroup` where the feed is of no group that is configured."""
        self._intake.check_feed(feed)

    def followed(self, tenant: TenantId, feed: FeedId, limit: int) -> list[FeedId]:
        """The first `limit` feeds that a feed follows, by name: as `follows`, but bounded."""
        self._check_limit(limit, self._config.rows_max, "rows_max")
        self._check_tenant(tenant)
        prefix = FollowKey.prefix(tenant, self._intake.check_feed(feed))
        keys = self._view.keys("follows", prefix, after(prefix), limit)
        return [FeedId(*key[len(prefix) :].decode().split(":", 1)) for key in keys]

    def followers(
        self, tenant: TenantId, feed: FeedId, limit: int, cursor: FeedId | None = None
    ) -> list[FeedId]:
        """Who follows a feed, by name, from behind the follower `cursor`."""
        self._check_limit(limit, self._config.rows_max, "rows_max")
        self._check_tenant(tenant)
        behind = "" if cursor is None else self._intake.check_feed(cursor)
        found = followers(self._view, tenant, self._intake.check_feed(feed), behind)
        return [FeedId(*text.split(":", 1)) for text in islice(found, limit)]

    def user_record(self, tenant: TenantId, user: UserId) -> UserRecord:
        """The user's side of every feature; an empty one for a user who did nothing."""
        self._check_tenant(tenant)
        name = check_user_id(user).encode()
        data = self._view.get("counters", CounterKey(tenant, "user", name).encode())
        return decode_user(data) if data else UserRecord.empty()

    def recent(self, tenant: TenantId, limit: int) -> list[StoredCounts]:
        """The newest activities with log index and counts, newest first; at most `recent_max`."""
        self._check_limit(limit, self._config.recent_max, "recent_max")
        self._check_tenant(tenant)
        prefix = ActivityKey.prefix(tenant)
        chunk = islice(scan(self._view, "activities", prefix, after(prefix)), limit)
        found = list(chunk)
        counts = self._counts(tenant, [key[len(prefix) :] for key, _ in found])
        return [_counted(data, record) for (_, data), record in zip(found, counts, strict=True)]

    def activities(
        self, tenant: TenantId, positions: Sequence[Position]
    ) -> list[StoredCounts | None]:
        """Activities with log index and counts, in the order asked, None where there is none."""
        stored = self._stored(tenant, positions)
        counts = self._counts(tenant, positions)
        return [
            _counted(data, record) if data is not None else None
            for data, record in zip(stored, counts, strict=True)
        ]

    def counters(
        self, tenant: TenantId, entity: Literal["author", "tag"], names: Sequence[str]
    ) -> list[CounterRecord]:
        """The counts of authors or tags, in the order asked; empty ones where there are none."""
        self._check_limit(len(names), self._config.rows_max, "rows_max", low=0)
        self._check_tenant(tenant)
        prefix = CounterKey.prefix(tenant, entity)
        try:
            keys = [prefix + name.encode() for name in names]
        except UnicodeEncodeError:
            raise InvalidInput(f"a name of {entity} is not valid Unicode: send UTF-8") from None
        found = self._view.get_many("counters", keys)
        return [decode_counter(data) if data else CounterRecord.empty() for data in found]

    def events(
        self, tenant: TenantId, after_index: int, limit: int
    ) -> list[tuple[int, int, Event]]:
        """(log index, ordinal, event) behind a log index, in order.

        A command's events are never parted: the last command's come whole, also above `limit`. So
        the last index is where to go on from.
        """
        self._check_limit(limit, self._config.events_max, "events_max")
        self._check_tenant(tenant)
        prefix = EventKey.prefix(tenant)
        start = EventKey(tenant, after_index + 1, 0).encode()
        found: list[tuple[int, int, Event]] = []
        for key, data in scan(self._view, "events", start, after(prefix), limit):
            place = EventKey.decode(key)
            if len(found) >= limit and place.index != found[-1][0]:
                break
            found.append((place.index, place.ordinal, decode_event(data)))
        return found

    def remembered(self, tenant: TenantId, key: str) -> bytes | None:
        """The digest of what an idempotency key was used for, until it is forgotten."""
        self._check_tenant(tenant)
        data = self._view.get("dedup", DedupKey(tenant, key).encode())
        return decode_remembered(data).digest if data else None

    def ranking_configs(self, tenant: TenantId) -> RankingConfigs:
        """Which versions of its ranking config a tenant has, and which is active."""
        self._check_tenant(tenant)
        data = self._view.get("config", RankingConfigsKey(tenant).encode())
        return decode_ranking_configs(data) if data else RankingConfigs()

    def ranking_config(self, tenant: TenantId, version: int) -> bytes:
        """The document of a version; raises `NotFound` where it is not kept."""
        self._check_tenant(tenant)
        data = self._document(tenant, version)
        if data is None:
            configs = self.ranking_configs(tenant)
            raise NotFound(
                f"ranking config version {version} is not kept: the tenant has "
                f"{len(configs.saved)} versions, of which the newest is {configs.last}"
            )
        return data

    def active_ranking_config(self, tenant: TenantId) -> tuple[int, bytes | None]:
        """(version, document) of the active ranking config; (0, None) where it is the default."""
        configs = self.ranking_configs(tenant)
        while configs.active:
            document = self._document(tenant, configs.active)
            if document is not None:
                return configs.active, document
            read, configs = configs, self.ranking_configs(tenant)
            if configs == read:
                raise StorageError(
                    f"the active ranking config {configs.active} of {tenant} is missing: verify "
                    "the store with `headwater verify`"
                )
        return 0, None

    def _document(self, tenant: TenantId, version: int) -> bytes | None:
        if not 0 <= version < 2**63:
            return None
        return self._view.get("config", RankingConfigKey(tenant, version).encode())

    def _check_tenant(self, tenant: TenantId) -> TenantRecord:
        """The tenant's record, as of now or as it is held; raises `NotFound`."""
        return self._known.get(tenant) or self.tenant(tenant)

    def _tenants(self) -> Iterator[tuple[TenantId, TenantRecord]]:
        prefix = TenantKey.prefix()
        for key, data in scan(self._view, "config", prefix, after(prefix)):
            yield TenantId(TenantKey.decode(key).tenant), decode_tenant(data)

    def _check_owner(self, tenant: TenantId) -> None:
        """Whose keys they may be: a tenant's that exists, or the operators'."""
        if tenant != NO_TENANT:
            self._check_tenant(tenant)

    def _check_limit(self, number: int, limit: int, name: str, low: int = 1) -> None:
        if not low <= number <= limit:
            raise LimitExceeded(f"limit is {number}, {name} is {limit}: ask for {low} to {limit}")

    def _stored(self, tenant: TenantId, positions: Sequence[bytes]) -> list[bytes | None]:
        self._check_limit(len(positions), self._config.rows_max, "rows_max", low=0)
        self._check_tenant(tenant)
        prefix = ActivityKey.prefix(tenant)
        return self._view.get_many("activities", [prefix + position for position in positions])

    def _counts(self, tenant: TenantId, positions: Sequence[bytes]) -> list[CounterRecord]:
        prefix = CounterKey.prefix(tenant, "activity")
        found = self._view.get_many("counters", [prefix + position for position in positions])
        return [decode_counter(data) if data else CounterRecord.empty() for data in found]

    def _merged_rows(
        self, tenant: TenantId, feed: str, edges: Mapping[str, PulledEdge], limit: int
    ) -> list[Position]:
        rows = visible_rows(
            self._view, tenant, feed, edges, scan_max=self._config.pull_scan_max, chunk=limit
        )
        found: dict[bytes, None] = {}
        for suffix, _ in rows:
            found[suffix[:POSITION_BYTES]] = None
            if len(found) >= limit:
                break
        return [Position(position) for position in found]

    def _visible(
        self,
        tenant: TenantId,
        feed: str,
        edges: Mapping[str, PulledEdge],
        wanted: int,
        behind: bytes,
    ) -> tuple[list[tuple[FeedRow, bytes]], bytes | None]:
        """The first `wanted` rows with a living activity, each position once, and their bodies.

        Where that took too many rows, also the position behind which to go on.
        """
        rows = visible_rows(
            self._view,
            tenant,
            feed,
            edges,
            scan_max=self._config.pull_scan_max,
            behind=behind,
            chunk=wanted,
        )
        found: dict[bytes, tuple[FeedRow, bytes]] = {}
        looked, done = 0, None
        while len(found) < wanted and (chunk := list(islice(rows, wanted))):
            positions = [suffix[:POSITION_BYTES] for suffix, _ in chunk]
            stored = self._stored(tenant, positions)
            for (suffix, value), position, data in zip(chunk, positions, stored, strict=True):
                # A row written before the activity's first post is of one that was removed.
                if data is not None and value >= data[:8] and position not in found:
                    found[position] = _shown(position, suffix[POSITION_BYTES:], data)
            # The last position may have more rows: it is done with where it is shown.
            done = max((p for p in positions if p in found or p < positions[-1]), default=done)
            looked += len(chunk)
            if looked >= self._config.page_scan_max:
                return list(found.values())[:wanted], done
        return list(found.values())[:wanted], None


def _shown(position: bytes, origin: bytes, data: bytes) -> tuple[FeedRow, bytes]:
    feed = FeedId(*origin.decode().split(":", 1)) if origin else None
    ending = b',"origin":"' + origin + b'"}' if origin else b',"origin":null}'
    row = FeedRow(Position(position), index_of(data), feed)
    return row, body_of(data)[:-1] + ending


def _counted(data: bytes, record: CounterRecord) -> StoredCounts:
    stored = decode_activity(data)
    return stored.index, stored.posted, record
