import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from training.cli import evaluate as cli_evaluate
from training.cli import main as cli
from training.testing import community, events_of, log_of, write_export


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer()
    made.command("prepare")(cli.prepare)
    made.command("train")(cli.train)
    made.command("evaluate")(cli_evaluate.evaluate)
    made.add_typer(cli.models, name="models")
    return made


def run(app: typer.Typer, *arguments: object, fails: bool = False) -> dict[str, object]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == int(fails), done.output
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_a_tenant_is_trained_promoted_shown_judged_and_rolled_back(
    app: typer.Typer, tmp_path: Path
) -> None:
    events = write_export(log_of(events_of(community(1, users=20, days=20))), tmp_path / "events")
    registry = ("--registry", f"dir:{tmp_path / 'registry'}")
    train = ("train", "--tenant", "acme", "--events", events, "--out", tmp_path / "out", *registry)
    first = run(app, *train, "--scheduler", "inline", "--promote")
    assert first["version"] == 1
    assert isinstance(first["report"], dict)
    assert first["report"]["model"] == first["scorer"]
    assert first["example_users"]
    assert first["promoted"] is True
    second = run(app, *train, "--scheduler", "inline", "--promote")
    assert (second["version"], second["promoted"]) == (2, False)
    shown = run(app, "models", "show", "acme", *registry)
    assert shown["aliases"] == ["live"]
    assert shown["documents"] == [
        "MODEL_CARD.md",
        "gates.json",
        "report.html",
        "report.json",
        "report.md",
        "signature.json",
        "trained_users.npz",
        "training_histograms.json",
    ]
    assert run(app, "models", "policy", "acme", *registry)["policy"] == "by_hand"
    assert run(app, "models", "policy", "acme", "gated", *registry)["policy"] == "gated"
    refused = run(app, "models", "promote", "acme", 2, *registry, fails=True)
    assert "the new model is not distinguishable from version 1" in str(refused["error"])
    assert (
        run(app, "models", "gate", "acme", 2, "--events", events, *registry, fails=True)["passed"]
        is False
    )
    compared = run(app, "models", "compare", "acme", 2, "live", "--events", events, *registry)
    assert (compared["first"], compared["second"]) == ("version 2", "version 1")
    promote = ("models", "promote", "acme", 2, "--force", "the editors asked for it")
    assert run(app, *promote, *registry) == {"tenant": "acme", "live": 2}
    assert run(app, "models", "rollback", "acme", *registry)["live"] == 1
    assert run(app, "models", "shadow", "acme", "2", *registry)["shadow"] == 2
    assert run(app, "models", "shadow", "acme", *registry)["shadow"] is None
    listed = run(app, "models", "list", *registry)["versions"]
    assert isinstance(listed, list)
    assert [(v["version"], v["aliases"]) for v in listed] == [(2, ["previous"]), (1, ["live"])]
    judged = run(app, "evaluate", "--tenant", "acme", "--events", events, *registry)
    assert judged["model_version"] == 1


def test_an_error_is_one_json_object_with_what_to_do(app: typer.Typer, tmp_path: Path) -> None:
    arguments = ["prepare", "--dataset", "stackexchange", "--path", str(tmp_path)]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "a.jsonl"), "--json"])
    answer = json.loads(done.stdout)
    assert done.exit_code == 1
    assert answer["exception"] == "SourceError"
    assert "unpack" in answer["error"]
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize("command", ["prepare", "train", "evaluate", "models"])
def test_help_says_what_each_option_means(app: typer.Typer, command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert "--help" in done.output


def test_importing_training_and_its_commands_imports_nothing_heavy() -> None:
    heavy = "dask distributed xgboost lightfm pandas pyarrow mlflow scipy sklearn"
    code = (
        "import sys, training, training.cli.main; "
        f"print([name for name in '{heavy}'.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_evaluate_asks_what_to_judge_and_tells_what_is_missing(
    app: typer.Typer, tmp_path: Path
) -> None:
    nothing = CliRunner().invoke(app, ["evaluate", "--json"])
    assert nothing.exit_code == 1
    assert "--protocol p1 to p5" in json.loads(nothing.stdout)["error"]
    arguments = ["evaluate", "--protocol", "p3", "--data", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["exception"] == "SourceError"


def test_a_trainer_that_there_is_not_is_told_with_those_there_are(
    app: typer.Typer, tmp_path: Path
) -> None:
    refused = run(
        *(app, "train", "--tenant", "acme", "--events", tmp_path, "--trainers", "als, bpr"),
        *("--registry", f"dir:{tmp_path / 'registry'}"),
        fails=True,
    )
    assert refused["error"] == (
        "there is no trainer 'bpr': trainers are warp, als, ease, logistic, boosted, heads"
    )
