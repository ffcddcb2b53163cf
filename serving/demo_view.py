"""How the demo's report looks on a terminal: the tables, the three feeds, what was derived."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from serving.demo import DemoReport

__all__ = ["show"]

Json = dict[str, Any]  # Any: replies of our own commands, read field by field


def show(report: "DemoReport", file: Path) -> None:
    """Print the report: what went in, how the rankers compare, and one user's three feeds."""
    console = Console()
    evaluation = report.training["report"]
    console.print()
    k, live, explore = evaluation["k"], evaluation["model"], evaluation["explore"]
    personalized = evaluation["parts"][-1] | {"rankers": evaluation["rankers"]}
    console.print(_rankers(personalized, "Personalized feed", k, live))
    _say(console, [evaluation["verdicts"][0], *evaluation["not_better"]])
    if explore:
        console.print(_rankers(explore, "Explore feed", k, live))
        _say(console, [explore["verdict"], *explore["not_better"]])
    console.print(_run(report))
    for kind, places in report.feeds.items():
        console.print(_feed(f"{kind} feed of user {report.example_user}", places))
    _say(console, [*evaluation["derived"], f"How the figures came about, and all else: {file}"])


def _say(console: Console, sentences: list[str]) -> None:
    for sentence in sentences:
        console.print(f"• {sentence}", highlight=False)
    console.print()


def _rankers(judged: Json, what: str, k: int, live: str) -> Table:
    """How the rankings did on one kind of feed; the live model's row is bold."""
    table = Table(
        title=f"{what}: NDCG@{k} and the difference to chronological, "
        f"{judged['requests']} test requests of {judged['users']} users",
        title_justify="left",
    )
    table.add_column("ranking", no_wrap=True)
    for heading in (f"NDCG@{k}", "95 %", "MRR", f"recall@{k}"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("difference", no_wrap=True)
    for ranker in judged["rankers"]:
        low, high = ranker["interval"]
        table.add_row(
            f"{ranker['name']} (live)" if ranker["name"] == live else ranker["name"],
            f"{ranker['ndcg']:.3f}",
            f"{low:.3f}-{high:.3f}",
            f"{ranker['mrr']:.3f}",
            f"{ranker['recall']:.3f}",
            _against_chronological(ranker),
            style="bold" if ranker["name"] == live else None,
        )
    return table


def _against_chronological(ranker: Json) -> str:
    for comparison in ranker["comparisons"]:
        if comparison["baseline"] == "chronological":
            return f"{comparison['difference']:+.3f} {comparison['verdict']}"
    return ""


def _run(report: "DemoReport") -> Table:
    table = Table(title="The run", title_justify="left", show_header=False)
    replay = report.replay
    table.add_row("replayed", f"{replay['actions']:,} actions, {replay['actions_per_s']:,.0f}/s")
    evaluation = report.training["report"]
    table.add_row("reach", f"{evaluation['reach']:.1%} of test engagements were among candidates")
    table.add_row("training", f"{report.training['training_s']:.1f} s")
    table.add_row("live model", f"{report.training['version']} ({report.training['scorer']})")
    for kind, latency in report.latency.items():
        table.add_row(
            f"read {kind}", f"p50 {latency['p50_ms']:.2f} ms, p99 {latency['p99_ms']:.2f} ms"
        )
    table.add_row("peak memory", f"{report.peak_memory_mb:,.0f} MB over all processes")
    table.add_row("time", f"{sum(report.seconds.values()):.0f} s in the steps")
    return table


def _feed(title: str, places: list[Json]) -> Table:
    table = Table(title=title, title_justify="left", expand=True)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("activity", ratio=1, no_wrap=True)
    table.add_column("posted", no_wrap=True)
    table.add_column("reason", ratio=1)
    for number, place in enumerate(places, start=1):
        table.add_row(str(number), place["title"], place["time"], place["reason"])
    return table
