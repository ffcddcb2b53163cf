"""Frames: a length of four bytes, then so many bytes; a length is judged before bytes are kept."""

from typing import Final

from feeds.errors import InvalidInput

__all__ = ["HEADER_BYTES", "FrameReader", "frame"]

HEADER_BYTES: Final = 4
"""Bytes of a frame besides its content."""


def frame(content: bytes) -> bytes:
    """The bytes of a frame."""
    return len(content).to_bytes(HEADER_BYTES) + content


class FrameReader:
    """Takes bytes as they come, and gives whole frames.

    It keeps at most one frame that is not whole: `bytes_max` and what came with one `feed`.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        """The longest content that is taken; it may be changed between frames."""
        self._kept = bytearray()

    @property
    def waiting(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._kept)

    def feed(self, data: bytes) -> list[bytes]:
        """The contents that are whole now. Raises `InvalidInput` for a length beyond the limit."""
        kept = self._kept
        length = len(data) - HEADER_BYTES
        if not kept and length == int.from_bytes(data[:HEADER_BYTES]) and length <= self.bytes_max:
            return [data[HEADER_BYTES:]]  # most often: one frame, and all of it
        kept += data
        frames: list[bytes] = []
        start = 0
        while len(kept) - start >= HEADER_BYTES:
            length = int.from_bytes(kept[start : start + HEADER_BYTES])
            if length > self.bytes_max:
                raise InvalidInput(
                    f"a frame of {length} bytes is announced, and {self.bytes_max} may be sent"
                )
            end = start + HEADER_BYTES + length
            if len(kept) < end:
                break
            frames.append(bytes(kept[start + HEADER_BYTES : end]))
            start = end
        del kept[:start]
        return frames
