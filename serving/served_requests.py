"""The ranked reads that a tenant's users made last: what a preview ranks again."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from feeds.model import TenantId, UserId
from ranking.candidates import FeedKind

__all__ = ["RecentRequests", "ServedRequest", "ServedRequests", "newest"]


class ServedRequest(NamedTuple):
    """A ranked read: who asked for what and when, the seed of its chances, and its slate's id."""

    user: UserId
    kind: FeedKind
    time_us: int
    seed: int
    slate_id: str | None = None


class ServedRequests(Protocol):
    """Where the last ranked reads of a tenant are known."""

    async def last(self, tenant: TenantId, count: int) -> Sequence[ServedRequest]:
        """The newest requests, the newest first, at most `count` and one for each user and kind."""
        ...


def newest(requests: Iterable[ServedRequest]) -> list[ServedRequest]:
    """The newest request of each user and kind, the newest first."""
    found: dict[tuple[UserId, FeedKind], ServedRequest] = {}
    for request in sorted(requests, key=lambda request: -request.time_us):
        found.setdefault((request.user, request.kind), request)
    return list(found.values())


class RecentRequests:
    """Those that this process has served, in memory: some 200 bytes each. One event loop.

    Of the `tenants_max` tenants that asked last, the last `requests_max` each.
    """

    def __init__(self, requests_max: int, tenants_max: int) -> None:
        self._requests_max = requests_max
        self._tenants_max = tenants_max
        self._served: OrderedDict[TenantId, deque[ServedRequest]] = OrderedDict()

    def note(self, tenant: TenantId, request: ServedRequest) -> None:
        """Remember a request that was just served."""
        served = self._served.get(tenant)
        if served is None:
            served = self._served[tenant] = deque(maxlen=self._requests_max)
            if len(self._served) > self._tenants_max:
                self._served.popitem(last=False)
        self._served.move_to_end(tenant)
        served.append(request)

    def forget(self, tenant: TenantId) -> None:
        """Remember nothing of the tenant any more."""
        self._served.pop(tenant, None)

    def last(self, tenant: TenantId, count: int) -> list[ServedRequest]:
        """The newest, the newest first, at most `count` and one for each user and kind."""
        return newest(self._served.get(tenant, ()))[:count]
