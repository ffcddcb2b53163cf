"""That the bench runs, and says what it did; no test asserts a time."""

from pathlib import Path

from training.bench.point_in_time import point_in_time


def test_it_measures_features_beside_the_reducers(tmp_path: Path) -> None:
    told = point_in_time(tmp_path, 0.05)
    steps = []
    for each in told:
        if not isinstance(each, tuple):
            figure = each
            break
        steps.append(each)
    told.close()  # type: ignore[attr-defined] - it is a generator; what follows starts a cluster
    assert [share for _, share in steps] == sorted(share for _, share in steps)
    assert figure["questions"] > figure["events"] / 2
    assert figure["per_s"] > 0 < figure["reference_per_s"]
