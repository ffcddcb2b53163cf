"""Logged slates give the features of then, bit for bit, and the probability of each place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feeds.events import Engagement, Event, Impression, Posted
from feeds.model import UserId
from ranking.features import FEATURES, FeatureParameters, FeatureSpec
from ranking.scorers.factorization import Embeddings, FactorTable
from ranking.scorers.popularity import PopularityScorer
from serving.slate_log.config import SlateRules
from serving.slate_log.export import export_slates
from serving.slate_log.record import LoggedSlate, encode
from serving.slate_log.segments import SegmentDisk, key_of
from serving.slate_log.testing import ACME, made_slate
from serving.slate_log.writer import TenantShelf
from training.errors import ExportDamaged
from training.sets.building import build_training_set
from training.sets.files import StoredSet
from training.testing import log_of, write_export

SPEC = FeatureSpec(tuple(FEATURES)[:20])
SCORER = PopularityScorer(SPEC)
MORE = FeatureSpec(tuple(FEATURES)[:-1])  # all but the position
NOW_US = 2_900_000_000_000_000
LATER_US = 30 * 24 * 3_600_000_000


def slates() -> list[LoggedSlate]:
    made = [made_slate(f"s{number}", 4 + number, scorer=SCORER) for number in range(3)]
    return [each.logged() for each in made]


def events_of(slate: LoggedSlate) -> list[Event]:
    """The slate's activities are posted, all but the last are seen, and the first is clicked."""
    ids = slate.places.activity_ids()
    events: list[Event] = [
        Posted(
            time_us=slate.time_us - 10,
            activity_id=each,
            actor="user:ann",
            verb="post",
            object="note:1",
            feed="user:ann",
        )
        for each in ids
    ]
    keys: dict[str, Any] = {"user": UserId(slate.user), "slate_id": slate.slate_id}
    events += [
        Impression(time_us=slate.time_us + 1_000, activity_id=each, position=place, **keys)
        for place, each in enumerate(ids[:-1])
    ]
    clicked = Engagement(
        time_us=slate.time_us + 2_000, activity_id=ids[0], kind="click", position=0, **keys
    )
    return [*events, clicked]


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    """Events and slates of the same tenant in one directory."""
    shelf = TenantShelf(tmp_path / "log" / ACME, 1, 10**6, SegmentDisk())
    logged = sorted(slates(), key=lambda slate: slate.time_us)
    for number, slate in enumerate(logged):
        shelf.append([(key_of(slate.slate_id), encode(slate))], SlateRules(), number)
    events = [event for slate in logged for event in events_of(slate)]
    last = Impression(
        time_us=events[-1].time_us + LATER_US,
        user=UserId("zoe"),
        activity_id=logged[0].places.activity_ids()[0],
    )
    export_slates(tmp_path / "log", ACME, tmp_path / "exports")
    return write_export(log_of([*events, last]), tmp_path / "exports")


def build(exports: Path, spec: FeatureSpec, **options: Any) -> StoredSet:
    out = exports / "sets"
    return build_training_set(
        exports, ACME, out=out, spec=spec, scheduler="inline", clock=lambda: NOW_US, **options
    )


def test_what_was_logged_is_what_the_set_has_bit_for_bit(exports: Path) -> None:
    made = build(exports, SPEC)
    frame = made.to_frame()
    assert set(frame["features_from"]) == {"served"}
    for slate in slates():
        rows = frame[frame["request_id"] == slate.slate_id]
        shown = slate.places.activity_ids()[:-1]
        assert rows["activity_id"].tolist() == shown
        assert rows["position"].tolist() == list(range(len(shown)))
        assert rows["propensity"].tolist() == slate.numbers(slate.propensities)[:-1].tolist()
        assert rows["label_click"].tolist() == [1.0] + [0.0] * (len(shown) - 1)
        assert {time.value // 1_000 for time in rows["time"]} == {slate.time_us}
        expected = slate.features_of(slate.places).values[:-1]
        actual = rows[list(SPEC.names)].to_numpy(np.float32)
        assert expected.tobytes() == actual.tobytes()
    assert made.manifest.counts["served"] == len(frame) == len(made)
    assert len(made.manifest.slates_fingerprint) == 32


def test_features_that_were_not_logged_are_as_of_the_slate(exports: Path) -> None:
    frame = build(exports, MORE).to_frame()
    assert set(frame["features_from"]) == {"mixed"}
    name = next(each for each in MORE.names if each not in SPEC.names)
    assert frame[name].notna().any()
    served = build(exports, SPEC).to_frame()
    for each in SPEC.names:
        assert frame[each].to_numpy().tobytes() == served[each].to_numpy().tobytes()


def test_slates_of_other_parameters_are_not_taken_for_the_same_features(exports: Path) -> None:
    other = FeatureSpec(SPEC.names, parameters=FeatureParameters(rate_prior=0.5))
    frame = build(exports, other).to_frame()
    assert set(frame["features_from"]) == {"as_of"}
    assert frame["propensity"].notna().all()


def test_new_factors_are_computed_anew(exports: Path) -> None:
    spec = FeatureSpec(("age_h", "factor_dot", "factor_bias"))
    one, vector = np.ones(1, np.float32), np.ones((1, 2), np.float32)
    first = slates()[0]
    users = Embeddings([first.user], vector, one)
    nobody = Embeddings([], np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
    factors = FactorTable(users, nobody, nobody)
    frame = build(exports, spec, factors=factors).to_frame()
    assert set(frame["features_from"]) <= {"as_of", "mixed"}


def test_a_set_without_slates_says_so(exports: Path) -> None:
    for path in (exports / "tenant=acme").glob("_slates.json"):
        path.unlink()
    made = build(exports, SPEC)
    assert made.manifest.slates_fingerprint == ""
    assert made.manifest.counts.get("served", 0) == 0
    with pytest.raises(ExportDamaged, match="headwater slates export"):
        build(exports, SPEC, slates=exports)


def test_slates_cut_in_half_are_refused(exports: Path) -> None:
    path = next((exports / "tenant=acme").glob("day=*/slates-*.parquet"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ExportDamaged, match=r"slates-.*checksum"):
        build(exports, SPEC)
