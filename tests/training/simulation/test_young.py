"""Four days of data give a model that is worse than newest first, and nobody is served by it."""

from pathlib import Path

import pytest

from feeds.model import TenantId
from ranking.registry import open_registry
from training import train_tenant
from training.flow import TrainingResult
from training.simulation.community import Community
from training.simulation.config import SimulationConfig
from training.simulation.learning import TRAINING
from training.simulation.platform import LocalPlatform
from training.simulation.policy import default_arms
from training.testing import write_export

TENANT = TenantId("simulated")


def trained(days: int, home: Path) -> TrainingResult:
    twin = LocalPlatform(default_arms()[0])
    community = Community(SimulationConfig(seed=101, users=100), twin)
    for _ in range(days):
        community.step()
    log = twin.log()
    return train_tenant(
        write_export(log, home / "events"),
        log.tenant,
        out=home / "out",
        registry=f"dir:{home / 'registry'}",
        promote=True,
        config=TRAINING,
        scheduler="inline",
        clock=lambda: log.events[-1].time_us,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("young")


@pytest.fixture(scope="module")
def result(home: Path) -> TrainingResult:
    return trained(4, home)


def test_the_gates_hold_it_back_though_it_was_to_be_promoted(
    result: TrainingResult, home: Path
) -> None:
    assert "better" in [gate.name for gate in result.gates.failures]
    assert not result.promoted
    assert result.version == 1
    registry = open_registry(f"dir:{home / 'registry'}")
    assert registry.alias(TENANT, "live") is None
    assert registry.alias(TENANT, "shadow") is None


def test_a_sentence_says_that_the_data_is_too_young(result: TrainingResult) -> None:
    report = result.report
    said = "The data is too young: its engagements span 3.0 days."
    assert report.statements[0].startswith(said)
    assert report.as_dict()["young"].startswith(said)
    assert said in report.to_markdown().split("\n## ")[0]
    assert said in report.to_html()
    assert said in " ".join(str(report.table().caption).split())
    card = open_registry(f"dir:{result.report_path.parent.parent.parent / 'registry'}")
    (version,) = card.versions(TENANT)
    assert said in card.documents(version)["MODEL_CARD.md"].decode()


def test_of_nine_days_nothing_is_said(tmp_path: Path) -> None:
    result = trained(10, tmp_path)
    report = result.report
    assert report.young == ""
    assert not any("too young" in sentence for sentence in report.statements)
    assert report.model not in {"recency", "popularity"}
    (better,) = [gate for gate in result.gates.gates if gate.name == "better"]
    assert "by what was shown" in better.reason
    assert better.figures["share_low"] > better.figures["high"]  # NDCG leans to what served
