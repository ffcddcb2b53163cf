"""Places are shared: nobody waits where one is free, nobody takes more than must be."""

import errno
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.cluster import InlineWorkers, Task, Workers
from training.errors import ClusterError, DiskFull, TooFewEvents
from training.sharing import FairShare, Step, Steps, carry_out, one, telling_of_disk, together

TENANTS = "abcd"
MOVES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(TENANTS), st.integers(1, 6)),  # has so many steps more
        st.tuples(st.just("end"), st.integers(0, 10)),  # one that is under way ends
        st.tuples(st.just("places"), st.integers(1, 6)),  # the cluster has so many places
    ),
    max_size=60,
)


@given(MOVES)
def test_no_place_is_free_while_a_tenant_waits_and_none_begins_beyond_its_share(
    moves: list[tuple[str, int]],
) -> None:
    share: FairShare[int] = FairShare()
    places, given_in, begun, ended = 3, Counter[str](), Counter[str](), Counter[str]()
    for what, number in moves:
        if what == "places":
            places = number
        elif what == "end":
            under_way = sorted(share.running)
            if under_way:
                tenant = under_way[number % len(under_way)]
                share.end(tenant)
                ended[tenant] += 1
        else:
            share.add(what, list(range(given_in[what], given_in[what] + number)))
            given_in[what] += number
        for tenant, step in share.begin(places):
            assert step == begun[tenant]  # a tenant's steps begin in their order
            begun[tenant] += 1
            others = [name for name in share.waiting if name != tenant]
            if others:
                fair = math.ceil(places / (len(others) + 1))
                assert share.running[tenant] <= fair
        running = sum(share.running.values())
        assert not share.waiting or running >= places
        assert share.running == dict(+(begun - ended))
        assert share.waiting == dict(+(given_in - begun))


def test_places_of_who_is_done_go_to_who_is_not() -> None:
    share: FairShare[str] = FairShare()
    share.add("large", list("123456"))
    share.add("small", list("x"))
    assert [tenant for tenant, _ in share.begin(4)] == ["large", "small", "large", "large"]
    share.end("small")
    assert list(share.begin(4)) == [("large", "4")]
    assert share.running == {"large": 4}
    share.add("small", list("yz"))
    share.end("large")
    assert list(share.begin(4)) == [("small", "y")]


class Held:
    """Workers whose steps end when the test says so, in the order that it says."""

    def __init__(self, places: int, order: Callable[[int], int]) -> None:
        self.places = places
        self.order = order
        self.under_way: list[Task[Any]] = []
        self.most = 0
        self._inline = InlineWorkers()

    def submit(self, function: Callable[..., Any], *arguments: object) -> Task[Any]:
        task = self._inline.submit(function, *arguments)
        self.under_way.append(task)
        self.most = max(self.most, len(self.under_way))
        return task

    def first_done(self, tasks: Sequence[Task[object]], seconds: float) -> list[Task[object]]:
        del tasks, seconds
        return [self.under_way.pop(self.order(len(self.under_way)))]


def adding(name: str, batches: list[int]) -> Steps[list[str]]:
    found: list[str] = []
    for number, size in enumerate(batches):
        steps = [Step(str.upper, (f"{name}{number}.{each}",)) for each in range(size)]
        found += yield from together(steps)
    return found


@given(
    st.dictionaries(st.sampled_from(TENANTS), st.lists(st.integers(0, 4), max_size=4)),
    st.integers(1, 4),
    st.integers(0, 100),
)
def test_every_run_gets_what_its_steps_returned_in_order_whatever_ends_first(
    runs: dict[str, list[int]], places: int, turn: int
) -> None:
    workers: Workers = Held(places, lambda count: turn % count)
    outcomes = dict(carry_out(workers, {name: adding(name, sizes) for name, sizes in runs.items()}))
    assert outcomes == {
        name: [
            f"{name.upper()}{number}.{each}"
            for number, size in enumerate(sizes)
            for each in range(size)
        ]
        for name, sizes in runs.items()
    }


def fails() -> None:
    raise TooFewEvents("too few")


def failing() -> Steps[list[str]]:
    yield from together([Step(fails), Step(fails)])
    return []


@pytest.mark.parametrize("order", [lambda _: 0, lambda count: count - 1])
def test_a_run_that_fails_ends_alone_and_its_steps_keep_their_places_until_they_end(
    order: Callable[[int], int],
) -> None:
    workers = Held(2, order)
    outcomes = dict(carry_out(workers, {"bad": failing(), "good": adding("g", [3, 2])}))
    assert isinstance(outcomes["bad"], TooFewEvents)
    assert outcomes["good"] == ["G0.0", "G0.1", "G0.2", "G1.0", "G1.1"]
    assert workers.most == 2


class Lost(Held):
    def first_done(self, tasks: Sequence[Task[object]], seconds: float) -> list[Task[object]]:
        del tasks, seconds
        raise ClusterError("no worker for 60 s")


def test_where_all_workers_are_lost_every_run_ends_with_that() -> None:
    workers = Lost(2, lambda _: 0)
    outcomes = dict(carry_out(workers, {"a": adding("a", [1]), "b": adding("b", [1])}))
    assert [str(error) for error in outcomes.values()] == ["no worker for 60 s"] * 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_as_such(number: int) -> None:
    def step() -> None:
        raise OSError(number, os.strerror(number), "/data/model")

    with pytest.raises(DiskFull, match="the disk of /data/model is full"):
        telling_of_disk(step)


def test_another_error_of_the_system_stays_what_it_is() -> None:
    with pytest.raises(FileNotFoundError):
        telling_of_disk(os.stat, "/nowhere/at/all")


def test_one_step_gives_its_result() -> None:
    assert dict(carry_out(InlineWorkers(), {"a": one(str.upper, "x")})) == {"a": "X"}
