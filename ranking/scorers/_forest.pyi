import numpy as np
import numpy.typing as npt

def walk(
    nodes: npt.NDArray[np.void],
    leaves: npt.NDArray[np.float32],
    roots: npt.NDArray[np.uint32],
    depths: npt.NDArray[np.uint8],
    base: float,
    rows: npt.NDArray[np.float32],
    margins: npt.NDArray[np.float32],
) -> None: ...
