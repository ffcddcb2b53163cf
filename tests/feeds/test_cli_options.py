"""A command with options that others have too: each is spelled out, and comes together."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from typer.testing import CliRunner

from feeds.cli_options import OnEngine, grouped


@dataclasses.dataclass(frozen=True)
class Bounds:
    low: Annotated[int, typer.Option("--low", envvar="TEST_LOW", help="The least.")] = 1
    high: Annotated[int, typer.Option("--high", help="The most.")] = 9


def run(*arguments: str, env: dict[str, str] | None = None) -> tuple[list[object], str]:
    app, called = typer.Typer(), list[object]()

    @app.command()
    @grouped
    def look(name: str, often: int = 1, *, bounds: Bounds, at: OnEngine) -> None:
        """Look for a name."""
        called.extend([name, often, bounds, at])

    return called, CliRunner().invoke(app, arguments, env=env).output


def test_every_field_is_an_option_and_the_command_gets_them_together() -> None:
    called, _ = run("x", "--low", "3", "--data-dir", "d", "--json")
    assert called == ["x", 1, Bounds(3, 9), OnEngine(Path("d"), None, json=True)]


def test_what_is_not_given_is_by_default_or_from_the_environment() -> None:
    assert run("x", "--often", "2", env={"TEST_LOW": "5"})[0][:3] == ["x", 2, Bounds(5, 9)]


def test_help_and_refusals_name_the_options_of_a_group() -> None:
    assert "The least." in run("--help")[1]
    called, told = run("x", "--low", "much")
    assert (called, "--low" in told) == ([], True)
