"""The options that several commands of training take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = [
    "CACHE",
    "DATA_DIR",
    "DataDir",
    "Dataset",
    "Described",
    "Events",
    "Json",
    "Registry",
    "Tenant",
    "registry_uri",
]

Dataset = Literal["movielens", "stackexchange"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Tenant = Annotated[str, typer.Option("--tenant", help="The tenant's name.")]
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

DATA_DIR = Path(".headwater/data")
CACHE = Path(".headwater/cache")


def registry_uri(registry: str | None, data_dir: Path) -> str:
    """The registry that was named, or the one in the data directory."""
    file = (data_dir / "registry" / "mlflow.db").absolute()
    return registry or f"mlflow+sqlite:///{file}"
