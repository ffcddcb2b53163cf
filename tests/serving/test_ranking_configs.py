"""A tenant's ranking config decides what its readers are shown, and nothing of another tenant's."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from feeds.model import ActivityDraft, FeedId, TenantId, UserId, identify
from ranking.candidates import FeedKind
from ranking.config import RankingConfig
from serving.configs import ActiveVersion, service_config
from serving.reader import FeedReader
from serving.settings import load_settings
from serving.testing import Served, served

ACME, OTHER = TenantId("acme"), TenantId("other")
BOB = UserId("bob")
START_US = 1_577_880_000_000_000  # 2020-01-01T12:00:00


@dataclass(frozen=True)
class OneConfig:
    """A config for one tenant."""

    tenant: TenantId
    config: RankingConfig

    def of(self, tenant: TenantId) -> ActiveVersion:
        if tenant == self.tenant:
            return ActiveVersion(1, self.config)
        return ActiveVersion(0, RankingConfig.default())


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "data", deadline_ms=10_000) as service:
        for tenant in (ACME, OTHER):
            service.tenant(tenant).close()
        yield service


def post(service: Served, tenant: TenantId, *names: str, author: str = "ann") -> list[str]:
    ids = []
    for number, name in enumerate(names):
        draft = ActivityDraft(
            actor=f"user:{author}", verb="post", object=name, time_us=START_US + number * 1_000_000
        )
        feed = FeedId("user", author)
        service.services.engine.post(tenant, feed, draft).result()
        ids.append(str(identify(draft, draft.time_us or 0)))
    return ids


def reader(service: Served, document: dict[str, Any]) -> FeedReader:
    configs = OneConfig(ACME, RankingConfig.parse(document))
    return replace(service.services.reader, configs=configs)


def read(
    service: Served, reads: FeedReader, tenant: TenantId, kind: FeedKind = "explore"
) -> dict[str, Any]:
    page = service.run(lambda: reads.read(tenant, BOB, kind, limit=10, explain=True))
    body: dict[str, Any] = json.loads(page.content)
    return body


def ids(page: dict[str, Any]) -> list[str]:
    return [entry["id"] for entry in page["results"]]


def test_a_config_pins_for_its_tenant_alone(service: Served) -> None:
    posted = {tenant: post(service, tenant, *"abcd") for tenant in (ACME, OTHER)}
    explore = {
        "pins": [{"id": posted[ACME][0], "position": 0}],
        "exploration": {"policy": "none"},
        "adjustments": {"author_spread": {"on": False}},
    }
    reads = reader(service, {"explore": explore})
    a, b, c, d = posted[ACME]
    page = read(service, reads, ACME)
    assert ids(page) == [a, d, c, b]
    assert page["results"][0]["source"] == "editorial"
    assert page["explanation"]["activities"][0]["placed"] == "pin"
    assert set(ids(read(service, reads, OTHER))) == set(posted[OTHER])


def test_a_config_sets_the_size_of_the_slate_and_the_filters(service: Served) -> None:
    post(service, ACME, *"abcdef")
    small = reader(service, {"explore": {"slate_size": 2}})
    assert len(ids(read(service, small, ACME))) == 2
    young = {"filters": {"age": {"on": True, "days_max": 1}}}
    page = read(service, reader(service, {"explore": young}), ACME)
    assert ids(page) == []
    assert {one["filter"] for one in page["explanation"]["removed"]} == {"age"}


def test_a_source_that_is_off_is_not_asked(service: Served) -> None:
    post(service, ACME, *"abc")
    off = {"active": {"on": False}, "trending": {"on": False}}
    page = read(service, reader(service, {"explore": {"sources": off}}), ACME)
    assert {entry["source"] for entry in page["results"]} == {"fresh"}


def test_every_source_at_once_answers_a_stranger(service: Served) -> None:
    posted = post(service, ACME, *"abc")
    every = {name: {"on": True} for name in RankingConfig().personalized.sources.named()}
    page = read(
        service, reader(service, {"personalized": {"sources": every}}), ACME, "personalized"
    )
    assert set(ids(page)) == set(posted)


def test_without_a_config_the_settings_of_the_service_hold() -> None:
    settings = load_settings(explore_epsilon=0.5, deadline_ms=50.0, slate_size_max=30)
    config = service_config(settings)
    for kind in ("personalized", "explore"):
        assert config.feed(kind).deadline_ms == 50
        assert config.feed(kind).slate_size == 30
    assert config.explore.exploration.rate == 0.5
    assert config.personalized.exploration.policy == "none"
    default = service_config(load_settings())
    assert default == RankingConfig.default()
