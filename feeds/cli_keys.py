"""`headwater keys`: API keys of a tenant, or of the operators."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from feeds.cli_options import OnEngine, grouped
from feeds.credentials import APP_SCOPES, NO_TENANT, OPERATOR, SCOPES, describe_key
from feeds.errors import NotFound
from feeds.model import TenantId, check_tenant_id

if TYPE_CHECKING:
    from feeds.new_keys import NewKey

__all__ = ["SCOPES_DEFAULT", "Scopes", "keys"]

OPERATORS = "@operators"
"""What stands for the operators where a tenant is named."""

Owner = Annotated[
    str,
    typer.Argument(metavar="TENANT|@operators", help="Whose key: a tenant's, or an operator's."),
]
KeyId = Annotated[str, typer.Argument(help="The key's public id, as `list` shows it.")]
Scopes = Annotated[
    list[str],
    typer.Option("--scope", help=f"What the key allows: {', '.join(SCOPES)}; give one or more."),
]
SCOPES_DEFAULT = list(APP_SCOPES)

keys = typer.Typer(name="keys", help="Create, list, rotate and revoke API keys.")


@keys.command("create")
@grouped
def create(
    owner: Owner,
    scopes: Scopes = SCOPES_DEFAULT,
    *,
    at: OnEngine,
) -> None:
    """Make another API key, which is printed once and not stored."""
    from feeds.new_keys import create_key  # noqa: PLC0415 - the CLI starts without the engine

    with at.opened() as engine:
        tenant = _tenant(owner)
        made = create_key(engine, tenant, (OPERATOR,) if tenant == NO_TENANT else scopes)
        _show_made(owner, made, at)


@keys.command("list")
@grouped
def list_(
    owner: Owner,
    *,
    at: OnEngine,
) -> None:
    """List API keys by their public ids, with what they allow and since when; never a secret."""
    with at.read() as reader:
        found = [describe_key(key) for key in reader.keys(_tenant(owner))]
        shown = {str(key["key_id"]): _sentence(key) for key in found}
        at.show(f"API keys of {owner}", shown, {"tenant": owner, "keys": found})


@keys.command("rotate")
@grouped
def rotate(
    owner: Owner,
    key_id: KeyId,
    grace_s: Annotated[
        int, typer.Option("--grace-s", help="Seconds for which the old key stays good.")
    ] = 86_400,
    *,
    at: OnEngine,
) -> None:
    """Make a key with the scopes of another one, which stays good for a while."""
    from feeds.new_keys import rotate_key  # noqa: PLC0415 - as above

    with at.opened() as engine:
        _show_made(owner, rotate_key(engine, _tenant(owner), key_id, grace_s), at)


@keys.command("revoke")
@grouped
def revoke(
    owner: Owner,
    key_id: KeyId,
    *,
    at: OnEngine,
) -> None:
    """Take a key away: nothing that is sent with it is answered any more."""
    with at.opened() as engine:
        if not engine.revoke_key(_tenant(owner), key_id).result():
            raise NotFound(
                f"{owner} has no key {key_id[:80]!r}: `headwater keys list {owner}` shows all"
            )
        answer = {"tenant": owner, "key_id": key_id, "revoked": True}
        at.show(f"revoked a key of {owner}", {"key_id": key_id}, answer)


def _sentence(key: dict[str, Any]) -> str:  # Any: as above
    parts = [", ".join(key["scopes"])]
    parts += [f"since {key['created']}"] if key["created"] else []
    parts += [f"until {key['expires']}"] if key["expires"] else []
    return "; ".join(parts)


def _tenant(owner: str) -> TenantId:
    return NO_TENANT if owner == OPERATORS else check_tenant_id(owner)


def _show_made(owner: str, made: "NewKey", at: OnEngine) -> None:
    made.stored.result()
    answer = {"tenant": owner, "key_id": made.key_id, "api_key": made.api_key}
    at.show("keep the API key, it is shown once", answer, answer)
