"""Do the lock files fit pyproject.toml? Each requirement pinned, inside its range, with hashes.

Reads files only: no index, no resolver. `make lock` repairs what this finds.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_PIN = re.compile(r"^([\w.-]+)==([^\s;]+)")
_ADDRESS = re.compile(r"\w+://|^-i |^--(extra-)?index-url|^--find-links|^--trusted-host")


def pins(lock: Path) -> dict[str, str]:
    """Version by canonical name, of every requirement in a lock file."""
    found = (_PIN.match(line) for line in lock.read_text().splitlines())
    return {canonicalize_name(pin[1]): pin[2] for pin in found if pin}


def unhashed(lock: Path) -> Iterator[str]:
    """Names of the requirements in a lock file that have no hash."""
    blocks = lock.read_text().replace("\\\n", " ").splitlines()
    for line in blocks:
        if (pin := _PIN.match(line)) and "--hash=sha256:" not in line:
            yield pin[1]


def addresses(lock: Path) -> Iterator[str]:
    """Lines of a lock file that tie it to one index or mirror."""
    for line in lock.read_text().splitlines():
        if _ADDRESS.search(line):
            yield line.strip()


def wanted(pyproject: Path) -> list[Requirement]:
    """Every requirement of the project, of all its extras and of its build."""
    project = tomllib.loads(pyproject.read_text())
    lines = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(line for extra in project["project"]["optional-dependencies"].values() for line in extra),
    ]
    return [Requirement(line) for line in lines]


def problems(root: Path) -> list[str]:
    """Every mismatch as a sentence; empty where the locks fit."""
    lock, build_lock = root / "requirements.lock", root / "requirements-build.lock"
    pinned = pins(lock)
    found = [
        f"{lock.name}: {requirement} is " + (f"pinned to {version}" if version else "not pinned")
        for requirement in wanted(root / "pyproject.toml")
        if not (version := pinned.get(canonicalize_name(requirement.name)))
        or version not in requirement.specifier
    ]
    for name, version in pins(build_lock).items():
        if pinned.get(name, version) != version:
            found.append(f"{name} is {version} in {build_lock.name}, {pinned[name]} in {lock.name}")
    for path in (lock, build_lock):
        found += [f"{path.name}: {name} has no hash" for name in unhashed(path)]
        found += [f"{path.name}: names an index: {line}" for line in addresses(path)]
    return found


if __name__ == "__main__":
    mismatches = problems(Path(__file__).resolve().parent.parent)
    for mismatch in mismatches:
        print(mismatch, file=sys.stderr)
    if mismatches:
        sys.exit("run `make lock`")
    print("locks fit pyproject.toml")
