"""Which extra of the distribution brings a module: so that a missing one can be told with its cure.

Everything is read from the installed metadata of `headwater`; nothing is imported.
"""

import importlib.metadata
import re
from collections.abc import Mapping

__all__ = ["DISTRIBUTION", "cure", "distribution_of", "module_of", "requirements"]

DISTRIBUTION = "headwater"

_IMPORTED_AS: Mapping[str, str] = {
    "importlinter": "import-linter",
    "lightfm": "lightfm-next",
    "sklearn": "scikit-learn",
    "xdist": "pytest-xdist",
    "yaml": "pyyaml",
    "xgboost": "xgboost-cpu",
}
"""Modules whose distribution has another name, beyond `_` for `-`."""

_REQUIREMENT = re.compile(
    r"""(?P<name>[\w.-]+) (\[[^]]*\])? (?P<version>[^;]*)
        (;\s*extra\s==\s["'](?P<extra>[^"']+))?""",
    re.VERBOSE,
)


def distribution_of(module: str) -> str:
    """The name of the distribution that brings a module, as this project requires it."""
    top = module.partition(".")[0]
    return _IMPORTED_AS.get(top, top.lower().replace("_", "-"))


def module_of(distribution: str) -> str:
    """The module that a distribution is imported as: `distribution_of` the other way round."""
    modules = {name: module for module, name in _IMPORTED_AS.items()}
    return modules.get(distribution, distribution.replace("-", "_"))


def requirements() -> dict[str, dict[str, str]]:
    """Version ranges by extra and distribution; every installation needs those of extra `""`."""
    extras: dict[str, dict[str, str]] = {"": {}}
    for line in importlib.metadata.requires(DISTRIBUTION) or []:
        if matched := _REQUIREMENT.match(line):
            extra = extras.setdefault(matched["extra"] or "", {})
            extra[matched["name"].lower()] = matched["version"].strip()
    return extras


def cure(module: str) -> str | None:
    """How to get a missing module, as the end of a sentence; None where we do not require it."""
    wanted = distribution_of(module)
    for extra, names in requirements().items():
        if wanted in names:
            target = f"{DISTRIBUTION}[{extra}]" if extra else DISTRIBUTION
            return f"run `pip install '{target}'`, or `make setup` in a checkout"
    return None
