"""The requests of the slates that were logged last: what a preview ranks again."""

import asyncio
from collections.abc import Iterator
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
from serving.slate_log.segments import SegmentReader
from serving.slate_log.shelf import Segment, segments_of

__all__ = ["LoggedRequests"]

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
        left = self.bytes_max
        try:
            for segment in reversed(segments_of(self.directory / tenant)):
                left -= segment.bytes
                if len(found) >= count or left < 0:
                    break
                found = newest([*found, *_requests(segment, tenant)])
        except (OSError, FeedsError) as error:
            _log.warning("slate_log_not_read", tenant=tenant, problem=str(error))
        return found


def _requests(segment: Segment, tenant: TenantId) -> Iterator[ServedRequest]:
    """The requests of a segment's sound records; none where it left just now."""
    try:
        records = SegmentReader(segment.path)
    except FileNotFoundError:
        return
    for record in records:
        try:
            asked = _decoder.decode(record.content)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if asked.tenant == tenant and _SOURCES.issuperset(asked.sources):
            user = UserId(asked.user)
            yield ServedRequest(user, asked.kind, asked.time_us, asked.seed, asked.slate_id)
