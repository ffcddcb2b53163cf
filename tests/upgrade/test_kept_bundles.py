"""A model of each past release is loaded and scores as it did, bit for bit, or is refused clearly.

`bundle-0.2.0` was made by `scripts/keep_bundle.py` with that release: what a small community did,
and a model whose golden slate holds the features of its activities.
"""

import json
import shutil
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest

from feeds.events import Event
from ranking.bundle import ModelBundle
from ranking.candidates import FeedKind
from ranking.errors import BundleDamaged
from ranking.features import FEATURES_VERSION
from ranking.testing_models import community_features, community_slate

KEPT = sorted(Path(__file__).parent.glob("bundle-*"))


def features_version(kept: Path) -> int:
    """Of the release that made the bundle."""
    manifest = json.loads((kept / "bundle" / "manifest.json").read_text())
    version: int = manifest["spec"]["version"]
    return version


def with_features_version(kept: Path, version: int, directory: Path) -> Path:
    """The bundle as a release with another version of the features had made it."""
    bundle = Path(shutil.copytree(kept / "bundle", directory / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["spec"]["version"] = version
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


@pytest.fixture(params=KEPT, ids=lambda path: path.name)
def kept(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_there_is_one() -> None:
    assert KEPT


def test_it_scores_as_it_did_or_says_that_features_have_changed(kept: Path) -> None:
    if features_version(kept) != FEATURES_VERSION:
        with pytest.raises(BundleDamaged, match="train the model again"):
            ModelBundle.load(kept / "bundle")
        return
    bundle = ModelBundle.load(kept / "bundle")
    with np.load(kept / "bundle" / "golden.npz") as golden:
        scores = golden["scores"]
    assert bundle.scorer().score(bundle.golden).tobytes() == scores.tobytes()
    assert len(np.unique(scores)) > 20


@pytest.mark.parametrize("kind", get_args(FeedKind))
@pytest.mark.parametrize("model", ["bundle", "heads"])
def test_it_shows_the_slate_that_it_showed(kept: Path, model: str, kind: FeedKind) -> None:
    """By the default config, from sources to chance; scores and propensities bit for bit.

    Where this fails, an update changes what users see: if it shall, the changelog says so, and
    `slates.json` is made anew.
    """
    if features_version(kept) != FEATURES_VERSION:
        return
    events = msgspec.json.decode((kept / "events.json").read_bytes(), type=list[Event])
    slate = community_slate(events, ModelBundle.load(kept / model), kind)
    shown = [[place.activity_id, place.score, place.propensity] for place in slate.ranked]
    assert shown == json.loads((kept / "slates.json").read_bytes())[model][kind]
    assert len(shown) > 10


def test_its_features_are_computed_as_they_were(kept: Path) -> None:
    """Where this fails, a feature is computed otherwise: FEATURES_VERSION has to rise."""
    if features_version(kept) != FEATURES_VERSION:
        return
    bundle = ModelBundle.load(kept / "bundle")
    events = msgspec.json.decode((kept / "events.json").read_bytes(), type=list[Event])
    features = community_features(events, bundle.spec, bundle.factors())
    differing = [
        name
        for name in bundle.spec.names
        if features.column(name).tobytes() != bundle.golden.column(name).tobytes()
    ]
    assert differing == []
    empty = [name for name in bundle.spec.names if np.isnan(features.column(name)).all()]
    assert len(empty) < 3, empty


@pytest.mark.parametrize("version", [FEATURES_VERSION - 1, FEATURES_VERSION + 1])
def test_model_over_other_features_is_refused_in_a_sentence(
    kept: Path, version: int, tmp_path: Path
) -> None:
    bundle = with_features_version(kept, version, tmp_path)
    with pytest.raises(BundleDamaged) as refused:
        ModelBundle.load(bundle)
    assert (
        f"the feature spec is of version {version}, this code computes version {FEATURES_VERSION}: "
        "train the model again"
    ) in str(refused.value)
