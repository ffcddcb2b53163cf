"""`headwater config`, run as users run it: on a data directory, and over the API of a service."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from feeds.counters import HOUR_US
from feeds.engine import FeedEngine
from feeds.errors import Conflict, FeedsError, InvalidInput, NotFound
from feeds.model import ActivityDraft, FeedId, TenantId
from ranking.config import RankingConfig, json_schema
from ranking.errors import InvalidRankingConfig
from serving.cli import build
from serving.config_access import RequestRefused
from serving.testing import ALL_SCOPES, add_tenant, served

ACME = TenantId("acme")
START_US = 1_577_880_000_000_000
SPREAD_OFF = {"personalized": {"adjustments": {"author_spread": {"on": False}}}}
TOO_NEW = {"personalized": {"filters": {"age": {"on": True, "days_max": 0.01}}}}


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """What a service in this process logs must not stand between what a command prints."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    yield
    structlog.configure(**before)


def run(*arguments: object, status: int = 0) -> str:
    """What the command says on standard output; raises what it raises."""
    result = CliRunner().invoke(build({"config"}), ["config", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.stdout


def told(*arguments: object, status: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", status=status))


def write(path: Path, document: object) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


@pytest.fixture
def spread_off(tmp_path: Path) -> Path:
    return write(tmp_path / "spread-off.json", SPREAD_OFF)


@pytest.fixture
def place(tmp_path: Path) -> list[object]:
    """The options that name a tenant of an engine."""
    with FeedEngine.open(tmp_path / "data") as engine:
        engine.create_tenant(ACME).result()
    return ["--tenant", ACME, "--data-dir", tmp_path / "data"]


def test_check_tells_that_there_is_no_mistake(spread_off: Path) -> None:
    assert "without mistakes" in run("check", spread_off)
    assert told("check", spread_off) == {"file": str(spread_off), "problems": []}


def test_check_tells_every_mistake_and_fails(tmp_path: Path) -> None:
    file = write(tmp_path / "bad.json", {"personalized": {"slate_size": 0}, "explor": 1})
    lines = run("check", file, status=1).splitlines()
    assert len(lines) == 2
    assert lines == told("check", file, status=1)["problems"]
    assert any("did you mean explore" in line for line in lines)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"personalized": {"value": {"like": NaN}}}', "NaN and Infinity are not numbers"),
        ("[]", "holds no JSON object"),
        ("", "is not JSON"),
    ],
)
def test_what_is_no_object_of_json_is_refused(tmp_path: Path, content: str, sentence: str) -> None:
    file = write(tmp_path / "bad.json", content)
    for command in ("check", "save"):
        with pytest.raises(InvalidInput, match=sentence):
            run(command, file)
    assert sentence in told("check", file, status=1)["error"]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none\.json does not exist"):
        run("check", tmp_path / "none.json")
    with pytest.raises(InvalidInput, match="cannot be read"):
        run("check", tmp_path)


def test_schema_is_the_published_one() -> None:
    assert json.loads(run("schema")) == json_schema()


def test_versions_are_saved_activated_and_rolled_back_in_a_data_directory(
    place: list[object], spread_off: Path
) -> None:
    assert "saved as version 1" in run("save", spread_off, *place)
    assert told("save", spread_off, *place)["version"] == 2
    assert "version 1 is active, version 0 was before" in run("activate", 1, *place)
    assert told("activate", 2, "--expected", 1, *place)["previous"] == 1
    assert told("rollback", *place)["version"] == 1
    listed = told("show", *place)
    assert (listed["active"], listed["previous"]) == (1, 2)
    assert [one["version"] for one in listed["versions"]] == [2, 1]
    expected = RankingConfig.parse(SPREAD_OFF).to_document()
    assert json.loads(run("show", 1, *place)) == expected
    assert told("show", 1, *place) == {"version": 1, "document": expected}
    assert json.loads(run("show", 0, *place)) == RankingConfig.default().to_document()


def test_show_is_a_table_for_people(place: list[object], spread_off: Path) -> None:
    run("save", spread_off, *place)
    run("activate", 1, *place)
    shown = run("show", *place)
    rows = {line.split("│")[1].strip(): line for line in shown.splitlines() if "│" in line}
    assert "active" in rows["1"]
    assert "the default" in rows["0"]
    assert "before" in rows["0"]


def test_who_expected_another_version_changes_nothing(
    place: list[object], spread_off: Path
) -> None:
    run("save", spread_off, *place)
    run("activate", 1, *place)
    with pytest.raises(Conflict, match="somebody was faster"):
        run("activate", 0, "--expected", 0, *place)
    with pytest.raises(Conflict, match="somebody was faster"):
        run("rollback", "--expected", 0, *place)
    refused = told("activate", 0, "--expected", 0, *place, status=1)
    assert refused["exception"] == "Conflict"
    assert told("show", *place)["active"] == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("activate", 7), NotFound),
        (("activate", -1), NotFound),
        (("show", 7), NotFound),
        (("rollback",), Conflict),
    ],
)
def test_what_cannot_be_is_a_sentence(
    place: list[object], arguments: tuple[object, ...], error: type[FeedsError]
) -> None:
    options = ["--", *arguments[1:]] if arguments[1:] else []
    with pytest.raises(error):
        run(arguments[0], *place, *options)


def test_a_document_with_mistakes_is_not_saved(place: list[object], tmp_path: Path) -> None:
    file = write(tmp_path / "bad.json", {"personalized": {"slate_size": 0, "x": 1}})
    with pytest.raises(InvalidRankingConfig):
        run("save", file, *place)
    assert len(told("save", file, *place, status=1)["problems"]) == 2
    assert told("show", *place)["versions"] == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "name a --tenant"),
        (["--url", "http://127.0.0.1:1"], "--url and --key"),
        (["--url", "http://x", "--key", "k", "--tenant", "acme"], "leave --tenant out"),
    ],
)
def test_where_the_configs_are_must_be_said(options: list[str], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        run("show", *options)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "ftp://x", "nonsense", "http://:x", "http://"]
)
def test_a_service_that_does_not_answer_is_told(url: str, spread_off: Path) -> None:
    with pytest.raises(RequestRefused, match=r"does not answer|is no address"):
        run("preview", spread_off, "--url", url, "--key", "k")
    assert told("show", "--url", url, "--key", "k", status=1)["exception"] == "RequestRefused"


@dataclass(frozen=True)
class Site:
    """A service with posts of two authors that bob follows; `api` are the options to reach it."""

    engine: FeedEngine
    api: list[object]
    data_dir: Path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    data_dir = tmp_path / "data"
    with served(data_dir, deadline_ms=10_000) as service:
        engine = service.services.engine
        key = add_tenant(engine, ACME, ALL_SCOPES)
        for number in range(6):
            author = "eve" if number == 3 else "ann"
            draft = ActivityDraft(
                actor=f"user:{author}",
                verb="post",
                object=f"a{number}",
                time_us=START_US + number * HOUR_US,
            )
            engine.post(ACME, FeedId("user", author), draft).result()
        for author in ("ann", "eve"):
            engine.follow(ACME, FeedId("timeline", "bob"), FeedId("user", author)).result()
        with service.client(key) as client:
            assert client.get("/v2/users/bob/feeds/personalized").status_code == 200
        yield Site(engine, ["--url", service.address, "--key", key], data_dir)


def test_over_the_api_everything_is_as_in_an_engine(site: Site, spread_off: Path) -> None:
    assert told("save", spread_off, *site.api)["version"] == 1
    assert told("activate", 1, *site.api)["previous"] == 0
    assert told("show", *site.api)["active"] == 1
    assert told("show", 1, *site.api)["document"] == RankingConfig.parse(SPREAD_OFF).to_document()
    assert told("rollback", "--expected", 1, *site.api)["version"] == 0
    with pytest.raises(RequestRefused, match="somebody was faster"):
        run("activate", 1, "--expected", 5, *site.api)
    with pytest.raises(RequestRefused, match="is not kept"):
        run("activate", 9, *site.api)


def test_what_is_active_can_be_read_beside_a_service(site: Site, spread_off: Path) -> None:
    run("save", spread_off, *site.api)
    beside = told("show", "--tenant", ACME, "--data-dir", site.data_dir)
    assert beside == told("show", *site.api)


def test_a_preview_shows_old_and_new_side_by_side(site: Site, spread_off: Path) -> None:
    whole = told("preview", spread_off, *site.api)
    assert (whole["requests"], whole["overlap_at_10"]) == (1, 1.0)
    shown = run("preview", spread_off, "--requests", 1, *site.api)
    assert "1 slates, version 0 is active" in shown
    assert "personalized of bob" in shown
    places = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in shown.splitlines()
        if "│" in line
    ]
    moved = [row for row in places if len(row) == 5]
    (slate,) = whole["slates"]
    assert [row[1] for row in moved] == slate["old"]
    assert [row[2] for row in moved] == [one["id"] for one in slate["new"]]
    assert {row[4] for row in moved} > {"="}
    assert site.engine.ranking_configs(ACME).saved == ()


def test_a_config_that_drops_everything_is_refused_with_what_it_would_drop(
    site: Site, tmp_path: Path
) -> None:
    file = write(tmp_path / "too-new.json", TOO_NEW)
    refused = told("preview", file, *site.api, status=1)
    assert any("age removed 6" in problem for problem in refused["problems"])
    version = told("save", file, *site.api)["version"]
    with pytest.raises(RequestRefused, match="age removed 6"):
        run("activate", version, *site.api)
    assert told("activate", version, "--allow-empty", *site.api)["version"] == version


def test_a_wrong_key_is_told(site: Site) -> None:
    options = [*site.api[:2], "--key", "hw_nobody0_0123456789abcdefgh"]
    with pytest.raises(RequestRefused, match="not valid"):
        run("show", *options)
