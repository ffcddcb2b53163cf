"""A tenant's minutes of training: its quota, as its export tells it, and what it has used.

What is counted is the time from the start of a run until the tenant's part of it has ended, in the
registry, so that every scheduler on every machine counts the same. A training that has begun is not
ended by the quota, but by its budget (`training.budget`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from feeds.model import TenantId, format_time
from feeds.training_time import minutes_trained, trains_again_us
from ranking.registry import ModelRegistry
from training.config import BudgetConfig
from training.errors import TOLD, MinutesSpent
from training.events.log import read_manifest

__all__ = ["Meter", "Minutes", "minutes_of", "within_quota"]


@dataclass(frozen=True, slots=True)
class Minutes:
    """Minutes of training that a tenant used within the last day, of how many it may.

    `again_us` is when it may be trained, microseconds since 1970; None where it never may.
    """

    tenant: TenantId
    used: float
    quota: int
    again_us: int | None

    def check(self) -> None:
        """Raise `MinutesSpent` where none are left."""
        if self.used < self.quota:
            return
        when = "" if self.again_us is None else f" again from {format_time(self.again_us)}"
        raise MinutesSpent(
            f"tenant {self.tenant} was trained {self.used:.1f} minutes within the last day, its "
            f"quota training_minutes is {self.quota}: it may {'be' if when else 'not be'} trained"
            f"{when}; for more, `headwater tenants quota set {self.tenant} --training-minutes N`, "
            "then export again"
        )


def minutes_of(
    registry: ModelRegistry, export: Path, tenant: TenantId, budget: BudgetConfig, now_us: int
) -> Minutes:
    """What a tenant has used, and its quota: its own, or the budget's `minutes_a_day`.

    Raises `ExportDamaged`, or `RankingError` where the registry cannot be read.
    """
    _, manifest = read_manifest(export, tenant)
    own = manifest.training_minutes
    quota = budget.minutes_a_day if own is None else own
    hours = registry.trained_hours(tenant)
    again_us = trains_again_us(hours, quota, now_us)
    return Minutes(tenant, minutes_trained(hours, now_us), quota, again_us)


def within_quota(
    registry: ModelRegistry | None,
    export: Path,
    tenants: Sequence[TenantId],
    budget: BudgetConfig,
    now_us: int,
) -> tuple[list[TenantId], dict[str, Exception]]:
    """The tenants that have minutes left, and why the others have none.

    One alone that has none raises `MinutesSpent`. Without a registry nothing is counted.
    """
    if registry is None:
        return list(tenants), {}
    within: list[TenantId] = []
    spent: dict[str, Exception] = {}
    for tenant in tenants:
        try:
            minutes_of(registry, export, tenant, budget, now_us).check()
            within.append(tenant)
        except MinutesSpent as error:
            if len(tenants) == 1:
                raise
            spent[tenant] = error
    return within, spent


class Meter:
    """Counts the time of the tenants that are trained together, of each until it ends.

    It is noted every `note_every_s` where there is progress: a kill loses what came after. Use it
    as a context, whose end is the end of all.
    """

    def __init__(
        self,
        registry: ModelRegistry | None,
        tenants: Sequence[TenantId],
        clock_us: Callable[[], int],
        note_every_s: float,
    ) -> None:
        self._registry = registry
        self._running = set(tenants)
        self._clock_us = clock_us
        self._note_every_s = note_every_s
        self._noted_us = clock_us()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self._note()
        except TOLD:
            if error is None:
                raise

    def beat(self) -> None:
        """There is progress."""
        if self._clock_us() - self._noted_us >= self._note_every_s * 1e6:
            self._note()

    def end(self, tenant: TenantId) -> None:
        """The tenant's part has ended, well or not."""
        self._note()
        self._running.discard(tenant)

    def _note(self) -> None:
        now_us = self._clock_us()
        seconds, self._noted_us = (now_us - self._noted_us) / 1e6, now_us
        if self._registry is not None and seconds > 0:
            for tenant in sorted(self._running):
                self._registry.add_trained(tenant, now_us, seconds)
