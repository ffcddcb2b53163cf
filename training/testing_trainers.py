"""What every trainer must hold to: a suite for matrix trainers, and one for row trainers."""

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from feeds.model import TenantId, UserId
from ranking.bundle import ModelBundle
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.scorers.base import Scorer
from ranking.scorers.factorization import FactorizationScorer
from training.errors import TooFewEvents, TrainingError
from training.factors import named_factors
from training.trainers.base import MatrixModel, MatrixTrainer
from training.trainers.rows import Examples, Fitted, RowTrainer

__all__ = ["MatrixTrainerContract", "RowTrainerContract", "shown_slates", "two_tastes"]


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

    def test_what_is_served_from_a_bundle_is_what_was_trained(self, tmp_path: Path) -> None:
        """The request path's product of vectors gives the scores, but for the order of sums."""
        model = self.fitted()
        users = [f"u{number}" for number in range(40)]
        positions = [number.to_bytes(16, "big") for number in range(30)]
        spec = FeatureSpec(("factor_dot", "factor_bias"))
        bundle = ModelBundle(
            TenantId("acme"),
            FactorizationScorer(spec),
            FeatureMatrix(spec.names, np.zeros((1, 2), np.float32)),
            factors=named_factors(model.factors(), users, positions),
            trained_us=0,
            training_fingerprint="",
            metrics={},
        )
        loaded = ModelBundle.load(bundle.save(tmp_path / "bundle"))
        table = loaded.factors()
        assert table is not None
        none = np.zeros((30, 0), np.int32)
        columns = [np.column_stack(table.dot(UserId(u), positions, none, [])) for u in users]
        found = [loaded.scorer().score(FeatureMatrix(spec.names, each)) for each in columns]
        expected = model.scores(np.arange(40))
        np.testing.assert_allclose(np.array(found), expected, rtol=1e-4, atol=1e-5)

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


TRUTH = {"age_h": -1.0, "engagements_7d": 0.8, "tag_overlap": 0.0}
"""What the features of `shown_slates` add to the log odds of a click, by deviation."""


def shown_slates(
    seed: int, requests: int = 300, size: int = 12, users: int = 40, missing: float = 0.05
) -> Examples:
    """Slates that were shown, with clicks of known odds, and hides of the opposite ones.

    The log odds of a click are -0.5, plus `TRUTH`, minus 0.25 for each place further down. Slates
    were ordered by age. A share of each feature is missing, which says nothing.
    """
    random = np.random.default_rng(seed)
    values = random.normal(size=(requests, size, len(TRUTH)))
    values = np.take_along_axis(values, values[:, :, :1].argsort(axis=1), axis=1)
    odds = values @ np.array(list(TRUTH.values())) - 0.5
    places = np.tile(np.arange(size), requests)
    rows = values.reshape(-1, len(TRUTH)).astype(np.float32)
    likely = 1 / (1 + np.exp(-(odds.ravel() - 0.25 * places)))
    dislikely = 1 / (1 + np.exp(odds.ravel() + 2))
    clicked = random.random(len(rows)) < likely
    rows[random.random(rows.shape) < missing] = np.nan
    return Examples(
        names=tuple(TRUTH),
        values=rows,
        relevance=clicked.astype(np.int8),
        sizes=np.full(requests, size, np.int64),
        users=np.array([f"u{n}" for n in random.integers(users, size=requests)]),
        engaged={
            "click": clicked.astype(np.int8),
            "hide": (random.random(len(rows)) < dislikely).astype(np.int8),
        },
        shown_at=places,
    )


class RowTrainerContract(ABC):
    """Subclass it as `Test…` and give the trainer."""

    @abstractmethod
    def trainer(self) -> RowTrainer:
        """A trainer that learns `shown_slates`."""

    def fitted(self, seed: int = 1) -> Fitted:
        """A model of `shown_slates`."""
        return self.trainer().fit(shown_slates(5), shown_slates(6), seed=seed)

    def test_what_it_gives_is_a_scorer_of_its_own_features(self) -> None:
        """One float32 a row."""
        scorer = self.fitted().scorer
        assert isinstance(scorer, Scorer)
        assert set(scorer.spec.names) <= {*TRUTH, "position"}
        scores = scorer.score(served(scorer, shown_slates(7)))
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()

    def test_it_finds_the_truth(self) -> None:
        """On slates that nobody saw, the order is near that of the true odds."""
        data = shown_slates(7, missing=0)
        scorer = self.fitted().scorer
        truth = data.values @ np.array(list(TRUTH.values()))
        found = np.corrcoef(_ranks(truth), _ranks(scorer.score(served(scorer, data))))[0, 1]
        assert found > 0.85  # noqa: PLR2004 - of rank correlation

    def test_equal_inputs_and_seed_give_equal_bundles(self, tmp_path: Path) -> None:
        """Byte for byte, every file of them."""
        first, second = (bundled(self.fitted()).save(tmp_path / name) for name in "ab")
        assert {p.name: p.read_bytes() for p in first.iterdir()} == {
            p.name: p.read_bytes() for p in second.iterdir()
        }

    def test_what_is_served_from_a_bundle_is_what_was_trained(self, tmp_path: Path) -> None:
        """Bit for bit, what is missing included."""
        fitted = self.fitted()
        features = served(fitted.scorer, shown_slates(7))
        loaded = ModelBundle.load(bundled(fitted).save(tmp_path / "bundle"))
        assert loaded.scorer().score(features).tobytes() == fitted.scorer.score(features).tobytes()

    def test_where_it_is_shown_does_not_move_a_candidate(self) -> None:
        """Serving holds the place constant: whichever constant, the order is the same."""
        scorer = self.fitted().scorer
        if "position" not in scorer.spec.names:
            return
        first = served(scorer, shown_slates(7))
        fifth = FeatureMatrix(first.names, first.values.copy())
        fifth.values[:, first.names.index("position")] = 5.0
        one, other = scorer.score(first), scorer.score(fifth)
        in_order_of_one = other[np.lexsort((other, one))]
        assert (np.diff(in_order_of_one) >= -1e-6).all()  # noqa: PLR2004 - but for rounding

    def test_figures_are_finite(self) -> None:
        """They go into a report as JSON."""
        figures = self.fitted().figures
        assert figures["seconds"] > 0
        assert np.isfinite(list(figures.values())).all()

    def test_whoever_is_told_of_a_round_may_end_it(self) -> None:
        """What it raises comes through."""

        def stop(rounds: int, score: float) -> None:
            raise StopIteration(f"{rounds} rounds: {score}")

        with pytest.raises(StopIteration, match="rounds: "):
            self.trainer().fit(shown_slates(5), shown_slates(6), on_round=stop)

    @pytest.mark.parametrize("requests", [0, 1, 10])
    def test_too_few_requests_are_told_or_give_a_model(self, requests: int) -> None:
        """Never a traceback of a library."""
        few = shown_slates(5, requests, size=1)
        try:
            scorer = self.trainer().fit(few, few).scorer
        except TooFewEvents as error:
            assert "record more" in str(error) or "needed" in str(error)  # noqa: PT017
        else:
            assert np.isfinite(scorer.score(served(scorer, few))).all()

    @pytest.mark.parametrize("happened", [False, True])
    def test_one_class_alone_is_told(self, happened: bool) -> None:
        """With the counts."""
        data = _relabelled(shown_slates(5), np.full(300 * 12, happened))
        with pytest.raises(TooFewEvents, match=r"candidates were engaged with|are needed"):
            self.trainer().fit(data, data)

    def test_engagements_of_one_user_alone_are_told(self) -> None:
        """With the user's name."""
        data = shown_slates(5, users=4)
        data = _relabelled(data, (data.users == "u3")[data.request_of_row] & (data.relevance > 0))
        with pytest.raises(TooFewEvents, match="of the user u3"):
            self.trainer().fit(data, data)


def served(scorer: Scorer, data: Examples) -> FeatureMatrix:
    """The features as serving builds them: every candidate stands first."""
    first = replace(data, shown_at=np.zeros(len(data), np.int64))
    return first.matrix(scorer.spec.names)


def bundled(fitted: Fitted) -> ModelBundle:
    """The model as a bundle, with a few of `shown_slates` as golden slate."""
    golden = served(fitted.scorer, shown_slates(8, requests=4))
    return ModelBundle(
        TenantId("acme"),
        fitted.scorer,
        golden,
        trained_us=0,
        training_fingerprint="",
        metrics={},
    )


def _relabelled(data: Examples, labels: npt.NDArray[np.bool_]) -> Examples:
    engaged = dict.fromkeys(data.engaged, labels.astype(np.int8))
    return replace(data, relevance=labels.astype(np.int8), engaged=engaged)


def _ranks(values: npt.NDArray[np.generic]) -> npt.NDArray[np.intp]:
    ranks: npt.NDArray[np.intp] = values.argsort(kind="stable").argsort(kind="stable")
    return ranks
