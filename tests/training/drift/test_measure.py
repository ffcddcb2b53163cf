"""Drift between what a model learnt from and the last day of slates."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from feeds.counters import DAY_US
from ranking.registry import open_registry
from ranking.scorers.recency import RecencyScorer
from training import promote, train_tenant
from training.cli.drift import drift
from training.config import BoostedConfig, BoostedVariant, FactorizationConfig, TrainingConfig
from training.drift.histograms import (
    HISTOGRAMS,
    Histogram,
    TrainingHistograms,
    training_histograms,
)
from training.drift.measure import DriftConfig, DriftReport, Learnt, measure_drift, psi
from training.drift.metrics import GAUGES, exposition
from training.drift.pages import as_html
from training.drift.published import DriftWatch
from training.errors import TrainingError
from training.sets.dataset import TrainingSet
from training.testing import community, events_of, log_of, write_export

T0_US = 1_800_000_000_000_000
NAMES = ("age_h", "tag_overlap")
QUICK = TrainingConfig(
    factorization=FactorizationConfig(dimensions=4, epochs=2),
    boosted=BoostedConfig(variants=(BoostedVariant("boosted-3", 3),), trees_max=10, stop_rounds=5),
)
samples = st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=80).map(
    np.array
)


@given(samples)
def test_a_sample_has_not_drifted_from_itself(sample: np.ndarray) -> None:
    before = Histogram.of(sample)
    assert psi(before, before.again(np.random.default_rng(1).permutation(sample))) == 0


@given(samples, samples)
def test_drift_is_never_below_zero(before: np.ndarray, now: np.ndarray) -> None:
    histogram = Histogram.of(before)
    assert psi(histogram, histogram.again(now)) >= 0


def test_what_goes_missing_is_a_drift() -> None:
    before = np.random.default_rng(1).normal(size=1_000)
    now = before.copy()
    now[:500] = np.nan
    assert psi(Histogram.of(before), Histogram.of(before).again(now)) > 0.25


def export(
    home: Path,
    days: int,
    shift: float,
    *,
    degraded: bool = False,
    version: str | None = None,
    candidates: bool = False,
) -> Path:
    """200 rows a day in slates of ten; on the last day the first feature and scores are moved."""
    random = np.random.default_rng(5)
    for day in range(days):
        moved = shift if day == days - 1 else 0.0
        rows = 200
        frame = pd.DataFrame(
            {
                "slate_id": [f"s{day}-{row // 10}" for row in range(rows)],
                "time": pd.to_datetime(
                    [T0_US + day * DAY_US + row for row in range(rows)], unit="us", utc=True
                ),
                "spec_fingerprint": "f",
                "degraded": ["no model" if degraded and row < 50 else None for row in range(rows)],
                "scorer": "recency",
                "model_version": version,
                "position": [
                    -1 if candidates and row % 10 > 4 else row % 10 for row in range(rows)
                ],
                "score": random.normal(moved, 1, rows).astype(np.float32),
                "feature_names": ",".join(NAMES),
                "features": list(
                    np.stack(
                        [random.normal(moved, 1, rows), random.normal(0, 1, rows)], axis=1
                    ).astype(np.float32)
                ),
            }
        )
        path = home / "tenant=acme" / f"day=2027-01-{day + 15:02}"
        path.mkdir(parents=True)
        frame.to_parquet(path / "slates-1-2-3.parquet")
    return home


def learnt(rows: int = 2_000, *, shown: bool = True) -> Learnt:
    """A version that learnt from rows as `export` has them before its last day."""
    values = np.random.default_rng(8).normal(size=(rows, 2)).astype(np.float32)
    data = TrainingSet(
        names=NAMES,
        values=values,
        labels=np.zeros(rows, np.int8),
        activities=np.arange(rows),
        sizes=np.array([rows]),
        wanted=np.array([1]),
        times_us=np.array([0]),
        users=("u",),
        positions=np.zeros(rows, np.int32) if shown else None,
    )
    document = training_histograms(data, RecencyScorer())
    return Learnt(7, T0_US + 3 * DAY_US, TrainingHistograms.from_json(document))


def earlier() -> Learnt:
    """A version without histograms."""
    return Learnt(7, T0_US + 3 * DAY_US)


def test_a_feature_that_moved_from_the_training_set_is_told_and_the_other_not(
    tmp_path: Path,
) -> None:
    report = measure_drift(export(tmp_path, 5, 2.0, version="7"), "acme", learnt())
    assert report.against == "training set"
    assert [(drift.name, drift.verdict) for drift in report.features] == [
        ("age_h", "large"),
        ("tag_overlap", "none"),
    ]
    assert report.features[0].before.rows == report.rows_before == 2_000
    assert report.features[0].now.rows == report.rows_now == 200
    assert report.score is not None
    assert report.score_shape is not None
    assert report.sentence.startswith("2 of 3 columns moved against the training set, 2 of them")
    assert report.age_days == pytest.approx(1, abs=0.01)


def test_a_training_set_is_compared_with_the_last_day_alone(tmp_path: Path) -> None:
    slates = export(tmp_path, 5, 2.0, version="7")
    whole = measure_drift(slates, "acme", learnt())
    for day in (15, 16, 17):
        (slates / f"tenant=acme/day=2027-01-{day}/slates-1-2-3.parquet").unlink()
    assert measure_drift(slates, "acme", learnt()) == whole


def test_scores_of_another_version_are_not_compared(tmp_path: Path) -> None:
    report = measure_drift(export(tmp_path, 5, 2.0, version="6"), "acme", learnt())
    assert (report.score, report.score_shape) == (None, None)
    assert len(report.features) == 2
    assert any("Version 7 scored none" in note for note in report.notes)


def test_a_set_of_candidates_is_compared_with_candidates(tmp_path: Path) -> None:
    slates = export(tmp_path, 5, 0.0, version="7", candidates=True)
    assert measure_drift(slates, "acme", learnt(shown=False)).rows_now == 200
    report = measure_drift(slates, "acme", learnt(shown=True))
    assert (report.rows_now, report.slates_now) == (100, 20)


def test_shown_places_beside_learnt_candidates_are_told_to_differ(tmp_path: Path) -> None:
    report = measure_drift(export(tmp_path, 5, 0.0), "acme", learnt(shown=False))
    assert any("Log candidates to compare alike" in note for note in report.notes)


def test_without_histograms_earlier_slates_stand_in_and_the_report_says_so(tmp_path: Path) -> None:
    report = measure_drift(export(tmp_path, 5, shift=2.0), "acme", earlier())
    assert report.against == "earlier slates"
    assert any("published without histograms" in note for note in report.notes)
    assert report.rows_before == 600
    assert [drift.name for drift in report.features] == ["age_h", "tag_overlap"]
    assert report.features[0].psi > 0.25 > report.features[1].psi
    assert report.score is not None
    assert report.score.psi > 0.25
    assert (report.slates_now, report.degraded_share) == (20, 0)


def test_what_chance_explains_is_no_drift(tmp_path: Path) -> None:
    report = measure_drift(export(tmp_path, 5, 0.0, version="7"), "acme", learnt(rows=150))
    assert {drift.verdict for drift in report.features} == {"none"}
    assert all(0 < drift.psi < drift.chance for drift in report.features)
    assert report.sentence.startswith("None of ")


def test_samples_of_one_distribution_stay_below_chance_in_about_95_of_100() -> None:
    random = np.random.default_rng(3)
    below = 0
    for _ in range(400):
        before = Histogram.of(random.normal(size=3_000))
        now = before.again(random.normal(size=500))
        below += psi(before, now) < 16.92 * (1 / 3_000 + 1 / 500)  # chi-squared of 9 at 95 %
    assert 0.92 <= below / 400 <= 0.98


def test_degraded_slates_are_counted_and_too_few_before_are_told(tmp_path: Path) -> None:
    slates = export(tmp_path, 1, shift=0.0, degraded=True)
    report = measure_drift(slates, "acme", Learnt(7, T0_US))
    assert report.degraded_share == 0.25
    assert report.features == ()
    assert report.problem.startswith("there are 0 rows of the earlier slates")
    report = measure_drift(slates, "acme", learnt(rows=50))
    assert report.problem.startswith("there are 50 rows of the training set")


def test_no_slates_are_told(tmp_path: Path) -> None:
    for known in (learnt(), earlier()):
        with pytest.raises(TrainingError, match="has no slates"):
            measure_drift(tmp_path, "acme", known)


def test_of_more_rows_than_it_may_read_whole_slates_are_left_out(tmp_path: Path) -> None:
    slates = export(tmp_path, 5, 0.0, version="7")
    report = measure_drift(slates, "acme", learnt(), DriftConfig(rows_max=200, rows_min=20))
    assert 20 <= report.rows_now <= 180
    assert report.rows_now == 10 * report.slates_now


def told(tmp_path: Path) -> DriftReport:
    return measure_drift(export(tmp_path / "slates", 5, 2.0, version="7"), "acme", learnt())


def test_pages_have_every_column_the_limits_and_three_plots(tmp_path: Path) -> None:
    report = told(tmp_path)
    written = report.write(tmp_path / "out")
    assert [path.name for path in written] == ["drift.json", "drift.md", "drift.html", "drift.png"]
    table = (tmp_path / "out/drift.md").read_text()
    html = (tmp_path / "out/drift.html").read_text()
    for column in report.columns:
        assert f"| {column.name} | {column.psi:.3f} |" in table
        assert column.name in html
    assert "from 0.1 on is a drift, from 0.25 on a large one" in table
    assert html.count("<svg") == 3
    assert as_html(report) == html
    assert not re.search(r"<script|src=|https?://(?!www\.w3\.org|purl|creativecommons)", html)
    assert (tmp_path / "out/drift.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_without_drift_has_pages_without_plots(tmp_path: Path) -> None:
    report = measure_drift(export(tmp_path / "slates", 1, 0.0), "acme", Learnt(7, T0_US))
    written = report.write(tmp_path / "out")
    assert [path.name for path in written] == ["drift.json", "drift.md", "drift.html"]
    assert "No drift is told" in written[1].read_text()


def test_columns_as_a_frame(tmp_path: Path) -> None:
    frame = told(tmp_path).to_frame()
    assert frame.index.tolist() == ["score", "age_h", "tag_overlap"]
    assert frame.loc["age_h", "verdict"] == "large"


def test_metrics_have_every_gauge_with_its_tenant(tmp_path: Path) -> None:
    text = exposition([told(tmp_path)], ["other"])
    for gauge in GAUGES:
        assert f"# TYPE {gauge.name} gauge\n" in text
    assert 'headwater_drift_psi{tenant="acme",column="age_h"} ' in text
    assert 'headwater_drift_problem{tenant="acme"} 0\n' in text
    assert 'headwater_drift_problem{tenant="other"} 1\n' in text


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    home = tmp_path_factory.mktemp("published")
    write_export(log_of(events_of(community(1, users=16, days=16))), home / "events")
    address = f"dir:{home / 'registry'}"
    train_tenant(
        home / "events",
        "acme",
        out=home / "out",
        registry=address,
        scheduler="inline",
        config=QUICK,
        clock=lambda: T0_US + 3 * DAY_US,
    )
    return address


def test_a_published_version_has_the_histograms_of_its_training_set(registry: str) -> None:
    opened = open_registry(registry)
    (version,) = opened.versions("acme")
    known = TrainingHistograms.from_json(opened.documents(version)[HISTOGRAMS])
    assert known.requests > 0
    assert "age_h" in known.features
    assert all(each.rows == known.score.rows for each in known.features.values())


def test_the_command_compares_with_the_training_set_and_leaves_pages(
    tmp_path: Path, registry: str
) -> None:
    app = typer.Typer()
    app.command()(drift)
    slates, metrics = export(tmp_path / "slates", 5, shift=2.0), tmp_path / "acme.prom"
    options = ["--tenant", "acme", "--slates", str(slates), "--version", "1"]
    options += ["--registry", registry, "--metrics-file", str(metrics), "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*options, "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["age_days"] == pytest.approx(1, abs=0.01)
    assert answer["against"] == "training set"
    assert {feature["name"] for feature in answer["features"]} == set(NAMES)
    assert 'headwater_model_age_days{tenant="acme"} 1\n' in metrics.read_text()
    assert (tmp_path / "drift.png").exists()
    shown = CliRunner().invoke(app, options)
    assert shown.exit_code == 0, shown.output
    assert "Before are" in shown.output


def test_a_watch_measures_anew_where_slates_are_new_and_tells_who_has_none(
    tmp_path: Path, registry: str
) -> None:
    promote("acme", 1, registry=registry, force="to be measured")
    file = tmp_path / "drift.prom"
    watch = DriftWatch(export(tmp_path / "slates", 4, 0.0), registry, file)
    failed = watch.look(["acme", "nobody"])
    assert list(failed) == ["nobody"]
    first = file.read_text()
    assert 'headwater_drift_problem{tenant="nobody"} 1\n' in first
    assert 'headwater_drift_problem{tenant="acme"} 0\n' in first
    looked: list[str] = []
    assert watch.look(["acme", "nobody"], lambda what, *_: looked.append(what)) == failed
    assert file.read_text() == first
    assert looked == ["drift of acme", "drift of nobody"]
    export(tmp_path / "more", 5, 2.0)
    day = "tenant=acme/day=2027-01-19"
    (tmp_path / "more" / day).rename(tmp_path / "slates" / day)
    watch.look(["acme", "nobody"])
    assert file.read_text() != first
