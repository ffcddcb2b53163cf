"""How Hypothesis runs: no example fails for being slow, and CI tries the same ones every time."""

import os

from hypothesis import settings

settings.register_profile("developer", deadline=None, print_blob=True)
settings.register_profile("ci", settings.get_profile("developer"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "developer")
