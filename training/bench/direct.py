"""Trainers beside the libraries called directly, on the same matrices: what `bench` measures."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt

from training.config import BoostedConfig, BoostedVariant
from training.trainers.als import AlsTrainer
from training.trainers.boosted import BoostedTrainer
from training.trainers.factorization import FactorizationTrainer
from training.trainers.matrices import blas_threads
from training.trainers.rows import Examples

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["MODELS", "Model", "Side", "Taken", "measured", "save_data"]

Model = Literal["lightfm", "als", "xgboost"]
Side = Literal["trainer", "library"]

MODELS: Final[tuple[Model, ...]] = ("lightfm", "als", "xgboost")

EPOCHS: Final = 5
TREES: Final = 30
WARP: Final = FactorizationTrainer(epochs=EPOCHS)
ALS: Final = AlsTrainer(epochs=EPOCHS)
BOOSTED: Final = BoostedTrainer(
    BoostedVariant("bench", 4),
    BoostedConfig(trees_max=TREES, ask_every=TREES, user_weight_power=0.0),
)
SEED: Final = 1
FEATURES: Final = ("age_h", "engagements_7d", "engagements_total", "engagements_1d")
_ROWS_PER_REQUEST: Final = 20
_VALIDATED: Final = 50


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of the training, and the most memory that its process held, in bytes."""

    seconds: float
    peak_bytes: int


def save_data(users: npt.NDArray[np.int64], activities: npt.NDArray[np.int64], path: Path) -> Path:
    """Who engaged with what, int64[n] each, and made-up candidates of as many rows, as a file."""
    random = np.random.default_rng(SEED)
    rows = len(users) // _ROWS_PER_REQUEST * _ROWS_PER_REQUEST
    values = random.normal(size=(rows, len(FEATURES))).astype(np.float32)
    odds = values[:, 0] - values[:, 1] - 2
    relevance = (random.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    np.savez(path, users=users, activities=activities, values=values, relevance=relevance)
    return path


def measured(path: Path, model: Model, side: Side) -> Taken:
    """Train on the data in a file, in a process of its own; what it takes to load is not in it."""
    with np.load(path, allow_pickle=False) as arrays:
        data = {name: arrays[name] for name in arrays.files}
    prepare = _PREPARED[(model, side)]
    prepare({name: array[:2_000] for name, array in data.items()})()  # libraries are loaded
    train = prepare(data)
    started = time.perf_counter()
    train()
    return Taken(time.perf_counter() - started, _peak_bytes())


Data = Mapping[str, npt.NDArray[np.generic]]
Train = Callable[[], object]


def _matrix(data: Data) -> "sparse.csr_matrix":
    from scipy import sparse  # noqa: PLC0415 - only the measured process pays for it

    users, activities = data["users"], data["activities"]
    shape = (int(users.max()) + 1, int(activities.max()) + 1)
    matrix = sparse.csr_matrix((np.ones(len(users), np.float32), (users, activities)), shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def _examples(data: Data) -> Examples:
    requests = len(data["relevance"]) // _ROWS_PER_REQUEST
    rows = requests * _ROWS_PER_REQUEST
    return Examples(
        names=FEATURES,
        values=data["values"][:rows].astype(np.float32),
        relevance=data["relevance"][:rows].astype(np.int8),
        sizes=np.full(requests, _ROWS_PER_REQUEST, np.int64),
        users=np.array([f"u{number}" for number in range(requests)]),
    )


def _our_lightfm(data: Data) -> Train:
    matrix = _matrix(data)
    return lambda: WARP.fit(matrix, seed=SEED)


def _lightfm(data: Data) -> Train:
    from lightfm import LightFM  # noqa: PLC0415

    matrix = _matrix(data).tocoo()
    model = LightFM(
        no_components=WARP.dimensions,
        loss="warp",
        learning_rate=WARP.learning_rate,
        user_alpha=WARP.user_l2,
        item_alpha=WARP.activity_l2,
        max_sampled=WARP.tries_max,
        random_state=SEED,
    )
    return lambda: model.fit(matrix, epochs=EPOCHS, num_threads=1)


def _our_als(data: Data) -> Train:
    matrix = _matrix(data)
    return lambda: ALS.fit(matrix, seed=SEED)


def _als(data: Data) -> Train:
    from implicit.cpu.als import AlternatingLeastSquares  # noqa: PLC0415

    matrix = _matrix(data)

    def train() -> None:
        with blas_threads(1):  # as the library asks for
            AlternatingLeastSquares(
                factors=ALS.dimensions,
                regularization=ALS.l2,
                alpha=ALS.alpha,
                iterations=EPOCHS,
                num_threads=1,
                random_state=SEED,
            ).fit(matrix, show_progress=False)

    return train


def _our_xgboost(data: Data) -> Train:
    examples = _examples(data)
    few = _examples({name: array[: _VALIDATED * _ROWS_PER_REQUEST] for name, array in data.items()})
    return lambda: BOOSTED.fit(examples, few, seed=SEED)


def _xgboost(data: Data) -> Train:
    import xgboost  # noqa: PLC0415 - a second

    examples = _examples(data)

    def train() -> None:
        matrix = xgboost.QuantileDMatrix(
            examples.values, label=examples.relevance, group=examples.sizes, nthread=1
        )
        xgboost.train(BOOSTED.parameters(FEATURES, SEED), matrix, TREES)

    return train


_PREPARED: Final[Mapping[tuple[Model, Side], Callable[[Data], Train]]] = MappingProxyType(
    {
        ("lightfm", "trainer"): _our_lightfm,
        ("lightfm", "library"): _lightfm,
        ("als", "trainer"): _our_als,
        ("als", "library"): _als,
        ("xgboost", "trainer"): _our_xgboost,
        ("xgboost", "library"): _xgboost,
    }
)


def _peak_bytes() -> int:
    """The most that this process held, as the kernel counts it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1_024
    return 0
