"""Whether a tenant's model still serves what it learnt from: drift, staleness, degraded replies.

The population stability index (PSI; Siddiqi, "Credit Risk Scorecards", 2006) compares a column of
the slates of the last day with that of the slates before the model was trained: the sum over bins
of `(now - before) * ln(now / before)`, with bins at the deciles of before and one for what is
missing. Below 0.1 is no drift, from 0.25 on it is a large one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import numpy.typing as npt

from feeds.counters import DAY_US
from feeds.model import check_tenant_id
from training.errors import TrainingError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Drift", "DriftConfig", "DriftReport", "measure_drift", "psi"]

Numbers = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class DriftConfig:
    """How drift is measured, and from when on it is told."""

    bins: int = 10
    """Bins of a column, at quantiles of what it was before."""
    share_min: float = 1e-4
    """Share below which a bin counts as this, so that an empty one has a logarithm."""
    large: float = 0.25
    """PSI from which on a drift is large."""
    rows_min: int = 100
    """Places, before and on the last day, below which nothing is said."""
    rows_max: int = 2_000_000
    """Places of an export that are read."""


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """One column: its PSI, and the share that is missing before and now."""

    name: str
    psi: float
    missing_before: float
    missing_now: float


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's last day of slates beside those before its model was trained.

    `age_days` is the time from training to the last slate, `degraded_share` the share of the last
    day's slates that were ordered by time, `score` the drift of the model's scores (None where no
    earlier slate has one), `features` those of the features, the largest first.
    """

    tenant: str
    age_days: float
    slates_before: int
    slates_now: int
    degraded_share: float
    score: Drift | None
    features: tuple[Drift, ...]
    problem: str = ""
    """Why no drift is told; empty where it is."""

    def metrics(self) -> str:
        """In Prometheus's text format, for a textfile collector."""
        label = f'{{tenant="{self.tenant}"}}'
        lines = [
            f"headwater_model_age_days{label} {self.age_days:.6g}",
            f"headwater_slates_degraded_share{label} {self.degraded_share:.6g}",
        ]
        named = [("score", self.score)] if self.score else []
        for name, drift in [*named, *((each.name, each) for each in self.features)]:
            column = f'{{tenant="{self.tenant}",column="{name}"}}'
            lines.append(f"headwater_drift_psi{column} {drift.psi:.6g}")
        return "\n".join(lines) + "\n"


_DEFAULT: Final = DriftConfig()


def psi(before: Numbers, now: Numbers, config: DriftConfig = _DEFAULT) -> float:
    """The population stability index of two samples; NaN is a bin of its own. 0 where alike.

    >>> psi(np.arange(100.0), np.arange(100.0))
    0.0
    >>> psi(np.arange(100.0), np.arange(100.0) + 90) > 1
    True
    """
    finite = before[np.isfinite(before)]
    inner = np.linspace(0, 1, config.bins + 1)[1:-1]
    edges = np.unique(np.quantile(finite, inner)) if len(finite) else np.zeros(0)
    shares = []
    for sample in (before, now):
        places = np.where(
            np.isnan(sample), len(edges) + 1, np.searchsorted(edges, sample, side="left")
        )
        counts = np.bincount(places, minlength=len(edges) + 2)
        shares.append(np.maximum(counts / max(len(sample), 1), config.share_min))
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def measure_drift(
    slates: Path | str, tenant: str, trained_us: int, config: DriftConfig = _DEFAULT
) -> DriftReport:
    """The last day of an export of slates beside what was served before `trained_us`.

    Raises `TrainingError` where the export has no slates of the tenant, or too many to hold.
    """
    frame = _read(Path(slates) / f"tenant={check_tenant_id(tenant)}", config)
    last_us = int(frame["time_us"].max())
    today = frame[frame["time_us"] > last_us - DAY_US]
    before = frame[frame["time_us"] < min(trained_us, last_us - DAY_US + 1)]
    before = before[before["spec_fingerprint"] == today["spec_fingerprint"].iloc[-1]]
    now = today[today["spec_fingerprint"] == today["spec_fingerprint"].iloc[-1]]
    first = today.drop_duplicates("slate_id")
    problem, score = "", None
    features: tuple[Drift, ...] = ()
    if min(len(before), len(now)) < config.rows_min:
        problem = (
            f"{len(before)} places were served before the training with the features of now, and "
            f"{len(now)} on the last day: at least {config.rows_min} of each tell a drift"
        )
    else:
        score = _drift("score", before["score"].to_numpy(), now["score"].to_numpy(), config)
        features = _features(before, now, config)
    return DriftReport(
        tenant=tenant,
        age_days=(last_us - trained_us) / DAY_US,
        slates_before=before["slate_id"].nunique(),
        slates_now=len(first),
        degraded_share=float(first["degraded"].notna().mean()),
        score=score,
        features=features,
        problem=problem,
    )


def _features(
    before: "pd.DataFrame", now: "pd.DataFrame", config: DriftConfig
) -> tuple[Drift, ...]:
    names = str(now["feature_names"].iloc[-1]).split(",")
    first, last = (np.stack(list(part["features"])) for part in (before, now))
    found = [
        _drift(name, first[:, column], last[:, column], config) for column, name in enumerate(names)
    ]
    return tuple(sorted(found, key=lambda drift: (-drift.psi, drift.name)))


def _drift(name: str, before: Numbers, now: Numbers, config: DriftConfig) -> Drift:
    return Drift(
        name=name,
        psi=psi(before, now, config),
        missing_before=float(np.isnan(before).mean()),
        missing_now=float(np.isnan(now).mean()),
    )


def _read(root: Path, config: DriftConfig) -> "pd.DataFrame":
    """The places that were shown: their slate, time, score and features."""
    import pandas as pd  # noqa: PLC0415 - half a second that only this pays
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    files = sorted(root.glob("day=*/slates-*.parquet"))
    try:
        rows = sum(pq.ParquetFile(file).metadata.num_rows for file in files)
        if rows > config.rows_max:
            raise TrainingError(
                f"{root} has {rows} places, rows_max is {config.rows_max}: export fewer days"
            )
        parts = [pq.ParquetFile(file).read(columns=list(_COLUMNS)).to_pandas() for file in files]
    except (OSError, pa.ArrowException) as error:
        raise TrainingError(f"{root} cannot be read ({error}): export the slates again") from error
    shown = [part[part["position"] >= 0] for part in parts]
    if not any(len(part) for part in shown):
        raise TrainingError(f"{root} has no slates: run `headwater slates export` first")
    frame: pd.DataFrame = pd.concat(shown, ignore_index=True)
    frame["time_us"] = frame["time"].astype("datetime64[us, UTC]").astype("int64")
    return frame


_COLUMNS: Final = (
    "slate_id",
    "time",
    "spec_fingerprint",
    "degraded",
    "position",
    "score",
    "feature_names",
    "features",
)
