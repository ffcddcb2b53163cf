"""What every matrix trainer must hold to: one suite, run against each."""

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from training.errors import TooFewEvents, TrainingError
from training.trainers.base import MatrixModel, MatrixTrainer

__all__ = ["MatrixTrainerContract", "two_tastes"]


def two_tastes(seed: int, users: int = 40, activities: int = 30) -> sparse.csr_matrix:
    """Users with odd numbers like activities with odd numbers, even ones even: about half of them.

    The shares of the activities fall, so that some are more popular than others.
    """
    random = np.random.default_rng(seed)
    same = (np.arange(users)[:, None] - np.arange(activities)) % 2 == 0
    likely = np.linspace(0.8, 0.3, activities)
    return sparse.csr_matrix((same & (random.random(same.shape) < likely)).astype(np.float32))


class MatrixTrainerContract(ABC):
    """Subclass it as `Test…` and give the trainer."""

    personal = True
    """Whether different users get different scores."""

    @abstractmethod
    def trainer(self) -> MatrixTrainer:
        """A trainer that learns `two_tastes`."""

    def fitted(self, seed: int = 1) -> MatrixModel:
        """A model of `two_tastes`."""
        return self.trainer().fit(two_tastes(5), seed=seed)

    def test_scores_are_finite_float32_for_every_activity(self) -> None:
        """A row for each user, a column for each activity."""
        model = self.fitted()
        scores = model.scores(np.arange(40))
        assert model.shape == scores.shape == (40, 30)
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()

    def test_a_user_scores_alone_as_among_others(self) -> None:
        """But for the order in which BLAS adds up."""
        model = self.fitted()
        alone, among = model.scores(np.array([7, 3])), model.scores(np.arange(40))[[7, 3]]
        np.testing.assert_allclose(alone, among, rtol=1e-4, atol=1e-5)
        assert model.scores(np.array([], np.int64)).shape == (0, 30)

    def test_equal_inputs_and_seed_give_equal_bytes(self) -> None:
        """Everything random derives from the seed."""
        everyone = np.arange(40)
        first, second = self.fitted().scores(everyone), self.fitted().scores(everyone)
        assert first.tobytes() == second.tobytes()

    def test_it_prefers_what_is_of_the_users_taste(self) -> None:
        """Of what was not seen, the mean score of the own taste is higher."""
        if not self.personal:
            return
        unseen = two_tastes(5).toarray() == 0
        scores = self.fitted().scores(np.arange(40))
        same = (np.arange(40)[:, None] - np.arange(30)) % 2 == 0
        assert _mean(scores, unseen & same) > _mean(scores, unseen & ~same)

    def test_it_puts_the_popular_before_the_rare(self) -> None:
        """On average over the users."""
        scores = self.fitted().scores(np.arange(40)).mean(axis=0)
        assert scores[:6].mean() > scores[-6:].mean()

    def test_order_and_repetition_of_cells_do_not_matter(self) -> None:
        """Cells that come twice are added up."""
        whole = two_tastes(5).tocoo()
        back = np.arange(whole.nnz)[::-1]
        halves = np.full(2 * whole.nnz, 0.5, np.float32)
        rows, columns = (np.concatenate([part, part[back]]) for part in (whole.row, whole.col))
        shuffled = sparse.coo_matrix((halves, (rows, columns)), whole.shape)
        expected = self.fitted().scores(np.arange(40))
        found = self.trainer().fit(shuffled, seed=1).scores(np.arange(40))
        assert found.tobytes() == expected.tobytes()

    def test_what_it_is_given_is_left_as_it_was(self) -> None:
        """Nothing is written to."""
        given, kept = two_tastes(5), two_tastes(5)
        self.trainer().fit(given, seed=1)
        assert (given != kept).nnz == 0

    def test_it_tells_of_each_pass_with_the_model_as_it_then_is(self) -> None:
        """Passes count from 1, and the last one told is the model."""
        told: list[tuple[int, float]] = []

        def tell(epoch: int, model: MatrixModel) -> None:
            told.append((epoch, float(np.abs(model.scores(np.arange(40))).sum())))

        model = self.trainer().fit(two_tastes(5), seed=1, on_epoch=tell)
        assert [epoch for epoch, _ in told] == list(range(1, len(told) + 1))
        assert told[-1][1] == float(np.abs(model.scores(np.arange(40))).sum())

    def test_whoever_is_told_may_end_it(self) -> None:
        """What it raises comes through."""

        def stop(epoch: int, model: MatrixModel) -> None:
            raise StopIteration(f"{epoch} of {model.shape}")

        with pytest.raises(StopIteration, match="1 of"):
            self.trainer().fit(two_tastes(5), seed=1, on_epoch=stop)

    def test_users_and_activities_without_engagements_are_scored(self) -> None:
        """Their scores are finite."""
        wider = two_tastes(5)
        wider.resize((43, 34))
        scores = self.trainer().fit(wider, seed=1).scores(np.arange(43))
        assert scores.shape == (43, 34)
        assert np.isfinite(scores).all()

    @pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (3, 4)])
    def test_no_engagement_at_all_is_told(self, shape: tuple[int, int]) -> None:
        """With what to do."""
        with pytest.raises(TooFewEvents, match="have no engagement"):
            self.trainer().fit(sparse.csr_matrix(shape, dtype=np.float32))

    @pytest.mark.parametrize("pairs", [[(0, 0)], [(1, 2)], [(0, n) for n in range(4)]])
    def test_one_engagement_or_one_user_is_enough_to_be_finite(
        self, pairs: list[tuple[int, int]]
    ) -> None:
        """However little it says."""
        rows, columns = np.array(pairs).T
        matrix = sparse.csr_matrix((np.ones(len(pairs), np.float32), (rows, columns)), (2, 4))
        assert np.isfinite(self.trainer().fit(matrix).scores(np.arange(2))).all()

    @pytest.mark.parametrize(
        ("weight", "said"), [(-1.0, "0 or less"), (np.nan, "not finite"), (np.inf, "not finite")]
    )
    def test_a_weight_that_is_none_is_refused(self, weight: float, said: str) -> None:
        """Not above 0, or no number."""
        matrix = two_tastes(5)
        matrix.data[3] = weight
        with pytest.raises(TrainingError, match=said):
            self.trainer().fit(matrix)

    def test_an_array_is_refused(self) -> None:
        """With its type."""
        with pytest.raises(TrainingError, match=r"must be a scipy\.sparse matrix, not ndarray"):
            self.trainer().fit(np.ones((3, 4)))


def _mean(scores: npt.NDArray[np.float32], where: npt.NDArray[np.bool_]) -> float:
    return float(scores[where].mean())
