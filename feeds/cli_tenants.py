"""`headwater tenants`: who may use this server."""

from typing import Annotated

import typer

from feeds.cli_common import DATA_DIR, AsJson, DataDir, Engine, opened, read, show, told
from feeds.cli_keys import SCOPES_DEFAULT, Scopes
from feeds.errors import InvalidInput
from feeds.model import TenantId, check_tenant_id

__all__ = ["tenants"]

Tenant = Annotated[str, typer.Argument(help="The tenant's name.")]

tenants = typer.Typer(name="tenants", help="Create and list tenants.", no_args_is_help=True)


@tenants.command("create")
def create(
    tenant: Tenant,
    scopes: Scopes = SCOPES_DEFAULT,
    data_dir: DataDir = DATA_DIR,
    engine_socket: Engine = None,
    json: AsJson = False,
) -> None:
    """Create a tenant and its first API key, which is printed once and not stored."""
    from feeds.new_keys import create_key  # noqa: PLC0415 - the CLI starts without the engine

    with told(json), opened(data_dir, engine_socket) as engine:
        check_tenant_id(tenant)
        if tenant in engine.tenants():
            raise InvalidInput(
                f"tenant {tenant!r} exists: `headwater keys create {tenant}` makes a key"
            )
        engine.create_tenant(tenant).result()
        made = create_key(engine, TenantId(tenant), scopes)
        made.stored.result()
        answer = {"tenant": tenant, "key_id": made.key_id, "api_key": made.api_key}
        show(f"created {tenant}: keep the API key, it is shown once", answer, answer, json=json)


@tenants.command("list")
def list_(data_dir: DataDir = DATA_DIR, engine_socket: Engine = None, json: AsJson = False) -> None:
    """List the tenants and how many API keys each has."""
    with told(json), read(data_dir, engine_socket) as reader:
        found = {str(tenant): len(reader.keys(tenant)) for tenant in reader.tenants()}
        listed = {"tenants": [{"tenant": name, "keys": keys} for name, keys in found.items()]}
        shown = {name: f"{keys} API keys" for name, keys in found.items()}
        show(f"{len(found)} tenants", shown, listed, json=json)
