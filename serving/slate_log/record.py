"""A served slate as a record of the log: the exact numbers as packed columns, no cell on its own.

Numbers are little endian. A float is logged as it was computed, bit for bit, NaN too.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, Self

import msgspec
import numpy as np
import numpy.typing as npt

from feeds.model import ActivityId
from ranking.candidates import FeedKind, Query
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.slates import Slate, Stage

__all__ = ["LoggedRows", "LoggedSlate", "RecordDamaged", "RemovedCount", "decode", "encode", "log"]

ID_BYTES: Final = 16
"""Bytes of an activity's id: its UUID."""

_SPECS_MAX: Final = 1_024


class RecordDamaged(ValueError):
    """Bytes that are no logged slate, though their checksum is right."""


class RemovedCount(msgspec.Struct, frozen=True, array_like=True):
    """How many candidates a filter removed, and why."""

    filter: str
    reason: str
    count: int


class LoggedRows(msgspec.Struct, frozen=True, array_like=True):
    """Activities with what their scores came from: n UUIDs, int8[n], float32[n], float32[n, F].

    `source` is the place in the slate's `sources`.
    """

    ids: bytes
    source: bytes
    scores: bytes
    features: bytes

    @classmethod
    def of(
        cls,
        ids: Sequence[str],
        source: npt.NDArray[np.int8],
        scores: npt.NDArray[np.float32],
        features: npt.NDArray[np.float32],
    ) -> Self:
        """The rows packed."""
        return cls(
            bytes.fromhex("".join(ids).replace("-", "")),
            source.astype(np.int8, copy=False).tobytes(),
            scores.astype("<f4", copy=False).tobytes(),
            features.astype("<f4", copy=False).tobytes(),
        )

    def __len__(self) -> int:
        """How many activities there are."""
        return len(self.source)

    def activity_ids(self) -> list[ActivityId]:
        """The activities' ids as text."""
        digits = self.ids.hex()
        starts = range(0, len(digits), 2 * ID_BYTES)
        return [_uuid(digits[start : start + 2 * ID_BYTES]) for start in starts]

    def score_values(self) -> npt.NDArray[np.float32]:
        """The scores as they were computed, float32[n]."""
        return np.frombuffer(self.scores, "<f4")

    def source_places(self) -> npt.NDArray[np.int8]:
        """The places of the sources, int8[n]."""
        return np.frombuffer(self.source, np.int8)

    def fits(self, features: int) -> bool:
        """Whether all columns are of as many activities, of this many features."""
        count = len(self)
        return (len(self.ids), len(self.scores), len(self.features)) == (
            ID_BYTES * count,
            4 * count,
            4 * count * features,
        )


class LoggedSlate(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One served slate.

    `places` are what was shown, in order; of each, `reason` (uint16[n]) is a place in `reasons`,
    `propensities` is float64[n], `explored` is bool[n], and `multipliers` holds float64[n] by the
    adjustment's name; `placed` maps a place to the rule that gave it, such as a pin. `candidates`
    are all that the filters kept, in the ranker's order; None unless the tenant asks for them.
    `time_us` is microseconds since the epoch, `seed` what chance was derived from.
    """

    slate_id: str
    tenant: str
    user: str
    kind: FeedKind
    time_us: int
    seed: int
    scorer: str
    model_version: str | None
    config_version: int
    degraded: str | None
    spec_fingerprint: str
    feature_names: tuple[str, ...]
    sources: tuple[str, ...]
    reasons: tuple[str, ...]
    stages: tuple[Stage, ...]
    removed: tuple[RemovedCount, ...]
    places: LoggedRows
    reason: bytes
    propensities: bytes
    explored: bytes
    multipliers: dict[str, bytes]
    placed: dict[int, str]
    candidates: LoggedRows | None

    def features_of(self, rows: LoggedRows) -> FeatureMatrix:
        """The features of the places, or of the candidates, bit for bit."""
        values = np.frombuffer(rows.features, "<f4").reshape(len(rows), len(self.feature_names))
        return FeatureMatrix(self.feature_names, values)

    def reason_texts(self) -> list[str]:
        """Why each place's activity is there."""
        return [self.reasons[place] for place in np.frombuffer(self.reason, "<u2").tolist()]

    def source_names(self, rows: LoggedRows) -> list[str]:
        """Which source proposed each activity first."""
        return [self.sources[place] for place in rows.source_places().tolist()]

    def numbers(self, packed: bytes) -> npt.NDArray[np.float64]:
        """`propensities` or one of the `multipliers` as numbers, float64[n]."""
        return np.frombuffer(packed, "<f8")

    def explored_places(self) -> npt.NDArray[np.bool_]:
        """Which places chance chose, bool[n]."""
        return np.frombuffer(self.explored, np.bool_)

    def is_whole(self) -> bool:
        """Whether all columns fit each other, so that every reading of them succeeds."""
        count, features = len(self.places), len(self.feature_names)
        columns = (len(self.reason), len(self.propensities), len(self.explored))
        return (
            columns == (2 * count, 8 * count, count)
            and all(len(column) == 8 * count for column in self.multipliers.values())
            and all(
                rows.fits(features) and _below(rows.source, np.int8, len(self.sources))
                for rows in (self.places, self.candidates)
                if rows is not None
            )
            and _below(self.reason, np.dtype("<u2"), len(self.reasons))
        )


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(LoggedSlate)


def encode(slate: LoggedSlate) -> bytes:
    """The record's bytes."""
    return _encoder.encode(slate)


def decode(data: bytes | memoryview) -> LoggedSlate:
    """Read what `encode` wrote; raises `RecordDamaged` for anything else."""
    try:
        slate = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RecordDamaged(f"this is no logged slate: {error}") from error
    if not slate.is_whole():
        raise RecordDamaged("this is no logged slate: its columns are of different lengths")
    return slate


def log(query: Query, slate: Slate, candidate_ids: Sequence[str] | None) -> LoggedSlate:
    """The slate as it is logged, about 40 us for 100 places; its `scoring` must be there.

    With `candidate_ids`, the ids of all candidates that were kept, those are logged too.
    """
    scoring = slate.scoring
    assert scoring is not None
    kept, shown, features = scoring.kept, scoring.shown, scoring.features
    once: dict[str, int] = {}
    reason = [once.setdefault(each, len(once)) for each in slate.ranked.reasons]
    return LoggedSlate(
        slate_id=slate.request_id,
        tenant=slate.tenant,
        user=slate.user,
        kind=slate.kind,
        time_us=query.now_us,
        seed=query.seed,
        scorer=slate.scorer,
        model_version=slate.model_version,
        config_version=slate.config_version,
        degraded=slate.degraded,
        spec_fingerprint=_fingerprint(scoring.spec),
        feature_names=features.names,
        sources=tuple(kept.sources),
        reasons=tuple(once),
        stages=tuple(scoring.stages),
        removed=tuple(
            RemovedCount(each.filter, each.reason, len(each.rows)) for each in scoring.removed
        ),
        places=LoggedRows.of(
            slate.ranked.activity_ids,
            kept.source[shown.places],
            scoring.scores[shown.places],
            features.values[shown.places],
        ),
        reason=np.array(reason, "<u2").tobytes(),
        propensities=shown.propensities.astype("<f8").tobytes(),
        explored=shown.explored.tobytes(),
        multipliers={
            name: column.astype("<f8").tobytes() for name, column in scoring.multipliers.items()
        },
        placed={
            place: scoring.placed[candidate]
            for place, candidate in enumerate(shown.places.tolist() if scoring.placed else ())
            if candidate in scoring.placed
        },
        candidates=None
        if candidate_ids is None
        else LoggedRows.of(candidate_ids, kept.source, scoring.scores, features.values),
    )


@lru_cache(_SPECS_MAX)
def _fingerprint(spec: FeatureSpec) -> str:
    return spec.fingerprint


def _uuid(digits: str) -> ActivityId:
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return ActivityId("-".join(parts))


def _below(packed: bytes, kind: Any, count: int) -> bool:  # Any: numpy's many names of a type
    places = np.frombuffer(packed, kind)
    return not len(places) or (int(places.min()) >= 0 and int(places.max()) < count)
