"""The bytes that a seed means, in this process's surroundings and with numpy's SIMD kernels switched off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxinit.sampling import stream, weight_key

HERE = Path(__file__).parent


def test_draws_are_the_bytes_they_have_always_been(printed: Callable[[Path], Any]) -> None:
    assert printed(HERE / "draws.py") == json.loads((HERE / "golden.json").read_text())


def test_keys_are_what_they_have_always_been() -> None:
    assert weight_key(0, "w").hex() == "830fb9ccdc88bb99b853c161294c9b6511dafb83e09899aea953891b56f9cf96"
    assert weight_key(-(2**80), "layer/ü").hex() == "da00cc7913b9483fee20e263c551b940cdebbcf98a32c59ff23753671b4ee52d"
    assert stream(weight_key(0, "w"), 5).words(2).tolist() == [4498011761381012189, 14110267594599351006]
