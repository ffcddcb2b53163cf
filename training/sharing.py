"""Tenants that are trained together share the places of a cluster, none more than it must.

A tenant's run is a generator: it gives the steps that can go on side by side, and gets what they
returned. Whose step begins next is decided at each place that is free: the tenant's that has the
fewest under way. So no tenant waits while a place is free, none takes more than its fair share
while another waits, and the places of those that are done go to those that are not. A step that
has begun is never interrupted.
"""

import errno
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar, cast

from training.cluster import Task, Workers
from training.errors import TOLD, ClusterError, DiskFull

__all__ = ["FairShare", "Step", "Steps", "carry_out", "one", "together"]

T = TypeVar("T")
S = TypeVar("S")

_LOOK_S: Final = 1.0
"""Seconds between two looks at the cluster where no step ends."""


@dataclass(frozen=True, slots=True)
class Step(Generic[T]):
    """A function that a worker will call; small arguments, for they travel."""

    function: Callable[..., T]
    arguments: tuple[object, ...] = ()


Steps = Generator[Sequence[Step[Any]], Sequence[Any], T]
"""A run: gives steps that may go on side by side, gets their results in order, returns T.

Any: the steps of a batch return different things.
"""


def one(function: Callable[..., T], *arguments: object) -> Steps[T]:
    """A single step of a run, for `yield from`, which gives its result."""
    (result,) = yield [Step(function, arguments)]
    return cast("T", result)


def together(steps: Sequence[Step[T]]) -> Steps[list[T]]:
    """Several steps of a run side by side, for `yield from`, which gives their results in order."""
    if not steps:
        return []
    results = yield steps
    return list(results)


@dataclass(slots=True)
class _Queue(Generic[S]):
    waiting: deque[S] = field(default_factory=deque)
    running: int = 0
    last: int = 0
    """When it last began a step, by the count of those that all began."""


class FairShare(Generic[S]):
    """Whose step begins next; no clock, no cluster, no work: decisions alone."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue[S]] = {}
        self._begun = 0

    @property
    def waiting(self) -> dict[str, int]:
        """How many steps wait, of each tenant that has any."""
        return {name: len(each.waiting) for name, each in self._queues.items() if each.waiting}

    @property
    def running(self) -> dict[str, int]:
        """How many steps are under way, of each tenant that has any."""
        return {name: each.running for name, each in self._queues.items() if each.running}

    def add(self, tenant: str, steps: Sequence[S]) -> None:
        """Steps that may begin; those of one tenant begin in their order."""
        self._queues.setdefault(tenant, _Queue()).waiting.extend(steps)

    def begin(self, places: int) -> Iterator[tuple[str, S]]:
        """Steps that begin now, until all places are taken or nothing waits.

        Of the tenants that wait it is the one with the fewest steps under way; of equals, who has
        waited longest.
        """
        while sum(each.running for each in self._queues.values()) < places:
            waiting = [name for name, each in self._queues.items() if each.waiting]
            if not waiting:
                return
            tenant = min(waiting, key=lambda name: self._rank(self._queues[name]))
            queue = self._queues[tenant]
            self._begun += 1
            queue.running, queue.last = queue.running + 1, self._begun
            yield tenant, queue.waiting.popleft()

    def end(self, tenant: str) -> None:
        """A step of the tenant has ended: its place is free."""
        self._queues[tenant].running -= 1

    def forget(self, tenant: str) -> None:
        """What waits of a tenant does not begin any more; what goes on keeps its place."""
        self._queues[tenant].waiting.clear()

    @staticmethod
    def _rank(queue: _Queue[S]) -> tuple[int, int]:
        return queue.running, queue.last


@dataclass(frozen=True, slots=True)
class _Numbered:
    """A step, and its place in the batch that its tenant waits for."""

    number: int
    step: Step[Any]


class _Batch:
    """The steps that a tenant waits for, and what those that ended returned."""

    def __init__(self, steps: Sequence[Step[Any]]) -> None:
        self.results: list[Any] = [None] * len(steps)
        self.missing = len(steps)

    def put(self, number: int, result: object) -> bool:
        """Whether all are there now."""
        self.results[number] = result
        self.missing -= 1
        return not self.missing


def carry_out(
    workers: Workers, runs: Mapping[str, Steps[T]], look: Callable[[], None] = lambda: None
) -> Iterator[tuple[str, T | Exception]]:
    """Each tenant with what its run returned, or the error that ended it, as they end.

    `look` is called about once a second. Errors that are not `TOLD` are raised. Where the
    cluster has no workers any more, that is the error of all that are left.
    """
    return _Carrier(workers, runs, look).outcomes()


class _Carrier(Generic[T]):
    def __init__(
        self, workers: Workers, runs: Mapping[str, Steps[T]], look: Callable[[], None]
    ) -> None:
        self._workers = workers
        self._runs = dict(runs)
        self._look = look
        self._share: FairShare[_Numbered] = FairShare()
        self._batches: dict[str, _Batch] = {}
        self._tasks: dict[Task[Any], tuple[str, _Numbered]] = {}

    def outcomes(self) -> Iterator[tuple[str, T | Exception]]:
        for tenant in list(self._runs):
            yield from self._go_on(tenant, None)
        while self._runs:
            for tenant, numbered in self._share.begin(self._workers.places):
                step = numbered.step
                task = self._workers.submit(telling_of_disk, step.function, *step.arguments)
                self._tasks[task] = (tenant, numbered)
            try:
                done = self._workers.first_done(list(self._tasks), _LOOK_S)
            except ClusterError as error:
                yield from [(tenant, error) for tenant in self._runs]
                return
            for task in done:
                yield from self._ended(task)
            self._look()

    def _ended(self, task: Task[Any]) -> Iterator[tuple[str, T | Exception]]:
        tenant, numbered = self._tasks.pop(task)
        self._share.end(tenant)
        if tenant not in self._runs:
            return  # its run failed while this went on
        try:
            whole = self._batches[tenant].put(numbered.number, task.result())
        except TOLD as error:
            self._runs.pop(tenant).close()
            self._share.forget(tenant)
            yield tenant, error
            return
        if whole:
            yield from self._go_on(tenant, self._batches[tenant].results)

    def _go_on(
        self, tenant: str, results: Sequence[Any] | None
    ) -> Iterator[tuple[str, T | Exception]]:
        """Give a run what it waited for, and take the steps that it wants next."""
        try:
            steps = self._runs[tenant].send(results)  # type: ignore[arg-type] # None begins it
        except StopIteration as ended:
            del self._runs[tenant]
            yield tenant, ended.value
        except TOLD as error:
            del self._runs[tenant]
            yield tenant, error
        else:
            self._batches[tenant] = _Batch(steps)
            self._share.add(tenant, [_Numbered(*pair) for pair in enumerate(steps)])


_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def telling_of_disk(function: Callable[..., T], *arguments: object) -> T:
    """What the function returns; a disk that is full while it writes is told as `DiskFull`."""
    try:
        return function(*arguments)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = f" of {error.filename}" if error.filename else ""
        raise DiskFull(
            f"the disk{where} is full ({error.strerror}): nothing was published and what is live "
            "stays; free some space, or give --out and the registry another disk, then train again"
        ) from error
