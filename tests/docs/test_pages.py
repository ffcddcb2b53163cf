"""The generated pages are those that the code gives, and leave nothing out."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from feeds.config import FeedsConfig
from ranking.config import RankingConfig
from ranking.features import COUNTS, FEATURES
from serving import docs
from serving.docs_ranking import config_groups
from serving.node_metrics import NODE_FAMILIES
from serving.settings import Settings
from serving.telemetry import Metrics
from serving.tenant_metrics import TENANT_FAMILIES
from training.drift.metrics import GAUGES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return docs.pages(ROOT)


@pytest.mark.parametrize(
    "name",
    [
        "cli.md",
        "errors.md",
        "expression-names.md",
        "features.md",
        "metrics.md",
        "ranking-config.md",
        "settings.md",
    ],
)
def test_page_is_not_stale(name: str, pages: dict[str, str]) -> None:
    assert (ROOT / "docs" / name).read_text() == pages[name], "run `make docs`"


def test_every_page_is_generated(pages: dict[str, str]) -> None:
    marked = [
        path.name
        for path in (ROOT / "docs").glob("*.md")
        if path.read_text().startswith("<!-- Made")
    ]
    assert sorted(pages) == sorted(marked)


def test_every_command_has_a_sentence_of_help_and_a_heading(pages: dict[str, str]) -> None:
    for name, command in docs.commands():
        assert f"\n## {name}\n" in pages["cli.md"]
        first = (command.help or "").partition("\n")[0]
        assert re.search(r"\w+ .*[.:]$", first) or first, f"`{name} --help` says nothing"


def test_every_option_of_a_command_says_what_it_means() -> None:
    silent = [
        f"{name} {parameter.name}"
        for name, command in docs.commands()
        for parameter in command.params
        if not getattr(parameter, "help", "")
    ]
    assert silent == []


def test_every_setting_is_on_its_page_with_its_meaning(pages: dict[str, str]) -> None:
    for name in (*Settings.model_fields, *FeedsConfig.__slots__):
        assert re.search(
            rf"^\| `{name}` \|.*\| [^|]+\.[^|]*\|$", pages["settings.md"], re.MULTILINE
        ), name


def test_every_field_of_a_config_class_has_a_docstring() -> None:
    silent = [
        f"{path.relative_to(ROOT)}:{class_name}.{field.name}"
        for package in docs.PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for class_name, _, fields in docs.settings(path)
        for field in fields
        if not field.doc
    ]
    assert silent == []


def test_every_feature_is_on_its_page(pages: dict[str, str]) -> None:
    for feature in (*FEATURES.values(), *COUNTS.values()):
        assert f"| `{feature.name}` | {feature.unit} |" in pages["features.md"]


def test_every_metric_is_on_its_page(pages: dict[str, str]) -> None:
    told = [metric.name for metric in Metrics().registry.collect()]
    told += [family.name for family in (*NODE_FAMILIES, *TENANT_FAMILIES, *GAUGES)]
    for name in told:
        assert f"\n### {name}\n" in pages["metrics.md"]


def test_every_field_of_a_ranking_config_is_on_its_page(pages: dict[str, str]) -> None:
    page = pages["ranking-config.md"]
    named = 0
    for path, about, fields in config_groups():
        section = page.partition(f"\n## {path}\n")[2].partition("\n## ")[0]
        assert about in section
        for field in fields:
            row = rf"^\| `{field.name}` \|.*\w\S*\.( \(.*\))? \|$"
            assert re.search(row, section, re.MULTILINE), field
            named += 1
    assert named == len(list(leaves(RankingConfig.default().personalized.model_dump()))) + 2


def leaves(document: Mapping[str, object]) -> Iterator[object]:
    for value in document.values():
        if isinstance(value, Mapping):
            yield from leaves(value)
        else:
            yield value
