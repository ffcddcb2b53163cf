import pytest

from training.budget import Budget
from training.config import BudgetConfig
from training.errors import BudgetSpent

BUDGET = Budget("acme", BudgetConfig(seconds_max=60, memory_bytes_max=2**30), started_s=1_000)


def test_within_the_budget_nothing_happens() -> None:
    BUDGET.check("the replay", clock=lambda: 1_060, resident=lambda: 2**30)


def test_time_that_is_spent_is_told_with_tenant_and_step() -> None:
    with pytest.raises(BudgetSpent, match=r"tenant acme: .* at the replay, after 61 s of its 60 "):
        BUDGET.check("the replay", clock=lambda: 1_061, resident=lambda: 0)


def test_memory_that_is_spent_is_told() -> None:
    with pytest.raises(BudgetSpent, match=r"with 1\.5 GiB in its worker, more than 1\.0"):
        BUDGET.check("the replay", clock=lambda: 1_000, resident=lambda: 3 * 2**29)


def test_the_memory_of_this_process_is_known() -> None:
    with pytest.raises(BudgetSpent, match="memory_bytes_max"):
        Budget("acme", BudgetConfig(memory_bytes_max=1), started_s=2**40).check("anything")
