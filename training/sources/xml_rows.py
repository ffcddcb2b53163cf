"""The rows of a Stack Exchange dump file, one at a time, from a file that nobody vouches for.

A dump file is one root element with a `<row …/>` for each record. It is parsed as a stream with
bounded memory, and a document type declaration is refused: it is what entity expansion and external
entities need, and no dump has one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

from feeds.errors import InvalidTime
from feeds.model import parse_time
from training.errors import SourceError

__all__ = ["CHUNK_BYTES", "ROW_BYTES_MAX", "XmlRow", "read_rows"]

CHUNK_BYTES = 65_536
"""Bytes that are read and parsed at a time."""

ROW_BYTES_MAX = 8_388_608
"""The longest stretch of a dump file without a complete row, in bytes."""

_INTEGER_DIGITS_MAX = 18


@dataclass(frozen=True, slots=True)
class XmlRow:
    """One row: its attributes, and where it stands for messages."""

    path: Path
    line: int
    attributes: dict[str, str]

    def text(self, name: str) -> str:
        """An attribute that must be there; raises `SourceError`."""
        try:
            return self.attributes[name]
        except KeyError:
            raise self.error(f"the row has no attribute {name}") from None

    def integer(self, name: str) -> int:
        """A whole number that must be there; raises `SourceError`."""
        number = self.optional_integer(name)
        if number is None:
            raise self.error(f"the row has no attribute {name}")
        return number

    def optional_integer(self, name: str) -> int | None:
        """A whole number, or None where the row has no such attribute; raises `SourceError`."""
        text = self.attributes.get(name)
        if text is None:
            return None
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > _INTEGER_DIGITS_MAX:
            raise self.error(f"{name} is {text[:40]!r}, not a whole number")
        return int(text)

    def time_us(self, name: str) -> int:
        """A time in microseconds since the epoch; raises `SourceError`."""
        try:
            return parse_time(self.text(name))
        except InvalidTime as error:
            raise self.error(f"{name}: {error}") from error

    def error(self, problem: str) -> SourceError:
        """A `SourceError` about this row."""
        return SourceError(f"{self.path}:{self.line}: {problem}; download the dump again")


def read_rows(path: Path) -> Iterator[XmlRow]:
    """The rows of a dump file, in file order.

    Raises `SourceError` where the file is missing, truncated, not well-formed, or carries a
    document type declaration; rows before the damage have been given out by then.
    """
    found: list[XmlRow] = []
    parser = _parser(path, found)
    bytes_since_row = 0
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                parser.Parse(chunk, False)
                bytes_since_row = 0 if found else bytes_since_row + len(chunk)
                if bytes_since_row > ROW_BYTES_MAX:
                    raise SourceError(
                        f"{path}:{parser.CurrentLineNumber}: no row ends within {ROW_BYTES_MAX} "
                        "bytes; this is not a Stack Exchange dump file, or it is damaged"
                    )
                yield from found
                found.clear()
            parser.Parse(b"", True)
    except expat.ExpatError as error:
        byte = max(0, parser.ErrorByteIndex)  # -1 in an empty file
        raise SourceError(
            f"{path}:{error.lineno}: the XML is damaged or ends too early at byte {byte} "
            f"({expat.ErrorString(error.code)}); download the dump again"
        ) from error
    except FileNotFoundError as error:
        raise SourceError(
            f"{path}: there is no such file; give the directory that holds the unpacked dump "
            "(Posts.xml, Comments.xml, Votes.xml, Users.xml)"
        ) from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error


def _parser(path: Path, found: list[XmlRow]) -> expat.XMLParserType:
    parser = expat.ParserCreate()

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "row":
            found.append(XmlRow(path, parser.CurrentLineNumber, attributes))

    def doctype(*_: object) -> None:
        raise SourceError(
            f"{path}:{parser.CurrentLineNumber}: the file has a document type declaration, which "
            "no Stack Exchange dump has; it is refused because it can expand without limit"
        )

    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = doctype
    return parser
