"""Which ranking config a read follows: the tenant's own, or the service's."""

from typing import Protocol

from feeds.model import TenantId
from ranking.config import RankingConfig
from ranking.config_options import ExplorationOptions, SourcesOptions
from ranking.sources import CANDIDATES_MAX
from serving.settings import Settings

__all__ = ["NoRankingConfigs", "RankingConfigs", "service_config"]


class RankingConfigs(Protocol):
    """The ranking config of each tenant."""

    def get(self, tenant: TenantId) -> RankingConfig | None:
        """The tenant's own config, None where it has none."""
        ...


class NoRankingConfigs:
    """No tenant has a config of its own."""

    def get(self, tenant: TenantId) -> RankingConfig | None:
        """None, for every tenant."""
        del tenant
        return None


def service_config(settings: Settings) -> RankingConfig:
    """The config of tenants that have none: the default, with what the service's settings say."""
    default = RankingConfig.default()
    common = {"deadline_ms": settings.deadline_ms, "slate_size": settings.slate_size_max}
    chance = ExplorationOptions(policy="epsilon", rate=settings.explore_epsilon)
    more = max(1.0, settings.candidates_max / CANDIDATES_MAX)
    personalized, explore = (
        feed.model_copy(update={**common, "sources": _grown(feed.sources, more)})
        for feed in (default.personalized, default.explore)
    )
    return RankingConfig(
        personalized=personalized, explore=explore.model_copy(update={"exploration": chance})
    )


def _grown(sources: SourcesOptions, factor: float) -> SourcesOptions:
    """The sources with quotas so many times as large."""
    return sources.model_copy(
        update={
            name: each.model_copy(update={"quota": round(each.quota * factor)})
            for name, each in sources.named().items()
        }
    )
