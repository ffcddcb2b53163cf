"""Open Bandit samples: what a random and a Thompson sampling policy recommended, with the clicks.

10,000 recommendations for each of two policies and three campaigns of a fashion shop, each with the
probability with which the policy put the item there (Saito et al., 2020, "Open Bandit Dataset and
Pipeline"). The data is read out of the wheel of obp 0.4.1, which carries it; see `wheels`.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from training.errors import SourceError
from training.sources.wheels import Wheel, fetch, read_member

__all__ = [
    "CAMPAIGNS",
    "POLICIES",
    "WHEEL",
    "BanditLog",
    "Campaign",
    "Policy",
    "fetch_wheel",
    "read_log",
    "read_priors",
]

Campaign = Literal["all", "men", "women"]
Policy = Literal["random", "bts"]

CAMPAIGNS: tuple[Campaign, ...] = ("all", "men", "women")
"""Campaigns of the shop: which items were recommended."""

POLICIES: tuple[Policy, ...] = ("random", "bts")
"""Policies: every item alike, and Bernoulli Thompson sampling."""

WHEEL = Wheel(
    project="obp",
    version="0.4.1",
    file="obp-0.4.1-py3-none-any.whl",
    sha256="87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208",
    holds="Open Bandit",
)
"""Carries the data, and estimators to compare with."""

_CONTEXT = tuple(f"user_feature_{number}" for number in range(4))


@dataclass(frozen=True, slots=True)
class BanditLog:
    """Recommendations in order of time: `items`, `positions` (0 to 2) and `clicks`, int64[n] each.

    `propensities` is float64[n], `contexts` are the four hashed features of each one's user, str[n,
    4].
    """

    items: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    clicks: npt.NDArray[np.int64]
    propensities: npt.NDArray[np.float64]
    contexts: npt.NDArray[np.str_]

    def __len__(self) -> int:
        """How many recommendations there are."""
        return len(self.items)


def fetch_wheel(cache: Path) -> Path:
    """The wheel with the data, downloaded into `cache` unless it is there; its checksum is right.

    Raises `SourceError` with what to do when it cannot be had.
    """
    return fetch(WHEEL, cache)


def read_log(wheel: Path, policy: Policy, campaign: Campaign) -> BanditLog:
    """What a policy recommended in a campaign; raises `SourceError` where it cannot be read."""
    rows = sorted(_rows(wheel, policy, campaign), key=lambda row: row["timestamp"])
    try:
        positions = np.array([int(row["position"]) for row in rows], np.int64)
        return BanditLog(
            items=np.array([int(row["item_id"]) for row in rows], np.int64),
            positions=np.unique(positions, return_inverse=True)[1].astype(np.int64),
            clicks=np.array([int(row["click"]) for row in rows], np.int64),
            propensities=np.array([float(row["propensity_score"]) for row in rows], np.float64),
            contexts=np.array([[row[name] for name in _CONTEXT] for row in rows], np.str_),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise SourceError(
            f"{wheel}: {campaign}.csv of {policy} is not as expected ({error!r}); delete the file "
            "and try again"
        ) from error


def read_priors(wheel: Path, campaign: Campaign) -> npt.NDArray[np.float64]:
    """With what the Thompson sampling began: alpha and beta of each item, float64[items, 2]."""
    found: dict[str, list[float]] = {"alpha": [], "beta": []}
    inside, name = False, ""
    for line in read_member(WHEEL, wheel, "obp/policy/conf/prior_bts.yaml").splitlines():
        word = line.strip().removesuffix(":")
        if line[:1].strip():
            inside = word == campaign
        elif inside and word in found:
            name = word
        elif inside and name and word.startswith("- "):
            found[name].append(float(word.removeprefix("- ")))
    if not found["alpha"] or len(found["alpha"]) != len(found["beta"]):
        raise SourceError(f"{wheel}: no priors of {campaign}; delete the file and try again")
    return np.array([found["alpha"], found["beta"]], np.float64).T


def _rows(wheel: Path, policy: Policy, campaign: Campaign) -> Iterator[dict[str, str]]:
    member = f"obp/dataset/obd/{policy}/{campaign}/{campaign}.csv"
    yield from csv.DictReader(io.StringIO(read_member(WHEEL, wheel, member)))
