"""`headwater dataset`: build a training set, show what is in one, make up a log to try it on."""

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from training.cli.options import Events, Json
from training.cli.output import print_answer, progress_bar, told

if TYPE_CHECKING:
    from training.config import TrainingConfig
    from training.sets.files import StoredSet

__all__ = ["dataset", "memory_bytes"]

dataset = typer.Typer(
    name="dataset",
    help="Build training sets of impressions, show them, and make up logs of any size.",
    no_args_is_help=True,
)

SETS: Final = Path(".headwater/sets")

_UNITS: Final = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9} | {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

Tenant = Annotated[str, typer.Option("--tenant", help="The tenant's name.")]
Sets = Annotated[Path, typer.Option("--sets", help="Where training sets lie, a folder a tenant.")]


@dataset.command()
def build(
    tenant: Tenant,
    events: Events,
    slates: Annotated[
        Path | None,
        typer.Option(
            "--slates",
            help="The directory that `headwater slates export` wrote to. Unset: slates beside the "
            "events, if there are any.",
        ),
    ] = None,
    sets: Sets = SETS,
    window: Annotated[
        list[str] | None,
        typer.Option(
            "--window",
            help="How long a kind of engagement counts after an impression, KIND=TIME with s, m, h "
            "or d, such as like=6h; may be repeated.",
        ),
    ] = None,
    unshown: Annotated[
        Literal["leave_out", "as_shown"],
        typer.Option(
            "--unshown",
            help="What becomes of an engagement without an impression: it teaches nothing, or it "
            "stands for the impression too.",
        ),
    ] = "leave_out",
    memory_limit: Annotated[
        str,
        typer.Option(
            "--memory-limit", help="Memory of all processes together, such as 2GB or 512MiB."
        ),
    ] = "4GiB",
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            help="A Dask scheduler, tcp://HOST:PORT, whose workers see the same paths; `inline` "
            "runs in this process. Unset: a local cluster.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Processes of the local cluster.")
    ] = 2,
    json: Json = False,
) -> None:
    """Make a training set: a row for each impression, with labels and the features of then.

    Labels say what came of an impression within a window of each kind, once the window is closed.
    Features are those that were logged with the slate; what was not logged is computed as of the
    request, bit for bit as serving would have. docs/training-sets.md explains every column.

    For example: headwater export --tenant acme --out exports, then headwater slates export --tenant
    acme --out exports, then headwater dataset build --tenant acme --events exports --window like=6h
    """
    from training.config import ClusterConfig  # noqa: PLC0415
    from training.sets.building import build_training_set  # noqa: PLC0415 - heavy imports inside

    with told(json), progress_bar(json) as progress:
        made = build_training_set(
            events,
            tenant,
            out=sets,
            slates=slates,
            config=_config(window or (), unshown),
            memory_bytes=memory_bytes(memory_limit),
            scheduler=scheduler,
            cluster=ClusterConfig(workers=workers),
            progress=progress,
        )
    _print(made, json)


@dataset.command()
def show(tenant: Tenant, sets: Sets = SETS, json: Json = False) -> None:
    """Show what a training set holds and what it was made from, and check that it is whole.

    For example: headwater dataset show --tenant acme
    """
    from training.sets.files import read_training_set  # noqa: PLC0415 - heavy imports inside

    with told(json):
        found = read_training_set(sets, tenant)
        found.check()
    _print(found, json)


@dataset.command()
def synthesize(
    out: Annotated[Path, typer.Option("--out", help="Where the log goes, as an export.")],
    events: Annotated[int, typer.Option("--events", min=10, help="How many events.")] = 100_000,
    users: Annotated[int, typer.Option("--users", min=2, help="How many users.")] = 1_000,
    days: Annotated[int, typer.Option("--days", min=1, max=365, help="Over how many days.")] = 30,
    seed: Annotated[int, typer.Option("--seed", help="Seed of every draw.")] = 1,
    tenant: Annotated[str, typer.Option("--tenant", help="The tenant's name.")] = "synthetic",
    json: Json = False,
) -> None:
    """Make up an exported log of any size, to measure with: nobody in it has a taste.

    For example: headwater dataset synthesize --events 1000000 --users 10000 --out exports
    """
    from training.events.synthetic import SyntheticLog, write_synthetic_log  # noqa: PLC0415 - heavy

    with told(json), progress_bar(json) as progress:
        size = SyntheticLog(events=events, users=users, days=days, seed=seed)
        write_synthetic_log(size, out, tenant, progress)
    answer = {"tenant": tenant, "events": events, "users": users, "out": str(out)}
    print_answer(f"A log of {events:,} events in {out}", answer, answer, json)


def _print(found: "StoredSet", json: bool) -> None:
    manifest = found.manifest
    answer: dict[str, Any] = {  # Any: whatever JSON holds
        "tenant": manifest.tenant,
        "directory": str(found.directory),
        "rows": manifest.rows,
        "requests": manifest.requests,
        "users": manifest.users,
        **_times(found),
        "features": len(found.spec.names),
        "fingerprint": manifest.fingerprint,
        "events_fingerprint": manifest.events_fingerprint,
        "slates_fingerprint": manifest.slates_fingerprint,
        "code_version": manifest.code_version,
    }
    shown = answer | {name.replace("_", " "): count for name, count in manifest.counts.items()}
    title = f"Training set of {manifest.tenant}: {manifest.rows:,} rows"
    whole = {"counts": manifest.counts, "labels": manifest.labels, "columns": _columns(found)}
    print_answer(title, shown, answer | whole, json)


def _times(found: "StoredSet") -> dict[str, str]:
    from feeds.model import format_time  # noqa: PLC0415 - as above

    files = found.manifest.files
    if not files:
        return {}
    return {"from": format_time(files[0].first_us), "to": format_time(files[-1].last_us)}


def _columns(found: "StoredSet") -> list[str]:
    from training.sets.files import HEAD  # noqa: PLC0415 - as above

    return [*HEAD, *found.spec.names]


def _config(
    windows: "list[str] | tuple[str, ...]", unshown: Literal["leave_out", "as_shown"]
) -> "TrainingConfig":
    from training.config import TrainingConfig  # noqa: PLC0415 - as above

    config = TrainingConfig()
    given = dict(_window(text) for text in windows)
    labels = replace(config.labels, windows_s={**config.labels.windows_s, **given}, unshown=unshown)
    return replace(config, labels=labels)


def _window(text: str) -> tuple[str, int]:
    """The kind and the seconds of KIND=TIME."""
    match = re.fullmatch(r"([a-z]+)=(\d{1,9})([smhd])", text)
    if match is None:
        raise typer.BadParameter(
            f"--window {text}: write KIND=TIME, a number with s, m, h or d, such as like=6h"
        )
    return match[1], int(match[2]) * _SECONDS[match[3]]


def memory_bytes(text: str) -> int:
    """The bytes of a size such as 512MiB; raises `typer.BadParameter`."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?) ?([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in _UNITS:
        raise typer.BadParameter(
            f"--memory-limit {text}: write a number of bytes, or one with a unit, such as 2GB or "
            "512MiB"
        )
    return int(float(match[1]) * _UNITS[match[2].upper()])
