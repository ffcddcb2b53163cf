"""Which ranking config a read follows: the tenant's own, or the service's."""

from typing import Protocol

from feeds.model import TenantId
from ranking.config import RankingConfig
from ranking.config_options import ExplorationOptions
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
    return RankingConfig(
        personalized=default.personalized.model_copy(update=common),
        explore=default.explore.model_copy(update={**common, "exploration": chance}),
    )
