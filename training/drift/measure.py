"""Whether a tenant's model still serves what it learnt from: drift, staleness, degraded replies.

The population stability index (PSI; Siddiqi, "Credit Risk Scorecards", 2006) compares a column of
the last day of slates with what the model learnt from: the sum over bins of `(now - before) *
ln(now / before)`, the bins those of `training.drift.histograms`. Below 0.1 is no drift, from 0.25
on it is a large one. Of samples that differ by chance alone it is about chi-squared with a degree
of freedom less than there are bins, times `1 / before + 1 / now` in rows (Yurdakul, "Statistical
Properties of the Population Stability Index", 2018): `Drift.chance` is its 95 % quantile.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import numpy as np

from feeds.counters import DAY_US
from feeds.model import check_tenant_id
from ranking.files import replace_file
from training.drift.histograms import Histogram, Numbers, TrainingHistograms
from training.errors import TrainingError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "REPORT",
    "Drift",
    "DriftConfig",
    "DriftReport",
    "Learnt",
    "measure_drift",
    "psi",
    "slate_files",
]

REPORT: Final = "drift.json"

Against = Literal["training set", "earlier slates"]

_CHANCE_LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True)
class DriftConfig:
    """How drift is measured, and from when on it is told."""

    share_min: float = 1e-4
    """Share below which a bin counts as this, so that an empty one has a logarithm."""
    moderate: float = 0.1
    """PSI from which on a column has moved."""
    large: float = 0.25
    """PSI from which on a drift is large."""
    rows_min: int = 100
    """Rows, before and on the last day, below which nothing is said."""
    rows_max: int = 2_000_000
    """Rows of an export that are looked at; of more, the slates that their ids choose."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """What is known of a version: its number, when it was trained, and on what.

    `histograms` is None for versions of releases that did not keep them.
    """

    version: int
    trained_us: int
    histograms: TrainingHistograms | None = None


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """One column: its PSI, what that is by chance alone, and its rows by bin, before and now.

    `verdict` is `none`, `moderate` or `large`; a PSI that chance explains is `none`.
    """

    name: str
    psi: float
    chance: float
    verdict: Literal["none", "moderate", "large"]
    before: Histogram
    now: Histogram


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's last day of slates beside what its model learnt from.

    `against` says what that is: the training set, or, where the version has no histograms of it,
    the slates that were served before the training. `age_days` is the time from training to the
    last slate, `degraded_share` the share of the last day's slates that were ordered by time.
    `score` is the drift of the model's scores (None where there are none to compare), `score_shape`
    the scores before and now in bins of equal width, `features` the columns, the largest first.
    """

    tenant: str
    model_version: int
    against: Against
    age_days: float
    rows_before: int
    slates_now: int
    rows_now: int
    degraded_share: float
    score: Drift | None
    score_shape: tuple[Histogram, Histogram] | None
    features: tuple[Drift, ...]
    moderate: float
    large: float
    notes: tuple[str, ...] = ()
    """What a reader must know beside the figures."""
    problem: str = ""
    """Why no drift is told; empty where it is."""

    @property
    def columns(self) -> tuple[Drift, ...]:
        """The score, where there is one, then the features."""
        return (*((self.score,) if self.score else ()), *self.features)

    @property
    def sentence(self) -> str:
        """The report in a sentence."""
        if self.problem:
            return f"No drift is told: {self.problem}."
        moved = [each for each in self.columns if each.verdict != "none"]
        if not moved:
            return f"None of {len(self.columns)} columns moved against the {self.against}."
        large = sum(each.verdict == "large" for each in moved)
        named = ", ".join(f"{each.name} {each.psi:.2f}" for each in moved[:5])
        return (
            f"{len(moved)} of {len(self.columns)} columns moved against the {self.against}, "
            f"{large} of them a lot: {named}{', …' if len(moved) > 5 else ''}."  # noqa: PLR2004
        )

    def to_json(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)

    def to_frame(self) -> "pd.DataFrame":
        """One row a column, by `column`: psi, chance, verdict, share missing before and now."""
        import pandas as pd  # noqa: PLC0415 - half a second that only notebooks pay

        rows = [
            {
                "column": each.name,
                "psi": each.psi,
                "chance": each.chance,
                "verdict": each.verdict,
                "missing_before": each.before.missing,
                "missing_now": each.now.missing,
            }
            for each in self.columns
        ]
        names = ["column", "psi", "chance", "verdict", "missing_before", "missing_now"]
        return pd.DataFrame(rows, columns=names).set_index("column")

    def write(self, directory: Path) -> list[Path]:
        """Leave `drift.json`, `.md`, `.html` and `.png` in a directory; made if need be."""
        from training.drift.pages import rendered  # noqa: PLC0415 - only where it is written

        directory.mkdir(parents=True, exist_ok=True)
        documents = {REPORT: self.to_json(), **rendered(self)}
        for name, content in documents.items():
            replace_file(directory / name, content)
        return [directory / name for name in documents]


_DEFAULT: Final = DriftConfig()


def psi(before: Histogram, now: Histogram, config: DriftConfig = _DEFAULT) -> float:
    """The population stability index of two samples in the same bins. 0 where alike.

    >>> before = Histogram.of(np.arange(100.0))
    >>> psi(before, before.again(np.arange(100.0)))
    0.0
    >>> psi(before, before.again(np.arange(100.0) + 90)) > 1
    True
    """
    first, last = (np.maximum(each.shares, config.share_min) for each in (before, now))
    return float(((last - first) * np.log(last / first)).sum())


def measure_drift(
    slates: Path | str, tenant: str, learnt: Learnt, config: DriftConfig = _DEFAULT
) -> DriftReport:
    """The last day of an export of slates beside what a version learnt from.

    Raises `TrainingError` where the export has no slates of the tenant.
    """
    known = learnt.histograms
    days = None if known is None else _DAYS_READ
    frame = _read(slate_files(slates, tenant, days), Path(slates), config)
    last_us = int(frame["time_us"].max())
    today = frame[frame["time_us"] > last_us - DAY_US]
    first = today[today["position"] >= 0].drop_duplicates("slate_id")
    sides = (
        _against_slates(frame, today, learnt, last_us)
        if known is None
        else _against_training(known, today, learnt)
    )
    report = DriftReport(
        tenant=tenant,
        model_version=learnt.version,
        against=sides.against,
        age_days=(last_us - learnt.trained_us) / DAY_US,
        rows_before=sides.rows_before,
        slates_now=len(first),
        rows_now=len(sides.now),
        degraded_share=float(first["degraded"].notna().mean()) if len(first) else 0.0,
        score=None,
        score_shape=None,
        features=(),
        moderate=config.moderate,
        large=config.large,
        notes=sides.notes,
    )
    if min(sides.rows_before, len(sides.now)) < config.rows_min:
        problem = (
            f"there are {sides.rows_before} rows of the {sides.against} with the features of now, "
            f"and {len(sides.now)} of the last day: at least {config.rows_min} of each tell a drift"
        )
        return msgspec.structs.replace(report, problem=problem)
    return _compared(report, sides, config)


@dataclass(frozen=True, slots=True)
class _Sides:
    """What is compared: histograms before, by feature, and the rows of the last day."""

    against: Against
    rows_before: int
    features: dict[str, Histogram]
    score: Histogram
    score_shape: Histogram
    now: "pd.DataFrame"
    scored: "pd.DataFrame"
    """Those of the rows whose scores are the model's."""
    notes: tuple[str, ...]


def _against_training(known: TrainingHistograms, today: "pd.DataFrame", learnt: Learnt) -> _Sides:
    """Like with like: what was shown beside what was shown, candidates beside candidates."""
    notes = [f"Before are {known.score.rows:,} rows of {known.requests:,} training requests."]
    with_candidates = bool((today["position"] < 0).any())
    now = today if with_candidates and not known.shown else today[today["position"] >= 0]
    if not known.shown:
        notes.append(
            "The model learnt from all candidates, and all candidates of slates are compared."
            if with_candidates
            else "The model learnt from all candidates, the slate log holds what was shown alone: "
            "that a model shows what it likes is in the figures. Log candidates to compare alike."
        )
    now = now[now["spec_fingerprint"] == now["spec_fingerprint"].iloc[-1]]
    scored = now[(now["model_version"] == str(learnt.version)) & now["degraded"].isna()]
    scored = scored[scored["scorer"] == known.scorer]
    if not len(scored):
        notes.append(
            f"Version {learnt.version} scored none of the last day's slates: no drift of scores."
        )
    rows = known.score.rows
    return _Sides(
        "training set", rows, known.features, known.score, known.score_shape, now, scored, (*notes,)
    )


def _against_slates(
    frame: "pd.DataFrame", today: "pd.DataFrame", learnt: Learnt, last_us: int
) -> _Sides:
    now = today[today["position"] >= 0]
    fingerprint = now["spec_fingerprint"].iloc[-1] if len(now) else ""
    now = now[now["spec_fingerprint"] == fingerprint]
    before = frame[(frame["position"] >= 0) & (frame["spec_fingerprint"] == fingerprint)]
    before = before[before["time_us"] < min(learnt.trained_us, last_us - DAY_US + 1)]
    empty = Histogram((), (0, 1))
    features, score, shape = {}, empty, empty
    if len(before):
        values = _features(before)
        features = {name: Histogram.of(values[:, at]) for at, name in enumerate(_names(before))}
        scores = before["score"].to_numpy()
        score, shape = Histogram.of(scores), Histogram.even(scores)
    note = (
        f"Version {learnt.version} was published without histograms of its training set: before "
        "are the slates that were served before it was trained. Train anew to compare with it."
    )
    return _Sides("earlier slates", len(before), features, score, shape, now, now, (note,))


def _compared(report: DriftReport, sides: _Sides, config: DriftConfig) -> DriftReport:
    values = _features(sides.now)
    features = [
        _drift(name, sides.features[name], values[:, at], config)
        for at, name in enumerate(_names(sides.now))
        if name in sides.features
    ]
    scores = sides.scored["score"].to_numpy()
    return msgspec.structs.replace(
        report,
        score=_drift("score", sides.score, scores, config) if len(scores) else None,
        score_shape=(sides.score_shape, sides.score_shape.again(scores)) if len(scores) else None,
        features=tuple(sorted(features, key=lambda drift: (-drift.psi, drift.name))),
    )


def _drift(name: str, before: Histogram, sample: Numbers, config: DriftConfig) -> Drift:
    now = before.again(sample)
    found, chance = psi(before, now, config), _chance(before, now)
    verdict: Literal["none", "moderate", "large"] = "none"
    if found >= config.moderate and found > chance:
        verdict = "large" if found >= config.large else "moderate"
    return Drift(name=name, psi=found, chance=chance, verdict=verdict, before=before, now=now)


def _chance(before: Histogram, now: Histogram) -> float:
    """The PSI that two samples of one distribution stay below, with a probability of 95 %."""
    from scipy.stats import chi2  # noqa: PLC0415 - a second that only this pays

    freedom = int((np.asarray(before.counts) + np.asarray(now.counts) > 0).sum()) - 1
    if not freedom:
        return 0.0
    return float(chi2.ppf(_CHANCE_LEVEL, freedom)) * (1 / before.rows + 1 / now.rows)


def _names(rows: "pd.DataFrame") -> list[str]:
    return str(rows["feature_names"].iloc[-1]).split(",")


def _features(rows: "pd.DataFrame") -> Numbers:
    """float32[rows, features]; the rows have the same features."""
    found: Numbers = np.stack(list(rows["features"]))
    return found


def slate_files(slates: Path | str, tenant: str, days: int | None = None) -> list[Path]:
    """The files of a tenant's exported slates, of the last `days` that have any, or of all."""
    folders = sorted((Path(slates) / f"tenant={check_tenant_id(tenant)}").glob("day=*"))
    return [
        file
        for folder in folders[-days if days else 0 :]
        for file in sorted(folder.glob("slates-*.parquet"))
    ]


def _read(files: list[Path], root: Path, config: DriftConfig) -> "pd.DataFrame":
    """The rows of the files: places that were shown, and candidates if logged.

    Beyond `rows_max` rows, of a share of the slates, which their ids choose.
    """
    import pandas as pd  # noqa: PLC0415 - half a second that only this pays
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    parts = []
    try:
        rows = sum(pq.ParquetFile(file).metadata.num_rows for file in files)
        kept = int(min(1.0, config.rows_max / max(rows, 1)) * _HASHES)
        for file in files:
            part = pq.ParquetFile(file).read(columns=list(_COLUMNS)).to_pandas()
            hashes = pd.util.hash_array(part["slate_id"].to_numpy(object)) % _HASHES
            parts.append(part[hashes < kept])
    except (OSError, pa.ArrowException) as error:
        raise TrainingError(f"{root} cannot be read ({error}): export the slates again") from error
    if not any((part["position"] >= 0).any() for part in parts):
        raise TrainingError(
            f"{root} has no slates of the tenant: run `headwater slates export` first"
        )
    frame: pd.DataFrame = pd.concat(parts, ignore_index=True)
    frame["time_us"] = frame["time"].astype("datetime64[us, UTC]").astype("int64")
    return frame.sort_values("time_us", kind="stable", ignore_index=True)


_DAYS_READ: Final = 2
"""Days of UTC that the last 24 hours lie in."""
_HASHES: Final = 1 << 20

_COLUMNS: Final = (
    "slate_id",
    "time",
    "spec_fingerprint",
    "degraded",
    "scorer",
    "model_version",
    "position",
    "score",
    "feature_names",
    "features",
)
