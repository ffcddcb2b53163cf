"""A member whose peers and clock the test plays."""

from collections.abc import Iterator
from pathlib import Path

import pysyncobj.syncobj
import pytest
import structlog

from feeds.testing_member import PlayedNode, SteppedClock


@pytest.fixture(autouse=True)
def _logs_as_by_default() -> None:
    """Whatever a test before has configured: here it is looked at what is said."""
    structlog.reset_defaults()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SteppedClock:
    clock = SteppedClock()
    monkeypatch.setattr(pysyncobj.syncobj, "monotonicTime", clock)
    return clock


@pytest.fixture
def node(tmp_path: Path, clock: SteppedClock) -> Iterator[PlayedNode]:
    node = PlayedNode(tmp_path / "log", clock)
    yield node
    node.journal.close()
