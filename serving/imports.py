"""Keeps training's libraries out of the request process.

`import xgboost` imports pandas and scikit-learn wherever they are installed, and does without them
where they are not (`xgboost/compat.py` catches the ImportError): beside them it costs 1.6 s and
130 MB more. `headwater serve` therefore refuses these names before anything imports xgboost, which
gives the request process the same modules whether `headwater[train]` is installed or not.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

__all__ = ["REFUSED", "RefusingFinder", "refuse_training_imports"]

REFUSED: Final = frozenset(
    {"dask", "distributed", "implicit", "lightfm", "mlflow", "pandas", "polars", "sklearn"}
)
"""Top-level modules that a request process never needs."""


class RefusingFinder:
    """A finder for `sys.meta_path` that finds nothing, and ends the search for refused names."""

    def __init__(self, refused: frozenset[str] = REFUSED) -> None:
        self._refused = refused

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """None for a name that is not refused; raises `ModuleNotFoundError` for one that is."""
        del path, target
        if fullname.partition(".")[0] in self._refused:
            raise ModuleNotFoundError(
                f"{fullname} is kept out of the request process: use it in the loader or in "
                "training (serving/imports.py lists what is refused)",
                name=fullname,
            )
        return None


def refuse_training_imports() -> None:
    """Refuse `REFUSED` from now on in this process; asking twice changes nothing."""
    if not any(isinstance(finder, RefusingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RefusingFinder())
