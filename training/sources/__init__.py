"""Public data sets as action logs: the same JSON Lines that an app's own history comes in as."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from feeds.actions import Action
from training.errors import SourceError
from training.sources import movielens, stackexchange
from training.sources.base import (
    Progress,
    SourceReport,
    counted,
    no_progress,
    slug,
    write_actions,
)

__all__ = [
    "DATASETS",
    "Dataset",
    "Progress",
    "SourceReport",
    "derived_facts",
    "no_progress",
    "prepare",
    "read_source",
    "slug",
    "write_actions",
]

Dataset = Literal["movielens", "stackexchange"]
DATASETS: tuple[Dataset, ...] = ("movielens", "stackexchange")
"""The data sets that can be prepared."""


def derived_facts(dataset: Dataset) -> tuple[str, ...]:
    """What the actions of a data set hold that the data does not say, as sentences."""
    return {"movielens": movielens.DERIVED, "stackexchange": stackexchange.DERIVED}[dataset]


def read_source(
    dataset: Dataset, path: Path | None, cache: Path, progress: Progress = no_progress
) -> tuple[Iterator[Action], SourceReport]:
    """The actions of a data set in time order, and a report that fills as they are read.

    `path` is the dump directory (Stack Exchange) or the recbole wheel (MovieLens; None downloads it
    into `cache`). Raises `SourceError`, also while the actions are read.
    """
    if dataset == "stackexchange":
        if path is None:
            raise SourceError("stackexchange needs --path: the directory of an unpacked data dump")
        report = SourceReport(dataset, stackexchange.DERIVED)
        return counted(stackexchange.read_stackexchange(path, report), report), report
    progress("looking for the MovieLens data", 0, None)
    wheel = path or movielens.fetch_wheel(cache)
    report = SourceReport(dataset, movielens.DERIVED)
    return counted(movielens.read_movielens(wheel, report), report), report


def prepare(
    dataset: Dataset,
    path: Path | None,
    out: Path,
    cache: Path,
    progress: Progress = no_progress,
) -> SourceReport:
    """Write the action log of a data set to `out`; it appears when it is complete."""
    actions, report = read_source(dataset, path, cache, progress)
    write_actions(actions, out, progress)
    return report
