"""What a trainer is: a pure function of files, config and seed that leaves a model file."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["Stopwatch", "Trained", "Trainer"]


@dataclass(frozen=True, slots=True)
class Trained:
    """A model file and how it came about.

    `figures` are numbers by name: seconds, trees, interactions, NDCG on validation.
    """

    name: str
    path: Path
    features: tuple[str, ...]
    figures: dict[str, float] = field(default_factory=dict)


class Trainer(Protocol):
    """Trains one model. Frozen, small and importable, so that any worker can run it."""

    @property
    def name(self) -> str:
        """The model's name in reports."""
        ...

    def train(self, source: Path, out: Path) -> Trained:
        """Learn from the file or directory `source`, write the model below the directory `out`.

        Equal inputs and seed give equal model bytes.
        """
        ...


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return time.perf_counter() - self._start
