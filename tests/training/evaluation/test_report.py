"""Reports as pages: what stands in them, and that nothing is loaded from elsewhere."""

import re
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from ranking.features import FeatureSpec
from ranking.scorers.expression import ExpressionScorer
from ranking.scorers.popularity import PopularityScorer
from training.config import EvaluationConfig
from training.evaluation.rankings import baseline_scores, judge, not_better
from training.evaluation.report import EvaluationReport, ExploreReport, LiveReport, PartReport
from training.evaluation.report_details import BAND_EDGES, detail, requests_of
from training.evaluation.report_pages import rendered
from training.evaluation.report_plots import as_png, as_svg, plots_of
from training.sets.dataset import TrainingSet

CONFIG = EvaluationConfig(draws=50)
NAMES = (
    "age_h",
    "hours_since_active",
    "engagements_1d",
    "engagements_7d",
    "engagements_total",
    "user_engagements",
)


def requests(count: int, seed: int) -> TrainingSet:
    """Requests of 5 candidates; what many engaged with is touched, of users old and new."""
    random = np.random.default_rng(seed)
    values = random.integers(0, 40, (5 * count, len(NAMES))).astype(np.float32)
    before = random.choice([0, 5, 30, 500], count)
    values[:, NAMES.index("user_engagements")] = np.repeat(before, 5)
    popular = values[:, NAMES.index("engagements_7d")].reshape(count, 5)
    labels = np.zeros((count, 5), np.int8)
    labels[np.arange(count), popular.argmax(axis=1)] = random.random(count) < 0.9
    return TrainingSet(
        names=NAMES,
        values=values,
        labels=labels.ravel(),
        activities=random.integers(0, 60, 5 * count),
        sizes=np.full(count, 5, np.int64),
        wanted=np.ones(count, np.int64),
        times_us=np.arange(count, dtype=np.int64),
        users=tuple(f"u{n % 17}" for n in range(count)),
    )


SCORER = PopularityScorer(FeatureSpec(("engagements_7d",)), "engagements_7d")


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    test, validation = requests(120, 1), requests(80, 2)
    rankings = baseline_scores(test, "engagements_total", 1)
    rankings["popularity"] = SCORER.score(test.columns(SCORER.spec.names))
    results = judge(test, rankings, CONFIG, 1)
    details = detail(test, rankings, SCORER, validation, CONFIG, 1)
    return EvaluationReport(
        tenant="acme <&>",
        model="popularity",
        model_kind="popularity",
        model_version=4,
        k=10,
        verdicts=tuple(c.sentence for c in results[-1].comparisons),
        not_better=not_better(results[-1], 10),
        rankers=results,
        explore=ExploreReport(
            requests=3, users=2, reach=0.5, rankers=results, verdict="It explored."
        ),
        live=LiveReport(3, 0.51, 0.02, (-0.01, 0.05), "It is not distinguishable from live."),
        bands=details.bands,
        reliability=details.reliability,
        importance=details.importance,
        validation={"popularity": 0.5},
        reach=test.reach,
        parts=(PartReport("test", "2026-01-01T00:00:00", 120, 17, 5.0, test.reach),),
        split={},
        counts={},
        seconds={},
        derived=("The community is made up.",),
        conventions=("Queries without a relevant result are left out.",),
    )


def test_details_are_told_for_each_band_with_every_ranking(report: EvaluationReport) -> None:
    assert [band.name for band in report.bands] == [
        "0 to 9 engagements",
        "10 to 99 engagements",
        "100 or more engagements",
    ]
    assert len(BAND_EDGES) == 3
    assert sum(band.requests for band in report.bands) == 120
    for band in report.bands:
        assert [r.name for r in band.rankers] == [r.name for r in report.rankers]


def test_bands_are_a_frame_with_a_row_for_each_band_and_ranking(report: EvaluationReport) -> None:
    frame = report.bands_frame()
    assert frame.index.names == ["band", "ranker"]
    assert len(frame) == len(report.bands) * len(report.rankers)
    of_model = frame.xs("popularity", level="ranker")
    assert of_model["requests"].sum() == 120
    for band in report.bands:
        low, high = next(one for one in band.rankers if one.name == "popularity").interval
        assert tuple(of_model.loc[band.name, ["low", "high"]]) == (low, high)


def test_scores_become_probabilities_that_come_true(report: EvaluationReport) -> None:
    assert report.reliability is not None
    assert report.reliability.error < 0.06
    assert "isotonic regression on the validation part" in report.reliability.basis
    assert list(report.importance) == ["engagements_7d"]


def test_what_cannot_be_told_is_left_out() -> None:
    test = requests(10, 1)
    nothing = replace(test, labels=np.zeros(50, np.int8))
    rankings = {"one": np.zeros(50, np.float32)}
    assert detail(nothing, rankings, SCORER, nothing, CONFIG, 1).bands == ()
    assert detail(nothing, rankings, SCORER, nothing, CONFIG, 1).reliability is None
    formula = ExpressionScorer.of({"score": "engagements_7d + 1"})
    assert (
        detail(test, baseline_scores(test, "age_h", 1), formula, test, CONFIG, 1).importance == {}
    )


def test_some_requests_of_a_set_keep_their_candidates() -> None:
    data = requests(6, 3)
    chosen = np.array([True, False, False, True, False, True])
    some = requests_of(data, chosen)
    assert some.users == ("u0", "u3", "u5")
    assert np.array_equal(some.values, data.values.reshape(6, 5, -1)[chosen].reshape(15, -1))
    assert np.array_equal(requests_of(data, np.ones(6, bool)).labels, data.labels)


def test_a_report_comes_back_from_json(report: EvaluationReport) -> None:
    again = EvaluationReport.from_json(report.to_json())
    assert again == report
    assert list(report.as_dict()["statements"])[: len(report.verdicts)] == list(report.verdicts)
    assert "It is not distinguishable from live." in report.statements


def test_the_page_loads_nothing_from_elsewhere_and_has_every_plot(
    report: EvaluationReport,
) -> None:
    page = report.to_html()
    assert page.count("<svg") == 6
    assert "<script" not in page
    assert "src=" not in page
    addresses = set(re.findall(r'(?:href|url)\W+"?(https?:[^"\s)]+)', page))
    assert addresses == set()
    assert "acme &lt;&amp;&gt;" in page
    assert "acme <&>" not in page
    for sentence in (*report.verdicts, *report.derived, *report.conventions, "It explored."):
        assert sentence in page


def test_the_same_report_gives_the_same_pages(report: EvaluationReport) -> None:
    assert rendered(report) == rendered(report)


def test_markdown_has_the_tables_and_all_statements(report: EvaluationReport) -> None:
    page = report.to_markdown()
    assert page.startswith("# acme <&>: popularity, version 4\n")
    assert "| popularity (chosen) |" in page
    assert "| 10 to 99 engagements |" in page
    for sentence in report.statements:
        assert f"* {sentence}" in page


def test_a_report_without_details_has_the_plots_that_it_can(report: EvaluationReport) -> None:
    bare = msgspec.structs.replace(
        report, bands=(), reliability=None, importance={}, explore=None, live=None
    )
    assert list(plots_of(bare)) == ["intervals", "reach", "catalogue"]
    assert bare.to_html().count("<svg") == 3


def test_plots_are_images(report: EvaluationReport) -> None:
    figure = plots_of(report)["intervals"]
    assert as_png(figure).startswith(b"\x89PNG")
    assert as_svg(figure).startswith("<svg")


def test_novelty_and_inequality_stand_beside_coverage(report: EvaluationReport) -> None:
    assert all(ranker.novelty is not None for ranker in report.rankers)
    shown = [ranker.novelty for ranker in report.rankers]
    assert shown == pytest.approx([shown[0]] * len(shown))  # all 5 candidates are within k
    assert all(0 <= (ranker.gini or 0) < 1 for ranker in report.rankers)
