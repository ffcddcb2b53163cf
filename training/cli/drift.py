"""`headwater drift`: whether a tenant's model still serves what it learnt from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cli.options import DATA_DIR, DataDir, Json, Registry, registry_uri
from training.cli.output import print_answer, progress_bar, say, told

if TYPE_CHECKING:
    from training.drift.measure import DriftReport

__all__ = ["drift"]

SHOWN = 10
"""Features that are shown, those that drifted most."""


def drift(
    tenant: Annotated[str, typer.Option("--tenant", help="The tenant's name.")],
    slates: Annotated[
        Path, typer.Option("--slates", help="The directory that `headwater slates export` wrote.")
    ],
    version: Annotated[
        str, typer.Option("--version", help="A version's number, or live, previous, shadow.")
    ] = "live",
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Leave drift.json, drift.md, drift.html and drift.png here."),
    ] = None,
    metrics_file: Annotated[
        Path | None,
        typer.Option("--metrics-file", help="A file for Prometheus's textfile collector."),
    ] = None,
    json: Json = False,
) -> None:
    """Compare the last day's slates with what the model learnt from: drift, age, state."""
    import msgspec  # noqa: PLC0415 - `--help` does without

    from ranking.files import replace_file  # noqa: PLC0415
    from training.cli.models import version_of  # noqa: PLC0415
    from training.drift.metrics import exposition  # noqa: PLC0415
    from training.drift.published import drift_of  # noqa: PLC0415

    with told(json), progress_bar(json) as progress:
        progress("comparing slates", 0, None)
        uri = registry_uri(registry, data_dir)
        report = drift_of(slates, tenant, version_of(version), registry=uri)
        if metrics_file is not None:
            replace_file(metrics_file, exposition([report]).encode())
        files = [] if out is None else report.write(out)
    answer = msgspec.to_builtins(report)
    print_answer(f"{tenant}, version {report.model_version}", _shown(report), answer, json)
    if json:
        return
    for sentence in (report.sentence, *report.notes):
        say(f"• {sentence}")
    if files:
        say("Written: " + ", ".join(map(str, files)))


def _shown(report: "DriftReport") -> dict[str, str]:
    shown = {
        "days since training": f"{report.age_days:.1f}",
        "slates of the last day": str(report.slates_now),
        "of them degraded": f"{report.degraded_share:.1%}",
    }
    drifted = [report.score] if report.score else []
    return shown | {
        each.name: f"PSI {each.psi:.3f}, by chance below {each.chance:.3f}"
        f"{'' if each.verdict == 'none' else f': {each.verdict}'}"
        for each in (*drifted, *report.features[:SHOWN])
    }
