"""A slate comes back from its record as it was, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.features import FeatureMatrix, FeatureSpec
from ranking.testing_models import boosted_scorer
from serving.slate_log.record import RecordDamaged, decode, encode, log
from serving.slate_log.testing import ACME, made_slate


class OddScorer:
    """Gives numbers that do not survive a careless encoding."""

    name = "odd"
    spec = FeatureSpec(("age_h", "factor_dot"))

    def score(self, features: FeatureMatrix) -> np.ndarray:
        odd = np.array([np.nan, -0.0, 1e-45, np.inf, 1 / 3], np.float32)
        return np.resize(odd, len(features))


@given(
    name=st.text("0123456789abcdef", min_size=1, max_size=32),
    activities=st.integers(0, 12),
    candidates=st.booleans(),
    epsilon=st.sampled_from([0, 0.5, 1]),
)
def test_what_was_logged_is_read_back_bit_for_bit(
    name: str, activities: int, candidates: bool, epsilon: float
) -> None:
    made = made_slate(name, activities, scorer=OddScorer(), epsilon=epsilon, model_version="3")
    slate, scoring = made.slate, made.slate.scoring
    assert scoring is not None

    found = decode(encode(made.logged(candidates=candidates)))

    shown = scoring.shown
    assert (found.slate_id, found.tenant, found.user) == (name, ACME, made.query.user)
    assert (found.time_us, found.seed) == (made.query.now_us, made.query.seed)
    assert (found.scorer, found.model_version, found.degraded) == ("odd", "3", None)
    assert found.spec_fingerprint == OddScorer.spec.fingerprint
    assert found.places.activity_ids() == [place.activity_id for place in slate.ranked]
    assert found.places.scores == scoring.scores[shown.places].tobytes()
    features = found.features_of(found.places)
    assert features.names == scoring.features.names
    assert features.values.tobytes() == scoring.features.values[shown.places].tobytes()
    assert found.numbers(found.propensities).tobytes() == shown.propensities.tobytes()
    assert found.multipliers == {"author_spread": shown.multipliers.tobytes()}
    assert found.explored_places().tolist() == shown.explored.tolist()
    assert found.source_names(found.places) == [place.source for place in slate.ranked]
    assert found.reason_texts() == [place.reason for place in slate.ranked]
    assert found.stages == tuple(scoring.stages)
    if candidates:
        assert found.candidates is not None
        kept = scoring.kept
        assert found.candidates.activity_ids() == made.table.ids(kept.rows)
        assert found.candidates.scores == scoring.scores.tobytes()
        values = found.features_of(found.candidates).values
        assert values.tobytes() == scoring.features.values.tobytes()
    else:
        assert found.candidates is None


def test_scores_come_out_again_from_the_logged_features() -> None:
    scorer = boosted_scorer()
    found = decode(encode(made_slate("a", 200, scorer=scorer).logged()))
    assert scorer.score(found.features_of(found.places)).tobytes() == found.places.scores


@pytest.mark.parametrize("cut", ["ids", "source", "scores", "features"])
def test_columns_that_do_not_fit_are_refused(cut: str) -> None:
    slate = made_slate("a").logged()
    rows = type(slate.places)(
        **{
            name: getattr(slate.places, name)[: -1 if name == cut else None]
            for name in ("ids", "source", "scores", "features")
        }
    )
    fields = {name: getattr(slate, name) for name in slate.__struct_fields__} | {"places": rows}
    with pytest.raises(RecordDamaged, match="columns"):
        decode(encode(type(slate)(**fields)))


def test_rules_that_placed_an_activity_are_logged_by_place() -> None:
    made = made_slate("a", 9)
    assert made.slate.scoring is not None
    first, _, third, *_ = made.slate.scoring.shown.places.tolist()
    scoring = replace(made.slate.scoring, placed={first: "pin", third: "quota", 99: "pin"})
    found = log(made.query, replace(made.slate, scoring=scoring), None)
    assert decode(encode(found)).placed == {0: "pin", 2: "quota"}


def test_multipliers_that_do_not_fit_are_refused() -> None:
    slate = made_slate("a").logged()
    fields = {name: getattr(slate, name) for name in slate.__struct_fields__}
    with pytest.raises(RecordDamaged, match="columns"):
        decode(encode(type(slate)(**fields | {"multipliers": {"author_spread": b""}})))


def test_names_that_are_not_there_are_refused() -> None:
    slate = made_slate("a").logged()
    for field in ("sources", "reasons"):
        fields = {name: getattr(slate, name) for name in slate.__struct_fields__} | {field: ()}
        with pytest.raises(RecordDamaged, match="columns"):
            decode(encode(type(slate)(**fields)))


@given(st.binary(max_size=64))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(RecordDamaged, match="no logged slate"):
        decode(data)
