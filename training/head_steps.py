"""The step that trains a value model: probabilities of each kind of engagement with what was shown.

It learns from impressions of the rankers' part, and is calibrated on impressions of the validation
part. Whether it is chosen, the requests of the validation part say, as of every model.
"""

from dataclasses import replace

from ranking.config_options import ValueOptions
from ranking.features import FeatureSpec
from training.config import TrainingConfig
from training.errors import TooFewEvents
from training.evaluation.report import HeadReport
from training.events.log import read_event_log
from training.sets.dataset import TrainingSet
from training.sets.impressions import shown_requests
from training.steps import (
    DEFAULT_PARAMETERS,
    FEATURE_NAMES,
    SetFiles,
    Trained,
    factor_table,
    save_fitted,
)
from training.trainers.base import Stopwatch
from training.trainers.heads import HeadsTrainer
from training.trainers.rows import Examples

__all__ = ["head_reports", "heads_trainer", "train_heads"]

HEADS = "heads"
"""The model's name in a run."""


def heads_trainer(config: TrainingConfig) -> HeadsTrainer:
    """The trainer of a run, with what engagements are worth."""
    heads = config.heads
    return HeadsTrainer(
        classifier=heads.classifier,
        calibration=heads.calibration,
        depth=heads.depth,
        boosted=config.boosted,
        positives_min=heads.positives_min,
        heads_min=heads.heads_min,
        weights=dict(heads.weights or ValueOptions().weights()),
    )


def train_heads(sets: SetFiles, trainer: HeadsTrainer) -> Trained:
    """A value model as a bundle in the run's directory; without one, a note says why.

    `figures` has the heads' errors of calibration, as `HeadsTrainer.fit` tells them.
    """
    watch = Stopwatch()
    plan = sets.plan
    plan.budget.check("the heads")
    parts = _parts(sets)
    if parts is None:
        return Trained(HEADS, None, {"seconds": watch.seconds}, (_NOTHING_SHOWN,))

    def told(rounds: int, score: float) -> None:
        plan.budget.check(f"{HEADS}, round {rounds} with {score:.4f}")

    train, validation = parts
    try:
        fitted = trainer.fit(
            Examples.of(train), Examples.of(validation), seed=plan.config.seed, on_round=told
        )
    except TooFewEvents as error:
        return Trained(HEADS, None, {"seconds": watch.seconds}, (f"{_NOT_TRAINED}: {error}",))
    saved = save_fitted(sets, HEADS, fitted, train)
    return replace(
        saved,
        figures=saved.figures | {"seconds": watch.seconds},
        notes=(*saved.notes, plan.worth),
    )


_NOT_TRAINED = "Heads were not trained"
_NOTHING_SHOWN = f"{_NOT_TRAINED}: too few requests with impressions were logged."


def _parts(sets: SetFiles) -> tuple[TrainingSet, TrainingSet] | None:
    """What was shown in the rankers' part and in validation, engaged with or not."""
    plan = sets.plan
    if "requests_shown" not in plan.counts:
        return None
    log, table = read_event_log(plan.export, plan.tenant), factor_table(sets.factors.path)
    spec = FeatureSpec(FEATURE_NAMES, parameters=DEFAULT_PARAMETERS)
    split = plan.split
    ends = (split.ranker_us, split.validation_us, split.test_us)
    train, validation = (
        shown_requests(log, plan.export, *part, spec, plan.config, table, comparing=False)
        for part in (ends[:2], ends[1:])
    )
    return None if train is None or validation is None else (train, validation)


def head_reports(trained: Trained, config: TrainingConfig) -> tuple[HeadReport, ...]:
    """What a value model's heads are worth, and how far they are probabilities."""
    figures, weights = trained.figures, heads_trainer(config).weights or {}
    learnt = "_positives"
    kinds = [name.removesuffix(learnt) for name in figures if name.endswith(learnt)]
    return tuple(
        HeadReport(
            kind=kind,
            weight=weights.get(kind, 0.0),
            positives=int(figures[f"{kind}_positives"]),
            ece=figures.get(f"{kind}_ece"),
            ece_before=figures.get(f"{kind}_ece_before"),
        )
        for kind in kinds
    )
