from hypothesis import given
from hypothesis import strategies as st

from ranking.interning import UNKNOWN, Interner


def test_a_name_keeps_its_number_while_it_is_referenced() -> None:
    names = Interner(limit=10)
    ann, bob = names.acquire("ann"), names.acquire("bob")

    assert ann != bob
    assert names.acquire("ann") == ann
    names.release(ann)
    assert names.get("ann") == ann
    assert names.names[ann] == "ann"


def test_a_name_without_references_gives_its_number_back() -> None:
    forgotten: list[int] = []
    names = Interner(limit=10, forget=forgotten.append)
    ann = names.acquire("ann")
    names.release(ann)

    assert forgotten == [ann]
    assert names.get("ann") == UNKNOWN
    assert names.acquire("bob") == ann
    assert names.size == 1


def test_idle_names_stay_and_the_one_idle_longest_leaves_first() -> None:
    names = Interner(limit=10, idle_max=2)
    numbers = {name: names.acquire(name) for name in ("ann", "bob", "cid")}
    for name in ("bob", "ann", "cid"):
        names.release(numbers[name])

    assert names.get("bob") == UNKNOWN
    assert names.acquire("ann") == numbers["ann"]


def test_a_full_interner_forgets_an_idle_name_or_gives_no_number() -> None:
    names = Interner(limit=2, idle_max=2)
    ann, bob = names.acquire("ann"), names.acquire("bob")

    assert names.acquire("cid") == UNKNOWN
    names.release(ann)
    assert names.acquire("cid") == ann
    assert names.numbers(["ann", "bob", "cid"]).tolist() == [UNKNOWN, bob, ann]


def test_releasing_the_unknown_does_nothing() -> None:
    names = Interner(limit=2)
    names.release(UNKNOWN)
    assert len(names) == 0


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcdefgh")), max_size=200))
def test_names_in_use_are_distinct_and_never_more_than_the_limit(
    steps: list[tuple[bool, str]],
) -> None:
    names = Interner(limit=5, idle_max=3)
    held: dict[str, list[int]] = {}
    for taking, name in steps:
        if taking:
            number = names.acquire(name)
            if number != UNKNOWN:
                held.setdefault(name, []).append(number)
        elif held.get(name):
            names.release(held[name].pop())

        in_use = {name: numbers[0] for name, numbers in held.items() if numbers}
        assert len(set(in_use.values())) == len(in_use)
        assert all(names.get(name) == number for name, number in in_use.items())
        assert all(len(set(numbers)) == 1 for numbers in held.values() if numbers)
        assert len(names) <= 5
        assert names.size <= 5
