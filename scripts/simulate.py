"""Run simulated schedules of a cluster over all cores; `make simulate SCHEDULES=10000`.

Seeds are fresh unless `--first` says where they begin. A schedule that broke a law is named
by its seed, and `--seed` runs it again with its trace.
"""

import logging
import os
import secrets
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Annotated

import structlog
import typer
from rich.progress import track

from feeds.simulation.schedule import Outcome, run_schedule
from feeds.simulation.stock import StockWorld
from feeds.simulation.world import World

SEEDS = 2**40
CHUNK = 20
FAILURES_SHOWN = 10


def main(
    schedules: Annotated[int, typer.Option(min=1, help="How many schedules to run.")] = 1_000,
    first: Annotated[int | None, typer.Option(help="The first seed; random without it.")] = None,
    seed: Annotated[int | None, typer.Option(help="Run this one alone, and print it.")] = None,
    seconds: Annotated[float, typer.Option(help="Simulated seconds of faults in each.")] = 6.0,
    stock: Annotated[
        bool, typer.Option("--stock", help="With --seed: the library without the guard.")
    ] = False,
) -> None:
    """Run schedules; exit with 1 if a law was broken in any of them."""
    if seed is not None:
        quiet()
        outcome = run_schedule(seed, seconds, StockWorld if stock else World)
        print("\n".join(outcome.trace))
        print(f"seed {seed}: trace {outcome.digest:08x}; {outcome.broken or 'every law held'}")
        sys.exit(outcome.broken is not None)
    start = secrets.randbelow(SEEDS) if first is None else first
    failed, acknowledged, unknown = [], 0, 0
    for outcome in track(run_many(start, schedules, seconds), "simulate", total=schedules):
        acknowledged += outcome.acknowledged
        unknown += outcome.unknown
        if outcome.broken is not None:
            failed.append(outcome)
            law = outcome.broken.splitlines()[0]
            print(f"seed {outcome.seed}: {law}; again: make simulate SEED={outcome.seed}")
            if len(failed) == FAILURES_SHOWN:
                break
    print(
        f"{schedules} schedules from seed {start}: {acknowledged} writes acknowledged, "
        f"{unknown} of unknown outcome; laws broken in {len(failed)}"
    )
    sys.exit(bool(failed))


def run_many(start: int, count: int, seconds: float):  # noqa: ANN201 - an iterator of outcomes
    """The outcomes of so many schedules, as they come; one process a core."""
    seeds = range(start, start + count)
    with ProcessPoolExecutor(
        os.cpu_count(), mp_context=get_context("spawn"), initializer=quiet
    ) as pool:
        yield from pool.map(_run, seeds, [seconds] * count, chunksize=CHUNK)
        pool.shutdown(cancel_futures=True)


def _run(seed: int, seconds: float) -> Outcome:
    return run_schedule(seed, seconds)


def quiet() -> None:
    """The nodes' own log lines are not wanted: the trace says it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


if __name__ == "__main__":
    typer.run(main)
