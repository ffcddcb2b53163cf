"""What requests ask of factors, kept apart from any: so that many are judged after one replay."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from feeds.model import UserId
from ranking.features import FeatureSpec
from ranking.scorers.factorization import FactorTable
from training.config import TrainingConfig
from training.events.log import EventLog
from training.sets.dataset import TrainingSet, collect
from training.sets.replay import Answerable, replay
from training.sets.requests import find_requests, thin_out
from training.sets.splits import PartName, Split

__all__ = ["FactorQuestions", "factor_questions"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

_SPEC: Final = FeatureSpec(("factor_dot",))
_POSITION_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class FactorQuestions:
    """q requests with n candidates: who asks is in `requests`, and what was touched.

    `positions` uint8[n, 16] names the candidates; `tags` int32[n, k] are numbers into `tag_names`,
    -1 where there is none.
    """

    requests: TrainingSet
    positions: npt.NDArray[np.uint8]
    tags: Ints
    tag_names: list[str]

    def scores(self, table: FactorTable) -> Floats:
        """Dot product and bias of each candidate, float32[n], bit for bit as serving adds them."""
        starts, found = self.requests.starts.tolist(), np.empty(len(self.positions), np.float32)
        for number, user in enumerate(self.requests.users):
            rows = slice(starts[number], starts[number + 1])
            positions = [row.tobytes() for row in self.positions[rows]]
            dots, biases = table.dot(UserId(user), positions, self.tags[rows], self.tag_names)
            found[rows] = dots + biases
        return found

    def save(self, path: Path) -> Path:
        """Write them beside their requests, which go to the same path with `.requests` before."""
        self.requests.save(_requests(path))
        with path.open("wb") as stream:
            names = np.array(self.tag_names, np.str_)
            np.savez(
                stream,
                allow_pickle=False,
                positions=self.positions,
                tags=self.tags,
                tag_names=names,
            )
        return path

    @classmethod
    def load(cls, path: Path) -> "FactorQuestions":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(
                TrainingSet.load(_requests(path)),
                arrays["positions"],
                arrays["tags"],
                arrays["tag_names"].tolist(),
            )


def _requests(path: Path) -> Path:
    return path.with_name(f"{path.stem}.requests{path.suffix}")


@dataclass(slots=True)
class _Asked:
    """Factors that know nothing, and keep what they are asked."""

    positions: list[Sequence[bytes]] = field(default_factory=list)
    tags: list[Ints] = field(default_factory=list)
    tag_names: Sequence[str] = ()

    def dot(
        self,
        user: UserId,  # noqa: ARG002 - as every factorization
        positions: Sequence[bytes],
        tags: Ints,
        tag_names: Sequence[str],
    ) -> tuple[Floats, Floats]:
        self.positions.append(positions)
        self.tags.append(tags)
        self.tag_names = tag_names
        unknown = np.full(len(positions), np.nan, np.float32)
        return unknown, unknown


def factor_questions(
    log: EventLog, config: TrainingConfig, split: Split, limits: dict[PartName, int]
) -> dict[PartName, FactorQuestions]:
    """What the requests of these parts ask, in one pass over the log.

    Requests and candidates are those that `training.steps.replayed_sets` finds.
    """
    requests = find_requests(log.events, config.requests, split.boundaries)
    kept = thin_out(requests, split, limits, config.seed)
    chosen = sorted((each for name in limits for each in kept[name]), key=lambda each: each.place)
    asked: dict[PartName, _Asked] = {name: _Asked() for name in limits}
    found: dict[PartName, list[Answerable]] = {name: [] for name in limits}
    listening = _Asked()
    for answer in replay(log, chosen, _SPEC, config.requests, listening):
        name = split.part(answer.request.time_us)
        found[name].append(answer)
        asked[name].positions.append(listening.positions.pop())
        asked[name].tags.append(listening.tags.pop())
    names = list(listening.tag_names)
    return {name: _questions(found[name], asked[name], names) for name in limits}


def _questions(answers: list[Answerable], asked: _Asked, names: list[str]) -> FactorQuestions:
    packed = b"".join(position for positions in asked.positions for position in positions)
    width = max((tags.shape[1] for tags in asked.tags), default=0)
    return FactorQuestions(
        collect(answers, _SPEC.names),
        np.frombuffer(packed, np.uint8).reshape(-1, _POSITION_BYTES),
        np.concatenate([np.full((0, width), -1, np.int32), *asked.tags]),
        names,
    )
