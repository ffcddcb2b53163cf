"""Execute notebooks from the checkout's root, and write them with their outputs: OUT NOTEBOOK..."""

import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

CELL_TIMEOUT_S = 1_800
"""How long one cell may take."""


def execute(notebook: Path, out: Path) -> None:
    """Run one notebook; what ran is written even where a cell fails."""
    cells = jupytext.read(notebook)
    client = NotebookClient(
        cells,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(Path.cwd())}},
    )
    try:
        client.execute()
    finally:
        nbformat.write(cells, out / f"{notebook.stem}.ipynb")


def main(out: Path, notebooks: list[Path]) -> None:
    """Run them in order; stops at the first that fails."""
    out.mkdir(parents=True, exist_ok=True)
    for notebook in notebooks:
        started = time.monotonic()
        print(f"notebooks: {notebook}", flush=True)
        try:
            execute(notebook, out)
        except CellExecutionError as error:
            sys.exit(f"{error}\nnotebooks: {notebook} failed; see {out / notebook.stem}.ipynb")
        print(f"notebooks: {notebook} ran in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
