"""The protocols end to end: the short form always, the long form with its figures where slow."""

import os
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from training.errors import SourceError, TrainingError
from training.protocols import Check, Figure, ProtocolOptions, ProtocolReport, run_protocol
from training.protocols.p4 import thompson_probabilities

DATA = Path(os.environ.get("HEADWATER_DATA", "../shared/data"))
CACHE = Path(os.environ.get("HEADWATER_CACHE", ".headwater/cache"))
BASELINES = {"random", "chronological"}


def run(name: str, *, short: bool) -> ProtocolReport:
    draws = 200 if short else 2_000
    told: list[str] = []
    options = ProtocolOptions(data=DATA, cache=CACHE, short=short, draws=draws)
    try:
        report = run_protocol(name, options, lambda what, _done, _total: told.append(what))
    except SourceError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    assert len(set(told)) > 2  # a bar has something to tell
    return report


@pytest.fixture(scope="module")
def p1() -> ProtocolReport:
    return run("p1", short=True)


def test_p1_has_the_baselines_the_models_and_the_published_figures(p1: ProtocolReport) -> None:
    names = {figure.name for figure in p1.figures}
    assert names == BASELINES | {"popularity", "EASE", "ALS", "LightFM WARP"}
    assert p1.of("popularity").value == pytest.approx(0.245, abs=0.02)
    assert p1.of("EASE").value > 0.4
    assert [f.name for f in p1.published] == ["BiVAE", "BPR", "LightGCN", "NCF"]
    assert p1.counts["users"] == 943


def test_p2_says_that_nothing_is_distinguishable_from_popularity() -> None:
    report = run("p2", short=True)
    assert report.verdicts[0] == "No method is distinguishable from popularity."
    assert report.counts["known users"] == 91
    assert report.of("popularity").value == pytest.approx(0.1168, abs=0.002)


def test_p3_measures_the_baselines_of_the_readme() -> None:
    report = run("p3", short=True)
    for name in ("random", "popular", "latest activity", "chronological"):
        figure = report.of(name)
        assert figure.value == pytest.approx(figure.published, abs=0.03)
    assert sum(figure.name.endswith("(chosen)") for figure in report.figures) == 1


def test_p4_finds_what_thompson_sampling_earned_in_the_random_log() -> None:
    report = run("p4", short=True)
    for name in ("IPS", "SNIPS", "DR"):
        figure = report.of(f"all, bts from random: {name}")
        assert figure.interval is not None
        assert figure.interval[0] <= 0.0042 <= figure.interval[1]
        assert figure.published == pytest.approx(0.0042)
    assert report.passed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["p1", "p2", "p3", "p4"])
def test_every_check_of_the_long_form_holds(name: str) -> None:
    report = run(name, short=False)
    assert [check.sentence for check in report.checks if not check.passed] == []
    assert report.checks


def test_thompson_probabilities_are_those_of_draws() -> None:
    priors = np.array([[3.0, 300.0], [5.0, 300.0], [40.0, 4000.0], [1.0, 90.0]])
    exact = thompson_probabilities(priors)
    assert exact.sum(axis=0) == pytest.approx(np.ones(3))
    draws = np.random.default_rng(1).beta(priors[:, 0], priors[:, 1], (200_000, 4))
    order = np.argsort(-draws, axis=1)[:, :3]
    drawn = np.stack([np.bincount(order[:, place], minlength=4) for place in range(3)], axis=1)
    assert exact == pytest.approx(drawn / 200_000, abs=0.005)


def test_a_protocol_that_is_none_is_told() -> None:
    with pytest.raises(TrainingError, match=r"no protocol 'p9'.*p1, p2"):
        run_protocol("p9")


def test_without_its_data_p3_says_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="give --data"):
        run_protocol("p3", ProtocolOptions(data=tmp_path))


def test_the_table_fits_80_columns_and_tells_what_does_not_hold(p1: ProtocolReport) -> None:
    console = Console(width=80, record=True)
    console.print(p1.table())
    assert max(len(line) for line in console.export_text().splitlines()) <= 80
    failed = ProtocolReport(
        protocol="p1",
        title="made up",
        unit="NDCG@10",
        figures=(Figure(name="one", value=0.5, least=0.6),),
        checks=(Check(False, "one has 0.5, at least 0.6"),),
    )
    assert not failed.passed
    assert failed.as_dict()["passed"] is False
    assert "DOES NOT HOLD: one has 0.5, at least 0.6" in failed.lines()
    with pytest.raises(KeyError, match="two is not in the report: one"):
        failed.of("two")
