"""A value model as a candidate of a run, where what was shown is logged."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from feeds.events import ENGAGEMENT_KINDS
from ranking.bundle import ModelBundle
from ranking.config_options import ValueOptions
from ranking.scorers.value import ValueScorer
from training.config import (
    BoostedConfig,
    HeadsConfig,
    LabelConfig,
    TrainingConfig,
)
from training.events.log import Manifest, read_event_log
from training.events.synthetic import SyntheticLog, write_synthetic_log
from training.flow import TrainingResult, train_tenant
from training.head_steps import heads_trainer, train_heads
from training.sets.building import default_spec
from training.sets.impressions import shown_requests
from training.sets.splits import split_by_time
from training.steps import SetFiles, Trained, build_sets, plan_run
from training.testing import community, events_of, log_of, write_export
from training.worth import Worth

SIZE = SyntheticLog(events=8_000, users=80, days=12, engaged_share=0.3)
WINDOWS = dict.fromkeys(LabelConfig().windows_s, 3_600)
CONFIG = TrainingConfig(
    trainers=("logistic", "heads"),
    labels=LabelConfig(windows_s=WINDOWS),
    boosted=BoostedConfig(trees_max=15),
    heads=HeadsConfig(positives_min=5, weights={"like": 2.0, "click": 0.5, "hide": -5.0}),
)
CONFIG = replace(CONFIG, requests=replace(CONFIG.requests, shown_requests_min=20))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_log(SIZE, tmp_path_factory.mktemp("export"), "acme")


@pytest.fixture(scope="module")
def result(export: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    out = tmp_path_factory.mktemp("out")
    return train_tenant(export, "acme", out=out, config=CONFIG, scheduler="inline")


def sets_of(export: Path, scratch: Path, config: TrainingConfig) -> SetFiles:
    plan = plan_run(export, "acme", scratch, config)
    return build_sets(plan, Trained("none", None))


def test_heads_stand_beside_the_other_models_with_their_calibration(
    result: TrainingResult,
) -> None:
    report = result.report
    assert {"heads", "logistic"} <= {ranker.name for ranker in report.rankers}
    assert {"heads", "logistic"} <= set(report.validation)
    assert len(report.heads) >= 2
    for head in report.heads:
        assert head.positives >= 5
        assert head.weight == {"like": 2.0, "click": 0.5, "hide": -5.0}.get(head.kind, 0.0)
        assert head.ece is not None
        assert 0 <= head.ece < 0.2
    for page in (report.to_markdown(), report.to_html()):
        assert "Heads of the value model" in page
        assert f"{report.heads[0].ece:.4f}" in page


def test_the_choice_is_by_validation_alone(result: TrainingResult) -> None:
    report = result.report
    worths = report.validation_shown
    assert worths[report.model] == max(worths.values())


def test_what_was_trained_is_a_bundle_with_the_worth_of_each_kind(
    export: Path, tmp_path: Path
) -> None:
    sets = sets_of(export, tmp_path / "run", CONFIG)
    trained = train_heads(sets, heads_trainer(CONFIG))
    assert trained.path is not None
    scorer = ModelBundle.load(trained.path).scorer()
    assert isinstance(scorer, ValueScorer)
    assert scorer.weights == {"like": 2.0, "click": 0.5, "hide": -5.0}
    assert any("with its place as a feature" in note for note in trained.notes)
    assert trained.notes[-1] == (
        "What engagements are worth is from the training's own settings: "
        "like 2, click 0.5, hide -5."
    )


def test_what_was_shown_without_any_engagement_teaches_probabilities(export: Path) -> None:
    log = read_event_log(export, "acme")
    split = split_by_time(log.events, CONFIG.split)
    part = (split.ranker_us, split.validation_us)
    found = [
        shown_requests(log, export, *part, default_spec(), CONFIG, comparing=comparing)
        for comparing in (True, False)
    ]
    compared, every = found
    assert compared is not None
    assert every is not None
    assert (compared.relevant > 0).all()
    assert (every.relevant == 0).any()
    assert every.engaged is not None
    liked = [bool(CONFIG.requests.labels.get(kind)) for kind in ENGAGEMENT_KINDS]
    assert np.array_equal((every.engaged[:, liked] == 1).any(axis=1), every.labels > 0)


def test_without_impressions_or_with_one_kind_alone_a_sentence_says_why(
    export: Path, tmp_path: Path
) -> None:
    write_export(log_of(events_of(community(1, users=24, days=20))), tmp_path / "plain")
    unseen = train_heads(
        sets_of(tmp_path / "plain", tmp_path / "one", CONFIG), heads_trainer(CONFIG)
    )
    assert unseen.path is None
    assert unseen.notes == (
        "Heads were not trained: too few requests with impressions were logged.",
    )
    many = replace(CONFIG, heads=replace(CONFIG.heads, heads_min=7))
    few = train_heads(sets_of(export, tmp_path / "two", many), heads_trainer(many))
    assert few.path is None
    assert "kinds have a head, 7 are needed" in few.notes[0]


def test_the_worth_is_that_of_the_tenants_own_ranking_config(export: Path, tmp_path: Path) -> None:
    value = {"click": 0, "like": 3, "hide": -7}
    document = msgspec.json.encode({"personalized": {"value": value}}).decode()
    write_export(read_event_log(export, "acme"), tmp_path / "own", document)
    config = replace(CONFIG, heads=replace(CONFIG.heads, weights=None))
    sets = sets_of(tmp_path / "own", tmp_path / "run", config)
    trained = train_heads(sets, heads_trainer(sets.plan.config))
    assert trained.path is not None
    scorer = ModelBundle.load(trained.path).scorer()
    assert isinstance(scorer, ValueScorer)
    assert {kind: scorer.weights.get(kind) for kind in value} == value
    assert "version 1 of the tenant's ranking config: like 3, " in trained.notes[-1]


@pytest.mark.parametrize(
    ("document", "version", "source"),
    [
        (None, 0, "the default ranking config"),
        ("{", 3, "the default ranking config, as version 3 of the tenant's ranking config cannot"),
        ('{"of a later release": 1}', 4, "the default ranking config, as version 4 of the"),
        ("{}", 5, "version 5 of the tenant's ranking config"),
    ],
)
def test_the_worth_is_that_of_the_default_ranking_config_unless_told(
    document: str | None, version: int, source: str
) -> None:
    manifest = Manifest(1, 0, (), ranking_config_version=version, ranking_config=document)
    worth = Worth.of(manifest, TrainingConfig())
    assert worth.weights == ValueOptions().weights()
    assert worth.source.startswith(source)
    assert heads_trainer(worth.within(TrainingConfig())).weights == ValueOptions().weights()
