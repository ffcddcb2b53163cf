"""What a tenant stores is counted as it is written, and bounded where a quota says so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.commands import PostActivity, RemoveActivity, SetQuotas
from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.errors import InvalidInput, NotFound, QuotaExceeded
from feeds.events import Posted
from feeds.machine import apply
from feeds.model import ActivityDraft, FeedId, TenantId, identify
from feeds.quotas import Quotas, Usage
from feeds.results import Rejected
from feeds.store.memory import MemoryStore
from feeds.testing_engine import NOW_US, memory_engine

DEMO, ANN = TenantId("demo"), FeedId("user", "ann")


def draft(number: int, text: str = "") -> ActivityDraft:
    return ActivityDraft(
        actor="user:ann",
        verb="post",
        object=f"note:{number}",
        foreign_id=f"note:{number}",
        time_us=NOW_US - number,
        custom={"text": text},
    )


def recount(engine: FeedEngine) -> Usage:
    bodies = [body for body in engine.bodies(DEMO, engine.rows(DEMO, ANN, 100)) if body]
    return Usage(len(bodies), sum(map(len, bodies)))


steps = st.lists(
    st.tuples(st.sampled_from(["post", "remove"]), st.integers(0, 5), st.integers(0, 300)),
    max_size=30,
)


@given(steps)
def test_usage_is_what_a_recount_says_and_never_above_the_quota(
    steps: list[tuple[str, int, int]],
) -> None:
    with memory_engine(FeedsConfig(tenant_storage_bytes=2_000)) as engine:
        ids: dict[int, str] = {}
        for what, number, size in steps:
            if what == "post":
                try:
                    posted = engine.post(DEMO, ANN, draft(number, "x" * size)).result()
                except QuotaExceeded:
                    continue
                ids[number] = posted.activity.id
            elif number in ids:
                engine.remove(DEMO, ids[number]).result()
            assert engine.usage(DEMO) == recount(engine)
            assert engine.usage(DEMO).storage_bytes <= 2_000


def test_a_tenants_own_quota_takes_the_place_of_the_default() -> None:
    with memory_engine(FeedsConfig(tenant_storage_bytes=100)) as engine:
        with pytest.raises(QuotaExceeded, match="its quota storage_bytes is 100: remove some"):
            engine.post(DEMO, ANN, draft(1)).result()
        engine.set_quotas(DEMO, {"storage_bytes": 10_000}).result()
        engine.post(DEMO, ANN, draft(1)).result()
        engine.set_quotas(DEMO, {"storage_bytes": 0, "events_per_s": 7}).result()
        with pytest.raises(QuotaExceeded):
            engine.post(DEMO, ANN, draft(2)).result()
        assert engine.tenant(DEMO).quotas == Quotas(storage_bytes=0, events_per_s=7)
        engine.set_quotas(DEMO, {"storage_bytes": None}).result()
        assert engine.tenant(DEMO).quotas == Quotas(events_per_s=7)


def test_what_gets_smaller_is_taken_above_the_quota_too() -> None:
    with memory_engine() as engine:
        engine.post(DEMO, ANN, draft(1, "x" * 500)).result()
        engine.set_quotas(DEMO, {"storage_bytes": 10}).result()
        engine.post(DEMO, ANN, draft(1, "x" * 100)).result()
        with pytest.raises(QuotaExceeded):
            engine.post(DEMO, ANN, draft(1, "x" * 101)).result()


def test_every_mistake_in_quotas_is_told_at_once() -> None:
    with memory_engine() as engine:
        with pytest.raises(InvalidInput) as caught:
            engine.set_quotas(DEMO, {"speed": 1, "events_per_s": -1, "storage_bytes": 2**62})
        for words in ("'speed' is no quota", "events_per_s is -1", "storage_bytes is 46116"):
            assert words in str(caught.value)
        with pytest.raises(NotFound, match="tenant 'nobody' does not exist"):
            engine.set_quotas(TenantId("nobody"), {})


def test_machine_refuses_what_is_no_quota() -> None:
    store = MemoryStore()
    unknown = apply(SetQuotas(tenant="t", quotas={}), 1, store).result
    assert isinstance(unknown, Rejected)
    assert unknown.code == "unknown"


def test_what_a_former_release_posted_is_not_counted() -> None:
    store = MemoryStore()
    activity_id, time_us = identify(draft(1), NOW_US), NOW_US
    posted = Posted(
        time_us=time_us,
        activity_id=activity_id,
        actor="user:ann",
        verb="v",
        object="o",
        feed="user:ann",
    )
    command = PostActivity(tenant="t", posted=posted, body=b"{}", places_max=9)
    outcome = apply(command, 1, store)
    assert "meta" not in {family for family, _, _ in outcome.writes}
    store.write(outcome.writes)
    outcome = apply(RemoveActivity(tenant="t", activity_id=activity_id, time_us=1), 2, store)
    assert "meta" not in {family for family, _, _ in outcome.writes}
