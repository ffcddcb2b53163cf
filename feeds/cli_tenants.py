"""`headwater tenants`: who may use this server."""

import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from feeds.cli_common import progress
from feeds.cli_keys import SCOPES_DEFAULT, Scopes
from feeds.cli_options import OnEngine, grouped
from feeds.errors import InvalidInput
from feeds.model import TenantId, check_tenant_id

if TYPE_CHECKING:
    from feeds.reader import StoreReader

__all__ = ["tenants"]

_LOOK_S: Final = 0.05
"""Seconds between two looks whether a deletion is done."""

Tenant = Annotated[str, typer.Argument(help="The tenant's name.")]

Limit = Annotated[
    int | None, typer.Option(min=0, help="The most that there may be; 0 is nothing at all.")
]

tenants = typer.Typer(
    name="tenants", help="Create, list and delete tenants, and bound what they use."
)
quota = typer.Typer(name="quota", help="What a tenant may use.")
tenants.add_typer(quota)


@tenants.command("create")
@grouped
def create(
    tenant: Tenant,
    scopes: Scopes = SCOPES_DEFAULT,
    *,
    at: OnEngine,
) -> None:
    """Create a tenant and its first API key, which is printed once and not stored."""
    from feeds.new_keys import create_key  # noqa: PLC0415 - the CLI starts without the engine

    with at.opened() as engine:
        check_tenant_id(tenant)
        if tenant in engine.tenants():
            raise InvalidInput(
                f"tenant {tenant!r} exists: `headwater keys create {tenant}` makes a key"
            )
        engine.create_tenant(tenant).result()
        made = create_key(engine, TenantId(tenant), scopes)
        made.stored.result()
        answer = {"tenant": tenant, "key_id": made.key_id, "api_key": made.api_key}
        at.show(f"created {tenant}: keep the API key, it is shown once", answer, answer)


@tenants.command("list")
@grouped
def list_(
    models_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="HEADWATER_MODELS_DIR",
            help="Where the service's loader tells how long tenants were trained.",
            show_default="`models` in the data directory",
        ),
    ] = None,
    *,
    at: OnEngine,
) -> None:
    """List the tenants: their keys, what they store, how long they were trained, their own quotas.

    Minutes of training are those of the last 24 hours, up to a minute old, and not known where no
    service with a loader has run on the data directory within ten minutes.
    """
    from feeds.engine import system_clock_us  # noqa: PLC0415 - as above
    from feeds.tenants import describe_tenant, read_trained  # noqa: PLC0415 - as above

    trained = read_trained(models_dir or at.data_dir / "models")
    now_us = system_clock_us()
    with at.read() as reader:
        keys = reader.key_counts()
        found = [
            describe_tenant(reader, tenant, keys[tenant])
            | {"trained_minutes": trained.minutes(tenant, now_us)}
            for tenant in reader.tenants()
        ]
        shown = {one["tenant"]: _sentence(one) for one in found}
        going = reader.deleting()
        shown |= dict.fromkeys(going, "deleted; its rows are being removed")
        answer = {"tenants": found, "deleting": going}
        at.show(f"{len(found)} tenants", shown, answer)


@tenants.command("delete")
@grouped
def delete(
    tenant: Tenant,
    confirm: Annotated[str, typer.Option("--confirm", help="The tenant's name again.")] = "",
    *,
    at: OnEngine,
) -> None:
    """Delete a tenant with all that it has: nothing of it is kept, and nothing brings it back.

    It is unknown to every reader at once; this waits until its rows are removed too. Killed
    meanwhile, whoever has the data goes on by itself.
    """
    with at.opened() as engine:
        known = check_tenant_id(tenant)
        if confirm != known:
            raise InvalidInput(
                f"nothing was changed: to delete tenant {known!r} with all that it has, say "
                f"`headwater tenants delete {known} --confirm {known}`"
            )
        engine.delete_tenant(known).result()
        with progress(f"removing what {known} left") as moved:
            for turn in itertools.count():
                if known not in engine.deleting():
                    break
                moved(turn)
                time.sleep(_LOOK_S)
        answer = {"tenant": known, "deleted": True}
        at.show(f"deleted {known}", {"rows": "all removed"}, answer)


@quota.command("set")
@grouped
def set_quota(
    tenant: Tenant,
    requests_per_s: Limit = None,
    events_per_s: Limit = None,
    storage_bytes: Limit = None,
    training_minutes: Limit = None,
    default: Annotated[
        list[str] | None,
        typer.Option("--default", help="A quota for which the server's default shall hold again."),
    ] = None,
    *,
    at: OnEngine,
) -> None:
    """Change some of a tenant's quotas; running services keep to them at once."""
    from feeds.quotas import QUOTAS  # noqa: PLC0415 - as above

    given = (requests_per_s, events_per_s, storage_bytes, training_minutes)
    changes = {name: value for name, value in zip(QUOTAS, given, strict=True) if value is not None}
    with at.opened() as engine:
        known = check_tenant_id(tenant)
        engine.set_quotas(known, changes | dict.fromkeys(default or [])).result()
        _show_quotas(engine, known, at)


@quota.command("show")
@grouped
def show_quota(tenant: Tenant, *, at: OnEngine) -> None:
    """Show a tenant's own quotas."""
    with at.read() as reader:
        _show_quotas(reader, check_tenant_id(tenant), at)


def _show_quotas(reader: "StoreReader", tenant: TenantId, at: OnEngine) -> None:
    from feeds.tenants import describe_tenant  # noqa: PLC0415 - as above

    quotas = describe_tenant(reader, tenant, 0)["quotas"]
    shown = {name: "default" if value is None else value for name, value in quotas.items()}
    at.show(f"quotas of {tenant}", shown, {"tenant": tenant, "quotas": quotas})


def _sentence(told: dict[str, Any]) -> str:  # Any: JSON
    minutes = told["trained_minutes"]
    own = [f"{name} {value}" for name, value in told["quotas"].items() if value is not None]
    parts = [
        f"{told['keys']} API keys",
        f"{told['activities']} activities of {told['storage_bytes']} bytes",
        f"minutes of training {'not known' if minutes is None else minutes}",
        *([f"quotas: {', '.join(own)}"] if own else []),
    ]
    return "; ".join(parts)
