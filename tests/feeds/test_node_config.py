"""What a node's TOML can say of the engine's limits."""

from pathlib import Path

import pytest

from feeds.config import FeedsConfig
from feeds.errors import InvalidInput
from feeds.node_config import NodeConfig, NodeLimitsConfig

TOML = """
cluster_id = "c"
node = "n1"
data_dir = "data"
socket = "n1.sock"
plain = true

[nodes]
n1 = "127.0.0.1:7000"
"""


def load(directory: Path, more: str) -> NodeConfig:
    path = directory / "n1.toml"
    path.write_text(TOML + more)
    return NodeConfig.load(path)


def test_limits_of_the_engine_are_as_they_are_unless_the_node_says_so(tmp_path: Path) -> None:
    assert FeedsConfig() == load(tmp_path, "").limits.engine()
    found = load(tmp_path, "[limits]\nfanout_rows_max = 7\ndisk_reserve_bytes = 0\n")
    assert FeedsConfig(fanout_rows_max=7, disk_reserve_bytes=0) == found.limits.engine()


def test_every_limit_of_a_node_is_one_of_the_engine_and_can_be_set() -> None:
    for name in NodeLimitsConfig.model_fields:
        limits = NodeLimitsConfig.model_validate({name: 1_234})
        assert 1_234 == getattr(limits.engine(), name)
        assert [] == limits.engine().problems()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fanout_rows_max = 0", "limits.fanout_rows_max: .* greater than or equal to 1"),
        ("disk_reserve_bytes = -1", "limits.disk_reserve_bytes: .* greater than or equal to 0"),
        ("page_size_max = 5", "limits.page_size_max: Extra inputs are not permitted"),
        ('proposals_max = "many"', "limits.proposals_max: .* valid integer"),
    ],
)
def test_limit_that_cannot_be_is_refused_by_name(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        load(tmp_path, f"[limits]\n{line}\n")


def test_file_that_a_configuration_writes_says_its_limits(tmp_path: Path) -> None:
    config = load(tmp_path, "[limits]\nfanout_rows_max = 7\nblock_cache_bytes = 8\n")
    path = tmp_path / "again.toml"
    path.write_text(config.to_toml())
    assert config == NodeConfig.load(path)
    assert "[limits]" not in load(tmp_path, "").to_toml()
