"""Digests: of one user over HTTP, and of all users of a tenant as files that no kill spoils."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from feeds.engine import FeedEngine
from feeds.errors import InvalidInput, StorageError
from feeds.events import Engagement, Impression
from feeds.export import ExportDisk
from feeds.model import ActivityDraft, ActivityId, FeedId, TenantId, UserId
from feeds.testing_engine import NOW_US, memory_engine
from ranking.config import RankingConfig
from serving.cli import build
from serving.digest import DigestMaker, digest_config
from serving.digest_export import DigestExport, DigestManifest, Format, RunOptions, count_users
from serving.table_loading import load_table
from serving.testing import ALL_SCOPES, add_tenant, served

DEMO = TenantId("demo")
HOUR_US = 3_600_000_000
SINCE_US = NOW_US - 5 * HOUR_US


def post(engine: FeedEngine, name: str, hours_ago: float, actor: str = "user:ann") -> ActivityId:
    draft = ActivityDraft(
        actor=actor, verb="post", object=name, time_us=NOW_US - int(hours_ago * HOUR_US)
    )
    return engine.post(DEMO, FeedId("user", "ann"), draft).result().activity.id


def users(engine: FeedEngine, count: int) -> list[str]:
    """Users who follow ann; every third one liked something too, and one only liked."""
    liked = post(engine, "old", 100)
    names = [f"u{number:02}" for number in range(count)]
    for number, name in enumerate(names):
        if number != 1:
            engine.follow(DEMO, FeedId("timeline", name), FeedId("user", "ann")).result()
        if number % 3 == 1:
            like = Engagement(time_us=NOW_US, user=UserId(name), activity_id=liked, kind="like")
            engine.record(DEMO, [like]).result()
    return names


def maker_of(engine: FeedEngine) -> DigestMaker:
    config = digest_config(RankingConfig.default(), SINCE_US, NOW_US)
    table = load_table(engine, DEMO, 1_000)
    return DigestMaker(engine, DEMO, table, config, "timeline", NOW_US)


def options(file_format: Format = "jsonl", **given: Any) -> RunOptions:
    fields: dict[str, Any] = {"limit": 10, "since_us": SINCE_US} | given
    return RunOptions("demo", NOW_US, file_format, **fields)


@dataclass
class DyingDisk(ExportDisk):
    """A disk that fails at its n-th write."""

    writes: int
    done: list[Path] = field(default_factory=list)

    def write(self, path: Path, data: bytes) -> None:
        """Half of the file, where it fails."""
        if len(self.done) >= self.writes:
            super().write(path, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        super().write(path, data)
        self.done.append(path)


def run(
    engine: FeedEngine, out: Path, asked: RunOptions, disk: ExportDisk | None = None
) -> DigestManifest:
    export = DigestExport(out, asked, disk or ExportDisk(), users_a_file=2)
    with export.begun(NOW_US) as begun:
        return export.run(maker_of(engine), begun)


def rows(out: Path, manifest: DigestManifest) -> list[dict[str, Any]]:
    found = []
    for file in manifest.files:
        data = (out / file.path).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file.sha256
        lines = [json.loads(line) for line in data.splitlines()]
        assert len(lines) == file.rows
        found += lines
    return found


@pytest.fixture
def engine() -> Iterator[FeedEngine]:
    with memory_engine() as engine:
        yield engine


def test_users_are_all_who_did_or_follow_anything_in_the_order_of_their_names(
    engine: FeedEngine,
) -> None:
    names = users(engine, 7)
    engine.follow(DEMO, FeedId("flat", "x"), FeedId("user", "ann")).result()

    assert engine.users(DEMO, "timeline", 100) == names
    assert engine.users(DEMO, "timeline", 3) == names[:3]
    assert engine.users(DEMO, "timeline", 3, names[2]) == names[3:6]
    assert engine.users(DEMO, "timeline", 3, names[6]) == []
    assert count_users(engine, DEMO, "timeline") == 7


def test_a_digest_holds_what_is_new_unseen_and_untouched(engine: FeedEngine) -> None:
    users(engine, 1)
    post(engine, "too-old", 6)
    seen, liked, hidden = (post(engine, name, 3) for name in ("seen", "liked", "hidden"))
    own, best = post(engine, "own", 1, "user:u00"), post(engine, "best", 2)
    user = UserId("u00")
    shown = Impression(time_us=NOW_US, user=user, activity_id=seen)
    done = [
        Engagement(time_us=NOW_US, user=user, activity_id=liked, kind="like"),
        Engagement(time_us=NOW_US, user=user, activity_id=hidden, kind="hide"),
    ]
    engine.record(DEMO, [shown, *done]).result()

    slate = maker_of(engine).digest(user, 10)

    assert [place.activity_id for place in slate.ranked] == [best]
    assert own != best
    assert maker_of(engine).digest(user, 10).ranked == slate.ranked


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_a_run_has_every_users_digest_and_a_manifest(
    engine: FeedEngine, tmp_path: Path, file_format: Format
) -> None:
    names = users(engine, 5)
    posted = [post(engine, f"o{n}", n) for n in range(1, 4)]

    manifest = run(engine, tmp_path / "out", options(file_format, limit=2))

    expected = [(name, place, posted[place]) for name in names if name != "u01" for place in (0, 1)]
    if file_format == "parquet":
        found = [
            row
            for file in manifest.files
            for row in pq.read_table(tmp_path / "out" / file.path).to_pylist()
        ]
        assert json.loads(found[0]["activity"])["object"] == "o1"
    else:
        found = rows(tmp_path / "out", manifest)
        assert found[0]["activity"]["object"] == "o1"
    assert [(row["user"], row["position"], row["activity_id"]) for row in found] == expected
    assert {row["reason"] for row in found} == {"because you follow user:ann"}
    assert (manifest.users, manifest.rows, manifest.finished) == (5, 8, True)
    told = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert told["options"]["limit"] == 2


@pytest.mark.parametrize("writes", range(7))
def test_a_run_that_was_stopped_anywhere_goes_on_to_the_same_end(
    engine: FeedEngine, tmp_path: Path, writes: int
) -> None:
    users(engine, 5)
    post(engine, "o1", 1)
    whole = run(engine, tmp_path / "whole", options())

    with pytest.raises(StorageError, match="No space left on device; put it right and run"):
        run(engine, tmp_path / "cut", options(), DyingDisk(writes))
    finished = run(engine, tmp_path / "cut", options())

    assert finished == whole
    assert rows(tmp_path / "cut", finished) == rows(tmp_path / "whole", whole)


def test_a_run_is_not_mixed_with_another(engine: FeedEngine, tmp_path: Path) -> None:
    users(engine, 3)
    with pytest.raises(StorageError):
        run(engine, tmp_path, options(), DyingDisk(2))

    with pytest.raises(InvalidInput, match="holds a run with other options"):
        run(engine, tmp_path, options(limit=9))
    run(engine, tmp_path, options())
    with pytest.raises(InvalidInput, match=r"holds a finished run, as of 2020-09-13"):
        run(engine, tmp_path, options())
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(StorageError, match="cannot be read"):
        run(engine, tmp_path, options())


@pytest.mark.parametrize("limit", [0, 101])
def test_a_limit_out_of_range_is_refused(engine: FeedEngine, tmp_path: Path, limit: int) -> None:
    with pytest.raises(InvalidInput, match=f"limit is {limit}: ask for 1 to 100"):
        run(engine, tmp_path, options(limit=limit))


def test_a_tenant_with_no_users_has_an_empty_run(engine: FeedEngine, tmp_path: Path) -> None:
    manifest = run(engine, tmp_path, options())

    assert (manifest.users, manifest.files, manifest.finished) == (0, (), True)


def headwater(*words: str) -> Any:
    return CliRunner().invoke(build({"digest"}), ["digest", *words])


def test_the_command_writes_beside_a_running_service(tmp_path: Path) -> None:
    with served(tmp_path / "data") as service, service.tenant("demo") as api:
        api.post("/v2/feeds/timeline/bob/follows", json={"target": "user:ann"})
        body = {"actor": "user:ann", "verb": "post", "object": "o1"}
        api.post("/v2/feeds/user/ann/activities", json=body)
        asked = ("--tenant", "demo", "--data-dir", str(tmp_path / "data"))
        result = headwater(*asked, "--out", str(tmp_path / "out"), "--json")

    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["users"], told["rows"], told["files"]) == (1, 1, 1)
    (line,) = (tmp_path / "out" / "digests-00000.jsonl").read_text().splitlines()
    assert json.loads(line)["activity"]["object"] == "o1"


def test_the_command_follows_the_tenants_active_config(tmp_path: Path) -> None:
    with (
        served(tmp_path / "data") as service,
        service.tenant("demo", ALL_SCOPES) as api,
    ):
        api.post("/v2/feeds/timeline/bob/follows", json={"target": "user:ann"})
        for name, length in (("long", 900), ("short", 1), ("middle", 90)):
            body = {"actor": "user:ann", "verb": "post", "object": name, "text": "x" * length}
            api.post("/v2/feeds/user/ann/activities", json=body).raise_for_status()
        shortest = {"personalized": {"fallback": {"score": "0 - length_bytes"}}}
        assert api.post("/v2/ranking-configs", json=shortest).status_code == 201, "saved"
        activate = {"expected_version": 0}
        api.post("/v2/ranking-configs/1/activate", json=activate).raise_for_status()
        asked = ("--tenant", "demo", "--data-dir", str(tmp_path / "data"))
        result = headwater(*asked, "--out", str(tmp_path / "out"))

    assert result.exit_code == 0, result.output
    lines = (tmp_path / "out" / "digests-00000.jsonl").read_text().splitlines()
    found = [json.loads(line)["activity"]["object"] for line in lines]
    assert found == ["short", "middle", "long"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--format", "csv"], "format is 'csv': use jsonl or parquet"),
        (["--tenant", "nobody"], "tenant 'nobody' does not exist"),
        (["--since", "2100-01-01T00:00:00"], "give an earlier time"),
        (["--since", "lately"], "lately"),
        (["--limit", "1000"], "limit is 1000: ask for 1 to 100"),
        (["--config", "missing.json"], "missing.json is no ranking config"),
    ],
)
def test_what_cannot_be_is_a_sentence(tmp_path: Path, words: list[str], told: str) -> None:
    with FeedEngine.open(tmp_path / "data") as engine:
        add_tenant(engine, "demo")
    asked = ["--tenant", "demo", "--out", str(tmp_path / "out")]

    result = headwater(*asked, "--data-dir", str(tmp_path / "data"), *words)

    assert result.exit_code == 1
    assert told in str(result.exception)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[httpx.Client]:
    with (
        served(tmp_path / "data", deadline_ms=10_000) as service,
        service.tenant("acme") as client,
    ):
        client.post("/v2/feeds/timeline/bob/follows", json={"target": "user:ann"})
        yield client


def digest(api: httpx.Client, **params: Any) -> list[str]:
    reply = api.get("/v2/users/bob/digest", params=params)
    assert reply.status_code == 200, reply.text
    assert reply.json()["next"] is None
    return [entry["id"] for entry in reply.json()["results"]]


def test_a_users_digest_leaves_out_what_was_served_and_is_no_serving_itself(
    api: httpx.Client,
) -> None:
    def posted(name: str, **fields: str) -> str:
        body = {"actor": "user:ann", "verb": "post", "object": name} | fields
        reply = api.post("/v2/feeds/user/ann/activities", json=body)
        return str(reply.json()["activity"]["id"])

    old = posted("old", time="2020-01-01T00:00:00")
    first, second, third = (posted(f"o{n}") for n in range(3))

    assert digest(api) == digest(api) == [third, second, first]
    assert digest(api, since="2019-12-31T00:00:00", limit=4)[-1] == old
    assert digest(api, limit=1) == [third]
    api.get("/v2/users/bob/feeds/personalized", params={"limit": 2})
    assert digest(api) == [first]


def test_a_user_nobody_has_seen_has_an_empty_digest(api: httpx.Client) -> None:
    reply = api.get("/v2/users/stranger/digest").json()

    assert (reply["results"], reply["next"]) == ([], None)


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"since": "2150-01-01T00:00:00"}, "give an earlier time"),
        ({"since": "lately"}, "lately"),
        ({"limit": 0}, "limit is 0"),
    ],
)
def test_a_digest_of_what_cannot_be_is_a_sentence(
    api: httpx.Client, params: dict[str, Any], told: str
) -> None:
    reply = api.get("/v2/users/bob/digest", params=params)

    assert reply.status_code == 400
    assert told in reply.json()["detail"]
