"""What the pages point to is there: files, headings, make targets, commands."""

import json
import re
import subprocess
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
        *(ROOT / "deploy").glob("*.md"),
        *(ROOT / "notebooks").glob("*.md"),
        *(
            path
            for package in ("feeds", "ranking", "serving", "training")
            for path in ROOT.glob(f"{package}/*.md")
        ),
    ]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"```.*?```", re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(BLOCK.sub("", page.read_text())):
        if re.match(r"\w+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def code_of(page: Path) -> str:
    """The lines of a page's code blocks, and its inline code."""
    text = page.read_text()
    inline = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    return "\n".join([*(block.strip("`") for block in BLOCK.findall(text)), *inline])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_that_a_page_names_exist(page: Path) -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = set(re.findall(r"make ([a-z-]+)", listed.stdout))
    named = re.findall(r"^(?:\S*=\S* )*make ([a-z][a-z-]*)", code_of(page), re.MULTILINE)
    assert set(named) - targets == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_headwater_commands_that_a_page_names_exist(page: Path) -> None:
    commands = {found.name for found in entry_points(group="headwater.commands")}
    named = re.findall(r"^(?:\S*bin/)?headwater ([a-z]+)", code_of(page), re.MULTILINE)
    assert set(named) - commands == set()


def test_readme_shows_the_first_two_commands_on_its_first_screen() -> None:
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:30])
    assert "make demo" in first
    assert "make test" in first


def test_every_decision_is_numbered_listed_and_half_a_page() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    listed = (ROOT / "docs" / "decisions" / "README.md").read_text()
    numbers = [path.name[:4] for path in decisions]
    assert [f"{place:04}" for place in range(1, len(decisions) + 1)] == numbers
    for path in decisions:
        assert f"({path.name})" in listed
        assert len(path.read_text().split()) <= 400, path.name


def test_every_notebook_is_on_the_page_of_notebooks() -> None:
    told = LINK.findall((ROOT / "notebooks" / "README.md").read_text())
    assert [path.name for path in sorted((ROOT / "notebooks").glob("*.py"))] == told


def test_notebooks_are_kept_without_outputs() -> None:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
