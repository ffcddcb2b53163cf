"""The commands of training: `headwater prepare`, `train`, `models`; `evaluate` has its own module.

Answers go to standard output, progress to standard error. Heavy libraries are imported by the
command that runs.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cli.models import (
    compare_versions,
    gate_version,
    list_versions,
    promote_version,
    roll_back,
    set_policy,
    set_shadow,
    show_minutes,
    show_version,
)
from training.cli.options import (
    CACHE,
    DATA_DIR,
    EVERY_TRAINER,
    DataDir,
    Dataset,
    Described,
    Events,
    Json,
    Registry,
    Trainers,
    TrainingMinutes,
    config_of,
    registry_uri,
)
from training.cli.output import (
    print_answer,
    print_gates,
    print_report,
    progress_bar,
    say,
    told,
    write_json,
)
from training.cli.schedule import (
    AgeDays,
    ExportFrom,
    LookEvery,
    MetricsFile,
    NewEvents,
    Rounds,
    SlatesIn,
    Watch,
    drift_watch,
    train_on_schedule,
)
from training.config import DAY_S, BudgetConfig, ScheduleConfig

if TYPE_CHECKING:
    from training.flow import TrainingResult

__all__ = ["models", "prepare", "train"]

models = typer.Typer(
    name="models",
    help="List, show, compare, gate, promote, try and roll back models.",
    no_args_is_help=True,
)
models.command("list")(list_versions)
models.command("show")(show_version)
models.command("compare")(compare_versions)
models.command("gate")(gate_version)
models.command("promote")(promote_version)
models.command("rollback")(roll_back)
models.command("shadow")(set_shadow)
models.command("policy")(set_policy)
models.command("minutes")(show_minutes)


SCHEDULE = ScheduleConfig()
BUDGET = BudgetConfig()


def prepare(
    dataset: Annotated[Dataset, typer.Option("--dataset", help="Which public data set.")],
    out: Annotated[Path, typer.Option("--out", help="The action log to write, JSON Lines.")],
    path: Annotated[
        Path | None,
        typer.Option(
            "--path",
            help="The data: a Stack Exchange dump directory, or the recbole 1.2.1 wheel "
            "(MovieLens; downloaded once if not given).",
        ),
    ] = None,
    cache: Annotated[
        Path,
        typer.Option(
            "--cache", envvar="HEADWATER_CACHE", help="Where a downloaded data set is kept."
        ),
    ] = CACHE,
    json: Json = False,
) -> None:
    """Turn a public data set into an action log that `headwater import` replays."""
    from training.sources import prepare as prepare_log  # noqa: PLC0415 - heavy imports inside

    with told(json), progress_bar(json) as progress:
        report = prepare_log(dataset, path, out, cache, progress)
    answer = report.as_dict() | {"out": str(out), "statements": list(report.derived)}
    print_answer(f"{dataset} as actions in {out}", dict(report.counts), answer, json)


def train(
    events: Events,
    tenant: Annotated[
        list[str], typer.Option("--tenant", help="The tenant's name; may be repeated.")
    ] = [],  # noqa: B006 - typer copies it
    every: Annotated[
        bool, typer.Option("--all", help="Every tenant of the events that is due to be trained.")
    ] = False,
    watch: Watch = False,
    new_events: NewEvents = SCHEDULE.new_events_min,
    age_days: AgeDays = SCHEDULE.age_s_max / DAY_S,
    look_every_s: LookEvery = SCHEDULE.look_every_s,
    export_from: ExportFrom = None,
    slates: SlatesIn = None,
    metrics_file: MetricsFile = None,
    out: Annotated[
        Path, typer.Option("--out", help="Where bundles and reports go, a folder a tenant.")
    ] = Path(".headwater/training"),
    dataset: Described = None,
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    promote: Annotated[
        bool,
        typer.Option(
            "--promote/--no-promote", help="Make the new version live if every gate passes."
        ),
    ] = False,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            help="A Dask scheduler, tcp://HOST:PORT; `inline` runs in this process. Unset: a local "
            "cluster.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Processes of the local cluster.")
    ] = 2,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every random choice.")] = None,
    trainers: Trainers = EVERY_TRAINER,
    tune_minutes: Annotated[
        float,
        typer.Option(
            "--tune-minutes",
            min=0,
            max=10_080,
            help="Minutes to search for hyperparameters of factors and rankers, for each tenant, "
            "on validation alone.",
        ),
    ] = 0,
    training_minutes: TrainingMinutes = BUDGET.minutes_a_day,
    json: Json = False,
) -> None:
    """Train, judge and publish a model for each tenant from its exported events."""
    from training.config import ClusterConfig, allowing, searching  # noqa: PLC0415 - heavy imports inside
    from training.errors import TenantsFailed  # noqa: PLC0415
    from training.flow import train_all  # noqa: PLC0415

    with told(json):  # a name that is no trainer's is told before the work
        config = searching(config_of(dataset, seed, trainers).check(), 60 * tune_minutes)
    config = allowing(config, training_minutes)
    failed: dict[str, Exception] = {}
    if every or watch:
        schedule = replace(
            SCHEDULE,
            new_events_min=new_events,
            age_s_max=age_days * DAY_S,
            look_every_s=look_every_s,
        )
        rounds = Rounds(
            events=events,
            out=out,
            registry=registry_uri(registry, data_dir),
            tenants=tenant,
            schedule=schedule,
            config=config,
            promote=promote,
            scheduler=scheduler,
            cluster=ClusterConfig(workers=workers),
            export_from=export_from,
            drift=drift_watch(slates or events, registry_uri(registry, data_dir), metrics_file),
        )
        train_on_schedule(rounds, watch=watch, json=json)
        return
    if not tenant:
        raise typer.BadParameter("name a tenant with --tenant, or --all")
    with told(json), progress_bar(json) as progress:
        try:
            results = train_all(
                events,
                tenant,
                out=out,
                registry=registry_uri(registry, data_dir),
                promote=promote,
                config=config,
                scheduler=scheduler,
                cluster=ClusterConfig(workers=workers),
                progress=progress,
            )
        except TenantsFailed as error:
            results, failed = list(error.results), error.failed
    if json:
        answers = [result.as_dict() for result in results]
        told_apart = {"failed": {name: str(reason) for name, reason in failed.items()}}
        whole = {"results": answers} | (told_apart if failed else {})
        write_json(answers[0] if len(tenant) == 1 else whole)
    else:
        _print_results(results)
        for name, reason in failed.items():
            say(f"Tenant {name} was not trained: {reason}", sys.stderr)
    if failed:
        raise typer.Exit(1)


def _print_results(results: "Sequence[TrainingResult]") -> None:
    for result in results:
        print_report(result.report)
        print_gates(result.gates)
        say(f"{_outcome(result)}; the report is {result.report_path}")
        if not result.promoted and result.gates.passed:
            say(f"Make it live: headwater models promote {result.tenant} {result.version}")


def _outcome(result: "TrainingResult") -> str:
    if result.promoted:
        return f"Version {result.version} is live"
    trial = " and on trial as shadow" if result.gates.passed else ""
    return f"Version {result.version} is published{trial}"
