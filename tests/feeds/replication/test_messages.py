"""Messages between nodes: they come back as they were sent; any other bytes are refused."""

import pickle
import tracemalloc
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.errors import InvalidInput
from feeds.replication.messages import (
    AppendEntries,
    AppendReply,
    Forward,
    ForwardReply,
    JoinAsk,
    JoinTold,
    Message,
    Outdated,
    RequestVote,
    TimeoutNow,
    VoteReply,
    decode_message,
    encode_message,
)

numbers = st.integers(0, 2**63 - 1)
outcomes = st.sampled_from(["ok", "no_leader", "overloaded", "full", "unknown", "limit", "stopped"])
entries = st.lists(st.tuples(numbers, st.binary(max_size=30)), max_size=5)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(AppendEntries, *[numbers] * 6, entries),
    st.builds(AppendReply, numbers, numbers, st.booleans(), numbers, numbers),
    st.builds(RequestVote, numbers, numbers, numbers, st.booleans()),
    st.builds(VoteReply, numbers, st.booleans(), st.booleans()),
    st.builds(TimeoutNow, numbers),
    st.builds(Forward, numbers, st.binary(max_size=30)),
    st.builds(
        ForwardReply,
        numbers,
        outcomes,
        numbers,
        st.binary(max_size=30),
        st.text(max_size=30),
        st.floats(0, 3600),
    ),
    st.builds(JoinAsk),
    st.builds(JoinTold, numbers, numbers),
    st.builds(Outdated, numbers, numbers),
)


@given(messages)
def test_message_comes_back(message: Message) -> None:
    assert message == decode_message(encode_message(message))


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_a_message(data: bytes) -> None:
    with suppress(InvalidInput):
        assert decode_message(encode_message(decode_message(data))) == decode_message(data)


@given(messages, st.data())
def test_altered_message_is_refused_or_another_message(
    message: Message, choices: st.DataObject
) -> None:
    """Whatever it says then is within the same bounds; a checksum is the transport's business."""
    data = bytearray(encode_message(message))
    for _ in range(choices.draw(st.integers(1, 3))):
        place = choices.draw(st.integers(0, len(data) - 1))
        match choices.draw(st.sampled_from(["flip", "cut", "insert", "double"])):
            case "flip":
                data[place] ^= choices.draw(st.integers(1, 255))
            case "cut" if len(data) > 1:
                del data[place]
            case "insert":
                data.insert(place, choices.draw(st.integers(0, 255)))
            case _:
                data += data[place:]
    with suppress(InvalidInput):
        found = decode_message(bytes(data))
        assert isinstance(found, Message)
        assert found == decode_message(encode_message(found))


@given(messages, st.data())
def test_part_of_a_message_is_none(message: Message, choices: st.DataObject) -> None:
    data = encode_message(message)
    with pytest.raises(InvalidInput, match="not a message between nodes"):
        decode_message(data[: choices.draw(st.integers(0, len(data) - 1))])


@given(messages, st.binary(min_size=1, max_size=20))
def test_message_with_something_behind_it_is_none(message: Message, rest: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_message(encode_message(message) + rest)


@given(messages, st.integers(max_value=-1) | st.integers(min_value=2**63))
def test_number_out_of_its_bounds_is_refused(message: Message, number: int) -> None:
    fields = msgspec.structs.asdict(message)
    for name, value in fields.items():
        if type(value) is int and -(2**63) <= number < 2**64:
            wrong = msgspec.structs.replace(message, **{name: number})
            with pytest.raises(InvalidInput):
                decode_message(encode_message(wrong))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        pickle.dumps({"type": "append_entries", "term": 7}),
        b"\x93" * 100_000,  # nested deeper than any message
        b"\xdd\xff\xff\xff\xff",  # a list of 4 billion
        b"\xc6\xff\xff\xff\xff" + b"x" * 100,  # bytes, 4 billion of them
        msgspec.msgpack.encode(["append", 1, 1, 1, 1, 1, 1, [[1, "text"]]]),
        msgspec.msgpack.encode(["append", 1, 1, 1, 1, 1, 1, [[-1, b""]]]),
        msgspec.msgpack.encode(["forwarded", 1, "won", 1]),
        msgspec.msgpack.encode(["forwarded", 1, "ok", 1, b"", "", float("nan")]),
        msgspec.msgpack.encode(["forwarded", 1, "ok", 1, b"", "", 1e9]),
        msgspec.msgpack.encode(["dance", 1]),
        msgspec.msgpack.encode({"term": 1}),
        msgspec.msgpack.encode([1, 2, 3]),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="not a message between nodes"):
        decode_message(data)


@pytest.mark.parametrize(
    "head",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x98\xa6append\x01\x01\x01\x01\x01\x01\xdd\xff\xff\xff\xff",
        b"\x93\xa7forward\x01\xc6\xff\xff\xff\xff",
    ],
)
def test_announced_sizes_cost_no_more_than_the_bytes_that_came(head: bytes) -> None:
    tracemalloc.start()
    try:
        for size in (0, 1_000, 100_000):
            with pytest.raises(InvalidInput):
                decode_message(head + b"\x01" * size)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000
