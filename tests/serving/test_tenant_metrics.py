"""What is counted of tenants is bounded, and nothing of it is lost on the way."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from feeds.model import TenantId
from serving.current_request import CurrentRequest, Step
from serving.settings import SettingsInvalid, load_settings
from serving.tenant_metrics import OTHER, TenantMetrics, render
from serving.testing import Served, served

TOKEN = "operators-alone-0123456789"


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def request(tenant: str, *steps: Step, events: int = 0) -> CurrentRequest:
    made = CurrentRequest("0" * 32)
    made.tenant, made.steps, made.events = tenant, list(steps), events
    return made


Key = tuple[str, frozenset[tuple[str, str]]]


def samples(text: str) -> dict[Key, float]:
    """Every number by its name and labels, as Prometheus reads the text."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: dict[Key, float], name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def asked(metrics: TenantMetrics) -> dict[str, float]:
    """Requests by tenant."""
    found = samples(render(metrics.gather()).decode())
    return {
        dict(labels)["tenant"]: count
        for (name, labels), count in found.items()
        if name == "headwater_tenant_request_seconds_count"
    }


def test_a_tenant_that_is_forgotten_leaves_every_workers_figures(tmp_path: Path) -> None:
    workers = [TenantMetrics(10, 900.0, tmp_path / f"{number}.tenants") for number in range(2)]
    for metrics in workers:
        for tenant in ("acme", "other"):
            metrics.note(request(tenant), 200, 0.01)
        metrics.save()
    for metrics in workers:
        metrics.forget(TenantId("acme"))
        metrics.forget(TenantId("nobody"))
        metrics.save()
    assert asked(workers[0]) == {"other": 2}
    again = TenantMetrics(10, 900.0, tmp_path / "0.tenants")
    assert again.tenants() == ["other"]


def test_a_request_is_told_with_what_it_did() -> None:
    metrics = TenantMetrics(10, 900.0)
    ranked = Step("rank", 0, {"gather": 1_500, "score": 500}, "explore", "deadline")
    metrics.note(request("acme", ranked, events=3), 200, 0.02)
    metrics.note(request("acme"), 503, 7.0)

    found = samples(render(metrics.gather()).decode())

    assert 1 == value(found, "headwater_tenant_requests_total", tenant="acme", status="2xx")
    assert 1 == value(found, "headwater_tenant_requests_total", tenant="acme", status="5xx")
    assert 1 == value(
        found,
        "headwater_tenant_ranked_reads_total",
        tenant="acme",
        kind="explore",
        outcome="deadline",
    )
    stage = {"tenant": "acme", "stage": "gather"}
    assert 1 == value(found, "headwater_tenant_stage_seconds_count", **stage)
    assert 0.0015 == value(found, "headwater_tenant_stage_seconds_sum", **stage)
    assert 3 == value(found, "headwater_tenant_events_total", tenant="acme")
    bounds = {"0.01": 0, "0.02": 1, "5.0": 1, "+Inf": 2}
    for bound, count in bounds.items():
        bucket = {"tenant": "acme", "le": bound}
        assert count == value(found, "headwater_tenant_request_seconds_bucket", **bucket)


@given(
    asks=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 30)), max_size=60),
    places=st.integers(1, 4),
)
def test_labels_are_bounded_and_active_tenants_keep_theirs(
    asks: list[tuple[str, int]], places: int
) -> None:
    clock = Clock()
    metrics = TenantMetrics(places, 20.0, monotonic=clock)
    last_s: dict[str, float] = {}
    held: Counter[str] = Counter()  # the model: who has a place, and what was counted there
    other = 0
    for tenant, pause_s in asks:
        clock.now_s += pause_s
        held = Counter({one: n for one, n in held.items() if last_s[one] >= clock.now_s - 20.0})
        if tenant in held or len(held) < places:
            held[tenant] += 1
        else:
            other += 1
        last_s[tenant] = clock.now_s

        found = asked(metrics_after(metrics, tenant))
        assert len(found) <= places + 1
        assert dict(held) | ({OTHER: other} if other else {}) == found


def metrics_after(metrics: TenantMetrics, tenant: str) -> TenantMetrics:
    metrics.note(request(tenant), 200, 0.001)
    return metrics


def test_workers_add_up_and_one_in_anothers_place_goes_on(tmp_path: Path) -> None:
    first = TenantMetrics(2, 900.0, tmp_path / "1.tenants")
    second = TenantMetrics(2, 900.0, tmp_path / "2.tenants")
    for tenant in ("acme", "bravo", "charlie"):
        first.note(request(tenant), 200, 0.001)
    second.note(request("acme"), 200, 0.001)
    second.save()
    assert {"acme": 2, "bravo": 1, OTHER: 1} == asked(first)

    del first  # it was killed
    again = TenantMetrics(2, 900.0, tmp_path / "1.tenants")
    again.note(request("charlie"), 200, 0.001)
    assert {"acme": 2, "bravo": 1, OTHER: 2} == asked(again) == asked(second)


def test_files_do_not_grow_where_tenants_come_and_go(tmp_path: Path) -> None:
    clock = Clock()
    metrics = TenantMetrics(5, 60.0, tmp_path / "1.tenants", clock)
    sizes = set()
    for number in range(500):
        clock.now_s += 61 if number % 5 == 0 else 0
        metrics.note(request(f"tenant-{number:03}", events=1), 200, 0.001)
        if number % 5 == 4:
            metrics.save()
            sizes.add((tmp_path / "1.tenants").stat().st_size)
    assert 1 == len(sizes)
    assert ["1.tenants"] == [path.name for path in tmp_path.iterdir()]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("tenants") / "data"
    with served(data, metrics_token=TOKEN) as running:
        yield running


def scrape(client: httpx.Client, token: str) -> httpx.Response:
    return client.get("/metrics/tenants", headers={"Authorization": f"Bearer {token}"})


def test_an_operator_sees_what_each_tenant_did(service: Served) -> None:
    with service.tenant("acme") as acme, service.tenant("bravo") as bravo:
        posted = acme.post(
            "/v2/feeds/user/ann/activities",
            json={"actor": "user:ann", "verb": "post", "object": "o:1"},
        ).json()["activity"]["id"]
        event = {"type": "impression", "user": "bob", "activity_id": posted, "position": 0}
        recorded = acme.post("/v2/events", json={"events": [event, event]})
        assert (201, 2) == (recorded.status_code, recorded.json().get("recorded")), recorded.text
        acme.get("/v2/users/bob/feeds/explore")
        bravo.get("/v2/feeds/user/ann")

    with service.client() as client:
        found = samples(scrape(client, TOKEN).text)
        public = client.get("/metrics").text

    assert 3 == value(found, "headwater_tenant_requests_total", tenant="acme", status="2xx")
    assert 1 == value(found, "headwater_tenant_requests_total", tenant="bravo", status="2xx")
    assert 2 == value(found, "headwater_tenant_events_total", tenant="acme")
    ranked = {"tenant": "acme", "kind": "explore", "outcome": "no_model"}
    assert 1 == value(found, "headwater_tenant_ranked_reads_total", **ranked)
    written = {"tenant": "acme", "stage": "write"}
    assert 2 == value(found, "headwater_tenant_stage_seconds_count", **written)
    assert "acme" not in public


def test_nobody_else_sees_it(service: Served, tmp_path: Path) -> None:
    with service.client() as client, service.tenant("charlie") as charlie:
        for refused in (client.get("/metrics/tenants"), charlie.get("/metrics/tenants")):
            assert (401, "ApiKeyException") == (refused.status_code, refused.json()["exception"])
        for wrong in (TOKEN + "x", TOKEN[:-1], TOKEN.upper()):
            assert 401 == scrape(client, wrong).status_code
        headers = [(b"authorization", b"Bearer \xe9\xff")]
        assert 401 == client.get("/metrics/tenants", headers=headers).status_code
    with served(tmp_path / "data") as closed, closed.client() as client:
        assert 404 == scrape(client, TOKEN).status_code
        assert 404 == client.get("/metrics/tenants").status_code


def test_a_token_that_is_easily_guessed_is_refused_and_not_shown() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(metrics_token="hunter2")
    (problem,) = caught.value.problems
    assert "16 characters at least" in problem
    assert "HEADWATER_METRICS_TOKEN" in problem
    assert "hunter2" not in problem
    assert TOKEN not in repr(load_settings(metrics_token=TOKEN))
