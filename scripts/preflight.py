"""Does this machine have what `make setup` needs? Says exactly what to install where it does not.

Runs before there is a virtual environment, on whatever Python there is: standard library only, and
no syntax that an old Python cannot read.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig

FREE_BYTES_MIN = 3 * 1024**3
"""Free disk that the virtual environment and the demo need together."""

VERSION_MIN = (3, 11)
"""The oldest Python that the code runs on."""


def problems(venv):
    """Every obstacle as a sentence that ends with what to do; empty where there is none."""
    version = "python%d.%d" % sys.version_info[:2]
    if sys.version_info < VERSION_MIN:
        return [
            "%s is %s and Headwater needs Python 3.11 or newer: apt-get install python3.11, "
            "or name one with `make PYTHON=/path/to/python3.11`" % (sys.executable, version)
        ]
    found = []
    if importlib.util.find_spec("ensurepip") is None:
        found.append(
            "%s cannot make virtual environments (ensurepip is missing): "
            "apt-get install %s-venv" % (sys.executable, version)
        )
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    if not os.path.exists(header):
        found.append(
            "%s is missing, which compiling LightFM needs: apt-get install %s-dev"
            % (header, version)
        )
    if not (shutil.which("gcc") or shutil.which("cc")):
        found.append("there is no C compiler, which LightFM needs: apt-get install gcc libc6-dev")
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(venv))).free
    if free < FREE_BYTES_MIN and not os.path.exists(os.path.join(venv, "bin", "headwater")):
        found.append(
            "only %.1f GiB of disk are free here and about %.0f are needed: make room, "
            "or clone to another disk" % (free / 1024**3, FREE_BYTES_MIN / 1024**3)
        )
    return found


if __name__ == "__main__":
    obstacles = problems(sys.argv[1])
    for obstacle in obstacles:
        sys.stderr.write("setup: " + obstacle + "\n")
    sys.exit(1 if obstacles else 0)
