"""Margins of XGBoost's trees by its C API, without the time that its Python wrapper takes.

`Booster.inplace_predict` describes rows and result anew in Python for each call: 0.1 ms, as much as
50 rows through 100 trees. Here the same C function is called with what it needs, so the bits are
the same (`tests/ranking/test_scorers.py`).
"""

import ctypes
import json
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["Margins"]

_Sizes = ctypes.POINTER(ctypes.c_uint64)
_Numbers = ctypes.POINTER(ctypes.c_float)

_MARGINS: Final = 1
"""The kind of prediction, as the C API numbers it."""


class Margins:
    """What the trees of a booster add up to, row by row; several threads may call it at once."""

    def __init__(self, booster: Any, iterations: tuple[int, int]) -> None:  # Any: untyped
        """`iterations` are the first round and the one after the last, (0, 0) for all."""
        self._booster = booster  # it owns what the handle points to
        self._options = json.dumps(
            {
                "type": _MARGINS,
                "training": False,
                "iteration_begin": iterations[0],
                "iteration_end": iterations[1],
                "missing": float("nan"),
                "strict_shape": False,
                "cache_id": 0,
            }
        ).encode()

    def __call__(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The margins of rows, float32[n]; raises `RuntimeError` with what XGBoost says."""
        values = np.ascontiguousarray(values, np.float32)
        rows = b'{"data":[%d,true],"shape":[%d,%d],"typestr":"<f4","version":3}' % (
            values.__array_interface__["data"][0],
            *values.shape,
        )
        shape, dimensions, numbers = _Sizes(), ctypes.c_uint64(), _Numbers()
        library = _library()
        failed = library.XGBoosterPredictFromDense(
            self._booster.handle,
            rows,
            self._options,
            None,
            ctypes.byref(shape),
            ctypes.byref(dimensions),
            ctypes.byref(numbers),
        )
        if failed:
            raise RuntimeError(library.XGBGetLastError().decode(errors="replace"))
        margins = np.empty(shape[: dimensions.value], np.float32)
        # XGBoost writes the next result of this thread over it.
        ctypes.memmove(margins.ctypes.data, numbers, margins.nbytes)
        return margins


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    """The library that Python's `xgboost` has loaded, with functions of our own."""
    from xgboost.libpath import find_lib_path  # noqa: PLC0415  (up to 3 s: only with a model)

    library = ctypes.CDLL(find_lib_path()[0])
    library.XGBGetLastError.restype = ctypes.c_char_p
    return library
