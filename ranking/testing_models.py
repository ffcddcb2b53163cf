"""What tests of models share: small models, and what every registry must pass."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import pytest

from feeds.counters import HOUR_US
from feeds.events import Event
from feeds.model import TenantId
from ranking.bundle import ModelBundle
from ranking.candidates import FeedKind
from ranking.config import RankingConfig
from ranking.documents import DOCUMENT_BYTES_MAX, DOCUMENTS_MAX
from ranking.errors import AliasConflict, BundleDamaged, ModelNotFound, RankingError
from ranking.features import FeatureMatrix, FeatureSpec, build
from ranking.pipeline import build_ranker, build_sources
from ranking.registry import ModelRegistry, ModelVersion
from ranking.scorers.base import Scorer
from ranking.scorers.boosted import BoostedScorer
from ranking.scorers.calibration import Isotonic, Platt
from ranking.scorers.factorization import Embeddings, FactorTable
from ranking.scorers.linear import LinearScorer
from ranking.scorers.recency import RecencyScorer
from ranking.scorers.value import Head, ValueScorer
from ranking.slates import Slate
from ranking.sources import propose
from ranking.testing import (
    T0_US,
    Recorded,
    all_candidates,
    feature_matrix,
    follows,
    query,
    table_of,
)

__all__ = [
    "ACME",
    "COMMUNITY_NOW_US",
    "RegistryContract",
    "boosted_scorer",
    "community_features",
    "community_slate",
    "factor_table",
    "linear_scorer",
    "model_bundle",
    "value_scorer",
]

ACME = TenantId("acme")

COMMUNITY_NOW_US = T0_US + 40 * 24 * 3_600 * 1_000_000
"""When the community of a past release's golden slate is looked at."""

Name = TypeVar("Name", str, bytes)


def boosted_scorer(
    spec: FeatureSpec | None = None, seed: int = 1, rounds: int = 5, depth: int = 3
) -> BoostedScorer:
    """A scorer of `rounds` trees that learnt noise."""
    import xgboost  # noqa: PLC0415  (slow: only for the tests that need trees)

    spec = FeatureSpec() if spec is None else spec
    features = feature_matrix(spec, 200, seed)
    labels = np.random.default_rng(seed).random(200)
    matrix = xgboost.DMatrix(features.values, labels, feature_names=list(spec.names))
    parameters = {"max_depth": depth, "nthread": 1, "seed": seed}
    booster = xgboost.train(parameters, matrix, num_boost_round=rounds)
    return BoostedScorer(spec, bytes(booster.save_raw("ubj")))


def linear_scorer(spec: FeatureSpec | None = None, seed: int = 1) -> LinearScorer:
    """A scorer with coefficients that are noise."""
    spec = FeatureSpec() if spec is None else spec
    coefficients, missing = np.random.default_rng(seed).normal(size=(2, len(spec.names)))
    return LinearScorer(spec, coefficients, missing, bias=0.25)


def value_scorer() -> ValueScorer:
    """Heads of each kind: trees and coefficients, each calibration, columns of their own."""
    names = ("age_h", "tag_count", "engagements_total", "user_author_rate")
    first, last = FeatureSpec(names[:3]), FeatureSpec(names[1:])
    heads = [
        Head("like", boosted_scorer(first), Platt(2.0, -1.0)),
        Head("hide", boosted_scorer(last, seed=2)),
        Head("share", boosted_scorer(last, seed=3), Isotonic((0.45, 0.5, 0.55), (0.0, 0.2, 1.0))),
        Head("comment", linear_scorer(last), Isotonic((-3.0, 0.0, 3.0), (0.0, 0.3, 0.4))),
        Head("click", linear_scorer(first, seed=2)),
    ]
    weights = {"like": 1.0, "hide": -20.0, "share": 2.5, "comment": 2.0, "report": 3.0}
    return ValueScorer(heads, weights)


def factor_table(
    users: int = 4, activities: int = 6, tags: int = 3, dimensions: int = 5, seed: int = 1
) -> FactorTable:
    """Noise for users `user-0`, activities at positions 0, 1, 2 and tags `tag-0`, and so on."""
    draws = np.random.default_rng(seed)

    def embeddings(names: list[Name]) -> Embeddings[Name]:
        factors = draws.normal(size=(len(names), dimensions)).astype(np.float32)
        return Embeddings(names, factors, draws.normal(size=len(names)).astype(np.float32))

    return FactorTable(
        embeddings([f"user-{number}" for number in range(users)]),
        embeddings([number.to_bytes(16) for number in range(activities)]),
        embeddings([f"tag-{number}" for number in range(tags)]),
    )


def model_bundle(
    tenant: TenantId = ACME,
    scorer: Scorer | None = None,
    *,
    seed: int = 1,
    factors: FactorTable | None = None,
) -> ModelBundle:
    """A bundle, by recency unless told otherwise; other seeds give other golden slates."""
    scorer = RecencyScorer() if scorer is None else scorer
    return ModelBundle(
        tenant,
        scorer,
        feature_matrix(scorer.spec, 20, seed),
        factors=factors,
        trained_us=T0_US,
        training_fingerprint=f"set-{seed}",
        metrics={"ndcg_at_10": 0.25, "requests": 20.0},
    )


def community_features(
    events: Sequence[Event], spec: FeatureSpec, factors: FactorTable | None
) -> FeatureMatrix:
    """The features of all activities for the user `me`, who follows two, after 40 days.

    The golden slates of past releases were made so (`scripts/keep_bundle.py`): it stays as it is.
    """
    table = table_of(events)
    asked = query(
        COMMUNITY_NOW_US,
        record=Recorded.of(events).users["me"],
        follows=follows("user:ann", "user:carl"),
    )
    return build(spec, asked, all_candidates(table), table, factors)


def community_slate(events: Sequence[Event], bundle: ModelBundle, kind: FeedKind) -> Slate:
    """What `me` of the community is shown of one feed, by the default config.

    The golden slates of past releases were made so: it stays as it is.
    """
    table = table_of(events)
    asked = query(
        COMMUNITY_NOW_US,
        kind=kind,
        limit=25,
        seed=20_200,
        record=Recorded.of(events).users["me"],
        follows=follows("user:ann", "user:carl"),
    )
    config, factors = RankingConfig.default(), bundle.factors()
    candidates = propose(build_sources(config, kind, factors), asked, table)
    ranker = build_ranker(config, kind, bundle.scorer(), factors=factors)
    return ranker.rank(asked, candidates, table)


class RegistryContract:
    """What training, the loader and the command line rely on, of any `ModelRegistry`."""

    def open_registry(self, directory: Path, clock: Callable[[], int]) -> ModelRegistry:
        """A registry in a directory of its own; opened again, it holds what it held."""
        raise NotImplementedError

    @pytest.fixture
    def registry(self, tmp_path: Path) -> Iterator[ModelRegistry]:
        """The registry under test."""
        registry = self.open_registry(tmp_path / "registry", lambda: T0_US)
        yield registry
        registry.close()

    @staticmethod
    def _publish(registry: ModelRegistry, tmp_path: Path, seed: int = 1) -> ModelVersion:
        directory = tmp_path / f"bundle-{seed}"
        if not directory.exists():
            model_bundle(seed=seed).save(directory)
        return registry.publish(ACME, directory, f"notes {seed}")

    def test_published_version_is_listed_with_its_notes_and_metrics(
        self, registry: ModelRegistry, tmp_path: Path
    ) -> None:
        """All that `models show` prints."""
        version = self._publish(registry, tmp_path)
        assert registry.versions(ACME) == [version]
        assert version == ModelVersion(
            tenant=ACME,
            version=1,
            kind="recency",
            digest=model_bundle().digest,
            published_us=T0_US,
            notes="notes 1",
            metrics={"ndcg_at_10": 0.25, "requests": 20.0},
        )

    def test_versions_are_numbered_and_listed_newest_first(
        self, registry: ModelRegistry, tmp_path: Path
    ) -> None:
        """Publishing the same bundle again gives a version of its own."""
        published = [self._publish(registry, tmp_path, seed) for seed in (1, 2, 1)]
        assert [each.version for each in published] == [1, 2, 3]
        assert registry.versions(ACME) == published[::-1]

    def test_tenant_without_versions_has_no_versions_and_no_alias(
        self, registry: ModelRegistry
    ) -> None:
        """Looking at an unknown tenant is no error."""
        assert registry.tenants() == []
        assert registry.versions(ACME) == []
        assert registry.alias(ACME, "live") is None

    def test_publishing_moves_no_alias(self, registry: ModelRegistry, tmp_path: Path) -> None:
        """Only promoting does."""
        self._publish(registry, tmp_path)
        assert registry.alias(ACME, "live") is None
        assert registry.tenants() == [ACME]
        assert registry.aliases() == {ACME: {}}

    def test_promoted_version_is_live_and_the_former_one_previous(
        self, registry: ModelRegistry, tmp_path: Path
    ) -> None:
        """And rolling back exchanges them, also twice."""
        first, second = (self._publish(registry, tmp_path, seed) for seed in (1, 2))
        assert registry.promote(ACME, 1) == first
        assert registry.alias(ACME, "previous") is None
        assert registry.promote(ACME, 2) == second
        assert self._aliases(registry) == (second, first)
        assert registry.aliases() == {ACME: {"live": 2, "previous": 1}}
        assert registry.roll_back(ACME) == first
        assert self._aliases(registry) == (first, second)
        assert registry.roll_back(ACME) == second

    def test_promoting_the_live_version_keeps_the_previous_one(
        self, registry: ModelRegistry, tmp_path: Path
    ) -> None:
        """A repeated command does no harm."""
        first, second = (self._publish(registry, tmp_path, seed) for seed in (1, 2))
        for version in (1, 2, 2):
            registry.promote(ACME, version)
        assert self._aliases(registry) == (second, first)

    def test_promotion_fails_where_another_version_is_live_than_expected(
        self, registry: ModelRegistry, tmp_path: Path
    ) -> None:
        """0 expects that none is live; nothing moves."""
        first, _ = (self._publish(registry, tmp_path, seed) for seed in (1, 2))
        with pytest.raises(AliasConflict, match="none is live"):
            registry.promote(ACME, 1, expected=2)
        registry.promote(ACME, 1, expected=0)
        with pytest.raises(AliasConflict, match="version 1 is live"):
            registry.promote(ACME, 2, expected=0)
        assert self._aliases(registry) == (first, None)

    def test_of_many_who_expect_the_same_one_promotes(
        self, registry: ModelRegistry, tmp_path: Path
    ) -> None:
        """Compare and set is one step."""
        for seed in range(1, 5):
            self._publish(registry, tmp_path, seed)

        def promote(version: int) -> int:
            try:
                return registry.promote(ACME, version, expected=0).version
            except AliasConflict:
                return 0

        with ThreadPoolExecutor(4) as threads:
            promoted = [version for version in threads.map(promote, range(1, 5)) if version]
        live = registry.alias(ACME, "live")
        assert live is not None
        assert promoted == [live.version]

    def test_unknown_version_is_not_promoted(self, registry: ModelRegistry, tmp_path: Path) -> None:
        """The message lists what there is."""
        self._publish(registry, tmp_path)
        with pytest.raises(ModelNotFound, match=r"no version 7.*1"):
            registry.promote(ACME, 7)
        with pytest.raises(ModelNotFound, match="no previous version"):
            registry.roll_back(ACME)

    def test_version_is_put_on_trial_beside_the_live_one_until_the_trial_ends(
        self, registry: ModelRegistry, tmp_path: Path
    ) -> None:
        """`live` and `previous` stay where they are."""
        first, second = (self._publish(registry, tmp_path, seed) for seed in (1, 2))
        registry.promote(ACME, 1)
        for version in (first, second, second):
            assert registry.set_shadow(ACME, version.version) == version
            assert registry.alias(ACME, "shadow") == version
        assert registry.aliases() == {ACME: {"live": 1, "shadow": 2}}
        with pytest.raises(ModelNotFound, match="no version 9"):
            registry.set_shadow(ACME, 9)
        assert registry.alias(ACME, "shadow") == second
        for _ in range(2):
            assert registry.set_shadow(ACME, None) is None
            assert registry.alias(ACME, "shadow") is None
        assert self._aliases(registry) == (first, None)

    def test_fetched_bundle_is_the_published_one(
        self, registry: ModelRegistry, tmp_path: Path
    ) -> None:
        """Also after the published directory is gone."""
        version = self._publish(registry, tmp_path)
        (tmp_path / "bundle-1").rename(tmp_path / "moved")
        path = registry.fetch(version, tmp_path / "fetched")
        assert path == tmp_path / "fetched"
        assert ModelBundle.load(path).digest == version.digest
        with pytest.raises(FileExistsError):
            registry.fetch(version, tmp_path / "fetched")

    def test_version_with_another_digest_is_not_fetched(
        self, registry: ModelRegistry, tmp_path: Path
    ) -> None:
        """Nothing is left behind."""
        version = self._publish(registry, tmp_path)
        other = ModelVersion(
            tenant=ACME, version=1, kind="recency", digest="0" * 64, published_us=T0_US
        )
        with pytest.raises(BundleDamaged, match="another bundle"):
            registry.fetch(other, tmp_path / "fetched")
        gone = ModelVersion(
            tenant=ACME, version=9, kind="recency", digest=version.digest, published_us=T0_US
        )
        with pytest.raises(ModelNotFound):
            registry.fetch(gone, tmp_path / "fetched")
        assert not (tmp_path / "fetched").exists()

    def test_documents_travel_with_their_version(
        self, registry: ModelRegistry, tmp_path: Path
    ) -> None:
        """Also those that are attached later; of one name the last counts."""
        documents = {"report.json": b"{}", "MODEL_CARD.md": b"# \xc3\xa4"}
        bundle = model_bundle().save(tmp_path / "bundle")
        version = registry.publish(ACME, bundle, documents=documents)
        assert registry.documents(version) == documents
        bare = registry.publish(ACME, bundle)
        assert registry.documents(bare) == {}
        registry.attach(bare, {"gates.json": b"1"})
        registry.attach(bare, {"gates.json": b"2", "drift.json": b"3"})
        assert registry.documents(bare) == {"gates.json": b"2", "drift.json": b"3"}
        assert registry.documents(version) == documents
        assert {path.name for path in registry.fetch(bare, tmp_path / "fetched").iterdir()} == {
            "manifest.json",
            "golden.npz",
        }

    def test_what_is_no_document_is_neither_published_nor_attached(
        self, registry: ModelRegistry, tmp_path: Path
    ) -> None:
        """A name is a file's name, and nothing grows without a limit."""
        bundle = model_bundle().save(tmp_path / "bundle")
        with pytest.raises(RankingError, match=r"'\.\./x' is no name"):
            registry.publish(ACME, bundle, documents={"../x": b""})
        assert registry.versions(ACME) == []
        version = registry.publish(ACME, bundle)
        with pytest.raises(RankingError, match="is no name"):
            registry.attach(version, {".hidden": b""})
        with pytest.raises(RankingError, match=r"large has \d+ bytes"):
            registry.attach(version, {"large": bytes(DOCUMENT_BYTES_MAX + 1)})
        registry.attach(version, {f"d{number}": b"" for number in range(DOCUMENTS_MAX)})
        with pytest.raises(RankingError, match=f"at most {DOCUMENTS_MAX} documents"):
            registry.attach(version, {"one-more": b""})
        gone = msgspec.structs.replace(version, version=9)
        for look in (registry.documents, lambda of: registry.attach(of, {"a": b""})):
            with pytest.raises(ModelNotFound, match="no version 9"):
                look(gone)

    def test_policy_is_by_hand_until_it_is_set(
        self, registry: ModelRegistry, tmp_path: Path
    ) -> None:
        """Of one tenant alone, with or without a version, and for whoever opens it next."""
        assert registry.policy(ACME) == "by_hand"
        registry.set_policy(ACME, "gated")
        self._publish(registry, tmp_path)
        again = self.open_registry(tmp_path / "registry", lambda: T0_US)
        assert again.policy(ACME) == "gated"
        assert again.policy(TenantId("other")) == "by_hand"
        assert again.tenants() == [ACME]
        again.set_policy(ACME, "by_hand")
        again.close()
        assert registry.policy(ACME) == "by_hand"

    def test_time_of_training_is_kept_by_the_hour_for_a_day(
        self, registry: ModelRegistry, tmp_path: Path
    ) -> None:
        """Of one tenant alone, with or without a version, and for whoever opens it next."""
        assert registry.trained_hours(ACME) == {}
        assert registry.all_trained_hours() == {}
        registry.add_trained(ACME, 5 * HOUR_US, 30)
        self._publish(registry, tmp_path)
        again = self.open_registry(tmp_path / "registry", lambda: T0_US)
        again.add_trained(ACME, 5 * HOUR_US + 1, 12.5)
        again.add_trained(ACME, 28 * HOUR_US, 1)
        assert again.policy(ACME) == "by_hand"
        again.close()
        assert registry.trained_hours(ACME) == {5: 42.5, 28: 1.0}
        assert registry.trained_hours(TenantId("other")) == {}
        registry.add_trained(ACME, 29 * HOUR_US, 2)
        assert registry.all_trained_hours() == {ACME: {28: 1.0, 29: 2.0}}
        assert registry.tenants() == [ACME]

    def test_damaged_or_foreign_bundle_is_not_published(
        self, registry: ModelRegistry, tmp_path: Path
    ) -> None:
        """The registry holds what can be loaded, under the tenant it was trained for."""
        model_bundle(TenantId("other")).save(tmp_path / "foreign")
        with pytest.raises(RankingError, match="belongs to tenant other"):
            registry.publish(ACME, tmp_path / "foreign")
        (tmp_path / "foreign" / "golden.npz").unlink()
        with pytest.raises(BundleDamaged, match=r"golden\.npz"):
            registry.publish(TenantId("other"), tmp_path / "foreign")
        assert registry.tenants() == []

    def test_opened_again_it_holds_what_it_held(
        self, registry: ModelRegistry, tmp_path: Path
    ) -> None:
        """Another process sees the same."""
        version = self._publish(registry, tmp_path)
        registry.promote(ACME, 1)
        again = self.open_registry(tmp_path / "registry", lambda: T0_US + 1)
        assert again.versions(ACME) == [version]
        assert again.alias(ACME, "live") == version
        again.close()

    def test_tenants_do_not_see_each_other(self, registry: ModelRegistry, tmp_path: Path) -> None:
        """Numbers start at 1 for each."""
        other = TenantId("acme2")
        self._publish(registry, tmp_path)
        model_bundle(other).save(tmp_path / "other")
        assert registry.publish(other, tmp_path / "other").version == 1
        registry.promote(other, 1)
        assert registry.alias(ACME, "live") is None
        assert registry.tenants() == [ACME, other]

    def test_polling_an_alias_leaks_no_handles(
        self, registry: ModelRegistry, tmp_path: Path
    ) -> None:
        """The loader asks every two seconds for years."""
        self._publish(registry, tmp_path)
        registry.promote(ACME, 1)
        handles = Path("/proc/self/fd")
        registry.alias(ACME, "live")
        before = len(list(handles.iterdir()))
        for _ in range(50):
            registry.alias(ACME, "live")
        assert len(list(handles.iterdir())) <= before

    @staticmethod
    def _aliases(registry: ModelRegistry) -> tuple[ModelVersion | None, ModelVersion | None]:
        return registry.alias(ACME, "live"), registry.alias(ACME, "previous")
