"""Settings and fixtures that all tests share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


def dispatched() -> str:
    """The instruction sets that numpy would choose from at run time and finds here."""
    try:
        from numpy._core import _multiarray_umath as umath
    except ImportError:  # numpy 1
        from numpy.core import _multiarray_umath as umath
    return " ".join(name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name))


@pytest.fixture(params=["", dispatched()], ids=["as it is", "no SIMD dispatch"])
def printed(request: pytest.FixtureRequest) -> Callable[[Path], Any]:
    """Run a script in a process of its own, with numpy's SIMD kernels and without, and read the JSON that it prints."""
    surroundings = os.environ | ({"NPY_DISABLE_CPU_FEATURES": request.param} if request.param else {})

    def run(script: Path) -> Any:
        command = [sys.executable, str(script)]
        return json.loads(subprocess.run(command, env=surroundings, capture_output=True, check=True).stdout)

    return run
