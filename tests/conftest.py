"""How Hypothesis runs: no example fails for being slow, and CI tries the same ones every time.

And logs as before for each test, and the option that rewrites what scenario scripts answer.
"""

import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

settings.register_profile("developer", deadline=None, print_blob=True)
settings.register_profile("ci", settings.get_profile("developer"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "developer")


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """What a command that runs in a test says of logs holds for no other test."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="rewrite the answers of scenarios")
