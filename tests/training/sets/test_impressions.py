"""Where what was shown is logged, the ranker learns from that: which rows, labels and features."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from feeds.events import Engagement, Impression
from ranking.bundle import ModelBundle
from training import read_event_log, train_tenant
from training.config import (
    BoostedConfig,
    BoostedVariant,
    LabelConfig,
    TrainingConfig,
)
from training.evaluation.rankings import CHOSEN_BY_NDCG, CHOSEN_BY_SHOWN
from training.events.log import EventLog
from training.events.synthetic import SyntheticLog, write_synthetic_log
from training.sets.building import build_training_set, default_spec
from training.sets.dataset import TrainingSet, joined
from training.sets.impressions import (
    only_shown,
    shown_requests,
    slate_requests,
    without_places,
)
from training.sets.requests import Request
from training.sets.splits import Split, split_by_time
from training.steps import replayed_sets
from training.testing import write_export

SPEC = default_spec()
SIZE = SyntheticLog(events=6_000, users=80, days=12, engaged_share=0.3)
WINDOWS = dict.fromkeys(LabelConfig().windows_s, 3_600)
CONFIG = TrainingConfig(labels=LabelConfig(windows_s=WINDOWS))
CONFIG = replace(CONFIG, requests=replace(CONFIG.requests, shown_requests_min=20))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_log(SIZE, tmp_path_factory.mktemp("export"), "acme")


@pytest.fixture(scope="module")
def log(export: Path) -> EventLog:
    return read_event_log(export, "acme")


@pytest.fixture(scope="module")
def split(log: EventLog) -> Split:
    return split_by_time(log.events, CONFIG.split)


def shown(log: EventLog, export: Path, split: Split, config: TrainingConfig) -> TrainingSet | None:
    return shown_requests(log, export, split.ranker_us, split.validation_us, SPEC, config)


@pytest.fixture(scope="module")
def made(log: EventLog, export: Path, split: Split) -> TrainingSet:
    found = shown(log, export, split, CONFIG)
    assert found is not None
    return found


def test_each_request_teaches_and_lies_in_its_part(made: TrainingSet, split: Split) -> None:
    assert len(made) >= CONFIG.requests.shown_requests_min
    for begin, end in zip(made.starts, made.starts[1:], strict=False):
        assert set(made.labels[begin:end].tolist()) == {0, 1}
    assert (made.times_us >= split.ranker_us).all()
    assert (made.times_us < split.validation_us).all()
    assert (made.wanted == made.relevant).all()


def test_rows_are_what_was_shown_with_the_features_of_the_set_on_disk(
    made: TrainingSet, log: EventLog, export: Path, tmp_path: Path
) -> None:
    stored = build_training_set(
        export, "acme", out=tmp_path, config=CONFIG, scheduler="inline", clock=lambda: 2**60
    )
    frame = stored.to_frame().set_index(["user_id", "time", "position"])
    posted = dict(zip(log.indexes, log.events, strict=True))
    ours = made.to_frame()
    assert made.positions is not None
    for row in range(0, len(ours), 97):
        request = ours.iloc[row]
        theirs = frame.loc[(request["user"], request["time"], int(made.positions[row]))]
        assert theirs["activity_id"] == posted[int(request["activity"])].activity_id  # type: ignore[union-attr]
        values = np.asarray(theirs[list(SPEC.names)], np.float32)
        assert values.tobytes() == made.values[row].tobytes()


def test_nothing_after_the_part_moves_a_bit(
    made: TrainingSet, log: EventLog, export: Path, split: Split
) -> None:
    end = next(i for i, event in enumerate(log.events) if event.time_us >= split.validation_us)
    early = EventLog("acme", log.indexes[:end], log.events[:end])
    again = shown(early, export, split, CONFIG)
    assert again is not None
    assert again.fingerprint == made.fingerprint


def test_few_impressions_or_none_are_no_log_of_what_was_shown(
    log: EventLog, export: Path, split: Split
) -> None:
    many = replace(CONFIG, requests=replace(CONFIG.requests, shown_requests_min=10_000))
    assert shown(log, export, split, many) is None
    pairs = [
        (index, event)
        for index, event in zip(log.indexes, log.events, strict=True)
        if not isinstance(event, Impression)
    ]
    unseen = EventLog("acme", [index for index, _ in pairs], [event for _, event in pairs])
    assert any(isinstance(event, Engagement) for event in unseen.events)
    assert shown(unseen, export, split, CONFIG) is None


def test_requests_are_thinned_out_by_the_seed(log: EventLog, export: Path, split: Split) -> None:
    few = replace(CONFIG, requests=replace(CONFIG.requests, train_requests_max=25))
    found = shown(log, export, split, few)
    assert found is not None
    assert len(found) == 25


def test_places_are_kept_on_disk_and_when_joined(made: TrainingSet, tmp_path: Path) -> None:
    again = TrainingSet.load(made.save(tmp_path / "set.npz"))
    np.testing.assert_array_equal(again.positions, made.positions)
    assert again.fingerprint == made.fingerprint
    plain = replace(made, positions=None)
    assert plain.fingerprint != made.fingerprint
    both = joined(made, plain)
    assert made.positions is not None
    assert both.positions is not None
    assert both.positions.tolist() == made.positions.tolist() + [-1] * len(made.labels)
    unknown = without_places(made).positions
    assert unknown is not None
    assert set(unknown.tolist()) == {-1}


def test_position_is_the_first_place_where_a_model_is_judged(made: TrainingSet) -> None:
    matrix = made.columns(("position", "age_h"))
    assert not matrix.column("position").any()
    assert matrix.column("age_h").tobytes() == made.values[:, SPEC.names.index("age_h")].tobytes()


@pytest.fixture(scope="module")
def answered(log: EventLog, export: Path, split: Split) -> list[Request]:
    begin_us, end_us = split.validation_us, split.test_us
    return slate_requests(log, export, begin_us, end_us, SPEC, CONFIG, 1_000)


@pytest.fixture(scope="module")
def answered_set(log: EventLog, split: Split, answered: list[Request]) -> TrainingSet:
    return replayed_sets(log, CONFIG, split, {}, None, answered=answered)["answered"]


def test_answered_requests_have_places_and_labels_of_what_was_shown(
    log: EventLog, split: Split, answered: list[Request]
) -> None:
    assert len(answered) >= CONFIG.requests.shown_requests_min
    assert [each.place for each in answered] == sorted(each.place for each in answered)
    shown_at = {
        (event.user, event.activity_id, event.position)
        for event in log.events
        if isinstance(event, Impression)
    }
    for request in answered:
        assert split.validation_us <= request.time_us < split.test_us
        assert request.labels.keys() <= request.shown.keys()
        assert all((request.user, *pair) in shown_at for pair in request.shown.items())
        assert all(event.time_us < request.time_us for event in log.events[: request.place][-1:])
    assert any(not request.labels for request in answered)
    assert any(request.labels for request in answered)


def test_answered_requests_are_replayed_with_all_candidates(
    log: EventLog, answered: list[Request], answered_set: TrainingSet
) -> None:
    posted = dict(zip(log.indexes, log.events, strict=True))
    positions = answered_set.positions
    assert positions is not None
    assert len(answered_set) == len(answered)
    assert (positions < 0).any()
    for request, begin, end in zip(
        answered, answered_set.starts, answered_set.starts[1:], strict=False
    ):
        for row in range(begin, end):
            activity = posted[int(answered_set.activities[row])].activity_id  # type: ignore[union-attr]
            assert positions[row] == request.shown.get(activity, -1)
            assert answered_set.labels[row] == request.labels.get(activity, 0)


def test_answered_requests_are_few_or_thinned_out(
    log: EventLog, export: Path, split: Split, answered: list[Request]
) -> None:
    def found(requests_min: int, requests_max: int) -> list[Request]:
        requests = replace(CONFIG.requests, shown_requests_min=requests_min)
        config = replace(CONFIG, requests=requests)
        begin_us, end_us = split.validation_us, split.test_us
        return slate_requests(log, export, begin_us, end_us, SPEC, config, requests_max)

    assert found(len(answered) + 1, 1_000) == []
    some = found(1, 7)
    assert len(some) == 7
    assert all(request in answered for request in some)


def test_only_shown_keeps_requests_that_teach(answered_set: TrainingSet) -> None:
    kept = only_shown(answered_set)
    assert 0 < len(kept) < len(answered_set)
    assert kept.positions is not None
    assert (kept.positions >= 0).all()
    assert len(kept.labels) == kept.sizes.sum()
    assert (kept.wanted == kept.relevant).all()
    for begin, end in zip(kept.starts, kept.starts[1:], strict=False):
        assert set((kept.labels[begin:end] > 0).tolist()) == {False, True}
    with pytest.raises(ValueError, match="without places"):
        only_shown(replace(answered_set, positions=None))


def test_training_learns_from_what_was_shown(export: Path, tmp_path: Path) -> None:
    boosted = BoostedConfig(variants=(BoostedVariant("boosted-3", 3),), trees_max=20)
    result = train_tenant(
        export, "acme", out=tmp_path, config=replace(CONFIG, boosted=boosted), scheduler="inline"
    )
    assert result.report.counts["requests_shown"] >= CONFIG.requests.shown_requests_min
    assert ModelBundle.load(result.bundle).spec.names
    shown_worths = result.report.validation_shown
    assert result.report.counts["requests_answered"] >= CONFIG.requests.shown_requests_min
    assert shown_worths.keys() <= result.report.validation.keys()
    assert result.report.model == max(shown_worths, key=lambda name: shown_worths[name])
    assert CHOSEN_BY_SHOWN in result.report.conventions


def test_where_no_place_is_known_ndcg_chooses(log: EventLog, tmp_path: Path) -> None:
    events = [
        msgspec.structs.replace(event, position=-1)
        if isinstance(event, Impression | Engagement)
        else event
        for event in log.events
    ]
    placeless = write_export(EventLog("acme", log.indexes, events), tmp_path / "export")
    config = replace(CONFIG, trainers=("logistic",))
    report = train_tenant(placeless, "acme", out=tmp_path, config=config, scheduler="inline").report
    assert report.counts["requests_answered"] > 0
    assert report.validation_shown == {}
    assert CHOSEN_BY_NDCG in report.conventions
