"""The command `headwater evaluate`: a model on the past, a protocol, or a counterfactual."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from training.cli.models import version_of
from training.cli.options import (
    CACHE,
    DATA_DIR,
    DataDir,
    Described,
    Json,
    Registry,
    config_of,
    registry_uri,
)
from training.cli.output import (
    print_counterfactual,
    print_protocol,
    print_report,
    progress_bar,
    told,
    write_json,
)
from training.errors import TrainingError

if TYPE_CHECKING:
    from ranking.scorers.base import Scorer
    from training.gates.parity import ParityReport

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
    counterfactual: Annotated[
        Path | None,
        typer.Option(
            "--counterfactual",
            help="Estimate instead what the version would have earned on these slates: the "
            "directory that `headwater slates export` wrote to.",
        ),
    ] = None,
    formula: Annotated[
        str | None,
        typer.Option(
            "--formula", help="Of a counterfactual: a ranking expression instead of a version."
        ),
    ] = None,
    explore: Annotated[
        float,
        typer.Option(
            "--explore",
            min=0,
            max=1,
            help="Of a counterfactual: the share of places that the candidate leaves to chance.",
        ),
    ] = 0.0,
    assumption: Annotated[
        Literal["independent", "cascade"],
        typer.Option(
            "--assumption",
            help="Of a counterfactual: what comes of a place depends on it alone, or on those "
            "above it as well.",
        ),
    ] = "independent",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Leave report.json, report.md and report.html here too."),
    ] = None,
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
        uri = registry_uri(registry, data_dir)
        if counterfactual is not None:
            asked = _Counterfactual(counterfactual, events, tenant, explore, assumption)
            _compare(asked, None if formula else (uri, version), formula, seed, json)
            return
        from training.flow import evaluate as evaluate_version  # noqa: PLC0415 - heavy imports

        with progress_bar(json) as progress:
            report = evaluate_version(
                events,
                tenant,
                registry=uri,
                version=version_of(version),
                config=config_of(dataset, seed),
                progress=progress,
            )
        if out is not None:
            report.write(out)
        if json:
            write_json(report.as_dict())
        else:
            print_report(report)


@dataclass(frozen=True, slots=True)
class _Counterfactual:
    """What a counterfactual is asked of."""

    slates: Path
    events: Path
    tenant: str
    explore: float
    assumption: Literal["independent", "cascade"]


def _compare(
    asked: _Counterfactual,
    published: tuple[str, str] | None,
    formula: str | None,
    seed: int | None,
    json: bool,
) -> None:
    """A published version (the registry's address, and which), or a formula, beside the served."""
    import msgspec  # noqa: PLC0415 - heavy imports inside

    from ranking.scorers.expression import ExpressionScorer  # noqa: PLC0415
    from training.evaluation.counterfactual import CounterfactualConfig  # noqa: PLC0415
    from training.evaluation.counterfactual_slates import compare_with_served  # noqa: PLC0415
    from training.flow import published_bundle  # noqa: PLC0415
    from training.gates.parity import parity_of  # noqa: PLC0415

    with progress_bar(json) as progress:
        parity, factors = None, None
        if published is None:
            scorer: Scorer = ExpressionScorer.of({"score": formula})
        else:
            uri, version = published
            found, bundle = published_bundle(asked.tenant, version_of(version), registry=uri)
            scorer, factors = bundle.scorer(), bundle.factors()
            progress("scoring served slates again", 0, None)
            parity = parity_of(asked.slates, asked.tenant, scorer, found.version)
        report = compare_with_served(
            asked.slates,
            asked.events,
            asked.tenant,
            scorer,
            factors=factors,
            explore=asked.explore,
            config=CounterfactualConfig(assumption=asked.assumption),
            seed=seed or 0,
            progress=progress,
        )
    if json:
        write_json({**msgspec.to_builtins(report), "parity": _parity(parity)})
    else:
        print_counterfactual(report, parity)


def _parity(report: "ParityReport | None") -> dict[str, object] | None:
    import msgspec  # noqa: PLC0415 - only an answer as JSON

    if report is None:
        return None
    return {**msgspec.to_builtins(report), "identical": report.identical}


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
