import doctest
import math

from hypothesis import given
from hypothesis import strategies as st

from ranking import comparison
from ranking.comparison import kendall_tau, overlap_at

orders = st.permutations("abcdefgh").flatmap(
    lambda letters: st.integers(0, 8).map(lambda count: letters[:count])
)


def naive_tau(old: list[str], new: list[str]) -> float:
    shared = [one for one in old if one in new]
    pairs = [(a, b) for place, a in enumerate(shared) for b in shared[place + 1 :]]
    signs = [1 if new.index(a) < new.index(b) else -1 for a, b in pairs]
    return sum(signs) / len(signs) if signs else math.nan


@given(orders, orders)
def test_tau_is_that_of_every_pair(old: list[str], new: list[str]) -> None:
    expected, found = naive_tau(old, new), kendall_tau(old, new)
    assert found == expected or (math.isnan(found) and math.isnan(expected))


@given(orders, orders, st.integers(1, 10))
def test_overlap_is_symmetric_and_whole_for_the_same(
    old: list[str], new: list[str], places: int
) -> None:
    assert overlap_at(old, new, places) == overlap_at(new, old, places)
    assert 0.0 <= overlap_at(old, new, places) <= overlap_at(old, old, places) == 1.0


def test_examples() -> None:
    assert doctest.testmod(comparison).failed == 0
