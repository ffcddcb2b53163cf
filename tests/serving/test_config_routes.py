"""Ranking configs over the API: saved, previewed, activated, rolled back; and what is refused."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from feeds.config import FeedsConfig
from feeds.counters import HOUR_US
from feeds.credentials import NO_TENANT, OPERATOR
from feeds.errors import Overloaded
from feeds.model import ActivityDraft, FeedId, TenantId
from feeds.new_keys import create_key
from ranking.config import RankingConfig, json_schema
from serving.previews import Preview
from serving.testing import ALL_SCOPES, Served, served

ACME = TenantId("acme")
START_US = 1_577_880_000_000_000  # 2020-01-01T12:00:00
CONFIGS, PREVIEW = "/v2/ranking-configs", "/v2/ranking-configs/preview"
FEED = "/v2/users/bob/feeds/personalized"
SPREAD_OFF = {"personalized": {"adjustments": {"author_spread": {"on": False}}}}
TOO_NEW = {
    kind: {"filters": {"age": {"on": True, "days_max": 0.01}}}
    for kind in ("personalized", "explore")
}


@dataclass(frozen=True)
class Site:
    """A service, a client of a tenant whose bob follows what ann and eve post."""

    service: Served
    api: httpx.Client

    def read(self, path: str = FEED, **params: object) -> dict[str, Any]:
        return self.told(self.api.get(path, params=params))  # type: ignore[arg-type]

    def save(self, document: dict[str, Any]) -> int:
        return int(self.told(self.api.post(CONFIGS, json=document), 201)["version"])

    def activate(self, version: int, expected: int, **more: object) -> httpx.Response:
        body = {"expected_version": expected, **more}
        return self.api.post(f"{CONFIGS}/{version}/activate", json=body)

    def told(self, reply: httpx.Response, status: int = 200) -> dict[str, Any]:
        assert reply.status_code == status, reply.text
        body: dict[str, Any] = reply.json()
        return body


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    limits = FeedsConfig(ranking_configs_max=4, ranking_config_bytes_max=8_000)
    with (
        served(tmp_path / "data", limits, deadline_ms=10_000, preview_places_max=3) as service,
        service.tenant(ACME, ALL_SCOPES) as api,
    ):
        engine = service.services.engine
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
        yield Site(service, api)


def objects(page: dict[str, Any]) -> list[str]:
    return [entry["object"] for entry in page["results"]]


def test_without_a_config_the_default_ranks_and_is_told(site: Site) -> None:
    told = site.read("/v2/ranking-config")
    assert (told["version"], told["previous"], told["activated"]) == (0, None, None)
    assert told["problem"] is None
    assert told["document"]["personalized"]["deadline_ms"] == 10_000
    assert site.read(CONFIGS) == {"active": 0, "previous": None, "versions": []}
    assert site.read()["config_version"] == 0


def test_a_saved_version_ranks_once_it_is_activated_and_can_be_rolled_back(site: Site) -> None:
    newest_first = ["a5", "a4", "a3", "a2", "a1", "a0"]
    spread = objects(site.read())
    assert spread != newest_first
    assert site.save(SPREAD_OFF) == 1
    assert objects(site.read()) == spread

    active = site.told(site.activate(1, 0))
    assert (active["version"], active["previous"]) == (1, 0)
    page = site.read(explain=True)
    assert objects(page) == newest_first
    assert page["config_version"] == page["explanation"]["config_version"] == 1
    now = site.read("/v2/ranking-config")
    assert (now["version"], now["previous"]) == (1, 0)
    assert now["activated"] > "2026"

    back = site.told(site.api.post(f"{CONFIGS}/rollback"))
    assert (back["version"], back["previous"]) == (0, 1)
    assert objects(site.read()) == spread
    again = site.told(site.api.post(f"{CONFIGS}/rollback", json={"expected_version": 0}))
    assert again["version"] == 1


def test_pages_of_a_slate_keep_the_version_that_made_it(site: Site) -> None:
    first = site.read(limit=2)
    site.save(SPREAD_OFF)
    site.told(site.activate(1, 0))
    assert site.read(limit=2, cursor=first["next"])["config_version"] == 0
    assert site.read(limit=2)["config_version"] == 1


def test_a_version_is_saved_whole_so_that_it_means_the_same_for_ever(site: Site) -> None:
    site.save({"explore": {"slate_size": 7}})
    saved = site.read(f"{CONFIGS}/1")["document"]
    assert saved == RankingConfig.parse({"explore": {"slate_size": 7}}).to_document()


def test_versions_are_bounded_and_the_active_one_stays(site: Site) -> None:
    site.save(SPREAD_OFF)
    site.told(site.activate(1, 0))
    for _ in range(6):
        site.save({})
    listed = site.read(CONFIGS)
    assert [one["version"] for one in listed["versions"]] == [7, 6, 5, 1]
    assert site.api.get(f"{CONFIGS}/2").status_code == 404
    reply = site.activate(2, 1)
    assert (reply.status_code, "is not kept" in reply.json()["detail"]) == (404, True)


def test_who_comes_late_is_told_so(site: Site) -> None:
    for _ in range(2):
        site.save(SPREAD_OFF)
    site.told(site.activate(1, 0))
    late = site.activate(2, 0)
    assert (late.status_code, late.json()["exception"]) == (409, "ConflictException")
    assert "version 1 is active, not the default (version 0) as expected" in late.json()["detail"]
    for body in ({"expected_version": 0}, {"expected_version": 9}):
        reply = site.api.post(f"{CONFIGS}/rollback", json=body)
        assert (reply.status_code, "somebody was faster" in reply.json()["detail"]) == (409, True)
    assert site.read("/v2/ranking-config")["version"] == 1


def test_there_is_nothing_to_roll_back_where_nothing_was_activated(site: Site) -> None:
    reply = site.api.post(f"{CONFIGS}/rollback")
    assert (reply.status_code, "nothing to roll back" in reply.json()["detail"]) == (409, True)


def test_same_idempotency_key_saves_once(site: Site) -> None:
    headers = {"Idempotency-Key": "k"}
    first = site.told(site.api.post(CONFIGS, json=SPREAD_OFF, headers=headers), 201)
    assert first == site.told(site.api.post(CONFIGS, json=SPREAD_OFF, headers=headers), 201)
    assert site.api.post(CONFIGS, json={}, headers=headers).status_code == 409


BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "several mistakes at once": (
        {"personalized": {"slate_size": 0, "spaces": 1}, "explor": {}},
        ["slate_size", "spaces", "did you mean explore"],
    ),
    "10,000 pins": (
        {"personalized": {"pins": [{"id": "x", "position": 0}] * 10_000}},
        ["ranking_config_bytes_max is 8000"],
    ),
    "pins that are no activities": (
        {"personalized": {"pins": [{"id": "x", "position": 0}]}},
        ["pins.0"],
    ),
    "more pins than there may be": (
        {"explore": {"pins": [{}] * 21}},
        ["pins", "20"],
    ),
    "no source": (
        {
            "personalized": {
                "sources": {n: {"on": False} for n in ("following", "trending", "newest")}
            }
        },
        ["no source is on, which drops every candidate", "following (400)"],
    ),
    "a fallback that is none": ({"personalized": {"fallback": 3}}, ["fallback"]),
    "weights that rank nothing": (
        {
            "personalized": {
                "value": dict.fromkeys(
                    ("click", "like", "comment", "share", "bookmark", "dwell", "hide", "report"),
                    0.0,
                )
            }
        },
        ["every weight is 0"],
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("path", [CONFIGS, PREVIEW])
def test_a_document_with_mistakes_is_refused_whole(site: Site, name: str, path: str) -> None:
    document, words = BAD[name]
    before = site.service.services.engine.applied_index()
    reply = site.told(site.api.post(path, json=document), 400)
    for word in words:
        assert word in reply["detail"], reply
    assert "nothing was changed" in reply["detail"]
    assert before == site.service.services.engine.applied_index()


def test_every_mistake_is_a_sentence_of_its_own(site: Site) -> None:
    document = {"personalized": {"slate_size": 0, "deadline_ms": 0}, "explore": {"nothing": 1}}
    reply = site.told(site.api.post(CONFIGS, json=document), 400)
    assert len(reply["problems"]) == 3
    assert all(problem in reply["detail"] for problem in reply["problems"])


@pytest.mark.parametrize(
    "body", [b'{"personalized": {"value": {"like": NaN}}}', b"[]", b'"x"', b"{", b"", b"null"]
)
def test_what_is_no_object_of_finite_numbers_is_refused(site: Site, body: bytes) -> None:
    for path in (CONFIGS, PREVIEW):
        reply = site.api.post(path, content=body, headers={"Content-Type": "application/json"})
        assert reply.status_code == 400, reply.text


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (f"{CONFIGS}/1/activate", {"expected_version": 0}, 404),
        (f"{CONFIGS}/1/activate", {}, 400),
        (f"{CONFIGS}/1/activate", {"expected_version": -1}, 400),
        (f"{CONFIGS}/-1/activate", {"expected_version": 0}, 404),
        (f"{CONFIGS}/{10**30}/activate", {"expected_version": 0}, 404),
        (f"{CONFIGS}/x/activate", {"expected_version": 0}, 400),
        (f"{CONFIGS}/0/activate", {"expected_version": 2**60}, 400),
        (f"{CONFIGS}/rollback", {"expected": 1}, 400),
        (f"{PREVIEW}?requests=0", {}, 400),
        (f"{PREVIEW}?requests=51", {}, 400),
    ],
)
def test_what_cannot_be_is_a_clear_error(
    site: Site, path: str, body: dict[str, Any], status: int
) -> None:
    assert site.api.post(path, json=body).status_code == status


@pytest.mark.parametrize("scopes", [("read",), ("read", "write")])
def test_a_key_that_may_not_admin_looks_and_changes_nothing(
    site: Site, scopes: tuple[str, ...]
) -> None:
    with site.service.tenant("charlie", scopes=scopes) as reader:
        assert reader.get("/v2/ranking-config").status_code == 200
        for path in (CONFIGS, PREVIEW, f"{CONFIGS}/rollback", f"{CONFIGS}/0/activate"):
            assert reader.post(path, json={}).status_code == 403


def test_a_preview_tells_old_and_new_side_by_side(site: Site) -> None:
    old = site.read()
    told = site.told(site.api.post(PREVIEW, json=SPREAD_OFF))
    assert (told["active_version"], told["requests"], told["emptied"]) == (0, 1, 0)
    assert (told["overlap_at_10"], told["first_changed"]) == (1.0, 0.0)
    (slate,) = told["slates"]
    assert (slate["user"], slate["kind"], slate["first_changed"]) == ("bob", "personalized", False)
    assert slate["old"] == [entry["id"] for entry in old["results"]][:3]
    assert (slate["old_length"], slate["new_length"], slate["removed"]) == (6, 6, {})
    places = [entry["object"] for entry in old["results"]]
    expected = [(place, places.index(f"a{5 - place}")) for place in range(3)]
    found = [(one["position"], one["was"]) for one in slate["new"]]
    assert found == expected
    assert [one["moved"] for one in slate["new"]] == [was - place for place, was in expected]
    assert -1 <= slate["kendall_tau"] < 1


def test_a_preview_shows_what_is_pinned_in_its_place(site: Site) -> None:
    last = site.read()["results"][-1]["id"]
    pinned = {"personalized": {"pins": [{"id": last, "position": 0}]}}
    told = site.told(site.api.post(PREVIEW, json=pinned))
    (first, *_) = told["slates"][0]["new"]
    assert (first["id"], first["position"], first["was"], first["moved"]) == (last, 0, 5, 5)
    assert (told["first_changed"], told["slates"][0]["first_changed"]) == (1.0, True)


def test_one_preview_of_a_tenant_is_under_way_at_a_time(site: Site) -> None:
    site.read()
    previews = site.service.services.previews
    config = RankingConfig.parse(SPREAD_OFF)

    async def twice() -> list[object]:
        asked = [previews.preview(ACME, config, 10) for _ in range(2)]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    first, second = site.service.run(twice)
    assert isinstance(first, Preview)
    assert isinstance(second, Overloaded)
    assert site.api.post(PREVIEW, json=SPREAD_OFF).status_code == 200


def test_a_preview_saves_and_serves_nothing(site: Site) -> None:
    page = site.read()
    before = site.service.services.engine.applied_index()
    counted = site.service.services.metrics.ranked.labels("personalized", "no_model")
    served_before = counted._value.get()
    site.told(site.api.post(PREVIEW, json=SPREAD_OFF))
    assert before == site.service.services.engine.applied_index()
    assert served_before == counted._value.get()
    assert objects(page) == objects(site.read())
    assert site.read(CONFIGS)["versions"] == []


@pytest.mark.parametrize(("mode", "requests"), [("fresh", 4), ("logged", 3)])
def test_a_preview_of_the_active_config_changes_nothing(
    site: Site, mode: str, requests: int
) -> None:
    """Carol follows nobody: her personalized feed is empty, and the log has nothing to rank."""
    for kind in ("personalized", "explore"):
        for user in ("bob", "carol"):
            site.read(f"/v2/users/{user}/feeds/{kind}")
    document = site.read("/v2/ranking-config")["document"]
    told = site.told(site.api.post(PREVIEW, json=document, params={"mode": mode}))
    assert (told["requests"], told["overlap_at_10"], told["first_changed"]) == (requests, 1.0, 0.0)
    assert (told["kendall_tau"], told["changed"], told["unseen"]) == (1.0, 0.0, [])
    assert told["skipped"] == ({"it had no activity": 1} if mode == "logged" else {})
    assert all(one["moved"] == 0 for slate in told["slates"] for one in slate["new"])


def test_a_mode_that_is_none_is_refused(site: Site) -> None:
    site.told(site.api.post(PREVIEW, json={}, params={"mode": "later"}), 400)


def test_a_preview_without_requests_says_that_it_knows_none(site: Site) -> None:
    told = site.told(site.api.post(PREVIEW, json=TOO_NEW))
    assert told["requests"] == 0
    assert told["overlap_at_10"] is told["kendall_tau"] is told["first_changed"] is None


def test_a_preview_ranks_as_many_of_the_last_requests_as_are_asked_for(site: Site) -> None:
    for user in ("bob", "carol", "dave"):
        site.read(f"/v2/users/{user}/feeds/personalized")
    asked = {"requests": 2, "mode": "fresh"}
    told = site.told(site.api.post(PREVIEW, json={}, params=asked))
    assert [slate["user"] for slate in told["slates"]] == ["dave", "carol"]


def test_a_config_that_drops_everything_is_refused_with_what_it_would_have_dropped(
    site: Site,
) -> None:
    site.read()
    reply = site.told(site.api.post(PREVIEW, json=TOO_NEW), 400)
    assert "leaves nothing of the last 1 requests" in reply["detail"]
    assert "age removed 6" in reply["detail"]
    version = site.save(TOO_NEW)
    refused = site.told(site.activate(version, 0), 400)
    assert "age removed 6" in refused["detail"]
    assert site.read("/v2/ranking-config")["version"] == 0
    site.told(site.activate(version, 0, allow_empty=True))
    assert objects(site.read()) == []
    site.told(site.api.post(f"{CONFIGS}/rollback"))
    assert len(objects(site.read())) == 6


def test_a_config_that_empties_some_feeds_is_told_and_not_refused(site: Site) -> None:
    site.read()
    site.read("/v2/users/carol/feeds/explore")
    only_explore = {"personalized": TOO_NEW["personalized"]}
    told = site.told(site.api.post(PREVIEW, json=only_explore))
    assert (told["emptied"], told["requests"], told["first_changed"]) == (1, 2, 0.5)
    removed = {slate["kind"]: slate["removed"] for slate in told["slates"]}
    assert removed["personalized"] == {"age": 6}
    site.told(site.activate(site.save(only_explore), 0))


def test_the_form_is_published(site: Site) -> None:
    assert site.read("/v2/ranking-config/schema") == json_schema()


def test_the_pipeline_describes_itself_by_the_active_config(site: Site) -> None:
    def on(told: dict[str, Any]) -> set[str]:
        return {
            component["name"]
            for stage in told["stages"]
            for component in stage["components"]
            if component["on"]
        }

    before = site.read("/v2/pipeline")
    site.save(SPREAD_OFF)
    site.told(site.activate(1, 0))
    after = site.read("/v2/pipeline", kind="personalized")
    assert (before["config_version"], after["config_version"]) == (0, 1)
    assert on(before) - on(after) == {"author_spread"}
    assert site.read("/v2/pipeline", kind="explore")["kind"] == "explore"
    assert site.api.get("/v2/pipeline", params={"kind": "x"}).status_code == 400


def test_operators_read_the_pipeline_of_a_named_tenant_as_it_does_itself(site: Site) -> None:
    site.save(SPREAD_OFF)
    site.told(site.activate(1, 0))
    made = create_key(site.service.services.engine, NO_TENANT, (OPERATOR,))
    made.stored.result()
    with site.service.client(made.api_key) as operator:
        for kind in ("personalized", "explore"):
            told = operator.get("/v2/tenants/acme/pipeline", params={"kind": kind})
            assert told.json() == site.read("/v2/pipeline", kind=kind)
        assert operator.get("/v2/tenants/nobody/pipeline").status_code == 404
        assert operator.get("/v2/tenants/NO/pipeline").status_code == 400
    assert site.api.get("/v2/tenants/acme/pipeline").status_code == 403


def test_a_version_that_this_release_cannot_read_leaves_the_default_and_says_so(
    site: Site,
) -> None:
    engine = site.service.services.engine
    engine.save_ranking_config(ACME, b'{"of_another_release": 1}').result()
    assert "of_another_release" in site.told(site.activate(1, 0), 400)["detail"]
    engine.activate_ranking_config(ACME, 1, 0).result()
    assert site.read()["config_version"] == 0
    told = site.read("/v2/ranking-config")
    assert (told["version"], "version 1 is active" in told["problem"]) == (0, True)
    assert site.told(site.api.post(f"{CONFIGS}/rollback"))["version"] == 0
