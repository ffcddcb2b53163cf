"""The laws of the quality factor, the plans it gives, and what sources cost; no real clock."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.quality import (
    STEPS,
    Deadline,
    Plan,
    QualityConfig,
    QualityFactor,
    SourceCosts,
    sentence_of,
)

CONFIGS = st.builds(
    QualityConfig,
    factor_min=st.floats(0.01, 1),
    late_share=st.floats(0.005, 0.5),
    rise=st.floats(0.0005, 0.1),
    target_share=st.floats(0.05, 1),
)
LATE_MS, TIMELY_MS, DEADLINE_MS = 1_000.0, 1.0, 100.0


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


@given(CONFIGS, st.lists(st.floats(0, 1_000), max_size=300))
def test_the_factor_stays_within_its_bounds(config: QualityConfig, took: list[float]) -> None:
    factor = QualityFactor(config)
    for ms in took:
        factor.note(ms, DEADLINE_MS)
        assert config.factor_min <= factor.factor <= 1


@given(CONFIGS, st.floats(0, 1_000), st.floats(0, 1_000))
def test_a_late_read_never_raises_it_and_a_timely_one_never_lowers_it(
    config: QualityConfig, first_ms: float, second_ms: float
) -> None:
    factor = QualityFactor(config)
    for ms in (first_ms, second_ms):
        before = factor.factor
        factor.note(ms, DEADLINE_MS)
        late = ms > DEADLINE_MS * config.target_share
        assert factor.factor <= before if late else factor.factor >= before


@given(CONFIGS)
def test_it_falls_to_its_minimum_and_recovers_in_as_many_reads_as_the_config_says(
    config: QualityConfig,
) -> None:
    factor = QualityFactor(config)
    for _ in range(config.late_to_min):
        factor.note(LATE_MS, DEADLINE_MS)
    assert factor.factor == pytest.approx(config.factor_min)
    for _ in range(config.timely_to_full):
        factor.note(TIMELY_MS, DEADLINE_MS)
    assert factor.factor == pytest.approx(1)


def test_as_told_of_the_defaults() -> None:
    config = QualityConfig()
    assert (config.late_to_min, config.timely_to_full) == (10, 450)


@pytest.mark.parametrize("late_every", [25, 50, 100])
def test_it_rests_where_the_named_share_is_late(late_every: int) -> None:
    """One in 50 is the share: more often it falls to the minimum, less often it stays high."""
    config = QualityConfig(late_share=1 / 50, rise=0.002)
    factor = QualityFactor(config)
    for number in range(20_000):
        factor.note(LATE_MS if number % late_every == 0 else TIMELY_MS, DEADLINE_MS)
    if late_every < 50:
        assert factor.factor < config.factor_min + late_every * config.rise
    else:
        assert factor.factor > 1 - config.fall


@given(CONFIGS, st.lists(st.floats(0, 2), min_size=2, max_size=8))
def test_who_waited_longer_never_does_more(config: QualityConfig, shares: list[float]) -> None:
    factor = QualityFactor(config)
    plans = [factor.plan(share) for share in sorted(shares)]
    for sooner, later in pairwise(plans):
        if later.allows("chronological"):
            assert sooner.allows("chronological")
            assert later.factor <= sooner.factor
            assert set(sooner.given_up) <= set(later.given_up)
    assert factor.plan(config.wait_free_share) == factor.plan()


def test_a_factor_that_is_turned_off_lets_every_read_do_everything() -> None:
    assert QualityFactor(QualityConfig(factor_min=1.0)).plan(0.9).given_up == ()


@settings(max_examples=25)
@given(
    full_ms=st.floats(2, 8),
    fixed_share=st.floats(0.02, 0.4),
    load=st.floats(1.0, 2.0),
    together=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_the_deadline_holds_up_to_twice_the_load_that_the_machine_can_carry(
    full_ms: float, fixed_share: float, load: float, together: int, seed: int
) -> None:
    """Reads come at random, some of them together, to one server that works in their order.

    A read costs a fixed part, and one that grows with its plan. 999 of 1,000 are answered within
    their deadline, from when they came; at full work none would be, after a while.
    """
    draws, config, clock = Random(seed), QualityConfig(), Clock()
    factor, came_ms, late = QualityFactor(config), 0.0, 0
    for number in range(3_000):
        if number % together == 0:
            came_ms += draws.expovariate(load / full_ms / together)
        clock.now_ns = max(clock.now_ns, int(came_ms * 1e6))
        deadline = Deadline(clock, DEADLINE_MS, int(came_ms * 1e6))
        plan = factor.plan(deadline.waited_share())
        share = plan.factor if plan.allows("model") else 0.0
        clock.pass_ms(full_ms * (fixed_share + (1 - fixed_share) * share))
        factor.note(deadline.took_ms(), DEADLINE_MS)
        late += deadline.took_ms() > DEADLINE_MS
    assert late <= 3


@settings(max_examples=25)
@given(full_ms=st.floats(2, 5), fixed_share=st.floats(0.02, 0.4), load=st.floats(1.5, 2.0))
def test_a_backlog_settles_so_early_that_a_stall_of_half_the_deadline_is_still_in_time(
    full_ms: float, fixed_share: float, load: float
) -> None:
    """Every second the machine stands still for half the deadline; 99 of 100 are in time."""
    config, clock = QualityConfig(), Clock()
    factor, took_ms, stalls = QualityFactor(config), [], 0
    for number in range(4_000):
        came_ns = int(number * full_ms / load * 1e6)
        clock.now_ns = max(clock.now_ns, came_ns)
        if clock.now_ns >= stalls * 1_000_000_000:
            clock.pass_ms(DEADLINE_MS / 2)
            stalls += 1
        deadline = Deadline(clock, DEADLINE_MS, came_ns)
        plan = factor.plan(deadline.waited_share())
        share = plan.factor if plan.allows("model") else 0.0
        clock.pass_ms(full_ms * (fixed_share + (1 - fixed_share) * share))
        factor.note(deadline.took_ms(), DEADLINE_MS)
        took_ms.append(deadline.took_ms())
    settled = sorted(took_ms[1_000:])
    assert settled[len(settled) // 2] <= DEADLINE_MS * (config.wait_max_share + 0.1)
    assert settled[len(settled) * 99 // 100] <= DEADLINE_MS


def test_without_it_the_backlog_grows_without_bound() -> None:
    clock, factor = Clock(), QualityFactor(QualityConfig(factor_min=1.0))
    for number in range(1_000):
        came_ns = int(number * 2.5e6)
        clock.now_ns = max(clock.now_ns, came_ns)
        deadline = Deadline(clock, DEADLINE_MS, came_ns)
        clock.pass_ms(5.0 * factor.plan(deadline.waited_share()).factor)
    assert deadline.took_ms() > 20 * DEADLINE_MS


@given(st.floats(0.01, 1), st.integers(1, 2_000))
def test_no_quota_is_ever_0_and_none_grows(factor: float, quota: int) -> None:
    plan = Plan.at(factor, QualityConfig())
    assert 1 <= plan.scaled(quota) <= quota
    assert plan.whole().scaled(quota) == quota


@given(CONFIGS, st.lists(st.floats(0.01, 1), min_size=2, max_size=8))
def test_the_lower_the_factor_the_more_is_given_up(
    config: QualityConfig, factors: list[float]
) -> None:
    plans = [Plan.at(factor, config) for factor in sorted(factors, reverse=True)]
    for higher, lower in pairwise(plans):
        assert set(higher.given_up) <= set(lower.given_up)
        assert lower.scaled(500) <= higher.scaled(500)
    assert Plan.at(1.0, config).given_up == ()


def test_steps_come_in_their_order_and_once() -> None:
    plan = Plan.at(0.3, QualityConfig()).without("chronological", "model", "sources")
    assert plan.given_up == STEPS
    assert plan.whole().given_up == ("diversity", "features", "model", "chronological")


def test_a_source_is_asked_until_it_takes_longer_than_there_is_time() -> None:
    costs = SourceCosts(QualityConfig(source_forget=0.5))
    assert costs.fits("similar", 1.0), "of what was never asked nothing is known"
    costs.note("similar", 40.0)
    assert costs.fits("similar", 41.0)
    assert not costs.fits("similar", 15.0)
    assert not costs.fits("similar", 15.0)
    assert costs.fits("similar", 15.0), "it may be quicker by now: it is tried again"
    assert not costs.fits("trending", 0.0)


def test_as_many_sources_as_are_named_are_held() -> None:
    costs = SourceCosts(QualityConfig(sources_max=1))
    costs.note("a", 50.0)
    costs.note("b", 50.0)
    assert not costs.fits("a", 10.0)
    assert costs.fits("b", 10.0)


def test_a_deadline_counts_from_when_the_request_came() -> None:
    clock = Clock()
    clock.pass_ms(30)
    deadline = Deadline(clock, 100.0, began_ns=0)
    assert (deadline.took_ms(), deadline.left_ms(), deadline.over()) == (30.0, 70.0, False)
    clock.pass_ms(70)
    assert (deadline.left_ms(), deadline.over()) == (0.0, True)


def test_what_was_given_up_is_told() -> None:
    deadline = Deadline(Clock(), 100.0, 0)
    assert sentence_of(deadline.told(Plan())) is None
    deadline.late_sources += ["similar", "similar", "trending"]
    quality = deadline.told(Plan.at(0.7, QualityConfig()))
    assert (quality.factor, quality.late_sources) == (0.7, ("similar", "trending"))
    assert quality.steps == ("candidates", "diversity", "sources")
    assert sentence_of(quality) == (
        "there was little time: fewer candidates were ranked; diversity was left out; "
        "late sources were left out (similar, trending)"
    )
