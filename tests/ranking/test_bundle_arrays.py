"""Named arrays in a file: the same bytes every time, and nothing believed."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ranking.arrays import ArrayShape, pack_arrays, unpack_arrays
from ranking.errors import BundleDamaged

SHAPES = {"a": ArrayShape("<f4", 2)}


def _archive(content: bytes, name: str = "a.npy", method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def _npy(header: str, content: bytes = b"") -> bytes:
    padded = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + content


@given(
    values=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0)),
)
def test_unpacked_arrays_are_the_packed_ones(values: np.ndarray) -> None:
    packed = pack_arrays({"a": values})
    again = unpack_arrays(packed, "x.npz", SHAPES)["a"]
    assert again.shape == values.shape
    assert again.tobytes() == values.tobytes()
    assert pack_arrays({"a": again}) == packed


def test_numpy_reads_what_we_write(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(pack_arrays({"a": np.eye(2), "b": np.arange(3)}))
    with np.load(tmp_path / "x.npz", allow_pickle=False) as loaded:
        assert sorted(loaded) == ["a", "b"]
        np.testing.assert_array_equal(np.eye(2), loaded["a"])


def test_order_of_the_names_moves_no_byte() -> None:
    one, two = np.eye(2), np.arange(3)
    assert pack_arrays({"a": one, "b": two}) == pack_arrays({"b": two, "a": one})


BOMB = _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1000000)}")
OBJECT = _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}", pickle.dumps([1]))
NEGATIVE = _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1)}", b"\0" * 4)
CODE = _npy("__import__('os').abort()")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 no archive",
        _archive(b"no array"),
        _archive(BOMB),
        _archive(OBJECT),
        _archive(NEGATIVE),
        _archive(CODE),
        _archive(_npy("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 0)}")),
        _archive(_npy("{'descr': '<f4', 'fortran_order': True, 'shape': (0, 0)}")),
        _archive(_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0,)}")),
        _archive(b"\0" * 10_000_000, method=zipfile.ZIP_DEFLATED),
        _archive(b"", name="../a.npy"),
        _archive(b"", name="b.npy"),
        pack_arrays({"a": np.zeros((1, 1), np.float32), "b": np.zeros(1)}),
        pack_arrays({"a": np.zeros((4, 4), np.float32)})[:-30],
    ],
)
def test_hostile_file_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(BundleDamaged, match=r"x\.npz is damaged.*fetch the bundle again"):
        unpack_arrays(content, "x.npz", SHAPES)


@given(place=st.integers(0, 400), bytes_=st.binary(min_size=1, max_size=4), cut=st.integers(0, 500))
def test_any_damage_is_refused_or_keeps_the_form(place: int, bytes_: bytes, cut: int) -> None:
    content = bytearray(pack_arrays({"a": np.ones((5, 7), np.float32)}))
    content[place : place + len(bytes_)] = bytes_
    try:
        array = unpack_arrays(bytes(content[: len(content) - cut]), "x.npz", SHAPES)["a"]
    except BundleDamaged:
        return
    assert array.dtype == np.float32
    assert array.ndim == 2
