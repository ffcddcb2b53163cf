"""Commands and results come back from their bytes, and nothing else is taken for one."""

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.commands import (
    ActivateVersion,
    AddKey,
    ClearRows,
    Command,
    CreateTenant,
    DeleteTenant,
    FanOut,
    FollowFeed,
    GiveFeedback,
    MoveClock,
    Once,
    PostActivity,
    RecordEvents,
    RemoveActivity,
    RevokeKey,
    RotateKey,
    SaveVersion,
    SetQuotas,
    UnfollowFeed,
    WipeTenant,
    decode_command,
    encode_command,
)
from feeds.errors import FormatUnsupported, InvalidInput
from feeds.events import (
    ENGAGEMENT_KINDS,
    Engagement,
    FeedbackGiven,
    FeedbackKind,
    Impression,
    Posted,
)
from feeds.model import ActivityId, UserId
from feeds.results import (
    Accepted,
    ConfigActivated,
    ConfigSaved,
    Drained,
    FollowResult,
    Placed,
    RecordResult,
    Rejected,
    RemoveResult,
    Result,
    UnfollowResult,
    decode_result,
    encode_result,
)

ints = st.integers(0, 2**62)
texts = st.text(max_size=8)
tuples = st.lists(texts, max_size=3).map(tuple)
once = st.none() | st.builds(
    Once,
    key=texts,
    digest=st.binary(max_size=16),
    now_us=ints,
    expires_us=ints,
    after=st.none() | texts,
)
events = st.builds(
    Impression,
    time_us=ints,
    user=texts,
    activity_id=texts,
    feed=texts,
    position=st.integers(-1, 99),
    slate_id=texts,
) | st.builds(
    Engagement,
    time_us=ints,
    user=texts,
    activity_id=texts,
    kind=st.sampled_from(ENGAGEMENT_KINDS),
    feed=texts,
    position=st.integers(-1, 99),
    slate_id=texts,
    value=st.floats(-1e9, 1e9),
)


def _fields(kind: type[msgspec.Struct]) -> dict[str, st.SearchStrategy[Any]]:
    by_type: dict[Any, st.SearchStrategy[Any]] = {
        str: texts,
        ActivityId: texts,
        int: ints,
        int | None: st.none() | ints,
        bool: st.booleans(),
        bytes: st.binary(max_size=8),
        tuple[str, ...]: tuples,
        Once | None: once,
        dict[str, int | None]: st.dictionaries(texts, st.none() | ints, max_size=3),
        tuple[Impression | Engagement, ...]: st.lists(events, max_size=3).map(tuple),
        FeedbackKind: st.sampled_from(("unhide", "mute", "unmute", "show_more", "accept")),
        UserId: texts,
        FeedbackGiven: st.deferred(lambda: st.builds(FeedbackGiven, **_fields(FeedbackGiven))),
        Posted: st.deferred(lambda: st.builds(Posted, **_fields(Posted))),
    }
    return {field.name: by_type[field.type] for field in msgspec.structs.fields(kind)}


kinds: tuple[type[msgspec.Struct], ...] = (
    CreateTenant,
    DeleteTenant,
    WipeTenant,
    AddKey,
    RotateKey,
    RevokeKey,
    SetQuotas,
    PostActivity,
    RemoveActivity,
    FollowFeed,
    UnfollowFeed,
    ClearRows,
    FanOut,
    MoveClock,
    RecordEvents,
    SaveVersion,
    ActivateVersion,
    GiveFeedback,
)
commands = st.one_of([st.builds(kind, **_fields(kind)) for kind in kinds])
results = st.one_of(
    st.builds(Accepted, ints),
    st.builds(Placed, ints, texts, st.booleans()),
    st.builds(RemoveResult, ints, st.booleans()),
    st.builds(FollowResult, ints, ints),
    st.builds(UnfollowResult, ints, st.booleans(), st.booleans()),
    st.builds(Drained, ints, st.booleans()),
    st.builds(ConfigSaved, ints, ints),
    st.builds(ConfigActivated, ints, ints, st.none() | ints),
    st.builds(RecordResult, ints, ints, tuples, st.booleans()),
    st.builds(
        Rejected,
        st.sampled_from(("invalid", "conflict", "limit", "early", "overloaded", "unknown")),
        texts,
    ),
)


@given(commands)
def test_command_comes_back(command: Command) -> None:
    assert command == decode_command(encode_command(command))


@given(results)
def test_result_comes_back(result: Result) -> None:
    assert result == decode_result(encode_result(result))


@given(commands, st.integers(0, 10_000))
def test_cut_command_is_refused(command: Command, cut: int) -> None:
    data = encode_command(command)
    with pytest.raises(InvalidInput, match="not a command"):
        decode_command(data[: cut % len(data)])


@given(st.binary(max_size=64))
def test_any_bytes_are_a_command_or_refused(data: bytes) -> None:
    with suppress(InvalidInput, FormatUnsupported):
        decode_command(data)


def test_command_of_a_newer_release_is_refused_with_what_to_do() -> None:
    data = encode_command(CreateTenant(tenant="demo", now_us=1))
    with pytest.raises(FormatUnsupported, match=r"command of version 4, .* start the release that"):
        decode_command(b"\x04" + data[1:])


@pytest.mark.parametrize("version", [1, 2])
def test_command_of_an_older_release_is_the_same_command(version: int) -> None:
    command = FanOut(tenant="demo", place="user:a", position=b"p", rows_max=5)
    data = encode_command(command)
    assert command == decode_command(bytes((version,)) + data[1:])


def test_command_with_a_field_of_another_type_is_refused() -> None:
    data = encode_command(CreateTenant(tenant="demo", now_us="now"))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="not a command"):
        decode_command(data)
