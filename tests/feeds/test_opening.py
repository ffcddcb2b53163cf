import json
import subprocess
import sys
from pathlib import Path

import pytest

from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.errors import StorageError
from feeds.model import ActivityDraft, FeedId, TenantId
from feeds.opening import open_reader

DEMO = TenantId("demo")


def post(engine: FeedEngine, number: int) -> str:
    draft = ActivityDraft(actor="user:ann", verb="post", object=f"note:{number}")
    return engine.post(DEMO, FeedId("user", "ann"), draft).result().activity.id


def test_reader_sees_what_the_engine_has_written_when_it_opens(tmp_path: Path) -> None:
    with FeedEngine.open(tmp_path / "data") as engine:
        engine.create_tenant(DEMO).result()
        first = post(engine, 1)
        with open_reader(tmp_path / "data") as reader:
            second = post(engine, 2)
            page = reader.read(DEMO, FeedId("user", "ann"))
            assert [first] == [row.activity_id for row in page.rows]
            assert engine.applied_index() == reader.applied_index() + 1
        with open_reader(tmp_path / "data") as reader:
            page = reader.read(DEMO, FeedId("user", "ann"))
            assert [second, first] == [row.activity_id for row in page.rows]


def test_reader_keeps_its_view_while_the_engine_compacts_its_files_away(tmp_path: Path) -> None:
    config = FeedsConfig(flush_every_bytes=1)  # every command makes files, and compactions
    with FeedEngine.open(tmp_path / "data", config) as engine:
        engine.create_tenant(DEMO).result()
        posted = [post(engine, number) for number in range(50)]
        with open_reader(tmp_path / "data") as reader:
            for number in range(50):
                engine.remove(DEMO, posted[number]).result()
            page = reader.read(DEMO, FeedId("user", "ann"), limit=100)
            assert posted[::-1] == [row.activity_id for row in page.rows]


def test_export_goes_on_beside_a_service_and_takes_up_the_rest_later(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "events"

    def export() -> dict[str, int]:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "serving", "export", "--tenant", "demo"),
                *("--data-dir", str(data), "--out", str(out), "--json"),
            ],
            capture_output=True,
            check=True,
            text=True,
        )
        report: dict[str, int] = json.loads(done.stdout)
        return report

    with FeedEngine.open(data) as engine:
        engine.create_tenant(DEMO).result()
        post(engine, 1)
        assert 1 == export()["events"]
        post(engine, 2)
        assert 1 == export()["events"]
    assert (0, 2) == (export()["events"], export()["events_total"])


def test_reader_of_a_directory_without_a_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be opened"), open_reader(tmp_path):
        pass
