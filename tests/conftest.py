"""Settings that all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# A deadline per example measures the machine, not the code; in CI the examples are the same in every run.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
