"""The published figures of the data, measured by our own replay: the evaluator evaluated."""

import os
from pathlib import Path

import numpy as np
import pytest

from ranking.features import FeatureSpec
from training.config import RequestConfig
from training.evaluation.rankings import baseline_scores, mean_ndcg
from training.sets.dataset import TrainingSet, collect
from training.sets.replay import replay
from training.sets.requests import find_requests
from training.sources import read_source
from training.steps import FEATURE_NAMES
from training.testing import events_of, log_of


@pytest.fixture(scope="module")
def readme_protocol() -> TrainingSet:
    """First touches of the last 40 % of the time, users with 3 before, threads active 14 days."""
    path = Path(
        os.environ.get("HEADWATER_DATA", "../shared/data"), "stackexchange-quantumcomputing"
    )
    if not path.is_dir():
        assert os.environ.get("CI") != "true", f"{path} is needed in CI: set HEADWATER_DATA"
        pytest.skip(f"{path} is not here: set HEADWATER_DATA to the directory of data sets")
    actions, _ = read_source("stackexchange", path, path)
    log = log_of(events_of(actions))
    times = [event.time_us for event in log.events]
    start_us = times[0] + int(0.6 * (times[-1] - times[0]))
    config = RequestConfig(touches_max=1, active_days=14, earlier_touches_min=3)
    requests = [r for r in find_requests(log.events, config) if r.time_us >= start_us]
    return collect(replay(log, requests, FeatureSpec(FEATURE_NAMES), config), FEATURE_NAMES)


def test_reach_and_candidates_are_those_of_the_readme(readme_protocol: TrainingSet) -> None:
    assert readme_protocol.reach == pytest.approx(657 / 746, abs=0.02)
    assert np.median(readme_protocol.sizes) == pytest.approx(74, abs=6)


@pytest.mark.parametrize(
    ("name", "readme"),
    [("random", 0.070), ("popular", 0.038), ("latest activity", 0.573), ("chronological", 0.621)],
)
def test_baselines_score_as_in_the_readme(
    readme_protocol: TrainingSet, name: str, readme: float
) -> None:
    scores = baseline_scores(readme_protocol, "engagements_total", seed=1)[name]
    assert mean_ndcg(readme_protocol, scores, 10) == pytest.approx(readme, abs=0.03)
