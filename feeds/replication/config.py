"""The pace and the limits of a replica: of its log, and of its part in a cluster."""

from dataclasses import dataclass, field

from feeds.replication.transport import TransportConfig

__all__ = ["ClusterConfig", "ConsensusConfig", "LogConfig", "MemberConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The limits of a segment log."""

    segment_bytes_max: int = 64 * 1024 * 1024
    """Bytes after which a segment takes no further group of records; the next begins a new one."""

    record_bytes_max: int = 4 * 1024 * 1024
    """Bytes of one command at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsensusConfig:
    """The pace of a cluster, and what it sends at once."""

    heartbeat_s: float = 0.05
    """Seconds between two appends of an idle leader to each peer."""

    election_timeout_s_min: float = 0.4
    """Seconds without a leader after which a node may stand; no peer agrees before that."""

    election_timeout_s_max: float = 0.8
    """Seconds without a leader after which it stands at the latest; drawn anew each time."""

    leader_fallback_s: float = 1.0
    """Seconds without a majority's answers after which a leader believes in itself no more.

    So it does where its own disk has not answered for as long.
    """

    commit_news_s: float = 0.003
    """Seconds for which the news of a commit may wait for the next append to take it along."""

    hand_over_s: float = 1.0
    """Seconds between two peers that a leader whose disk is full asks to lead in its place."""

    full_timeouts: int = 4
    """Election timeouts that a node whose disk is full leaves to others before it stands."""

    append_entries_max: int = 1_024
    """Entries of one append at most."""

    append_bytes_max: int = 1024 * 1024
    """Bytes of the commands of one append, after the first, at most."""

    pipeline_max: int = 8
    """Appends with entries that may be unanswered by one peer."""

    resend_s: float = 0.3
    """Seconds without an answer after which a peer is sent again what it has not acknowledged."""

    apply_wait_s: float = 0.003
    """Seconds for which a follower applies nothing while its disk makes durable what came."""

    apply_entries_max: int = 1_024
    """Entries that one tick applies at most, so that heartbeats go on."""

    apply_bytes_max: int = 8 * 1024 * 1024
    """Bytes of the commands, after the first, that one tick applies at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberConfig:
    """The limits of one node's part in a cluster."""

    consensus: ConsensusConfig = field(default_factory=ConsensusConfig)
    """Its pace."""

    propose_timeout_s: float = 5.0
    """Seconds after which a proposer that was told nothing is told that the outcome is unknown."""

    proposals_max: int = 10_000
    """Commands that may wait, or be on their way; another one is refused as overloaded."""

    proposals_bytes_max: int = 64 * 1024 * 1024
    """Bytes of the commands that may wait to be written."""

    group_commit_ops_min: int = 32
    """Commands that go as a group of their own while another one is not decided yet.

    Fewer wait for it: so groups grow with the load, and what each costs is shared by more.
    """

    group_commit_bytes_min: int = 256 * 1024
    """Bytes of commands that go so."""

    group_commit_ops_max: int = 1_024
    """Commands that one tick writes at most; they share an fdatasync."""

    group_commit_bytes_max: int = 4 * 1024 * 1024
    """Bytes of the commands that one tick writes, after the first, at most."""

    record_bytes_max: int = 4 * 1024 * 1024
    """Bytes of one command at most."""

    log_keep_bytes_max: int = 256 * 1024 * 1024
    """Bytes of log that are kept for a peer that is behind; beyond, it gets a snapshot."""

    log_keep_s_max: float = 600.0
    """Seconds for which the log is kept for a peer that is silent."""

    snapshot_retry_s: float = 2.0
    """Seconds before a snapshot that failed is sent again."""

    join_ask_s: float = 0.2
    """Seconds between a joining node's questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """The limits of one replica of a cluster."""

    transport: TransportConfig
    """Who is in the cluster, and where."""

    member: MemberConfig = field(default_factory=MemberConfig)
    """Its part in the cluster."""

    log: LogConfig = field(default_factory=LogConfig)
    """The limits of its log."""

    disk_reserve_bytes: int = 64 * 1024 * 1024
    """Free bytes on the disks of log and store below which no command is written."""

    tick_s: float = 0.02
    """Seconds between two looks at the clock while nothing arrives."""

    close_s_max: float = 5.0
    """Seconds that closing waits for what was proposed."""

    snapshot_silence_s_max: float = 30.0
    """Seconds without a piece after which a snapshot is given up."""
