"""The process beside the service that follows the registry: `python -m serving.loader`.

It alone talks to the registry (and imports MLflow, where that is the registry). What a tenant's
aliases name is fetched, verified and handed over as a directory (`serving.handover`): `live`, then
`previous`, so that a roll-back fetches nothing, and `shadow`. A version that fails is reported
there, and the one before stays.
"""

import argparse
import fcntl
import os
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final

import structlog

from feeds.model import TenantId, check_tenant_id
from feeds.signals import stop_at_signals
from ranking.errors import RankingError, RegistryUnavailable
from ranking.files import sweep_drafts
from ranking.manifest import BundleLimits, check_files
from ranking.registry import (
    ALIASES,
    Alias,
    ModelRegistry,
    ModelVersion,
    open_registry,
    wall_clock_us,
)
from serving.handover import (
    bundle_name,
    clear_problem,
    is_bundle_name,
    left_behind,
    read_handed,
    withdraw,
    write_handed,
    write_problem,
    write_trained_hours,
)
from serving.logs import configure_logs
from serving.verify import LOAD_SECONDS_MAX, verify_apart

__all__ = ["Loader", "LoaderConfig", "main"]

_log = structlog.get_logger(__name__)

_FETCHING: Final = ".fetching-"


@dataclass(frozen=True, slots=True)
class LoaderConfig:
    """Limits of the loader."""

    poll_s: float = 2.0
    """Seconds between two looks at the aliases; longer where a look takes longer."""
    retry_first_s: float = 2.0
    """Seconds until what failed is tried again; doubled each time."""
    retry_max_s: float = 300.0
    """Seconds until what failed is tried again, at most."""
    old_versions_max: int = 1
    """Bundles of a tenant that stay besides those that an alias names."""
    tenants_max: int = 10_000
    """Tenants that are followed; further ones, in order of their names, are not."""
    check_s: float = 60.0
    """Seconds until a version is looked at again whose number is the same, since a registry may be
    another one; and until it is asked again how long tenants were trained."""
    model_bytes_max: int = 67_108_864
    """Bytes of a bundle's files; a larger model is not handed over."""


@dataclass(slots=True)
class _Failure:
    """The latest failure of an alias: which bundle it was (empty: the registry did not say).

    Times are monotonic seconds.
    """

    digest: str
    until_s: float
    pause_s: float


class Loader:
    """Follows the aliases of `tenants`, or of every tenant of the registry if it is empty.

    `verify` gets a bundle's directory and digest, and says what is wrong with it.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        out: Path,
        tenants: Sequence[TenantId] = (),
        config: LoaderConfig = LoaderConfig(),
        *,
        verify: Callable[[Path, str], str | None] = verify_apart,
        clock_us: Callable[[], int] = wall_clock_us,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._out = out
        self._tenants = tuple(tenants)
        self._config = config
        self._limits = BundleLimits(bytes_max=config.model_bytes_max)
        self._verify = verify
        self._clock_us = clock_us
        self._monotonic_s = monotonic_s
        self._settled: dict[tuple[TenantId, Alias], tuple[ModelVersion, float]] = {}
        self._failures: dict[tuple[TenantId, Alias], _Failure] = {}
        self._hours_again_s = 0.0

    def run(self, stop: threading.Event) -> None:
        """Poll until stopped; what fails is tried again after a while, never given up."""
        pause_s = self._config.retry_first_s
        while not stop.is_set():
            try:
                began_s = self._monotonic_s()
                self.poll(stop)
                pause_s = self._config.retry_first_s
                stop.wait(max(self._config.poll_s, self._monotonic_s() - began_s))
            except (RankingError, OSError) as error:
                _log.warning("registry_unavailable", problem=str(error), retry_s=pause_s)
                stop.wait(pause_s)
                pause_s = min(2 * pause_s, self._config.retry_max_s)

    def poll(self, stop: threading.Event | None = None) -> None:
        """Look at every tenant once, live models first.

        Raises `RankingError` where tenants cannot be listed.
        """
        named = self._registry.aliases()
        tenants = self._tenants or sorted(named)
        self._tell_trained_hours()
        for alias, tenant in product(ALIASES, tenants[: self._config.tenants_max]):
            if stop is not None and stop.is_set():
                return
            self._follow(tenant, alias, named.get(tenant, {}))

    def _tell_trained_hours(self) -> None:
        """Hand over how long tenants were trained, once a while, and as of when."""
        if self._monotonic_s() < self._hours_again_s:
            return
        self._hours_again_s = self._monotonic_s() + self._config.check_s
        try:
            hours = self._registry.all_trained_hours()
        except RankingError as error:  # no reason to leave models behind
            _log.warning("trained_hours_not_read", problem=str(error))
            return
        write_trained_hours(self._out, hours, self._clock_us())

    def _follow(self, tenant: TenantId, alias: Alias, named: Mapping[Alias, int] | None) -> None:
        """Hand over what an alias names; `named` None where that has to be asked for."""
        home, version = self._out / tenant, None
        try:
            if self._is_waiting(tenant, alias, "") or self._is_settled(tenant, alias, named):
                return
            if named is None or alias in named:
                version = self._registry.alias(tenant, alias)
            if version is None:
                if alias != "live":
                    withdraw(home, alias)
                return
            if version.version <= left_behind(self._out, tenant):
                return
            if self._is_waiting(tenant, alias, version.digest):
                return
            if not _is_handed_over(home, alias, version):
                self._hand_over(home, alias, version)
            clear_problem(home, alias)
            self._failures.pop((tenant, alias), None)
            self._settled[tenant, alias] = version, self._monotonic_s() + self._config.check_s
        except (RankingError, OSError) as error:
            self._settled.pop((tenant, alias), None)
            self._fail(tenant, alias, version, str(error))

    def _is_settled(
        self, tenant: TenantId, alias: Alias, named: Mapping[Alias, int] | None
    ) -> bool:
        """Whether the alias names what was handed over a while ago, which is still there."""
        version, until_s = self._settled.get((tenant, alias), (None, 0.0))
        return (
            version is not None
            and named is not None
            and named.get(alias) == version.version
            and self._monotonic_s() < until_s
            and (tenant, alias) not in self._failures
            and _is_handed_over(self._out / tenant, alias, version)
        )

    def _is_waiting(self, tenant: TenantId, alias: Alias, digest: str) -> bool:
        """Whether this failed a moment ago: another version than the one that did is tried."""
        failure = self._failures.get((tenant, alias))
        return (
            failure is not None
            and failure.digest == digest
            and self._monotonic_s() < failure.until_s
        )

    def _hand_over(self, home: Path, alias: Alias, version: ModelVersion) -> None:
        """Let the alias name the version; one that was verified before is not fetched again."""
        began_s = self._monotonic_s()
        home.mkdir(parents=True, exist_ok=True)
        path = home / bundle_name(version)
        if path.exists() and (problem := self._damage(path, version)):
            _log.warning("handed_bundle_damaged", tenant=version.tenant, problem=problem)
            shutil.rmtree(path)
        if not path.exists():
            self._fetch(version, path)
        path.touch()  # the bundles that were named last are kept
        write_handed(home, version, alias)
        _prune(home, self._config.old_versions_max)
        took_ms = round(1_000 * (self._monotonic_s() - began_s))
        _log.info(
            "model_handed_over",
            tenant=version.tenant,
            alias=alias,
            version=version.version,
            digest=version.digest,
            took_ms=took_ms,
        )

    def _damage(self, path: Path, version: ModelVersion) -> str | None:
        """What is wrong with the bytes of a bundle; None if it is what was published."""
        try:
            check_files(path, version.digest, self._limits)
        except RankingError as error:
            return str(error)
        return None

    def _fetch(self, version: ModelVersion, path: Path) -> None:
        draft = path.with_name(f"{_FETCHING}{path.name}")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            self._registry.fetch(version, draft)
            problem = self._damage(draft, version) or self._verify(draft, version.digest)
            if problem:
                raise RankingError(problem)
            draft.rename(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _fail(
        self, tenant: TenantId, alias: Alias, version: ModelVersion | None, problem: str
    ) -> None:
        before = self._failures.get((tenant, alias))
        digest = version.digest if version else ""
        pause_s = self._config.retry_first_s
        if before is not None and before.digest == digest:
            pause_s = min(2 * before.pause_s, self._config.retry_max_s)
        self._failures[tenant, alias] = _Failure(digest, self._monotonic_s() + pause_s, pause_s)
        number = version.version if version else 0
        _log.error(
            "model_refused",
            tenant=tenant,
            alias=alias,
            version=number,
            problem=problem,
            retry_s=pause_s,
        )
        try:
            home = self._out / tenant
            home.mkdir(parents=True, exist_ok=True)
            write_problem(home, number, problem, self._clock_us(), alias)
        except OSError as error:
            _log.error("problem_not_written", tenant=tenant, problem=str(error))


def _is_handed_over(home: Path, alias: Alias, version: ModelVersion) -> bool:
    try:
        handed = read_handed(home, alias)
    except RankingError:
        return False
    return (
        handed is not None
        and (handed.version, handed.digest) == (version.version, version.digest)
        and (home / handed.path).is_dir()
    )


def _prune(home: Path, old_max: int) -> None:
    """Remove all bundles but those that an alias names and those that were named last."""
    named = set()
    for alias in ALIASES:
        with suppress(RankingError):  # a file that says nothing names no bundle
            named.add(handed.path if (handed := read_handed(home, alias)) else "")
    bundles = [
        path for path in home.iterdir() if is_bundle_name(path.name) and path.name not in named
    ]
    bundles.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in bundles[old_max:]:
        shutil.rmtree(path, ignore_errors=True)


def sweep(out: Path) -> None:
    """Remove what a killed loader left half done; hold the lock."""
    for home in out.iterdir():
        if home.is_dir():
            sweep_drafts(home)
            for draft in home.glob(f"{_FETCHING}*"):
                shutil.rmtree(draft, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Follow the registry until SIGTERM, or until the parent at the other end of stdin is gone."""
    given = _parser().parse_args(arguments)
    configure_logs("info", given.log_format)
    stop = threading.Event()
    stop_at_signals(stop)
    _stop_at_end_of_input(stop)
    config = LoaderConfig(
        poll_s=given.poll_s, old_versions_max=given.keep, model_bytes_max=given.model_bytes_max
    )
    verify = partial(verify_apart, seconds_max=given.model_load_s_max)
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.out / "LOCK").open("ab") as lock:
        if _lock(lock.fileno(), stop, config):
            sweep(given.out)
            registry = _open(given.registry, stop, config)
            if registry is not None:
                _log.info("loader_started", out=str(given.out), tenants=given.tenants or "all")
                loader = Loader(registry, given.out, given.tenants, config, verify=verify)
                loader.run(stop)
                registry.close()
    _log.info("loader_stopped")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m serving.loader", description=main.__doc__)
    parser.add_argument("--registry", required=True, help="as `headwater serve`'s")
    parser.add_argument("--out", required=True, type=Path, help="directory to hand models over in")
    parser.add_argument(
        "--tenants",
        nargs="*",
        type=check_tenant_id,
        default=[],
        help="tenants to follow; all of the registry's, also later ones, where none is named",
    )
    parser.add_argument("--poll-s", type=float, default=2.0, help="seconds between two looks")
    parser.add_argument(
        "--keep", type=int, default=1, help="bundles to keep of a tenant that no alias names"
    )
    parser.add_argument(
        "--model-bytes-max",
        type=int,
        default=LoaderConfig().model_bytes_max,
        help="bytes of a bundle's files; a larger model is refused",
    )
    parser.add_argument(
        "--model-load-s-max",
        type=float,
        default=LOAD_SECONDS_MAX,
        help="seconds that loading a model may take; a slower one is refused",
    )
    parser.add_argument(
        "--log-format", choices=("json", "text"), default="json", help="how log lines are written"
    )
    return parser


def _stop_at_end_of_input(stop: threading.Event) -> None:
    """Set `stop` when the parent at the other end of the standard input is gone.

    A terminal or /dev/null is no parent.
    """
    kind = os.fstat(0).st_mode
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
        return

    def read() -> None:
        while os.read(0, 4_096):
            pass
        stop.set()

    threading.Thread(target=read, name="parent", daemon=True).start()


def _lock(handle: int, stop: threading.Event, config: LoaderConfig) -> bool:
    """Wait until no other loader works in the directory; False if stopped before."""
    while not stop.is_set():
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("another_loader_runs", retry_s=config.poll_s)
            stop.wait(config.poll_s)
        else:
            return True
    return False


def _open(uri: str, stop: threading.Event, config: LoaderConfig) -> ModelRegistry | None:
    """The registry, however long it takes to be there; None if stopped before."""
    pause_s = config.retry_first_s
    while not stop.is_set():
        try:
            return open_registry(uri)
        except RegistryUnavailable as error:
            _log.warning("registry_unavailable", problem=str(error), retry_s=pause_s)
            stop.wait(pause_s)
            pause_s = min(2 * pause_s, config.retry_max_s)
    return None


if __name__ == "__main__":
    sys.exit(main())
