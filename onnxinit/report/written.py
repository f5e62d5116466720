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

_BLOCK = 1 << 18  # values measured at a time


@dataclass(frozen=True, slots=True)
class Written:
    """What was written for one weight.

    Attributes:
        id: The weight.
        scheme: What drew it.
        seed: The root seed.
        std_asked: The standard deviation that the plan asked for; None where its scheme states none.
        std: The one that the stored values have; None for a tensor without values.
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
    path = {w.id: w.path for w in weights}
    return [
        Written(e.id, str(e.scheme), plan.seed, e.std, *_measured(file.array(path[e.id]).reshape(-1)))
        for e in plan.entries
    ]


def _measured(values: npt.NDArray[Any]) -> tuple[float | None, float | None, str]:
    """Standard deviation, mean and digest: blocks in float64, merged by their sums of squared deviations."""
    digest = hashlib.sha256()
    count, mean, squares = 0, 0.0, 0.0
    for at in range(0, values.size, _BLOCK):
        stored = values[at : at + _BLOCK]
        digest.update(_little_endian(stored))
        block = stored.astype(np.float64)
        apart = float(block.mean()) - mean
        count += block.size
        mean += apart * block.size / count
        squares += float(block.var()) * block.size + apart**2 * block.size * (count - block.size) / count
    return (math.sqrt(squares / count), mean, digest.hexdigest()) if count else (None, None, digest.hexdigest())


def _little_endian(values: npt.NDArray[Any]) -> bytes:
    return (values if np.little_endian else values.byteswap()).tobytes()
