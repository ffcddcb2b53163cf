"""Keep a small model of this release for those to come: `scripts/keep_bundle.py DIRECTORY`.

Made once a release, for `tests/upgrade`: `events.json`, what a small community did, `bundle/`, a
model whose golden slate is the features of its activities, `heads/`, one with a head for each kind
of engagement, and `slates.json`, what both show by the default config. Every later release must
compute the same features, scores and slates, bit for bit, or raise FEATURES_VERSION.
"""

from pathlib import Path
from typing import Annotated, TypeVar, get_args

import msgspec
import numpy as np
import typer
import xgboost

from feeds.events import ENGAGEMENT_KINDS, Event, Posted
from feeds.model import TenantId, position_of
from ranking.bundle import ModelBundle
from ranking.candidates import FeedKind
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.scorers.base import Scorer
from ranking.scorers.boosted import BoostedScorer
from ranking.scorers.factorization import Embeddings, FactorTable
from ranking.testing import T0_US, engaged, posted, shown
from ranking.testing_models import (
    COMMUNITY_NOW_US,
    community_features,
    community_slate,
    value_scorer,
)

Name = TypeVar("Name", str, bytes)

SEED = 20_200
POSTS = 60
IMPRESSIONS = 400
ENGAGED_SHARE = 0.6
READERS = ("me", "eve", "bob", "joe", "zoe")
AUTHORS = ("user:ann", "user:carl", "user:dora", "user:emil")
TAGS = ("art", "music", "science", "sport", "travel")
HOUR_US = 3_600 * 1_000_000
DIMENSIONS = 6
TREES = 12


def main(directory: Annotated[Path, typer.Argument(help="A new directory.")]) -> None:
    """Write the events, and the model that was trained on them."""
    events = community()
    directory.mkdir()
    (directory / "events.json").write_bytes(msgspec.json.encode(events) + b"\n")
    table = factors(events)
    features = community_features(events, FeatureSpec(), table)
    heads = value_scorer()
    bundles = {
        "bundle": bundled(trained(features), features, table),
        "heads": bundled(heads, community_features(events, heads.spec, table), None),
    }
    for name, bundle in bundles.items():
        bundle.save(directory / name)
    shown = {name: slates(events, bundle) for name, bundle in bundles.items()}
    (directory / "slates.json").write_bytes(msgspec.json.encode(shown) + b"\n")


def bundled(scorer: Scorer, golden: FeatureMatrix, factors: FactorTable | None) -> ModelBundle:
    """A model of the community."""
    return ModelBundle(
        TenantId("acme"),
        scorer,
        golden,
        factors=factors,
        trained_us=COMMUNITY_NOW_US,
        training_fingerprint="a small community",
        metrics={"ndcg_at_10": 0.5},
    )


def slates(events: list[Event], bundle: ModelBundle) -> dict[str, list[tuple[str, float, float]]]:
    """Activity, score and propensity of each place, by feed."""
    return {
        kind: [
            (place.activity_id, place.score, place.propensity)
            for place in community_slate(events, bundle, kind).ranked
        ]
        for kind in get_args(FeedKind)
    }


def community() -> list[Event]:
    """Posts over 40 days, and who saw them and did what, in order of time."""
    draws = np.random.default_rng(SEED)
    posts = [
        posted(
            f"post-{number}",
            T0_US + int(draws.integers(0, 39 * 24)) * HOUR_US,
            actor=str(draws.choice(AUTHORS)),
            tags=sorted({str(tag) for tag in draws.choice(TAGS, int(draws.integers(0, 4)))}),
            length=int(draws.integers(5, 3_000)),
        )
        for number in range(POSTS)
    ]
    events: list[Event] = list(posts)
    for _ in range(IMPRESSIONS):
        post, reader = posts[int(draws.integers(POSTS))], str(draws.choice(READERS))
        at_us = int(draws.integers(post.time_us, COMMUNITY_NOW_US))
        events.append(shown(post, reader, at_us))
        if draws.random() < ENGAGED_SHARE:
            kind = ENGAGEMENT_KINDS[int(draws.integers(len(ENGAGEMENT_KINDS)))]
            events.append(engaged(post, reader, at_us + 1_000_000, kind))
    return sorted(events, key=lambda event: event.time_us)


def factors(events: list[Event]) -> FactorTable:
    """Noise for every reader, activity and tag."""
    draws = np.random.default_rng(SEED + 1)
    ids = [event.activity_id for event in events if isinstance(event, Posted)]

    def embeddings(names: list[Name]) -> Embeddings[Name]:
        vectors = draws.normal(size=(len(names), DIMENSIONS)).astype(np.float32)
        return Embeddings(names, vectors, draws.normal(size=len(names)).astype(np.float32))

    return FactorTable(
        embeddings(list(READERS)),
        embeddings([position_of(each) for each in ids[:40]]),
        embeddings(list(TAGS)),
    )


def trained(features: FeatureMatrix) -> BoostedScorer:
    """A few trees that learnt noise."""
    labels = np.random.default_rng(SEED + 2).random(len(features))
    data = xgboost.DMatrix(features.values, labels, feature_names=list(features.names))
    booster = xgboost.train({"max_depth": 4, "nthread": 1, "seed": 1}, data, TREES)
    return BoostedScorer(FeatureSpec(features.names), bytes(booster.save_raw("ubj")))


if __name__ == "__main__":
    typer.run(main)
