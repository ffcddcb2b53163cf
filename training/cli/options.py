"""The options that several commands of training take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from training.config import TRAINERS

if TYPE_CHECKING:
    from training.config import TrainingConfig

__all__ = [
    "CACHE",
    "DATA_DIR",
    "EVERY_TRAINER",
    "DataDir",
    "Dataset",
    "Described",
    "Events",
    "Json",
    "Registry",
    "Trainers",
    "TrainingMinutes",
    "config_of",
    "registry_uri",
]

Dataset = Literal["movielens", "stackexchange"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Events = Annotated[
    Path, typer.Option("--events", help="The directory that `headwater export` wrote to.")
]
Registry = Annotated[
    str | None,
    typer.Option(
        "--registry",
        envvar="HEADWATER_REGISTRY",
        help="Model registry: mlflow+sqlite:///FILE, mlflow+postgresql://USER@HOST/NAME#ARTIFACTS "
        "or dir:DIRECTORY. Unset: MLflow on SQLite in the data directory.",
    ),
]
DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="HEADWATER_DATA_DIR",
        help="Where the registry lies if --registry is not given.",
    ),
]
Described = Annotated[
    Dataset | None,
    typer.Option(
        "--dataset",
        help="The public data set that the events came from: sets the split that its published "
        "figures use, and what the report says was derived.",
    ),
]

TrainingMinutes = Annotated[
    int,
    typer.Option(
        "--training-minutes",
        envvar="HEADWATER_TENANT_TRAINING_MINUTES",
        min=0,
        help="Minutes of training within 24 hours, of a tenant without a quota of its own.",
    ),
]

Trainers = Annotated[
    str,
    typer.Option(
        "--trainers",
        help="Who takes part, by comma; the best on validation is chosen, beside recency and "
        "popularity. Of factors, which stand for who likes what: warp (LightFM, knows tags), als, "
        "ease (small catalogues). Of rankers, which read them among other features: logistic, "
        "boosted (trees), heads (a probability of each kind of engagement; needs impressions).",
    ),
]

EVERY_TRAINER = ",".join(TRAINERS)
DATA_DIR = Path(".headwater/data")
CACHE = Path(".headwater/cache")


def registry_uri(registry: str | None, data_dir: Path) -> str:
    """The registry that was named, or the one in the data directory."""
    file = (data_dir / "registry" / "mlflow.db").absolute()
    return registry or f"mlflow+sqlite:///{file}"


def config_of(
    dataset: Dataset | None, seed: int | None, trainers: str | None = None
) -> "TrainingConfig":
    """The config for a data set, with what its source derived; trainers are named by comma."""
    from dataclasses import replace  # noqa: PLC0415 - heavy imports inside

    from training.config import preset  # noqa: PLC0415
    from training.sources import derived_facts  # noqa: PLC0415

    config = preset(dataset or "default")
    config = replace(config, derived=derived_facts(dataset) if dataset else ())
    if trainers is not None:
        named = (name.strip() for name in trainers.split(","))
        config = replace(config, trainers=tuple(filter(None, named)))
    return config if seed is None else replace(config, seed=seed)
