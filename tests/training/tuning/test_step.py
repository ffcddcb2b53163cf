"""A run that searches first, and tenants whose training fails beside one whose does not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from feeds.events import Posted
from feeds.model import TenantId
from ranking.registry import open_registry
from training.config import (
    BoostedConfig,
    BoostedVariant,
    EvaluationConfig,
    FactorizationConfig,
    SearchConfig,
    TrainingConfig,
    searching,
)
from training.errors import BudgetSpent, TenantsFailed
from training.events.log import EventLog
from training.flow import train_all, train_tenant
from training.testing import community, events_of, log_of, write_export
from training.tuning.step import (
    FACTORS_STUDY,
    FACTORS_STUDY_TABLE,
    STUDY,
    STUDY_TABLE,
    for_factors,
    for_rankers,
)

CONFIG = TrainingConfig(
    factorization=FactorizationConfig(dimensions=4, epochs=3),
    boosted=BoostedConfig(variants=(BoostedVariant("boosted-3", 3),), trees_max=10),
    evaluation=EvaluationConfig(draws=50),
)


def made_up(tenant: str, seed: int) -> EventLog:
    return log_of(events_of(community(seed, users=24, days=20)), tenant)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(made_up("acme", 1), tmp_path_factory.mktemp("export"))


def test_a_search_comes_with_the_version_as_a_study_to_read(export: Path, tmp_path: Path) -> None:
    registry = f"dir:{tmp_path / 'registry'}"
    config = replace(CONFIG, search=SearchConfig(seconds=1e6, trials_max=2))
    told: list[str] = []
    result = train_tenant(
        export,
        "acme",
        out=tmp_path / "out",
        registry=registry,
        config=config,
        scheduler="inline",
        progress=lambda what, *_: told.append(what),
    )
    assert "tuned" in result.report.validation
    best = max(result.report.validation.values())
    assert best >= result.report.validation["tuned"]
    opened = open_registry(registry)
    (version,) = opened.versions(TenantId("acme"))
    documents = opened.documents(version)
    opened.close()
    study = json.loads(documents[STUDY])
    assert len(study["trials"]) == 4
    factors = json.loads(documents[FACTORS_STUDY])
    assert {trial["space"] for trial in factors["trials"]} == {"warp", "als", "ease"}
    assert len(factors["trials"]) == 6
    tuned = result.report.validation["tuned-factors"]
    assert factors["best"]["score"] == tuned
    assert tuned == max(result.report.validation[name] for name in ("tuned-factors", "warp"))
    assert b"of factors alone on validation" in documents[FACTORS_STUDY_TABLE]
    assert study["best"]["score"] == pytest.approx(result.report.validation["tuned"])
    assert b"| space | trial | score |" in documents[STUDY_TABLE]
    assert any("best of 4 trials on validation" in said for said in result.report.conventions)


def test_a_budget_that_is_spent_ends_the_run_and_publishes_nothing(
    export: Path, tmp_path: Path
) -> None:
    registry = f"dir:{tmp_path / 'registry'}"
    config = replace(CONFIG, budget=replace(CONFIG.budget, seconds_max=0.0))
    with pytest.raises(BudgetSpent, match=r"tenant acme: .* at the factors, after"):
        train_tenant(
            export,
            "acme",
            out=tmp_path / "out",
            registry=registry,
            config=config,
            scheduler="inline",
        )
    opened = open_registry(registry)
    assert opened.versions(TenantId("acme")) == []
    opened.close()


def test_one_tenant_that_fails_leaves_the_others_trained(tmp_path: Path) -> None:
    export = write_export(made_up("acme", 1), tmp_path / "export")
    # In its last days nobody touches what could have been shown: there is nothing to judge by.
    late = made_up("late", 2).events
    posted = {event.activity_id for event in late[: len(late) // 2] if isinstance(event, Posted)}
    kept = [event for event in late if not isinstance(event, Posted) or event.activity_id in posted]
    write_export(log_of(kept, "late"), export)
    with pytest.raises(TenantsFailed) as failed:
        train_all(
            export,
            ["late", "acme"],
            out=tmp_path / "out",
            registry=f"dir:{tmp_path / 'registry'}",
            config=replace(CONFIG, budget=replace(CONFIG.budget, seconds_max=1e9)),
            scheduler="inline",
        )
    assert set(failed.value.failed) == {"late"}
    assert [result.tenant for result in failed.value.results] == ["acme"]


def test_factors_and_rankers_share_the_seconds_of_a_search() -> None:
    search = SearchConfig(seconds=100.0, factors_share=0.3)
    assert for_factors(search).seconds == pytest.approx(30)
    assert for_rankers(search, 0.0).seconds == pytest.approx(100)  # no factors were searched
    assert for_rankers(search, 10.0).seconds == pytest.approx(90)  # what was left of theirs
    assert for_rankers(search, 55.0).seconds == pytest.approx(70)  # a last trial took longer


def test_a_search_is_of_those_who_take_part(export: Path, tmp_path: Path) -> None:
    config = replace(
        CONFIG,
        trainers=("als", "logistic"),
        search=SearchConfig(seconds=1e6, trials_max=1),
    )
    result = train_tenant(export, "acme", out=tmp_path, config=config, scheduler="inline")
    names = {"recency", "popularity", "als", "tuned-factors", "logistic", "tuned"}
    assert set(result.report.validation) == names
    notes = " ".join(result.report.conventions)
    assert "The tuned factors are the best of 1 trials on validation: als" in notes
    assert "The tuned model is the best of 1 trials on validation: logistic" in notes


def test_searching_adds_its_time_to_the_budget() -> None:
    assert searching(CONFIG, 0) is CONFIG
    longer = searching(CONFIG, 120)
    assert longer.search == SearchConfig(seconds=120, seed=CONFIG.seed)
    assert longer.budget.seconds_max == CONFIG.budget.seconds_max + 120
