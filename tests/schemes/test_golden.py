"""The bytes that a seed means under every scheme, with numpy's SIMD kernels switched off too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRAWS = Path(__file__).with_name("draws.py")
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())


def dispatched() -> str:
    """The instruction sets that numpy would choose from at run time and finds here."""
    try:
        from numpy._core import _multiarray_umath as umath
    except ImportError:  # numpy 1
        from numpy.core import _multiarray_umath as umath
    return " ".join(name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name))


@pytest.mark.parametrize("disabled", ["", dispatched()], ids=["as it is", "no SIMD dispatch"])
def test_schemes_draw_the_bytes_they_have_always_drawn(disabled: str) -> None:
    surroundings = os.environ | ({"NPY_DISABLE_CPU_FEATURES": disabled} if disabled else {})
    run = subprocess.run([sys.executable, str(DRAWS)], env=surroundings, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == GOLDEN
