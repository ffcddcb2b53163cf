"""The whole run, in this process, on a made-up community with a known truth."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from feeds.model import TenantId
from ranking.bundle import ModelBundle
from ranking.errors import ModelNotFound
from ranking.registry import open_registry, wall_clock_us
from training import (
    EvaluationReport,
    GateReport,
    compare_published,
    evaluate,
    gate,
    train_all,
    train_tenant,
)
from training.config import (
    BoostedConfig,
    BoostedVariant,
    EvaluationConfig,
    FactorizationConfig,
    RequestConfig,
    TrainingConfig,
    allowing,
)
from training.errors import ExportDamaged, MinutesSpent, TenantsFailed, TooFewEvents
from training.events.log import DELETED_USERS
from training.flow import STEPS, TrainingResult, find_version
from training.testing import community, events_of, log_of, write_export

CONFIG = TrainingConfig(
    factorization=FactorizationConfig(dimensions=4, epochs=3),
    boosted=BoostedConfig(
        variants=(
            BoostedVariant("boosted-3", 3),
            BoostedVariant("boosted-recency", 3, ("recency",)),
        ),
        trees_max=15,
        stop_rounds=5,
    ),
    evaluation=EvaluationConfig(draws=200),
    derived=("The community is made up.",),
)
ACME = TenantId("acme")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export")
    for tenant, seed in (("acme", 1), ("other", 2)):
        write_export(log_of(events_of(community(seed, users=30, days=24)), tenant), out)
    return out


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def run(export: Path, home: Path, **changes: object) -> TrainingResult:
    keywords = {
        "out": home / "out",
        "registry": f"dir:{home / 'registry'}",
        "config": CONFIG,
        "scheduler": "inline",
        "clock": lambda: 1_000_000,
    }
    return train_tenant(export, "acme", **(keywords | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def result(export: Path, home: Path) -> TrainingResult:
    return run(export, home, promote=True)


def test_the_model_is_better_than_chronological_where_the_truth_is_taste(
    result: TrainingResult,
) -> None:
    assert result.report.model == "boosted-3"
    assert result.report.result.comparisons[0].verdict == "better"
    assert "boosted-3 is better than chronological" in result.report.verdicts[0]


def test_the_report_has_baselines_conventions_and_what_was_derived(
    result: TrainingResult,
) -> None:
    names = [ranker.name for ranker in result.report.rankers]
    assert names[:4] == ["random", "chronological", "latest activity", "popular"]
    assert {"warp", "als", "ease", "logistic", "boosted-3", "boosted-recency"} <= set(names)
    statements = " ".join(result.report.statements)
    assert "The community is made up." in statements
    assert "Negatives are the other candidates of the same request" in statements
    assert "settled while validation and test figures" in statements
    assert "Explore is judged apart" in statements
    assert [part.name for part in result.report.parts] == ["ranker", "validation", "test"]


def test_where_the_model_is_not_better_stands_in_json_and_below_the_table(
    result: TrainingResult,
) -> None:
    level = (
        "boosted-4 is not distinguishable from popular when every request counts alike: "
        "NDCG@10 +0.004 [-0.009, +0.017]."
    )
    report = msgspec.structs.replace(result.report, not_better=(level,))
    assert list(report.as_dict()["not_better"]) == [level]
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(report.table())
    assert level in " ".join(console.export_text().split())
    none = msgspec.structs.replace(result.report, not_better=())
    assert "Better than every baseline" in str(none.table().caption)


def test_the_tables_fit_80_columns(result: TrainingResult) -> None:
    console = Console(width=80, file=io.StringIO())
    for table in (result.report.table(), result.report.explore_table()):
        assert table is not None
        assert console.measure(table).minimum <= 80


def test_explore_is_judged_by_what_lies_outside_of_follows(result: TrainingResult) -> None:
    """Users follow one of the two authors of their topic, and like both alike."""
    report = result.report
    explore = report.explore
    assert explore is not None
    names = [ranker.name for ranker in explore.rankers]
    assert names == ["random", "chronological", "latest activity", "popular", report.model]
    assert 0 < explore.requests < report.parts[-1].requests
    assert explore.reach == 1.0
    of_model = explore.rankers[-1]
    assert of_model.comparisons[0].verdict == "better"
    assert explore.verdict == f"explore: {of_model.comparisons[0].sentence}"
    assert explore.verdict in report.statements
    assert all(sentence.startswith("explore: ") for sentence in explore.not_better)


def test_without_requests_for_explore_there_is_no_such_section(
    result: TrainingResult, export: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, requests=RequestConfig(explore_requests_max=0))
    report = run(export, tmp_path, registry=None, config=config).report
    assert report.explore is None
    assert report.explore_table() is None
    assert report.rankers == result.report.rankers


def test_a_report_from_before_explore_was_judged_reads_back(result: TrainingResult) -> None:
    written = result.report.as_dict()
    del written["explore"]
    read = EvaluationReport.from_json(msgspec.json.encode(written))
    assert read == msgspec.structs.replace(result.report, explore=None)


def test_the_report_is_on_disk_and_reads_back(result: TrainingResult) -> None:
    assert EvaluationReport.from_json(result.report_path.read_bytes()) == result.report


def test_the_frame_has_a_row_a_ranking(result: TrainingResult) -> None:
    frame = result.report.to_frame()
    assert list(frame.index) == [ranker.name for ranker in result.report.rankers]
    assert frame["chosen"].sum() == 1
    assert (frame["low"] <= frame["ndcg@10"]).all()


def test_the_bundle_is_published_live_and_sound(result: TrainingResult, home: Path) -> None:
    live = open_registry(f"dir:{home / 'registry'}").alias(ACME, "live")
    assert live is not None
    bundle = ModelBundle.load(result.bundle)
    assert (live.version, live.digest) == (result.version, bundle.digest)
    assert bundle.metrics["ndcg_at_10"] == result.report.result.ndcg


def test_the_same_run_again_gives_the_same_bundle(
    result: TrainingResult, export: Path, home: Path
) -> None:
    again = run(export, home, registry=None)
    assert again.bundle == result.bundle
    assert again.report.rankers == result.report.rankers
    assert again.version is None


def test_publishing_does_not_promote_by_itself(
    result: TrainingResult, export: Path, home: Path
) -> None:
    again = run(export, home)
    live = open_registry(f"dir:{home / 'registry'}").alias(ACME, "live")
    assert again.version != result.version
    assert live is not None
    assert live.version == result.version


def test_a_published_version_is_judged_as_it_was_in_training(
    result: TrainingResult, export: Path, home: Path
) -> None:
    told: list[tuple[str, int, int | None]] = []
    report = evaluate(
        export,
        "acme",
        registry=f"dir:{home / 'registry'}",
        config=CONFIG,
        progress=lambda *step: told.append(step),
    )
    replayed = [(done, total) for what, done, total in told if what == "replay requests"]
    assert [done for done, _ in replayed] == list(range(len(replayed)))
    (total,) = {total for _, total in replayed}
    assert total is not None
    assert total >= len(replayed) > 10
    assert list(dict.fromkeys(what for what, _, _ in told)) == [
        *("fetch the version", "read events", "replay requests", "judge"),
    ]
    assert report.model_version == result.version
    assert report.of("boosted").ndcg == result.report.result.ndcg
    assert report.explore is not None
    assert result.report.explore is not None
    assert report.explore.rankers[-1].ndcg == result.report.explore.rankers[-1].ndcg


@pytest.mark.usefixtures("result")
def test_an_unknown_version_is_refused(export: Path, home: Path) -> None:
    with pytest.raises(ModelNotFound, match="has no version 99"):
        evaluate(export, "acme", registry=f"dir:{home / 'registry'}", version=99)


def test_every_step_is_told_in_order(export: Path, tmp_path: Path) -> None:
    told: list[str] = []
    run(export, tmp_path, registry=None, progress=lambda what, _done, _total: told.append(what))
    assert told == [*STEPS, "done"]


def test_tenants_train_apart_on_a_dask_cluster(export: Path, tmp_path: Path) -> None:
    results = train_all(export, ["acme", "other"], out=tmp_path, config=CONFIG)
    assert [r.tenant for r in results] == ["acme", "other"]
    inline = run(export, tmp_path / "inline", registry=None)
    assert results[0].report.rankers == inline.report.rankers
    assert results[0].report.rankers != results[1].report.rankers


@pytest.mark.slow
def test_the_trees_of_a_large_tenant_grow_on_all_workers(
    result: TrainingResult, export: Path, tmp_path: Path
) -> None:
    """Small here, with the limit below it; the step itself is tested in `test_distributed`."""
    config = replace(CONFIG, boosted=replace(CONFIG.boosted, distributed_rows_min=1))
    report = run(export, tmp_path, registry=None, config=config, scheduler=None).report
    assert "boosted-3 grew on 2 workers." in report.conventions
    assert report.model == "boosted-3"
    assert report.result.ndcg == pytest.approx(result.report.result.ndcg, abs=0.05)


def test_the_trees_of_others_grow_on_one(result: TrainingResult) -> None:
    assert not any("grew on" in note for note in result.report.conventions)


def test_a_failed_run_publishes_nothing_and_leaves_no_scratch(export: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportDamaged):
        train_tenant(
            export / "nowhere",
            "acme",
            out=tmp_path / "out",
            registry=f"dir:{tmp_path / 'registry'}",
            scheduler="inline",
        )
    assert not (tmp_path / "registry").exists()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_tenant_with_few_events_is_refused(tmp_path: Path) -> None:
    write_export(log_of(events_of(community(1, users=2, days=2))), tmp_path)
    with pytest.raises(TooFewEvents, match="4 engagements are too few"):
        run(tmp_path, tmp_path, registry=None)


def test_without_factors_the_run_goes_on(export: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, factorization=FactorizationConfig(engagements_min=10**6))
    report = run(export, tmp_path, registry=None, config=config).report
    assert not {"warp", "als", "ease"} & {ranker.name for ranker in report.rankers}


def test_the_first_model_passes_the_gates_against_chronological(
    result: TrainingResult, home: Path
) -> None:
    assert (result.promoted, result.gates.live, result.gates.passed) == (True, 0, True)
    verdicts = {gate.name: gate.verdict for gate in result.gates.gates}
    assert verdicts["better"] == verdicts["size"] == verdicts["deleted users"] == "passed"
    registry = open_registry(f"dir:{home / 'registry'}")
    version = find_version(registry, ACME, result.version or 0)
    documents = registry.documents(version)
    assert GateReport.from_json(documents["gates.json"]) == result.gates
    assert EvaluationReport.from_json(documents["report.json"]).model == "boosted-3"
    assert b"<svg" in documents["report.html"]
    assert documents["report.md"].startswith(b"# acme: boosted-3")
    card = documents["MODEL_CARD.md"].decode()
    assert f"bundle `{version.digest[:16]}`" in card
    assert "| better | passed | the new model is better than chronological" in card


@pytest.mark.usefixtures("result")
def test_the_same_again_is_not_better_and_stays_published(export: Path, home: Path) -> None:
    again = run(export, home, promote=True)
    assert (again.promoted, again.gates.live, again.gates.passed) == (False, 1, False)
    (failed,) = again.gates.failures
    assert failed.name == "better"
    assert again.report.live is not None
    assert (again.report.live.version, again.report.live.difference) == (1, 0)
    assert failed.figures["difference"] == 0
    registry = f"dir:{home / 'registry'}"
    assert again.version is not None
    judged = gate(export, "acme", again.version, registry=registry, config=CONFIG)
    assert [g.verdict for g in judged.gates if g.name != "latency"] == [
        g.verdict for g in again.gates.gates if g.name != "latency"
    ]
    compared = compare_published(
        export, "acme", again.version, "live", registry=registry, config=CONFIG
    )
    assert (compared.difference, compared.verdict) == (0, "level")


def test_by_its_policy_a_tenant_goes_live_or_on_trial(export: Path, tmp_path: Path) -> None:
    registry = open_registry(f"dir:{tmp_path / 'registry'}")
    first = run(export, tmp_path)
    assert first.gates.passed
    assert registry.aliases() == {ACME: {"shadow": 1}}
    registry.set_policy(ACME, "gated")
    assert run(export, tmp_path).promoted
    assert registry.aliases() == {ACME: {"live": 2, "shadow": 1}}


def test_a_deleted_user_is_not_learnt_from_and_found_where_one_was(
    export: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(export, tmp_path / "export")
    before = run(mine, tmp_path)
    (mine / "tenant=acme" / DELETED_USERS).write_text("u3\nu5\n", encoding="utf-8")
    assert before.version is not None
    late = gate(
        mine, "acme", before.version, registry=f"dir:{tmp_path / 'registry'}", config=CONFIG
    )
    (found,) = [g for g in late.gates if g.name == "deleted users"]
    assert found.verdict == "failed"
    assert "(u3, u5)" in found.reason
    after = run(mine, tmp_path)
    (found,) = [g for g in after.gates.gates if g.name == "deleted users"]
    assert (found.verdict, found.figures) == ("passed", {"deleted": 2.0, "found": 0.0})


def test_several_tenants_are_trained_without_the_one_that_may_not(
    export: Path, tmp_path: Path
) -> None:
    registry = f"dir:{tmp_path / 'registry'}"
    opened = open_registry(registry)
    opened.add_trained(ACME, wall_clock_us(), 60)
    with pytest.raises(TenantsFailed) as told:
        train_all(
            export,
            ["acme", "other"],
            out=tmp_path / "out",
            registry=registry,
            config=allowing(CONFIG, 1),
            scheduler="inline",
        )
    assert isinstance(told.value.failed["acme"], MinutesSpent)
    assert [result.tenant for result in told.value.results] == ["other"]
    assert sum(opened.trained_hours(TenantId("other")).values()) > 0
