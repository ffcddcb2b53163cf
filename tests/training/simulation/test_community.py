"""A community keeps what every log must: posts before reads, and nothing that no slate showed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from feeds.actions import Follow, Post
from feeds.events import Engagement, Followed, Impression, Posted
from feeds.model import ActivityId, UserId
from ranking.candidates import FeedKind
from training.simulation.community import Community, Visit
from training.simulation.config import SimulationConfig
from training.simulation.judge import Judge
from training.simulation.platform import LocalPlatform, ServedSlate
from training.simulation.policy import default_arms

CONFIG = SimulationConfig(users=30, days=3, explore_share=0.3, topics=4)
ARMS = default_arms()


@dataclass
class Recorded:
    """A platform that remembers what it was asked and answered."""

    local: LocalPlatform
    slates: dict[str, ServedSlate] = field(default_factory=dict)

    def begin(self, evening_us: int) -> None:
        self.local.begin(evening_us)

    def post(self, post: Post) -> ActivityId:
        return self.local.post(post)

    def follow(self, follow: Follow) -> None:
        self.local.follow(follow)

    def read(self, user: UserId, kind: FeedKind, now_us: int, places: int) -> ServedSlate:
        slate = self.local.read(user, kind, now_us, places)
        assert slate.slate_id not in self.slates
        self.slates[slate.slate_id] = slate
        return slate

    def record(self, events: Sequence[Impression | Engagement]) -> None:
        self.local.record(events)


@dataclass
class Lived:
    """A community after its days."""

    platform: Recorded
    community: Community
    visits: list[Visit]
    judge: Judge

    @classmethod
    def of(cls, config: SimulationConfig) -> "Lived":
        platform = Recorded(LocalPlatform(ARMS[0]))
        community = Community(config, platform)
        judge = Judge(community.truth, platform.local, ARMS, ARMS[0])
        visits: list[Visit] = []

        def watch(visit: Visit) -> None:
            visits.append(visit)
            judge.watch(visit)

        community.watch = watch
        for _ in range(config.days):
            community.step()
        return cls(platform, community, visits, judge)


@pytest.fixture(scope="module")
def lived() -> Lived:
    return Lived.of(CONFIG)


def test_the_same_seed_gives_the_same_events_and_another_seed_others(lived: Lived) -> None:
    again = Lived.of(CONFIG)
    assert lived.platform.local.log().fingerprint == again.platform.local.log().fingerprint
    assert [v.values for v in lived.judge.visits] == [v.values for v in again.judge.visits]
    other = Lived.of(replace(CONFIG, seed=1))
    assert lived.platform.local.log().fingerprint != other.platform.local.log().fingerprint


def test_every_impression_is_a_place_of_a_served_slate_and_every_place_is_one(
    lived: Lived,
) -> None:
    shown = Counter(
        (event.slate_id, event.position, event.activity_id)
        for event in lived.platform.local.events
        if isinstance(event, Impression)
    )
    served = Counter(
        (slate.slate_id, place, activity)
        for slate in lived.platform.slates.values()
        for place, activity in enumerate(slate.activities)
    )
    assert served == shown
    assert len(served) > 100


def test_every_engagement_follows_its_impression_by_the_same_member(lived: Lived) -> None:
    shown: dict[tuple[str, str, int], str] = {}
    engagements = 0
    for event in lived.platform.local.events:
        if isinstance(event, Impression):
            shown[event.slate_id, event.user, event.position] = event.activity_id
        elif isinstance(event, Engagement):
            assert shown[event.slate_id, event.user, event.position] == event.activity_id
            engagements += 1
    assert engagements > 10


def test_nobody_is_shown_what_is_not_yet_posted_or_was_dealt_with(lived: Lived) -> None:
    for visit in lived.visits:
        assert (visit.activities.time_us[visit.numbers] < visit.now_us).all()
        assert not visit.passed[visit.numbers].any()
        assert len(set(visit.numbers.tolist())) == len(visit.numbers)


def test_what_is_watched_is_what_is_recorded(lived: Lived) -> None:
    values = CONFIG.values
    recorded = sum(
        values.get(event.kind, 0.0)
        for event in lived.platform.local.events
        if isinstance(event, Engagement)
    )
    assert sum(visit.rewards.sum() for visit in lived.visits) == pytest.approx(recorded)


def test_members_follow_authors_alone_and_nobody_twice_or_oneself(lived: Lived) -> None:
    authors = {f"user:u{number}" for number in lived.community.truth.members.authors}
    edges = [
        (event.follower, event.target)
        for event in lived.platform.local.events
        if isinstance(event, Followed)
    ]
    assert len(edges) == len(set(edges)) > 30
    for follower, target in edges:
        assert target in authors
        assert follower.partition(":")[2] != target.partition(":")[2]


def test_a_day_s_posts_come_in_order_and_in_the_day_before_its_evening(lived: Lived) -> None:
    times = [event.time_us for event in lived.platform.local.events if isinstance(event, Posted)]
    assert times == sorted(times)
    assert len(times) == len(lived.community.activities)


def test_a_follow_graph_with_attachment_is_more_unequal_than_one_without() -> None:
    def most_followed(power: float) -> int:
        config = SimulationConfig(users=200, days=1, attachment=power, visits_per_day=0)
        platform = LocalPlatform(ARMS[0])
        Community(config, platform).step()
        targets = Counter(e.target for e in platform.events if isinstance(e, Followed))
        return max(targets.values())

    assert most_followed(1.5) > most_followed(0)


def test_no_slate_is_worth_more_than_the_optimum(lived: Lived) -> None:
    for visit in lived.judge.visits:
        assert visit.served <= visit.optimum + 1e-9
        for value in visit.values.values():
            assert value <= visit.optimum + 1e-9


def test_what_was_served_is_worth_what_its_arm_is_on_average(lived: Lived) -> None:
    served = np.array([visit.served for visit in lived.judge.visits])
    expected = np.array([visit.values[ARMS[0].name] for visit in lived.judge.visits])
    error = (served - expected).std() / np.sqrt(len(served))
    assert abs(served.mean() - expected.mean()) < 4 * error


def test_what_was_shown_could_be_shown(lived: Lived) -> None:
    for visit in lived.judge.visits:
        assert (visit.logged > 0).all()
        assert (visit.logged <= 1 + 1e-9).all()
