from pathlib import Path

import pytest

from feeds.errors import ReplicaStopped
from feeds.replication.base import ApplyCommand, Replica
from feeds.replication.memory import MemoryReplica
from feeds.testing import ReplicaContract


class TestMemoryReplica(ReplicaContract):
    def open_replica(self, directory: Path, apply: ApplyCommand, applied_index: int) -> Replica:
        del directory
        return MemoryReplica(apply, applied_index)


def test_proposal_within_an_apply_is_refused() -> None:
    def apply(index: int, term: int, command: bytes) -> bytes:
        del index, term
        with pytest.raises(ReplicaStopped, match="a command is being applied"):
            replica.propose(b"inner").result(0)
        return command

    replica = MemoryReplica(apply)
    assert replica.propose(b"outer").result(0).index == 1
