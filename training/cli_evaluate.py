"""The command `headwater evaluate`: a model on the past, a protocol, or a counterfactual."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from training.cli_models import version_of
from training.cli_options import (
    CACHE,
    DATA_DIR,
    DataDir,
    Described,
    Json,
    Registry,
    config_of,
    registry_uri,
)
from training.cli_output import print_protocol, print_report, progress_bar, told, write_json
from training.errors import TrainingError

__all__ = ["evaluate"]


def evaluate(
    tenant: Annotated[str | None, typer.Option("--tenant", help="The tenant's name.")] = None,
    events: Annotated[
        Path | None,
        typer.Option("--events", help="The directory that `headwater export` wrote to."),
    ] = None,
    version: Annotated[
        str, typer.Option("--version", help="A version's number, or live, previous, shadow.")
    ] = "live",
    protocol: Annotated[
        Literal["p1", "p2", "p3", "p4", "p5"] | None,
        typer.Option(
            "--protocol",
            help="Run a protocol with published figures instead: docs/evaluation.md has them.",
        ),
    ] = None,
    short: Annotated[
        bool,
        typer.Option("--short", help="Of a protocol: try little, to see that it runs."),
    ] = False,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            envvar="HEADWATER_DATA",
            help="Of a protocol: the directory of data sets that cannot be downloaded.",
        ),
    ] = Path("../shared/data"),
    cache: Annotated[
        Path,
        typer.Option(
            "--cache", envvar="HEADWATER_CACHE", help="Where a downloaded data set is kept."
        ),
    ] = CACHE,
    dataset: Described = None,
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every random choice.")] = None,
    json: Json = False,
) -> None:
    """Judge a published model on the last part of an export, beside the baselines."""
    with told(json):
        if protocol is not None:
            _run_protocol(protocol, data, cache, short, seed, json)
            return
        if tenant is None or events is None:
            raise TrainingError(
                "say what to judge: --tenant and --events for a model, or --protocol p1 to p5"
            )
        from training.flow import evaluate as evaluate_version  # noqa: PLC0415 - heavy imports

        report = evaluate_version(
            events,
            tenant,
            registry=registry_uri(registry, data_dir),
            version=version_of(version),
            config=config_of(dataset, seed),
        )
        if json:
            write_json(report.as_dict())
        else:
            print_report(report)


def _run_protocol(
    name: str, data: Path, cache: Path, short: bool, seed: int | None, json: bool
) -> None:
    from dataclasses import replace  # noqa: PLC0415 - heavy imports inside

    from training.protocols import ProtocolOptions, run_protocol  # noqa: PLC0415

    options = ProtocolOptions(data=data, cache=cache, short=short)
    options = options if seed is None else replace(options, seed=seed)
    with progress_bar(json) as progress:
        report = run_protocol(name, options, progress)
    if json:
        write_json(report.as_dict())
    else:
        print_protocol(report)
    if not (report.passed or short):
        raise typer.Exit(1)
