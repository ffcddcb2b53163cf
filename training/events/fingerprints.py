"""Fingerprints: what a training set was made from, in 32 hexadecimal digits."""

import hashlib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from ranking.features import FEATURES_VERSION

__all__ = ["code_version", "fingerprint_of"]


def fingerprint_of(texts: Iterable[str]) -> str:
    """32 hexadecimal digits that change with any text, or their order.

    >>> fingerprint_of(["a", "b"]) == fingerprint_of(["ab"])
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def code_version() -> str:
    """The release that runs, and the version of its features."""
    try:
        release = version("headwater")
    except PackageNotFoundError:  # run from a tree that was never installed
        release = "unreleased"
    return f"{release}, features {FEATURES_VERSION}"
