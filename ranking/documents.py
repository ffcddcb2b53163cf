"""Documents of a model version: what is known of it beside what it is made of.

The report of its evaluation, its model card, its signature, what the gates said. They travel with
the version in the registry, and nothing that serves reads them.
"""

import re
from collections.abc import Mapping
from typing import Final

from ranking.errors import RankingError

__all__ = ["DOCUMENTS_MAX", "DOCUMENT_BYTES_MAX", "check_documents"]

DOCUMENTS_MAX: Final = 32
"""Documents of one version."""

DOCUMENT_BYTES_MAX: Final = 16 * 1_048_576
"""Bytes of one document."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def check_documents(documents: Mapping[str, bytes]) -> None:
    """Raise `RankingError` for documents that no version may have, naming the first."""
    if len(documents) > DOCUMENTS_MAX:
        raise RankingError(
            f"a version has at most {DOCUMENTS_MAX} documents, these are {len(documents)}"
        )
    for name, content in documents.items():
        if not _NAME.fullmatch(name):
            raise RankingError(
                f"{name!r} is no name of a document: use letters, digits, '_', '.' and '-', "
                "64 characters at most"
            )
        if len(content) > DOCUMENT_BYTES_MAX:
            raise RankingError(
                f"the document {name} has {len(content)} bytes, at most {DOCUMENT_BYTES_MAX} "
                "are kept"
            )
