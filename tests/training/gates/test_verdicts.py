"""Each gate on evidence of its own."""

import itertools
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.errors import BundleDamaged
from ranking.testing_models import boosted_scorer, model_bundle
from training.config import GateConfig
from training.evaluation.comparison import ActivityBand, ComparisonReport, ShownReport
from training.evaluation.counterfactual import CounterfactualConfig, LoggedPlaces, estimate
from training.gates.parity import ParityReport
from training.gates.trained_users import pack_users, trained_on
from training.gates.verdicts import (
    Gate,
    GateReport,
    better_gate,
    counterfactual_gate,
    deleted_users_gate,
    fairness_gate,
    latency_gate,
    parity_gate,
    size_gate,
)
from training.sets.dataset import TrainingSet

CONFIG = GateConfig()


def comparison(low: float = 0.01, bands: tuple[ActivityBand, ...] = ()) -> ComparisonReport:
    return ComparisonReport(
        first="the new model",
        second="version 3",
        k=10,
        requests=100,
        users=50,
        first_ndcg=0.52,
        second_ndcg=0.50,
        difference=0.02,
        interval=(low, 0.04),
        verdict="better" if low > 0 else "level",
        by_user=0.02,
        by_user_interval=(low, 0.04),
        by_user_verdict="better",
        bands=bands,
    )


@pytest.mark.parametrize(
    ("low", "gain_min", "verdict"),
    [
        (0.01, 0.0, "passed"),
        (0.0, 0.0, "failed"),
        (-0.01, 0.0, "failed"),
        (-0.01, -0.02, "passed"),
        (0.01, 0.02, "failed"),
        (float("nan"), 0.0, "failed"),
    ],
)
def test_better_is_what_the_interval_says(low: float, gain_min: float, verdict: str) -> None:
    gate = better_gate(comparison(low), replace(CONFIG, gain_min=gain_min))
    assert gate.verdict == verdict
    assert "NDCG@10 0.520 to 0.500" in gate.reason


def by_shown(low: float, bands: tuple[ActivityBand, ...] = ()) -> ShownReport:
    return ShownReport(
        first="the new model",
        second="version 3",
        requests=80,
        users=40,
        first_share=0.31,
        second_share=0.27,
        difference=0.04,
        interval=(low, 0.06),
        verdict="better" if low > 0 else "level",
        bands=bands,
    )


@pytest.mark.parametrize(("low", "verdict"), [(0.01, "passed"), (-0.01, "failed")])
def test_better_is_what_was_shown_says_where_that_is_known(low: float, verdict: str) -> None:
    report = msgspec.structs.replace(comparison(-low), shown=by_shown(low))
    gate = better_gate(report, CONFIG)
    assert gate.verdict == verdict
    assert "of it 0.310 to 0.270 was engaged with" in gate.reason
    assert (gate.figures["low"], gate.figures["share_low"]) == (-low, low)
    assert (gate.figures["share"], gate.figures["live_share"]) == (0.31, 0.27)


def test_bands_are_those_of_what_was_shown_where_that_is_known() -> None:
    worse, level = band("1 request", 30, "worse"), band("1 request", 30, "level")
    report = msgspec.structs.replace(comparison(bands=(worse,)), shown=by_shown(0.01, (level,)))
    assert fairness_gate(report, CONFIG).verdict == "passed"
    report = msgspec.structs.replace(comparison(bands=(level,)), shown=by_shown(0.01, (worse,)))
    assert fairness_gate(report, CONFIG).verdict == "failed"


def band(name: str, users: int, verdict: str) -> ActivityBand:
    return ActivityBand(name, users, -0.1, (-0.2, -0.05), verdict)


def test_a_band_that_is_worse_off_fails_and_is_named() -> None:
    bands = (band("1 request", 30, "worse"), band("20 or more requests", 30, "better"))
    gate = fairness_gate(comparison(bands=bands), CONFIG)
    assert gate.verdict == "failed"
    assert gate.reason.startswith("it is worse for users with 1 request (1 request: -0.100")


def test_a_band_of_too_few_users_is_not_judged_by() -> None:
    bands = (band("1 request", 19, "worse"), band("20 or more requests", 20, "level"))
    assert fairness_gate(comparison(bands=bands), CONFIG).verdict == "passed"
    assert fairness_gate(comparison(bands=bands[:1]), CONFIG).verdict == "not judged"
    assert fairness_gate(comparison(), CONFIG).verdict == "not judged"


@pytest.mark.parametrize(("step_ms", "verdict"), [(4.9, "passed"), (5.1, "failed")])
def test_latency_is_the_median_of_the_rounds(step_ms: float, verdict: str) -> None:
    scorer = boosted_scorer()
    bundle = model_bundle(scorer=scorer)
    names = scorer.spec.names
    q = 3
    test = TrainingSet(
        names=names,
        values=np.zeros((q, len(names)), np.float32),
        labels=np.zeros(q, np.int8),
        activities=np.arange(q, dtype=np.int64),
        sizes=np.ones(q, np.int64),
        wanted=np.ones(q, np.int64),
        times_us=np.arange(q, dtype=np.int64),
        users=("ann",) * q,
    )
    ticks = itertools.count()
    gate = latency_gate(bundle, test, CONFIG, lambda: next(ticks) * step_ms / 1_000)
    assert gate.verdict == verdict
    assert gate.figures["median_ms"] == pytest.approx(step_ms)
    assert next(ticks) == 2 * CONFIG.latency_rounds


def test_size_counts_all_files() -> None:
    bundle = model_bundle()
    allowed = replace(CONFIG, bundle_bytes_max=bundle.file_bytes)
    assert size_gate(bundle, allowed).verdict == "passed"
    assert size_gate(bundle, replace(allowed, bundle_bytes_max=1)).verdict == "failed"


@given(st.sets(st.text(max_size=8)), st.sets(st.text(max_size=8)))
def test_exactly_those_it_learnt_from_are_found(trained: set[str], asked: set[str]) -> None:
    document = pack_users("acme", trained)
    assert trained_on("acme", document, asked) == sorted(trained & asked)
    assert pack_users("acme", sorted(trained, reverse=True)) == document


def test_the_hashes_of_tenants_differ() -> None:
    assert trained_on("other", pack_users("acme", ["ann"]), ["ann"]) == []


def test_a_damaged_list_of_users_is_refused() -> None:
    with pytest.raises(BundleDamaged, match=r"trained_users\.npz"):
        trained_on("acme", b"PK\x03\x04", ["ann"])


def test_what_learnt_from_a_deleted_user_fails_and_names_some() -> None:
    document = pack_users("acme", [f"u{number}" for number in range(10)])
    gate = deleted_users_gate("acme", document, [f"u{number}" for number in range(8)])
    assert gate.verdict == "failed"
    assert "8 deleted users (u0, u1, u2, u3, u4, …)" in gate.reason
    assert deleted_users_gate("acme", document, ["someone"]).verdict == "passed"
    assert deleted_users_gate("acme", document, []).verdict == "passed"
    assert deleted_users_gate("acme", None, ["u1"]).verdict == "not judged"


def test_a_report_passes_where_no_gate_fails_and_reads_back() -> None:
    gates = (Gate("better", "passed", "yes."), Gate("fairness", "not judged", "too few."))
    report = GateReport(tenant="acme", digest="d", live=3, judged_us=1, gates=gates)
    assert report.passed
    failed = msgspec.structs.replace(report, gates=(*gates, Gate("size", "failed", "too large.")))
    assert not failed.passed
    assert failed.sentence.endswith("size: too large.")
    assert GateReport.from_json(failed.to_json()) == failed
    assert failed.table().row_count == 3


def parity(slates: int, different: int) -> ParityReport:
    return ParityReport(
        slates=slates,
        scores=10 * slates,
        different_slates=min(different, 1),
        different_scores=different,
        examples=("s1",) if different else (),
    )


@pytest.mark.parametrize(
    ("report", "verdict", "reason"),
    [
        (None, "not judged", "no exported slates were given"),
        (parity(0, 0), "not judged", "no logged slate of this version"),
        (parity(3, 0), "passed", "30 scores of 3 logged slates come out again bit for bit"),
        (parity(3, 2), "failed", "2 of 30 scores in 1 of 3 logged slates come out differently"),
    ],
)
def test_one_bit_that_differs_is_too_much(
    report: ParityReport | None, verdict: str, reason: str
) -> None:
    gate = parity_gate(report)
    assert gate.verdict == verdict
    assert reason in gate.reason


@pytest.mark.parametrize(
    ("liked", "verdict"), [("what it shows", "passed"), ("what it does not", "failed")]
)
def test_what_earned_less_than_what_was_served_fails(liked: str, verdict: str) -> None:
    """Two activities at even chances; the candidate shows the first."""
    first = np.random.default_rng(1).random(400) < 0.5
    places = LoggedPlaces(
        rewards=(first if liked == "what it shows" else ~first).astype(float),
        propensities=np.full(400, 0.5),
        targets=first.astype(float),
        slates=np.arange(400),
        users=np.arange(400) % 50,
    )
    config = CounterfactualConfig(rewarded_min=0, draws=200)
    assert counterfactual_gate(estimate(places, config, seed=1)).verdict == verdict


def test_where_the_log_cannot_tell_the_gate_does_not_judge() -> None:
    assert counterfactual_gate(None).verdict == "not judged"
    refused = counterfactual_gate("no exported slate can be used")
    assert (refused.verdict, refused.reason) == ("not judged", "no exported slate can be used.")
    places = LoggedPlaces(
        rewards=np.ones(5),
        propensities=np.ones(5),
        targets=np.zeros(5),
        slates=np.arange(5),
        users=np.arange(5),
    )
    gate = counterfactual_gate(estimate(places, CounterfactualConfig(draws=20), seed=1))
    assert gate.verdict == "not judged"
    assert gate.reason.startswith("Nothing can be said")
