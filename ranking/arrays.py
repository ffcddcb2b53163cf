"""Named arrays in one `.npz` file: written the same every time, read without trust. No pickle.

NumPy reads any `.npz`, `numpy.load(path, allow_pickle=False)`; this reader besides checks every
size that the file claims before it allocates memory, so that a damaged or hostile file is refused.
"""

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from ranking.errors import BundleDamaged

__all__ = ["ArrayShape", "Arrays", "pack_arrays", "unpack_arrays"]

Arrays = Mapping[str, npt.NDArray[Any]]  # Any: each array has a type of its own
"""Arrays by name."""

_TIME: Final = (1980, 1, 1, 0, 0, 0)  # one time for all, so that equal arrays give equal bytes
_HEADER_BYTES_MAX: Final = 10_000
_UNREADABLE: Final = (  # what zipfile and numpy raise for bytes that are not theirs
    zipfile.BadZipFile,
    struct.error,
    ValueError,
    EOFError,
    KeyError,
    OverflowError,
    RuntimeError,  # includes NotImplementedError, for other features of zip
    SyntaxError,
    TypeError,
)


@dataclass(frozen=True, slots=True)
class ArrayShape:
    """What an array must be: its type, such as `<f4`, and number of dimensions."""

    type: str
    dimensions: int


def pack_arrays(arrays: Arrays) -> bytes:
    """The arrays as the bytes of an uncompressed `.npz` file; equal arrays give equal bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            npy.write_array(member, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _TIME), member.getbuffer())
    return file.getvalue()


def unpack_arrays(
    content: bytes, name: str, shapes: Mapping[str, ArrayShape]
) -> dict[str, npt.NDArray[Any]]:
    """The arrays in the bytes of a `.npz` file: exactly those of `shapes`, read-only, in memory.

    Raises `BundleDamaged` naming the file `name` and what is wrong in it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_members(archive, len(content), name, shapes)
            return {key: _read(archive, name, key, shapes[key]) for key in shapes}
    except _UNREADABLE as error:
        raise _damaged(name, f"it is not a file of arrays ({error})") from error


def _check_members(
    archive: zipfile.ZipFile, bytes_max: int, name: str, shapes: Mapping[str, ArrayShape]
) -> None:
    members = archive.infolist()
    wanted = sorted(f"{key}.npy" for key in shapes)
    if sorted(member.filename for member in members) != wanted:
        raise _damaged(name, f"it must hold exactly {', '.join(wanted)}")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise _damaged(name, f"{member.filename} is compressed or encrypted")
        if member.file_size > bytes_max:
            raise _damaged(name, f"{member.filename} claims more bytes than the file has")


def _read(
    archive: zipfile.ZipFile, name: str, key: str, wanted: ArrayShape
) -> npt.NDArray[Any]:  # Any: the type is `wanted.type`
    content = archive.read(f"{key}.npy")
    stream = io.BytesIO(content)
    if npy.read_magic(stream) != (1, 0):
        raise _damaged(name, f"{key} is of another version of the .npy format")
    shape, fortran, dtype = npy.read_array_header_1_0(stream, max_header_size=_HEADER_BYTES_MAX)
    if fortran or dtype.str != wanted.type or len(shape) != wanted.dimensions:
        raise _damaged(
            name, f"{key} must be {wanted.type} of {wanted.dimensions} dimensions in C order"
        )
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(content) - (
        stream.tell()
    ):
        raise _damaged(name, f"{key} does not have the size that its shape {shape} needs")
    return np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape)


def _damaged(name: str, problem: str) -> BundleDamaged:
    return BundleDamaged(f"{name} is damaged: {problem}; fetch the bundle again, or train anew")
