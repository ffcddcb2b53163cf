"""The commands of `headwater models`: what is published, and which version is live."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from training.cli.options import (
    DATA_DIR,
    DataDir,
    Described,
    Events,
    Json,
    Registry,
    config_of,
    registry_uri,
)
from training.cli.output import print_answer, print_gates, say, told, write_json
from training.errors import TrainingError

if TYPE_CHECKING:
    from ranking.registry import ModelRegistry, ModelVersion

__all__ = [
    "compare_versions",
    "gate_version",
    "list_versions",
    "promote_version",
    "roll_back",
    "set_policy",
    "set_shadow",
    "show_minutes",
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
    """Show one version: its kind, digest, metrics, notes, and what the gates said."""
    import msgspec  # noqa: PLC0415 - heavy imports inside

    from training.flow import find_version  # noqa: PLC0415
    from training.gates.promotion import gates_of  # noqa: PLC0415

    with told(json), _opened(registry, data_dir) as opened:
        found = find_version(opened, _tenant(tenant), version_of(version))
        answer = next(d for d in _described(opened, found.tenant) if d["version"] == found.version)
        gates = gates_of(opened, found)
        answer["documents"] = sorted(opened.documents(found))
        answer["gates"] = None if gates is None else msgspec.to_builtins(gates)
        shown = {n: value for n, value in answer.items() if n not in ("metrics", "gates")}
        metrics = {name: f"{value:.4f}" for name, value in sorted(answer["metrics"].items())}
        print_answer(f"{found.tenant} version {found.version}", shown | metrics, answer, json)
        if gates is not None and not json:
            print_gates(gates)


def compare_versions(
    tenant: Annotated[str, typer.Argument(help="The tenant's name.")],
    first: Annotated[str, typer.Argument(help="A version's number, or live, previous, shadow.")],
    second: Annotated[str, typer.Argument(help="The one it is set against.")],
    events: Events,
    dataset: Described = None,
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    json: Json = False,
) -> None:
    """Set two versions against each other on the last part of an export, request by request."""
    from training.flow import compare_published  # noqa: PLC0415 - heavy imports inside

    with told(json):
        report = compare_published(
            events,
            tenant,
            version_of(first),
            version_of(second),
            registry=registry_uri(registry, data_dir),
            config=config_of(dataset, None),
        )
        if json:
            import msgspec  # noqa: PLC0415

            write_json(msgspec.to_builtins(report))
            return
        say(f"{report.sentence}.")
        by_user = f"{report.by_user:+.3f} {report.by_user_verdict}"
        bands = {
            f"users with {band.name}": f"{band.difference:+.3f} [{band.interval[0]:+.3f}, "
            f"{band.interval[1]:+.3f}] {band.verdict}, {band.users} users"
            for band in report.bands
        }
        print_answer("", {"every user alike": by_user} | bands, {}, json)


def gate_version(
    tenant: Annotated[str, typer.Argument(help="The tenant's name.")],
    version: Annotated[str, typer.Argument(help="A version's number, or shadow, previous.")],
    events: Events,
    slates: Annotated[
        Path | None,
        typer.Option(
            "--slates",
            help="The directory that `headwater slates export` wrote to: served scores must come "
            "out again, and the version may not be worse than what was served.",
        ),
    ] = None,
    dataset: Described = None,
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    json: Json = False,
) -> None:
    """Judge whether a version may replace the live one, and keep the answer with it.

    Fails where a gate fails; every reason is told.
    """
    from training.flow import gate  # noqa: PLC0415 - heavy imports inside

    with told(json):
        report = gate(
            events,
            tenant,
            version_of(version),
            registry=registry_uri(registry, data_dir),
            slates=slates,
            config=config_of(dataset, None),
        )
    if json:
        import msgspec  # noqa: PLC0415

        write_json(msgspec.to_builtins(report) | {"passed": report.passed})
    else:
        print_gates(report)
    if not report.passed:
        raise typer.Exit(1)


def promote_version(
    tenant: Annotated[str, typer.Argument(help="The tenant's name.")],
    version: Annotated[int, typer.Argument(help="The version's number.")],
    expected: Annotated[
        int | None,
        typer.Option("--expected", help="Only if this version is live now; 0: if none is."),
    ] = None,
    force: Annotated[
        str,
        typer.Option(
            "--force", help="Why it should be live whatever the gates said; kept with the version."
        ),
    ] = "",
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    json: Json = False,
) -> None:
    """Make a version live that passed the gates; a running service swaps to it.

    The former one is kept as `previous`: `headwater models rollback` brings it back.
    """
    from training.flow import promote  # noqa: PLC0415 - heavy imports inside

    with told(json):
        address = registry_uri(registry, data_dir)
        live = promote(tenant, version, registry=address, expected=expected, force=force)
        _print_live(live, json)


def set_policy(
    tenant: Annotated[str, typer.Argument(help="The tenant's name.")],
    policy: Annotated[
        str | None,
        typer.Argument(help="by_hand or gated; without it, the policy is told."),
    ] = None,
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    json: Json = False,
) -> None:
    """Who promotes: a person (by_hand), or training itself where every gate passes (gated)."""
    from ranking.registry import POLICIES  # noqa: PLC0415 - heavy imports inside

    with told(json), _opened(registry, data_dir) as opened:
        name = _tenant(tenant)
        chosen = next((known for known in POLICIES if known == policy), None)
        if policy is not None and chosen is None:
            raise TrainingError(f"{policy!r} is no policy: give {' or '.join(POLICIES)}")
        if chosen is not None:
            opened.set_policy(name, chosen)
        answer = {"tenant": tenant, "policy": opened.policy(name)}
        print_answer(f"versions of {tenant} are promoted: {answer['policy']}", {}, answer, json)


def show_minutes(
    registry: Registry = None, data_dir: DataDir = DATA_DIR, json: Json = False
) -> None:
    """Tell the minutes of training that each tenant used within the last 24 hours."""
    from feeds.training_time import minutes_trained  # noqa: PLC0415
    from ranking.registry import wall_clock_us  # noqa: PLC0415 - heavy imports inside

    with told(json), _opened(registry, data_dir) as opened:
        now_us = wall_clock_us()
        used = {
            str(tenant): round(minutes_trained(hours, now_us), 1)
            for tenant, hours in sorted(opened.all_trained_hours().items())
        }
        print_answer("minutes of training within 24 hours", used, {"minutes": used}, json)


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
