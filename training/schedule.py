"""Training without being asked: who is due, one scheduler each, and going on after a kill.

What is known of a tenant lies beside its bundles, in `out/<tenant>`:

    train.lock     held with flock while it is trained: the kernel releases it, whatever ends us
    running.json   what is being trained, since when; there after a kill, and only then
    trained.json   what was trained last, or why it failed

`due_reason` decides, without a clock or a disk; `train_due` does one round.
"""

import contextlib
import fcntl
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

from feeds.model import TenantId, check_tenant_id, format_time
from ranking.errors import BundleDamaged
from ranking.files import replace_file
from ranking.manifest import LIMITS
from ranking.manifest import read_manifest as read_bundle_manifest
from ranking.registry import Alias, ModelVersion, open_registry, wall_clock_us
from training.config import DAY_S, BudgetConfig, ClusterConfig, ScheduleConfig, TrainingConfig
from training.errors import TOLD, MinutesSpent, TrainingError
from training.events.log import read_manifest
from training.flow import TrainingResult, place_version, train_tenant
from training.gates.promotion import gates_of
from training.minutes import minutes_of
from training.sources.base import Progress, no_progress

__all__ = [
    "Outcome",
    "TrainedState",
    "due_reason",
    "exported_tenants",
    "tenant_lock",
    "train_due",
    "watch",
]

LOCK: Final = "train.lock"
RUNNING: Final = "running.json"
TRAINED: Final = "trained.json"

Did = Literal["trained", "resumed", "waiting", "held", "spent", "failed"]

_SECOND_US: Final = 1_000_000


class TrainedState(msgspec.Struct, frozen=True, kw_only=True):
    """The last training of a tenant: from how many `events`, and when it began.

    `version` is the registry's number; None where nothing was published, then `problem` says why.
    """

    events: int
    began_us: int
    version: int | None = None
    problem: str = ""


class _Running(msgspec.Struct, frozen=True, kw_only=True):
    """A training that has begun: its bundle says that it was trained at `began_us`."""

    events: int
    began_us: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a round did with a tenant: `trained`, `resumed`, `waiting`, `held`, `spent`, `failed`.

    `held` is a tenant that another scheduler trains, `resumed` one whose version was published
    before a kill and is now noted, `spent` one that is due and has no minutes left. `reason` is a
    sentence.
    """

    tenant: str
    did: Did
    reason: str
    version: int | None = None


def due_reason(
    state: TrainedState | None, events: int, now_us: int, config: ScheduleConfig
) -> str | None:
    """Why a tenant with so many exported events is due to be trained; None where it is not. Pure.

    >>> due_reason(None, 50, 0, ScheduleConfig())
    'it was never trained'
    >>> due_reason(TrainedState(events=100, began_us=0), 200, 0, ScheduleConfig())
    >>> due_reason(TrainedState(events=100, began_us=0), 1_100, 0, ScheduleConfig())
    '1000 new events'
    """
    if state is None:
        return "it was never trained" if events else None
    new = events - state.events
    age_s = (now_us - state.began_us) / _SECOND_US
    if new >= config.new_events_min:
        return f"{new} new events"
    if state.problem:
        return "its training failed and is tried again" if age_s >= config.retry_s else None
    if new > 0 and age_s >= config.age_s_max:
        return f"{new} new events, and its model is {age_s / DAY_S:.1f} days old"
    return None


def exported_tenants(export: Path, config: ScheduleConfig) -> list[TenantId]:
    """The tenants of an export, in order; raises `TrainingError` for none, or too many."""
    found = sorted(path.parent.name for path in export.glob("tenant=*/manifest.json"))
    if not found:
        raise TrainingError(
            f"{export} has no exported tenant: run `headwater export --tenant NAME --out {export}`"
        )
    if len(found) > config.tenants_max:
        raise TrainingError(
            f"{export} has {len(found)} tenants, tenants_max is {config.tenants_max}: spread them "
            "over several exports"
        )
    return [check_tenant_id(name.removeprefix("tenant=")) for name in found]


@contextlib.contextmanager
def tenant_lock(home: Path) -> Iterator[bool]:
    """Whether this block has the tenant to itself, among threads and processes of this machine.

    It is not waited for: who trains it will be done with it.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def train_due(
    export: Path,
    *,
    out: Path,
    registry: str,
    tenants: Sequence[str] = (),
    schedule: ScheduleConfig | None = None,
    config: TrainingConfig | None = None,
    promote: bool = False,
    scheduler: str | None = None,
    cluster: ClusterConfig | None = None,
    progress: Progress = no_progress,
    clock: Callable[[], int] = wall_clock_us,
) -> list[Outcome]:
    """One round: train every tenant that is due, one after another; all of the export, or those.

    A tenant's error is its outcome, and the next one is trained. Raises `TrainingError` where the
    export has no tenants, or `RankingError` where the registry cannot be reached.
    """
    schedule = (schedule or ScheduleConfig()).check()
    names = [check_tenant_id(name) for name in tenants] or exported_tenants(export, schedule)
    open_registry(registry).close()  # what is wrong with it is told before the work
    budget = (config or TrainingConfig()).budget
    train = functools.partial(
        train_tenant,
        export,
        out=out,
        registry=registry,
        promote=promote,
        config=config,
        scheduler=scheduler,
        cluster=cluster,
    )
    outcomes = []
    for name in names:
        with tenant_lock(out / name) as alone:
            if not alone:
                outcomes.append(_outcome(name, "held", "another scheduler trains it"))
                continue
            home = _Home(out / name, name, registry)
            outcomes.append(_one(export, home, schedule, budget, train, promote, progress, clock))
    return outcomes


def watch(
    look: Callable[[], list[Outcome]],
    told: Callable[[list[Outcome]], None],
    config: ScheduleConfig,
    *,
    rounds: int | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Look again and again, for ever or for some `rounds`; `told` hears of every round.

    A round that cannot be (the registry is away, nothing is exported yet) is told as failed, and
    the next one is tried.
    """
    done = 0
    while rounds is None or done < rounds:
        try:
            told(look())
        except TOLD as error:
            told([_outcome("", "failed", str(error))])
        done += 1
        if rounds is None or done < rounds:
            pause(config.look_every_s)


@dataclass(frozen=True, slots=True)
class _Home:
    """What is known of a tenant, on disk; to be used by who holds its lock."""

    path: Path
    tenant: TenantId
    registry: str

    def state(self) -> TrainedState | None:
        return _read(self.path / TRAINED, TrainedState)

    def running(self) -> _Running | None:
        return _read(self.path / RUNNING, _Running)

    def begin(self, running: _Running) -> None:
        replace_file(self.path / RUNNING, msgspec.json.encode(running))

    def end(self, state: TrainedState) -> None:
        """Note what was trained; only then is nothing running any more."""
        replace_file(self.path / TRAINED, msgspec.json.encode(state))
        (self.path / RUNNING).unlink(missing_ok=True)

    def published(self, running: _Running) -> ModelVersion | None:
        """The version that a training published before it was killed."""
        began = format_time(running.began_us)
        with contextlib.closing(open_registry(self.registry)) as opened:
            versions = {version.digest: version for version in opened.versions(self.tenant)}
        for bundle in sorted(self.path.glob("bundle-*")):
            with contextlib.suppress(BundleDamaged):
                manifest, digest = read_bundle_manifest(bundle, LIMITS)
                if manifest.trained_at == began and digest in versions:
                    return versions[digest]
        return None

    def check_minutes(self, export: Path, budget: BudgetConfig, now_us: int) -> None:
        """Raise `MinutesSpent` where the tenant has none left."""
        with contextlib.closing(open_registry(self.registry)) as opened:
            minutes_of(opened, export, self.tenant, budget, now_us).check()

    def place(self, version: ModelVersion, promote: bool) -> None:
        """Put it live or on trial, if the kill came before that."""
        with contextlib.closing(open_registry(self.registry)) as opened:
            for name in _PLACED:
                found = opened.alias(self.tenant, name)
                if found is not None and found.version == version.version:
                    return
            gates = gates_of(opened, version)
            if gates is not None:
                place_version(opened, version, gates, promote)


def _one(
    export: Path,
    home: _Home,
    schedule: ScheduleConfig,
    budget: BudgetConfig,
    train: Callable[..., TrainingResult],
    promote: bool,
    progress: Progress,
    clock: Callable[[], int],
) -> Outcome:
    """What is to be done with a tenant whose lock is held."""
    try:
        running = home.running()
        if running is not None and (version := home.published(running)) is not None:
            home.place(version, promote)
            home.end(_state(running, version.version))
            said = "it was published before the training was killed"
            return _outcome(home.tenant, "resumed", said, version.version)
        _, manifest = read_manifest(export, home.tenant)
        events = sum(file.rows for file in manifest.files)
        reason = due_reason(home.state(), events, clock(), schedule)
        if running is not None:
            reason = "its training was killed"
        if reason is None:
            return _outcome(home.tenant, "waiting", _waiting(home.state(), events))
        home.check_minutes(export, budget, clock())
    except MinutesSpent as error:
        return _outcome(home.tenant, "spent", str(error))
    except TOLD as error:
        return _outcome(home.tenant, "failed", str(error))
    began = _Running(events=events, began_us=clock())
    home.begin(began)
    return _trained(home, began, reason, functools.partial(train, wall=clock), progress)


def _trained(
    home: _Home,
    began: _Running,
    reason: str,
    train: Callable[..., TrainingResult],
    progress: Progress,
) -> Outcome:
    def tell(what: str, done: int, total: int | None) -> None:
        progress(f"{home.tenant}: {what}", done, total)

    try:
        result = train(home.tenant, progress=tell, clock=lambda: began.began_us)
    except TOLD as error:
        home.end(_state(began, problem=str(error)))
        return _outcome(home.tenant, "failed", str(error))
    home.end(_state(began, result.version))
    return _outcome(home.tenant, "trained", reason, result.version)


_PLACED: Final[tuple[Alias, ...]] = ("live", "shadow")

Read = TypeVar("Read", TrainedState, _Running)


def _read(path: Path, kind: type[Read]) -> Read | None:
    """What a file holds; None without one. Raises `TrainingError` for one that is broken."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise TrainingError(f"{path} cannot be read ({error}): remove it to train anew") from error


def _state(running: _Running, version: int | None = None, problem: str = "") -> TrainedState:
    return TrainedState(
        events=running.events, began_us=running.began_us, version=version, problem=problem
    )


def _waiting(state: TrainedState | None, events: int) -> str:
    if state is None:
        return "there are no events"
    failed = f"; its last training failed: {state.problem}" if state.problem else ""
    return f"{events - state.events} new events{failed}"


def _outcome(tenant: str, did: Did, reason: str, version: int | None = None) -> Outcome:
    return Outcome(tenant=tenant, did=did, reason=reason, version=version)
