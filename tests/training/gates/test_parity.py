"""Slates of a real ranker, through the real log and export, scored and judged again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from feeds.events import Engagement
from feeds.model import ActivityId, UserId, position_of
from ranking.exploration import EpsilonExplorer
from ranking.features import FeatureSpec
from ranking.scorers.factorization import Embeddings, FactorTable
from ranking.scorers.popularity import PopularityScorer
from ranking.scorers.recency import RecencyScorer
from ranking.selectors import Selection
from ranking.testing import T0_US
from ranking.testing_models import boosted_scorer, model_bundle
from serving.slate_log.config import SlateRules
from serving.slate_log.export import export_slates
from serving.slate_log.record import encode
from serving.slate_log.segments import SegmentDisk, key_of
from serving.slate_log.testing import ACME, made_slate
from serving.slate_log.writer import TenantShelf
from training.cli.evaluate import evaluate
from training.config import TrainingConfig
from training.errors import ExportDamaged, TrainingError
from training.evaluation.counterfactual import CounterfactualConfig, estimate
from training.evaluation.counterfactual_slates import (
    compare_with_served,
    places_of,
    rewards_of,
    with_factors,
)
from training.gates.gating import Judging
from training.gates.parity import check_parity, parity_of
from training.slates.logged import SlateRows, logged_slates
from training.testing import log_of, write_export

BOOSTED = boosted_scorer()
OLDEST_FIRST = PopularityScorer(FeatureSpec(("age_h",)), "age_h")
CONFIG = CounterfactualConfig(
    effective_min=0, support_min=0, rewarded_min=0, draws=50, weight_max=1e9
)


def exported(home: Path, count: int, *, candidates: bool, users: int = 12) -> Path:
    """Slates of version 2 with a third of the places left to chance, and one without a model."""
    shelf = TenantShelf(home / "log" / ACME, 1, 1_000_000, SegmentDisk())
    batch = []
    for number in range(count):
        model = {"scorer": BOOSTED, "model_version": "2"} if number else {}
        made = made_slate(f"s{number}", 6, **model)  # type: ignore[arg-type]
        logged = made.logged(candidates=candidates)
        values = {name: getattr(logged, name) for name in logged.__struct_fields__}
        slate = type(logged)(**values | {"user": f"u{number % users}"})
        batch.append((key_of(slate.slate_id), encode(slate)))
    shelf.append(batch, SlateRules(), T0_US)
    export_slates(home / "log", ACME, home / "slates")
    return home / "slates"


@pytest.fixture(scope="module")
def slates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("slates"), 60, candidates=True)


@pytest.fixture(scope="module")
def rows(slates: Path) -> list[SlateRows]:
    return list(logged_slates(slates, ACME))


def test_every_slate_comes_back_with_its_numbers(rows: list[SlateRows]) -> None:
    assert len(rows) == 60
    for slate in rows:
        assert len(slate) == 6
        assert slate.shown == len(slate.propensities) == len(slate.placed) == 5
        assert slate.with_candidates
        assert slate.features.shape == (6, len(slate.names))
    logged = made_slate("s7", 6, scorer=BOOSTED, model_version="2").logged(candidates=True)
    slate = next(slate for slate in rows if slate.slate_id == "s7")
    assert slate.activity_ids[:5] == tuple(logged.places.activity_ids())
    assert slate.scores[:5].tobytes() == logged.places.score_values().tobytes()


def test_the_version_that_served_gives_the_same_bits(slates: Path) -> None:
    report = parity_of(slates, ACME, BOOSTED, 2)
    assert report.identical is True
    assert (report.slates, report.scores, report.different_scores) == (59, 354, 0)
    assert "354 scores of 59 logged slates come out again bit for bit" in report.sentence
    assert report.left_out == {"slates that were ordered without a model": 1}


def test_a_single_bit_is_found(rows: list[SlateRows]) -> None:
    scores = rows[5].scores.copy()
    scores.view(np.uint32)[2] ^= 1
    changed = [*rows[:5], replace(rows[5], scores=scores), *rows[6:]]
    report = check_parity(changed, lambda _: BOOSTED)
    assert (report.identical, report.different_slates, report.different_scores) == (False, 1, 1)
    assert report.examples == (rows[5].slate_id,)
    assert f"such as slate {rows[5].slate_id}" in report.sentence


def test_what_cannot_be_scored_again_is_counted_and_decides_nothing(slates: Path) -> None:
    other = parity_of(slates, ACME, BOOSTED, 3)
    assert other.identical is None
    assert other.left_out["slates of another version"] == 59
    recency = parity_of(slates, ACME, RecencyScorer(), 2)
    assert recency.left_out["slates whose features are of another spec"] == 59
    assert recency.sentence.startswith("no logged slate of this version could be scored again")


def test_without_an_export_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ExportDamaged, match="headwater slates export --tenant acme"):
        parity_of(tmp_path, ACME, BOOSTED, 2)


def test_an_export_that_is_too_large_is_refused(slates: Path) -> None:
    with pytest.raises(TrainingError, match="more than 100 rows of slates"):
        list(logged_slates(slates, ACME, rows_max=100))


def engagements(rows: list[SlateRows]) -> list[Engagement]:
    """The newest activity of each slate was liked, where it was shown."""
    found = []
    for number, slate in enumerate(rows):
        age = slate.features[:, slate.names.index("age_h")]
        newest = int(age.argmin())
        if newest < slate.shown:
            found.append(
                Engagement(
                    time_us=number + 1,
                    user=slate.user,
                    activity_id=slate.activity_ids[newest],
                    feed="timeline:u",
                    position=newest,
                    slate_id=slate.slate_id,
                    kind="like",
                    value=1.0,
                )
            )
    return found


@given(st.integers(2, 9), st.integers(1, 9), st.floats(0, 1), st.integers(0, 2**32))
def test_the_same_ranking_with_the_same_chance_has_the_logged_propensities(
    count: int, shown: int, epsilon: float, seed: int
) -> None:
    """Where nothing is adjusted; so that its weights are all 1."""
    shown = min(shown, count - 1)
    ages = np.random.default_rng(seed).permutation(count).astype(np.float32)
    order = np.argsort(-ages)
    served = EpsilonExplorer(epsilon).explore(Selection(order, shown, np.ones(shown)), seed)
    rows = np.concatenate([served.places, served.reserve])
    slate = SlateRows(
        slate_id="s",
        user="u",
        scorer="popularity",
        model_version="1",
        degraded=None,
        spec_fingerprint="",
        names=("age_h",),
        activity_ids=tuple(f"a{row}" for row in rows),
        shown=shown,
        scores=ages[rows],
        propensities=served.propensities,
        placed=np.zeros(shown, bool),
        features=ages[rows][:, None],
    )
    places = places_of([slate], OLDEST_FIRST, {}, explore=epsilon, config=CONFIG)
    assert places.targets == pytest.approx(places.propensities)
    assert estimate(places, CONFIG, seed=1).support == pytest.approx(1)


def test_a_candidate_that_knows_what_is_liked_earns_more(
    rows: list[SlateRows], slates: Path, tmp_path: Path
) -> None:
    events = write_export(log_of(engagements(rows), ACME), tmp_path)
    newest_first = RecencyScorer(FeatureSpec(("age_h",)))
    report = compare_with_served(
        slates, events, ACME, newest_first, explore=0.1, config=CONFIG, seed=1
    )
    assert report.slates == 60
    by_place = compare_with_served(slates, events, ACME, OLDEST_FIRST, config=CONFIG)
    for name in ("IPS", "SNIPS", "DR"):
        assert report.of(name).value > by_place.of(name).value
    assert by_place.of("IPS").verdict == "worse"


def test_a_candidate_brings_factors_of_its_own(rows: list[SlateRows]) -> None:
    """Those that it knows by themselves, the others by their tags, as serving has them."""
    slate = rows[3]
    known = [bytes(position_of(name)) for name in slate.activity_ids[:3]]
    draws = np.random.default_rng(1)

    def embeddings(names: list[Any]) -> Embeddings[Any]:  # Any: text or bytes
        vectors = draws.normal(size=(len(names), 4)).astype(np.float32)
        return Embeddings(names, vectors, draws.normal(size=len(names)).astype(np.float32))

    factors = FactorTable(embeddings([slate.user]), embeddings(known), embeddings(["jazz"]))
    tags = {ActivityId(slate.activity_ids[3]): ("jazz", "unheard")}
    made = with_factors(slate, factors, tags)
    assert sorted(made.names) == sorted({*slate.names, "factor_dot", "factor_bias"})
    dot = made.features[:, made.names.index("factor_dot")]
    want, _ = factors.dot(
        UserId(slate.user), [*known, b"x" * 16], np.array([[-1]] * 3 + [[0]], np.int32), ["jazz"]
    )
    assert dot[:4].tobytes() == want.tobytes()
    assert np.isnan(dot[4:]).all()
    age = slate.names.index("age_h")
    assert made.features[:, made.names.index("age_h")].tolist() == slate.features[:, age].tolist()
    stranger = with_factors(replace(slate, user="nobody"), factors, tags)
    assert np.isnan(stranger.features[:, -2:]).all()


def test_with_few_slates_it_refuses_to_speak(slates: Path, rows: list[SlateRows]) -> None:
    rewards = rewards_of(log_of(engagements(rows), ACME))
    assert len(rewards) == len(engagements(rows))
    places = places_of(logged_slates(slates, ACME), OLDEST_FIRST, rewards, config=CONFIG)
    report = estimate(places, CounterfactualConfig(effective_min=10_000, draws=20), seed=1)
    assert report.refusal is not None
    assert report.refusal.startswith("Nothing can be said")


def test_a_place_that_a_rule_gave_away_stays(rows: list[SlateRows]) -> None:
    pinned = replace(rows[3], placed=np.array([True, False, False, False, False]))
    places = places_of([pinned], OLDEST_FIRST, {}, config=CONFIG)
    assert places.targets[0] == places.propensities[0]
    assert set(places.targets[1:]) <= {0.0, 1.0}


def test_slates_without_candidates_tell_nothing(tmp_path: Path) -> None:
    found = list(logged_slates(exported(tmp_path, 3, candidates=False), ACME))
    assert not any(slate.with_candidates for slate in found)
    with pytest.raises(TrainingError, match=r"3 slates without logged candidates.*slate_log_cand"):
        places_of(found, RecencyScorer(), {}, config=CONFIG)
    with pytest.raises(TrainingError, match="explore is 2"):
        places_of(found, RecencyScorer(), {}, explore=2, config=CONFIG)
    unknown = PopularityScorer(FeatureSpec(("length_bytes",)), "length_bytes")
    bare = replace(found[0], names=("age_h",), features=found[0].features[:, :1])
    with pytest.raises(TrainingError, match="1 slates without a feature that the candidate reads"):
        places_of([bare], unknown, {}, config=CONFIG)


def test_the_command_sets_a_formula_beside_what_was_served(
    rows: list[SlateRows], slates: Path, tmp_path: Path
) -> None:
    events = write_export(log_of(engagements(rows), ACME), tmp_path)
    app = typer.Typer()
    app.command()(evaluate)
    arguments = ["--tenant", ACME, "--events", str(events), "--counterfactual", str(slates)]
    arguments += ["--formula", "-age_h", "--explore", "0.3", "--assumption", "cascade"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["assumption"] == "cascade"
    assert answer["parity"] is None
    assert answer["verdict"].startswith(("The candidate is", "Nothing can be said"))
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "60 slates of 12 users" in shown.stdout
    assert max(len(line) for line in shown.stdout.splitlines()) <= 80


def test_gates_judge_what_was_served(slates: Path, rows: list[SlateRows], tmp_path: Path) -> None:
    events = write_export(log_of(engagements(rows), ACME), tmp_path / "events")
    judging = Judging.of(events, model_bundle(scorer=BOOSTED), None, TrainingConfig())
    parity, counterfactual = judging.served(slates, version=2)
    assert (parity.name, parity.verdict) == ("parity", "passed")
    assert (counterfactual.name, counterfactual.verdict) == ("counterfactual", "not judged")
    assert counterfactual.reason.startswith("Nothing can be said")
    bare = exported(tmp_path, 3, candidates=False)
    _, refused = judging.served(bare, version=2)
    assert "2 slates without logged candidates" in refused.reason
    without = judging.served(version=2)
    assert [gate.verdict for gate in without] == ["not judged", "not judged"]
    shutil.copytree(slates, events, dirs_exist_ok=True)
    assert judging.served(version=2)[0] == parity
