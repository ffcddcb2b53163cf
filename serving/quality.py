"""How much a ranked read may cost: a factor that answers lateness with less work. Pure.

A worker's factor rises a step for each read within its target and falls for each over it, in such a
proportion that it rests where a named share of reads is late (the quality factor of Twitter's
product-mixer). It scales how many candidates are ranked, and below named thresholds turns off what
a feed can do without. A read that had to wait for its turn does less besides, the less the longer
it waited, so that those behind it do not wait longer still. And a read has a deadline: a source
that is likely to overrun it is left out. Time comes from outside, explanations are never touched,
and nothing here raises.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Final, NamedTuple

from ranking.slates import SlateQuality

__all__ = [
    "NO_LIMIT",
    "STEPS",
    "Deadline",
    "Plan",
    "QualityConfig",
    "QualityFactor",
    "SourceCosts",
    "TimeGiven",
    "sentence_of",
]

STEPS: Final = ("candidates", "diversity", "features", "sources", "model", "chronological")
"""What may be given up, in this order: each is a label of a metric and stands in the reply."""

_SENTENCES: Final = {
    "candidates": "fewer candidates were ranked",
    "diversity": "diversity was left out",
    "features": "optional features were left out",
    "sources": "late sources were left out",
    "model": "the model was left out",
    "chronological": "only the newest were looked at",
}


@dataclass(frozen=True, slots=True)
class QualityConfig:
    """When quality gives way to time, and how far."""

    factor_min: float = 0.1
    """The factor never falls below it, above 0 and at most 1."""

    late_share: float = 0.02
    """Share of late reads at which the factor rests, above 0 and below 1."""

    rise: float = 0.002
    """What a read within its target adds to the factor. A late one takes `fall`."""

    target_share: float = 0.5
    """A read is late after this share of its deadline: the rest is for what waits unseen."""

    wait_free_share: float = 0.1
    """Share of its deadline that a read may have waited for its turn without doing less for it."""

    wait_max_share: float = 0.3
    """Share of its deadline after which a read that waited does the least: a queue settles here,
    and what is left is for a stall of the machine."""

    diversity_below: float = 0.8
    """Factor below which what resembles the places above it no longer gives way."""

    features_below: float = 0.6
    """Factor below which optional features count as missing."""

    sources_below: float = 0.4
    """Factor below which only the first source, and what the caller brings, are asked."""

    model_below: float = 0.2
    """Factor below which the fallback ranks in the model's place."""

    source_weight: float = 0.2
    """Weight of the last call in a source's recent cost."""

    source_forget: float = 0.8
    """What a source's cost is multiplied by each time it is left out, so that it is tried again."""

    sources_max: int = 64
    """Sources whose cost is held; there are fewer names than that."""

    @property
    def fall(self) -> float:
        """What a late read takes from the factor."""
        return self.rise * (1 - self.late_share) / self.late_share

    def pace(self, waited_share: float) -> float:
        """What a read may still do that waited for such a share of its deadline, from 1 to 0.

        It falls in a straight line between `wait_free_share` and `wait_max_share`, or the target
        where that is sooner.
        """
        if waited_share <= self.wait_free_share:
            return 1.0
        last = min(self.wait_max_share, self.target_share)
        span = last - self.wait_free_share
        return 0.0 if span <= 0 else max(0.0, (last - waited_share) / span)

    @property
    def late_to_min(self) -> int:
        """Late reads in a row that take the factor from 1 to its minimum."""
        return ceil((1 - self.factor_min) / self.fall - 1e-9)

    @property
    def timely_to_full(self) -> int:
        """Timely reads in a row that take it from its minimum to 1."""
        return ceil((1 - self.factor_min) / self.rise - 1e-9)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one read may do: `factor` is the worker's at its beginning, `given_up` of `STEPS`."""

    factor: float = 1.0
    given_up: tuple[str, ...] = ()

    @classmethod
    def at(cls, factor: float, config: QualityConfig) -> "Plan":
        """The plan of a factor: the lower it is, the more is given up."""
        given_up = [
            step
            for step, below in (
                ("candidates", 1.0),
                ("diversity", config.diversity_below),
                ("features", config.features_below),
                ("sources", config.sources_below),
                ("model", config.model_below),
            )
            if factor < below
        ]
        return cls(factor, tuple(given_up))

    def without(self, *steps: str) -> "Plan":
        """The plan that gives up these as well."""
        given_up = {*self.given_up, *steps}
        return Plan(self.factor, tuple(step for step in STEPS if step in given_up))

    def allows(self, step: str) -> bool:
        """Whether a step is still taken."""
        return step not in self.given_up

    def whole(self) -> "Plan":
        """The plan for candidates that the caller brings: all of them are ranked."""
        given_up = [step for step in self.given_up if step not in ("candidates", "sources")]
        return Plan(self.factor, tuple(given_up))

    def scaled(self, quota: int) -> int:
        """A quota, above 0, or a number of candidates, as the factor has it: above 0 as well."""
        return quota if self.allows("candidates") else ceil(quota * self.factor)


def sentence_of(quality: SlateQuality) -> str | None:
    """What was given up, for people; None where nothing was."""
    if not quality.steps:
        return None
    late = f" ({', '.join(quality.late_sources)})" if quality.late_sources else ""
    told = [_SENTENCES[step] + late * (step == "sources") for step in quality.steps]
    return f"there was little time: {'; '.join(told)}"


class QualityFactor:
    """A worker's factor: 1 at the start, always between `factor_min` and 1."""

    def __init__(self, config: QualityConfig = QualityConfig()) -> None:
        self.config = config
        self.factor = 1.0

    def plan(self, waited_share: float = 0.0) -> Plan:
        """What a read may do that begins now, after it waited for such a share of its deadline.

        One that waited for `wait_max_share` gives the cheapest answer: those behind it wait as
        well. A `factor_min` of 1 turns both off.
        """
        pace = self.config.pace(waited_share)
        if pace <= 0 and self.config.factor_min < 1:
            return Plan.at(self.factor, self.config).without("model", "chronological")
        return Plan.at(max(self.config.factor_min, min(self.factor, pace)), self.config)

    def note(self, took_ms: float, deadline_ms: float) -> None:
        """Count a read: whether it was over its target moves the factor."""
        config = self.config
        if took_ms > deadline_ms * config.target_share:
            self.factor = max(config.factor_min, self.factor - config.fall)
        else:
            self.factor = min(1.0, self.factor + config.rise)


class SourceCosts:
    """What each source took lately, milliseconds: whether there is still time for it."""

    def __init__(self, config: QualityConfig = QualityConfig()) -> None:
        self._config = config
        self._ms: dict[str, float] = {}

    def fits(self, source: str, left_ms: float) -> bool:
        """Whether the source is likely to end in time; each refusal makes the next less likely."""
        cost_ms = self._ms.get(source, 0.0)
        if cost_ms <= left_ms:
            return left_ms > 0
        self._ms[source] = cost_ms * self._config.source_forget
        return False

    def note(self, source: str, took_ms: float) -> None:
        """Count a call of the source."""
        if source in self._ms:
            self._ms[source] += self._config.source_weight * (took_ms - self._ms[source])
        elif len(self._ms) < self._config.sources_max:
            self._ms[source] = took_ms


class TimeGiven(NamedTuple):
    """What a request says of its time; `began_ns` is when it came, by `perf_counter_ns`."""

    deadline_ms: float | None = None
    began_ns: int | None = None


NO_LIMIT: Final = TimeGiven()
"""Of a request that says nothing of its time."""


@dataclass(slots=True)
class Deadline:
    """When a read has to be answered. `clock_ns` is monotonic, `began_ns` when the read came."""

    clock_ns: Callable[[], int]
    limit_ms: float
    began_ns: int
    late_sources: list[str] = field(default_factory=list)
    """Sources that were left out for it, or that came too late."""

    def took_ms(self) -> float:
        """How long the read has taken so far."""
        return (self.clock_ns() - self.began_ns) / 1e6

    def waited_share(self) -> float:
        """What it has taken so far, as a share of the whole; 1 where there is no time at all."""
        return self.took_ms() / self.limit_ms if self.limit_ms > 0 else 1.0

    def left_ms(self) -> float:
        """What is left of the time, 0 at least."""
        return max(0.0, self.limit_ms - self.took_ms())

    def over(self) -> bool:
        """Whether nothing is left."""
        return self.left_ms() <= 0

    def told(self, plan: Plan) -> SlateQuality:
        """What the read gave up."""
        late: Sequence[str] = tuple(dict.fromkeys(self.late_sources))
        steps = plan.without("sources").given_up if late else plan.given_up
        return SlateQuality(round(plan.factor, 4), steps, tuple(late))
