"""Universal Binary JSON: what XGBoost writes is read, what is damaged is refused."""

import json
from contextlib import suppress
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xgboost import Booster

from ranking.scorers.ubj import DamagedUbj, read
from ranking.testing_models import boosted_scorer


def plain(value: object) -> object:
    """The same with lists for columns."""
    match value:
        case dict():
            return {key: plain(one) for key, one in value.items()}
        case list():
            return [plain(one) for one in value]
        case np.ndarray():
            return [float(one) for one in value]
    return value


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"{}", {}),
        (b"{i\x01aSU\x02hi}", {"a": "hi"}),
        (b"{L\0\0\0\0\0\0\0\1ai\xff}", {"a": -1}),
        (b"[]", []),
        (b"[TFZ]", [True, False, None]),
        (b"[#i\x02U\xffI\x01\x00", [255, 256]),
        (b"[l\0\0\0\1L\0\0\0\0\0\0\0\2]", [1, 2]),
        (b"[d\x3f\x00\x00\x00D\x3f\xe0\0\0\0\0\0\0]", [0.5, 0.5]),
        (b"[$d#i\x01\x3f\x00\x00\x00", [0.5]),
        (b"[$l#i\x00", []),
        (b"{i\x01a[$U#i\x02\x01\xffi\x01b[#i\x00}", {"a": [1, 255], "b": []}),
    ],
)
def test_value_is_read(content: bytes, value: object) -> None:
    assert value == plain(read(content))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[",
        b"?",
        b"{i\x01a",
        b"{i\x02a",
        b"{d\x3f\x00\x00\x00",
        b"{i\xff}",
        b"Si\x05hi",
        b"Si\x01\xff",
        b"[$d#i\x02\x3f\x00\x00\x00",
        b"[$S#i\x01a",
        b"[$d$i\x01",
        b"[#L\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"[$L#L\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"[" * 100_000,
        b"{i\x00" * 100_000,
        b"[#i\x01" * 100_000,
    ],
)
def test_damage_is_refused(content: bytes) -> None:
    with pytest.raises(DamagedUbj):
        read(content)


def test_model_says_the_same_as_its_json() -> None:
    booster = Booster(model_file=bytearray(boosted_scorer(rounds=3).content))
    told = json.loads(booster.save_raw("json"))
    found = plain(read(bytes(booster.save_raw("ubj"))))
    assert rounded(told) == rounded(found)


def rounded(value: object) -> object:
    """Numbers as float32, which is what XGBoost keeps."""
    match value:
        case dict():
            return {key: rounded(one) for key, one in value.items()}
        case list():
            return [rounded(one) for one in value]
        case bool() | str() | None:
            return value
        case int() | float():
            return float(np.float32(value))
    raise AssertionError(value)


@given(st.binary(max_size=60), st.integers(0, 2_000), st.booleans())
def test_any_bytes_are_read_or_refused(noise: bytes, at: int, short: bool) -> None:
    whole = model()
    content = whole[:at] if short else whole[:at] + noise + whole[at + len(noise) :]
    for damaged in (noise, content):
        with suppress(DamagedUbj):
            read(damaged)


@lru_cache(maxsize=1)
def model() -> bytes:
    return boosted_scorer(rounds=1, depth=2).content
