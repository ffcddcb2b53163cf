import json

import numpy as np
import pytest

from ranking.metrics import ndcg_at_k
from training.config import BoostedConfig, SearchConfig
from training.errors import TooFewEvents, TrainingError
from training.testing_trainers import shown_slates, two_tastes
from training.trainers.als import AlsTrainer
from training.trainers.base import MatrixTrainer
from training.trainers.popularity import PopularityTrainer
from training.trainers.rows import RowTrainer
from training.tuning.search import Draws, Space, Study, Told, search
from training.tuning.spaces import MATRIX_SPACES, judge_of_matrices, matrix_ndcg, row_spaces

LINE = Space({"x": 0.0}, lambda draws: draws.suggest_float("x", -10, 10))
PLENTY = 1e9


def hill(x: float, told: Told) -> float:
    for step in (1, 2):
        told(step, -abs(x - 3) + step / 10)
    return -abs(x - 3)


class Clock:
    """Every look at it takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_it_finds_the_top_and_never_less_than_the_first() -> None:
    found = search({"line": LINE}, hill, "height", SearchConfig(PLENTY, trials_max=60, seed=1))
    assert found.trainer == pytest.approx(3, abs=0.5)
    assert (
        found.score
        == found.study.best.score
        == max(
            trial.score
            for trial in found.study.trials
            if trial.score is not None and trial.outcome == "finished"
        )
    )
    assert found.study.trials[0].values == {"x": 0.0}


def test_a_search_repeats_with_its_seed() -> None:
    config = SearchConfig(PLENTY, trials_max=25, seed=4)
    first, second = (search({"line": LINE}, hill, "height", config).study for _ in range(2))
    assert [t.values for t in first.trials] == [t.values for t in second.trials]
    other = search({"line": LINE}, hill, "height", SearchConfig(PLENTY, trials_max=25, seed=5))
    assert [t.values for t in first.trials] != [t.values for t in other.study.trials]


def test_what_is_below_the_median_is_pruned() -> None:
    study = search({"line": LINE}, hill, "height", SearchConfig(PLENTY, trials_max=40)).study
    pruned = [trial for trial in study.trials if trial.outcome == "pruned"]
    assert pruned
    assert all(trial.steps == 1 and trial.number >= 6 for trial in pruned)


def test_the_budget_ends_it_and_the_first_trial_is_whole() -> None:
    found = search({"line": LINE}, hill, "height", SearchConfig(0.5, 60), clock=Clock())
    assert [trial.outcome for trial in found.study.trials] == ["finished"]
    later = search({"line": LINE}, hill, "height", SearchConfig(12.0, 60), clock=Clock())
    assert len(later.study.trials) < 10
    assert later.study.trials[-1].outcome == "out of time"


def test_spaces_take_turns() -> None:
    study = search({"a": LINE, "b": LINE}, hill, "height", SearchConfig(PLENTY, trials_max=3)).study
    assert [trial.space for trial in study.trials] == ["a", "b", "a", "b", "a", "b"]


def test_a_trial_that_fails_is_told_and_the_others_go_on() -> None:
    def judge(x: float, told: Told) -> float:
        if x < 0:
            raise TrainingError("it diverged")
        return hill(x, told)

    study = search({"line": LINE}, judge, "height", SearchConfig(PLENTY, trials_max=20)).study
    failed = [trial for trial in study.trials if trial.outcome == "failed"]
    assert failed
    assert failed[0].note == "it diverged"


def test_where_every_trial_fails_the_last_is_told() -> None:
    def judge(x: float, told: Told) -> float:
        del told
        raise TooFewEvents(f"nothing at {x}")

    with pytest.raises(TrainingError, match="every one of 2 trials failed; the last one: nothing"):
        search({"line": LINE}, judge, "height", SearchConfig(PLENTY, trials_max=2))


def test_a_study_reads_as_json_and_as_a_table() -> None:
    study = search({"line": LINE}, hill, "height", SearchConfig(PLENTY, trials_max=8)).study
    assert len(json.loads(study.to_json())["trials"]) == 8
    lines = study.to_markdown().splitlines()
    assert lines[0] == "# Search: height"
    assert f"| line | {study.best.number} | {study.best.score:.4f} | finished" in lines[6]
    assert len(lines) == 14


def test_progress_counts_seconds_and_names_the_best() -> None:
    told: list[tuple[str, int, int | None]] = []
    search(
        {"line": LINE},
        hill,
        "height",
        SearchConfig(9.0, 60),
        progress=lambda *each: told.append(each),
        clock=Clock(),
    )
    assert told[0] == ("searching: line", 1, 9)
    assert told[1][0].startswith("searching: line, best -")


class Defaults:
    """Draws the first values."""

    def __init__(self, first: dict[str, float]) -> None:
        self._first = first

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        assert low <= self._first[name] <= high
        assert low > 0 or not log
        return self._first.pop(name)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return int(self.suggest_float(name, low, high, log=log))


@pytest.mark.parametrize("name", MATRIX_SPACES)
def test_the_first_values_of_a_space_are_the_defaults_of_its_trainer(name: str) -> None:
    first = dict(MATRIX_SPACES[name].first)
    draws: Draws = Defaults(first)
    trainer: MatrixTrainer = MATRIX_SPACES[name].draw(draws)
    assert trainer == type(trainer)()
    assert trainer.name == name
    assert not first


def test_row_spaces_draw_trainers() -> None:
    config = BoostedConfig(trees_max=10)
    for space in row_spaces(config, 10).values():
        trainer: RowTrainer = space.draw(Defaults(dict(space.first)))
        told = trainer.fit(shown_slates(5), shown_slates(6)).figures
        assert told["seconds"] > 0


def test_matrix_spaces_are_searched_on_what_was_held_back() -> None:
    whole = two_tastes(5)
    held = whole.copy()
    held.data[np.arange(held.nnz) % 4 > 0] = 0
    held.eliminate_zeros()
    train = whole - held
    train.eliminate_zeros()
    found = search(
        MATRIX_SPACES,
        judge_of_matrices(train, held, 5, seed=1),
        "NDCG@5",
        SearchConfig(PLENTY, trials_max=2),
    )
    assert found.score >= matrix_ndcg(PopularityTrainer().fit(train), train, held, 5)
    assert {trial.space for trial in found.study.trials} == {"ease", "als", "warp"}


@pytest.mark.parametrize("epochs", [1, 3, 10, 25])
def test_trials_are_compared_at_equal_shares_of_their_own_passes(epochs: int) -> None:
    whole = two_tastes(5)
    told: list[int] = []
    judge = judge_of_matrices(whole, two_tastes(6), 5, seed=1, looks=5)
    judge(AlsTrainer(dimensions=2, epochs=epochs), lambda step, _: told.append(step))
    assert told == sorted(set(told))
    assert told[-1] == 5
    assert len(told) == min(epochs, 5)


def test_the_ndcg_of_a_matrix_is_that_of_its_users() -> None:
    train, held = two_tastes(5)[:3], two_tastes(6)[:3]
    held = held - held.multiply(train > 0)
    held.eliminate_zeros()
    model = PopularityTrainer().fit(train)
    values = []
    for user, scores in enumerate(model.scores(np.arange(3))):
        unseen = np.flatnonzero(train[[user]].toarray()[0] == 0)
        order = unseen[np.argsort(-scores[unseen], kind="stable")]
        relevance = (held[[user]].toarray()[0] > 0)[order]
        values.append(ndcg_at_k(relevance, 4))
    assert matrix_ndcg(model, train, held, 4) == pytest.approx(np.mean(values))


def test_nobody_to_judge_by_is_told() -> None:
    nothing = two_tastes(5) * 0
    nothing.eliminate_zeros()
    with pytest.raises(TooFewEvents, match="no user of the validation part"):
        matrix_ndcg(PopularityTrainer().fit(two_tastes(5)), two_tastes(5), nothing, 5)


def test_a_study_is_a_frame_of_its_trials_and_reads_back() -> None:
    config = SearchConfig(seconds=PLENTY, trials_max=5)
    study = search({"line": LINE}, hill, "height", config).study
    assert Study.from_json(study.to_json()) == study
    frame = study.to_frame()
    assert frame.index.name == "trial"
    assert list(frame["x"]) == [trial.values["x"] for trial in study.trials]
    assert frame["best_so_far"].is_monotonic_increasing
    assert frame["best_so_far"].iloc[-1] == study.best.score
