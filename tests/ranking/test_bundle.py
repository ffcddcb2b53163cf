"""A bundle comes back bit for bit, or not at all."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.bundle import ModelBundle
from ranking.errors import BundleDamaged, RankingError
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.manifest import BundleLimits, manifest_digest
from ranking.scorers.boosted import BoostedScorer
from ranking.scorers.factorization import FactorizationScorer
from ranking.scorers.popularity import PopularityScorer
from ranking.scorers.recency import RecencyScorer
from ranking.testing import T0_US, feature_matrix
from ranking.testing_models import (
    ACME,
    boosted_scorer,
    factor_table,
    linear_scorer,
    model_bundle,
    value_scorer,
)


def _bundles() -> list[ModelBundle]:
    boosted = boosted_scorer()
    return [
        model_bundle(scorer=RecencyScorer()),
        model_bundle(scorer=PopularityScorer(column="engagements_7d")),
        model_bundle(scorer=FactorizationScorer(), factors=factor_table()),
        model_bundle(scorer=BoostedScorer(boosted.spec, boosted.content, (0, 3))),
        model_bundle(scorer=boosted, factors=factor_table()),
        model_bundle(scorer=linear_scorer()),
        model_bundle(scorer=value_scorer()),
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a bundle with trees and factors."""
    path = tmp_path_factory.mktemp("bundle") / "saved"
    model_bundle(scorer=boosted_scorer(), factors=factor_table()).save(path)
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def directory(saved: dict[str, bytes], tmp_path: Path) -> Path:
    return _written(saved, tmp_path / "bundle")


def _written(files: dict[str, bytes], path: Path) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize("bundle", _bundles(), ids=lambda bundle: bundle.kind)
def test_loaded_bundle_is_the_saved_one(bundle: ModelBundle, tmp_path: Path) -> None:
    loaded = ModelBundle.load(bundle.save(tmp_path / "bundle"))
    for name in ("tenant", "kind", "spec", "digest", "trained_us", "training_fingerprint"):
        assert getattr(loaded, name) == getattr(bundle, name)
    assert dict(loaded.metrics) == dict(bundle.metrics)
    assert (loaded.factors() is None) == (bundle.factors() is None)
    features = feature_matrix(bundle.spec, 300, 9)
    scores = bundle.scorer().score(features), loaded.scorer().score(features)
    assert scores[0].tobytes() == scores[1].tobytes()
    assert manifest_digest(tmp_path / "bundle") == bundle.digest


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    one, two = (
        model_bundle(scorer=boosted_scorer(), factors=factor_table()).save(tmp_path / name)
        for name in ("one", "two")
    )
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()
    again = ModelBundle.load(one).save(tmp_path / "again")
    assert manifest_digest(again) == manifest_digest(one)


def test_digest_tells_models_apart() -> None:
    assert model_bundle(seed=1).digest != model_bundle(seed=2).digest


def test_saving_over_something_is_refused_and_leaves_no_draft(tmp_path: Path) -> None:
    model_bundle().save(tmp_path / "bundle")
    with pytest.raises(FileExistsError, match="exists already"):
        model_bundle(seed=2).save(tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert ModelBundle.load(tmp_path / "bundle").digest == model_bundle().digest


def test_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        model_bundle().save(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["manifest.json", "golden.npz", "ranker.ubj", "factors.npz"])
@pytest.mark.parametrize("damage", ["gone", "truncated", "flipped", "empty", "longer", "link"])
def test_damaged_file_is_named(
    directory: Path, saved: dict[str, bytes], name: str, damage: str
) -> None:
    path, content = directory / name, bytearray(saved[name])
    content[len(content) // 2] ^= 1
    path.unlink()
    if damage == "link":
        other = directory.parent / "other"
        other.write_bytes(saved[name])
        path.symlink_to(other)
    elif damage != "gone":
        path.write_bytes(
            {
                "truncated": saved[name][:-1],
                "flipped": bytes(content),
                "empty": b"",
                "longer": saved[name] + b"\0",
            }[damage]
        )
    expected = r"manifest\.json|SHA-256" if name == "manifest.json" else name.replace(".", r"\.")
    with pytest.raises(BundleDamaged, match=expected) as raised:
        ModelBundle.load(directory)
    assert "fetch the bundle again" in str(raised.value)


@given(data=st.data())
def test_any_flipped_byte_of_a_model_file_is_refused(
    data: st.DataObject, saved: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    name = data.draw(st.sampled_from(["golden.npz", "ranker.ubj", "factors.npz"]))
    content = bytearray(saved[name])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    directory = tmp_path_factory.mktemp("flipped") / "bundle"
    with pytest.raises(BundleDamaged, match=name):
        ModelBundle.load(_written({**saved, name: bytes(content)}, directory))


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, os.mkfifo], ids=["file", "dir", "fifo"])
def test_extra_entry_is_refused(directory: Path, make: Callable[[Path], None]) -> None:
    make(directory / "code.py")
    with pytest.raises(BundleDamaged, match=r"'code\.py' is in the directory and not in"):
        ModelBundle.load(directory)


def test_pipe_in_place_of_a_file_does_not_block(directory: Path) -> None:
    (directory / "golden.npz").unlink()
    os.mkfifo(directory / "golden.npz")
    with pytest.raises(BundleDamaged, match=r"golden\.npz is not a regular file"):
        ModelBundle.load(directory)


@given(data=st.data())
def test_any_flipped_byte_of_the_manifest_is_refused_by_the_digest(
    data: st.DataObject, saved: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    digest = hashlib.sha256(saved["manifest.json"]).hexdigest()
    content = bytearray(saved["manifest.json"])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    directory = tmp_path_factory.mktemp("flipped") / "bundle"
    _written({**saved, "manifest.json": bytes(content)}, directory)
    with pytest.raises(BundleDamaged, match=r"manifest\.json"):
        ModelBundle.load(directory, digest=digest)


def test_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleDamaged, match=r"nowhere/manifest\.json cannot be read"):
        ModelBundle.load(tmp_path / "nowhere")


def _rewrite(directory: Path, **changes: object) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


ENTRY = {"bytes": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format_version": 2}, "format version 2, this code reads version 1"),
        ({"format_version": "1"}, "Expected `int`"),
        ({"kind": "pickle"}, "Invalid enum value 'pickle'"),
        ({"tenant": "../acme"}, "is not a tenant id"),
        ({"trained_at": "9999-01-01T00:00:00"}, "lies outside"),
        ({"code": "import os"}, "unknown field `code`"),
        ({"spec": {"names": ["age_hours"]}}, "no feature 'age_hours'"),
        ({"spec": {"names": ["age_h"]}}, "trained on"),
        ({"parameters": {"iterations": [0, 99]}}, "has 5 rounds"),
        ({"kind": "popularity"}, r"names 'ranker\.ubj', which no bundle has"),
        ({"files": {}}, r"does not name golden\.npz, ranker\.ubj"),
        ({"metrics": {"ndcg": "NaN"}}, "Expected `float`"),
    ],
)
def test_manifest_that_cannot_be_is_refused(
    directory: Path, changes: dict[str, object], said: str
) -> None:
    _rewrite(directory, **changes)
    with pytest.raises(BundleDamaged, match=said):
        ModelBundle.load(directory)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b", "..", "", "x.py"])
def test_foreign_file_name_is_refused(directory: Path, name: str) -> None:
    files = json.loads((directory / "manifest.json").read_text())["files"]
    _rewrite(directory, files=files | {name: ENTRY})
    with pytest.raises(BundleDamaged, match="which no bundle has"):
        ModelBundle.load(directory)


@pytest.mark.parametrize("nested", [b"[" * 100_000, b'{"a":' * 50_000])
def test_deeply_nested_manifest_is_refused(directory: Path, nested: bytes) -> None:
    (directory / "manifest.json").write_bytes(nested)
    with pytest.raises(BundleDamaged, match=r"manifest\.json"):
        ModelBundle.load(directory)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (BundleLimits(manifest_bytes_max=100), r"manifest\.json has \d+ bytes, at most 100"),
        (BundleLimits(file_bytes_max=100), r"(golden|factors)\.npz has|ranker\.ubj has"),
        (BundleLimits(golden_rows_max=5), "golden_rows_max is 5"),
        (BundleLimits(dimensions_max=3), "dimensions_max is 3"),
    ],
)
def test_oversize_is_refused_by_the_limit(directory: Path, limits: BundleLimits, said: str) -> None:
    with pytest.raises(BundleDamaged, match=said):
        ModelBundle.load(directory, limits)


def test_other_scores_than_in_training_are_refused(tmp_path: Path) -> None:
    bundle = model_bundle()
    scores = bundle._scored["scores"]
    bundle._scored["scores"] = np.nextafter(scores, np.float32(np.inf))
    with pytest.raises(BundleDamaged, match="other scores than it had in training"):
        ModelBundle.load(bundle.save(tmp_path / "bundle"))


def _made(golden: FeatureMatrix, **metrics: float) -> ModelBundle:
    return ModelBundle(
        ACME,
        RecencyScorer(),
        golden,
        trained_us=T0_US,
        training_fingerprint="",
        metrics=metrics,
    )


@pytest.mark.parametrize(
    ("golden", "metric", "said"),
    [
        (feature_matrix(FeatureSpec(("tag_count",)), 5, 1), 0.0, "other columns"),
        (feature_matrix(RecencyScorer().spec, 0, 1), 0.0, "has 0 rows"),
        (feature_matrix(RecencyScorer().spec, 1_001, 1), 0.0, "golden_rows_max is 1000"),
        (FeatureMatrix(("age_h",), np.zeros((3, 1))), 0.0, "not float32"),
        (feature_matrix(RecencyScorer().spec, 5, 1), float("nan"), "leave out ndcg"),
    ],
)
def test_what_could_not_be_loaded_is_not_made(
    golden: FeatureMatrix, metric: float, said: str
) -> None:
    with pytest.raises(RankingError, match=said):
        _made(golden, ndcg=metric)


def test_scorer_of_another_kind_cannot_be_bundled() -> None:
    class Mine(RecencyScorer):
        pass

    class Other:
        name = "other"
        spec = FeatureSpec(("age_h",))

        def score(self, features: FeatureMatrix) -> np.ndarray:
            return features.values[:, 0]

    for scorer, name in ((Mine(), "Mine"), (Other(), "Other")):
        with pytest.raises(RankingError, match=f"type {name} cannot be bundled: use one of Rec"):
            model_bundle(scorer=scorer)


def test_factorization_without_factors_is_refused() -> None:
    with pytest.raises(RankingError, match="needs its factors"):
        model_bundle(scorer=FactorizationScorer())
