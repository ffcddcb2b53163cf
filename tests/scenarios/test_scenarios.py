"""The stories in tests/scenarios: each command does what the script says it does.

`pytest tests/scenarios --update` writes what they answer now; read the difference before you keep
it.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from feeds.errors import InvalidInput
from feeds.simulation.scenario import Scenario
from feeds.testing_scenarios import ScriptCommand, play

HERE = Path(__file__).parent
DESIGN = HERE.parents[1] / "feeds" / "DESIGN.md"
SCRIPTS = sorted((HERE / "replication").glob("*.txt"))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_story_is_what_happens(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    script = path.read_text()
    scenario = Scenario(tmp_path / "nodes")
    try:
        played = play(script, scenario.run)
    finally:
        scenario.close()
    if request.config.getoption("--update"):
        path.write_text(played)
    else:
        assert script == played, "what happens is another story: --update, and read the difference"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_story_says_which_rule_of_the_design_it_shows(path: Path) -> None:
    first, *_ = path.read_text().splitlines()
    design = " ".join(DESIGN.read_text().replace("**", "").split())
    assert first.startswith("# ")
    assert first[2:] in design, f"{path.name} begins with no words of feeds/DESIGN.md"


def test_every_command_has_a_manual_that_shows_it() -> None:
    for name, command in vars(Scenario).items():
        if name.startswith("do_"):
            assert (command.__doc__ or "").startswith(f"`{name[3:].replace('_', '-')}")


def test_answers_are_written_below_their_blocks() -> None:
    script = "# A story.\n\nsay a\nsay d\n---\nold\nolder\n\nbe quiet\n---"

    def say(command: ScriptCommand) -> list[str]:
        return [] if command.name == "be" else [f"{command.line}: {command.words[0]}"]

    played = "# A story.\n\nsay a\nsay d\n---\n3: a\n4: d\n\nbe quiet\n---\nok\n"
    assert played == play(script, say)
    assert played == play(played, say)


def test_mistakes_of_a_script_are_told_by_line(tmp_path: Path) -> None:
    scenario = Scenario(tmp_path)
    with pytest.raises(InvalidInput, match=r"line 2: .* ends with a line of ---"):
        play("# A story.\nrun 1s\n\n", scenario.run)
    with pytest.raises(InvalidInput, match="begins with `cluster") as raised:
        play("run 1s\n---\n", scenario.run)
    assert raised.value.__notes__ == ["in line 1 of the script: run"]
    with pytest.raises(InvalidInput, match="no command 'dance': write barrier"):
        play("dance\n---\n", scenario.run)
