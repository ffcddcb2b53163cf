"""Loads a bundle in a process of its own, so that a hostile model can crash that one alone.

XGBoost crashes on one in six damaged models. A bundle's checksums catch what was damaged since it
was made, but not what was made to do damage.
"""

import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from ranking.bundle import ModelBundle
from ranking.errors import RankingError
from serving.imports import refuse_training_imports

__all__ = ["VERIFY_BYTES_MAX", "VERIFY_SECONDS_MAX", "verify_apart"]

LOAD_SECONDS_MAX: Final = 10.0
"""Seconds that loading one bundle may take, unless told otherwise."""

VERIFY_SECONDS_MAX: Final = 120
"""Seconds of CPU that the process may take, and that it is given to start."""

VERIFY_BYTES_MAX: Final = 8 * 1024**3
"""Bytes of address space that loading one bundle may take."""

_REFUSED: Final = 3
_SENTENCE_CHARS_MAX: Final = 2_000


def verify_apart(directory: Path, digest: str, seconds_max: float = LOAD_SECONDS_MAX) -> str | None:
    """Load the bundle in a process of its own; None, or why it must not be used, as a sentence."""
    arguments = [sys.executable, "-m", "serving.verify", str(directory), digest, str(seconds_max)]
    too_slow = (
        f"the bundle did not load within {seconds_max:g} s (model_load_s_max): train anew, with a "
        "smaller model"
    )
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds_max + VERIFY_SECONDS_MAX,
            check=False,
            process_group=0,  # Ctrl-C is for the loader, and no verdict on the bundle
        )
    except subprocess.TimeoutExpired:
        return too_slow
    if done.returncode == 0:
        return None
    if done.returncode == -signal.SIGALRM:
        return too_slow
    if done.returncode == _REFUSED:
        return done.stdout.decode(errors="replace").strip()[:_SENTENCE_CHARS_MAX]
    return (
        f"loading the bundle ended its process (status {done.returncode}): it is not a model that "
        "XGBoost wrote, or needs too much memory; train anew"
    )


def main(directory: str, digest: str, seconds_max: str) -> int:
    """Load one bundle within limits; prints the problem and returns 3 where there is one.

    An alarm ends the process where it takes too long.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (VERIFY_SECONDS_MAX, VERIFY_SECONDS_MAX))
    resource.setrlimit(resource.RLIMIT_AS, (VERIFY_BYTES_MAX, VERIFY_BYTES_MAX))
    refuse_training_imports()
    signal.setitimer(signal.ITIMER_REAL, float(seconds_max))
    try:
        ModelBundle.load(Path(directory), digest=digest)
    except RankingError as error:
        print(error)  # noqa: T201 - to the process that asked
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
