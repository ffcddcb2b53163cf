"""What one tenant's training may take, and its end where that is spent: others must not wait."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from training.config import BudgetConfig
from training.errors import BudgetSpent

__all__ = ["Budget"]


@dataclass(frozen=True, slots=True)
class Budget:
    """A tenant's budget, from `started_s` on (seconds since the epoch: workers are many)."""

    tenant: str
    config: BudgetConfig
    started_s: float

    def check(
        self,
        doing: str,
        clock: Callable[[], float] = time.time,
        resident: Callable[[], int] = lambda: int(psutil.Process().memory_info().rss),
    ) -> None:
        """Raise `BudgetSpent` where time or this worker's memory is; a few microseconds."""
        spent = clock() - self.started_s
        if spent > self.config.seconds_max:
            raise BudgetSpent(
                f"tenant {self.tenant}: the training is stopped at {doing}, after {spent:.0f} s of "
                f"its {self.config.seconds_max:.0f} (seconds_max); nothing was published: allow it "
                "more time, or fewer requests"
            )
        taken = resident()
        if taken > self.config.memory_bytes_max:
            raise BudgetSpent(
                f"tenant {self.tenant}: the training is stopped at {doing}, with "
                f"{taken / 2**30:.1f} GiB in its worker, more than "
                f"{self.config.memory_bytes_max / 2**30:.1f} (memory_bytes_max); nothing was "
                "published: allow it more memory, or fewer requests"
            )
