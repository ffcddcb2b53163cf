"""That the benchmarks run and say what they did; no test asserts a time."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from feeds.commands import AddKey, decode_command
from serving.bench import machine
from serving.bench_etcd import EtcdClient, EtcdCluster
from serving.bench_fanout import fan_out_rate
from serving.bench_lag import lags
from serving.bench_nodes import Puts, leader_of, leader_store, three_nodes
from serving.bench_quick import QuickClient
from serving.cli import build
from serving.measure import Figure, Stopwatch, SyncedFile, Times, rounds

ENDED_S_MAX = 30.0

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory with a short name: the path of a unix socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="hw") as directory:
        yield Path(directory)


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """The command configures structlog for its process; other tests get the defaults back."""
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("bench", "what", "detail"),
    [
        ("commit", "a durable post, one client", "bytes"),
        ("replay", "actions through the engine, fdatasync on", "commands"),
        ("page", "the newest 100 rows of a feed", "rows"),
        (
            "fanout",
            "rows a second on three nodes, 20 followers a post, to the last follower",
            "followers",
        ),
        ("failover", "kill -9 of the leader to the next durable write, 1 times", "max_us"),
        (
            "lag",
            "acknowledged to seen in a secondary of the leader's store, 2,000 writes/s",
            "writes",
        ),
        (
            "overload",
            "100 candidates at 2 times the load that a worker carries, from when a read was due",
            "carried_per_s",
        ),
        ("rank", "500 candidates, 30 features, 100 trees: rows to reply bytes", "score_us"),
        (
            "ranker",
            "500 candidates, 30 features, 100 trees: Ranker.rank on 20,000 activities",
            "apply_us",
        ),
        (
            "workers",
            "100 candidates: requests a second over HTTP with 2 workers, 8 connections",
            "worker_cpu_us",
        ),
        (
            "memory",
            "100 candidates: a worker that has served 3 tenants, a model each, reads in turn",
            "peak_rss_mb",
        ),
        (
            "tenants",
            "a ranked read beside another tenant at 10 times its quota of 50/s",
            "worked_p99_us",
        ),
    ],
)
def test_bench_tells_its_figure_and_its_reference_as_json(
    bench: str, what: str, detail: str, work: Path
) -> None:
    figure, *others = _figures(work, bench)
    assert all(other["ratio"] > 0 for other in others)
    assert (figure["bench"], figure["what"]) == (bench, what)
    assert figure["ratio"] > 0
    assert figure["reference"]
    assert figure["details"][detail] > 0


def test_a_node_that_starts_again_has_the_entries_that_were_asked_for(work: Path) -> None:
    with_store, without = _figures(work, "restart", "--entries", "500")
    assert with_store["details"]["entries"] >= 500
    assert with_store["details"] == without["details"]
    assert without["what"].endswith("the store is lost: all are applied again")


def test_pages_stand_beside_db_bench_with_rows_as_ours_and_with_its_defaults(
    work: Path,
) -> None:
    if shutil.which("db_bench") is None:
        pytest.skip("db_bench is not installed (Debian: rocksdb-tools)")
    _, binding, like_ours, stock = _figures(work, "page", "--rows", "10000")
    assert like_ours["reference"] == (
        "db_bench: seek + 100, among 10,000 rows, rows and options as ours"
    )
    assert stock["reference"] == "db_bench: seek + 100, among 10,000 rows, its own defaults"
    assert like_ours["measured"] == stock["measured"]
    assert binding["reference_times"] == like_ours["reference_times"]
    assert binding["what"].endswith("the binding alone")


def test_a_fan_out_is_over_when_the_last_follower_has_every_row(work: Path) -> None:
    assert fan_out_rate(work / "nodes", followers=1_200, seconds=0.1) > 0


@given(number=st.integers(0, 10**9 - 1), size=st.integers(0, 300))
def test_a_put_is_a_command_with_its_number_and_so_many_bytes(number: int, size: int) -> None:
    expected = AddKey(tenant="bench", key_id=f"k{number:09d}", secret_sha256=b"x" * size, scopes=())
    assert decode_command(Puts(size)(number)) == expected


def test_ranked_reads_are_measured_over_http_too(work: Path) -> None:
    in_process, latency, rate = _figures(work, "rank")
    assert in_process["what"].endswith("rows to reply bytes")
    assert latency["what"] == "100 candidates, 30 features, 100 trees: HTTP request to reply"
    assert latency["details"]["candidates"] == 100
    assert latency["details"]["service_cpu_us"] > 0
    assert rate["per_s"] > 0
    assert rate["reference"] == "inplace_predict alone", "a short run starts no MLflow"


@pytest.mark.parametrize("value_bytes", [0, 300, 100_000])
def test_quick_client_puts_as_many_keys_as_it_says(value_bytes: int, work: Path) -> None:
    with three_nodes(work / "nodes", plain=True):
        node = leader_of(work / "nodes")
        client = QuickClient(work / "nodes" / f"{node}.sock", value_bytes)
        client.send(30)
        client.send(20)
        ended = 0
        while ended < 50:
            ended += client.receive()
        client.close()
        with leader_store(work / "nodes") as store:
            keys = [key for key, _ in store.scan("config", b"k", b"l")]
    assert keys == [b"kk%09d" % number for number in range(50)]


@pytest.mark.parametrize("value_bytes", [300, 100_000])
def test_etcd_holds_every_key_that_was_put(value_bytes: int, work: Path) -> None:
    if not EtcdCluster.installed():
        pytest.skip("etcd is not installed (Debian: etcd-server)")
    with EtcdCluster(work) as cluster:
        leader = cluster.leader()
        client = EtcdClient(leader)
        client.send([(b"key %d" % n, b"x" * value_bytes) for n in range(50)])
        ended = 0
        while ended < 50:
            ended += client.receive()
        client.close()
        assert (ended, cluster.keys(leader)) == (50, 50)


def test_growth_writes_its_numbers_and_its_plot(work: Path) -> None:
    subprocess.run(
        [
            *(sys.executable, str(ROOT / "benchmarks" / "growth.py"), "fanout", "--short"),
            *("--seconds", "0.1", "--work", str(work / "work"), "--out", str(work)),
        ],
        check=True,
        cwd=ROOT,
        timeout=120,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    report = json.loads((work / "fanout.json").read_text())
    assert [point["followers"] for point in report["points"]] == [10, 100]
    assert (work / "fanout.png").read_bytes().startswith(b"\x89PNG")
    assert list((work / "work").iterdir()) == []


def test_growth_of_a_ranked_read_draws_what_was_measured_and_keeps_the_rest(work: Path) -> None:
    (work / "ranking.json").write_text('{"before": {"points": []}}')
    subprocess.run(
        [
            *(sys.executable, str(ROOT / "benchmarks" / "growth_ranking.py"), "trees", "--short"),
            *("--seconds", "0.1", "--work", str(work / "work"), "--out", str(work)),
        ],
        check=True,
        cwd=ROOT,
        timeout=180,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    report = json.loads((work / "ranking.json").read_text())
    points = report["trees"]["points"]
    assert [point["trees"] for point in points] == [10, 30]
    assert all(point["cpu_ms"] > 0 for point in points)
    assert report["before"] == {"points": []}
    assert (work / "ranking.png").read_bytes().startswith(b"\x89PNG")
    assert list((work / "work").iterdir()) == []


def test_bench_prints_a_table_with_the_reference_below(work: Path) -> None:
    options = ["bench", "replay", "--short", "--dir", str(work)]
    ran = CliRunner().invoke(build({"bench"}), options)
    assert ran.exit_code == 0, ran.output
    assert "ratio" in ran.stdout
    assert "appends alone" in " ".join(ran.stdout.split())
    assert "replay" in ran.stderr, "what is under way is told beside the answer"


def test_a_write_that_is_seen_before_its_answer_has_a_microsecond_of_lag() -> None:
    acknowledged = {1: 5_000, 2: 20_000, 3: 30_000}
    seen = [(2, 10_000), (5, 37_000)]
    assert lags({2: acknowledged[2]}, seen) == Times(1, 1.0, 1.0)
    assert lags(acknowledged, seen) == Times(3, 5.0, 7.0)


def _figures(directory: Path, bench: str, *options: str) -> list[dict[str, Any]]:
    """What `headwater bench --short --json` tells; it leaves no file and no process behind."""
    before = {child.pid for child in psutil.Process().children()}
    arguments = ["bench", bench, "--short", "--dir", str(directory), "--json", *options]
    ran = CliRunner().invoke(build({"bench"}), arguments)
    assert ran.exit_code == 0, ran.output
    report = json.loads(ran.stdout)
    assert report["machine"]["cores"] > 0
    assert list(directory.iterdir()) == [], "the folder that was worked in is removed"
    assert _left_behind(before) == []
    figures: list[dict[str, Any]] = report["figures"]
    return figures


def _left_behind(before: set[int]) -> list[list[str]]:
    """The commands of the children that came since and do not end.

    Python's tracker of shared memory stays with the process that first needs it, this one.
    """
    came = [child for child in psutil.Process().children() if child.pid not in before]
    _, alive = psutil.wait_procs(came, timeout=ENDED_S_MAX)
    commands = [child.cmdline() for child in alive]
    return [one for one in commands if not any("resource_tracker" in part for part in one)]


def test_quantiles_are_of_what_was_timed() -> None:
    assert Times.of([n * 1_000 for n in range(1, 101)]) == Times(100, 51.0, 100.0)
    assert Times.of([7_000]) == Times(1, 7.0, 7.0)
    with pytest.raises(ValueError, match="nothing was measured"):
        Times.of([])


def test_stopwatch_times_each_block() -> None:
    watch = Stopwatch()
    for _ in rounds(0):
        with watch:
            pass
    assert watch.times().repeats == 20


def test_synced_file_holds_what_was_appended(work: Path) -> None:
    with SyncedFile(work / "file") as file:
        file.append(b"ab")
        file.append(b"cd")
    assert (work / "file").read_bytes() == b"abcd"


def test_ratio_is_of_medians_or_of_rates() -> None:
    slow, fast = Times(1, 30.0, 90.0), Times(1, 10.0, 20.0)
    assert Figure.of_times("b", "w", slow, "r", fast).ratio == 3.0
    assert Figure.of_rates("b", "w", 50.0, "r", 100.0).ratio == 0.5


def test_machine_names_the_file_system(work: Path) -> None:
    assert machine(work)["file_system"] not in ("", "unknown")
