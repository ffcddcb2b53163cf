"""`headwater simulate`: a made-up community on the platform, and what is true of it."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cli.options import Json
from training.cli.output import progress_bar, say, told, write_json

if TYPE_CHECKING:
    from ranking.config import RankingConfig
    from training.simulation.policy import Arm
    from training.simulation.report import SimulationReport

__all__ = ["simulate"]

REPORT = "report.json"


def simulate(
    users: Annotated[int, typer.Option("--users", help="Members of the community.")] = 200,
    days: Annotated[int, typer.Option("--days", help="Days that are lived through.")] = 14,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every random choice.")] = None,
    serving: Annotated[
        Path | None,
        typer.Option(
            "--serving",
            help="The ranking config that serves, a JSON file. Unset: newest first, and chance in "
            "three places of ten, so that the slate log can tell.",
        ),
    ] = None,
    config: Annotated[
        list[Path],
        typer.Option(
            "--config", help="A ranking config to judge beside it, a JSON file; may be repeated."
        ),
    ] = [],  # noqa: B006 - typer copies it
    train_days: Annotated[
        int, typer.Option("--train-days", help="Train a model on the first days, and judge it too.")
    ] = 0,
    explore_share: Annotated[
        float, typer.Option("--explore-share", help="Share of the visits that read explore.")
    ] = 0.0,
    local: Annotated[
        bool,
        typer.Option(
            "--local/--service",
            help="Rank in this process, or drive a service of its own over HTTP.",
        ),
    ] = False,
    lived: Annotated[
        bool,
        typer.Option(
            "--lived/--not-lived", help="Also let each config serve a community from the start."
        ),
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", help="Where report, plots and the service's data go.")
    ] = Path(".headwater/simulation"),
    json: Json = False,
) -> None:
    """Let a community with known preferences live on the platform, and judge rankings by truth."""
    from training.simulation.config import SimulationConfig  # noqa: PLC0415 - numpy inside
    from training.simulation.plots import save_plots  # noqa: PLC0415
    from training.simulation.run import simulate as run  # noqa: PLC0415

    with told(json), progress_bar(json) as progress:
        settings = SimulationConfig(users=users, days=days, explore_share=explore_share)
        settings = settings if seed is None else replace(settings, seed=seed)
        arms = _arms(serving, config)
        out.mkdir(parents=True, exist_ok=True)
        result = run(
            settings,
            arms,
            directory=None if local else out / "service",
            lived=lived,
            train_days=train_days,
            progress=progress,
        )
        (out / REPORT).write_bytes(result.report.to_json())
        plots = save_plots(result.report, out)
    if json:
        write_json(result.report.as_dict())
        return
    _show(result.report, [out / REPORT, *plots])


def _arms(serving: Path | None, configs: list[Path]) -> "list[Arm]":
    """The serving arm, then those to judge; the files' names are theirs."""
    from training.simulation.policy import Arm, default_arms  # noqa: PLC0415 - numpy inside

    first, *others = default_arms()
    if serving is not None:
        first = Arm(serving.stem, _read(serving))
    return [first, *others, *(Arm(path.stem, _read(path)) for path in configs)]


def _read(path: Path) -> "RankingConfig":
    """A ranking config from a JSON file; raises `SimulationError` or `InvalidRankingConfig`."""
    import orjson  # noqa: PLC0415 - `--help` does without

    from ranking.config import RankingConfig  # noqa: PLC0415
    from training.errors import SimulationError  # noqa: PLC0415

    try:
        return RankingConfig.parse(orjson.loads(path.read_bytes()))
    except (OSError, orjson.JSONDecodeError) as error:
        raise SimulationError(f"{path} is no ranking config: {error}") from None


def _show(report: "SimulationReport", files: list[Path]) -> None:
    from rich.console import Console  # noqa: PLC0415 - only where a table is shown

    console = Console()
    console.print(report.table())
    for arm in report.arms:
        if arm.estimate is not None:
            console.print(f"• {arm.name}: {arm.estimate.verdict}", highlight=False)
    for sentence in report.statements:
        console.print(f"• {sentence}", highlight=False)
    say("Written: " + ", ".join(map(str, files)))
