"""Other model servers with the trees of the bench: `mlflow models serve` and BentoML.

Each is given bare feature rows: it need not look anything up, compute a feature, choose, explain or
log. That is its head start. One worker, one thread, on the core that the service has.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import typer
from xgboost import Booster

from feeds.testing_ports import free_ports
from serving.bench_community import feature_spec
from serving.bench_server import START_S_MAX, Server

__all__ = ["NAMES", "Peer", "peers"]

_SAVE: Final = (
    "import sys, mlflow.xgboost, xgboost;"
    "booster = xgboost.Booster(model_file=sys.argv[1]); booster.set_param({'nthread': 1});"
    "mlflow.xgboost.save_model(booster, sys.argv[2])"
)

_BENTO_MODULE: Final = "bench_trees"
_BENTO: Final = """
import os
import bentoml
import numpy as np
from xgboost import Booster

@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Trees:
    def __init__(self) -> None:
        self.booster = Booster(model_file=os.environ["BENCH_TREES"])
        self.booster.set_param({"nthread": 1})

    @bentoml.api
    def predict(self, rows: np.ndarray) -> np.ndarray:
        values = np.asarray(rows, np.float32)
        return self.booster.inplace_predict(values, validate_features=False)
"""

NAMES: Final = ("MLflow", "BentoML")

_SCORES_DIFFER_MAX: Final = 1e-5


@dataclass(frozen=True, slots=True)
class Peer:
    """A server with the trees: how it is asked for the scores of rows, and where they are."""

    name: str
    what: str
    server: Server
    request_of: "Callable[[np.ndarray], bytes]"
    scores_of: "Callable[[Any], list[float]]"  # Any: JSON

    def take(self, rows: np.ndarray, booster: Booster) -> None:
        """Send these rows from now on.

        Raises `RuntimeError` where it scores them otherwise than the trees do.
        """
        self.server.request = self.request_of(rows)
        with closing(self.server.client()) as client:
            scores = self.scores_of(orjson.loads(client.ask()))
        expected = booster.inplace_predict(rows, validate_features=False)
        if not np.allclose(scores, expected, rtol=0, atol=_SCORES_DIFFER_MAX):
            raise RuntimeError(f"{self.name} scores otherwise than the trees that it was given")


@contextmanager
def peers(
    directory: Path, booster: Booster, bentoml_python: Path | None, names: Sequence[str] = NAMES
) -> Iterator[list[Peer]]:
    """Those that are installed here, started; a sentence on standard error for each that is not.

    `bentoml_python` is the interpreter that has BentoML and xgboost; this one if it is not given.
    """
    trees_file = directory / "trees.ubj"
    booster.save_model(trees_file)
    starts: dict[str, Callable[[], Peer]] = {
        "MLflow": lambda: _mlflow(directory, trees_file),
        "BentoML": lambda: _bentoml(directory, trees_file, bentoml_python),
    }
    with ExitStack() as stack:
        found = []
        for name in names:
            try:
                peer = starts[name]()
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                typer.echo(f"{name} is left out: {error}", err=True)
                continue
            stack.enter_context(peer.server)
            found.append(peer)
        yield found


def _mlflow(directory: Path, trees_file: Path) -> Peer:
    command = Path(sys.executable).with_name("mlflow")
    executable = str(command) if command.exists() else shutil.which("mlflow")
    if executable is None:
        raise RuntimeError("it is not installed here")
    saved = directory / "mlflow"
    save = [sys.executable, "-c", _SAVE, str(trees_file), str(saved)]
    subprocess.run(save, check=True, capture_output=True, timeout=START_S_MAX)  # noqa: S603
    port = free_ports(1)
    arguments = [
        *(executable, "models", "serve", "-m", str(saved), "--env-manager", "local"),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
    ]
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    server = Server(arguments, {"PATH": search}, directory / "mlflow.log")
    return Peer(
        "MLflow",
        "mlflow models serve, the same trees on bare feature rows",
        _answering(server, port, _mlflow_request),
        _mlflow_request,
        lambda reply: reply["predictions"],
    )


def _bentoml(directory: Path, trees_file: Path, python: Path | None) -> Peer:
    if python is None and find_spec("bentoml") is None:
        raise RuntimeError("it is not installed here, and --bentoml-python names no Python with it")
    home = directory / "bentoml"
    home.mkdir()
    (home / f"{_BENTO_MODULE}.py").write_text(_BENTO)
    port = free_ports(1)
    arguments = [
        *(str(python or sys.executable), "-m", "bentoml", "serve", f"{_BENTO_MODULE}:Trees"),
        *("--host", "127.0.0.1", "--port", str(port), "--working-dir", str(home)),
    ]
    environment = {
        "BENCH_TREES": str(trees_file.resolve()),
        "BENTOML_HOME": str(home.resolve()),
        "BENTOML_DO_NOT_TRACK": "true",
        "PYTHONPATH": "",
    }
    server = Server(arguments, environment, directory / "bentoml.log")
    return Peer(
        "BentoML",
        "BentoML, the same trees on bare feature rows",
        _answering(server, port, _bentoml_request),
        _bentoml_request,
        lambda reply: reply,
    )


def _answering(server: Server, port: int, request_of: "Callable[[np.ndarray], bytes]") -> Server:
    """The server once it answers; ended where it does not."""
    rows = np.zeros((1, len(feature_spec().names)), np.float32)
    try:
        server.wait(f"http://127.0.0.1:{port}", request_of(rows))
    except RuntimeError:
        server.end()
        raise
    return server


def _mlflow_request(rows: np.ndarray) -> bytes:
    names = list(feature_spec().names)
    return _post("/invocations", {"dataframe_split": {"columns": names, "data": _values(rows)}})


def _bentoml_request(rows: np.ndarray) -> bytes:
    return _post("/predict", {"rows": _values(rows)})


def _values(rows: np.ndarray) -> list[list[float | None]]:
    """The rows as JSON has them: null where there is no number."""
    return [[None if value != value else value for value in row] for row in rows.tolist()]  # noqa: PLR0124 - NaN


def _post(path: str, body: Any) -> bytes:  # Any: JSON
    content = orjson.dumps(body)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
