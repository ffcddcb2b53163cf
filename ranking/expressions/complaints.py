"""What is wrong with a document, collected: a sentence for each mistake."""

import difflib
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

__all__ = ["Complaints", "cut", "shown"]

_SHOWN: Final = 60
"""Characters of a wrong value that a sentence repeats, and that are compared with names."""


class Complaints:
    """Sentences in the order in which they were said, the first `most` of them."""

    def __init__(self, most: int) -> None:
        self.sentences: list[str] = []
        self._most = most

    def say(self, where: str, message: str) -> None:
        """Add a sentence: where the mistake is, what is wrong, and what to do."""
        if len(self.sentences) < self._most:
            self.sentences.append(f"{where}: {message}")

    def near(self, name: str, known: Iterable[str], otherwise: str) -> str:
        """Which of the known names could be meant; `otherwise` if none is like it."""
        if len(self.sentences) >= self._most:
            return otherwise  # it will not be said, and looking takes time
        near = difflib.get_close_matches(name[:_SHOWN].lower(), known, n=3, cutoff=0.7)
        return f"did you mean {' or '.join(near)}?" if near else otherwise

    def unknown_parts(
        self, where: str, given: Mapping[object, object], known: tuple[str, ...]
    ) -> None:
        """Complain of the parts of an object that mean nothing."""
        unknown = (key for key in given if key not in known)
        for key in islice(unknown, self._most):
            hint = self.near(str(key), known, f"there are {', '.join(known)}")
            self.say(where, f"it has no part {shown(key)}: {hint}")


def cut(text: str) -> str:
    """A text that may be long, as a sentence repeats it."""
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def shown(value: object) -> str:
    """A value as a sentence repeats it."""
    if isinstance(value, str):
        return repr(cut(value))
    if isinstance(value, Mapping | list | tuple | set):
        return "a list or an object"
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return "this number"
    return cut(repr(value))
