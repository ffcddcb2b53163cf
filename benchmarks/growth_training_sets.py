"""How time and memory of a training set grow with the events, as a plot.

    python benchmarks/growth_training_sets.py            # 100,000 to 10 million, into docs/growth
    python benchmarks/growth_training_sets.py --short    # the first two sizes: a trial
    python benchmarks/growth_training_sets.py --draw     # the plot again, from the numbers

Each size is a made-up log, a user for every hundred events, and `headwater dataset build` on it in
processes of its own. Memory is what these processes hold at most at one moment, looked at ten times
a second: `anonymous` is theirs alone, `with_mapped` that and the mapped files in memory, which the
kernel takes back when something else needs it.
"""

import json
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import psutil
import typer
from growth_points import OUT, Again, Out, Point, Short, Work, each_point
from matplotlib import pyplot as plt
from matplotlib.ticker import StrMethodFormatter

from training.cli.dataset import memory_bytes
from training.events.synthetic import SyntheticLog, write_synthetic_log

NAME = "training-sets"
SIZES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
USERS_PER_EVENT = 0.01
TENANT = "synthetic"


def measured(work: Path, events: int, memory_limit: str) -> Point:
    """Time, processor time and peak memory of a set of so many events."""
    export, sets = work / "export", work / "sets"
    write_synthetic_log(SyntheticLog(events, int(events * USERS_PER_EVENT)), export, TENANT)
    command = [
        *(sys.executable, "-m", "serving", "dataset", "build", "--tenant", TENANT, "--json"),
        *("--events", str(export), "--sets", str(sets), "--memory-limit", memory_limit),
    ]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603 - ours
        peak = _peak(process)
        assert process.stdout is not None
        answer = json.loads(process.stdout.read())
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    size = sum(file.stat().st_size for file in sets.rglob("*.parquet"))
    return {
        "events": events,
        "rows": answer["rows"],
        "seconds": round(seconds, 1),
        "cpu_s": round(cpu_s, 1),
        "events_per_cpu_s": round(events / cpu_s),
        **peak,
        "set_mb": round(size / 1e6),
    }


def _peak(process: "subprocess.Popen[bytes]") -> Point:
    """The most memory of a process and its children, MB."""
    anonymous = mapped = 0
    root = psutil.Process(process.pid)
    while process.poll() is None:
        sums = [0, 0]
        for each in (root, *_children(root)):
            for place, kib in enumerate(_memory(each.pid)):
                sums[place] += kib
        anonymous, mapped = max(anonymous, sums[0]), max(mapped, sums[1])
        time.sleep(0.1)
    return {"anonymous_mb": round(anonymous / 1e3), "with_mapped_mb": round(mapped / 1e3)}


def _children(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _memory(pid: int) -> tuple[int, int]:
    """(anonymous, proportional share of all) of a process, KiB; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {line.split()[0]: int(line.split()[1]) for line in lines[1:]}
    return sizes.get("Anonymous:", 0), sizes.get("Pss:", 0)


def draw(points: list[Point], limit: str, out: Path) -> None:
    """Time and memory over events, the numbers below."""
    mpl.use("Agg")
    events = [point["events"] for point in points]
    figure, (upper, below) = plt.subplots(2, 2, figsize=(9, 5), dpi=110, height_ratios=(4, 1.6))
    times, memory = upper
    panels = (
        (times, (("seconds", "time"), ("cpu_s", "processor time")), "seconds", "log"),
        (
            memory,
            (("anonymous_mb", "of the processes"), ("with_mapped_mb", "and mapped files")),
            "MB at most",
            "log",
        ),
    )
    for axes, lines, label, scale in panels:
        for key, name in lines:
            axes.plot(events, [point[key] for point in points], "o-", label=name)
        axes.set(xscale="log", yscale=scale, xlabel="events", ylabel=label)
        axes.grid(alpha=0.3, which="both")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axis.set_minor_formatter(StrMethodFormatter(""))
    linear = [points[-1]["cpu_s"] * each / events[-1] for each in events]
    times.plot(events, linear, ":", color="gray", label="in proportion")
    memory.axhline(
        memory_bytes(limit) / 1e6, ls="--", color="gray", label=f"--memory-limit {limit}"
    )
    times.set_ylim(1, 1_000)
    memory.set_ylim(100, 10_000)
    for axes in upper:
        axes.legend(fontsize=8)
    for axes in below:
        axes.axis("off")
    shown = ("seconds", "cpu_s", "anonymous_mb", "with_mapped_mb", "rows")
    grid = figure.add_subplot(2, 1, 2)
    grid.axis("off")
    grid.table(
        [[f"{point[key]:,.0f}" for point in points] for key in shown],
        rowLabels=shown,
        colLabels=[f"{each:,}" for each in events],
        loc="lower center",
        edges="horizontal",
    )
    figure.suptitle("A training set: time and memory by events, 2 workers")
    figure.tight_layout()
    figure.savefig(out / f"{NAME}.png", bbox_inches="tight")
    plt.close(figure)


def main(
    work: Work = Path(".headwater"),
    out: Out = OUT,
    memory_limit: Annotated[
        str, typer.Option(help="As `headwater dataset build` takes it.")
    ] = "6GB",
    redraw: Again = False,
    short: Short = False,
) -> None:
    """Measure how time and memory of a training set grow, and draw it (about 6 minutes, 4 GB)."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{NAME}.json"
    measure = partial(measured, memory_limit=memory_limit)
    for report in () if redraw else each_point(NAME, SIZES, measure, work, short=short):
        path.write_text(json.dumps({"memory_limit": memory_limit, **report}, indent=2) + "\n")
    found = json.loads(path.read_text())
    draw(found["points"], found["memory_limit"], out)


if __name__ == "__main__":
    typer.run(main)
