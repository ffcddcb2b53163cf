"""Choosing a model on validation, judging all of them on test, and bundling the chosen one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from feeds.model import TenantId
from ranking.bundle import ModelBundle
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.scorers.base import Scorer
from ranking.scorers.factorization import FactorizationScorer, FactorTable
from ranking.scorers.popularity import PopularityScorer
from ranking.scorers.recency import RecencyScorer
from training.config import TrainingConfig
from training.drift.histograms import HISTOGRAMS, training_histograms
from training.errors import TooFewEvents
from training.evaluation.rankings import (
    BASELINES,
    CHOSEN,
    CHOSEN_BY_NDCG,
    CHOSEN_BY_SHOWN,
    CHRONOLOGICAL,
    CONVENTIONS,
    Scores,
    baseline_scores,
    judge,
    mean_ndcg,
    most_popular_column,
    not_better,
)
from training.evaluation.report import EvaluationReport, ExploreReport
from training.evaluation.report_details import Details, detail
from training.evaluation.shown import can_judge, examination_power, shown_share
from training.events.log import read_event_log
from training.factor_steps import NDCG, scores_on_test
from training.gates.trained_users import TRAINED_USERS, pack_users
from training.head_steps import head_reports
from training.sets.dataset import TrainingSet, joined
from training.sets.impressions import only_shown
from training.sets.splits import PartName, split_by_time
from training.sources.base import Progress, no_progress
from training.steps import (
    SetFiles,
    Trained,
    factor_table,
    part_report,
    ranker_sets,
    replayed_sets,
    save_fitted,
)
from training.trainers.base import Stopwatch
from training.trainers.boosted import BoostedTrainer
from training.trainers.distributed import DistributedTrainer
from training.trainers.logistic import LogisticTrainer
from training.trainers.rows import Examples, RowTrainer

__all__ = ["Choice", "Judged", "choose_model", "judge_bundle", "judge_models", "row_trainers"]

GOLDEN_ROWS_MAX = 100
"""Candidates of the golden slate that a bundle carries."""

EXAMPLE_USERS_MAX = 20
"""Users that a report names as examples."""

_SIMPLE = ("recency", "popularity")
"""Models that are baselines under another name: reported only where one was chosen."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What validation says: the model, NDCG of every model, what popular means, and all models.

    `shown` is what each is worth of what was really shown; empty where that is not known.
    """

    model: str
    validated: dict[str, float]
    shown: dict[str, float]
    popular: str
    rankers: tuple[Trained, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """The chosen model as a bundle, and the report as yet without version and total time.

    `documents` by name go with it where it is published.
    """

    bundle: Path
    report: EvaluationReport
    documents: dict[str, bytes]


def row_trainers(config: TrainingConfig, *, on_all_workers: bool = False) -> tuple[RowTrainer, ...]:
    """The rankers that a run trains, the simplest first; trees on one worker, or on all."""
    boosted = [
        BoostedTrainer(variant, config.boosted, config.evaluation.k)
        for variant in config.boosted.variants
    ]
    trees: list[RowTrainer] = [*(map(DistributedTrainer, boosted) if on_all_workers else boosted)]
    every: dict[str, tuple[RowTrainer, ...]] = {
        "logistic": (LogisticTrainer(),),
        "boosted": tuple(trees),
    }
    return tuple(
        trainer
        for name, trainers in every.items()
        if name in config.trainers
        for trainer in trainers
    )


def choose_model(sets: SetFiles, *rankers: Trained) -> Choice:
    """Choose on validation; a boosted model is then trained again with validation's requests.

    Where it is known what was shown there, that decides; else NDCG among all candidates.
    """
    config = sets.plan.config
    k = config.evaluation.k
    validation = TrainingSet.load(sets.plan.set_path("validation"))
    popular = most_popular_column(validation, k)
    scorers = _scorers(sets, rankers, popular)
    validated = {each.name: each.figures[NDCG] for each in _learnt(sets)} | {
        name: mean_ndcg(validation, _scores(scorer, validation), k)
        for name, scorer in scorers.items()
    }
    del validation
    shown = _shown_worths(sets, scorers)
    figures = shown or validated
    chosen = max(scorers, key=lambda name: figures[name])  # of equals the simpler one
    return Choice(
        model=chosen,
        validated=validated,
        shown=shown,
        popular=popular,
        rankers=tuple(
            _refitted(sets, trained) if trained.name == chosen else trained for trained in rankers
        ),
    )


def _shown_worths(sets: SetFiles, scorers: Mapping[str, Scorer]) -> dict[str, float]:
    """What each model is worth of what was shown; nothing where that cannot be told."""
    answered = TrainingSet.load(sets.plan.set_path("answered"))
    if not can_judge(answered):
        return {}
    power = examination_power(answered)
    return {
        name: shown_share(answered, _scores(scorer, answered), power).whole
        for name, scorer in scorers.items()
    }


def judge_models(sets: SetFiles, choice: Choice, out: Path, trained_us: int) -> Judged:
    """Judge all models on test once, and save the chosen one as a bundle below `out`."""
    watch = Stopwatch()
    plan, config = sets.plan, sets.plan.config
    factors = factor_table(sets.factors.path)
    scorers = _scorers(sets, choice.rankers, choice.popular)
    test = TrainingSet.load(plan.set_path("test"))
    rankings = baseline_scores(test, choice.popular, config.seed)
    rankings |= {each.name: scores_on_test(each) for each in _learnt(sets)}
    rankings |= {
        name: _scores(scorer, test)
        for name, scorer in scorers.items()
        if name == choice.model or name not in _SIMPLE
    }
    results = judge(test, rankings, config.evaluation, config.seed)
    of_chosen = next(result for result in results if result.name == choice.model)
    scorer = scorers[choice.model]
    validation = TrainingSet.load(plan.set_path("validation"))
    details = _detail(test, rankings, choice.model, scorer, validation, config)
    every = (sets.factors, *sets.tried, *choice.rankers)
    notes = dict.fromkeys(note for trained in every for note in trained.notes)
    explored = TrainingSet.load(plan.set_path("explore"))
    explore = _judge_explore(explored, choice.model, scorer, choice.popular, config)
    report = EvaluationReport(
        tenant=plan.tenant,
        model=choice.model,
        model_kind=scorer.name,
        k=config.evaluation.k,
        young=plan.young,
        verdicts=tuple(c.sentence for c in of_chosen.comparisons),
        not_better=not_better(of_chosen, config.evaluation.k),
        rankers=results,
        explore=explore,
        bands=details.bands,
        reliability=details.reliability,
        importance=details.importance,
        heads=tuple(
            head for each in choice.rankers if each.path for head in head_reports(each, config)
        ),
        validation=choice.validated,
        validation_shown=choice.shown,
        reach=test.reach,
        parts=sets.parts,
        split=asdict(config.split),
        counts=plan.counts,
        seconds={
            "read": plan.seconds,
            "replay": sets.seconds,
            **{each.name: each.figures["seconds"] for each in (*sets.tried, *choice.rankers)},
            "judge": watch.seconds,
        },
        derived=config.derived,
        conventions=(
            *CONVENTIONS,
            CHOSEN,
            CHOSEN_BY_SHOWN if choice.shown else CHOSEN_BY_NDCG,
            *notes,
        ),
        example_users=_example_users(test),
        events_fingerprint=plan.fingerprint,
        training_fingerprint=sets.fingerprint,
    )
    bundle = _bundle(report, scorer, test, factors, trained_us)
    out.mkdir(exist_ok=True)
    path = out / f"bundle-{bundle.digest[:16]}"
    taught = TrainingSet.load(plan.set_path("ranker"))
    learnt_from = _trained_users(factors, taught, validation)
    documents = {TRAINED_USERS: pack_users(plan.tenant, learnt_from)}
    if len(taught.labels):
        documents[HISTOGRAMS] = training_histograms(taught, scorer)
    for trained in every:
        documents |= trained.documents
    return Judged(path if path.exists() else bundle.save(path), report, documents)


def judge_bundle(
    export: Path,
    tenant: str,
    directory: Path,
    config: TrainingConfig,
    progress: Progress = no_progress,
) -> EvaluationReport:
    """A bundle on the test part of an export, beside the baselines.

    Raises `BundleDamaged`, `ExportDamaged`, or `TooFewEvents`.
    """
    watch = Stopwatch()
    progress("read events", 0, None)
    bundle = ModelBundle.load(directory)
    log = read_event_log(export, tenant)
    split = split_by_time(log.events, config.check().split)
    limits: dict[PartName, int] = {
        "validation": config.requests.validation_requests_max,
        "test": config.requests.test_requests_max,
    }
    parameters = bundle.spec.parameters
    sets = replayed_sets(log, config, split, limits, bundle.factors(), parameters, progress)
    progress("judge", 0, None)
    validation = sets["validation"]
    popular = most_popular_column(validation, config.evaluation.k)
    test = sets["test"]
    scorer = bundle.scorer()
    rankings = baseline_scores(test, popular, config.seed)
    rankings[bundle.kind] = _scores(scorer, test)
    results = judge(test, rankings, config.evaluation, config.seed)
    explore = _judge_explore(sets["explore"], bundle.kind, scorer, popular, config)
    details = _detail(test, rankings, bundle.kind, scorer, validation, config)
    return EvaluationReport(
        tenant=tenant,
        model=bundle.kind,
        model_kind=bundle.kind,
        k=config.evaluation.k,
        verdicts=tuple(c.sentence for c in results[-1].comparisons),
        not_better=not_better(results[-1], config.evaluation.k),
        rankers=results,
        explore=explore,
        bands=details.bands,
        reliability=details.reliability,
        importance=details.importance,
        validation={},
        reach=test.reach,
        parts=(part_report("test", test, split),),
        split=asdict(config.split),
        counts={"events": len(log)},
        seconds={"all": watch.seconds},
        derived=config.derived,
        conventions=(
            *CONVENTIONS,
            (
                "The model may have seen some of these events in training, unless it was trained "
                "with the same split of the same export or of an earlier one."
            ),
        ),
        events_fingerprint=log.fingerprint,
        training_fingerprint=bundle.training_fingerprint,
    )


def _detail(
    test: TrainingSet,
    rankings: Mapping[str, Scores],
    model: str,
    scorer: Scorer,
    validation: TrainingSet,
    config: TrainingConfig,
) -> Details:
    """What is told of the model beside the table, with the baselines."""
    shown = {name: each for name, each in rankings.items() if name in BASELINES or name == model}
    return detail(test, shown, scorer, validation, config.evaluation, config.seed)


def _judge_explore(
    data: TrainingSet, model: str, scorer: Scorer, popular: str, config: TrainingConfig
) -> ExploreReport | None:
    """The model on requests for the explore feed, beside the baselines; None without relevant."""
    if not data.relevant.any():
        return None
    rankings = baseline_scores(data, popular, config.seed) | {model: _scores(scorer, data)}
    results = judge(data, rankings, config.evaluation, config.seed)
    of_model = results[-1]
    verdict = next(c.sentence for c in of_model.comparisons if c.baseline == CHRONOLOGICAL)
    return ExploreReport(
        requests=len(data),
        users=len(set(data.users)),
        reach=data.reach,
        rankers=results,
        verdict=f"explore: {verdict}",
        not_better=tuple(
            f"explore: {sentence}" for sentence in not_better(of_model, config.evaluation.k)
        ),
    )


def _refitted(sets: SetFiles, trained: Trained) -> Trained:
    """A boosted model trained again with validation's requests too; other models as they are.

    What was learnt from what was shown is so again: else the order that served would come in.
    """
    trainer = trained.trainer
    if not isinstance(trainer, BoostedTrainer | DistributedTrainer):
        return trained
    seed = sets.plan.config.seed
    train, validation = ranker_sets(sets)
    if train.positions is not None:
        answered = TrainingSet.load(sets.plan.set_path("answered"))
        if not can_judge(answered):
            return trained
        validation = only_shown(answered)
    both = joined(train, validation)
    again = trainer.refit(Examples.of(both), int(trained.figures["trees"]), seed=seed)
    seconds = trained.figures["seconds"] + again.figures["seconds"]
    saved = save_fitted(sets, trained.name, again, both)
    return replace(trained, path=saved.path, figures=trained.figures | {"seconds": seconds})


def _learnt(sets: SetFiles) -> list[Trained]:
    """The factors that were tried and learnt something."""
    return [each for each in sets.tried if each.path is not None]


def _scorers(sets: SetFiles, rankers: Sequence[Trained], popular: str) -> dict[str, Scorer]:
    """What can be chosen, the simplest first; of factors, those that are the best of all."""
    found: dict[str, Scorer] = {
        "recency": RecencyScorer(),
        "popularity": PopularityScorer(column=popular),
    }
    if sets.factors.path is not None:
        found[sets.factors.name] = FactorizationScorer(FeatureSpec(("factor_dot", "factor_bias")))
    for trained in rankers:
        if trained.path is not None:
            found[trained.name] = ModelBundle.load(trained.path).scorer()
    return found


def _scores(scorer: Scorer, data: TrainingSet) -> Scores:
    return scorer.score(data.columns(scorer.spec.names))


def _bundle(
    report: EvaluationReport,
    scorer: Scorer,
    test: TrainingSet,
    factors: FactorTable | None,
    trained_us: int,
) -> ModelBundle:
    needs_factors = any(name.startswith("factor_") for name in scorer.spec.names)
    return ModelBundle(
        TenantId(report.tenant),
        scorer,
        _golden(scorer.spec, test),
        factors=factors if needs_factors else None,
        trained_us=trained_us,
        training_fingerprint=report.training_fingerprint,
        metrics=_metrics(report),
    )


def _trained_users(factors: FactorTable | None, *taught: TrainingSet) -> set[str]:
    """Whose engagements any of the models learnt from."""
    users = set(factors.user_names) if factors is not None else set()
    return users.union(*(part.users for part in taught))


def _metrics(report: EvaluationReport) -> dict[str, float]:
    result = report.result
    return {
        f"ndcg_at_{report.k}": result.ndcg,
        f"recall_at_{report.k}": result.recall,
        "ndcg_low": result.interval[0],
        "ndcg_high": result.interval[1],
        "mrr": result.mrr,
        "reach": report.reach,
        f"validation_ndcg_at_{report.k}": report.validation[report.model],
    }


def _example_users(test: TrainingSet) -> tuple[str, ...]:
    """Those with the most requests that a feed could have answered."""
    answered = Counter(
        user for user, found in zip(test.users, test.relevant.tolist(), strict=True) if found
    )
    ranked = sorted(answered.items(), key=lambda pair: (-pair[1], pair[0]))
    return tuple(user for user, _ in ranked[:EXAMPLE_USERS_MAX])


def _golden(spec: FeatureSpec, test: TrainingSet) -> FeatureMatrix:
    """The candidates of the request that has most."""
    if not len(test.labels):
        raise TooFewEvents("no test request has a candidate: record more activities and follows")
    start = int(test.starts[int(np.argmax(test.sizes))])
    rows = np.arange(start, min(start + GOLDEN_ROWS_MAX, start + int(test.sizes.max())))
    matrix = test.columns(spec.names).take(rows)
    return FeatureMatrix(matrix.names, np.ascontiguousarray(matrix.values))
