"""The commands of `headwater config`: ranking configs are checked, previewed, saved and activated.

They go to a service with --url and --key, or to an engine with --tenant and a data directory or
--engine, as `headwater tenants` does.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from feeds.cli_common import told, write_json
from feeds.cli_options import DATA_DIR, AsJson, DataDir, Engine, grouped

if TYPE_CHECKING:
    from rich.table import Table

    from serving.config_access import ApiConfigs, ConfigAccess

__all__ = ["config"]

Json = dict[str, Any]  # Any: JSON

Document = Annotated[
    Path, typer.Argument(metavar="FILE", help="A ranking config as JSON; `config schema` tells it.")
]
Tenant = Annotated[
    str | None, typer.Option("--tenant", help="The tenant's name; over --url, the key says whose.")
]
Url = Annotated[
    str | None,
    typer.Option("--url", envvar="HEADWATER_URL", help="A running service: http://HOST:PORT."),
]
Key = Annotated[
    str | None,
    typer.Option("--key", envvar="HEADWATER_KEY", help="The tenant's API key for --url."),
]
Expected = Annotated[
    int | None,
    typer.Option("--expected", help="Only if this version is active now; 0: the default."),
]


@dataclass(frozen=True, slots=True)
class Service:
    """A running service, and whose configs."""

    url: Url = None
    key: Key = None
    json: AsJson = False

    def api(self) -> "ApiConfigs":
        """The tenant's configs over the API; raises `InvalidInput` where it is not named."""
        from feeds.errors import InvalidInput  # noqa: PLC0415 - the CLI starts without the packages
        from serving.config_access import ApiConfigs  # noqa: PLC0415

        if self.url is None or self.key is None:
            raise InvalidInput(
                "a running service and an API key of the tenant are needed: give --url and --key, "
                "or set HEADWATER_URL and HEADWATER_KEY"
            )
        return ApiConfigs(self.url, self.key)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tenant's configs are: a service where a URL is given, an engine where none is."""

    tenant: Tenant = None
    data_dir: DataDir = DATA_DIR
    engine_socket: Engine = None
    url: Url = None
    key: Key = None
    json: AsJson = False

    @contextlib.contextmanager
    def configs(self, *, writes: bool = True) -> Iterator["ConfigAccess"]:
        """The tenant's configs; raises `InvalidInput` where it is not said which."""
        from feeds.errors import InvalidInput  # noqa: PLC0415 - as above

        if self.url is not None:
            if self.tenant is not None:
                raise InvalidInput("the API key says whose configs they are: leave --tenant out")
            yield Service(self.url, self.key).api()
            return
        if self.tenant is None:
            raise InvalidInput("name a --tenant of the engine, or a service with --url and --key")
        from feeds.cli_common import opened, read  # noqa: PLC0415 - as above
        from feeds.model import check_tenant_id  # noqa: PLC0415
        from serving.config_access import EngineConfigs  # noqa: PLC0415

        with (opened if writes else read)(self.data_dir, self.engine_socket) as reader:
            yield EngineConfigs(reader, check_tenant_id(self.tenant))


SHOWN_SLATES = 10
"""Slates of a preview that the table shows; `--json` has all."""

config = typer.Typer(
    name="config",
    help="Check, preview, save and activate ranking configs.",
    no_args_is_help=True,
)


@config.command("check")
def check(file: Document, json: AsJson = False) -> None:
    """Tell every mistake of a ranking config; exit with 1 where there is one."""
    with _told(json):
        from ranking.config import problems  # noqa: PLC0415 - the CLI starts without the packages

        found = problems(_read_file(file))
        if json:
            write_json({"file": str(file), "problems": found})
        else:
            for sentence in found or [f"{file} is a ranking config without mistakes"]:
                typer.echo(sentence)
        if found:
            raise typer.Exit(1)


@config.command("schema")
def schema() -> None:
    """Print the JSON Schema of a ranking config; a document may leave out any field."""
    from ranking.config import json_schema  # noqa: PLC0415 - as above

    write_json(json_schema())


@config.command("show")
@grouped
def show(
    version: Annotated[
        int | None, typer.Argument(help="A version, to print its document; 0 is the default.")
    ] = None,
    *,
    at: Place,
) -> None:
    """Show which versions there are and which one is active, or print one of them."""
    with _told(at.json), at.configs(writes=False) as configs:
        if version is not None:
            told = configs.read(version)
            write_json(told if at.json else told["document"])
            return
        told = configs.versions()
        if at.json:
            write_json(told)
        else:
            _print_versions(told)


@config.command("save")
@grouped
def save(
    file: Document,
    *,
    at: Place,
) -> None:
    """Save a ranking config as the next version; it ranks nothing until it is activated."""
    with _told(at.json):
        document = _read_file(file)
        with at.configs() as configs:
            told = configs.save(document)
        version = told["version"]
        _say(
            f"saved as version {version}: `headwater config activate {version}`", told, json=at.json
        )


@config.command("preview")
@grouped
def preview(
    file: Document,
    requests: Annotated[
        int | None, typer.Option("--requests", help="How many of the last slates to rank again.")
    ] = None,
    mode: Annotated[
        Literal["logged", "fresh"],
        typer.Option(
            "--mode",
            help="`logged`: the last logged slates, from their own candidates and features. "
            "`fresh`: the last request of each user and feed as of now.",
        ),
    ] = "logged",
    *,
    at: Service,
) -> None:
    """Rank a service's last slates with the active config and with another one, side by side."""
    with _told(at.json):
        document = _read_file(file)
        told = at.api().preview(document, requests, mode)
        if at.json:
            write_json(told)
        else:
            _print_preview(told)


@config.command("activate")
@grouped
def activate(
    version: Annotated[int, typer.Argument(help="The version to activate; 0 is the default.")],
    expected: Expected = None,
    allow_empty: Annotated[
        bool,
        typer.Option("--allow-empty", help="Even if it leaves nothing of all the last requests."),
    ] = False,
    *,
    at: Place,
) -> None:
    """Let a version rank the tenant's feeds, at every worker at once."""
    with _told(at.json), at.configs() as configs:
        active = configs.versions()["active"] if expected is None else expected
        _say_active(configs.activate(version, active, allow_empty=allow_empty), json=at.json)


@config.command("rollback")
@grouped
def rollback(
    expected: Expected = None,
    *,
    at: Place,
) -> None:
    """Activate the version that was active before."""
    with _told(at.json), at.configs() as configs:
        _say_active(configs.roll_back(expected), json=at.json)


def _read_file(path: Path) -> Json:
    import orjson  # noqa: PLC0415 - as above

    from feeds.errors import InvalidInput, NotFound  # noqa: PLC0415

    try:
        content = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist: name a file with a ranking config") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise InvalidInput(
            f"{path} is not JSON: {error}; NaN and Infinity are not numbers in JSON"
        ) from None
    if not isinstance(content, dict):
        raise InvalidInput(f"{path} holds no JSON object: a ranking config is one")
    return content


def _told(json: bool) -> contextlib.AbstractContextManager[None]:
    """As `told`, of what is wrong with a config and of what the API refuses, too."""
    from ranking.errors import RankingError  # noqa: PLC0415 - as above
    from serving.config_access import RequestRefused  # noqa: PLC0415

    return told(json, RankingError, RequestRefused)


def _say(sentence: str, told: Json, *, json: bool) -> None:
    if json:
        write_json(told)
    else:
        typer.echo(sentence)


def _say_active(told: Json, *, json: bool) -> None:
    before = f", version {told['previous']} was before" if told["previous"] is not None else ""
    _say(f"version {told['version']} is active{before}", told, json=json)


def _print_versions(told: Json) -> None:
    active, previous = told["active"], told["previous"]
    states = {active: "active", previous: "before"}
    table = _table(f"{len(told['versions'])} versions", "version", "saved", "bytes", "state")
    for one in told["versions"]:
        state = states.get(one["version"], "")
        table.add_row(str(one["version"]), one["saved"], str(one["bytes"]), state)
    table.add_row("0", "the default", "", states.get(0, ""))
    _print(table)


def _print_preview(told: Json) -> None:
    summary = _table(f"{told['requests']} slates, version {told['active_version']} is active")
    for name in ("overlap_at_10", "kendall_tau", "changed", "first_changed", "emptied"):
        summary.add_row(name, _number(told[name]))
    for reason, count in told["skipped"].items():
        summary.add_row("skipped", f"{count}: {reason}")
    for sentence in told["unseen"]:
        summary.add_row("unseen", sentence)
    _print(summary)
    for slate in told["slates"][:SHOWN_SLATES]:
        title = f"{slate['kind']} of {slate['user']}, asked {slate['time']}"
        table = _table(title, "place", "old", "new", "was", "moved")
        length = max(len(slate["old"]), len(slate["new"]))
        new = {one["position"]: one for one in slate["new"]}
        for place in range(length):
            old = slate["old"][place] if place < len(slate["old"]) else ""
            one = new.get(place)
            moved = ["", "", ""] if one is None else [one["id"], *_movement(one)]
            table.add_row(str(place), old, *moved)
        _print(table)


def _movement(place: Json) -> list[str]:
    if place["was"] is None:
        return ["new", ""]
    return [str(place["was"]), f"{place['moved']:+d}" if place["moved"] else "="]


def _number(value: float | None) -> str:
    return "no slates to tell it from" if value is None else f"{value:.3g}"


def _table(title: str, *columns: str) -> "Table":
    from rich.table import Table  # noqa: PLC0415 - as above

    return Table(*columns, title=title, title_justify="left", show_header=bool(columns))


def _print(table: "Table") -> None:
    from rich.console import Console  # noqa: PLC0415 - as above

    Console(soft_wrap=True, width=120).print(table)
