"""The steps of a run that search for hyperparameters, of factors and of rankers.

Both look at the validation part alone. They share the seconds: factors have `factors_share` of
them, rankers the others and what factors left.
"""

from dataclasses import replace

from training.config import SearchConfig, TrainingConfig
from training.errors import BudgetSpent, TooFewEvents, TrainingError
from training.evaluation.rankings import mean_ndcg
from training.factor_steps import FactorCase, save_factors
from training.factors import Interactions, fit_factors, table_of
from training.sets.factor_questions import FactorQuestions
from training.steps import SetFiles, Trained, ranker_sets, train_ranker
from training.trainers.base import MatrixModel, MatrixTrainer, Stopwatch
from training.trainers.rows import RowTrainer
from training.tuning.search import Space, Study, Told, search
from training.tuning.spaces import MATRIX_SPACES, judge_of_rows, row_spaces

__all__ = [
    "FACTORS_STUDY",
    "FACTORS_STUDY_TABLE",
    "STUDY",
    "STUDY_TABLE",
    "for_factors",
    "for_rankers",
    "search_factors",
    "search_rankers",
]

STUDY = "study.json"
"""The document of a version that has every trial of its search."""

STUDY_TABLE = "study.md"
"""The same as a table for people."""


FACTORS_STUDY = "study-factors.json"
"""The document that has every trial of the search for factors."""

FACTORS_STUDY_TABLE = "study-factors.md"
"""The same as a table for people."""

TUNED_FACTORS = "tuned-factors"
"""The name of the factors that a search found."""


def for_factors(search: SearchConfig) -> SearchConfig:
    """The part of a search that factors have."""
    return replace(search, seconds=search.seconds * search.factors_share)


def for_rankers(search: SearchConfig, spent_s: float) -> SearchConfig:
    """What rankers have after factors took so many seconds: their own part at least."""
    own = search.seconds * (1 - search.factors_share)
    return replace(search, seconds=max(own, search.seconds - spent_s))


def search_factors(case: FactorCase, search_config: SearchConfig) -> Trained:
    """Search the spaces of the trainers that take part; its documents are the study.

    A trial is judged as its factors would serve. Without a trial that finished there are no
    factors, and a note says why.
    """
    watch = Stopwatch()
    plan, config = case.plan, case.plan.config
    found, questions = Interactions.load(case.interactions), FactorQuestions.load(case.validation)
    k, dimensions_max = config.evaluation.k, config.ease.dimensions
    matrix, features = found.matrix(), found.tag_matrix()

    def ndcg(model: MatrixModel) -> float:
        scores = questions.scores(table_of(model, found, dimensions_max))
        return mean_ndcg(questions.requests, scores, k)

    def judge(trainer: MatrixTrainer, told: Told) -> float:
        epochs = int(getattr(trainer, "epochs", 1))

        def look(epoch: int, model: MatrixModel) -> None:
            plan.budget.check("the search for factors")
            step = epoch * _LOOKS // epochs
            if step > (epoch - 1) * _LOOKS // epochs:
                told(step, ndcg(model))

        model = trainer.fit(matrix, activity_features=features, seed=config.seed, on_epoch=look)
        return ndcg(model)

    metric = f"NDCG@{k} of factors alone on validation"
    try:
        best = search(_spaces(config, len(found.activities)), judge, metric, search_config)
    except BudgetSpent:
        raise
    except TrainingError as error:
        note = f"Factors were not tuned: {error}."
        return Trained(TUNED_FACTORS, None, {"seconds": watch.seconds}, (note,))
    table = fit_factors(best.trainer, found, dimensions_max, config.seed)
    saved = save_factors(case, TUNED_FACTORS, best.trainer, table, watch)
    documents = {
        FACTORS_STUDY: best.study.to_json(),
        FACTORS_STUDY_TABLE: best.study.to_markdown().encode(),
    }
    notes = (*saved.notes, _told("The tuned factors are", best.study))
    return replace(saved, notes=notes, documents=documents)


_LOOKS = 5
"""Looks at validation in a trial, at equal shares of its passes; each scores all candidates."""


def _spaces(config: TrainingConfig, activities: int) -> dict[str, Space[MatrixTrainer]]:
    """The spaces of who takes part, and is able to."""
    large = activities > config.ease.activities_max
    return {
        name: space
        for name, space in MATRIX_SPACES.items()
        if name in config.trainers and not (name == "ease" and large)
    }


def search_rankers(sets: SetFiles, search_config: SearchConfig) -> Trained:
    """Search, and train the best that was found; its documents are the study.

    Where there is too little to learn from, there is no model, and a note says why.
    """
    watch = Stopwatch()
    plan = sets.plan
    config = plan.config
    train, validation = ranker_sets(sets)
    k = config.evaluation.k
    judge = judge_of_rows(train, validation, k, config.seed)

    def within_budget(trainer: RowTrainer, told: Told) -> float:
        plan.budget.check("the search")
        return judge(trainer, told)

    try:
        spaces = {
            name: space
            for name, space in row_spaces(config.boosted, k).items()
            if name in config.trainers
        }
        found = search(spaces, within_budget, f"NDCG@{k} on validation", search_config)
    except TooFewEvents as error:
        return Trained("tuned", None, {"seconds": watch.seconds}, (f"Not tuned: {error}.",))
    trained = train_ranker(sets, found.trainer)
    return replace(
        trained,
        name="tuned",
        figures=trained.figures | {"seconds": watch.seconds},
        notes=(*trained.notes, _told("The tuned model is", found.study)),
        documents={STUDY: found.study.to_json(), STUDY_TABLE: found.study.to_markdown().encode()},
    )


def _told(what: str, study: Study) -> str:
    values = ", ".join(f"{name} {value:.4g}" for name, value in study.best.values.items())
    return (
        f"{what} the best of {len(study.trials)} trials on validation: "
        f"{study.best.space} with {values}; the figure on validation is that of the best of many."
    )
