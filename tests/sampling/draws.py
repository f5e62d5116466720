"""Print the digests of fixed draws as JSON: run by test_golden.py in processes of different surroundings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import numpy as np

from onnxinit.sampling import Stream, stream, weight_key

SIZE = 100_001

LAWS: dict[str, Callable[[Stream, np.ndarray], None]] = {
    "uniform": lambda s, out: s.uniform(out),
    "symmetric": lambda s, out: s.uniform(out, -0.3, 0.3),
    "normal": lambda s, out: s.normal(out),
    "truncated": lambda s, out: s.truncated_normal(out, -2, 2),
    "tail": lambda s, out: s.truncated_normal(out, 3, 4),
}


def digests() -> dict[str, str]:
    found = {}
    for dtype in ("float32", "float64"):
        for name, law in LAWS.items():
            out = np.empty(SIZE, dtype)
            law(stream(weight_key(7, "encoder/layer.0/weight"), 3), out)
            found[f"{name} {dtype}"] = hashlib.sha256(out.astype(out.dtype.newbyteorder("<")).tobytes()).hexdigest()
    places = stream(weight_key(7, "sparse")).below(np.arange(1, 2001)).astype("<i8")
    found["below"] = hashlib.sha256(places.tobytes()).hexdigest()
    return found


if __name__ == "__main__":
    print(json.dumps(digests(), indent=4))
