"""A tenant's minutes of training: counted until its part ends, and kept to."""

from pathlib import Path

import msgspec
import pytest

from feeds.model import TenantId
from feeds.training_time import HOUR_US
from ranking.registry import DirectoryRegistry
from training.config import BudgetConfig
from training.errors import MinutesSpent
from training.minutes import Meter, minutes_of, within_quota
from training.testing import community, events_of, log_of, write_export

ACME, OTHER = TenantId("acme"), TenantId("other")
NOW_US = 100 * HOUR_US
BUDGET = BudgetConfig(minutes_a_day=10)


class Clock:
    def __init__(self) -> None:
        self.now_us = NOW_US

    def __call__(self) -> int:
        return self.now_us

    def passes(self, seconds: float) -> None:
        self.now_us += round(1e6 * seconds)


@pytest.fixture
def registry(tmp_path: Path) -> DirectoryRegistry:
    return DirectoryRegistry(tmp_path / "registry")


@pytest.fixture
def export(tmp_path: Path) -> Path:
    for tenant in (ACME, OTHER):
        write_export(log_of(events_of(community(1, users=4, days=2)), tenant), tmp_path / "events")
    return tmp_path / "events"


def seconds(registry: DirectoryRegistry, tenant: TenantId) -> float:
    return sum(registry.trained_hours(tenant).values())


def allow(export: Path, tenant: TenantId, minutes: int) -> None:
    path = export / f"tenant={tenant}" / "manifest.json"
    told = msgspec.json.decode(path.read_bytes()) | {"training_minutes": minutes}
    path.write_bytes(msgspec.json.encode(told))


def test_each_tenant_counts_until_its_own_part_has_ended(registry: DirectoryRegistry) -> None:
    clock = Clock()
    with Meter(registry, [ACME, OTHER], clock, 30) as meter:
        clock.passes(60)
        meter.end(ACME)
        clock.passes(20)
    assert (seconds(registry, ACME), seconds(registry, OTHER)) == (60, 80)


def test_progress_is_noted_in_steps_and_what_is_raised_ends_the_count(
    registry: DirectoryRegistry,
) -> None:
    clock = Clock()
    with pytest.raises(KeyError), Meter(registry, [ACME], clock, 30) as meter:  # noqa: PT012
        clock.passes(29)
        meter.beat()
        assert seconds(registry, ACME) == 0
        clock.passes(1)
        meter.beat()
        assert seconds(registry, ACME) == 30
        clock.passes(5)
        raise KeyError
    assert seconds(registry, ACME) == 35


def test_a_registry_that_fails_does_not_hide_why_a_training_did(tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "trained_hours.json").write_text("{")
    clock = Clock()
    with pytest.raises(KeyError), Meter(DirectoryRegistry(tmp_path), [ACME], clock, 30):  # noqa: PT012
        clock.passes(5)
        raise KeyError


def test_the_quota_is_the_exports_or_the_default(registry: DirectoryRegistry, export: Path) -> None:
    registry.add_trained(ACME, NOW_US, 90)
    allow(export, OTHER, 0)
    acme = minutes_of(registry, export, ACME, BUDGET, NOW_US)
    assert (acme.used, acme.quota, acme.again_us) == (1.5, 10, NOW_US)
    acme.check()
    other = minutes_of(registry, export, OTHER, BUDGET, NOW_US)
    assert (other.quota, other.again_us) == (0, None)
    with pytest.raises(MinutesSpent, match="is 0: it may not be trained; for more, `headwater"):
        other.check()


def test_spent_minutes_are_told_with_how_many_and_until_when(
    registry: DirectoryRegistry, export: Path
) -> None:
    registry.add_trained(ACME, NOW_US, 600)
    with pytest.raises(
        MinutesSpent,
        match=r"tenant acme was trained 10.0 minutes .* training_minutes is 10: .* again from "
        r"1970-01-06T04:00:00",
    ):
        within_quota(registry, export, [ACME], BUDGET, NOW_US + HOUR_US)
    again_us = NOW_US + 24 * HOUR_US
    assert within_quota(registry, export, [ACME], BUDGET, again_us) == ([ACME], {})


def test_of_several_those_with_minutes_left_go_on(
    registry: DirectoryRegistry, export: Path
) -> None:
    allow(export, ACME, 0)
    within, spent = within_quota(registry, export, [ACME, OTHER], BUDGET, NOW_US)
    assert (within, list(spent)) == ([OTHER], [ACME])
    assert within_quota(None, export, [ACME, OTHER], BUDGET, NOW_US) == ([ACME, OTHER], {})
