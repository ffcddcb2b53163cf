"""What an engagement of each kind is worth to a tenant, and who says so."""

from dataclasses import dataclass, replace
from typing import Self

import msgspec

from ranking.config import RankingConfig
from ranking.config_options import ValueOptions
from ranking.errors import InvalidRankingConfig
from training.config import TrainingConfig
from training.events.log import Manifest

__all__ = ["Worth"]


@dataclass(frozen=True, slots=True)
class Worth:
    """`weights` by kind of engagement, and in `source` who gave them, in words."""

    weights: dict[str, float]
    source: str

    @classmethod
    def of(cls, manifest: Manifest, config: TrainingConfig) -> Self:
        """What the run was given, or the tenant's ranking config says, or the default one.

        Of the ranking config it is the personalized feed that counts: one model serves both feeds.
        """
        if config.heads.weights is not None:
            return cls(dict(config.heads.weights), "the training's own settings")
        default = ValueOptions().weights()
        if manifest.ranking_config is None:
            return cls(default, "the default ranking config")
        name = f"version {manifest.ranking_config_version} of the tenant's ranking config"
        try:
            ranking = RankingConfig.parse(msgspec.json.decode(manifest.ranking_config))
        except (InvalidRankingConfig, msgspec.DecodeError):
            return cls(default, f"the default ranking config, as {name} cannot be read")
        return cls(ranking.personalized.value.weights(), name)

    @property
    def sentence(self) -> str:
        """For the report of a value model."""
        told = ", ".join(f"{kind} {weight:g}" for kind, weight in self.weights.items() if weight)
        return f"What engagements are worth is from {self.source}: {told}."

    def within(self, config: TrainingConfig) -> TrainingConfig:
        """The config with these weights."""
        return replace(config, heads=replace(config.heads, weights=self.weights))
