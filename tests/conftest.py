"""How Hypothesis runs: no example fails for being slow, and CI tries the same ones every time.

And the option that rewrites what scenario scripts answer.
"""

import os

import pytest
from hypothesis import settings

settings.register_profile("developer", deadline=None, print_blob=True)
settings.register_profile("ci", settings.get_profile("developer"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "developer")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="rewrite the answers of scenarios")
