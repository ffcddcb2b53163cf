"""Reads that have too little time: what they give up, and that they are answered all the same."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from feeds.counters import HOUR_US
from feeds.model import ActivityDraft, FeedId, TenantId, UserId
from ranking.candidates import Query
from ranking.config import RankingConfig
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.scorers.popularity import PopularityScorer
from ranking.sources import TrendingSource
from ranking.table import ActivityTable
from serving.configs import ActiveVersion
from serving.quality import TimeGiven
from serving.reader import FeedReader
from serving.testing import HeldModel, HeldModels, Served, served

ACME, BOB = TenantId("acme"), UserId("bob")
PERSONALIZED = "/v2/users/bob/feeds/personalized"
START_US = 1_577_880_000_000_000
SPEC = FeatureSpec(("age_h", "followees_engaged"))
ALL_STEPS = ["candidates", "diversity", "features", "sources", "model"]


class Clock:
    """Nanoseconds that go on only where a test says so."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        """The time."""
        return self.now_ns

    def pass_ms(self, ms: float) -> None:
        """Let time pass."""
        self.now_ns += int(ms * 1e6)


@dataclass(frozen=True)
class SlowScorer:
    """Scores the oldest highest, and takes its time."""

    wait: Callable[[], None]
    name: str = "slow"
    spec: FeatureSpec = SPEC

    def score(self, features: FeatureMatrix) -> Any:
        """The age."""
        self.wait()
        return features.column("age_h")


@dataclass(frozen=True)
class OneConfig:
    """The same config for every tenant."""

    config: RankingConfig

    def of(self, tenant: TenantId) -> ActiveVersion:
        """It."""
        del tenant
        return ActiveVersion(1, self.config)


@dataclass(frozen=True)
class Site:
    """A service, a reader of it on a clock of the test's, and what was posted, oldest first."""

    service: Served
    api: httpx.Client
    models: HeldModels
    clock: Clock
    reader: FeedReader
    posted: list[str]

    def read(self, *, explain: bool = False, **time: Any) -> dict[str, Any]:
        """A page, read by the test's clock; `time` as in `TimeGiven`."""
        page = self.service.run(
            lambda: self.reader.read(
                ACME, BOB, "personalized", limit=100, time=TimeGiven(**time), explain=explain
            )
        )
        content: dict[str, Any] = orjson.loads(page.content)
        return content


def ids(page: dict[str, Any]) -> list[str]:
    return [entry["id"] for entry in page["results"]]


def followed(site: Site) -> list[str]:
    """What bob follows, the newest first."""
    return site.posted[1::2][::-1]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    models = HeldModels()
    with (
        served(tmp_path / "data", models=models, deadline_ms=100) as service,
        service.tenant(ACME) as api,
    ):
        engine = service.services.engine
        follow = engine.follow(ACME, FeedId("timeline", BOB), FeedId("user", "ann"))
        follow.result()
        posted = []
        for number in range(40):
            author = "ann" if number % 2 else "eve"
            draft = ActivityDraft(
                actor=f"user:writer{number}",
                verb="post",
                object=str(number),
                time_us=START_US + number * HOUR_US,
            )
            posted.append(
                str(engine.post(ACME, FeedId("user", author), draft).result().activity.id)
            )
        events = [
            {"type": "engagement", "kind": "like", "user": "zoe", "activity_id": each}
            for each in posted
        ]
        assert api.post("/v2/events", json={"events": events}).status_code == 201
        service.run(lambda: service.services.tables.get(ACME))
        clock = Clock()
        reader = replace(service.services.reader, clock_ns=clock)
        yield Site(service, api, models, clock, reader, posted)


def trending_takes(site: Site, monkeypatch: pytest.MonkeyPatch, ms: float) -> list[int]:
    """Let trending take so long from now on; what is returned counts its calls."""
    calls: list[int] = []
    propose = TrendingSource.propose

    def slow(source: TrendingSource, query: Query, table: ActivityTable) -> Any:
        calls.append(1)
        site.clock.pass_ms(ms)
        return propose(source, query, table)

    monkeypatch.setattr(TrendingSource, "propose", slow)
    return calls


def test_with_time_nothing_is_given_up(site: Site) -> None:
    site.models.held[ACME] = HeldModel("1", PopularityScorer())
    page = site.read()
    assert page["quality"] == {"factor": 1.0, "steps": [], "late_sources": []}
    assert page["degraded"] is None
    assert len(ids(page)) == 40


def test_a_source_that_takes_longer_than_there_is_time_is_left_out_and_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.models.held[ACME] = HeldModel("1", PopularityScorer())
    calls = trending_takes(site, monkeypatch, 45)
    assert len(ids(site.read())) == 40

    page = site.read(deadline_ms=40)

    assert len(calls) == 1
    assert page["quality"]["late_sources"] == ["trending"]
    assert page["quality"]["steps"] == ["sources"]
    assert page["degraded"] == ("there was little time: late sources were left out (trending)")
    assert page["model_version"] == "1", "the model still ranks what is left"
    assert len(ids(page)) == 20


def test_a_source_that_was_left_out_is_tried_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = trending_takes(site, monkeypatch, 45)
    site.read()
    for _ in range(5):
        site.read(deadline_ms=40)
    assert len(calls) > 1


def test_a_model_that_takes_longer_than_there_is_time_gives_way_to_the_fallback(
    site: Site,
) -> None:
    site.models.held[ACME] = HeldModel("1", SlowScorer(lambda: site.clock.pass_ms(45)))
    assert ids(site.read()) == site.posted, "the oldest first"

    page = site.read(deadline_ms=40)

    assert ids(page) == site.posted[::-1]
    assert (page["model_version"], page["scorer"]) == (None, "recency")
    assert page["quality"]["steps"] == ["model"]
    assert page["degraded"].startswith("the model was left out for lack of time: ordered by time")


def test_the_fallback_expression_of_the_config_ranks_in_the_models_place(site: Site) -> None:
    config = RankingConfig.parse({"personalized": {"fallback": {"score": "age_h"}}})
    reader = replace(site.reader, configs=OneConfig(config))
    page = replace(site, reader=reader).read()
    assert ids(page) == site.posted
    assert page["scorer"] == "expression"
    assert page["degraded"] == ("this tenant has no live model: ordered by the fallback expression")


def test_once_the_deadline_is_over_the_newest_come_whatever_the_config(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RankingConfig.parse({"personalized": {"fallback": {"score": "age_h"}}})
    late = replace(site, reader=replace(site.reader, configs=OneConfig(config)))
    site.models.held[ACME] = HeldModel("1", PopularityScorer())
    trending_takes(site, monkeypatch, 150)

    page = late.read()

    assert ids(page) == followed(site)
    assert page["scorer"] == "recency"
    assert page["quality"]["steps"] == ["sources", "model", "chronological"]
    assert page["degraded"].startswith("the deadline was over before the model could score")


def test_a_read_that_waited_for_its_turn_has_less_time(site: Site) -> None:
    site.models.held[ACME] = HeldModel("1", PopularityScorer())
    site.clock.pass_ms(500)
    assert site.read(began_ns=site.clock.now_ns)["model_version"] == "1"
    page = site.read(began_ns=site.clock.now_ns - 200_000_000)
    assert page["model_version"] is None
    assert page["quality"]["steps"] == ["sources", "model", "chronological"]


def test_the_longer_a_read_waited_the_less_it_does(site: Site) -> None:
    site.models.held[ACME] = HeldModel("1", PopularityScorer())
    site.clock.pass_ms(500)
    waited_ms = (5, 15, 20, 29, 40)
    pages = [
        site.read(began_ns=site.clock.now_ns - ms * 1_000_000, explain=True) for ms in waited_ms
    ]
    given_up = [page["quality"]["steps"] for page in pages]
    assert given_up[0] == []
    assert given_up[1:3] == [["candidates", "diversity"], ALL_STEPS[:3]]
    assert given_up[3] == ALL_STEPS
    assert given_up[4][-1] == "chronological"
    assert [page["model_version"] for page in pages] == ["1", "1", "1", None, None]
    told = [stage["name"] for stage in pages[3]["explanation"]["stages"]]
    assert "source_trending_late" in told


def test_without_time_the_newest_come_in_one_pass_served_lately_or_not(site: Site) -> None:
    config = RankingConfig.parse(
        {"personalized": {"exploration": {"policy": "epsilon", "rate": 1.0}}}
    )
    spread = replace(site, reader=replace(site.reader, configs=OneConfig(config)))
    site.models.held[ACME] = HeldModel("1", PopularityScorer())
    first = ids(site.read())
    site.clock.pass_ms(500)
    page = spread.read(began_ns=site.clock.now_ns - 60_000_000, explain=True)
    assert ids(page) == followed(site)
    assert set(ids(page)) <= set(first)
    assert [stage["name"] for stage in page["explanation"]["stages"]].count("score") == 1
    assert {entry["propensity"] for entry in page["results"]} == {1.0}


def test_what_a_user_hid_is_left_out_however_little_time_there_is(site: Site) -> None:
    hidden = followed(site)[0]
    event = {"type": "engagement", "kind": "hide", "user": BOB, "activity_id": hidden}
    assert site.api.post("/v2/events", json={"events": [event]}).status_code == 201
    site.clock.pass_ms(500)
    page = site.read(began_ns=site.clock.now_ns - 60_000_000)
    assert ids(page) == followed(site)[1:]


def test_a_source_has_the_time_that_its_config_gives_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    trending = {"trending": {"timeout_ms": 10}}
    config = RankingConfig.parse({"personalized": {"sources": trending}})
    hasty = replace(site, reader=replace(site.reader, configs=OneConfig(config)))
    site.models.held[ACME] = HeldModel("1", PopularityScorer())
    calls = trending_takes(site, monkeypatch, 15)

    pages = [hasty.read(explain=True) for _ in range(2)]

    assert len(calls) == 1, "dropped once for being late, then not asked"
    for page in pages:
        assert page["quality"]["late_sources"] == ["trending"]
        assert page["model_version"] == "1"
        assert sorted(ids(page)) == sorted(followed(site))


def test_late_reads_give_up_step_by_step_and_timely_ones_win_it_back(site: Site) -> None:
    wait = {"ms": 60.0}
    site.models.held[ACME] = HeldModel("1", SlowScorer(lambda: site.clock.pass_ms(wait["ms"])))
    site.read()
    limits = site.reader._quality.config
    seen = [site.read()["quality"] for _ in range(limits.late_to_min)]

    assert seen[0]["steps"] == ["candidates"]
    assert seen[-1]["steps"] == ALL_STEPS
    assert [len(each["steps"]) for each in seen] == sorted(len(each["steps"]) for each in seen)
    assert seen[-1]["factor"] >= limits.factor_min
    page = site.read(explain=True)
    assert len(ids(page)) >= 1
    assert len(page["explanation"]["activities"]) == len(ids(page)), "explained all the same"
    wait["ms"] = 0.0
    for _ in range(limits.timely_to_full + 1):
        page = site.read()
    assert page["quality"] == {"factor": 1.0, "steps": [], "late_sources": []}
    assert page["model_version"] == "1"


def test_optional_features_are_missing_and_the_explanation_says_so(site: Site) -> None:
    site.models.held[ACME] = HeldModel("1", SlowScorer(lambda: None))
    site.reader._quality.factor = 0.5
    page = site.read(explain=True)
    assert page["quality"]["steps"] == ["candidates", "diversity", "features"]
    told = page["explanation"]["activities"][0]["features"]
    assert told["followees_engaged"] is None
    assert told["age_h"] > 0


def test_no_time_at_all_gives_the_cheapest_answer(site: Site) -> None:
    site.models.held[ACME] = HeldModel("1", PopularityScorer())
    reply = site.api.get(PERSONALIZED, params={"deadline_ms": 0})
    assert reply.status_code == 200
    page = reply.json()
    assert ids(page) == followed(site)
    assert page["quality"]["steps"] == ["sources", "model", "chronological"]
    explore = site.api.get("/v2/users/bob/feeds/explore", params={"deadline_ms": 0}).json()
    assert len(ids(explore)) == 20
    metrics = site.api.get("/metrics").text
    assert 'headwater_quality_steps_total{step="chronological"} 2.0' in metrics
    assert 'headwater_ranked_reads_total{kind="personalized",outcome="deadline"} 1.0' in metrics
    assert "headwater_quality_factor 1.0" in metrics


def test_candidates_of_the_callers_own_are_all_ranked_however_little_time_there_is(
    site: Site,
) -> None:
    site.models.held[ACME] = HeldModel("1", PopularityScorer())
    body = {"candidates": site.posted, "deadline_ms": 0}
    reply = site.api.post("/v2/users/bob/rank", json=body).json()
    assert [entry["id"] for entry in reply["results"]] == site.posted[::-1]
    assert (reply["unknown"], reply["quality"]["steps"]) == ([], ["model", "chronological"])


@pytest.mark.parametrize("given", ["-1", "nan", "inf", "soon", "60001"])
def test_a_deadline_that_is_none_is_refused(site: Site, given: str) -> None:
    reply = site.api.get(PERSONALIZED, params={"deadline_ms": given})
    assert reply.status_code == 400
    assert "deadline_ms" in reply.json()["detail"]


def test_a_fallback_that_fails_leaves_the_newest(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("ranking.scorers.expression.ExpressionScorer.score", broken)
    config = RankingConfig.parse({"personalized": {"fallback": {"score": "age_h"}}})
    page = replace(site, reader=replace(site.reader, configs=OneConfig(config))).read()
    assert ids(page) == site.posted[::-1]
    assert page["degraded"] == "this tenant has no live model: ordered by time"


def test_a_read_within_its_time_is_bit_for_bit_what_it_was(site: Site) -> None:
    """A factor of 1 touches nothing: the same rows, features and scores."""
    site.models.held[ACME] = HeldModel("1", SlowScorer(lambda: None))
    pages = [site.read(), site.read(deadline_ms=60_000)]
    first, second = ([(e["id"], e["score"]) for e in page["results"]] for page in pages)
    assert first == second
    assert np.isfinite([score for _, score in first]).all()
