"""Whom a model learnt from, as hashes: so that it can be told later whether one of them is deleted.

A hash is 8 bytes of BLAKE2b with the tenant as key: enough to find a user whose name is at hand,
and no list of names. Among a million users, one of a thousand others is taken for one of them with
a probability below 1 in 10,000,000,000 (n * m / 2**64).
"""

import hashlib
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from ranking.arrays import ArrayShape, pack_arrays, unpack_arrays

__all__ = ["TRAINED_USERS", "pack_users", "trained_on"]

TRAINED_USERS: Final = "trained_users.npz"
"""The document of a version that holds them."""

_SHAPES: Final = {"users": ArrayShape("<u8", 1)}
_KEY_BYTES_MAX: Final = 64


def pack_users(tenant: str, users: Iterable[str]) -> bytes:
    """The document for these users, each counted once."""
    return pack_arrays({"users": np.unique(_hashes(tenant, users))})


def trained_on(tenant: str, document: bytes, users: Iterable[str]) -> list[str]:
    """Those of the users that the document holds, in order of their names.

    Raises `BundleDamaged` for what is no such document.
    """
    known = unpack_arrays(document, TRAINED_USERS, _SHAPES)["users"]
    asked = sorted(set(users))
    found = np.isin(_hashes(tenant, asked), known).tolist()
    return [user for user, is_known in zip(asked, found, strict=True) if is_known]


def _hashes(tenant: str, users: Iterable[str]) -> npt.NDArray[np.uint64]:
    key = tenant.encode()[:_KEY_BYTES_MAX]
    digests = (hashlib.blake2b(user.encode(), digest_size=8, key=key).digest() for user in users)
    return np.frombuffer(b"".join(digests), "<u8").astype("<u8")
