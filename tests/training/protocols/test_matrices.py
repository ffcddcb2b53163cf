"""MovieLens as matrices: splits and NDCG on made-up ratings."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from ranking.metrics import ndcg_at_k
from training.protocols import p1, p2
from training.protocols.matrices import K, Ratings, ndcg_of_users


@st.composite
def ratings(draw: st.DrawFn) -> Ratings:
    users, movies = draw(st.integers(2, 6)), draw(st.integers(2, 20))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    cells = np.argwhere(random.random((users, movies)) < 0.6)
    cells = np.concatenate([cells, [[users - 1, movies - 1]]])
    return Ratings(
        users=cells[:, 0],
        movies=cells[:, 1],
        times_us=np.sort(random.integers(0, 1_000, len(cells))),
        heights=random.integers(1, 6, len(cells)).astype(float),
    )


@given(ratings(), st.integers(0, 9))
def test_p1_holds_out_a_quarter_of_each_user(all_of: Ratings, seed: int) -> None:
    rows = np.ones(len(all_of.users), bool)
    split = p1._split(all_of, rows, seed)
    assert (split.train ^ split.test).all()
    for user in set(all_of.users.tolist()):
        count = int((all_of.users == user).sum())
        assert (all_of.users[split.train] == user).sum() == round(0.75 * count)
    inner = p1._split(all_of, split.train, seed + 1)
    assert not ((inner.train | inner.test) & split.test).any()
    assert ((inner.train | inner.test) == split.train).all()


@given(ratings())
def test_p2_judges_by_what_came_later_of_known_users(all_of: Ratings) -> None:
    good = np.flatnonzero(all_of.heights >= 4)
    split = p2._split(all_of, good)
    assert not (split.train & split.test).any()
    assert set(all_of.users[split.test].tolist()) <= set(all_of.users[split.train].tolist())
    assert (all_of.heights[split.train | split.test] >= 4).all()
    if split.train.any() and split.test.any():
        assert all_of.times_us[split.train].max() <= all_of.times_us[split.test].min()


@given(st.integers(2, 5), st.integers(3, 25), st.integers(0, 2**32))
def test_ndcg_of_users_is_that_of_each_order(users: int, movies: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.random((users, movies))
    seen = random.random((users, movies)) < 0.3
    wanted = ~seen & (random.random((users, movies)) < 0.3)
    found = ndcg_of_users(scores, sparse.csr_matrix(seen), sparse.csr_matrix(wanted))
    for user in range(users):
        left = np.flatnonzero(~seen[user])
        order = left[np.argsort(-scores[user, left], kind="stable")]
        expected = ndcg_at_k(wanted[user, order].astype(int), K)
        assert found[user] == pytest.approx(expected, nan_ok=True)
        assert math.isnan(expected) == (not wanted[user].any())


def test_what_was_seen_is_never_shown() -> None:
    scores = np.array([[9.0, 1.0, 0.0]])
    seen, wanted = sparse.csr_matrix([[1, 0, 0]]), sparse.csr_matrix([[0, 1, 0]])
    assert ndcg_of_users(scores, seen, wanted).tolist() == [1.0]


def test_the_newest_movie_is_the_one_first_rated_last() -> None:
    some = Ratings(
        users=np.array([0, 1, 0, 1]),
        movies=np.array([0, 1, 1, 2]),
        times_us=np.array([1, 2, 3, 4]),
        heights=np.ones(4),
    )
    rows = np.array([True, True, True, False])
    assert some.newest(rows).tolist() == [1, 2, -math.inf]
