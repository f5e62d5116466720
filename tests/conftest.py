"""Settings and fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from onnxinit.schemes import table

# A deadline per example measures the machine, not the code; in CI the examples are the same in every run.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture
def own_table() -> Iterator[None]:
    """What the test registers as a scheme is gone after it."""
    rows, names = dict(table._TABLE), dict(table._NAMES)
    yield
    for held, before in ((table._TABLE, rows), (table._NAMES, names)):
        held.clear()
        held.update(before)
