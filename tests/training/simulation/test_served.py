"""A community on a service that stays: its feeds, explanations and previews as data frames."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest

from ranking import RankingConfig
from training import ServedCommunity, ServedTenant, SimulationConfig, load_events
from training.errors import SimulationError

CONFIG = SimulationConfig(
    users=10, days=1, topics=3, visits_per_day=1.0, follows=3, posts_per_day=3
)
RANKING = RankingConfig.parse({"personalized": {"slate_size": 5}})


@pytest.fixture(scope="module")
def community(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedCommunity]:
    with ServedCommunity(tmp_path_factory.mktemp("community"), CONFIG, RANKING) as lived:
        lived.live(1)
        yield lived


@pytest.fixture(scope="module")
def tenant(community: ServedCommunity) -> Iterator[ServedTenant]:
    client = community.client()
    yield client
    client.close()


@pytest.fixture(scope="module")
def feed(community: ServedCommunity, tenant: ServedTenant) -> pd.DataFrame:
    return max((tenant.feed(user, limit=5) for user in community.users), key=len)


def test_a_feed_is_a_row_a_place_with_times_in_utc(feed: pd.DataFrame) -> None:
    assert feed.index.name == "position"
    assert list(feed.index) == list(range(len(feed)))
    assert len(feed) > 1
    assert str(feed["time"].dt.tz) == "UTC"
    assert feed["time"].is_monotonic_decreasing  # without a model: newest first
    assert len(set(feed["slate_id"])) == 1


def test_an_explained_slate_has_the_places_that_were_served(
    tenant: ServedTenant, feed: pd.DataFrame
) -> None:
    explained = tenant.explain(feed["slate_id"].iloc[0])
    places = explained.to_frame()
    assert list(places["activity_id"]) == list(feed["activity_id"])
    np.testing.assert_array_equal(places["score"], feed["score"])
    assert explained.bit_identical is True
    np.testing.assert_allclose(explained.contributions().sum(axis=1), places["score"], atol=1e-4)
    features = explained.features()
    assert (features.dtypes == "float32").all()
    assert features["age_h"].is_monotonic_increasing
    stages = explained.stages()
    assert stages.loc["filter", "left"] == stages.loc["score", "came"]
    gone = stages.loc["filter", "came"] - stages.loc["filter", "left"]
    assert explained.removed()["count"].sum() == gone


def test_a_preview_of_what_ranks_already_changes_nothing(
    community: ServedCommunity, tenant: ServedTenant
) -> None:
    preview = tenant.preview(RANKING)
    requests = preview.to_frame()
    assert set(requests["user"]) == set(community.users)
    assert not requests["first_changed"].any()
    assert (requests["overlap_at_10"] == 1).all()
    assert str(requests["time"].dt.tz) == "UTC"
    places = preview.places()
    assert places.index.names == ["request", "position"]
    assert (places["moved"] == 0).all()
    assert len(places) == requests["new_length"].sum()
    assert len(preview.removed()) == len(requests)


def test_a_preview_tells_what_rose_and_what_is_new(tenant: ServedTenant) -> None:
    oldest_first = RankingConfig.parse(
        {"personalized": {"slate_size": 5, "fallback": {"score": "age_h"}}}
    )
    places = tenant.preview(oldest_first).places()
    known = places.dropna(subset=["was"])
    position = known.index.get_level_values("position").to_numpy()
    assert (known["moved"].to_numpy() == known["was"].to_numpy() - position).all()
    assert (known["moved"] != 0).any()


def test_what_a_service_refuses_is_told_in_its_words(tenant: ServedTenant) -> None:
    with pytest.raises(SimulationError, match="404"):
        tenant.explain("0" * 32)


def test_events_and_slates_are_exported(community: ServedCommunity, tmp_path: Path) -> None:
    events = load_events(community.export("events", tmp_path / "events"), community.tenant)
    slates = pd.read_parquet(community.export("slates", tmp_path / "slates"))
    shown = events.loc[events["type"] == "impression", "slate_id"]
    assert set(shown) <= set(slates["slate_id"])
    with pytest.raises(SimulationError, match="the events cannot be exported"):
        community.export("events", Path("/dev/null/nowhere"))


def test_a_community_that_does_not_live_has_no_feeds(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="call live first"):
        ServedCommunity(tmp_path, CONFIG).client()


def test_a_process_that_ends_takes_its_service_along(tmp_path: Path) -> None:
    lines = [
        "from training import ServedCommunity, SimulationConfig",
        f"community = ServedCommunity({str(tmp_path)!r}, SimulationConfig(users=2, follows=0))",
        "community.live(1)",
        "raise SystemExit(7)",
    ]
    ended = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=False, timeout=120)
    assert ended.returncode == 7
    address = urlsplit((tmp_path / "address").read_text().strip())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=5)
