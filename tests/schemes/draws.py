"""Print the digests of every scheme's draws that promises its bytes, as JSON: run by test_golden.py."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from onnxinit.sampling import stream, weight_key
from onnxinit.schemes import SCHEMES, Block, Spec, parse_spec

MORE = (
    "he:mode=fan_out,distribution=uniform",
    "xavier_normal",
    "lecun_uniform",
    "variance_scaling:scale=2,mode=fan_geo_avg",
    "normal:mean=0.1,std=0.5",
    "truncated_normal:low=-1,high=3",
    "sparse:sparsity=0.3",
    "normalized:exact=true",
)


def digest(spec: Spec, dtype: str) -> str:
    block = Block((48, 20, 3), 60, 144, "Wb.f", np.dtype(dtype), moments=(0.5, 2.0))
    bits = stream(weight_key(3, "a weight"), 1)
    if spec.scheme.draw_from:
        out = spec.draw_from(block, bits, np.arange(48 * 20 * 3, dtype=dtype).reshape(block.shape))
    elif spec.structured:
        out = spec.draw(block, bits)
    else:
        out = np.empty(block.shape, dtype)
        spec.distribution(block).sample(bits, out)
    return hashlib.sha256(out.astype(out.dtype.newbyteorder("<")).tobytes()).hexdigest()


def digests() -> dict[str, str]:
    specs = [Spec(name) for name, scheme in SCHEMES.items() if scheme.exact_to == "bytes"]
    specs += [parse_spec(text) for text in MORE]
    return {f"{s} {dtype}": digest(s, dtype) for s in specs if not s.planned for dtype in ("float32", "float64")}


if __name__ == "__main__":
    print(json.dumps(digests(), indent=4))
