"""That the benchmarks run and say what they did; no test asserts a time."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from serving import bench_store
from serving.bench import machine
from serving.bench_etcd import EtcdClient, EtcdCluster
from serving.cli import build
from serving.measure import Figure, Stopwatch, SyncedFile, Times, rounds


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
        ("rank", "500 candidates, 30 features, 100 trees: rows to reply bytes", "score_us"),
        (
            "ranker",
            "500 candidates, 30 features, 100 trees: Ranker.rank on 20,000 activities",
            "apply_us",
        ),
    ],
)
def test_bench_tells_its_figure_and_its_reference_as_json(
    bench: str, what: str, detail: str, tmp_path: Path
) -> None:
    options = ["bench", bench, "--seconds", "0.1", "--dir", str(tmp_path), "--json"]
    ran = CliRunner().invoke(build({"bench"}), options)
    assert ran.exit_code == 0, ran.output
    report = json.loads(ran.stdout)
    figure, *others = report["figures"]
    assert all(other["ratio"] > 0 for other in others)
    assert (figure["bench"], figure["what"]) == (bench, what)
    assert figure["ratio"] > 0
    assert figure["reference"]
    assert figure["details"][detail] > 0
    assert report["machine"]["cores"] > 0
    assert list(tmp_path.iterdir()) == [], "the folder that was worked in is removed"


def test_page_at_scale_stands_beside_db_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("db_bench") is None:
        pytest.skip("db_bench is not installed (Debian: rocksdb-tools)")
    monkeypatch.setattr(bench_store, "ROWS", 20_000)
    (figure,) = bench_store.page_at_scale(tmp_path, 0.1)
    assert figure.ratio > 0
    assert figure.reference == "db_bench: seek + 100, among 20,000 rows"


def test_etcd_holds_every_key_that_was_put(tmp_path: Path) -> None:
    if not EtcdCluster.installed():
        pytest.skip("etcd is not installed (Debian: etcd-server)")
    with EtcdCluster(tmp_path) as cluster:
        leader = cluster.leader()
        client = EtcdClient(leader)
        client.send([(b"key %d" % n, b"x" * 300) for n in range(50)])
        ended = 0
        while ended < 50:
            ended += client.receive()
        client.close()
        assert (ended, cluster.keys(leader)) == (50, 50)


def test_bench_prints_a_table_with_the_reference_below(tmp_path: Path) -> None:
    options = ["bench", "commit", "--seconds", "0.1", "--dir", str(tmp_path)]
    ran = CliRunner().invoke(build({"bench"}), options)
    assert ran.exit_code == 0, ran.output
    assert "ratio" in ran.stdout
    assert "fdatasync of" in " ".join(ran.stdout.split())


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


def test_synced_file_holds_what_was_appended(tmp_path: Path) -> None:
    with SyncedFile(tmp_path / "file") as file:
        file.append(b"ab")
        file.append(b"cd")
    assert (tmp_path / "file").read_bytes() == b"abcd"


def test_ratio_is_of_medians_or_of_rates() -> None:
    slow, fast = Times(1, 30.0, 90.0), Times(1, 10.0, 20.0)
    assert Figure.of_times("b", "w", slow, "r", fast).ratio == 3.0
    assert Figure.of_rates("b", "w", 50.0, "r", 100.0).ratio == 0.5


def test_machine_names_the_file_system(tmp_path: Path) -> None:
    assert machine(tmp_path)["file_system"] not in ("", "unknown")
