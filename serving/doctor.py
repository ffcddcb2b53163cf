"""`headwater doctor`: what this installation consists of, what is missing, and how to get it.

Looks at metadata, module specs and the machine; imports none of the libraries that it reports on.
"""

import importlib.util
import json
import os
import platform
import resource
import shutil
import socket
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import unquote, urlparse

import typer

from feeds.config import FeedsConfig
from serving.extras import DISTRIBUTION, module_of, requirements

__all__ = ["Finding", "State", "command", "examine"]

State = Literal["ok", "warning", "missing"]
"""`missing` is something needed; `warning` works, but may surprise."""

PACKAGES: Final = ("feeds", "ranking", "training", "serving")
GIB: Final = 1024**3

DISK_FREE_MIN: Final = 2 * GIB
"""Free bytes below which the data directory's disk is warned about."""

MEMORY_FREE_MIN: Final = 2 * GIB
"""Available bytes of memory below which training may not fit."""

FILES_MIN: Final = 1024
"""Open files that RocksDB and the API may need together."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `remedy` says what to do where `state` is not ok."""

    area: str
    name: str
    state: State
    detail: str
    remedy: str = ""


def command(
    data_dir: Annotated[
        Path, typer.Option(envvar="HEADWATER_DATA_DIR", help="The engine's data directory.")
    ] = Path(".headwater/data"),
    port: Annotated[
        int, typer.Option(envvar="HEADWATER_PORT", help="The port that the service would take.")
    ] = 8000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what is installed, where it is imported from, and what is missing.

    Exit status 1 if something needed is missing.
    """
    findings = list(examine(data_dir, port))
    missing = [finding for finding in findings if finding.state == "missing"]
    if as_json:
        report = {"ok": not missing, "findings": [asdict(finding) for finding in findings]}
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(findings)
    if missing:
        raise typer.Exit(1)


def examine(data_dir: Path, port: int) -> Iterator[Finding]:
    """Everything there is to say of this process's Python, packages, machine and data directory."""
    yield from _python()
    yield from _own_packages()
    for extra, wanted in requirements().items():
        for name, versions in wanted.items():
            yield _requirement(extra, name, versions)
    yield from _machine()
    yield from _compiler()
    yield from _data_directory(data_dir)
    yield _port(port)


def _python() -> Iterator[Finding]:
    detail = f"{platform.python_version()}, {platform.python_implementation()}, {sys.executable}"
    yield Finding("python", "python", "ok", detail)
    yield Finding("python", "site-packages", "ok", sysconfig.get_path("purelib"))


def _own_packages() -> Iterator[Finding]:
    home = _home()
    yield Finding("headwater", DISTRIBUTION, "ok", f"{metadata.version(DISTRIBUTION)} in {home}")
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        places = list((spec and spec.submodule_search_locations) or [])
        if str(home / package) in places:
            yield Finding("headwater", package, "ok", str(home / package))
        elif places:
            yield Finding(
                "headwater",
                package,
                "warning",
                f"imported from {places[0]}, not from {home / package}",
                f"another package is called {package}: uninstall it, or move it off sys.path",
            )
        else:
            yield Finding(
                "headwater", package, "missing", "not found", f"pip install '{DISTRIBUTION}'"
            )


def _home() -> Path:
    """The directory that our packages should be imported from: the checkout, or site-packages."""
    distribution = metadata.distribution(DISTRIBUTION)
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return Path(unquote(urlparse(origin["url"]).path))
    return Path(str(distribution.locate_file(""))).resolve()


def _requirement(extra: str, name: str, versions: str) -> Finding:
    area = f"extra {extra}" if extra else "needed"
    remedy = f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install '{DISTRIBUTION}'"
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        state: State = "warning" if extra else "missing"
        return Finding(area, name, state, f"not installed (wanted {versions or 'any'})", remedy)
    place = _place(name) or str(distribution.locate_file(""))
    detail = f"{distribution.version} in {place}"
    if not _fits(distribution.version, versions):
        return Finding(area, name, "warning", f"{detail}, outside {versions}", remedy)
    return Finding(area, name, "ok", detail)


def _place(distribution: str) -> str | None:
    """Where the module of a distribution is imported from; nothing is imported to find out."""
    spec = importlib.util.find_spec(module_of(distribution))
    return str(Path(spec.origin).parent) if spec and spec.origin else None


def _fits(version: str, versions: str) -> bool:
    """Whether a version lies in a range; true where nothing here can tell."""
    if importlib.util.find_spec("packaging") is None:
        return True
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415 - not a requirement of ours

    return SpecifierSet(versions).contains(version, prereleases=True)


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    yield Finding("machine", "cores", "ok", f"{cores}, {platform.machine()}, {platform.platform()}")
    yield _memory()
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    short = files != resource.RLIM_INFINITY and files < FILES_MIN
    yield Finding(
        "machine",
        "open files",
        "warning" if short else "ok",
        f"{files} at most",
        f"ulimit -n {FILES_MIN}" if short else "",
    )


def _memory() -> Finding:
    sizes = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(sizes[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    detail = f"{free / GIB:.1f} of {total / GIB:.1f} GiB available"
    if free < MEMORY_FREE_MIN:
        return Finding("machine", "memory", "warning", detail, "training may need 2 GiB: free some")
    return Finding("machine", "memory", "ok", detail)


def _compiler() -> Iterator[Finding]:
    """What compiling LightFM takes; of no matter once it is installed."""
    built = importlib.util.find_spec("lightfm") is not None
    compiler = shutil.which("gcc") or shutil.which("cc")
    yield Finding(
        "machine",
        "gcc",
        "ok" if compiler or built else "warning",
        compiler or "not found",
        "" if compiler or built else "apt-get install gcc libc6-dev: LightFM is compiled",
    )
    header = Path(sysconfig.get_path("include"), "Python.h")
    found = header.exists()
    yield Finding(
        "machine",
        "Python.h",
        "ok" if found or built else "warning",
        str(header) if found else "not found",
        "" if found or built else "apt-get install python3.11-dev: LightFM is compiled",
    )


def _data_directory(data_dir: Path) -> Iterator[Finding]:
    path = data_dir.resolve()
    existing = next(place for place in (path, *path.parents) if place.exists())
    owner = _owner(path)
    detail = f"{path} {'exists' if existing == path else 'will be made'}{owner}"
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        yield Finding("data", "directory", "ok", detail)
    else:
        remedy = "name a directory that you may write to with --data-dir or HEADWATER_DATA_DIR"
        yield Finding("data", "directory", "missing", f"{existing} cannot be written to", remedy)
    yield _disk(existing)


def _owner(path: Path) -> str:
    try:
        pid = (path / "LOCK").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
    alive = pid.isdigit() and Path("/proc", pid).exists()
    return f", used by process {pid}" if alive else ""


def _disk(existing: Path) -> Finding:
    free = shutil.disk_usage(existing).free
    reserve = FeedsConfig().disk_reserve_bytes
    detail = f"{free / GIB:.1f} GiB free at {existing}"
    if free < reserve:
        remedy = f"nothing is written below {reserve / GIB:.2f} GiB: make room, or move the data"
        return Finding("data", "disk", "missing", detail, remedy)
    if free < DISK_FREE_MIN:
        return Finding("data", "disk", "warning", detail, "make room before it runs out")
    return Finding("data", "disk", "ok", detail)


def _port(port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            detail = f"{port} cannot be taken: {error.strerror}"
            remedy = "stop what listens there, or choose another: headwater serve --port 0"
            return Finding("machine", "port", "warning", detail, remedy)
    return Finding("machine", "port", "ok", f"{port} is free")


def _print(findings: list[Finding]) -> None:
    from rich.console import Console  # noqa: PLC0415 - only where a table is printed
    from rich.markup import escape  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    colours = {"ok": "green", "warning": "yellow", "missing": "red"}
    table = Table(box=None, pad_edge=False)
    for heading in ("area", "name", "state", "detail"):
        table.add_column(heading, overflow="fold")
    site = sysconfig.get_path("purelib") + os.sep
    for finding in findings:
        state = f"[{colours[finding.state]}]{finding.state}[/]"
        detail = finding.detail.replace(site, f"site-packages{os.sep}")
        table.add_row(finding.area, finding.name, state, escape(detail))
    console = Console()
    console.print(table)
    for finding in findings:
        if finding.state != "ok":
            line = f"{finding.state}: {finding.name}: {finding.detail}"
            console.print(line, soft_wrap=True, markup=False)
            console.print(f"  {finding.remedy}", soft_wrap=True, markup=False)
    if all(finding.state == "ok" for finding in findings):
        console.print("nothing is missing")
