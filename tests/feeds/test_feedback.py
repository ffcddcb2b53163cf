"""What users say of authors, tags and activities: bounds, the last word, older records."""

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.config import FeedsConfig
from feeds.counters import UserRecord
from feeds.engine import FeedEngine
from feeds.errors import InvalidInput, LimitExceeded
from feeds.events import Engagement, FeedbackGiven, FeedbackKind
from feeds.model import ActivityDraft, ActivityId, FeedId, TenantId, UserId, position_of
from feeds.opinions import MARKS_MAX, Opinions
from feeds.testing_engine import NOW_US, check_counters, logged_events, memory_engine

DEMO = TenantId("demo")
BOB = UserId("bob")
KINDS: tuple[FeedbackKind, ...] = ("mute", "unmute", "show_more", "show_less")
UNKNOWN = ActivityId("87a9eec0-fd5f-11e8-8080-80013fed2f5b")


@pytest.fixture
def engine() -> Iterator[FeedEngine]:
    with memory_engine(FeedsConfig(muted_max=2)) as engine:
        yield engine


def said(kind: FeedbackKind, time_us: int = NOW_US, **about: object) -> FeedbackGiven:
    fields = {"time_us": time_us, "user": BOB, "kind": kind} | about
    return FeedbackGiven(**fields)  # type: ignore[arg-type]


def post(engine: FeedEngine, name: str, *tags: str) -> ActivityId:
    draft = ActivityDraft(
        actor="user:ann", verb="post", object=name, custom={"tags": list(tags)} if tags else {}
    )
    return engine.post(DEMO, FeedId("user", "ann"), draft).result().activity.id


def record(engine: FeedEngine) -> UserRecord:
    return engine.user_record(DEMO, BOB)


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from("abc"), st.integers(0, 9))))
def test_the_last_word_of_the_log_holds_whatever_its_time(
    words: list[tuple[FeedbackKind, str, int]],
) -> None:
    opinions = Opinions()
    for kind, name, time_us in words:
        opinions.say(kind, name, time_us)

    for name in "abc":
        mutes = [(k, t) for k, n, t in words if n == name and k in ("mute", "unmute")]
        marks = [(k, t) for k, n, t in words if n == name and k in ("show_more", "show_less")]
        assert opinions.muted.get(name) == next((t for k, t in mutes[-1:] if k == "mute"), None)
        for kind, held in (("show_less", opinions.less), ("show_more", opinions.more)):
            assert held.get(name) == next((t for k, t in marks[-1:] if k == kind), None)


def test_marks_are_bounded_and_the_oldest_leaves() -> None:
    opinions = Opinions()
    for number in range(MARKS_MAX + 1):
        opinions.say("show_less", f"t{number}", 1_000 - number)

    assert len(opinions.less) == MARKS_MAX
    assert f"t{MARKS_MAX - 1}" not in opinions.less
    assert {"t0", f"t{MARKS_MAX}"} <= opinions.less.keys()


def test_a_record_of_release_0_1_has_said_nothing() -> None:
    old = UserRecord({}, {}, {b"p" * 16: 7}, {}, {b"q" * 16: 8}, 3, 4)
    data = msgspec.msgpack.encode(msgspec.msgpack.decode(msgspec.msgpack.encode(old))[:7])

    read = msgspec.msgpack.decode(data, type=UserRecord)

    assert read == old
    assert (read.of_authors, read.of_tags) == (Opinions(), Opinions())


def test_what_was_said_is_in_the_record_and_in_the_log(engine: FeedEngine) -> None:
    engine.give_feedback(DEMO, said("mute", actor="user:eve")).result()
    engine.give_feedback(DEMO, said("show_less", tags=("noise",))).result()
    engine.give_feedback(DEMO, said("show_more", actor="user:ann")).result()

    assert record(engine).of_authors == Opinions({"user:eve": NOW_US}, {}, {"user:ann": NOW_US})
    assert record(engine).of_tags == Opinions({}, {"noise": NOW_US})
    assert [event.kind for event in logged_events(engine, DEMO) if isinstance(event, FeedbackGiven)]
    check_counters(engine, DEMO)


def test_more_or_less_of_an_activity_is_of_its_tags_or_else_of_its_author(
    engine: FeedEngine,
) -> None:
    tagged, plain = post(engine, "a", "gate", "noise"), post(engine, "b")

    engine.give_feedback(DEMO, said("show_less", activity_id=tagged)).result()
    engine.give_feedback(DEMO, said("show_more", activity_id=plain)).result()

    assert record(engine).of_tags.less.keys() == {"gate", "noise"}
    assert record(engine).of_authors == Opinions(more={"user:ann": NOW_US})
    check_counters(engine, DEMO)


def test_an_unknown_activity_is_named_and_nothing_is_changed(engine: FeedEngine) -> None:
    result = engine.give_feedback(DEMO, said("show_less", activity_id=UNKNOWN)).result()

    assert (result.recorded, result.unknown) == (0, (UNKNOWN,))
    assert record(engine) == UserRecord.empty()
    assert logged_events(engine, DEMO) == []


def test_what_was_hidden_comes_back(engine: FeedEngine) -> None:
    activity = post(engine, "a")
    hide = Engagement(time_us=NOW_US, user=BOB, activity_id=activity, kind="hide")
    engine.record(DEMO, [hide]).result()
    assert record(engine).hidden == {position_of(activity): NOW_US}

    engine.give_feedback(DEMO, said("unhide", activity_id=activity)).result()

    assert record(engine).hidden == {}
    check_counters(engine, DEMO)


def test_a_mute_beyond_the_limit_is_refused_and_takes_nothing_back(engine: FeedEngine) -> None:
    for name in ("user:a", "user:b"):
        engine.give_feedback(DEMO, said("mute", actor=name)).result()
    engine.give_feedback(DEMO, said("mute", actor="user:a")).result()

    with pytest.raises(LimitExceeded, match="bob has muted 2 authors, which is muted_max"):
        engine.give_feedback(DEMO, said("mute", actor="user:c")).result()
    engine.give_feedback(DEMO, said("mute", tags=("noise",))).result()
    engine.give_feedback(DEMO, said("unmute", actor="user:a")).result()
    engine.give_feedback(DEMO, said("mute", actor="user:c")).result()

    assert record(engine).of_authors.muted.keys() == {"user:b", "user:c"}
    check_counters(engine, DEMO)


def test_a_repeat_with_its_key_takes_effect_once(engine: FeedEngine) -> None:
    engine.give_feedback(DEMO, said("mute", actor="user:a"), "k").result()
    engine.give_feedback(DEMO, said("unmute", actor="user:a")).result()

    again = engine.give_feedback(DEMO, said("mute", actor="user:a"), "k").result()

    assert again.duplicate
    assert record(engine).of_authors.muted == {}


@pytest.mark.parametrize(
    "wrong",
    [
        said("mute", user="no user"),
        said("mute", actor="x" * 1_025),
        said("mute", actor="\ud800"),
        said("mute", tags=("x" * 256,)),
        said("mute", tags=("\ud800",)),
        said("mute", tags=("x",) * 33),
        said("unhide", activity_id="none"),
        said("mute", time_us=-1),
    ],
)
def test_what_cannot_be_is_never_logged(engine: FeedEngine, wrong: FeedbackGiven) -> None:
    with pytest.raises(InvalidInput):
        engine.give_feedback(DEMO, wrong)
    assert logged_events(engine, DEMO) == []
