"""Logged slates ranked again by two configs: from the candidates and features of then."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from feeds.counters import HOUR_US
from feeds.model import ActivityDraft, FeedId
from ranking.scorers.base import Scorer
from ranking.testing_models import boosted_scorer, value_scorer
from serving.slate_log.testing import ACME
from serving.testing import ALL_SCOPES, HeldModel, HeldModels, Served, served

PREVIEW = "/v2/ranking-configs/preview"
START_US = 1_577_880_000_000_000  # 2020-01-01T12:00:00
AUTHORS = ("ann", "eve")
PLAIN = {"personalized": {"adjustments": {"author_spread": {"on": False}}}}


@dataclass(frozen=True)
class Site:
    """A service whose bob follows two authors of ten activities; the log has all candidates."""

    service: Served
    api: httpx.Client
    models: HeldModels
    posted: list[str] = field(default_factory=list)

    def post(self, number: int) -> str:
        author = AUTHORS[number % 3 == 0]
        draft = ActivityDraft(
            actor=f"user:{author}",
            verb="post",
            object=f"o{number}",
            time_us=START_US + number * HOUR_US,
        )
        posted = self.service.services.engine.post(ACME, FeedId("user", author), draft)
        self.posted.append(str(posted.result().activity.id))
        return self.posted[-1]

    def read(self, user: str = "bob", kind: str = "personalized") -> dict[str, Any]:
        reply = self.api.get(f"/v2/users/{user}/feeds/{kind}")
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def preview(self, document: dict[str, Any], **asked: str | int) -> dict[str, Any]:
        reply = self.api.post(PREVIEW, json=document, params=asked)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    models = HeldModels()
    told: dict[str, Any] = getattr(request, "param", {"slate_log_tenants": ALL_CANDIDATES})
    with (
        served(
            tmp_path / "data", models=models, deadline_ms=10_000, served_max=0, **told
        ) as service,
        service.tenant(ACME, ALL_SCOPES) as api,
    ):
        made = Site(service, api, models)
        for author in AUTHORS:
            engine = service.services.engine
            engine.follow(ACME, FeedId("timeline", "bob"), FeedId("user", author)).result()
        for number in range(10):
            made.post(number)
        yield made


ALL_CANDIDATES = {ACME: {"candidates": True}}


def ids(page: dict[str, Any]) -> list[str]:
    return [entry["id"] for entry in page["results"]]


@pytest.mark.parametrize("scorer", [None, boosted_scorer(), value_scorer()])
def test_the_active_config_gives_every_logged_slate_as_it_was_served(
    site: Site, scorer: Scorer | None
) -> None:
    if scorer is not None:
        site.models.held[ACME] = HeldModel("7", scorer)
    pages = [site.read(), site.read(), site.read("carol", "explore")]
    told = site.preview({})
    assert [slate["slate_id"] for slate in told["slates"]] == [
        page["slate_id"] for page in reversed(pages)
    ]
    assert [slate["old"] for slate in told["slates"]] == [ids(page) for page in reversed(pages)]
    assert {slate["ranked"] for slate in told["slates"]} == {"candidates"}
    assert (told["mode"], told["changed"], told["overlap_at_10"]) == ("logged", 0.0, 1.0)


def test_slates_of_one_user_count_each_and_what_came_later_is_in_none(site: Site) -> None:
    first = site.read()
    later = site.post(10)
    second = site.read()
    told = site.preview(PLAIN)
    assert [later in slate["old"] for slate in told["slates"]] == [True, False]
    assert [slate["old"] for slate in told["slates"]] == [ids(second), ids(first)]
    assert (told["requests"], told["unseen"]) == (2, [])
    assert told["changed"] > 0
    news = [[one["id"] for one in slate["new"]] for slate in told["slates"]]
    assert news == [site.posted[::-1], site.posted[-2::-1]]
    fresh = site.preview(PLAIN, mode="fresh")
    assert [later in slate["old"] for slate in fresh["slates"]] == [True]
    assert fresh["slates"][0]["ranked"] == "now"


def test_candidates_that_were_not_shown_can_come_up(site: Site) -> None:
    site.api.post("/v2/ranking-configs", json={"personalized": {"slate_size": 2}})
    site.api.post("/v2/ranking-configs/1/activate", json={"expected_version": 0})
    (shown, _) = ids(site.read())
    told = site.preview({"personalized": {"slate_size": 5}})
    (slate,) = told["slates"]
    assert (slate["old_length"], slate["new_length"], slate["old"][0]) == (2, 5, shown)
    assert [one["was"] for one in slate["new"]] == [0, 1, None, None, None]


@pytest.mark.parametrize("site", [{}], indirect=True)
def test_without_logged_candidates_what_was_shown_is_ranked(site: Site) -> None:
    page = site.read()
    (slate,) = site.preview(PLAIN)["slates"]
    assert (slate["ranked"], slate["old"]) == ("shown", ids(page))


def test_weights_of_engagements_score_anew_what_a_value_model_scored(site: Site) -> None:
    site.models.held[ACME] = HeldModel("7", value_scorer())
    site.read()
    told = site.preview({"personalized": {"value": {"hide": 20.0, "click": -9.0}}})
    (slate,) = told["slates"]
    before = {one["id"]: one["score"] for one in site.preview({})["slates"][0]["new"]}
    assert slate["ranked"] == "candidates"
    assert all(before[one["id"]] != one["score"] for one in slate["new"])


def test_a_model_that_is_gone_is_told_and_its_slates_are_left_out(site: Site) -> None:
    site.models.held[ACME] = HeldModel("7", boosted_scorer())
    site.read()
    site.models.held[ACME] = HeldModel("8", boosted_scorer())
    page = site.read()
    told = site.preview(PLAIN)
    assert [slate["slate_id"] for slate in told["slates"]] == [page["slate_id"]]
    (reason,) = told["skipped"]
    assert "version 7 of the model is no longer at hand" in reason


def test_what_the_log_cannot_show_is_told(site: Site) -> None:
    last = ids(site.read())[-1]
    changed = {
        "personalized": {
            "pins": [{"id": last, "position": 0}],
            "sources": {"trending": {"on": False}},
        }
    }
    (sentence,) = site.preview(changed)["unseen"]
    assert "the sources and pins of the personalized feed differ" in sentence
    assert site.preview(changed, mode="fresh")["unseen"] == []


def test_what_was_removed_since_and_a_fallback_that_reads_more_are_told(site: Site) -> None:
    page = site.read()
    fallback = {"personalized": {"fallback": {"score": "popularity"}}}
    reason = site.preview(fallback)["skipped"]
    assert len(reason) == 1
    assert "its log has no likes_total, " in next(iter(reason))
    for one in ids(page):
        site.service.services.engine.remove(ACME, one).result()
    assert site.preview(PLAIN)["skipped"] == {"nothing that it was made from is left": 1}


def test_as_many_slates_as_are_asked_for_are_ranked_again(site: Site) -> None:
    pages = [site.read() for _ in range(4)]
    told = site.preview(PLAIN, requests=2)
    newest = [page["slate_id"] for page in pages[:1:-1]]
    assert [slate["slate_id"] for slate in told["slates"]] == newest
