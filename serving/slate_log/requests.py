"""The slates that were logged last, and their requests: what a preview ranks again."""

import asyncio
import contextlib
import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog

from feeds.errors import FeedsError
from feeds.model import TenantId, UserId
from ranking.candidates import FeedKind
from ranking.config_options import SourcesOptions
from serving.served_requests import RecentRequests, ServedRequest, newest
from serving.slate_log.record import LoggedSlate, RecordDamaged, decode
from serving.slate_log.segments import SegmentReader
from serving.slate_log.shelf import Segment, segments_of

__all__ = ["LoggedRequests", "LoggedSlates"]

_log = structlog.get_logger(__name__)

_SOURCES: Final = frozenset(SourcesOptions.model_fields)
"""The sources of a feed; slates of what a caller brought, or of related activities, have others."""


class _Asked(msgspec.Struct, array_like=True):
    """The first columns of a logged slate (`serving.slate_log.record.LoggedSlate`)."""

    slate_id: str
    tenant: str
    user: str
    kind: FeedKind
    time_us: int
    seed: int
    scorer: str
    model_version: str | None
    config_version: int
    degraded: str | None
    spec_fingerprint: str
    feature_names: tuple[str, ...]
    sources: tuple[str, ...]


_decoder: Final = msgspec.msgpack.Decoder(_Asked)


@dataclass(frozen=True, slots=True)
class LoggedRequests:
    """Those of the log, over all workers and restarts, and what this process served since.

    At most `bytes_max` of a tenant's segments are read, the newest, in a thread: about 1 ms a MB.
    """

    directory: Path
    recent: RecentRequests
    bytes_max: int

    async def last(self, tenant: TenantId, count: int) -> list[ServedRequest]:
        """As `ServedRequests.last`; what the log does not tell, this process may know."""
        since = self.recent.last(tenant, count)
        logged = await asyncio.to_thread(self._logged, tenant, count)
        return newest([*since, *logged])[:count]

    def _logged(self, tenant: TenantId, count: int) -> list[ServedRequest]:
        found: list[ServedRequest] = []
        for segment in _newest_segments(self.directory, tenant, self.bytes_max):
            if len(found) >= count:
                break
            found = newest([*found, *(_request(asked) for asked, _ in _feeds(segment, tenant))])
        return found


@dataclass(frozen=True, slots=True)
class LoggedSlates:
    """The slates of feeds that were logged last, over all workers and restarts.

    At most `bytes_max` of a tenant's segments are read, the newest, in a thread: about 1 ms a MB.
    `flush` waits until what this process has noted is written.
    """

    directory: Path
    bytes_max: int
    flush: Callable[[], object]

    async def last(self, tenant: TenantId, count: int) -> list[LoggedSlate]:
        """The last `count`, the newest first; fewer where the log has no more."""
        return await asyncio.to_thread(self._last, tenant, count)

    def _last(self, tenant: TenantId, count: int) -> list[LoggedSlate]:
        self.flush()
        found: list[tuple[int, bytes | memoryview]] = []
        for segment in _newest_segments(self.directory, tenant, self.bytes_max):
            if len(found) >= count:
                break
            found += [(asked.time_us, content) for asked, content in _feeds(segment, tenant)]
            found = heapq.nlargest(count, found, key=lambda one: one[0])
        slates = []
        for _, content in found:
            with contextlib.suppress(RecordDamaged):
                slates.append(decode(content))
        return slates


def _newest_segments(directory: Path, tenant: TenantId, bytes_max: int) -> Iterator[Segment]:
    """The tenant's segments, the newest first, of so many bytes; none where they are not read."""
    left = bytes_max
    try:
        for segment in reversed(segments_of(directory / tenant)):
            left -= segment.bytes
            if left < 0:
                return
            yield segment
    except (OSError, FeedsError) as error:
        _log.warning("slate_log_not_read", tenant=tenant, problem=str(error))


def _feeds(segment: Segment, tenant: TenantId) -> Iterator[tuple[_Asked, bytes | memoryview]]:
    """The requests of a segment's sound records for a feed, and the records; none where it left."""
    try:
        records = SegmentReader(segment.path)
    except FileNotFoundError:
        return
    except (OSError, FeedsError) as error:
        _log.warning("slate_log_not_read", tenant=tenant, problem=str(error))
        return
    for record in records:
        try:
            asked = _decoder.decode(record.content)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if asked.tenant == tenant and _SOURCES.issuperset(asked.sources):
            yield asked, record.content


def _request(asked: _Asked) -> ServedRequest:
    return ServedRequest(UserId(asked.user), asked.kind, asked.time_us, asked.seed, asked.slate_id)
