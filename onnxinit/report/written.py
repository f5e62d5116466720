"""What stands in a written file: measured from the file itself, tensor by tensor."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxinit.analysis.weight import Weight
from onnxinit.model import ModelFile
from onnxinit.plan import Plan
from onnxinit.values import NARROW, pack, real_values

_BLOCK = 1 << 18  # values measured at a time


@dataclass(frozen=True, slots=True)
class Written:
    """What was written for one weight.

    Attributes:
        id: The weight.
        scheme: What drew it.
        seed: The root seed.
        std_asked: The standard deviation that the plan asked for; None where its scheme states none.
        std: The one that the stored values have, of quantised ones what they stand for; None for a tensor without
            values.
        mean: Their mean, likewise.
        sha256: Digest (hex) of the tensor's raw little-endian bytes.
    """

    id: str
    scheme: str
    seed: int
    std_asked: float | None
    std: float | None
    mean: float | None
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return asdict(self)


def measure(file: ModelFile, plan: Plan, weights: Iterable[Weight]) -> list[Written]:
    """Read back what a plan's entries became.

    Args:
        file: The written model.
        plan: The plan that was written.
        weights: Its weights.

    Raises:
        ModelError: The file cannot be read.
    """
    by_id = {w.id: w for w in weights}
    return [Written(e.id, str(e.scheme), plan.seed, e.std, *_of(file, by_id[e.id])) for e in plan.entries]


def _of(file: ModelFile, weight: Weight) -> tuple[float | None, float | None, str]:
    """Standard deviation, mean and digest of one tensor."""
    stored = file.array(weight.path).reshape(-1)
    values = real_values(weight, file.array).reshape(-1) if weight.quantised else stored
    return *_measured(values), _digest(stored, weight.dtype)


def _digest(stored: npt.NDArray[Any], dtype: str) -> str:
    digest = hashlib.sha256()
    if dtype in NARROW:
        digest.update(pack(stored.astype(np.float32), dtype).tobytes())
    else:
        for at in range(0, stored.size, _BLOCK):
            digest.update(_little_endian(stored[at : at + _BLOCK]))
    return digest.hexdigest()


def _measured(values: npt.NDArray[Any]) -> tuple[float | None, float | None]:
    """Standard deviation and mean: blocks in float64, merged by their sums of squared deviations."""
    count, mean, squares = 0, 0.0, 0.0
    for at in range(0, values.size, _BLOCK):
        block = values[at : at + _BLOCK].astype(np.float64)
        apart = float(block.mean()) - mean
        count += block.size
        mean += apart * block.size / count
        squares += float(block.var()) * block.size + apart**2 * block.size * (count - block.size) / count
    return (math.sqrt(squares / count), mean) if count else (None, None)


def _little_endian(values: npt.NDArray[Any]) -> bytes:
    return (values if np.little_endian else values.byteswap()).tobytes()
