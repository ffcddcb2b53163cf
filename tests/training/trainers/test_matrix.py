import numpy as np
import pytest
from scipy import sparse

from training.errors import TrainingError
from training.testing_trainers import MatrixTrainerContract, two_tastes
from training.trainers.als import AlsTrainer
from training.trainers.base import MatrixTrainer
from training.trainers.ease import EaseTrainer
from training.trainers.factorization import FactorizationTrainer
from training.trainers.popularity import PopularityTrainer


class TestPopularity(MatrixTrainerContract):
    personal = False

    def trainer(self) -> MatrixTrainer:
        return PopularityTrainer()

    def test_scores_count_users_whatever_the_weights(self) -> None:
        matrix = sparse.csr_matrix(np.array([[2, 0, 1], [3, 0, 0]], np.float32))
        assert PopularityTrainer().fit(matrix).scores(np.array([0])).tolist() == [[2, 0, 1]]


class TestEase(MatrixTrainerContract):
    def trainer(self) -> MatrixTrainer:
        return EaseTrainer(l2=10.0)

    def test_weights_are_those_of_the_paper(self) -> None:
        matrix = two_tastes(5)
        gram = (matrix.T @ matrix).toarray().astype(np.float64)
        inverse = np.linalg.inv(gram + 10.0 * np.eye(30))
        expected = -inverse / np.diag(inverse)
        np.fill_diagonal(expected, 0)
        model = EaseTrainer(l2=10.0).fit(matrix)
        np.testing.assert_allclose(model.weights, expected, rtol=1e-4, atol=1e-7)

    def test_vectors_give_the_nearest_scores(self) -> None:
        model = EaseTrainer(l2=10.0).fit(two_tastes(5))
        everyone = np.arange(40)
        scores = model.scores(everyone).astype(np.float64)
        values = np.linalg.svd(scores, compute_uv=False)
        found = model.factors(dimensions_max=6)
        assert found.users.vectors.shape == (40, 6)
        off = np.linalg.norm(found.scores(everyone) - scores)
        assert off == pytest.approx(np.linalg.norm(values[6:]), rel=1e-3)

    def test_too_many_activities_and_a_penalty_of_0_are_refused(self) -> None:
        with pytest.raises(TrainingError, match=r"30 activities needs .* activities_max is 20"):
            EaseTrainer(activities_max=20).fit(two_tastes(5))
        with pytest.raises(TrainingError, match="give a penalty above 0"):
            EaseTrainer(l2=0.0).fit(two_tastes(5))


class TestAls(MatrixTrainerContract):
    def trainer(self) -> MatrixTrainer:
        return AlsTrainer(dimensions=4, l2=0.1, epochs=5)

    def test_threads_do_not_change_a_bit(self) -> None:
        one, two = (
            AlsTrainer(dimensions=4, l2=0.1, threads=threads).fit(two_tastes(5))
            for threads in (1, 2)
        )
        assert one.users.vectors.tobytes() == two.users.vectors.tobytes()


class TestWarp(MatrixTrainerContract):
    def trainer(self) -> MatrixTrainer:
        return FactorizationTrainer(dimensions=4, epochs=20)

    def test_a_user_without_engagements_is_known_by_its_features(self) -> None:
        matrix = two_tastes(5)
        matrix.resize((42, 30))
        taste = sparse.csr_matrix(np.eye(2, dtype=np.float32)[np.arange(42) % 2])
        scores = self.trainer().fit(matrix, user_features=taste).scores(np.array([40, 41]))
        odd = np.arange(30) % 2 == 1
        assert scores[0, ~odd].mean() > scores[0, odd].mean()
        assert scores[1, odd].mean() > scores[1, ~odd].mean()

    def test_an_activity_without_engagements_is_known_by_its_features(self) -> None:
        matrix = two_tastes(5)
        matrix.resize((40, 32))
        taste = sparse.csr_matrix(np.eye(2, dtype=np.float32)[np.arange(32) % 2])
        model = FactorizationTrainer(dimensions=4, epochs=20).fit(matrix, activity_features=taste)
        new = model.scores(np.arange(40))[:, 30:]
        even = np.arange(40) % 2 == 0
        assert (new[even, 0] > new[even, 1]).mean() > 0.9
        assert (new[~even, 1] > new[~even, 0]).mean() > 0.9
        assert model.features is not None
        assert len(model.features) == 2

    def test_one_without_engagements_and_features_is_no_noise(self) -> None:
        matrix = two_tastes(5)
        matrix.resize((41, 30))
        model = FactorizationTrainer(dimensions=4, epochs=2).fit(matrix)
        assert not model.users.vectors[40].any()

    def test_features_must_have_a_row_for_each(self) -> None:
        with pytest.raises(TrainingError, match="user features have 3 rows for 40"):
            self.trainer().fit(two_tastes(5), user_features=sparse.identity(3, format="csr"))

    def test_weights_of_engagements_count(self) -> None:
        weighted = two_tastes(5)
        weighted.data[:] = np.where(np.arange(weighted.nnz) % 3, 1.0, 5.0)
        everyone = np.arange(40)
        plain = self.fitted().scores(everyone)
        assert (self.trainer().fit(weighted, seed=1).scores(everyone) != plain).any()


class TestBpr(MatrixTrainerContract):
    def trainer(self) -> MatrixTrainer:
        return FactorizationTrainer(loss="bpr", dimensions=4, epochs=30)
