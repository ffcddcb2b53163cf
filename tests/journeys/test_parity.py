"""What training sees of a request is, bit for bit, what serving sees at the same moment."""

import asyncio
import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from feeds.actions import Action, Engage, Follow, Post, Remove, Show, Unfollow
from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.events import Posted
from feeds.export import export
from feeds.importer import replay as import_actions
from feeds.model import ActivityDraft, ActivityId, TenantId, UserId, identify
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.scorers.factorization import FactorTable
from serving.activity_table import ActivityTables
from serving.cursors import SlateStore
from serving.follows import HeldFollows
from serving.reader import FeedReader
from serving.settings import load_settings
from serving.telemetry import Metrics
from serving.testing import HeldModel, HeldModels
from training.config import FactorizationConfig, RequestConfig
from training.event_log import EventLog, read_event_log
from training.replay import Answerable, replay
from training.requests import Request, find_requests
from training.steps import FEATURE_NAMES
from training.testing import community, events_of, log_of
from training.trainers.factorization import factorize, interactions_until

ACME = TenantId("acme")
SPEC = FeatureSpec(FEATURE_NAMES)
SECOND_US = 1_000_000
USERS = tuple(f"u{number}" for number in range(8))

Rows = dict[str, bytes]
"""The candidates, and the bits of each one's features."""


@dataclass(frozen=True)
class FreshestScorer:
    """A model that reads every feature."""

    spec: FeatureSpec = SPEC
    name: str = "freshest"

    def score(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        return -features.column("age_h")


@dataclass(frozen=True)
class Moment:
    """What serving saw at a time; `index` is the last of the log then."""

    user: str
    now_us: int
    index: int
    rows: Rows


def lively(seed: int) -> list[Action]:
    """The made-up community, and everything else that an app can do to its feeds."""
    random = np.random.default_rng(seed)
    actions: list[Action] = []
    posts: list[Post] = []
    for action in community(seed, users=len(USERS), days=7):
        actions.append(action)
        if isinstance(action, Post):
            posts.append(action)
            continue
        if isinstance(action, Engage):
            posted = posts[int(random.integers(len(posts)))]
            recent = posts[-1 - int(random.integers(min(len(posts), 12)))]
            user = USERS[int(random.integers(len(USERS)))]
            found = extras(action.time_us, user, posted, recent)
            actions += found[int(random.integers(len(found)))]
    return actions


def extras(time_us: int, user: str, posted: Post, recent: Post) -> list[tuple[Action, ...]]:
    later, timeline, author = time_us + SECOND_US, f"timeline:{user}", recent.feed
    return [
        (Remove(time_us=later, activity_id=id_of(posted)),),
        (Unfollow(time_us=later, follower=timeline, target=author, keep_history=True),),
        (Unfollow(time_us=later, follower=timeline, target=author),),
        (note(later, to=(timeline, "topic:t1")),),  # a mention
        (put_into(posted, "topic:late"),),
        (Follow(time_us=later, follower=timeline, target="topic:late", copy_limit=2),),
        (
            note(later, to=tuple(f"topic:x{number}" for number in range(10))),
            Follow(time_us=later, follower=timeline, target="topic:x9"),
        ),
        (Engage(time_us=later, user=user, activity_id=id_of(recent), kind="hide"),),
        (posted,),  # once more; where it was removed, anew
        tuple(
            Show(time_us=later, user=user, activity_id=id_of(shown), position=place)
            for place, shown in enumerate((posted, recent))
        ),
    ]


def note(time_us: int, to: tuple[str, ...]) -> Post:
    return Post(
        time_us=time_us,
        feed="user:zoe",
        actor="user:zoe",
        verb="post",
        object=f"note:{time_us}",
        foreign_id=f"note:{time_us}",
        to=to,
        custom={"tags": ["t1", "note"]},
    )


def put_into(posted: Post, feed: str) -> Post:
    return msgspec.structs.replace(posted, to=(feed, *posted.to))


def id_of(posted: Post) -> ActivityId:
    draft = ActivityDraft(
        actor=posted.actor, verb=posted.verb, object=posted.object, foreign_id=posted.foreign_id
    )
    return identify(draft, posted.time_us)


class Live:
    """The serving side over an engine, at a clock that the test moves."""

    def __init__(self, directory: Path, config: FeedsConfig, factors: FactorTable) -> None:
        self.now_us = 0
        self.engine = FeedEngine.open(directory, config, clock=lambda: self.now_us)
        self.engine.create_tenant(ACME).result()
        self._settings = load_settings(data_dir=directory, deadline_ms=60_000)
        self._models = HeldModels()
        self._models.held[ACME] = HeldModel("1", FreshestScorer(), factors)
        self._reader = self.begin()

    def begin(self) -> FeedReader:
        """A reader as after a start: the activity table is yet to be loaded from the store."""
        metrics = Metrics()
        tables = ActivityTables(
            self.engine, metrics, tables_max=2, capacity=1_000, backlog_max=10_000
        )
        follows = HeldFollows(self.engine, 1_000)
        slates, clock_us = SlateStore(lambda: 0.0, 10, 60), lambda: self.now_us
        self._reader = FeedReader(
            self.engine, tables, follows, self._models, slates, self._settings, metrics, clock_us
        )
        return self._reader

    async def see(self, user: str, now_us: int) -> Moment:
        """What the reader gives a user's personalized feed to the model."""
        self.now_us = now_us
        query = self._reader._query(ACME, UserId(user), "personalized", 1_000)
        slate = await self._reader._rank(query, self._reader._sources(query), explain=True)
        assert slate.degraded is None
        assert slate.explanation is not None
        rows = {
            str(one.activity_id): bits([one.features[name] for name in FEATURE_NAMES])
            for one in slate.explanation.activities
        }
        return Moment(user, now_us, self.engine.applied_index(), rows)


def bits(values: Sequence[float] | npt.NDArray[np.float32]) -> bytes:
    return np.array(values, np.float32).tobytes()


async def live_moments(live: Live, actions: Sequence[Action], restart_every: int) -> list[Moment]:
    """A look before each time that someone is shown or touches something, and one by another."""
    moments: list[Moment] = []
    for number, (time_us, group) in enumerate(groupby(actions, key=lambda each: each.time_us)):
        together = list(group)
        if number % restart_every == 0:
            live.begin()
        if engaged := {each.user for each in together if isinstance(each, Engage | Show)}:
            users = sorted(engaged | {USERS[number % len(USERS)]})
            moments += [await live.see(user, time_us - 1) for user in users]
        live.now_us = time_us
        import_actions(live.engine, ACME, together)
    return moments


def rows_of(answer: Answerable, log: EventLog) -> Rows:
    posted = {
        index: event.activity_id
        for index, event in zip(log.indexes, log.events, strict=True)
        if isinstance(event, Posted)
    }
    ids = [str(posted[index]) for index in answer.activities.tolist()]
    return dict(zip(ids, map(bits, answer.features.values), strict=True))


def request_of(moment: Moment, log: EventLog) -> Request:
    place = bisect.bisect_right(log.indexes, moment.index)
    return Request(UserId(moment.user), moment.now_us + 1, place, 0)


def learnt_factors(actions: Sequence[Action]) -> FactorTable:
    known = [each for each in actions if isinstance(each, Post | Engage | Follow)]
    log = log_of(events_of(known[: len(known) // 2]))
    found = interactions_until(log, log.events[-1].time_us, ("like",))
    return factorize(found, FactorizationConfig(dimensions=5, epochs=2), 1)


@pytest.mark.parametrize(
    ("pull_followers_min", "restart_every"),
    [(1, 10**9), (10**9, 10**9), (1, 9)],
    ids=["feeds merged", "feeds pushed", "service restarted"],
)
def test_replay_gives_the_candidates_and_features_that_serving_gave(
    tmp_path: Path, pull_followers_min: int, restart_every: int
) -> None:
    actions = lively(seed=5)
    factors = learnt_factors(actions)
    live = Live(tmp_path / "data", FeedsConfig(pull_followers_min=pull_followers_min), factors)
    with live.engine:
        moments = asyncio.run(live_moments(live, actions, restart_every))
        export(live.engine, ACME, tmp_path / "events")
    log = read_event_log(tmp_path / "events", ACME)

    requests = [request_of(moment, log) for moment in moments]
    answers = replay(log, requests, SPEC, RequestConfig(), factors)
    for moment, answer in zip(moments, answers, strict=True):
        assert differences(moment.rows, rows_of(answer, log)) == []

    seen = {(moment.user, moment.now_us): moment.index for moment in moments}
    for request in find_requests(log.events, RequestConfig()):
        assert log.indexes[request.place] > seen[request.user, request.now_us]
        assert log.indexes[request.place - 1] <= seen[request.user, request.now_us]
    assert any(len(moment.rows) > 20 for moment in moments)


def differences(served: Rows, replayed: Rows) -> list[str]:
    """What differs, for reading."""
    found = [f"{one} is only served" for one in served.keys() - replayed.keys()]
    found += [f"{one} is only replayed" for one in replayed.keys() - served.keys()]
    for one in served.keys() & replayed.keys():
        ours, theirs = (np.frombuffer(rows[one], np.uint32) for rows in (served, replayed))
        found += [
            f"{one} {FEATURE_NAMES[place]}: {ours.view(np.float32)[place]} served, "
            f"{theirs.view(np.float32)[place]} replayed"
            for place in np.flatnonzero(ours != theirs)
        ]
    return found
