"""Every setting and limit of training, in one frozen class with its units."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Final, Literal

from feeds.events import ENGAGEMENT_KINDS
from training.errors import TrainingError

__all__ = [
    "DAY_S",
    "PRESETS",
    "TRAINERS",
    "AlsConfig",
    "BoostedConfig",
    "BoostedVariant",
    "BudgetConfig",
    "ClusterConfig",
    "EaseConfig",
    "EvaluationConfig",
    "FactorizationConfig",
    "GateConfig",
    "HeadsConfig",
    "LabelConfig",
    "RequestConfig",
    "ScheduleConfig",
    "SearchConfig",
    "SplitConfig",
    "TrainingConfig",
    "allowing",
    "preset",
    "searching",
]

DAY_S = 86_400.0
"""Seconds of a day."""

TRAINERS: Final = ("warp", "als", "ease", "logistic", "boosted", "heads")
"""Who can take part in a run: three of factors, then those of rankers."""

_LABELS = ("click", "like", "comment", "share", "bookmark")


@dataclass(frozen=True, slots=True)
class SplitConfig:
    """Shares of the engagements, by time, that each step may learn or be judged from.

    Factors are learnt from the first part and are a feature of the second: had they seen its
    labels, the ranker would learn to trust them more than it can when serving.
    """

    factors: float = 0.45
    """Share of the engagements from which factors are learnt."""
    ranker: float = 0.20
    """Share of the next ones, whose requests train the ranker."""
    validation: float = 0.15
    """Share of the next ones, which stop the training early and choose the model."""
    test: float = 0.20
    """Share of the last ones, looked at once."""

    def problems(self) -> list[str]:
        """Every mistake as a sentence."""
        shares = asdict(self)
        found = [
            f"split {name} is {share}: a share lies above 0 and below 1"
            for name, share in shares.items()
            if not 0 < share < 1
        ]
        if abs(sum(shares.values()) - 1) > 1e-6:  # noqa: PLR2004 - rounding of decimal shares
            found.append(f"the split shares add up to {sum(shares.values()):.3f}, not to 1")
        return found


@dataclass(frozen=True, slots=True)
class RequestConfig:
    """How engagements become requests, and what could have been shown in each."""

    window_s: int = 3_600
    """Seconds after a request's first touch in which further first touches belong to it."""
    touches_max: int = 10
    """First touches that one request can have."""
    candidates_max: int = 500
    """Candidates of a request; the newest are kept."""
    active_days: int | None = None
    """Days: candidates are what was active within them; None: the mix that serving uses."""
    earlier_touches_min: int = 0
    """First touches that a user must have before a request counts."""
    table_rows: int = 100_000
    """Activities that the replay's table holds, as in serving."""
    train_requests_max: int = 1_000
    """Requests that train the ranker; more are thinned out at random."""
    validation_requests_max: int = 700
    """Requests that choose the model; more are thinned out at random."""
    test_requests_max: int = 3_000
    """Requests that judge the model; more are thinned out at random."""
    explore_requests_max: int = 1_000
    """Of those, requests that are asked for the explore feed too, chosen at random; 0: none."""
    shown_requests_min: int = 200
    """Requests with impressions, of which something was engaged with and something was not, from
    which on the ranker learns from them; below, from first touches."""
    labels: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(_LABELS, 1))
    """Relevance of each engagement kind, a whole number from 0 (not relevant) to 31."""


_HOUR_S = 3_600
_DAY_S = 24 * _HOUR_S
_YEAR_S = 366 * _DAY_S


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """How what users did becomes labels of what they were shown."""

    windows_s: Mapping[str, int] = field(
        default_factory=lambda: {
            "click": _HOUR_S,
            "like": _DAY_S,
            "comment": 7 * _DAY_S,
            "share": 7 * _DAY_S,
            "bookmark": _DAY_S,
            "hide": _DAY_S,
            "dwell": _HOUR_S,
            "report": _DAY_S,
        }
    )
    """Seconds after an impression in which an engagement of each kind counts as come from it."""
    dwell_s_min: float = 10.0
    """Seconds from which on a look at an activity is a long one, which is what `dwell` labels."""
    grace_s: int = _HOUR_S
    """Seconds that news of an engagement may be late; a window is closed when they are over."""
    pause_s: int = 1_800
    """Seconds without an impression that end a request, where no slate says what was one."""
    ahead_s_max: int = _DAY_S
    """Seconds that an event may be ahead of most that come after it; beyond, its clock is wrong."""
    unshown: Literal["leave_out", "as_shown"] = "leave_out"
    """What becomes of an engagement without an impression: it teaches nothing, or it stands for
    the impression too, which makes every such row a positive one."""

    def problems(self) -> list[str]:
        """Every mistake as a sentence."""
        found = [
            f"there is no engagement kind {kind!r}: windows are for {', '.join(ENGAGEMENT_KINDS)}"
            for kind in self.windows_s
            if kind not in ENGAGEMENT_KINDS
        ]
        found += [
            f"{kind} has no window: give its seconds"
            for kind in ENGAGEMENT_KINDS
            if kind not in self.windows_s
        ]
        seconds: dict[str, float] = {**self.windows_s, "grace": self.grace_s}
        seconds |= {"pause": self.pause_s, "dwell_s_min": self.dwell_s_min}
        found += [
            f"the seconds of {name} are {value}: give 0 to {_YEAR_S}"
            for name, value in {**seconds, "ahead": self.ahead_s_max}.items()
            if not 0 <= value <= _YEAR_S
        ]
        if self.unshown not in {"leave_out", "as_shown"}:
            found.append(f"unshown is {self.unshown!r}: it is leave_out or as_shown")
        return found


@dataclass(frozen=True, slots=True)
class FactorizationConfig:
    """LightFM with WARP loss (`warp`) and one thread, so that a seed gives the same factors."""

    dimensions: int = 32
    """Length of a user's or activity's vector."""
    epochs: int = 20
    """Passes over the engagements."""
    learning_rate: float = 0.05
    """First step size of Adagrad."""
    item_alpha: float = 1e-5
    """L2 penalty on activity and tag factors."""
    user_alpha: float = 1e-5
    """L2 penalty on user factors."""
    engagements_min: int = 50
    """Distinct engagements below which there is nothing to factorize, for any trainer."""


@dataclass(frozen=True, slots=True)
class AlsConfig:
    """Alternating least squares on the engagements of the factors' part; knows no tags."""

    dimensions: int = 32
    """Length of a user's or activity's vector."""
    l2: float = 75.0
    """Penalty on the vectors."""
    alpha: float = 12.5
    """How much more an engagement counts than none."""
    epochs: int = 20
    """Passes over users and activities."""


@dataclass(frozen=True, slots=True)
class EaseConfig:
    """EASE on the engagements of the factors' part, for catalogues that are small enough."""

    l2: float = 500.0
    """Penalty on the weights."""
    activities_max: int = 5_000
    """Activities beyond which it is left out: 12 bytes a pair (300 MB), and time is cubic."""
    dimensions: int = 128
    """Length of the vectors that serve it: the nearest matrix of scores that such vectors give."""


@dataclass(frozen=True, slots=True)
class BoostedVariant:
    """One XGBoost model to try. `families` None means every feature family."""

    name: str
    depth: int
    families: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class BoostedConfig:
    """XGBoost `rank:ndcg` on the requests of the training window."""

    variants: tuple[BoostedVariant, ...] = (
        BoostedVariant("boosted-3", 3),
        BoostedVariant("boosted-4", 4),
        BoostedVariant("boosted-6", 6),
        BoostedVariant("boosted-recency", 3, ("recency",)),
    )
    """The models that are tried; validation chooses."""
    trees_max: int = 150
    """Trees, unless validation stops earlier."""
    stop_rounds: int = 20
    """Trees without a better validation NDCG@10 after which training stops."""
    ask_every: int = 5
    """Trees between two looks at validation."""
    learning_rate: float = 0.1
    """Shrinkage of each tree."""
    rows_per_leaf_min: float = 5.0
    """Least sum of second derivatives in a leaf (XGBoost's min_child_weight)."""
    l2: float = 5.0
    """L2 penalty on leaf weights."""
    rows_share: float = 0.8
    """Share of rows that each tree sees."""
    columns_share: float = 0.8
    """Share of columns that each tree sees."""
    pairs_per_candidate: int = 8
    """Candidates that each candidate is compared with (lambdarank_num_pair_per_sample)."""
    user_weight_power: float = 0.5
    """A request weighs `1 / n ** power`, n the requests of its user: 0 counts requests alike, 1
    users; in between, who reads most does not decide alone."""
    threads: int = 1
    """Threads of one model; the variants already run side by side."""
    distributed_rows_min: int | None = None
    """Candidates in the training requests from which on each variant grows on all workers of a
    cluster, where its tenant is trained alone on more than one; None: never. The requests' own
    limits leave 500,000 at most, and two workers of one machine gain nothing even at 2,000,000:
    set it where workers have machines of their own, and raise `train_requests_max` with it."""


@dataclass(frozen=True, slots=True)
class HeadsConfig:
    """A value model: a calibrated classifier for each kind of engagement with what was shown."""

    classifier: Literal["trees", "linear"] = "trees"
    """What each head is."""
    calibration: Literal["platt", "isotonic"] = "platt"
    """What makes its scores probabilities."""
    depth: int = 4
    """Depth of the trees; the rest is the `BoostedConfig`'s."""
    positives_min: int = 20
    """Engagements of a kind, in each part, below which it gets no head."""
    heads_min: int = 2
    """Heads below which there is no value model."""
    weights: Mapping[str, float] | None = None
    """What an engagement of each kind is worth when models are compared; None: what the tenant's
    ranking config says that was active at the export, or the default one. A service weighs by the
    config that is active then."""


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """How models are compared."""

    k: int = 10
    """Places that count."""
    draws: int = 2_000
    """Bootstrap draws of users, for 95 % intervals."""
    young_days: float = 8.0
    """Days from the first engagement to the last below which the report says that the data is too
    young: in simulated communities models of 4 days were worse than newest first, of 8 better."""


@dataclass(frozen=True, slots=True)
class GateConfig:
    """What a version must show before it may replace the live one."""

    gain_min: float = 0.0
    """NDCG by which it must be better than what is live: the lower end of the interval lies above.

    A negative number lets a version through that is worse by less than that."""
    band_users_min: int = 20
    """Users that a band of activity must have to be judged by."""
    latency_candidates: int = 500
    """Candidates that are scored when its speed is measured."""
    latency_rounds: int = 50
    """Times that they are scored; the median counts."""
    latency_ms_max: float = 5.0
    """Milliseconds that scoring them may take, on the machine that judges."""
    bundle_bytes_max: int = 268_435_456
    """Bytes of all its files: 256 MiB."""


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """How long, and how much, is searched for hyperparameters."""

    seconds: float = 600.0
    """Seconds after which no trial begins, and one that goes on ends at its next step."""
    trials_max: int = 100
    """Trials of each space."""
    startup_trials: int = 6
    """Trials of each space before any is pruned or proposed by what was seen."""
    factors_share: float = 0.4
    """Share of the seconds for the factors; rankers have the others, and what is left of these."""
    seed: int = 20_180_312
    """Seeds what is proposed: with `trials_max` as the only limit, a search repeats."""


@dataclass(frozen=True, slots=True)
class BudgetConfig:
    """What one tenant's training may take; beyond it the training ends and nothing is published."""

    seconds_max: float = 14_400.0
    """Seconds from the reading of its events to its last step."""
    memory_bytes_max: int = 8_589_934_592
    """Resident memory of a worker while it does a step of this tenant."""
    minutes_a_day: int = 600
    """Minutes of training within 24 hours after which none begins, where the tenant has no quota
    of its own (`training_minutes`)."""
    note_every_s: float = 30.0
    """Seconds of training that are noted together: what a kill may leave uncounted of a step."""


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """The Dask cluster that is made when no scheduler is named."""

    workers: int = 2
    """Processes, one thread each."""
    worker_memory_bytes: int = 2_147_483_648
    """Memory above which a worker is restarted."""
    connect_s_max: int = 10
    """Seconds that a scheduler may take to answer."""
    start_s_max: int = 60
    """Seconds to wait for the first worker."""
    restart_s_max: int = 60
    """Seconds in which a worker that died must be back, or another is made in its place."""
    without_workers_s_max: int = 180
    """Seconds without any worker after which the training ends."""
    deaths_max: int = 2
    """Workers of the local cluster that a step may take with it before the training ends."""
    dashboard_address: str = "127.0.0.1:0"
    """Where Dask's dashboard listens: loopback, any free port."""


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """All of it. Two runs with equal config, events and seed give equal models."""

    seed: int = 20_180_312
    """Seeds every random choice."""
    trainers: tuple[str, ...] = TRAINERS
    """Who takes part, by the names in `TRAINERS`; recency and popularity always do."""
    split: SplitConfig = field(default_factory=SplitConfig)
    requests: RequestConfig = field(default_factory=RequestConfig)
    labels: LabelConfig = field(default_factory=LabelConfig)
    factorization: FactorizationConfig = field(default_factory=FactorizationConfig)
    als: AlsConfig = field(default_factory=AlsConfig)
    ease: EaseConfig = field(default_factory=EaseConfig)
    boosted: BoostedConfig = field(default_factory=BoostedConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    gates: GateConfig = field(default_factory=GateConfig)
    search: SearchConfig | None = None
    """Search for hyperparameters of the rankers on validation first; None: those above are used."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    derived: tuple[str, ...] = ()
    """Sentences on what the data's source derived; they are repeated in every report."""

    def check(self) -> "TrainingConfig":
        """Itself; raises `TrainingError` with every mistake at once."""
        found = [*self.split.problems(), *self.labels.problems()]
        found += [
            f"there is no trainer {name!r}: trainers are {', '.join(TRAINERS)}"
            for name in self.trainers
            if name not in TRAINERS
        ]
        found += [
            f"label of {kind} is {label}: a label is a whole number from 0 to 31"
            for kind, label in self.requests.labels.items()
            if not 0 <= label <= 31  # noqa: PLR2004 - what rank:ndcg takes
        ]
        if found:
            raise TrainingError("; ".join(found))
        return self


PRESETS: Mapping[str, SplitConfig] = MappingProxyType(
    {
        "default": SplitConfig(),
        "movielens": SplitConfig(),
        # The last 40 %, so that the figures stand beside those of the data's README.
        "stackexchange": SplitConfig(factors=0.20, ranker=0.25, validation=0.15, test=0.40),
    }
)
"""Split shares by data set."""


def preset(name: str) -> TrainingConfig:
    """The config for a data set; raises `TrainingError` with the names there are."""
    if name not in PRESETS:
        raise TrainingError(f"there is no preset {name!r}: use one of {', '.join(PRESETS)}")
    return replace(TrainingConfig(), split=PRESETS[name])


def allowing(config: TrainingConfig, minutes_a_day: int) -> TrainingConfig:
    """The config with so many minutes a day for tenants without a quota of their own."""
    return replace(config, budget=replace(config.budget, minutes_a_day=minutes_a_day))


def searching(config: TrainingConfig, seconds: float) -> TrainingConfig:
    """The config with a search of so many seconds, and as much more time to train; 0: as it is."""
    if not seconds:
        return config
    return replace(
        config,
        search=SearchConfig(seconds=seconds, seed=config.seed),
        budget=replace(config.budget, seconds_max=config.budget.seconds_max + seconds),
    )


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """When a tenant is trained again."""

    new_events_min: int = 1_000
    """Events since the last training from which on a tenant is due."""
    age_s_max: float = 7 * DAY_S
    """Seconds after which a model is trained anew, if there is any new event at all."""
    retry_s: float = 3_600.0
    """Seconds that a tenant whose training failed is left alone, unless it has as many new events
    as make it due."""
    look_every_s: float = 60.0
    """Seconds between two looks, of `--watch`."""
    tenants_max: int = 10_000
    """Tenants of an export that are looked at; with more, none is."""

    def check(self) -> "ScheduleConfig":
        """Itself; raises `TrainingError` with every mistake at once."""
        found = [
            f"{each.name} is {getattr(self, each.name)}: give a number above 0"
            for each in fields(self)
            if not getattr(self, each.name) > 0
        ]
        if found:
            raise TrainingError("; ".join(found))
        return self
