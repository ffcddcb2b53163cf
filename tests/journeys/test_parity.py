"""What training sees of a request is, bit for bit, what serving sees at the same moment."""

import asyncio
import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import orjson
import pytest

from feeds.actions import Action, Engage, Follow, Post, Remove, Show, Unfollow
from feeds.config import FeedsConfig
from feeds.events import Posted
from feeds.export import export
from feeds.importer import replay as import_actions
from feeds.model import ActivityDraft, ActivityId, TenantId, UserId, identify
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.scorers.factorization import FactorTable
from ranking.sources import CANDIDATES_MAX
from serving.compose import compose
from serving.settings import load_settings
from serving.testing import HeldModel, HeldModels
from training.asof.answers import features_as_of
from training.asof.case import Questions
from training.config import RequestConfig
from training.events.columns import columns_of
from training.events.log import EventLog, read_event_log
from training.factors import fit_factors, interactions_until
from training.sets.replay import Answerable, replay
from training.sets.requests import Request, find_requests
from training.steps import FEATURE_NAMES
from training.testing import community, events_of, log_of
from training.trainers.factorization import FactorizationTrainer

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
    """A service on a data directory, at a clock that the test moves."""

    def __init__(self, directory: Path, feeds: FeedsConfig, factors: FactorTable) -> None:
        self.now_us = 0
        self._feeds = feeds
        self._settings = load_settings(
            data_dir=directory, deadline_ms=60_000, slate_size_max=CANDIDATES_MAX
        )
        self._models = HeldModels()
        self._models.held[ACME] = HeldModel("1", FreshestScorer(), factors)

    async def start(self) -> None:
        """As the process does; the activity table is loaded from the store."""
        self.services = compose(self._settings, self._feeds, self._models)
        self.services.engine.create_tenant(ACME).result()
        await self.services.start()
        self._reader = replace(self.services.reader, clock_us=lambda: self.now_us)

    async def see(self, user: str, now_us: int) -> Moment:
        """What stands in a user's personalized feed, and what the model read of it."""
        self.now_us = now_us
        page = await self._reader.read(
            ACME, UserId(user), "personalized", limit=CANDIDATES_MAX, explain=True
        )
        read = orjson.loads(page.content)
        assert read["degraded"] is None
        assert page.next is None
        rows = {
            one["activity_id"]: bits([nan_of(one["features"][name]) for name in FEATURE_NAMES])
            for one in read["explanation"]["activities"]
        }
        return Moment(user, now_us, self.services.engine.applied_index(), rows)


def bits(values: Sequence[float] | npt.NDArray[np.float32]) -> bytes:
    return np.array(values, np.float32).tobytes()


def nan_of(number: float | None) -> float:
    """JSON has no NaN; a float32 comes out of it as it went in."""
    return float("nan") if number is None else number


async def live_moments(
    live: Live, actions: Sequence[Action], restart_every: int, out: Path
) -> list[Moment]:
    """A look before each time that someone is shown or touches something, and one by another.

    In the end everything is exported to `out`.
    """
    moments: list[Moment] = []
    await live.start()
    for number, (time_us, group) in enumerate(groupby(actions, key=lambda each: each.time_us), 1):
        together = list(group)
        if number % restart_every == 0:
            await live.services.stop()
            await live.start()
        if engaged := {each.user for each in together if isinstance(each, Engage | Show)}:
            users = sorted(engaged | {USERS[number % len(USERS)]})
            moments += [await live.see(user, time_us - 1) for user in users]
        import_actions(live.services.engine, ACME, together)
    export(live.services.engine, ACME, out)
    await live.services.stop()
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
    return fit_factors(FactorizationTrainer(dimensions=5, epochs=2), found, 5, seed=1)


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
    moments = asyncio.run(live_moments(live, actions, restart_every, tmp_path / "events"))
    log = read_event_log(tmp_path / "events", ACME)

    requests = [request_of(moment, log) for moment in moments]
    answers = replay(log, requests, SPEC, RequestConfig(), factors)
    for moment, answer in zip(moments, answers, strict=True):
        assert differences(moment.rows, rows_of(answer, log)) == []

    assert asked_at_once(moments, log, factors) > len(moments)
    seen = {(moment.user, moment.now_us): moment.index for moment in moments}
    for request in find_requests(log.events, RequestConfig()):
        assert log.indexes[request.place] > seen[request.user, request.now_us]
        assert log.indexes[request.place - 1] <= seen[request.user, request.now_us]
    assert any(len(moment.rows) > 20 for moment in moments)


def asked_at_once(moments: Sequence[Moment], log: EventLog, factors: FactorTable) -> int:
    """Compare what was served with features as of all moments together; how many were compared."""
    columns = columns_of(log)
    users = {name: number for number, name in enumerate(columns.users)}
    activities = {name: number for number, name in enumerate(columns.activities)}
    asked = [
        (moment, request_of(moment, log).place, one)
        for moment in moments
        for one in moment.rows
        if moment.user in users and one in activities
    ]
    questions = Questions(
        np.array([place for _, place, _ in asked], np.int64),
        np.array([moment.now_us for moment, _, _ in asked], np.int64),
        np.array([users[moment.user] for moment, _, _ in asked], np.int32),
        np.array([activities[one] for _, _, one in asked], np.int32),
    )
    rows, features = features_as_of(columns, questions, SPEC, RequestConfig().table_rows, factors)
    assert rows.tolist() == list(range(len(asked)))
    for (moment, _, one), values in zip(asked, features.values, strict=True):
        served = {one: moment.rows[one]}
        assert differences(served, {one: bits(values)}) == []
    return len(asked)


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
