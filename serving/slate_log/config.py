"""What the slate log keeps, of whom, and for how long."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from feeds.errors import NotFound
from feeds.model import TenantId
from ranking.candidates import FeedKind
from serving.configs import RankingConfigs
from serving.settings import Settings

__all__ = ["Shares", "SlateLogConfig", "SlateRules", "config_of", "rules_of", "shares_of"]

Shares = Callable[[TenantId, FeedKind], float]
"""Which share of the slates of a tenant's feed its ranking config has logged, 0 to 1."""


@dataclass(frozen=True, slots=True)
class SlateRules:
    """What is kept of one tenant's slates."""

    rate: float = 1.0
    """Share of the slates that are logged at most, 0 to 1, drawn from each slate's id."""
    candidates: bool = False
    """Whether all candidates that the filters kept are logged, not the shown ones alone."""
    bytes_max: int = 1024 * 1024 * 1024
    """Bytes of the tenant's segments at most, over all processes; the oldest leave."""
    age_s: float = 30 * 86_400.0
    """Seconds after which a slate has left."""


@dataclass(frozen=True, slots=True)
class SlateLogConfig:
    """The limits of the slate log of one process."""

    segment_bytes: int = 8 * 1024 * 1024
    """Bytes of one segment at most; a slate beyond it is not logged."""
    total_bytes_max: int = 8 * 1024 * 1024 * 1024
    """Bytes of all tenants' segments, looked at every 30 s; who has most loses the oldest."""
    flush_ms: float = 200.0
    """Milliseconds for which a slate waits to be written at most: what a crash loses."""
    flush_records: int = 64
    """Slates that wait to be written at most, before they are; what a crash loses."""
    queue_max: int = 256
    """Slates in memory at most, about 0.1 MB each; beyond it slates are dropped."""


def config_of(settings: Settings) -> SlateLogConfig:
    """The limits of this process."""
    return SlateLogConfig(
        segment_bytes=settings.slate_log_segment_bytes,
        total_bytes_max=settings.slate_log_total_bytes_max,
        flush_ms=settings.slate_log_flush_ms,
        flush_records=settings.slate_log_flush_records,
        queue_max=settings.slate_log_queue_max,
    )


def rules_of(settings: Settings) -> Callable[[TenantId], SlateRules]:
    """What is kept of each tenant: `slate_log_tenants` where it says something, else the rest."""
    usual = SlateRules(
        settings.slate_log_rate,
        settings.slate_log_candidates,
        settings.slate_log_bytes_max,
        settings.slate_log_age_s,
    )
    own = {
        tenant: replace(usual, **given.model_dump(exclude_none=True))
        for tenant, given in settings.slate_log_tenants.items()
    }
    return lambda tenant: own.get(tenant, usual)


def shares_of(configs: RankingConfigs) -> Shares:
    """`log_sample_rate` of each feed; nothing of a tenant that is deleted by now."""

    def share(tenant: TenantId, kind: FeedKind) -> float:
        try:
            return configs.of(tenant).config.feed(kind).log_sample_rate
        except NotFound:
            return 0.0

    return share
