"""The bytes that a seed means under every scheme, with numpy's SIMD kernels switched off too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def test_schemes_draw_the_bytes_they_have_always_drawn(printed: Callable[[Path], Any]) -> None:
    assert printed(HERE / "draws.py") == json.loads((HERE / "golden.json").read_text())
