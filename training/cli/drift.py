"""`headwater drift`: whether a tenant's model still serves what it learnt from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cli.options import DATA_DIR, DataDir, Json, Registry, registry_uri
from training.cli.output import print_answer, told

if TYPE_CHECKING:
    from training.drift import DriftReport

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
    metrics_file: Annotated[
        Path | None,
        typer.Option("--metrics-file", help="A file for Prometheus's textfile collector."),
    ] = None,
    json: Json = False,
) -> None:
    """Compare the last day's slates with those before the model was trained: drift, age, state."""
    import msgspec  # noqa: PLC0415 - `--help` does without

    from ranking.files import replace_file  # noqa: PLC0415
    from training.drift import measure_drift  # noqa: PLC0415

    with told(json):
        trained_us = _trained_us(registry_uri(registry, data_dir), tenant, version)
        report = measure_drift(slates, tenant, trained_us)
        if metrics_file is not None:
            replace_file(metrics_file, report.metrics().encode())
    answer = msgspec.to_builtins(report)
    print_answer(f"{tenant}, version {version}", _shown(report), answer, json)


def _trained_us(registry: str, tenant: str, version: str) -> int:
    """When a version was trained, by its bundle; raises `ModelNotFound`."""
    import contextlib  # noqa: PLC0415 - as above
    import tempfile  # noqa: PLC0415

    from feeds.model import check_tenant_id  # noqa: PLC0415
    from ranking.bundle import ModelBundle  # noqa: PLC0415
    from ranking.registry import open_registry  # noqa: PLC0415
    from training.cli.models import version_of  # noqa: PLC0415
    from training.flow import find_version  # noqa: PLC0415

    with (
        contextlib.closing(open_registry(registry)) as opened,
        tempfile.TemporaryDirectory(prefix="headwater-drift-") as temporary,
    ):
        wanted = find_version(opened, check_tenant_id(tenant), version_of(version))
        return ModelBundle.load(opened.fetch(wanted, Path(temporary) / "bundle")).trained_us


def _shown(report: "DriftReport") -> dict[str, str]:
    shown = {
        "days since training": f"{report.age_days:.1f}",
        "slates of the last day": str(report.slates_now),
        "of them degraded": f"{report.degraded_share:.1%}",
    }
    if report.problem:
        return shown | {"drift": report.problem}
    drifted = [report.score] if report.score else []
    return shown | {
        each.name: f"PSI {each.psi:.3f}" for each in (*drifted, *report.features[:SHOWN])
    }
