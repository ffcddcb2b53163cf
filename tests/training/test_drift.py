"""Drift between what was served before a training and on the last day."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from feeds.counters import DAY_US
from training import train_tenant
from training.cli.drift import drift
from training.config import BoostedConfig, BoostedVariant, FactorizationConfig, TrainingConfig
from training.drift import measure_drift, psi
from training.errors import TrainingError
from training.testing import community, events_of, log_of, write_export

T0_US = 1_800_000_000_000_000
QUICK = TrainingConfig(
    factorization=FactorizationConfig(dimensions=4, epochs=2),
    boosted=BoostedConfig(variants=(BoostedVariant("boosted-3", 3),), trees_max=10, stop_rounds=5),
)
samples = st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=80).map(
    np.array
)


@given(samples)
def test_a_sample_has_not_drifted_from_itself(sample: np.ndarray) -> None:
    assert psi(sample, np.random.default_rng(1).permutation(sample)) == pytest.approx(0)


@given(samples, samples)
def test_drift_is_never_below_zero(before: np.ndarray, now: np.ndarray) -> None:
    assert psi(before, now) >= 0


def test_what_goes_missing_is_a_drift() -> None:
    before = np.random.default_rng(1).normal(size=1_000)
    now = before.copy()
    now[:500] = np.nan
    assert psi(before, now) > 0.25


def export(home: Path, days: int, shift: float, degraded: bool = False) -> Path:
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
                "position": [row % 10 for row in range(rows)],
                "score": random.normal(moved, 1, rows).astype(np.float32),
                "feature_names": "age_hours,length",
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


def test_a_feature_and_the_score_that_moved_are_told_and_the_other_not(tmp_path: Path) -> None:
    report = measure_drift(export(tmp_path, 5, shift=2.0), "acme", T0_US + 3 * DAY_US)
    assert [drift.name for drift in report.features] == ["age_hours", "length"]
    assert report.features[0].psi > 0.25 > report.features[1].psi
    assert report.score is not None
    assert report.score.psi > 0.25
    assert report.age_days == pytest.approx(1, abs=0.01)
    assert (report.slates_now, report.degraded_share) == (20, 0)
    assert 'headwater_drift_psi{tenant="acme",column="age_hours"}' in report.metrics()


def test_degraded_slates_are_counted_and_too_few_before_are_told(tmp_path: Path) -> None:
    report = measure_drift(export(tmp_path, 1, shift=0.0, degraded=True), "acme", T0_US)
    assert report.degraded_share == 0.25
    assert report.features == ()
    assert report.problem.startswith("0 places were served before the training")


def test_no_slates_are_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has no slates"):
        measure_drift(tmp_path, "acme", 0)


def test_the_command_takes_the_time_of_training_from_the_registry(tmp_path: Path) -> None:
    trained_us = T0_US + 3 * DAY_US
    write_export(log_of(events_of(community(1, users=16, days=16))), tmp_path / "events")
    train_tenant(
        tmp_path / "events",
        "acme",
        out=tmp_path / "out",
        registry=f"dir:{tmp_path / 'registry'}",
        scheduler="inline",
        config=QUICK,
        clock=lambda: trained_us,
    )
    app = typer.Typer()
    app.command()(drift)
    slates, metrics = export(tmp_path / "slates", 5, shift=2.0), tmp_path / "acme.prom"
    options = ["--tenant", "acme", "--slates", str(slates), "--version", "1", "--json"]
    options += ["--registry", f"dir:{tmp_path / 'registry'}", "--metrics-file", str(metrics)]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["age_days"] == pytest.approx(1, abs=0.01)
    assert answer["features"][0]["name"] == "age_hours"
    assert metrics.read_text().startswith('headwater_model_age_days{tenant="acme"} 1\n')
