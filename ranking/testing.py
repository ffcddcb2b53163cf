"""What tests of ranking share: small events, the counters as dicts, and the scorers' contract.

`Recorded` is the memory twin of the engine's counters: it keeps the same records as the store does,
with `feeds.counters`, and loads a table from them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from feeds.counters import CounterRecord, UserRecord, counted_tags, kind_code
from feeds.events import (
    APART_KINDS,
    Engagement,
    EngagementKind,
    Event,
    FeedbackGiven,
    Impression,
    Posted,
    Removed,
)
from feeds.model import FeedId, Follow, TenantId, UserId, activity_id, position_of
from ranking.candidates import NO_FEEDBACK, Candidates, Feedback, FeedKind, Query
from ranking.features import COUNTS, FEATURES, FeatureMatrix, FeatureSpec
from ranking.scorers.base import ExplainingScorer, Scorer
from ranking.table import ActivityTable

__all__ = [
    "T0_US",
    "Recorded",
    "ScorerContract",
    "all_candidates",
    "engaged",
    "feature_matrix",
    "follows",
    "posted",
    "query",
    "shown",
    "table_of",
]

T0_US = 1_520_812_800_000_000
"""A Monday: 2018-03-12T00:00:00 UTC."""


def posted(
    name: str,
    time_us: int = T0_US,
    *,
    actor: str = "user:ann",
    feed: str = "",
    to: Sequence[str] = (),
    tags: Sequence[str] = (),
    length: int = 100,
    about: str | None = None,
) -> Posted:
    """An activity whose id follows from its name and time; its object is its name, or `about`."""
    return Posted(
        time_us=time_us,
        activity_id=activity_id(time_us, name.encode()),
        actor=actor,
        verb="post",
        object=name if about is None else about,
        feed=feed or actor,
        to=tuple(to),
        tags=tuple(tags),
        length=length,
    )


def shown(activity: Posted, user: str, time_us: int) -> Impression:
    """The activity was shown to the user."""
    return Impression(time_us=time_us, user=UserId(user), activity_id=activity.activity_id)


def engaged(activity: Posted, user: str, time_us: int, kind: EngagementKind = "like") -> Engagement:
    """The user engaged with the activity."""
    return Engagement(
        time_us=time_us, user=UserId(user), activity_id=activity.activity_id, kind=kind
    )


def follows(*targets: str, follower: str = "timeline:me", since_us: int = 0) -> dict[str, Follow]:
    """Edges as a query holds them; all of the targets' activities belong to the follower."""
    return {
        target: Follow(FeedId.parse(follower), FeedId.parse(target), since_us or T0_US, 0, since_us)
        for target in targets
    }


def query(
    now_us: int = T0_US,
    *,
    user: str = "me",
    kind: FeedKind = "personalized",
    limit: int = 25,
    seed: int = 7,
    record: UserRecord | None = None,
    follows: Mapping[str, Follow] | None = None,
    excluded: Collection[bytes] = (),
    served: Collection[bytes] = (),
    feedback: Feedback = NO_FEEDBACK,
) -> Query:
    """A request of tenant `acme`."""
    return Query(
        tenant=TenantId("acme"),
        user=UserId(user),
        kind=kind,
        now_us=now_us,
        limit=limit,
        request_id="request-1",
        seed=seed,
        record=record or UserRecord.empty(),
        follows=follows or {},
        excluded=excluded,
        served=served,
        feedback=feedback,
    )


def table_of(events: Iterable[Event], capacity: int = 1000) -> ActivityTable:
    """A table that applied the events, at log indices 1, 2, 3 and so on."""
    table = ActivityTable(capacity)
    for index, event in enumerate(events, start=1):
        table.apply(index, event)
    return table


def all_candidates(table: ActivityTable) -> Candidates:
    """Every activity of the table, newest first, from a source named `test`."""
    rows = table.newest_first(table.alive_rows())
    return Candidates(rows, np.zeros(len(rows), dtype=np.int8), ("test",))


@dataclass(slots=True)
class Recorded:
    """What the engine's store holds after some events: the activities, and the records of names."""

    activities: dict[str, tuple[int, Posted, CounterRecord]] = field(default_factory=dict)
    authors: dict[str, CounterRecord] = field(default_factory=dict)
    tags: dict[str, CounterRecord] = field(default_factory=dict)
    users: dict[str, UserRecord] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Iterable[Event]) -> "Recorded":
        """The records after the events, at log indices 1, 2, 3 and so on."""
        recorded = cls()
        for index, event in enumerate(events, start=1):
            recorded.apply(index, event)
        return recorded

    def apply(self, index: int, event: Event) -> None:
        """Count one event, one record at a time."""
        if isinstance(event, Posted):
            entry = (index, event, CounterRecord.empty())
            self.activities.setdefault(event.activity_id, entry)
        elif isinstance(event, Removed):
            self.activities.pop(event.activity_id, None)
        elif isinstance(event, FeedbackGiven):
            self.users.setdefault(event.user, UserRecord.empty()).give(event)
        elif isinstance(event, Impression | Engagement) and event.activity_id in self.activities:
            self._count(event)

    def _count(self, event: Impression | Engagement) -> None:
        _, activity, record = self.activities[event.activity_id]
        author, tags = activity.actor, counted_tags(activity.tags)
        names = [self.authors.setdefault(author, CounterRecord.empty())]
        names += [self.tags.setdefault(tag, CounterRecord.empty()) for tag in tags]
        for each in (record, *names):
            each.add(kind_code(event), event.time_us)
        if isinstance(event, Engagement) and event.kind not in APART_KINDS:
            record.add_engager(event.user)
        user = self.users.setdefault(event.user, UserRecord.empty())
        user.add(event, position_of(event.activity_id), author, tags)

    def load(self, table: ActivityTable) -> ActivityTable:
        """Load a table from the records, the newest activity first."""
        for index, activity, record in sorted(
            self.activities.values(), key=lambda entry: -entry[0]
        ):
            table.load(index, activity, record)
        for author, record in self.authors.items():
            table.load_author(author, record)
        for tag, record in self.tags.items():
            table.load_tag(tag, record)
        return table


def feature_matrix(spec: FeatureSpec, rows: int, seed: int) -> FeatureMatrix:
    """Features as scorers meet them: numbers of many sizes, a fifth of them missing."""
    draws = np.random.default_rng(seed)
    values = draws.lognormal(0, 2, (rows, len(spec.names))).astype(np.float32)
    values[draws.random(values.shape) < 0.2] = np.nan  # noqa: PLR2004 - a fifth
    return FeatureMatrix(spec.names, values)


class ScorerContract:
    """What every scorer keeps; a test class derives from it and gives `scorer()`."""

    contribution_tolerance = 1e-5
    """How far contributions may add up from the score, relative to scores of 1."""

    def scorer(self) -> Scorer:
        """A scorer that is ready to score."""
        raise NotImplementedError

    def _scored(self, rows: int, seed: int = 1) -> tuple[FeatureMatrix, npt.NDArray[np.float32]]:
        scorer = self.scorer()
        features = feature_matrix(scorer.spec, rows, seed)
        return features, scorer.score(features)

    def test_it_is_a_scorer_with_a_name_and_known_features(self) -> None:
        """The protocol holds, and the spec names features of the registry."""
        scorer = self.scorer()
        assert isinstance(scorer, Scorer)
        assert scorer.name
        assert set(scorer.spec.names) <= {*FEATURES, *COUNTS}

    def test_one_finite_or_missing_score_for_each_row(self) -> None:
        """float32, same length, never an infinity."""
        for rows in (1, 2, 500):
            _, scores = self._scored(rows)
            assert scores.shape == (rows,)
            assert scores.dtype == np.float32
            assert not np.isinf(scores).any()

    def test_a_score_does_not_depend_on_the_other_rows(self) -> None:
        """Bit for bit the same alone, in any order, and beside others."""
        features, scores = self._scored(60)
        scorer = self.scorer()
        backwards = scorer.score(features.take(np.arange(60)[::-1]))
        alone = np.concatenate([scorer.score(features.take(np.array([row]))) for row in range(60)])
        np.testing.assert_array_equal(scores[::-1], backwards)
        np.testing.assert_array_equal(scores, alone)

    def test_scoring_leaves_the_features_as_they_were(self) -> None:
        """A matrix serves several scorers."""
        scorer = self.scorer()
        features = feature_matrix(scorer.spec, 50, 3)
        before = features.values.copy()
        scorer.score(features)[:] = 0
        np.testing.assert_array_equal(before, features.values)

    def test_contributions_add_up_to_the_score(self) -> None:
        """Where the scorer can tell what each feature added."""
        scorer = self.scorer()
        features = feature_matrix(scorer.spec, 50, 4)
        added = scorer.contributions(features) if isinstance(scorer, ExplainingScorer) else None
        if added is None:
            return
        assert added.shape == (50, len(scorer.spec.names) + 1)
        scores = scorer.score(features).astype(np.float64)
        sums = added.astype(np.float64).sum(axis=1)
        np.testing.assert_array_equal(np.isnan(scores), np.isnan(sums))
        scored = ~np.isnan(scores)
        tolerance = self.contribution_tolerance * np.maximum(1, np.abs(scores[scored]))
        assert (np.abs(sums[scored] - scores[scored]) <= tolerance).all()
