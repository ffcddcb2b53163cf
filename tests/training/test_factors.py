"""Factors: what they learn from, how they are judged apart from a replay, and whose are chosen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.model import UserId
from training.config import (
    AlsConfig,
    EaseConfig,
    FactorizationConfig,
    RequestConfig,
    TrainingConfig,
)
from training.errors import BudgetSpent, TrainingError
from training.events.log import EventLog, read_event_log
from training.factor_steps import (
    NDCG,
    FactorCase,
    best_factors,
    prepare_factors,
    scores_on_test,
    train_matrix,
)
from training.factors import Interactions, fit_factors, interactions_until, matrix_trainers
from training.sets.factor_questions import FactorQuestions
from training.steps import Trained, factor_table, plan_run, replayed_sets
from training.testing import community, events_of, log_of, write_export
from training.trainers.factorization import FactorizationTrainer

NEVER = 2**62
KINDS = ("like",)
CONFIG = TrainingConfig(
    factorization=FactorizationConfig(dimensions=8, epochs=10, engagements_min=10),
    als=AlsConfig(dimensions=4, epochs=4),
    ease=EaseConfig(l2=5.0, dimensions=6),
)


@pytest.fixture(scope="module")
def log() -> EventLog:
    return log_of(events_of(community(seed=3, users=24, days=16)))


@pytest.fixture(scope="module")
def export(log: EventLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(log, tmp_path_factory.mktemp("export"))


def case_of(export: Path, scratch: Path, config: TrainingConfig = CONFIG) -> FactorCase:
    return prepare_factors(plan_run(export, "acme", scratch, config))


@pytest.fixture(scope="module")
def case(export: Path, tmp_path_factory: pytest.TempPathFactory) -> FactorCase:
    return case_of(export, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def tried(case: FactorCase) -> list[Trained]:
    return [train_matrix(case, trainer) for trainer in matrix_trainers(CONFIG)]


def test_interactions_are_distinct_and_earlier(log: EventLog) -> None:
    found = interactions_until(log, NEVER, KINDS)
    assert len(found) == len(set(found.pairs)) == 24 * 16
    assert found.tags == ["t0", "t1", "t2", "t3"]
    assert len(interactions_until(log, log.events[0].time_us, KINDS)) == 0


def test_interactions_read_back_as_they_were(log: EventLog, tmp_path: Path) -> None:
    for until_us in (NEVER, 0):
        found = interactions_until(log, until_us, KINDS)
        assert Interactions.load(found.save(tmp_path / "found.npz")) == found


def test_factors_repeat_bit_for_bit_and_know_a_users_taste(log: EventLog) -> None:
    found = interactions_until(log, NEVER, KINDS)
    trainer = FactorizationTrainer(dimensions=8, epochs=10)
    table = fit_factors(trainer, found, 8, seed=5)
    assert table.pack() == fit_factors(trainer, found, 8, seed=5).pack()
    tags = np.array([[0], [1], [2], [3]], np.int32)
    dots, _ = table.dot(UserId("u2"), [b"0" * 16] * 4, tags, found.tags)
    assert int(dots.argmax()) == 2  # u2 likes topic t2, and these activities are new


def test_factors_are_learnt_where_there_are_enough_engagements(
    export: Path, case: FactorCase, tmp_path: Path
) -> None:
    assert case.enough
    assert case.figures["interactions"] > 100
    least = replace(CONFIG.factorization, engagements_min=10_000)
    few = case_of(export, tmp_path / "few", replace(CONFIG, factorization=least))
    assert not few.enough
    assert not few.validation.exists()


def test_who_takes_part_is_named() -> None:
    assert [each.name for each in matrix_trainers(CONFIG)] == ["warp", "als", "ease"]
    some = replace(CONFIG, trainers=("ease", "boosted", "als"))
    assert [each.name for each in matrix_trainers(some)] == ["als", "ease"]
    with pytest.raises(TrainingError, match="no trainer 'bpr': trainers are warp, als, ease"):
        replace(CONFIG, trainers=("als", "bpr")).check()
    assert CONFIG.check() is CONFIG


def test_factors_are_judged_as_they_serve(case: FactorCase, tried: list[Trained]) -> None:
    """What is asked apart from any factors gives the bits that a replay with them gives."""
    plan = case.plan
    log = read_event_log(plan.export, plan.tenant)
    for trained in tried:
        table = factor_table(trained.path)
        sets = replayed_sets(log, CONFIG, plan.split, {"validation": 700, "test": 3_000}, table)
        for name, path in (("validation", case.validation), ("test", case.test)):
            questions = FactorQuestions.load(path)
            replayed = sets["validation" if name == "validation" else "test"]
            added = replayed.matrix.column("factor_dot") + replayed.matrix.column("factor_bias")
            assert table is not None
            scores = questions.scores(table)
            assert scores.tobytes() == added.tobytes()
            assert len(scores) > 1_000
            assert questions.requests.labels.tolist() == replayed.labels.tolist()
        assert scores_on_test(trained).tobytes() == scores.tobytes()


def test_the_best_on_validation_is_chosen(tried: list[Trained]) -> None:
    best = best_factors(tried, 10)
    assert best.figures[NDCG] == max(each.figures[NDCG] for each in tried)
    assert best.name == "warp"  # it alone knows tags, and every activity is new each day
    assert "warp: alone they are the best on validation" in best.notes[-1]


figures = st.one_of(st.none(), st.floats(0, 1))


@given(st.lists(figures, max_size=5))
def test_the_choice_is_of_who_learnt_and_of_equals_the_first(ndcg: list[float | None]) -> None:
    tried = [
        Trained(f"t{n}", None if each is None else Path(f"{n}"), {NDCG: each or 0.0})
        for n, each in enumerate(ndcg)
    ]
    best = best_factors(tried, 10)
    learnt = [each for each in ndcg if each is not None]
    if not learnt:
        assert (best.name, best.path) == ("none", None)
    else:
        assert best.name == f"t{ndcg.index(max(learnt))}"


def test_ease_serves_as_vectors_and_says_so(tried: list[Trained]) -> None:
    (ease,) = [each for each in tried if each.name == "ease"]
    table = factor_table(ease.path)
    assert table is not None
    assert table.dimensions == 6
    assert "vectors of 6 dimensions" in ease.notes[0]


def test_a_catalogue_too_large_for_ease_leaves_it_out_with_the_reason(
    export: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, ease=EaseConfig(activities_max=5), trainers=("ease",))
    case = case_of(export, tmp_path, config)
    (trained,) = [train_matrix(case, each) for each in matrix_trainers(config)]
    assert trained.path is None
    assert "activities_max is 5" in trained.notes[0]


@pytest.mark.parametrize("number", range(3))
def test_the_budget_is_looked_at_between_passes(export: Path, tmp_path: Path, number: int) -> None:
    case = case_of(export, tmp_path)
    spent = replace(case.plan.budget, started_s=0.0)
    late = replace(case, plan=replace(case.plan, budget=spent))
    with pytest.raises(BudgetSpent, match="stopped at the factors of"):
        train_matrix(late, matrix_trainers(CONFIG)[number])


def test_without_requests_to_validate_by_factors_are_still_learnt(
    export: Path, tmp_path: Path
) -> None:
    nobody = RequestConfig(validation_requests_max=0)
    case = case_of(export, tmp_path, replace(CONFIG, requests=nobody))
    tried = [train_matrix(case, trainer) for trainer in matrix_trainers(CONFIG)]
    assert [each.figures[NDCG] for each in tried] == [0, 0, 0]
    assert best_factors(tried, 10).name == "warp"
