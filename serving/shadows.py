"""Models on trial: they rank a sample of live requests again, after the reply, shown to nobody.

A trial runs on the event loop, since the activity table has one thread, but never for a request
that waits for it: what is sampled waits in a bounded queue, and between two trials there is a pause
that keeps all of them within a share of the process's time. What does not fit is dropped, counted.
"""

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import structlog

from feeds.model import TenantId
from ranking.candidates import Query
from ranking.metrics import Agreement, agreement
from ranking.scorers.base import Scorer
from ranking.slates import Slate
from serving.telemetry import Metrics

__all__ = ["ShadowConfig", "ShadowFigures", "ShadowModel", "ShadowSlates", "ShadowTrials"]

_log = structlog.get_logger(__name__)

SEEDS = 2**32


class ShadowModel(Protocol):
    """A model on trial (`serving.models.LoadedModel`). Immutable."""

    @property
    def version(self) -> object:
        """Which version of the model it is."""
        ...

    @property
    def scorer(self) -> Scorer:
        """What scores."""
        ...


class ShadowSlates(Protocol):
    """Who is told what models on trial would have shown: a slate log of its own. Must be quick."""

    def note(self, query: Query, shadow: Slate) -> None:
        """Keep the slate; it has the id of the one that was served."""
        ...


@dataclass(frozen=True, slots=True)
class ShadowConfig:
    """Limits of the models on trial in one request process."""

    sample: float = 0.05
    """Share of the ranked requests of a tenant with a model on trial that it ranks as well."""
    time_share: float = 0.1
    """Share of the process's time that trials may take."""
    queue_max: int = 32
    """Requests that wait for a trial; beyond, they are dropped."""
    tenants_max: int = 1_000
    """Tenants whose figures are kept; who had no trial for longest leaves."""


class ShadowFigures(NamedTuple):
    """How the model on trial ranked against the live one, in this process, since both are there.

    Means over `trials`: NaN before the first one. `failures` are trials in which it failed.
    """

    version: str = ""
    live_version: str = ""
    trials: int = 0
    failures: int = 0
    same_top: float = math.nan
    overlap_at_10: float = math.nan
    rank_correlation: float = math.nan


@dataclass(frozen=True, slots=True)
class _Trial:
    """A request that was answered, and how to rank its candidates again."""

    query: Query
    live: Slate
    model: ShadowModel
    again: Callable[[], Slate]


class _Mean:
    """The mean of the numbers that are defined."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def add(self, value: float) -> None:
        if not math.isnan(value):
            self._sum += value
            self._count += 1

    @property
    def value(self) -> float:
        return self._sum / self._count if self._count else math.nan


class _Tally:
    """The trials of one version against another."""

    def __init__(self, version: str, live_version: str) -> None:
        self.versions = (version, live_version)
        self.trials = 0
        self.failures = 0
        self._same_top, self._overlap, self._correlation = _Mean(), _Mean(), _Mean()

    def add(self, found: Agreement) -> None:
        self.trials += 1
        self._same_top.add(float(found.same_top))
        self._overlap.add(found.overlap)
        self._correlation.add(found.rank_correlation)

    def figures(self) -> ShadowFigures:
        return ShadowFigures(
            *self.versions,
            self.trials,
            self.failures,
            self._same_top.value,
            self._overlap.value,
            self._correlation.value,
        )


class ShadowTrials:
    """Takes requests that were answered, and ranks them again. To be used on one event loop."""

    def __init__(
        self,
        metrics: Metrics,
        slates: ShadowSlates | None = None,
        config: ShadowConfig = ShadowConfig(),
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._metrics = metrics
        self._slates = slates
        self._config = config
        self._clock_ns = clock_ns
        self._queue: deque[_Trial] = deque()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._tallies: OrderedDict[TenantId, _Tally] = OrderedDict()

    def samples(self, seed: int) -> bool:
        """Whether a request of this seed is to be ranked again; the same for the same seed."""
        return seed % SEEDS < self._config.sample * SEEDS

    def offer(
        self, query: Query, live: Slate, model: ShadowModel, again: Callable[[], Slate]
    ) -> None:
        """Have a request ranked again, soon or never; a microsecond.

        `again` ranks what the live slate was made of with the model.
        """
        if len(self._queue) >= self._config.queue_max:
            self._metrics.shadow_trials.labels("dropped").inc()
            return
        self._queue.append(_Trial(query, live, model, again))
        self._news.set()

    def figures(self, tenant: TenantId) -> ShadowFigures:
        """How the tenant's model on trial did so far."""
        tally = self._tallies.get(tenant)
        return ShadowFigures() if tally is None else tally.figures()

    def forget(self, tenant: TenantId) -> None:
        """Keep no figures of the tenant any more, and rank nothing of it again."""
        self._tallies.pop(tenant, None)
        self._queue = deque(trial for trial in self._queue if trial.live.tenant != tenant)

    async def start(self) -> None:
        """Run trials until `stop`."""
        self._task = asyncio.create_task(self._work(), name="shadows")

    async def stop(self) -> None:
        """Run no more; what waits is let go. Stopping twice is harmless."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._queue.clear()

    async def _work(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._queue:
                began_ns = self._clock_ns()
                self._run(self._queue.popleft())
                took_s = (self._clock_ns() - began_ns) / 1e9
                self._metrics.shadow_seconds.inc(took_s)
                await asyncio.sleep(took_s * (1 / self._config.time_share - 1))

    def _run(self, trial: _Trial) -> None:
        live = trial.live
        tally = self._tally(live.tenant, str(trial.model.version), live.model_version or "")
        try:
            shadow = trial.again()
            if self._slates is not None:
                self._slates.note(trial.query, shadow)
        except Exception as error:  # noqa: BLE001 - whatever a model on trial does, others go on
            tally.failures += 1
            self._metrics.shadow_trials.labels("failed").inc()
            _log.warning(
                "shadow_failed",
                tenant=live.tenant,
                version=trial.model.version,
                error=type(error).__name__,
            )
            return
        found = agreement(_ids(live), _ids(shadow))
        tally.add(found)
        self._metrics.note_trial(found.same_top, found.overlap, found.rank_correlation)

    def _tally(self, tenant: TenantId, version: str, live_version: str) -> _Tally:
        """The tenant's tally, a new one where one of the two versions is another."""
        tally = self._tallies.pop(tenant, None)
        if tally is None or tally.versions != (version, live_version):
            tally = _Tally(version, live_version)
        self._tallies[tenant] = tally
        if len(self._tallies) > self._config.tenants_max:
            self._tallies.popitem(last=False)
        return tally


def _ids(slate: Slate) -> list[str]:
    return list(slate.ranked.activity_ids)
