"""What a bucket gives, and what a tenant is told that asks for more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.errors import NotFound
from feeds.events import Removed
from feeds.model import ActivityId, TenantId
from feeds.quotas import Quotas
from serving.errors import OverQuota
from serving.quotas import QuotaConfig, TenantQuotas, TokenBucket

SECOND_NS = 1_000_000_000
ACME = TenantId("acme")

askings = st.lists(
    st.tuples(st.integers(0, 3 * SECOND_NS), st.integers(1, 40)), min_size=1, max_size=60
)
rates, bursts = st.integers(1, 10_000), st.integers(1, 50)


@given(rates, bursts, askings)
def test_no_window_gives_more_than_the_rate_and_a_burst(
    rate: int, burst: int, asked: list[tuple[int, int]]
) -> None:
    bucket, now_ns = TokenBucket(rate, burst), 0
    given_at: list[tuple[int, int]] = []
    for pause_ns, tokens in asked:
        now_ns += pause_ns
        if bucket.take(tokens, now_ns) == 0:
            given_at.append((now_ns, tokens))
    for first in range(len(given_at)):
        total = 0
        for at_ns, tokens in given_at[first:]:
            total += tokens
            window_ns = at_ns - given_at[first][0]
            assert total * SECOND_NS <= rate * window_ns + burst * SECOND_NS


@given(rates, bursts, st.integers(1, 8), askings)
def test_all_workers_together_give_no_more_than_the_rate_and_a_burst_each(
    rate: int, burst: int, workers: int, asked: list[tuple[int, int]]
) -> None:
    buckets, now_ns, total = [TokenBucket(rate, burst, workers) for _ in range(workers)], 0, 0
    for pause_ns, tokens in asked:
        now_ns += pause_ns
        total += sum(tokens for bucket in buckets if bucket.take(tokens, now_ns) == 0)
    assert total * SECOND_NS <= rate * now_ns + workers * burst * SECOND_NS


@given(rates, bursts, askings)
def test_who_waits_as_long_as_told_is_given_what_a_burst_holds(
    rate: int, burst: int, asked: list[tuple[int, int]]
) -> None:
    bucket, now_ns = TokenBucket(rate, burst), 0
    for pause_ns, tokens in asked:
        now_ns += pause_ns
        wait_ns = bucket.take(tokens, now_ns)
        if tokens > burst:
            assert wait_ns > 0
        elif wait_ns:
            assert bucket.take(tokens, now_ns + wait_ns - 1) > 0
            now_ns += wait_ns
            assert bucket.take(tokens, now_ns) == 0


@given(rates, bursts, askings)
def test_a_refusal_takes_nothing(rate: int, burst: int, asked: list[tuple[int, int]]) -> None:
    bucket, now_ns = TokenBucket(rate, burst), 0
    for pause_ns, tokens in asked:
        now_ns += pause_ns
        before = bucket.full_at_ns
        told_ns = bucket.wait_ns(tokens, now_ns)
        assert bucket.full_at_ns == before
        assert bucket.take(tokens, now_ns) == told_ns
        assert not told_ns or bucket.full_at_ns == before


def test_an_idle_bucket_fills_up_and_never_holds_more_than_a_burst() -> None:
    bucket = TokenBucket(10, 3)
    refused = [bucket.take(1, 3_600 * SECOND_NS) > 0 for _ in range(4)]
    assert refused == [False, False, False, True]


def test_a_rate_of_nothing_gives_nothing() -> None:
    assert TokenBucket(0, 3).take(1, 10**18) > SECOND_NS


class Kept:
    """Quotas as a store has them, and a clock that is moved."""

    def __init__(self, requests_per_s: int = 2) -> None:
        self.own = {ACME: Quotas()}
        self.now_ns = 0
        self.asked = 0
        config = QuotaConfig(requests_per_s=requests_per_s, events_per_s=10, events_burst_min=20)
        self.quotas = TenantQuotas(self.find, config, lambda: self.now_ns)

    def find(self, tenant: TenantId) -> Quotas:
        self.asked += 1
        if tenant not in self.own:
            raise NotFound(f"tenant {tenant} does not exist")
        return self.own[tenant]

    def taken(self, count: int = 20) -> int:
        done = 0
        for _ in range(count):
            try:
                self.quotas.request(ACME)
            except OverQuota:
                continue
            done += 1
        return done


def test_the_refusal_names_quota_and_limit_and_when_to_come_again() -> None:
    kept = Kept()
    assert kept.taken() == 2
    with pytest.raises(OverQuota) as caught:
        kept.quotas.request(ACME)
    assert "its quota requests_per_s, 2; nothing was changed" in caught.value.detail
    assert caught.value.headers == {"Retry-After": "1"}
    kept.now_ns += SECOND_NS // 2
    assert kept.taken() == 1
    assert kept.asked == 1, "a tenant's quotas are read once"


def test_events_are_counted_together_and_a_whole_batch_always_fits() -> None:
    kept = Kept()
    kept.quotas.events(ACME, 20)
    with pytest.raises(OverQuota) as caught:
        kept.quotas.events(ACME, 1)
    assert "quota events_per_s, 10" in caught.value.detail
    with pytest.raises(OverQuota):
        kept.quotas.check_events(ACME)
    kept.now_ns += 2 * SECOND_NS
    kept.quotas.check_events(ACME)
    kept.quotas.events(ACME, 20)


def test_changed_quotas_hold_at_once_and_what_was_used_stays_used() -> None:
    kept = Kept(requests_per_s=10)
    assert kept.taken() == 10
    kept.own[ACME] = Quotas(requests_per_s=40)
    kept.quotas.changed(ACME, 7, [Removed(time_us=0, activity_id=ActivityId("a"))])
    assert kept.asked == 1
    kept.quotas.changed(ACME, 8, [])
    assert kept.taken(100) == 0, "a second is used up, at whatever rate"
    kept.now_ns += SECOND_NS
    assert kept.taken(100) == 40
    kept.own[ACME] = Quotas(requests_per_s=0)
    kept.quotas.missed()
    kept.now_ns += SECOND_NS
    assert kept.taken() == 0


def test_a_tenant_that_is_gone_is_held_no_more() -> None:
    kept = Kept()
    kept.taken()
    del kept.own[ACME]
    kept.quotas.changed(ACME, 9, [])
    with pytest.raises(NotFound):
        kept.quotas.request(ACME)
    assert len(kept.quotas) == 0


def test_defaults_hold_where_a_tenant_has_no_quota_of_its_own() -> None:
    config = QuotaConfig(requests_per_s=7)
    limits = config.effective(Quotas(events_per_s=0))
    assert (limits.requests_per_s, limits.events_per_s) == (7, 0)
    assert limits.storage_bytes == config.storage_bytes
