"""The commands of `headwater models`: what is published, and which version is live."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from training.cli_options import DATA_DIR, DataDir, Json, Registry, registry_uri
from training.cli_output import print_answer, told
from training.errors import TrainingError

if TYPE_CHECKING:
    from ranking.registry import ModelRegistry, ModelVersion

__all__ = [
    "list_versions",
    "promote_version",
    "roll_back",
    "set_shadow",
    "show_version",
    "version_of",
]

_DIGITS_MAX = 9


def list_versions(
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Only this tenant's versions.")
    ] = None,
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    json: Json = False,
) -> None:
    """List the published versions, newest first."""
    with told(json), _opened(registry, data_dir) as opened:
        names = [_tenant(tenant)] if tenant else opened.tenants()
        versions = [version for name in names for version in _described(opened, name)]
        shown = {
            f"{v['tenant']} {v['version']}": f"{v['kind']} {' '.join(v['aliases'])}"
            for v in versions
        }
        print_answer(f"{len(versions)} versions", shown, {"versions": versions}, json)


def show_version(
    tenant: Annotated[str, typer.Argument(help="The tenant's name.")],
    version: Annotated[
        str, typer.Argument(help="A version's number, or live, previous, shadow.")
    ] = "live",
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    json: Json = False,
) -> None:
    """Show one version: its kind, digest, metrics and notes."""
    from training.flow import find_version  # noqa: PLC0415 - heavy imports inside

    with told(json), _opened(registry, data_dir) as opened:
        found = find_version(opened, _tenant(tenant), version_of(version))
        answer = next(d for d in _described(opened, found.tenant) if d["version"] == found.version)
        shown = {name: value for name, value in answer.items() if name != "metrics"}
        metrics = {name: f"{value:.4f}" for name, value in sorted(answer["metrics"].items())}
        print_answer(f"{found.tenant} version {found.version}", shown | metrics, answer, json)


def promote_version(
    tenant: Annotated[str, typer.Argument(help="The tenant's name.")],
    version: Annotated[int, typer.Argument(help="The version's number.")],
    expected: Annotated[
        int | None,
        typer.Option("--expected", help="Only if this version is live now; 0: if none is."),
    ] = None,
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    json: Json = False,
) -> None:
    """Make a version live; a running service swaps to it, and the former one is kept."""
    with told(json), _opened(registry, data_dir) as opened:
        live = opened.promote(_tenant(tenant), version, expected)
        _print_live(live, json)


def roll_back(
    tenant: Annotated[str, typer.Argument(help="The tenant's name.")],
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    json: Json = False,
) -> None:
    """Exchange the live and the previous version."""
    with told(json), _opened(registry, data_dir) as opened:
        live = opened.roll_back(_tenant(tenant))
        _print_live(live, json)


def set_shadow(
    tenant: Annotated[str, typer.Argument(help="The tenant's name.")],
    version: Annotated[
        int | None, typer.Argument(help="The version's number; without it the trial ends.")
    ] = None,
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    json: Json = False,
) -> None:
    """Put a version on trial: it scores a sample of live requests, and is shown to nobody."""
    with told(json), _opened(registry, data_dir) as opened:
        shadow = opened.set_shadow(_tenant(tenant), version)
        answer = {"tenant": tenant, "shadow": shadow.version if shadow else None}
        said = f"version {version} of {tenant} is" if shadow else f"no version of {tenant} is"
        print_answer(f"{said} on trial", {}, answer, json)


def version_of(text: str) -> Any:  # Any: a number or one of the aliases, checked here
    """A version as it was typed; raises `TrainingError` for what is none."""
    if text.isdecimal() and len(text) <= _DIGITS_MAX:
        return int(text)
    if text in ("live", "previous", "shadow"):
        return text
    raise TrainingError(f"{text!r} is no version: give its number, or live, previous or shadow")


def _tenant(text: str) -> Any:  # Any: a TenantId, whose module the CLI need not import
    from feeds.model import check_tenant_id  # noqa: PLC0415

    return check_tenant_id(text)


@contextlib.contextmanager
def _opened(registry: str | None, data_dir: Path) -> Iterator["ModelRegistry"]:
    from ranking.registry import open_registry  # noqa: PLC0415 - heavy imports inside

    opened = open_registry(registry_uri(registry, data_dir))
    try:
        yield opened
    finally:
        opened.close()


def _described(registry: "ModelRegistry", tenant: Any) -> list[dict[str, Any]]:
    # Any: a TenantId; and whatever JSON holds.
    import msgspec  # noqa: PLC0415

    aliases = {name: registry.alias(tenant, name) for name in ("live", "previous", "shadow")}
    return [
        msgspec.to_builtins(version)
        | {"aliases": [n for n, a in aliases.items() if a and a.version == version.version]}
        for version in registry.versions(tenant)
    ]


def _print_live(live: "ModelVersion", json: bool) -> None:
    answer = {"tenant": live.tenant, "live": live.version}
    print_answer(f"version {live.version} of {live.tenant} is live", {}, answer, json)
