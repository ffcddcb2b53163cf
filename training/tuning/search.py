"""Searching for hyperparameters within a time budget, on validation alone; the importer of Optuna.

Tree-structured Parzen estimators propose (Bergstra and others 2011), the median of earlier trials
at the same step prunes. The first trial of each space is its default: what comes out is never worse
on validation than not to search. The spaces take turns, so that a short budget is shared out.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

import msgspec
import optuna

from training.config import SearchConfig
from training.errors import TrainingError
from training.sources.base import Progress, no_progress

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Draws",
    "Found",
    "Judge",
    "Space",
    "Study",
    "Told",
    "TrialRecord",
    "search",
]

T = TypeVar("T")

Outcome = Literal["finished", "pruned", "out of time", "failed"]


class Draws(Protocol):
    """What a space draws hyperparameters from: a trial of Optuna."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number from `low` to `high`, on a logarithmic scale if asked for."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number from `low` to `high`, both included."""
        ...


@dataclass(frozen=True, slots=True)
class Space(Generic[T]):
    """Where to search: `draw` makes a trainer of what it draws, `first` is tried before all."""

    first: Mapping[str, float]
    """Values of the names that `draw` asks for."""
    draw: Callable[[Draws], T]


Told = Callable[[int, float], None]
"""Told by a judge of a step of the training and how good it is then; it may end the trial."""

Judge = Callable[[T, Told], float]
"""Trains, and says how good it is on validation: higher is better."""


class TrialRecord(msgspec.Struct, frozen=True):
    """One trial: what was tried, how good it was on validation, how it ended, and how long."""

    space: str
    number: int
    values: dict[str, float]
    outcome: Outcome
    score: float | None
    steps: int
    seconds: float
    note: str = ""


class Study(msgspec.Struct, frozen=True):
    """Everything that was tried, as it is kept with a model's version."""

    metric: str
    seed: int
    seconds: float
    best: TrialRecord
    trials: tuple[TrialRecord, ...]

    def to_json(self) -> bytes:
        """As JSON that people can read."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    @classmethod
    def from_json(cls, text: bytes | str) -> "Study":
        """Read what `to_json` wrote."""
        return msgspec.json.decode(text, type=cls)

    def to_frame(self) -> "pd.DataFrame":
        """One row a trial, in the order they ran, by `trial` from 0.

        Columns `space`, `score` (NaN where there is none), `best_so_far` (of finished trials),
        `outcome`, `steps`, `seconds`, `note`, and each hyperparameter, NaN where the space has none
        such. The score of a trial that ended early is that of its last step.
        """
        import pandas as pd  # noqa: PLC0415 - half a second that only notebooks pay

        rows = [
            {"space": t.space, "score": t.score, "outcome": t.outcome, "steps": t.steps}
            | {"seconds": t.seconds, "note": t.note, **t.values}
            for t in self.trials
        ]
        frame = pd.DataFrame(rows).rename_axis("trial").astype({"score": "float64"})
        finished = frame["score"].where(frame["outcome"] == "finished")
        frame.insert(2, "best_so_far", finished.cummax().ffill())
        return frame

    def to_markdown(self) -> str:
        """A summary, and a table of the trials, the best first."""
        outcomes = [trial.outcome for trial in self.trials]
        lines = [
            f"# Search: {self.metric}",
            "",
            f"{len(self.trials)} trials in {self.seconds:.0f} s, seed {self.seed}: "
            + ", ".join(f"{outcomes.count(each)} {each}" for each in dict.fromkeys(outcomes))
            + f". Best: {self.best.space} with {self.best.score:.4f}.",
            "",
            "| space | trial | score | outcome | seconds | values |",
            "|---|--:|--:|---|--:|---|",
        ]
        return "\n".join([*lines, *map(_table_row, self.ranked())]) + "\n"

    def ranked(self) -> list[TrialRecord]:
        """The trials, the best first, those without a score last."""
        return sorted(self.trials, key=lambda t: (t.score is None, -(t.score or 0.0)))


def _table_row(trial: TrialRecord) -> str:
    score = "" if trial.score is None else f"{trial.score:.4f}"
    values = ", ".join(f"{name} {value:.4g}" for name, value in trial.values.items())
    outcome = trial.outcome + (f": {trial.note}" if trial.note else "")
    return (
        f"| {trial.space} | {trial.number} | {score} | {outcome} | {trial.seconds:.1f} | {values} |"
    )


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """The best of a search: the trainer to use, and the study that says why."""

    trainer: T
    score: float
    study: Study


class _Ended(Exception):
    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def search(
    spaces: Mapping[str, Space[T]],
    judge: Judge[T],
    metric: str,
    config: SearchConfig | None = None,
    *,
    progress: Progress = no_progress,
    clock: Callable[[], float] = time.monotonic,
) -> Found[T]:
    """The best of what could be tried in the time: by finished trials alone.

    `metric` names what the judge measures. At least the first trial of the first space runs to its
    end, however long. `progress` is told of whole seconds. Raises `TrainingError` where every trial
    failed, with what the last one said.
    """
    config = config or SearchConfig()
    started = clock()
    searches = [_Search(name, space, config, at) for at, (name, space) in enumerate(spaces.items())]
    trials: list[TrialRecord] = []
    best: Found[T] | None = None
    for turn in _turns(searches, config):
        spent = clock() - started
        if spent >= config.seconds and best is not None:
            break
        shown = f"{turn.name}, best {best.score:.4f}" if best else turn.name
        progress(f"searching: {shown}", min(int(spent), int(config.seconds)), int(config.seconds))
        end = started + config.seconds if best is not None else float("inf")
        trainer, record = turn.run(judge, clock, end)
        trials.append(record)
        finished = record.outcome == "finished" and record.score is not None
        if finished and record.score is not None and (best is None or record.score > best.score):
            study = Study(metric, config.seed, 0.0, record, ())
            best = Found(trainer, record.score, study)
    if best is None:
        said = trials[-1].note if trials else "no space was given"
        raise TrainingError(f"every one of {len(trials)} trials failed; the last one: {said}")
    whole = msgspec.structs.replace(
        best.study, seconds=round(clock() - started, 2), trials=tuple(trials)
    )
    return Found(best.trainer, best.score, whole)


def _turns(searches: "list[_Search[T]]", config: SearchConfig) -> "Iterator[_Search[T]]":
    for _ in range(config.trials_max):
        yield from searches


class _Search(Generic[T]):
    """One space and its study in memory."""

    def __init__(self, name: str, space: Space[T], config: SearchConfig, place: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.name = name
        self._space = space
        self._study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(
                seed=config.seed + place, n_startup_trials=config.startup_trials
            ),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=config.startup_trials),
        )
        self._study.enqueue_trial(dict(space.first))

    def run(self, judge: Judge[T], clock: Callable[[], float], end: float) -> tuple[T, TrialRecord]:
        """One trial, told to the study."""
        trial = self._study.ask()
        trainer = self._space.draw(trial)
        started, steps = clock(), 0
        outcome: Outcome = "finished"
        score, note = None, ""

        def told(step: int, value: float) -> None:
            nonlocal steps, score
            steps, score = step, value
            trial.report(value, step)
            if clock() >= end:
                raise _Ended("out of time")
            if trial.should_prune():
                raise _Ended("pruned")

        try:
            score = float(judge(trainer, told))
        except _Ended as ended:
            outcome = ended.outcome
        except TrainingError as error:
            outcome, score, note = "failed", None, str(error)
        self._tell(trial, outcome, score)
        return trainer, TrialRecord(
            space=self.name,
            number=trial.number,
            values=dict(trial.params),
            outcome=outcome,
            score=score,
            steps=steps,
            seconds=round(clock() - started, 3),
            note=note,
        )

    def _tell(self, trial: Any, outcome: Outcome, score: float | None) -> None:
        # Any: Optuna is untyped here
        states = optuna.trial.TrialState
        if outcome == "finished":
            self._study.tell(trial, score)
        else:
            self._study.tell(trial, state=states.FAIL if outcome == "failed" else states.PRUNED)
