"""A value model as a bundle: each head comes back bit for bit, or the bundle is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranking.bundle import ModelBundle
from ranking.errors import BundleDamaged, RankingError
from ranking.scorers.base import Scorer
from ranking.scorers.calibration import Platt
from ranking.scorers.recency import RecencyScorer
from ranking.scorers.value import Head, ValueScorer
from ranking.testing import feature_matrix
from ranking.testing_models import linear_scorer, model_bundle, value_scorer

FILES = ["head-like.ubj", "head-hide.ubj", "head-share.ubj", "head-comment.npz", "head-click.npz"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return model_bundle(scorer=value_scorer()).save(tmp_path / "bundle")


def manifest(directory: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
    return read


def rewrite(directory: Path, changed: dict[str, Any]) -> None:
    (directory / "manifest.json").write_text(json.dumps(changed))


def test_every_head_and_its_calibration_come_back_bit_for_bit(directory: Path) -> None:
    saved, loaded = value_scorer(), ModelBundle.load(directory).scorer()
    assert isinstance(loaded, ValueScorer)
    assert [(head.kind, head.calibration) for head in saved.heads] == [
        (head.kind, head.calibration) for head in loaded.heads
    ]
    assert saved.weights == loaded.weights
    features = feature_matrix(saved.spec, 300, 9)
    expected, found = saved.probabilities(features), loaded.probabilities(features)
    assert {kind: each.tobytes() for kind, each in expected.items()} == {
        kind: each.tobytes() for kind, each in found.items()
    }
    added = saved.contributions(features), loaded.contributions(features)
    assert added[0] is not None
    assert added[1] is not None
    assert added[0].tobytes() == added[1].tobytes()


def test_each_head_has_a_file_of_its_own(directory: Path) -> None:
    found = {path.name for path in directory.iterdir()}
    assert found == {"manifest.json", "golden.npz", *FILES}


@pytest.mark.parametrize("name", FILES)
def test_damaged_file_of_a_head_is_named(directory: Path, name: str) -> None:
    content = bytearray((directory / name).read_bytes())
    content[len(content) // 2] ^= 1
    (directory / name).write_bytes(content)
    with pytest.raises(BundleDamaged, match=name):
        ModelBundle.load(directory)


def test_model_without_heads_has_a_manifest_as_before(tmp_path: Path) -> None:
    saved = manifest(model_bundle(scorer=RecencyScorer()).save(tmp_path / "bundle"))
    assert "heads" not in saved


@pytest.mark.parametrize("place", range(len(FILES)))
def test_golden_slate_holds_every_head_also_one_without_a_weight(
    directory: Path, place: int
) -> None:
    changed = manifest(directory)
    changed["heads"][place]["calibration"] = {"by": "platt", "slope": 1.5, "offset": 0.0}
    rewrite(directory, changed)
    with pytest.raises(BundleDamaged, match="other scores than it had in training"):
        ModelBundle.load(directory)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "../x"}, r"there is no head for '\.\./x': use one of click, like"),
        ({"kind": "click"}, r"does not name head-click\.ubj"),
        ({"scorer": "value"}, "Invalid enum value 'value'"),
        ({"scorer": "forest"}, "Invalid enum value 'forest'"),
        ({"scorer": "linear"}, r"does not name head-like\.npz"),
        ({"columns": ["age_h"]}, r"head-like\.ubj was trained on"),
        ({"columns": ["age"]}, "there is no feature 'age'"),
        ({"parameters": {"iterations": [0, 99]}}, r"head-like\.ubj has 5 rounds"),
        ({"calibration": {"by": "platt", "slope": -1}}, "give a slope above 0"),
        ({"calibration": {"by": "isotonic", "x": [0, 0], "y": [0, 0]}}, "must be finite and rise"),
        ({"calibration": {"by": "guess"}}, "guess"),
        ({"code": "import os"}, "unknown field `code`"),
    ],
)
def test_head_that_cannot_be_is_refused(directory: Path, change: dict[str, Any], said: str) -> None:
    changed = manifest(directory)
    changed["heads"][0] |= change
    rewrite(directory, changed)
    with pytest.raises(BundleDamaged, match=said):
        ModelBundle.load(directory)


def test_value_model_without_heads_is_refused(directory: Path) -> None:
    rewrite(directory, manifest(directory) | {"heads": []})
    with pytest.raises(BundleDamaged, match="which no bundle has"):
        ModelBundle.load(directory)


@pytest.mark.parametrize(
    ("kind", "scorer", "said"),
    [
        ("wave", linear_scorer(), "there is no head for .wave.: use one of"),
        ("like", value_scorer(), "the head for like is itself a value model"),
    ],
)
def test_head_that_could_not_be_loaded_is_not_bundled(kind: str, scorer: Scorer, said: str) -> None:
    with pytest.raises(RankingError, match=said):
        model_bundle(scorer=ValueScorer([Head(kind, scorer, Platt())], {kind: 1.0}))


def test_the_weights_of_training_are_kept(directory: Path) -> None:
    features = feature_matrix(value_scorer().spec, 20, 1)
    expected = value_scorer().score(features)
    assert len(np.unique(expected)) > 10
    assert ModelBundle.load(directory).scorer().score(features).tobytes() == expected.tobytes()
