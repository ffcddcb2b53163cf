"""Which node of which cluster a data directory belongs to.

It keeps a directory from being used by another node, or in another cluster, by mistake. The
incarnation is of the directory: one that was made anew has another, so peers know that the node
begins with nothing.
"""

import os
import secrets
from pathlib import Path
from typing import Final, Self

import msgspec

from feeds.directory import IDENTITY
from feeds.durable import make_directory, sync_directory
from feeds.errors import ClusterMismatch

__all__ = ["Identity"]

_BYTES_MAX: Final = 4_096


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who a data directory is."""

    cluster_id: str
    node: str
    incarnation: str
    joining: bool = False
    """It began with nothing while the cluster was at work, and has not caught up yet."""

    @classmethod
    def create(cls, cluster_id: str, node: str, *, joining: bool = False) -> Self:
        """A new one."""
        return cls(cluster_id, node, secrets.token_hex(8), joining)

    @classmethod
    def load(cls, data: Path) -> Self | None:
        """That of a data directory; None if it has none. Raises `ClusterMismatch`, OSError."""
        path = data / IDENTITY
        try:
            with path.open("rb") as file:
                return msgspec.json.decode(file.read(_BYTES_MAX), type=cls)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise ClusterMismatch(
                f"{path} is damaged ({error}): whose directory this is, is unknown. Replace the "
                "node: give it an empty directory, and start it with --join"
            ) from error

    def save(self, data: Path) -> None:
        """Write it into a data directory, made if absent, durably. Raises OSError."""
        make_directory(data)
        draft = data / f"{IDENTITY}.new"
        with draft.open("wb") as file:
            file.write(msgspec.json.encode(self))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(data / IDENTITY)
        sync_directory(data)

    def check(self, cluster_id: str, node: str, data: Path) -> None:
        """Raise `ClusterMismatch` where the directory is not this node's."""
        if self.cluster_id != cluster_id:
            raise ClusterMismatch(
                f"{data} belongs to cluster {self.cluster_id!r}, and the config says "
                f"{cluster_id!r}: choose another data_dir, or correct cluster_id"
            )
        if self.node != node:
            raise ClusterMismatch(
                f"{data} belongs to node {self.node!r}, and the config says {node!r}: choose "
                "another data_dir, or correct node"
            )
