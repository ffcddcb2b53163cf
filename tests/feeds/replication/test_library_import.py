"""What importing the library does to the process, and that ours undoes it."""

import subprocess
import sys

import pytest

NAMES = "import socket; print(socket.inet_ntop(socket.AF_INET, bytes([127, 0, 0, 1])))"


def run(imported: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-c", f"import {imported}; {NAMES}"]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


def test_the_library_as_it_comes_takes_the_names_of_addresses_from_the_process() -> None:
    assert "not_windows" in run("pysyncobj").stderr


@pytest.mark.parametrize("imported", ["feeds.replication.library", "feeds.simulation.stock"])
def test_addresses_have_names_beside_ours(imported: str) -> None:
    assert run(imported).stdout == "127.0.0.1\n"
