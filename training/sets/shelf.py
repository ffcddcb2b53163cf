"""Arrays and the records that hold them as files that every worker maps: no copy, no pickle.

What is mapped belongs to the page cache and leaves memory when something else needs it: so work on
a log that is larger than the memory goes on, only slower.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = ["NameList", "Shelf"]

T = TypeVar("T")


class NameList(Sequence[str]):
    """Names one behind the other in one array; about as many bytes as they have.

    `text` is uint8, all names; `starts` is int64[n + 1], where each begins, and the end.
    """

    def __init__(self, text: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64]) -> None:
        self.text = text
        self.starts = starts

    @classmethod
    def of(cls, names: Sequence[str]) -> "NameList":
        """The same names."""
        encoded = [name.encode() for name in names]
        starts = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(name) for name in encoded], out=starts[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        return self.text[self.starts[place] : self.starts[place + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))

    def arrow(self, places: npt.NDArray[np.integer]) -> Any:  # Any: pyarrow has no types
        """The names at some places, as Arrow strings."""
        import pyarrow as pa  # noqa: PLC0415 - half a second that only training pays

        buffers = [pa.py_buffer(np.ascontiguousarray(each)) for each in (self.starts, self.text)]
        names = pa.LargeStringArray.from_buffers(len(self), *buffers)
        return names.take(pa.array(places)).cast(pa.string())


@dataclass(frozen=True, slots=True)
class Shelf:
    """A directory of arrays by name."""

    directory: Path

    def put(self, name: str, value: object) -> None:
        """Keep an array, names, or a dataclass of such, of numbers and of other dataclasses."""
        if isinstance(value, np.ndarray):
            np.save(self._path(name), value, allow_pickle=False)
        elif dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                self.put(f"{name}.{field.name}", getattr(value, field.name))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            names = value if isinstance(value, NameList) else NameList.of(value)
            self.put(f"{name}.text", names.text)
            self.put(f"{name}.starts", names.starts)
        else:
            self._path(name, ".json").write_bytes(msgspec.json.encode(value))

    def get(self, name: str, kind: type[T]) -> T:
        """A dataclass as it was put there; its arrays are mapped, and read only."""
        hints = typing.get_type_hints(kind)
        values = {
            field.name: self._value(f"{name}.{field.name}", hints[field.name])
            for field in dataclasses.fields(typing.cast("Any", kind))
        }
        return kind(**values)

    def array(self, name: str, mode: typing.Literal["r", "r+"] = "r") -> npt.NDArray[Any]:
        """An array, mapped; Any: the type that it was put with."""
        mapped: npt.NDArray[Any] = np.load(self._path(name), mmap_mode=mode, allow_pickle=False)
        return mapped

    def names(self, name: str) -> NameList:
        """Names as they were put there, mapped."""
        return NameList(self.array(f"{name}.text"), self.array(f"{name}.starts"))

    def make(
        self, name: str, shape: tuple[int, ...], kind: type[np.generic]
    ) -> npt.NDArray[Any]:  # Any: the type that is asked for
        """An array of zeros, mapped, that workers fill."""
        if 0 in shape:  # nothing can be mapped of no bytes
            self.put(name, np.zeros(shape, kind))
            return np.zeros(shape, kind)
        return np.lib.format.open_memmap(self._path(name), "w+", kind, shape)

    def _value(self, name: str, hint: Any) -> Any:  # Any: what a field of a dataclass can hold
        kind = typing.get_origin(hint) or hint
        if dataclasses.is_dataclass(kind):
            return self.get(name, typing.cast("type[Any]", kind))
        if self._path(name, ".json").exists():
            return msgspec.json.decode(self._path(name, ".json").read_bytes())
        if kind is Sequence:
            return self.names(name)
        assert kind is np.ndarray or kind is types.UnionType, f"{name} is a {hint}"
        return self.array(name)

    def _path(self, name: str, suffix: str = ".npy") -> Path:
        return self.directory / f"{name}{suffix}"
