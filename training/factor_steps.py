"""The steps that learn factors: what there is to learn, a step a trainer, and whose factors serve.

Every trainer learns from the first part of the split. The factors that are best by themselves on
the requests of the validation part, as they would serve, are the features of the rankers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ranking.scorers.factorization import FactorTable
from training.errors import BudgetSpent, TrainingError
from training.evaluation.rankings import mean_ndcg
from training.events.log import read_event_log
from training.factors import Interactions, fit_factors, interactions_until
from training.sets.factor_questions import FactorQuestions, factor_questions
from training.steps import Plan, Trained
from training.trainers.base import MatrixModel, MatrixTrainer, Stopwatch
from training.trainers.ease import EaseTrainer

__all__ = [
    "FactorCase",
    "best_factors",
    "prepare_factors",
    "save_factors",
    "scores_on_test",
    "train_matrix",
]

NDCG = "validation_ndcg"
"""The figure by which factors are chosen."""


@dataclass(frozen=True, slots=True)
class FactorCase:
    """What there is to learn and to judge by, as files in the run's directory.

    `enough` says whether there are engagements enough to learn from.
    """

    plan: Plan
    enough: bool
    figures: dict[str, float]

    @property
    def interactions(self) -> Path:
        """Where `Interactions` lie."""
        return self.plan.scratch / "interactions.npz"

    @property
    def validation(self) -> Path:
        """Where the questions of the validation part lie."""
        return self.plan.scratch / "questions-validation.npz"

    @property
    def test(self) -> Path:
        """Where the questions of the test part lie; nobody chooses by them."""
        return self.plan.scratch / "questions-test.npz"


def prepare_factors(plan: Plan) -> FactorCase:
    """Find the engagements of the first part, and what the later parts ask of factors."""
    watch = Stopwatch()
    plan.budget.check("the factors")
    config, limits = plan.config, plan.config.requests
    kinds = tuple(kind for kind, label in limits.labels.items() if label)
    log = read_event_log(plan.export, plan.tenant)
    found = interactions_until(log, plan.split.ranker_us, kinds)
    figures = {
        "interactions": float(len(found)),
        "users": float(len(found.users)),
        "activities": float(len(found.activities)),
    }
    enough = len(found) >= config.factorization.engagements_min
    case = FactorCase(plan, enough, figures)
    if enough:
        found.save(case.interactions)
        asked = factor_questions(
            log,
            config,
            plan.split,
            {"validation": limits.validation_requests_max, "test": limits.test_requests_max},
        )
        asked["validation"].save(case.validation)
        asked["test"].save(case.test)
    return FactorCase(plan, enough, figures | {"seconds": watch.seconds})


def train_matrix(case: FactorCase, trainer: MatrixTrainer) -> Trained:
    """The factors of one trainer, judged on validation; no file where it cannot learn.

    `figures` has `validation_ndcg` and `seconds`.
    """
    watch = Stopwatch()
    plan = case.plan

    def told(epoch: int, model: MatrixModel) -> None:
        del model
        plan.budget.check(f"the factors of {trainer.name}, pass {epoch}")

    plan.budget.check(f"the factors of {trainer.name}")
    found = Interactions.load(case.interactions)
    try:
        table = fit_factors(trainer, found, plan.config.ease.dimensions, plan.config.seed, told)
    except BudgetSpent:
        raise
    except TrainingError as error:
        return Trained(trainer.name, None, {"seconds": watch.seconds}, (f"Not trained: {error}.",))
    return save_factors(case, trainer.name, trainer, table, watch)


def save_factors(
    case: FactorCase, name: str, trainer: MatrixTrainer, table: FactorTable, watch: Stopwatch
) -> Trained:
    """Factors as a file of the run, with their scores of the test part beside it."""
    config = case.plan.config
    questions = FactorQuestions.load(case.validation)
    ndcg = mean_ndcg(questions.requests, questions.scores(table), config.evaluation.k)
    path = case.plan.scratch / f"factors-{name}.npz"
    path.write_bytes(table.pack())
    scores = FactorQuestions.load(case.test).scores(table)
    np.save(path.with_suffix(".test.npy"), scores, allow_pickle=False)
    nearest = isinstance(trainer, EaseTrainer)  # its scores are no vectors: the nearest ones serve
    notes = (_APPROXIMATE.format(name=name, dimensions=table.dimensions),) if nearest else ()
    return Trained(name, path, {NDCG: ndcg, "seconds": watch.seconds}, notes)


_APPROXIMATE = (
    "{name} is judged as it serves: the nearest matrix of scores that vectors of {dimensions} "
    "dimensions give."
)


def scores_on_test(factors: Trained) -> npt.NDArray[np.float32]:
    """float32[n]: what factors say of the candidates of the test part."""
    if factors.path is None:
        raise ValueError(f"{factors.name} has learnt nothing")
    scores: npt.NDArray[np.float32] = np.load(
        factors.path.with_suffix(".test.npy"), allow_pickle=False
    )
    return scores


def best_factors(tried: Sequence[Trained], k: int) -> Trained:
    """Those that are best on validation, of equals the first; without a file where none learnt."""
    learnt = [each for each in tried if each.path is not None]
    if not learnt:
        return Trained("none", None)
    best = max(learnt, key=lambda each: each.figures[NDCG])
    if len(learnt) == 1:
        return best
    said = ", ".join(f"{each.name} {each.figures[NDCG]:.4f}" for each in learnt)
    note = (
        f"The factors that are features are of {best.name}: alone they are the best on validation "
        f"(NDCG@{k}: {said})."
    )
    return Trained(best.name, best.path, best.figures, (*best.notes, note), documents={})
