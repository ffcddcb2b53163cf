import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from feeds.model import ActivityDraft, FeedId, TenantId, identify
from ranking.errors import RankingError
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.scorers.expression import ExpressionScorer
from ranking.scorers.popularity import PopularityScorer
from serving.app import create_app
from serving.testing import HeldModel, HeldModels, Served, served

ACME = TenantId("acme")
PERSONALIZED = "/v2/users/bob/feeds/personalized"
EXPLORE = "/v2/users/bob/feeds/explore"
START_US = 1_577_880_000_000_000  # 2020-01-01T12:00:00


AGE = FeatureSpec(("age_h",))


@dataclass(frozen=True)
class ScriptedScorer:
    """Scores as it is told."""

    scored: Callable[[int], Any]
    name: str = "scripted"
    spec: FeatureSpec = AGE

    def score(self, features: FeatureMatrix) -> Any:
        """What it was told for that many candidates."""
        return self.scored(len(features))


@dataclass(frozen=True)
class ScriptedColumn:
    """Scores by the last feature of its spec."""

    spec: FeatureSpec
    name: str = "scripted"

    def score(self, features: FeatureMatrix) -> Any:
        """The last column."""
        return features.column(self.spec.names[-1])


def fail(_: int) -> Any:
    raise ZeroDivisionError("secret-of-the-model")


@dataclass(frozen=True)
class Site:
    """A service with a tenant, its client, and the models that it serves."""

    service: Served
    api: httpx.Client
    models: HeldModels

    def post(self, *names: str, feed: str = "user:ann", **fields: Any) -> list[str]:
        """Post activities, a second apart, the last one newest; returns their ids."""
        ids, futures = [], []
        for name in names:
            draft = ActivityDraft(
                actor=fields.get("actor", feed),
                verb="post",
                object=name,
                time_us=START_US + int(name.strip("abcdefghijklmnopqrstuvwxyz")) * 1_000_000,
                to=tuple(fields.get("to", ())),
            )
            futures.append(self.service.services.engine.post(ACME, FeedId.parse(feed), draft))
            ids.append(identify(draft, draft.time_us or 0))
        for future in futures:
            future.result()
        return [str(each) for each in ids]

    def follow(self, *targets: str) -> None:
        for target in targets:
            reply = self.api.post("/v2/feeds/timeline/bob/follows", json={"target": target})
            assert reply.status_code == 201, reply.text

    def read(self, path: str = PERSONALIZED, **params: Any) -> dict[str, Any]:
        reply = self.api.get(path, params=params)
        assert reply.status_code == 200, reply.text
        body: dict[str, Any] = reply.json()
        return body


def ids(page: dict[str, Any]) -> list[str]:
    return [entry["id"] for entry in page["results"]]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    models = HeldModels()
    with (
        served(tmp_path / "data", models=models, deadline_ms=10_000) as service,
        service.tenant(ACME) as api,
    ):
        yield Site(service, api, models)


def names(count: int) -> list[str]:
    return [f"a{n}" for n in range(count)]


def test_without_a_model_the_newest_come_first_and_the_reply_says_so(site: Site) -> None:
    site.follow("user:ann")
    posted = site.post(*names(5))

    page = site.read()

    assert ids(page) == posted[::-1]
    assert page["degraded"] == "this tenant has no live model: ordered by time"
    assert (page["scorer"], page["model_version"]) == ("recency", None)


def test_the_live_model_ranks(site: Site) -> None:
    site.follow("user:ann")
    first, second, third = site.post(*names(3))
    site.models.held[ACME] = HeldModel("7", PopularityScorer())
    site.api.post(
        "/v2/events",
        json={
            "events": [
                {
                    "type": "engagement",
                    "kind": "like",
                    "user": "eve",
                    "activity_id": first,
                }
            ]
        },
    )

    page = site.read()

    assert ids(page)[0] == first
    assert set(ids(page)) == {first, second, third}
    assert (page["degraded"], page["model_version"]) == (None, "7")
    assert page["scorer"] == "popularity"


@pytest.mark.parametrize(
    "scored",
    [
        fail,
        lambda count: np.zeros(count + 1, np.float32),
        lambda count: [0.0] * count,
        lambda _: None,
    ],
)
@pytest.mark.parametrize("path", [PERSONALIZED, EXPLORE])
def test_a_model_that_fails_is_replaced_by_time(
    site: Site, path: str, scored: Callable[[int], Any]
) -> None:
    if path == PERSONALIZED:
        site.follow("user:ann")
    posted = site.post(*names(3))
    site.models.held[ACME] = HeldModel("8", ScriptedScorer(scored))

    page = site.read(path)

    assert set(ids(page)) == set(posted)
    assert page["degraded"] == "the live model failed: ordered by time"
    assert page["model_version"] is None
    metrics = site.api.get("/metrics").text
    assert 'outcome="failed"' in metrics


def test_a_model_whose_features_fail_is_replaced_by_time(site: Site) -> None:
    class BrokenFactors:
        def dot(self, *_: object) -> Any:
            raise RankingError("broken")

    site.follow("user:ann")
    posted = site.post(*names(3))
    scorer = ScriptedScorer(lambda n: np.zeros(n, np.float32), spec=FeatureSpec(("factor_dot",)))
    site.models.held[ACME] = HeldModel("9", scorer, BrokenFactors())

    page = site.read()

    assert ids(page) == posted[::-1]
    assert page["degraded"] == "the live model failed: ordered by time"


def test_scores_that_are_no_numbers_come_last_and_are_null(site: Site) -> None:
    site.follow("user:ann")
    posted = site.post(*names(3))
    scores = np.array([np.nan, 1.0, np.inf], np.float32)
    site.models.held[ACME] = HeldModel("1", ScriptedScorer(lambda _: scores))

    page = site.read()

    assert ids(page)[0] == posted[1]
    assert [entry["score"] for entry in page["results"]] == [1.0, None, None]


def test_a_read_beyond_its_deadline_is_ordered_by_time(tmp_path: Path) -> None:
    models = HeldModels()
    models.held[ACME] = HeldModel("1", PopularityScorer())
    with served(tmp_path / "data", models=models) as service, service.tenant(ACME) as api:
        site = Site(service, api, models)
        site.follow("user:ann")
        posted = site.post(*names(3))
        service.run(lambda: service.services.tables.get(ACME))
        ticks = iter(range(0, 10**12, 10**9))
        slow = replace(service.services.reader, clock_ns=lambda: next(ticks))
        app = create_app(replace(service.services, reader=slow))
        transport = httpx.ASGITransport(app)

        async def read() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=transport, base_url="http://x", headers=api.headers
            ) as client:
                return await client.get(PERSONALIZED)

        page = service.run(read).json()

    assert ids(page) == posted[::-1]
    assert page["degraded"].startswith("the deadline was over")


def test_a_table_that_is_not_there_in_time_is_done_without(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.follow("user:ann")
    posted = site.post(*names(3))
    outside = site.post("b9", feed="user:eve")
    tables = site.service.services.tables

    async def never(_: TenantId) -> Any:
        raise TimeoutError

    monkeypatch.setattr(type(tables), "ready", lambda *_: None)
    monkeypatch.setattr(type(tables), "get", lambda _, tenant: never(tenant))

    page = site.read()
    explored = site.read(EXPLORE)

    assert ids(page) == posted[::-1]
    assert page["degraded"].startswith("the activity table is loading")
    assert ids(explored) == outside


def test_pages_of_a_slate_repeat_and_skip_nothing_while_others_write(site: Site) -> None:
    site.follow("user:ann")
    posted = site.post(*names(30))
    chance = random.Random(7)
    site.models.held[ACME] = HeldModel(
        "1", ScriptedScorer(lambda n: np.array([chance.random() for _ in range(n)], np.float32))
    )
    page = site.read(limit=4)
    seen = ids(page)
    removed: set[str] = set()
    number = 100
    while page["next"]:
        site.post(f"a{number}")
        victim = chance.choice(posted)
        site.api.delete(f"/v2/activities/{victim}")
        if victim not in seen:
            removed.add(victim)
        number += 1
        page = site.read(limit=4, cursor=page["next"])
        assert len(ids(page)) == 4 or page["next"] is None
        seen += ids(page)

    assert len(seen) == len(set(seen))
    assert set(seen) | removed == set(posted)
    assert not set(seen) & removed


def test_a_slate_says_who_made_it_on_every_page(site: Site) -> None:
    site.follow("user:ann")
    site.post(*names(6))

    first = site.read(limit=3)
    second = site.read(limit=3, cursor=first["next"])

    for key in ("slate_id", "kind", "scorer", "model_version", "degraded"):
        assert first[key] == second[key]
    assert [entry["position"] for entry in first["results"] + second["results"]] == [*range(6)]
    assert second["next"] is None


def test_a_slate_that_made_room_for_others_is_expired(tmp_path: Path) -> None:
    with (
        served(tmp_path / "data", slates_max=1) as service,
        service.tenant(ACME) as api,
    ):
        site = Site(service, api, HeldModels())
        site.follow("user:ann")
        site.post(*names(9))
        old = site.read(limit=3)["next"]
        site.read(limit=3)

        reply = api.get(PERSONALIZED, params={"cursor": old})

    assert (reply.status_code, reply.json()["more_info"]) == (
        410,
        "Read the feed again without a cursor.",
    )


def test_origins_are_those_of_the_plain_feed(site: Site) -> None:
    site.follow("user:ann", "topic:x", "topic:y")
    site.post("a1", "a2")
    site.post("a3", to=["topic:y", "topic:x"])
    site.post("a4", feed="topic:y", actor="user:eve")

    plain = site.api.get("/v2/feeds/timeline/bob").json()["results"]
    ranked = site.read()["results"]

    assert {entry["id"]: entry["origin"] for entry in ranked} == {
        entry["id"]: entry["origin"] for entry in plain
    }
    for entry in ranked:
        assert entry["reason"].startswith("because you follow")


def test_explore_shows_what_lies_outside_and_tells_its_propensities(tmp_path: Path) -> None:
    with (
        served(tmp_path / "data", explore_epsilon=1.0) as service,
        service.tenant(ACME) as api,
    ):
        site = Site(service, api, HeldModels())
        site.follow("user:ann")
        site.post(*names(3))
        outside = site.post("b5", "b6", feed="user:eve")

        page = site.read(EXPLORE)

    assert set(ids(page)) == set(outside)
    assert [entry["propensity"] for entry in page["results"]] == [0.5, 1.0]
    assert [entry["origin"] for entry in page["results"]] == [None, None]


def test_explanations_hold_stages_removals_features_and_contributions(site: Site) -> None:
    site.follow("user:ann")
    own = site.post("b9", feed="user:bob")
    posted = site.post(*names(3))
    site.follow("user:bob")

    explanation = site.read(explain=True, limit=2)["explanation"]

    stages = {stage["name"]: stage for stage in explanation["stages"]}
    assert [*stages][:1] == ["gather"]
    assert stages["source_following"]["left"] == 4
    assert (stages["filter"]["came"], stages["filter"]["left"]) == (4, 3)
    assert [entry["activity_id"] for entry in explanation["removed"]] == own
    assert [entry["activity_id"] for entry in explanation["activities"]] == posted[:0:-1]
    assert explanation["activities"][0]["features"]["age_h"] > 0
    assert "explanation" not in site.read()


def test_what_is_older_than_the_table_is_ranked_all_the_same(tmp_path: Path) -> None:
    with (
        served(tmp_path / "data", table_capacity=1_000, deadline_ms=10_000) as service,
        service.tenant(ACME) as api,
    ):
        site = Site(service, api, HeldModels())
        site.follow("user:ann")
        old = site.post(*names(3))
        site.post(*[f"b{n}" for n in range(10, 1_110)], feed="user:eve")

        page = site.read()
        asked = api.post("/v2/users/bob/rank", json={"candidates": old}).json()

    assert ids(page)[:3] == old[::-1]
    assert [entry["id"] for entry in asked["results"]] == old[::-1]
    assert asked["unknown"] == []


def test_a_failing_source_costs_its_candidates_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.follow("user:ann")
    posted = site.post(*names(3))

    def broken(*_: object) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("ranking.sources.TrendingSource.propose", broken)

    assert ids(site.read()) == posted[::-1]
    assert 'headwater_source_failures_total{source="trending"} 1.0' in site.api.get("/metrics").text


def test_an_empty_feed_is_an_empty_page(site: Site) -> None:
    for path in (PERSONALIZED, EXPLORE):
        page = site.read(path)
        assert (page["results"], page["next"]) == ([], None)


def test_a_failure_of_the_server_is_told_without_its_content(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> Any:
        raise ValueError("hunter2")

    monkeypatch.setattr("feeds.reader.StoreReader.user_record", broken)

    reply = site.api.get(PERSONALIZED)

    assert (reply.status_code, reply.json()["code"]) == (500, -1)
    assert reply.headers["x-request-id"] in reply.json()["detail"]
    assert "hunter2" not in reply.text + "".join(capsys.readouterr())


NEARER = ExpressionScorer.of({"score": "-external.km", "defaults": {"external": {"km": 5}}})


def rank(site: Site, **body: Any) -> httpx.Response:
    return site.api.post("/v2/users/bob/rank", json=body)


def test_the_callers_numbers_rank_its_candidates_in_an_expression(site: Site) -> None:
    far, near, unknown = site.post(*names(3))
    site.models.held[ACME] = HeldModel("1", NEARER)
    features = {"km": [9.5, 1, None, 2], "mood": [1, 2, 3, 4]}

    reply = rank(site, candidates=[far, near, unknown, far], features=features).json()

    assert [(entry["id"], entry["score"]) for entry in reply["results"]] == [
        (near, -1.0),
        (unknown, -5.0),
        (far, -9.5),
    ]
    assert reply["unread_features"] == ["mood"]
    assert reply["degraded"] is None


def test_without_numbers_of_the_caller_its_defaults_hold(site: Site) -> None:
    site.follow("user:ann")
    site.post(*names(3))
    site.models.held[ACME] = HeldModel("1", NEARER)

    assert {entry["score"] for entry in site.read()["results"]} == {-5.0}


def test_a_model_can_read_the_callers_numbers_by_their_feature(site: Site) -> None:
    first, second = site.post(*names(2))
    spec = FeatureSpec(("age_h", "caller_km"))
    site.models.held[ACME] = HeldModel("1", ScriptedColumn(spec))

    told = rank(site, candidates=[first, second], features={"km": [3, 7]}, explain=True).json()

    assert [entry["id"] for entry in told["results"]] == [second, first]
    explained = told["explanation"]["activities"]
    assert [entry["features"]["caller_km"] for entry in explained] == [7, 3]
    assert told["unread_features"] == []


@pytest.mark.parametrize(
    ("features", "told"),
    [
        ({"km": [1]}, "feature km has 1 numbers for 2 candidates"),
        ({"_km": [1, 2]}, "'_km' is not the name of a feature"),
        ({f"f{n}": [1, 2] for n in range(21)}, "features"),
        ({"km": [1, "2"]}, "features"),
        ({"km": [1, True]}, "features"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    site: Site, features: dict[str, Any], told: str
) -> None:
    reply = rank(site, candidates=site.post(*names(2)), features=features)

    assert reply.status_code == 400
    assert told in reply.json()["detail"]
