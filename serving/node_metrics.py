"""What the engine node tells of itself, as metrics: asked for when `/metrics` is."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from feeds.errors import FeedsError
from feeds.replication.base import ReplicaStatus
from serving.exposition import Family, Sample, exposition

__all__ = ["NODE_FAMILIES", "node_metrics"]

STATUS_S_MAX: Final = 2.0
"""Seconds that the node is given to say where it stands."""

ROLES: Final = ("leader", "follower", "candidate", "joining", "stopped")

UP: Final = Family("headwater_node_up", "gauge", (), "Whether the engine said where it stands.")
ROLE: Final = Family(
    "headwater_node_role", "gauge", ("role",), "1 for the engine's role, 0 for the others."
)
LEADER_KNOWN: Final = Family(
    "headwater_node_leader_known", "gauge", (), "Whether the engine leads or knows who does."
)
LAG: Final = Family(
    "headwater_node_lag_entries",
    "gauge",
    (),
    "Entries of the log that are committed and not yet applied.",
)
PEER_CONNECTED: Final = Family(
    "headwater_node_peer_connected", "gauge", ("peer",), "Whether another node is connected."
)
PEER_MATCH: Final = Family(
    "headwater_node_peer_match_index",
    "gauge",
    ("peer",),
    "Log index up to which another node is level with this one; 0 where this one does not lead.",
)
PEER_SILENT: Final = Family(
    "headwater_node_peer_silent_seconds",
    "gauge",
    ("peer",),
    "Seconds since another node was last heard; absent where it never was.",
)
_NUMBERS: Final = (
    (Family("headwater_node_term", "gauge", (), "The term that the engine is in."), "term"),
    (
        Family("headwater_node_first_index", "gauge", (), "The first log index that is kept."),
        "first_index",
    ),
    (Family("headwater_node_last_index", "gauge", (), "The last log index."), "last_index"),
    (
        Family("headwater_node_commit_index", "gauge", (), "The last log index that is committed."),
        "commit_index",
    ),
    (
        Family("headwater_node_applied_index", "gauge", (), "The last log index that is applied."),
        "applied_index",
    ),
    (
        Family(
            "headwater_node_snapshot_index",
            "gauge",
            (),
            "The log index of the last snapshot that was sent or installed.",
        ),
        "snapshot_index",
    ),
    (Family("headwater_node_log_bytes", "gauge", (), "Bytes of the log on disk."), "log_bytes"),
)
NODE_FAMILIES: Final = (
    UP,
    ROLE,
    LEADER_KNOWN,
    *(family for family, _ in _NUMBERS),
    LAG,
    PEER_CONNECTED,
    PEER_MATCH,
    PEER_SILENT,
)
"""Every metric of the engine node."""


async def node_metrics(ask: Callable[[], ReplicaStatus]) -> bytes:
    """What `ask` says of the engine, in Prometheus's text format; that it is down if it does not.

    `ask` runs in a thread, since a node may be slow to answer.
    """
    try:
        status = await asyncio.wait_for(asyncio.to_thread(ask), STATUS_S_MAX)
    except (FeedsError, TimeoutError):
        return exposition([(UP, [Sample({}, 0)])])
    return exposition(_families(status))


def _families(status: ReplicaStatus) -> Iterator[tuple[Family, Iterable[Sample]]]:
    leads = status.role == "leader"
    yield UP, [Sample({}, 1)]
    yield ROLE, [Sample({"role": role}, int(role == status.role)) for role in ROLES]
    yield LEADER_KNOWN, [Sample({}, int(leads or status.leader is not None))]
    for family, name in _NUMBERS:
        yield family, [Sample({}, getattr(status, name))]
    yield LAG, [Sample({}, max(0, status.commit_index - status.applied_index))]
    peers = [({"peer": peer.node}, peer) for peer in status.peers]
    yield PEER_CONNECTED, [Sample(labels, int(peer.connected)) for labels, peer in peers]
    yield PEER_MATCH, [Sample(labels, peer.match_index) for labels, peer in peers]
    yield PEER_SILENT, _silences(status)


def _silences(status: ReplicaStatus) -> Iterator[Sample]:
    for peer in status.peers:
        if peer.silent_s is not None:
            yield Sample({"peer": peer.node}, peer.silent_s)
