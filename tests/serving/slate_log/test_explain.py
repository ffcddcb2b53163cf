"""`GET /v2/slates/{id}/explain`: what was served, scored again from what was logged."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.errors import NotFound
from feeds.model import ActivityDraft, FeedId, TenantId
from ranking.config import RankingConfig
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.registry import DirectoryRegistry
from ranking.scorers.base import Scorer
from ranking.testing_models import boosted_scorer, model_bundle, value_scorer
from serving.loader import Loader
from serving.slate_log.explain import ModelVersions, explain, recompute
from serving.slate_log.testing import ACME, made_slate
from serving.testing import ALL_SCOPES, HeldModel, HeldModels, Served, served

PERSONALIZED = "/v2/users/bob/feeds/personalized"
EXPLORE = "/v2/users/bob/feeds/explore"
BOOSTED = boosted_scorer()


@dataclass(frozen=True)
class Site:
    service: Served
    api: httpx.Client
    models: HeldModels

    def read(self, path: str = PERSONALIZED, **params: Any) -> dict[str, Any]:
        reply = self.api.get(path, params=params)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def explained(self, slate_id: str) -> dict[str, Any]:
        return self.read(f"/v2/slates/{slate_id}/explain")


def filled(service: Served, tenant: TenantId = ACME) -> None:
    """Two followed activities, eight others, and one of the reader's own."""
    engine = service.services.engine
    engine.follow(tenant, FeedId("timeline", "bob"), FeedId("user", "ann")).result()
    for number in range(11):
        author = "ann" if number < 2 else "bob" if number == 10 else f"u{number}"
        draft = ActivityDraft(actor=f"user:{author}", verb="post", object=f"o{number}")
        engine.post(tenant, FeedId("user", author), draft).result()


def kept(_: TenantId, version: int) -> RankingConfig:
    """The default, and no other version."""
    if version:
        raise NotFound(f"version {version} is not kept")
    return RankingConfig.default()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    models = HeldModels()
    models.held[ACME] = HeldModel("7", BOOSTED)
    with (
        served(tmp_path / "data", models=models, deadline_ms=10_000) as service,
        service.tenant(ACME, ALL_SCOPES) as api,
    ):
        filled(service)
        yield Site(service, api, models)


@pytest.mark.parametrize("path", [PERSONALIZED, EXPLORE])
def test_a_served_slate_comes_out_bit_identical_with_all_that_was_told(
    site: Site, path: str
) -> None:
    page = site.read(path, explain=True)

    found = site.explained(page["slate_id"])

    assert found["recomputed"] == {"bit_identical": True, "different": 0, "problem": None}
    for name in ("slate_id", "kind", "scorer", "model_version", "degraded"):
        assert found[name] == page[name]
    shown = [
        {key: entry[key] for key in ("activity_id", "position", "score", "source", "reason")}
        | {"propensity": entry["propensity"]}
        for entry in found["activities"]
    ]
    assert shown == [
        {key: entry[key] for key in ("position", "score", "source", "reason", "propensity")}
        | {"activity_id": entry["id"]}
        for entry in page["results"]
    ]
    for logged, told in zip(found["activities"], page["explanation"]["activities"], strict=True):
        assert logged["features"] == told["features"]
        assert logged["contributions"] == told["contributions"]
        assert logged["multipliers"] == told["multipliers"]
        assert logged["explored"] == told["explored"]
        total = sum(logged["contributions"].values()) + logged["bias"]
        assert total == pytest.approx(logged["score"], abs=1e-5)
    assert [stage["name"] for stage in found["stages"]] == [
        "filter",
        "features",
        "score",
        "adjust",
        "select",
        "explore",
        "post_filter",
    ]
    if path == EXPLORE:
        assert found["removed"] == [{"filter": "own", "reason": "the user posted it", "count": 1}]


def test_a_slate_of_a_moment_ago_is_explained_however_seldom_the_log_is_written(
    tmp_path: Path,
) -> None:
    with (
        served(tmp_path / "data", slate_log_flush_ms=60_000, deadline_ms=10_000) as service,
        service.tenant(ACME, ALL_SCOPES) as api,
    ):
        filled(service)
        site = Site(service, api, HeldModels())
        page = site.read(PERSONALIZED)
        began_s = time.monotonic()

        assert site.explained(page["slate_id"])["slate_id"] == page["slate_id"]

        assert time.monotonic() - began_s < 60


def test_a_slate_ordered_by_time_is_explained_by_time(site: Site) -> None:
    site.models.held.clear()
    page = site.read()
    found = site.explained(page["slate_id"])
    assert found["recomputed"]["bit_identical"]
    assert found["degraded"] == "this tenant has no live model: ordered by time"
    for entry in found["activities"]:
        assert entry["contributions"] == {"age_h": entry["score"]}


def test_what_the_caller_had_ranked_is_logged_too(site: Site) -> None:
    ids = [entry["id"] for entry in site.read(EXPLORE)["results"]]
    reply = site.api.post("/v2/users/bob/rank", json={"candidates": ids}).json()
    found = site.explained(reply["slate_id"])
    assert found["recomputed"]["bit_identical"]
    assert {entry["source"] for entry in found["activities"]} == {"caller"}
    assert [entry["activity_id"] for entry in found["activities"]] == [
        entry["id"] for entry in reply["results"]
    ]


def test_an_empty_slate_is_explained(site: Site) -> None:
    never = "87a9eec0-fd5f-11e8-8080-80013fed2f5b"
    reply = site.api.post("/v2/users/bob/rank", json={"candidates": [never]}).json()
    found = site.explained(reply["slate_id"])
    assert (found["activities"], found["recomputed"]["bit_identical"]) == ([], True)


def test_where_the_version_is_gone_the_logged_values_are_shown(site: Site) -> None:
    page = site.read()
    site.models.held[ACME] = HeldModel("8", boosted_scorer(seed=2))
    found = site.explained(page["slate_id"])
    assert found["recomputed"] == {
        "bit_identical": None,
        "different": 0,
        "problem": "version 7 of the model is no longer at hand; the values are those that were "
        "logged",
    }
    assert [entry["score"] for entry in found["activities"]] == [
        entry["score"] for entry in page["results"]
    ]
    assert found["activities"][0]["contributions"] is None
    assert found["activities"][0]["features"]["age_h"] > 0


def test_a_slate_that_was_not_drawn_is_not_found(tmp_path: Path) -> None:
    with (
        served(
            tmp_path / "data",
            slate_log_rate=0.0,
            slate_log_tenants={"drawn": {"rate": 1.0, "candidates": True}},
            slate_log_flush_ms=5.0,
        ) as service,
        service.tenant(ACME) as api,
        service.tenant("drawn") as drawn,
    ):
        for client, status in ((api, 404), (drawn, 200)):
            page = client.get(PERSONALIZED).json()
            reply = client.get(f"/v2/slates/{page['slate_id']}/explain")
            assert reply.status_code == status
        assert "slate_log_rate" in api.get("/v2/slates/none/explain").json()["detail"]


def test_another_model_of_the_version_is_told_apart() -> None:
    slate = made_slate("a", 30, scorer=BOOSTED, model_version="3").logged()
    again = recompute(slate, boosted_scorer(seed=2))
    assert again.bit_identical is False
    assert 0 < again.different <= 29
    other = HeldModel("3", boosted_scorer(FeatureSpec(("age_h", "length_bytes"))))
    models = HeldModels()
    models.held[ACME] = other
    versions = ModelVersions(models.get, Path("nowhere"), kept)
    found = explain(slate, versions, versions.live(ACME, "3"))
    assert "other features" in found["recomputed"]["problem"]


class RaisingScorer:
    name = "raising"
    spec = FeatureSpec(("age_h",))

    def score(self, features: FeatureMatrix) -> np.ndarray:  # noqa: ARG002 - as every scorer
        raise ZeroDivisionError


def test_a_scorer_that_fails_is_told() -> None:
    again = recompute(made_slate("a").logged(), RaisingScorer())
    assert (again.bit_identical, again.contributions) == (None, None)
    assert "ZeroDivisionError" in (again.problem or "")


def test_a_fallback_that_is_not_the_configs_is_told() -> None:
    slate = replace_scorer(made_slate("a").logged(), "expression")
    found = explain(slate, ModelVersions(HeldModels().get, Path("nowhere"), kept), None)
    assert found["recomputed"]["problem"] == (
        "no model took part, and the scorer 'expression' is not the fallback of version 0 of the "
        "ranking config; the values are those that were logged"
    )


def activate(site: Site, document: dict[str, Any]) -> int:
    """Save a ranking config and let it rank; its version."""
    version: int = site.api.post("/v2/ranking-configs", json=document).json()["version"]
    now = site.read("/v2/ranking-config")["version"]
    path = f"/v2/ranking-configs/{version}/activate"
    assert site.api.post(path, json={"expected_version": now}).status_code == 200
    return version


def test_a_value_model_is_weighed_as_the_config_of_the_slate_said(site: Site) -> None:
    scorer = value_scorer()
    site.models.held[ACME] = HeldModel("7", scorer)
    first = activate(site, {"personalized": {"value": {"like": 3, "hide": -2, "click": 0}}})
    page = site.read(explain=True)
    activate(site, {"personalized": {"value": {"like": 0, "hide": 5}}})
    after = site.read()

    for served_page in (page, after):
        found = site.explained(served_page["slate_id"])
        assert found["recomputed"] == {"bit_identical": True, "different": 0, "problem": None}
        for entry in found["activities"]:
            total = sum(entry["contributions"].values()) + entry["bias"]
            assert total == pytest.approx(entry["score"], abs=1e-5)
            worth = sum(head["weight"] * head["probability"] for head in entry["heads"])
            assert worth == pytest.approx(entry["score"], abs=1e-5)
            for head in entry["heads"]:
                told = sum(head["contributions"].values()) + head["bias"]
                assert told == pytest.approx(head["probability"], abs=1e-5)
    explained = site.explained(page["slate_id"])["activities"]
    shown = [entry["heads"] for entry in page["explanation"]["activities"]]
    assert [entry["heads"] for entry in explained] == shown
    weights = {head["kind"]: head["weight"] for head in shown[0]}
    assert (weights["like"], weights["hide"], weights["click"]) == (3, -2, 0)
    assert page["config_version"] == first
    scores = [{one["id"]: one["score"] for one in each["results"]} for each in (page, after)]
    assert scores[0] != scores[1]


@pytest.mark.parametrize(
    "formula",
    [
        "decay_exp(time) * (2 + popularity)",
        "rand_normal() + popularity",
        "external.near + popularity",
    ],
)
def test_an_expression_that_ordered_a_slate_is_evaluated_again(site: Site, formula: str) -> None:
    site.models.held.clear()
    document = {"score": formula, "defaults": {"external": {"near": 0.5}}}
    if "external" not in formula:
        document.pop("defaults")
    activate(site, {kind: {"fallback": document} for kind in ("personalized", "explore")})
    page = site.read()
    ids = [entry["id"] for entry in site.read(EXPLORE)["results"]]
    brought = {"candidates": ids, "features": {"near": [float(n) for n in range(len(ids))]}}
    ranked = site.api.post("/v2/users/bob/rank", json=brought).json()

    for slate_id in (page["slate_id"], ranked["slate_id"]):
        found = site.explained(slate_id)
        assert found["scorer"] == "expression"
        assert found["recomputed"] == {"bit_identical": True, "different": 0, "problem": None}


def test_where_the_version_of_the_config_is_gone_it_is_told(site: Site) -> None:
    site.models.held[ACME] = HeldModel("7", value_scorer())
    page = site.read()
    slate = made_slate("a", 5, scorer=value_scorer(), model_version="7").logged()
    fields = {each: getattr(slate, each) for each in slate.__struct_fields__}
    gone = type(slate)(**fields | {"config_version": 9})
    versions = ModelVersions(
        site.models.get, Path("nowhere"), site.service.services.configs.version
    )
    found = explain(gone, versions, versions.live(ACME, "7"))
    assert site.explained(page["slate_id"])["recomputed"]["bit_identical"]
    assert found["recomputed"]["bit_identical"] is None
    assert "version 9 of the ranking config is not at hand" in found["recomputed"]["problem"]
    assert found["activities"][0]["score"] is not None


def replace_scorer(slate: Any, name: str) -> Any:
    fields = {each: getattr(slate, each) for each in slate.__struct_fields__}
    return type(slate)(**fields | {"scorer": name})


def test_a_version_that_was_live_before_is_loaded_from_its_bundle(tmp_path: Path) -> None:
    registry, home = DirectoryRegistry(tmp_path / "registry"), tmp_path / "models"
    home.mkdir()
    loader = Loader(registry, home)
    for seed in (1, 2):
        model_bundle(ACME, boosted_scorer(seed=seed)).save(tmp_path / f"bundle-{seed}")
        version = registry.publish(ACME, tmp_path / f"bundle-{seed}").version
        registry.promote(ACME, version)
        loader.poll()
    slate = made_slate("a", 40, scorer=BOOSTED, model_version="1").logged()
    versions = ModelVersions(HeldModels().get, home, kept)
    assert explain(slate, versions, None)["recomputed"]["bit_identical"]
    other = made_slate("a", 40, scorer=BOOSTED, model_version="3").logged()
    assert "version 3" in explain(other, versions, None)["recomputed"]["problem"]


@given(
    name=st.text("abc", min_size=1, max_size=4),
    activities=st.integers(0, 40),
    seed=st.integers(0, 3),
)
def test_recomputing_is_bit_identical_and_contributions_add_up(
    name: str, activities: int, seed: int
) -> None:
    scorer: Scorer = SCORERS[seed]
    slate = made_slate(name, activities, scorer=scorer).logged()
    again = recompute(slate, scorer)
    assert again.bit_identical
    assert again.contributions is not None
    scores = slate.places.score_values().astype(np.float64)
    total = again.contributions.astype(np.float64).sum(axis=1)
    assert (np.abs(total - scores) <= 1e-5 * np.maximum(1, np.abs(scores))).all()


SCORERS = [boosted_scorer(seed=seed, rounds=30) for seed in range(4)]


def test_the_reply_is_the_same_with_the_log_on_off_or_failing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: dict[str, list[bytes]] = {}
    (tmp_path / "file").write_text("no directory")
    kinds: dict[str, dict[str, Any]] = {
        "on": {},
        "off": {"slate_log_rate": 0.0},
        "all": {"slate_log_candidates": True},
        "failing": {"slate_log_dir": tmp_path / "file"},
    }
    for kind, settings in kinds.items():
        drawn = iter(range(10_000))
        models = HeldModels()
        models.held[ACME] = HeldModel("7", BOOSTED)
        with (
            served(tmp_path / "data" / kind, models=models, deadline_ms=10_000, **settings) as one,
            one.tenant(ACME) as api,
        ):
            reader = one.services.reader
            monkeypatch.setattr(
                "serving.reader.os.urandom",
                lambda size, drawn=drawn: next(drawn).to_bytes(size) if size == 16 else bytes(size),
            )
            fixed = replace(reader, clock_us=lambda: 1_600_000_000_000_000)
            engine = one.services.engine
            engine.follow(ACME, FeedId("timeline", "bob"), FeedId("user", "ann")).result()
            for number in range(60):
                author = f"user:{'ann' if number % 3 else 'eve'}"
                draft = ActivityDraft(
                    actor=author, verb="post", object=f"o{number}", time_us=10**15 + number
                )
                engine.post(ACME, FeedId.parse(author), draft).result()
            one.run(lambda one=one: one.services.tables.get(ACME))
            pages[kind] = [
                one.run(
                    lambda feed=feed, fixed=fixed: fixed.read(ACME, "bob", feed, limit=10)
                ).content
                for feed in ("personalized", "explore", "personalized")
            ]
            assert api.get(PERSONALIZED).status_code == 200
            assert one.services.slate_log.flush()
            monkeypatch.undo()
            logged = one.services.metrics.registry.get_sample_value("headwater_slates_logged_total")
            assert logged == (4 if kind in ("on", "all") else 0)
    assert pages["on"] == pages["off"] == pages["all"] == pages["failing"]
