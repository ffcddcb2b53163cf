"""How much a tenant asks of this process: token buckets for its requests and its events.

Each worker process has its share of a tenant's quota, one part for each worker of the service
(docs/decisions/0019). A bucket counts in whole nanoseconds, so its law is exact: in any stretch of
time t it gives no more than rate * t + burst tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from feeds.errors import NotFound
from feeds.events import Event
from feeds.model import TenantId
from feeds.quotas import Quotas
from serving.errors import OverQuota

__all__ = ["QuotaConfig", "TenantQuotas", "TokenBucket"]

_SECOND_NS: Final = 1_000_000_000
_NEVER_NS: Final = 3_600 * _SECOND_NS
"""What a tenant waits whose quota is 0, before it asks again."""

Kind = Literal["requests_per_s", "events_per_s"]


class TokenBucket:
    """Gives tokens at a rate, and up to `burst` at once; a whole number of both.

    It holds one number: when it will be full again.
    """

    __slots__ = ("_burst_ns", "_full_at_ns", "_token_ns")

    def __init__(self, rate_per_s: int, burst: int, workers: int = 1, full_at_ns: int = 0) -> None:
        """`rate_per_s` is shared by so many workers; `full_at_ns` is that of a bucket before."""
        # Rounded up, so that it never gives more; a rate of 0 gives nothing.
        self._token_ns = -(-_SECOND_NS * workers // rate_per_s) if rate_per_s else 0
        self._burst_ns = self._token_ns * burst
        self._full_at_ns = full_at_ns

    @property
    def full_at_ns(self) -> int:
        """When it is full again."""
        return self._full_at_ns

    def wait_ns(self, tokens: int, now_ns: int) -> int:
        """Nanoseconds until it could give so many tokens; 0 if it could now.

        It is never longer than until it is full: more than `burst` tokens are never given.
        """
        if not self._token_ns:
            return _NEVER_NS
        until_ns = max(self._full_at_ns, now_ns) + tokens * self._token_ns
        return max(0, until_ns - now_ns - self._burst_ns)

    def take(self, tokens: int, now_ns: int) -> int:
        """Take the tokens and return 0, or take none and return the nanoseconds to wait."""
        wait_ns = self.wait_ns(tokens, now_ns)
        if not wait_ns:
            self._full_at_ns = max(self._full_at_ns, now_ns) + tokens * self._token_ns
        return wait_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaConfig:
    """The quotas of a tenant that has none of its own, and how they are kept."""

    requests_per_s: int = 1_000
    """Requests a second, over all workers."""
    events_per_s: int = 20_000
    """Impressions and engagements a second, over all workers."""
    storage_bytes: int = 100 * 1024 * 1024 * 1024
    """Bytes of the encoded activities that are stored at once."""
    training_minutes: int = 600
    """Minutes of training within 24 hours: told here, kept to by `headwater train`."""
    workers: int = 1
    """Processes that share a tenant's quota."""
    burst_s: float = 1.0
    """Seconds whose tokens a tenant may use at once."""
    events_burst_min: int = 1_000
    """Events that a tenant may send at once, however small its quota: a whole batch."""

    def effective(self, own: Quotas) -> Quotas:
        """A tenant's quotas, with the defaults where it has none of its own."""
        return Quotas(
            *(
                getattr(self, name) if value is None else value
                for name in Quotas.__struct_fields__
                for value in (getattr(own, name),)
            )
        )


@dataclass(slots=True)
class _Buckets:
    requests_per_s: TokenBucket
    events_per_s: TokenBucket
    limits: Quotas


class TenantQuotas:
    """The buckets of the tenants that ask; to be asked on one thread.

    `quotas_of` tells a tenant's own quotas. They are read once, and again where the tenant was
    changed: what had been used by then stays used.
    """

    def __init__(
        self,
        quotas_of: Callable[[TenantId], Quotas],
        config: QuotaConfig,
        monotonic_ns: Callable[[], int],
    ) -> None:
        self._quotas_of = quotas_of
        self._config = config
        self._monotonic_ns = monotonic_ns
        self._buckets: dict[TenantId, _Buckets] = {}
        self._stale: set[TenantId] = set()

    def __len__(self) -> int:
        """Tenants that are held."""
        return len(self._buckets)

    def limits(self, tenant: TenantId) -> Quotas:
        """The quotas that hold for a tenant."""
        return self._config.effective(self._quotas_of(tenant))

    def request(self, tenant: TenantId) -> None:
        """Count a request; raises `OverQuota`."""
        self._take(tenant, "requests_per_s", 1)

    def events(self, tenant: TenantId, count: int) -> None:
        """Count events, all or none; raises `OverQuota`."""
        self._take(tenant, "events_per_s", count)

    def check_events(self, tenant: TenantId) -> None:
        """Raise `OverQuota` where not one event more would be taken; count none."""
        buckets = self._of(tenant)
        wait_ns = buckets.events_per_s.wait_ns(1, self._monotonic_ns())
        if wait_ns:
            raise _over(tenant, "events_per_s", buckets.limits, wait_ns)

    def changed(self, tenant: TenantId, index: int, events: Sequence[Event]) -> None:
        """Read the quotas anew where the tenant itself was changed; any thread may tell."""
        del index
        if not events:
            self._stale.add(tenant)

    def missed(self) -> None:
        """Read all quotas anew."""
        self._stale.update(list(self._buckets))

    def _take(self, tenant: TenantId, kind: Kind, count: int) -> None:
        buckets = self._of(tenant)
        bucket: TokenBucket = getattr(buckets, kind)
        wait_ns = bucket.take(count, self._monotonic_ns())
        if wait_ns:
            raise _over(tenant, kind, buckets.limits, wait_ns)

    def _of(self, tenant: TenantId) -> _Buckets:
        held = self._buckets.get(tenant)
        if held is not None and tenant not in self._stale:
            return held
        self._stale.discard(tenant)  # before the quotas are read: a change from now on is another
        try:
            limits = self.limits(tenant)
        except NotFound:
            self._buckets.pop(tenant, None)
            raise
        buckets = self._buckets[tenant] = self._made(limits, held)
        return buckets

    def _made(self, limits: Quotas, before: _Buckets | None) -> _Buckets:
        requests_per_s, events_per_s = limits.requests_per_s or 0, limits.events_per_s or 0
        return _Buckets(
            self._bucket(requests_per_s, 1, before.requests_per_s if before else None),
            self._bucket(
                events_per_s,
                self._config.events_burst_min,
                before.events_per_s if before else None,
            ),
            limits,
        )

    def _bucket(self, rate_per_s: int, burst_min: int, before: TokenBucket | None) -> TokenBucket:
        config = self._config
        burst = max(burst_min, int(rate_per_s * config.burst_s / config.workers))
        full_at_ns = before.full_at_ns if before else 0
        return TokenBucket(rate_per_s, burst, config.workers, full_at_ns)


def _over(tenant: TenantId, kind: Kind, limits: Quotas, wait_ns: int) -> OverQuota:
    return OverQuota(tenant, kind, getattr(limits, kind), wait_ns / _SECOND_NS)
