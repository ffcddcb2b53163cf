"""What STYLE asks of the code and can be counted: docstrings, sizes, names, doctests."""

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("feeds", "ranking", "serving", "training")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

LINES_MAX = 500
"""A longer module gives its reason in its docstring, with the words `long because`."""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Public classes and functions, and public methods of public classes."""
    for node in body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        yield f"{prefix}{node.name}", node
        if isinstance(node, ast.ClassDef):
            yield from public(node.body, f"{prefix}{node.name}.")


def is_overload(node: Definition) -> bool:
    return any(ast.unparse(one).endswith(("overload", ".setter")) for one in node.decorator_list)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_everything_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_bytes())
    silent = [
        name
        for name, node in public(tree.body)
        if not ast.get_docstring(node) and not is_overload(node)
    ]
    if not ast.get_docstring(tree):
        silent.insert(0, "the module")
    assert silent == []


def test_no_module_is_too_long() -> None:
    long = {
        name_of(path): lines
        for path in MODULES
        if (lines := len(path.read_text().splitlines())) > LINES_MAX
        and "long because" not in (ast.get_docstring(ast.parse(path.read_bytes())) or "")
    }
    assert long == {}


def test_no_module_is_called_after_leftovers() -> None:
    forbidden = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "managers"}
    assert [name_of(path) for path in MODULES if path.stem in forbidden] == []


def test_no_package_imports_pickle() -> None:
    def imported(path: Path) -> set[str]:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
        plain = {
            alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
        }
        return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}

    forbidden = {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}
    found = [name_of(path) for path in MODULES if imported(path) & forbidden]
    assert found == ["feeds/simulation/stock.py"], "it shows what the stock library does"


@pytest.mark.parametrize("module", ["feeds.model", "ranking.metrics"])
def test_examples_in_docstrings_hold(module: str) -> None:
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted > 0
    assert results.failed == 0
