"""Every limit of the feed engine, in one frozen class."""

from dataclasses import dataclass

from feeds.model import FeedGroup

__all__ = ["DEFAULT_GROUPS", "FeedsConfig"]

DEFAULT_GROUPS: tuple[FeedGroup, ...] = (
    FeedGroup("user"),
    FeedGroup("timeline", followable=False),
    FeedGroup("topic"),
    FeedGroup("flat"),
)
"""`user` and `topic` are posted to, `timeline` follows them, `flat` is for anything else."""


_POSITIVE = (
    "page_size_default",
    "page_size_max",
    "unfollow_rows_max",
    "unfollow_scan_max",
    "fanout_rows_max",
    "outbox_tasks_max",
    "wipe_rows_max",
    "events_batch_max",
    "tenant_keys_max",
    "events_max",
    "ranking_config_bytes_max",
    "activity_bytes_max",
    "text_bytes_max",
    "segment_bytes_max",
    "command_bytes_max",
    "group_commit_ops_max",
    "proposals_max",
    "flush_every_bytes",
)
"""Limits with which, were they 0, nothing could be done or something would never end."""

_VERSIONS_MIN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedsConfig:
    """The limits of one engine; `problems()` names every value that cannot be.

    Limits that shape what a command does travel inside the command, so that the log gives the same
    state whatever the configuration is when it is applied again.
    """

    groups: tuple[FeedGroup, ...] = DEFAULT_GROUPS
    """The feed groups that exist; a feed of another group is refused."""

    page_size_default: int = 25
    """Rows of a page where the reader does not say."""

    page_size_max: int = 100
    """Rows of a page at most."""

    page_scan_max: int = 20_000
    """Rows that a page looks through at most; with many of removed activities it comes out short,
    and says where the next one goes on."""

    rows_max: int = 10_000
    """Positions or activities that one call reads by name at most."""

    recent_max: int = 1_000_000
    """Newest activities that one call reads at most: what an activity table can be loaded with."""

    events_max: int = 50_000
    """Events that one call reads at most, and one batch more."""

    copy_limit_default: int = 100
    """Activities that a follow copies where the caller does not say."""

    copy_limit_max: int = 1_000
    """Activities that a follow, or an unfollow that keeps history, copies at most."""

    follows_max: int = 10_000
    """Feeds that one feed follows at most."""

    pull_followers_min: int = 10_000
    """A feed with more followers than this is merged at read time instead of copied to each."""

    fanout_inline_max: int = 500
    """Followers before whom a post or removal writes rows in its own command; the others get
    theirs from a task, a moment later."""

    fanout_rows_max: int = 500
    """Followers that one command of such a task reaches at most."""

    wipe_rows_max: int = 1_000
    """Rows that one command of a tenant's deletion looks at, at most; the rest follows in more."""

    outbox_tasks_max: int = 10_000
    """Unfinished tasks of a tenant: fan-outs, and unfollows whose rows are not yet removed. A write
    that would leave one more is refused as overloaded."""

    pull_scan_max: int = 2_000
    """Rows older than a follow's first that a read of a merged feed looks through for late ones."""

    unfollow_rows_max: int = 1_000
    """Rows that one command of an unfollow removes at most; the rest follows in more commands."""

    unfollow_scan_max: int = 5_000
    """Rows that one command of an unfollow looks at, at most."""

    events_batch_max: int = 1_000
    """Impressions and engagements in one `record` at most."""

    activity_bytes_max: int = 65_536
    """Bytes of an encoded activity at most."""

    text_bytes_max: int = 1_024
    """Bytes of an actor, verb, object, target, foreign id or idempotency key at most."""

    tags_max: int = 32
    """Tags of an activity that are kept as such; what comes after them is content only."""

    tag_bytes_max: int = 255
    """Bytes of a tag; a longer one is content only."""

    to_max: int = 100
    """Feeds in an activity's `to` at most."""

    tenant_storage_bytes: int = 100 * 1024 * 1024 * 1024
    """Bytes of activities that a tenant without a quota of its own may have stored at once."""

    tenant_keys_max: int = 50
    """API keys of a tenant, or of all operators, that are not expired, at most."""

    key_grace_s_max: int = 30 * 86_400
    """Seconds for which the old key of a rotation may stay good at most."""
    ranking_config_bytes_max: int = 65_536
    """Bytes of the document of a ranking config at most."""

    ranking_configs_max: int = 50
    """Versions of a tenant's ranking config that are kept; the oldest goes that is neither active
    nor was before."""
    muted_max: int = 256
    """Authors, and as many tags, that a user can have muted at once."""

    value_max: float = 1e9
    """The largest magnitude of an engagement's value."""

    dwell_s_max: float = 86_400.0
    """The longest look, in seconds: the value of a `dwell`."""

    future_time_max_s: int = 86_400
    """Seconds that a given time may be ahead of the engine's clock."""

    dedup_ttl_s: int = 86_400
    """Seconds for which an idempotency key is remembered, by the cluster's own clock."""

    dedup_keys_max: int = 1_000_000
    """Idempotency keys of a tenant that are remembered; beyond, the next to expire is forgotten."""

    retry_s: float = 0.0
    """Seconds for which a write is repeated while its outcome is not known; 0 where the log is of
    this process, and every outcome is. Writes without a key get one of their own then."""

    operation_ttl_s: int = 120
    """Seconds for which the key that a write was given for its repeats is remembered."""

    segment_bytes_max: int = 64 * 1024 * 1024
    """Bytes of one segment of the log; the next command after that begins a new one."""

    command_bytes_max: int = 4 * 1024 * 1024
    """Bytes of one encoded command at most."""

    group_commit_ops_max: int = 256
    """Commands that share one fdatasync at most."""

    group_commit_bytes_max: int = 4 * 1024 * 1024
    """Bytes of the commands that share one fdatasync, after the first, at most."""

    proposals_max: int = 10_000
    """Commands that may wait for the log; another one is refused as overloaded."""

    disk_reserve_bytes: int = 64 * 1024 * 1024
    """Free bytes below which nothing is written any more."""

    block_cache_bytes: int = 64 * 1024 * 1024
    """Bytes of the store's one block cache, shared by its column families."""

    write_buffer_bytes: int = 16 * 1024 * 1024
    """Bytes that one column family holds in memory before it writes a file."""

    flush_every_bytes: int = 64 * 1024 * 1024
    """Bytes of commands after which the store is flushed and the log before them dropped."""

    def problems(self) -> list[str]:
        """Every mistake in these values as a sentence; empty where there is none."""
        numbers = {
            name: value
            for name in self.__slots__
            if isinstance(value := getattr(self, name), int | float)
        }
        low = [
            f"{name} is {value}: it must not be negative"
            for name, value in numbers.items()
            if value < 0
        ]
        low += [f"{name} is 0: it must be at least 1" for name in _POSITIVE if numbers[name] == 0]
        if self.page_size_default > self.page_size_max:
            low.append("page_size_default is above page_size_max: lower it, or raise the other")
        if self.page_size_max >= self.rows_max:
            low.append("page_size_max is not below rows_max: lower it, or raise the other")
        if self.page_scan_max <= self.follows_max:
            low.append("page_scan_max is not above follows_max: raise it, or lower the other")
        if self.copy_limit_default > self.copy_limit_max:
            low.append("copy_limit_default is above copy_limit_max: lower it, or raise the other")
        if self.ranking_configs_max < _VERSIONS_MIN:
            low.append(
                f"ranking_configs_max is {self.ranking_configs_max}: it must be at least "
                f"{_VERSIONS_MIN}, for the active version, the one before and a new one"
            )
        if self.retry_s and self.operation_ttl_s < 2 * self.retry_s:
            low.append("operation_ttl_s is below twice retry_s: raise it, or lower the other")
        if not self.groups:
            low.append("groups is empty: name at least one feed group")
        return low
