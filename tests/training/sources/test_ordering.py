from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from training.sources.base import slug
from training.sources.ordering import TimeOrder


@given(st.lists(st.tuples(st.integers(-5, 5), st.binary(max_size=3))), st.integers(1, 5))
def test_records_come_back_by_time_and_then_as_they_were_added(
    records: list[tuple[int, bytes]], run_records_max: int
) -> None:
    with TemporaryDirectory() as directory:
        order = TimeOrder(Path(directory), run_records_max)
        for time_us, payload in records:
            order.add(time_us, payload)
        assert sorted(records, key=lambda record: record[0]) == list(order)
        assert len(records) == len(order)


@given(st.text(max_size=8), st.text(max_size=8))
def test_different_names_have_different_slugs(one: str, other: str) -> None:
    assert (slug(one) == slug(other)) == (one == other)
