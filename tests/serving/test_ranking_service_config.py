"""The ranking config of tenants that have none of their own."""

import pytest

from serving.ranking_configs import service_config
from serving.settings import load_settings


@pytest.mark.parametrize(
    ("candidates_max", "following", "trending"),
    [(100, 400, 100), (500, 400, 100), (1_000, 800, 200), (2_000, 1_600, 400)],
)
def test_quotas_grow_with_candidates_beyond_the_default(
    candidates_max: int, following: int, trending: int
) -> None:
    sources = service_config(load_settings(candidates_max=candidates_max)).personalized.sources
    assert (sources.following.quota, sources.trending.quota) == (following, trending)
    assert (sources.following.on, sources.fresh.on) == (True, False)
