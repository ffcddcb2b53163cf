"""The whole simulation in this process: the truth, the estimates beside it, the report."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from training import Arm, SimulationConfig, simulate
from training.cli.simulate import simulate as command
from training.errors import SimulationError
from training.evaluation.counterfactual import CounterfactualConfig, importance_weights
from training.simulation.learning import TRAINING
from training.simulation.plots import save_plots
from training.simulation.policy import default_arms
from training.simulation.report import SimulationReport
from training.simulation.run import Simulation, logged_places

CONFIG = SimulationConfig(users=40, days=4, topics=4)
QUICK = CounterfactualConfig(draws=200)


@pytest.fixture(scope="module")
def result() -> Simulation:
    return simulate(CONFIG, lived=True, counterfactual=QUICK)


def test_the_truth_stands_beside_the_estimate(result: Simulation) -> None:
    report = result.report
    assert [arm.name for arm in report.arms] == ["exploring", "newest", "popular"]
    newest = report.of("newest")
    assert newest.estimate is not None
    assert newest.covered == {"IPS": True, "SNIPS": True, "DR": True}
    assert newest.value == pytest.approx(np.mean([v.values["newest"] for v in result.visits]))
    assert newest.regret == pytest.approx(report.optimum - newest.value)
    assert report.of("exploring").estimate is None


def test_the_days_add_up_to_the_whole(result: Simulation) -> None:
    report = result.report
    visits = np.array([day.visits for day in report.days])
    assert sum(day.events for day in report.days) == report.counts["events"] == len(result.log)
    assert visits.sum() == report.judged == report.counts["visits"]
    served = np.array([day.served for day in report.days])
    assert report.value == pytest.approx(served @ visits / visits.sum())


def test_visits_are_a_frame_whose_means_are_those_of_the_report(result: Simulation) -> None:
    frame = result.visits_frame()
    assert frame.index.name == "visit"
    assert len(frame) == result.report.judged
    means = frame.drop(columns=["user", "kind"]).mean()
    assert means["served"] == pytest.approx(result.report.value)
    assert means["optimum"] == pytest.approx(result.report.optimum)
    for arm in result.report.arms:
        assert means[arm.name] == pytest.approx(arm.value)


def test_an_arm_that_serves_from_the_start_has_a_value_for_every_day(result: Simulation) -> None:
    assert [len(arm.lived) for arm in result.report.arms] == [0, 4, 4]


def test_weights_of_an_arm_that_ranks_as_the_serving_one_are_one() -> None:
    first = default_arms()[0]
    twice = simulate(CONFIG, [first, replace(first, name="again")], counterfactual=QUICK)
    places = logged_places(twice.visits, "again", QUICK, seed=1)
    np.testing.assert_allclose(importance_weights(places, "independent"), 1)
    again = twice.report.of("again")
    assert again.difference == 0
    assert again.estimate is not None
    assert again.estimate.of("IPS").difference == pytest.approx(0)


def test_the_same_config_gives_the_same_report_but_for_the_seconds(result: Simulation) -> None:
    again = simulate(CONFIG, lived=True, counterfactual=QUICK)
    assert again.report.as_dict() | {"seconds": 0} == result.report.as_dict() | {"seconds": 0}


def test_a_report_is_read_again_and_shown_as_frames_and_plots(
    result: Simulation, tmp_path: Path
) -> None:
    report = result.report
    assert SimulationReport.from_json(report.to_json()) == report
    assert report.to_frame().loc["newest", "value"] == report.of("newest").value
    assert list(report.days_frame().index) == [0, 1, 2, 3]
    for path in save_plots(report, tmp_path):
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arms", "told"),
    [([], "the arms are none"), ([Arm("a"), Arm("a")], "the arms are a, a: give at least one")],
)
def test_arms_that_cannot_be_told_apart_are_refused(arms: list[Arm], told: str) -> None:
    with pytest.raises(SimulationError, match=told):
        simulate(CONFIG, arms)


def test_a_model_does_not_serve_over_http_and_needs_days_to_be_judged_on(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="takes from its registry"):
        simulate(CONFIG, [default_arms()[2]], directory=tmp_path)
    with pytest.raises(SimulationError, match="train_days is 4 of 4 days"):
        simulate(CONFIG, train_days=4)
    with pytest.raises(SimulationError, match="nobody read a feed"):
        simulate(replace(CONFIG, visits_per_day=0.0))


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, [*arguments, "--local", "--json"])
    return done.exit_code, done.stdout


def test_the_command_judges_a_config_and_a_model_and_leaves_report_and_plots(
    tmp_path: Path,
) -> None:
    config = tmp_path / "decayed.json"
    config.write_text('{"personalized": {"fallback": {"score": "decay_gauss(time)"}}}')
    options = ("--users", "60", "--days", "6", "--train-days", "5", "--out", str(tmp_path))
    status, told = run(*options, "--config", str(config))
    answer = json.loads(told)
    assert status == 0
    names = [arm["name"] for arm in answer["arms"]]
    assert names == ["exploring", "newest", "popular", "decayed", "model"]
    assert {day["day"] for day in answer["days"]} == {5}
    assert re.search(r"learnt from \d+ requests as they were shown", answer["statements"][-1])
    assert {path.name for path in tmp_path.iterdir()} == {
        "days.png",
        "decayed.json",
        "estimates.png",
        "report.json",
    }


def test_a_model_of_too_few_shown_requests_learns_from_first_touches_and_says_so() -> None:
    training = replace(TRAINING, requests=replace(TRAINING.requests, shown_requests_min=10_000))
    result = simulate(replace(CONFIG, users=40, days=6), train_days=5, training=training)
    assert "first touches, for too few" in result.report.statements[-1]


def test_the_command_tells_what_is_wrong_as_json(tmp_path: Path) -> None:
    status, told = run("--users", "1", "--out", str(tmp_path))
    assert status == 1
    assert json.loads(told) == {
        "error": "users is 1: from 2 to 20000",
        "exception": "SimulationError",
    }
    config = tmp_path / "broken.json"
    config.write_text("{")
    status, told = run("--config", str(config), "--out", str(tmp_path))
    assert (status, "is no ranking config" in told) == (1, True)
