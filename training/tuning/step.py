"""The step of a run that searches for hyperparameters of its rankers, on validation alone."""

from dataclasses import replace

from training.config import SearchConfig
from training.errors import TooFewEvents
from training.steps import SetFiles, Trained, ranker_sets, train_ranker
from training.trainers.base import Stopwatch
from training.trainers.rows import RowTrainer
from training.tuning.search import Study, Told, search
from training.tuning.spaces import judge_of_rows, row_spaces

__all__ = ["STUDY", "STUDY_TABLE", "search_rankers"]

STUDY = "study.json"
"""The document of a version that has every trial of its search."""

STUDY_TABLE = "study.md"
"""The same as a table for people."""


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
        found = search(
            row_spaces(config.boosted, k), within_budget, f"NDCG@{k} on validation", search_config
        )
    except TooFewEvents as error:
        return Trained("tuned", None, {"seconds": watch.seconds}, (f"Not tuned: {error}.",))
    trained = train_ranker(sets, found.trainer)
    return replace(
        trained,
        name="tuned",
        figures=trained.figures | {"seconds": watch.seconds},
        notes=(*trained.notes, _told(found.study)),
        documents={STUDY: found.study.to_json(), STUDY_TABLE: found.study.to_markdown().encode()},
    )


def _told(study: Study) -> str:
    values = ", ".join(f"{name} {value:.4g}" for name, value in study.best.values.items())
    return (
        f"The tuned model is the best of {len(study.trials)} trials on validation: "
        f"{study.best.space} with {values}; its validation figure is that of the best of many."
    )
