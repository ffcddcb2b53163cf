"""The pages of docs/ that are made from the code: `python -m serving.docs docs` writes them.

Commands come from the command tree, features from their registry; settings, errors and metrics from
the source as it stands, so that a default is shown as it was written (`64 * 1024 * 1024`).
"""

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import typer

from serving import cli
from serving.docs_ranking import ranking_config_sections
from serving.exposition import Family, MetricKind
from serving.extras import DISTRIBUTION
from serving.node_metrics import NODE_FAMILIES
from serving.tenant_metrics import TENANT_FAMILIES

__all__ = ["Setting", "commands", "metrics", "pages", "settings", "write"]

PACKAGES = ("feeds", "ranking", "serving", "training")

_NOTE = "<!-- Made from the code by `make docs`; do not edit. -->"
_ABOUT_SETTINGS = """\
Every value that can be set, by the class that holds it. Those of `Settings` are read from the
environment as `HEADWATER_<NAME>` by `headwater serve`; the others are arguments of the classes."""
_ABOUT_FEATURES = """\
The registry of features, version {version}; a `FeatureSpec` names those that a model reads. The
same code computes them in training and in serving. A missing value is NaN, never 0. Those of the
family `counts` are there for ranking expressions; the default spec leaves them out."""
_SETTINGS_CLASSES = ("Config", "Settings", "FeatureParameters")
_ABOUT_METRICS = """\
What the service measures, in Prometheus's text format. A counter `headwater_x` is queried as
`headwater_x_total`, a histogram as `headwater_x_bucket`, `_sum` and `_count`. What they are good
for, and who may read them, is in [observability.md](observability.md)."""
_METRIC_KINDS: Mapping[str, MetricKind] = {
    "Counter": "counter",
    "Gauge": "gauge",
    "Histogram": "histogram",
}
_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "pattern": "matches"}


class Setting(NamedTuple):
    """A field of a config class, as its source says."""

    name: str
    type: str
    default: str
    doc: str


def pages(root: Path) -> dict[str, str]:
    """File name in docs/ -> text, of every generated page; `root` holds the four packages."""
    return {
        "cli.md": _cli_page(),
        "errors.md": _errors_page(root),
        "expression-names.md": _expression_names_page(),
        "features.md": _features_page(),
        "metrics.md": _metrics_page(root),
        "ranking-config.md": _page("The ranking config", ranking_config_sections(_table)),
        "settings.md": _settings_page(root),
    }


def write(root: Path, directory: Path) -> None:
    """Write every page into `directory`."""
    for name, text in pages(root).items():
        (directory / name).write_text(text)


def commands() -> Iterator[tuple[str, Any]]:  # Any: typer's click commands have no public type
    """Every command below `headwater` with its full name, groups before what is in them."""
    root: Any = typer.main.get_command(cli.build(cli.entry_points()))
    return chain.from_iterable(
        _walk(f"{DISTRIBUTION} {name}", command) for name, command in sorted(root.commands.items())
    )


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:  # Any: as in `commands`
    yield name, command
    for below, child in getattr(command, "commands", {}).items():
        yield from _walk(f"{name} {below}", child)


def settings(module: Path) -> Iterator[tuple[str, str, list[Setting]]]:
    """(class name, its first sentence, its fields) of each config class in a source file."""
    for node in ast.parse(module.read_bytes()).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith(_SETTINGS_CLASSES):
            fields = list(_fields(node))
            if fields:
                yield node.name, _first_paragraph(ast.get_docstring(node)), fields


def _fields(node: ast.ClassDef) -> Iterator[Setting]:
    following = [*node.body[1:], ast.Pass()]
    for statement, after in zip(node.body, following, strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            default, doc = _default(statement.value)
            yield Setting(
                statement.target.id,
                ast.unparse(statement.annotation),
                default,
                doc or _text(after) or _nested(statement.annotation),
            )


def _default(value: ast.expr | None) -> tuple[str, str]:
    """The default and the description that a field's right-hand side gives."""
    if value is None:
        return "", ""
    name = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id
    if not isinstance(value, ast.Call) or name not in ("Field", "field"):
        return ast.unparse(value), ""
    given = {keyword.arg: keyword.value for keyword in value.keywords}
    factory = given.get("default_factory")
    default = ast.unparse(value.args[0]) if value.args else ""
    if factory is not None:
        body = factory.body if isinstance(factory, ast.Lambda) else factory
        default = ast.unparse(body) + ("" if isinstance(factory, ast.Lambda) else "()")
    doc = given.get("description")
    sentence = doc.value if isinstance(doc, ast.Constant) else ""
    limits = [f"{word} {ast.unparse(given[key])}" for key, word in _LIMITS.items() if key in given]
    return default, str(sentence) + (f" ({', '.join(limits)})" if limits and sentence else "")


def _text(statement: ast.stmt) -> str:
    """The string that documents the field before it; empty where there is none."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""


def _nested(annotation: ast.expr) -> str:
    """What to say of a field that holds another config class and says nothing itself."""
    name = ast.unparse(annotation)
    return f"See `{name}`." if name.endswith(_SETTINGS_CLASSES) else ""


def _first_paragraph(doc: str | None) -> str:
    return " ".join((doc or "").partition("\n\n")[0].split())


def _sources(root: Path) -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module of the four packages."""
    for path in sorted(chain.from_iterable((root / name).rglob("*.py") for name in PACKAGES)):
        yield ".".join(path.relative_to(root).with_suffix("").parts), path


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *([_cell(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _page(title: str, sections: Sequence[Sequence[str]]) -> str:
    return (
        "\n\n".join(["\n".join(section) for section in ([_NOTE], [f"# {title}"], *sections)]) + "\n"
    )


def _cli_page() -> str:
    sections: list[Sequence[str]] = [
        ["Errors are one sentence on stderr with exit status 1, wrong usage is 2, Ctrl-C is 130."]
    ]
    for name, command in commands():
        context = typer.Context(command, info_name=name, terminal_width=100, max_content_width=100)
        records = [record for one in command.params if (record := one.get_help_record(context))]
        sections += [
            [f"## {name}"],
            [_unwrapped(command.help or "")],
            ["```", command.get_usage(context).removeprefix("Usage: "), "```"],
        ]
        if records:
            rows = [(f"`{given}`", text) for given, text in records]
            sections.append(_table(("option", "meaning"), rows))
        if below := getattr(command, "commands", None):
            sections.append([f"Commands: {', '.join(f'`{child}`' for child in below)}."])
    return _page("The command line", sections)


def _unwrapped(text: str) -> str:
    """Paragraphs of a docstring, one line each."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _settings_page(root: Path) -> str:
    sections: list[Sequence[str]] = [
        [_ABOUT_SETTINGS],
    ]
    for module, path in _sources(root):
        for name, doc, fields in settings(path):
            rows = [
                (f"`{one.name}`", f"`{one.type}`", one.default and f"`{one.default}`", one.doc)
                for one in fields
            ]
            sections += [
                [f"## {module}.{name}"],
                [doc],
                _table(("setting", "type", "default", "meaning"), rows),
            ]
    return _page("Settings", sections)


def _features_page() -> str:
    from ranking.features import (  # noqa: PLC0415 - numpy, for this page
        COUNTS,
        FEATURES,
        FEATURES_VERSION,
    )

    families: dict[str, list[Sequence[str]]] = {}
    for feature in (*FEATURES.values(), *COUNTS.values()):
        row = (f"`{feature.name}`", feature.unit, feature.description)
        families.setdefault(feature.family, []).append(row)
    sections: list[Sequence[str]] = [
        [_ABOUT_FEATURES.format(version=FEATURES_VERSION)],
    ]
    for family, rows in families.items():
        sections += [[f"## {family}"], _table(("feature", "unit", "meaning"), rows)]
    return _page("Features", sections)


def _expression_names_page() -> str:
    from ranking.expressions import FUNCTIONS, VARIABLES  # noqa: PLC0415 - numpy, for this page

    calls = [
        (", ".join(f"`{call}`" for call in function.signatures), function.meaning)
        for function in FUNCTIONS.values()
    ]
    variables = [(f"`{one.name}`", one.meaning) for one in VARIABLES.values()]
    sections: list[Sequence[str]] = [
        ["What a [ranking expression](expressions.md) can name besides its own."],
        ["## Functions"],
        _table(("call", "meaning"), calls),
        ["## Variables"],
        _table(("variable", "meaning"), variables),
    ]
    return _page("Names in ranking expressions", sections)


def _errors_page(root: Path) -> str:
    sections: list[Sequence[str]] = [
        ["Every error has a sentence that says what is wrong, with which value, and what to do."]
    ]
    for module, path in _sources(root):
        if path.name != "errors.py":
            continue
        classes = [node for node in ast.parse(path.read_bytes()).body if _is_error(node)]
        rows = [
            (
                f"`{node.name}`",
                ", ".join(f"`{ast.unparse(base)}`" for base in node.bases),
                _first_paragraph(ast.get_docstring(node)),
            )
            for node in classes
            if isinstance(node, ast.ClassDef)
        ]
        sections += [[f"## {module}"], _table(("error", "is a", "meaning"), rows)]
    return _page("Errors", sections)


def _is_error(node: ast.stmt) -> bool:
    return isinstance(node, ast.ClassDef) and bool(node.bases) and node.name != "Answer"


def metrics(root: Path) -> list[tuple[str, list[Family]]]:
    """Where metrics are told, and every metric that is told there."""
    return [
        ("GET /metrics: of the service", list(_declared(root / "serving" / "telemetry.py"))),
        ("GET /metrics: of the engine", list(NODE_FAMILIES)),
        ("GET /metrics/tenants: of each tenant", list(TENANT_FAMILIES)),
        (
            "--metrics-file of `headwater drift` and `headwater train --all`: of each tenant",
            list(_declared(root / "training" / "drift" / "metrics.py")),
        ),
    ]


def _declared(source: Path) -> Iterator[Family]:
    """The metrics that a module declares by `Counter`, `Gauge` or `Histogram`."""
    tree = ast.parse(source.read_bytes())
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Name) and call.func.id in _METRIC_KINDS:
            name, doc, *labels = (ast.literal_eval(argument) for argument in call.args)
            yield Family(name, _METRIC_KINDS[call.func.id], tuple(*labels), doc)


def _metrics_page(root: Path) -> str:
    sections: list[Sequence[str]] = [[_ABOUT_METRICS]]
    for place, families in metrics(root):
        sections.append([f"## {place}"])
        for one in families:
            labels = ", ".join(f"`{label}`" for label in one.labels)
            shown = f"{one.kind.capitalize()}{' by ' if labels else ''}{labels}. {one.doc}"
            sections += [[f"### {one.name}"], [shown]]
    return _page("Metrics", sections)


if __name__ == "__main__":
    write(Path.cwd(), Path(sys.argv[1]))
