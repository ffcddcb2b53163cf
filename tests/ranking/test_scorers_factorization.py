"""Factors: known activities by their own vector, cold ones by their tags', LightFM's way."""

import io
import math

import lightfm
import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from feeds.model import UserId
from ranking.arrays import pack_arrays
from ranking.errors import BundleDamaged
from ranking.extractors.base import Factors
from ranking.scorers.factorization import Embeddings, FactorTable
from ranking.testing_models import factor_table

Floats = npt.NDArray[np.float32]

ALICE = UserId("alice")
TAG_NAMES = ["cold", "zebra", "apple"]


def _small() -> FactorTable:
    """Two users, one activity, tags `apple` and `zebra`; two components."""
    return FactorTable(
        Embeddings(["bob", "alice"], _floats([[9, 9], [1, 2]]), _floats([0, 0.5])),
        Embeddings([b"k" * 16], _floats([[10, 1]]), _floats([0.25])),
        Embeddings(["zebra", "apple"], _floats([[4, 0], [0, 8]]), _floats([2, 1])),
    )


def _floats(values: list[float] | list[list[float]]) -> Floats:
    return np.array(values, np.float32)


def _tags(*rows: list[int]) -> npt.NDArray[np.int32]:
    return np.array([row + [-1] * (8 - len(row)) for row in rows], np.int32).reshape(-1, 8)


@pytest.mark.parametrize("cold", [False, True])
def test_it_predicts_what_lightfm_predicts(cold: bool) -> None:
    draws = np.random.default_rng(0)
    tags = scipy.sparse.csr_matrix((draws.random((40, 6)) < 0.4).astype(np.float32))
    own = scipy.sparse.identity(40, dtype=np.float32, format="csr")
    seen = scipy.sparse.coo_matrix((draws.random((30, 40)) < 0.2).astype(np.float32))
    model = lightfm.LightFM(no_components=16, loss="warp", random_state=1)
    described = scipy.sparse.hstack([own, tags]).tocsr()
    model.fit(seen, item_features=described, epochs=3, num_threads=1)
    biases, factors = model.get_item_representations(described)
    table = FactorTable(
        Embeddings([f"user-{n}" for n in range(30)], model.user_embeddings, model.user_biases),
        Embeddings([n.to_bytes(16) for n in range(40)], factors, biases),
        Embeddings(
            [f"tag-{n}" for n in range(6)], model.item_embeddings[40:], model.item_biases[40:]
        ),
    )
    asked = scipy.sparse.hstack([0 * own, tags]).tocsr() if cold else described
    expected = model.predict(3, np.arange(40), item_features=asked)
    numbers = _tags(*(tags[row].indices.tolist() for row in range(40)))
    positions = [(row + 1_000 * cold).to_bytes(16) for row in range(40)]
    dots, added = table.dot(UserId("user-3"), positions, numbers, [f"tag-{n}" for n in range(6)])
    scored = dots + added + np.float32(table.user_bias(UserId("user-3")))
    assert (np.isnan(scored) == (cold & (np.diff(tags.indptr) == 0))).all()
    np.testing.assert_allclose(scored, np.where(np.isnan(scored), np.nan, expected), atol=1e-6)


def test_it_is_what_the_features_ask_for() -> None:
    factors: Factors = _small()
    assert factors.dot(ALICE, [], _tags(), TAG_NAMES)[0].shape == (0,)


def test_known_activity_goes_by_its_own_vector_whatever_its_tags() -> None:
    dots, biases = _small().dot(ALICE, [b"k" * 16], _tags([1, 2]), TAG_NAMES)
    assert (dots.tolist(), biases.tolist()) == ([12.0], [0.25])


def test_cold_activity_is_the_sum_of_its_known_tags() -> None:
    positions = [b"a" * 16, b"b" * 16, b"c" * 16]
    dots, biases = _small().dot(ALICE, positions, _tags([1, 2], [0, 2], [1]), TAG_NAMES)
    assert dots.tolist() == [4 + 16, 16, 4]
    assert biases.tolist() == [3, 1, 2]


def test_cold_activity_without_a_known_tag_is_missing() -> None:
    dots, biases = _small().dot(ALICE, [b"a" * 16, b"b" * 16], _tags([], [0]), TAG_NAMES)
    assert np.isnan(dots).all()
    assert np.isnan(biases).all()


def test_unknown_user_is_missing_throughout() -> None:
    dots, biases = _small().dot(UserId("carol"), [b"k" * 16], _tags([1]), TAG_NAMES)
    assert math.isnan(dots[0])
    assert math.isnan(biases[0])
    assert _small().user_vector(UserId("carol")) is None
    assert math.isnan(_small().user_bias(UserId("carol")))


def test_vectors_are_found_by_name() -> None:
    table = _small()
    vector = table.user_vector(ALICE)
    assert vector is not None
    assert vector.tolist() == [1, 2]
    assert table.user_bias(ALICE) == 0.5
    vectors = table.activity_vectors([b"x" * 16, b"k" * 16])
    np.testing.assert_array_equal(_floats([[np.nan, np.nan], [10, 1]]), vectors)


def test_without_tags_and_activities_all_is_missing() -> None:
    table = FactorTable(
        Embeddings(["alice"], _floats([[1, 2]]), _floats([0])),
        Embeddings([], np.zeros((0, 2), np.float32), np.zeros(0, np.float32)),
        Embeddings([], np.zeros((0, 2), np.float32), np.zeros(0, np.float32)),
    )
    again = FactorTable.parse(table.pack())
    assert np.isnan(again.dot(ALICE, [b"k" * 16], _tags([1]), TAG_NAMES)[0]).all()


@given(seed=st.integers(0, 1_000), chosen=st.lists(st.integers(0, 39), unique=True, max_size=40))
def test_a_value_does_not_depend_on_the_other_candidates(seed: int, chosen: list[int]) -> None:
    table = factor_table(activities=20, tags=12, dimensions=64, seed=seed)
    draws = np.random.default_rng(seed)
    tags = draws.integers(-1, 14, (40, 8)).astype(np.int32)
    names = [f"tag-{number}" for number in range(14)]
    positions = [number.to_bytes(16) for number in range(40)]
    every = table.dot(UserId("user-1"), positions, tags, names)
    some = table.dot(UserId("user-1"), [positions[row] for row in chosen], tags[chosen], names)
    for all_values, values in zip(every, some, strict=True):
        assert all_values[chosen].tobytes() == values.tobytes()


@given(seed=st.integers(0, 1_000))
def test_packed_and_parsed_it_gives_the_same_bits(seed: int) -> None:
    table = factor_table(seed=seed)
    again = FactorTable.parse(table.pack())
    assert again.pack() == table.pack()
    tags = np.arange(-1, 7, dtype=np.int32).reshape(1, 8).repeat(8, axis=0)
    arguments = (UserId("user-2"), [n.to_bytes(16) for n in range(8)], tags, ["tag-1"] * 7)
    for before, after in zip(table.dot(*arguments), again.dot(*arguments), strict=True):
        assert before.tobytes() == after.tobytes()


def test_names_may_have_any_letters() -> None:
    vectors = np.eye(3, dtype=np.float32), np.zeros(3, np.float32)
    tags = Embeddings(["", "größe", "日本語"], *vectors)
    users = Embeddings(["a", "b", "c"], *vectors)
    table = FactorTable(users, Embeddings([b"%016d" % n for n in range(3)], *vectors), tags)
    again = FactorTable.parse(table.pack())
    dots, _ = again.dot(UserId("c"), [b"x" * 16], _tags([0]), ["日本語"])
    assert dots.tolist() == [1]


@pytest.mark.parametrize(
    ("names", "factors", "biases"),
    [
        (["a", "a"], np.zeros((2, 3), np.float32), np.zeros(2, np.float32)),
        (["a"], np.zeros((2, 3), np.float32), np.zeros(2, np.float32)),
        (["a"], np.zeros((1, 3)), np.zeros(1)),
        (["a"], np.full((1, 3), np.nan, np.float32), np.zeros(1, np.float32)),
        (["a"], np.zeros(1, np.float32), np.zeros(1, np.float32)),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(
    names: list[str], factors: Floats, biases: Floats
) -> None:
    with pytest.raises(ValueError, match=r"twice|need|float32|finite"):
        Embeddings(names, factors, biases)


_ARRAYS = (
    "activity_positions",
    "tag_ends",
    "tag_names",
    "user_ends",
    "user_factors",
    "user_names",
)


@pytest.mark.parametrize("name", _ARRAYS)
def test_arrays_that_do_not_fit_are_refused(name: str) -> None:
    with np.load(io.BytesIO(factor_table().pack()), allow_pickle=False) as loaded:
        arrays = dict(loaded)
    arrays[name] = arrays[name][:-1]
    with pytest.raises(BundleDamaged, match=r"factors\.npz is damaged"):
        FactorTable.parse(pack_arrays(arrays))


@given(place=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.booleans())
def test_damaged_file_is_refused_or_harmless(place: int, byte: int, cut: bool) -> None:
    content = bytearray(factor_table().pack())
    place %= len(content)
    content[place] = byte
    try:
        table = FactorTable.parse(bytes(content[:place] if cut else content))
    except BundleDamaged:
        return
    assert table.dimensions == 5
