"""`headwater train --all [--watch]`: every tenant that is due, once or again and again."""

import json as json_lines
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from training.cli.output import print_answer, progress_bar, say, told, write_json
from training.config import ClusterConfig, ScheduleConfig, TrainingConfig
from training.errors import TrainingError
from training.sources.base import Progress

if TYPE_CHECKING:
    from training.drift.published import DriftWatch
    from training.schedule import Outcome

__all__ = [
    "AgeDays",
    "ExportFrom",
    "LookEvery",
    "MetricsFile",
    "NewEvents",
    "Rounds",
    "SlatesIn",
    "Watch",
    "drift_watch",
    "train_on_schedule",
]

Watch = Annotated[
    bool, typer.Option("--watch", help="With --all: look again and again, until stopped.")
]
NewEvents = Annotated[
    int, typer.Option("--new-events", help="New events that make a tenant due.", min=1)
]
AgeDays = Annotated[
    float,
    typer.Option(
        "--age-days", help="Days after which a model with any new event is trained anew.", min=0.001
    ),
]
LookEvery = Annotated[
    float, typer.Option("--look-every", help="Seconds between two looks of --watch.", min=0.1)
]
ExportFrom = Annotated[
    Path | None,
    typer.Option(
        "--export-from",
        help="Data directory of a service: before each look, its tenants' new events are exported "
        "to --events.",
    ),
]
SlatesIn = Annotated[
    Path | None,
    typer.Option(
        "--slates",
        help="With --metrics-file: where slates are exported to. Unset: the directory of --events.",
    ),
]
MetricsFile = Annotated[
    Path | None,
    typer.Option(
        "--metrics-file",
        help="With --all: after each look, write how far every live model has drifted, for "
        "Prometheus's textfile collector.",
    ),
]

_PROGRAM: Final = "serving"
"""The `headwater` command as a module: it is started, not imported."""
_NOT_FOUND: Final = b'"exception": "NotFound"'
"""What a command answers where a tenant has no slates yet."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """What every round of a schedule is given."""

    events: Path
    out: Path
    registry: str
    tenants: list[str]
    schedule: ScheduleConfig
    config: TrainingConfig
    promote: bool
    scheduler: str | None
    cluster: ClusterConfig
    export_from: Path | None
    drift: "DriftWatch | None" = None

    def look(self, progress: Progress) -> "list[Outcome]":
        """Export what is new, if asked for, train who is due, and write metrics of all."""
        from training.schedule import exported_tenants, train_due  # noqa: PLC0415 - heavy imports

        if self.export_from is not None:
            slates = None if self.drift is None else self.drift.slates
            _export(self.export_from, self.events, slates, self.tenants)
        outcomes = train_due(
            self.events,
            out=self.out,
            registry=self.registry,
            tenants=self.tenants,
            schedule=self.schedule,
            config=self.config,
            promote=self.promote,
            scheduler=self.scheduler,
            cluster=self.cluster,
            progress=progress,
        )
        if self.drift is not None:
            every = exported_tenants(self.events, self.schedule)
            self.drift.look([name for name in every if name in (self.tenants or every)], progress)
        return outcomes


def drift_watch(slates: Path, registry: str, metrics_file: Path | None) -> "DriftWatch | None":
    """What writes the metrics of drift; None where no file is named."""
    if metrics_file is None:
        return None
    from training.drift.published import DriftWatch  # noqa: PLC0415 - heavy imports inside

    return DriftWatch(slates, registry, metrics_file)


def train_on_schedule(rounds: Rounds, *, watch: bool, json: bool) -> None:
    """Look once and answer, or again and again, telling what was done (a JSON object a round)."""
    from training.schedule import watch as watch_tenants  # noqa: PLC0415 - heavy imports inside

    if not watch:
        with told(json), progress_bar(json) as progress:
            outcomes = rounds.look(progress)
        _answer(outcomes, json)
        if any(outcome.did == "failed" for outcome in outcomes):
            raise typer.Exit(1)
        return
    spent: set[str] = set()
    with told(json), progress_bar(json) as progress:
        watch_tenants(
            lambda: rounds.look(progress), lambda found: _tell(found, spent, json), rounds.schedule
        )


def _answer(outcomes: "list[Outcome]", json: bool) -> None:
    shown = {outcome.tenant: f"{outcome.did}: {outcome.reason}" for outcome in outcomes}
    answer = {"outcomes": [_row(outcome) for outcome in outcomes]}
    print_answer("tenants", shown, answer, json)


def _tell(outcomes: "list[Outcome]", spent: set[str], json: bool) -> None:
    """What a round of `--watch` did; who only waits, or had `spent` its minutes, needs no line."""
    done = [outcome for outcome in outcomes if outcome.did != "waiting"]
    done = [outcome for outcome in done if outcome.did != "spent" or outcome.tenant not in spent]
    spent.clear()
    spent.update(outcome.tenant for outcome in outcomes if outcome.did == "spent")
    if json:
        write_json({"outcomes": [_row(outcome) for outcome in done]})
        return
    for outcome in done:
        version = "" if outcome.version is None else f", version {outcome.version}"
        say(f"{outcome.tenant or 'all'}: {outcome.did}{version} ({outcome.reason})")


def _row(outcome: "Outcome") -> dict[str, object]:
    return {
        "tenant": outcome.tenant,
        "did": outcome.did,
        "reason": outcome.reason,
        "version": outcome.version,
    }


def _export(data_dir: Path, out: Path, slates: Path | None, tenants: list[str]) -> None:
    """`headwater export` for each tenant, and of slates where asked; a running service goes on."""
    where = ["--data-dir", str(data_dir)]
    if not tenants:
        listed = json_lines.loads(_run("tenants", "list", *where))
        tenants = [str(each["tenant"]) for each in listed["tenants"]]
    for tenant in tenants:
        _run("export", "--tenant", tenant, "--out", str(out), *where)
        if slates is not None:
            _run("slates", "export", "--tenant", tenant, "--out", str(slates), *where, lacks=True)


def _run(*arguments: str, lacks: bool = False) -> bytes:
    """A command's answer; nothing where it `lacks` what it is asked for, and may."""
    done = subprocess.run(  # noqa: S603 (our own command)
        [sys.executable, "-m", _PROGRAM, *arguments, "--json"], capture_output=True, check=False
    )
    if done.returncode:
        if lacks and _NOT_FOUND in done.stdout:
            return b""
        told_so = (done.stdout or done.stderr).decode(errors="replace").strip()
        raise TrainingError(f"headwater {' '.join(arguments[:2])} failed: {told_so[:500]}")
    return done.stdout
