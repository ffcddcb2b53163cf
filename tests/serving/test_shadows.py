"""Models on trial rank a sample of live requests after the reply, and nothing shows of it."""

import asyncio
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from structlog.testing import capture_logs

from feeds.model import ActivityDraft, ActivityId, FeedId, Position, TenantId, UserId
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.scorers.recency import RecencyScorer
from ranking.slates import RankedActivities, Slate
from ranking.testing import T0_US, query
from serving.shadows import ShadowConfig, ShadowFigures, ShadowTrials
from serving.slate_log.record import LoggedSlate
from serving.slate_log.shelf import find_slate
from serving.slate_log.testing import logged_slates
from serving.telemetry import Metrics
from serving.testing import HeldModel, HeldModels, HeldShadowSlates, Served, served, wait_until

ACME, BETA = TenantId("acme"), TenantId("beta")
PERSONALIZED = "/v2/users/bob/feeds/personalized"
AGE = FeatureSpec(("age_h",))
DEADLINE_S = 30


@dataclass(frozen=True)
class OldestFirst:
    """The other way round than time orders."""

    name: str = "oldest"
    spec: FeatureSpec = AGE

    def score(self, features: FeatureMatrix) -> Any:
        return features.column("age_h")


@dataclass(frozen=True)
class Failing:
    """A model that cannot score."""

    name: str = "failing"
    spec: FeatureSpec = AGE

    def score(self, features: FeatureMatrix) -> Any:
        raise ZeroDivisionError(len(features))


LIVE, SHADOW, BROKEN = (
    HeldModel("1", RecencyScorer()),
    HeldModel("2", OldestFirst()),
    HeldModel("3", Failing()),
)


def slate(names: str, version: str = "1", tenant: TenantId = ACME) -> Slate:
    """A slate of activities with names of one letter."""
    asked = query()
    return Slate(
        request_id=asked.request_id,
        tenant=tenant,
        user=asked.user,
        kind=asked.kind,
        ranked=RankedActivities(
            activity_ids=[ActivityId(name) for name in names],
            feed_positions=[Position(name.encode()) for name in names],
            scores=[0.0] * len(names),
            sources=["test"] * len(names),
            reasons=[""] * len(names),
            propensities=[1.0] * len(names),
        ),
        model_version=version,
    )


def run_trials(trials: ShadowTrials, offers: Callable[[], None], until: Callable[[], bool]) -> None:
    """Offer, and let the trials run until something holds."""

    async def run() -> None:
        await trials.start()
        offers()
        async with asyncio.timeout(DEADLINE_S):
            while not until():  # noqa: ASYNC110 - what it waits for is seen by looking alone
                await asyncio.sleep(0)
        await trials.stop()
        await trials.stop()

    asyncio.run(run())


def told(metrics: Metrics) -> dict[str, float]:
    """The metrics of trials."""
    lines = [line for line in metrics.render().decode().splitlines() if "shadow" in line]
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


def test_slates_on_trial_are_noted_and_compared() -> None:
    metrics, noted = Metrics(), HeldShadowSlates()
    trials = ShadowTrials(metrics, noted)
    pairs = [("abcd", "abcd"), ("abcd", "dcba"), ("abcd", "abdx")]

    def offer() -> None:
        for live, other in pairs:
            trials.offer(query(), slate(live), SHADOW, lambda other=other: slate(other, "2"))  # type: ignore[misc]

    run_trials(trials, offer, lambda: trials.figures(ACME).trials == 3)

    assert noted.noted == [(query(), slate(other, "2")) for _, other in pairs]
    figures = trials.figures(ACME)
    assert figures[:4] == ("2", "1", 3, 0)
    assert figures[4:] == pytest.approx((2 / 3, (1 + 1 + 3 / 4) / 3, (1 - 1 + 1) / 3))
    assert trials.figures(BETA)[:4] == ShadowFigures()[:4]
    found = told(metrics)
    assert found['headwater_shadow_trials_total{outcome="same_top"}'] == 2
    assert found['headwater_shadow_trials_total{outcome="other_top"}'] == 1
    assert found["headwater_shadow_overlap_count"] == 3
    assert found['headwater_shadow_rank_correlation_bucket{le="-0.5"}'] == 1


def test_figures_are_of_the_versions_that_are_there_now() -> None:
    trials = ShadowTrials(Metrics())
    other = HeldModel("3", OldestFirst())

    def offer() -> None:
        for model in (SHADOW, SHADOW, other):
            trials.offer(query(), slate("ab"), model, lambda: slate("ba"))

    run_trials(trials, offer, lambda: trials.figures(ACME).version == "3")
    assert trials.figures(ACME).trials == 1


def test_figures_of_tenants_without_trials_for_longest_leave() -> None:
    trials = ShadowTrials(Metrics(), config=ShadowConfig(tenants_max=1))

    def offer() -> None:
        for tenant in (ACME, BETA):
            trials.offer(query(), slate("ab", tenant=tenant), SHADOW, lambda: slate("ba"))

    run_trials(trials, offer, lambda: trials.figures(BETA).trials == 1)
    assert trials.figures(ACME).trials == 0


def test_what_does_not_fit_into_the_queue_is_dropped_and_counted() -> None:
    metrics = Metrics()
    trials = ShadowTrials(metrics, config=ShadowConfig(queue_max=3))

    def offer() -> None:
        for _ in range(10):
            trials.offer(query(), slate("ab"), SHADOW, lambda: slate("ab"))

    run_trials(trials, offer, lambda: trials.figures(ACME).trials == 3)
    assert told(metrics)['headwater_shadow_trials_total{outcome="dropped"}'] == 7


def test_trials_keep_to_their_share_of_time() -> None:
    """A trial that seems to take an hour is followed by a pause that does not end here."""
    times_ns = iter((0, 3_600 * 10**9))
    trials = ShadowTrials(Metrics(), clock_ns=lambda: next(times_ns))

    def offer() -> None:
        for _ in range(2):
            trials.offer(query(), slate("ab"), SHADOW, lambda: slate("ab"))

    run_trials(trials, offer, lambda: trials.figures(ACME).trials == 1)
    assert trials.figures(ACME).trials == 1


def test_model_on_trial_that_fails_is_counted_and_others_go_on() -> None:
    metrics = Metrics()
    trials = ShadowTrials(metrics)

    def fail() -> Slate:
        raise ZeroDivisionError("secret-of-the-model")

    def offer() -> None:
        trials.offer(query(), slate("ab"), SHADOW, fail)
        trials.offer(query(), slate("ab"), SHADOW, lambda: slate("ab"))

    with capture_logs() as logs:
        run_trials(trials, offer, lambda: trials.figures(ACME).trials == 1)
    assert trials.figures(ACME).failures == 1
    assert logs == [
        {
            "event": "shadow_failed",
            "log_level": "warning",
            "tenant": ACME,
            "version": "2",
            "error": "ZeroDivisionError",
        }
    ]


@pytest.mark.parametrize("sample", [0.0, 0.05, 0.5, 1.0])
def test_sample_is_a_share_of_the_seeds(sample: float) -> None:
    trials = ShadowTrials(Metrics(), config=ShadowConfig(sample=sample))
    seeds = np.random.default_rng(1).integers(0, 2**63, 20_000).tolist()
    share = sum(map(trials.samples, seeds)) / len(seeds)
    assert math.isclose(share, sample, abs_tol=0.02)
    assert share == sample or 0 < sample < 1


@dataclass(frozen=True)
class Site:
    """A service with a tenant whose bob follows ann, who posted ten times."""

    service: Served
    api: httpx.Client
    models: HeldModels

    def noted(self) -> list[LoggedSlate]:
        """What the log of models on trial holds by now."""
        assert self.service.services.shadow_log.flush()
        return logged_slates(self.service.services.settings.shadow_log_path)

    def live(self, slate_id: str) -> LoggedSlate:
        """The slate that was served instead."""
        assert self.service.services.slate_log.flush()
        found = find_slate(self.service.services.settings.slate_log_path, ACME, slate_id)
        assert found is not None
        return found

    def read(self) -> dict[str, Any]:
        reply = self.api.get(PERSONALIZED)
        assert reply.status_code == 200, reply.text
        page: dict[str, Any] = reply.json()
        return page


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    models = HeldModels()
    with (
        served(
            tmp_path / "data",
            models=models,
            deadline_ms=60_000,
            shadow_sample=1,
            shadow_time_share=0.9,
        ) as service,
        service.tenant(ACME) as api,
    ):
        engine, ann = service.services.engine, FeedId("user", "ann")
        for number in range(10):
            draft = ActivityDraft(
                actor="user:ann",
                verb="post",
                object=f"note:{number}",
                time_us=T0_US + number * 3_600 * 10**6,
            )
            engine.post(ACME, ann, draft).result()
        engine.follow(ACME, FeedId("timeline", "bob"), ann).result()
        models.held[ACME] = LIVE
        yield Site(service, api, models)


def test_without_a_model_on_trial_nothing_is_ranked_again(site: Site) -> None:
    assert site.read()["model_version"] == "1"
    assert site.api.get("/v2/model").json()["shadow"] is None
    assert site.noted() == []


def test_what_the_model_on_trial_would_have_shown_is_logged_apart(site: Site) -> None:
    before = site.read()["results"]
    site.models.shadows[ACME] = SHADOW
    page = site.read()
    wait_until(lambda: len(site.noted()) == 1, "the trial")

    shown = [result["id"] for result in page["results"]]
    assert shown == [result["id"] for result in before], "nothing shows of the trial"
    (shadow,), live = site.noted(), site.live(page["slate_id"])
    assert (live.model_version, shadow.model_version) == ("1", "2")
    assert (shadow.slate_id, shadow.time_us, shadow.seed) == (
        *(live.slate_id, live.time_us, live.seed),
    )
    assert live.places.activity_ids() == shown
    assert set(shadow.places.activity_ids()) == set(shown)
    assert shadow.places.activity_ids()[0] == shown[-1]
    assert len(shadow.places.score_values()) == len(shown)
    told = site.api.get(f"/v2/slates/{page['slate_id']}/explain", params={"shadow": True}).json()
    assert (told["model_version"], told["scorer"]) == ("2", "oldest")
    assert [entry["activity_id"] for entry in told["activities"]] == shadow.places.activity_ids()
    wait_until(lambda: site.api.get("/v2/model").json()["shadow"]["trials"] == 1, "the figures")
    figures = site.api.get("/v2/model").json()["shadow"]
    assert (figures["version"], figures["same_top"], figures["overlap_at_10"]) == ("2", 0, 1)
    assert figures["rank_correlation"] < 0


def test_model_on_trial_that_fails_shows_nowhere_but_in_the_figures(site: Site) -> None:
    site.models.shadows[ACME] = BROKEN
    page = site.read()
    assert (page["degraded"], page["model_version"]) == (None, "1")
    wait_until(lambda: site.api.get("/v2/model").json()["shadow"]["failures"] == 1, "the failure")
    assert site.noted() == []


def test_slate_by_time_is_not_compared(site: Site) -> None:
    del site.models.held[ACME]
    site.models.shadows[ACME] = SHADOW
    assert site.read()["degraded"] is not None
    site.models.held[ACME] = LIVE
    site.read()
    wait_until(lambda: len(site.noted()) > 0, "the trial")
    assert [site.live(shadow.slate_id).model_version for shadow in site.noted()] == ["1"]


def test_activities_that_left_before_the_trial_are_left_out(site: Site) -> None:
    """A row of the table may be another activity's by then."""
    site.models.shadows[ACME] = SHADOW
    services = site.service.services

    async def read_and_remove() -> None:
        await services.reader.read(ACME, UserId("bob"), "personalized", limit=10)
        services.engine.remove(ACME, newest).result()
        services.tables.ready(ACME)  # applies the removal, before the trial has its turn

    newest = ActivityId(site.read()["results"][0]["id"])
    wait_until(lambda: len(site.noted()) == 1, "the first trial")
    site.service.run(read_and_remove)
    wait_until(lambda: len(site.noted()) == 2, "the trial")
    shadow = site.noted()[1]
    shown = site.live(shadow.slate_id).places.activity_ids()
    assert shown[0] == newest
    assert set(shadow.places.activity_ids()) == set(shown) - {newest}
