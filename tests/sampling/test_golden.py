"""The bytes that a seed means, in this process's surroundings and with numpy's SIMD kernels switched off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxinit.sampling import stream, weight_key

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
def test_draws_are_the_bytes_they_have_always_been(disabled: str) -> None:
    surroundings = os.environ | ({"NPY_DISABLE_CPU_FEATURES": disabled} if disabled else {})
    run = subprocess.run([sys.executable, str(DRAWS)], env=surroundings, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == GOLDEN


def test_keys_are_what_they_have_always_been() -> None:
    assert weight_key(0, "w").hex() == "830fb9ccdc88bb99b853c161294c9b6511dafb83e09899aea953891b56f9cf96"
    assert weight_key(-(2**80), "layer/ü").hex() == "da00cc7913b9483fee20e263c551b940cdebbcf98a32c59ff23753671b4ee52d"
    assert stream(weight_key(0, "w"), 5).words(2).tolist() == [4498011761381012189, 14110267594599351006]
