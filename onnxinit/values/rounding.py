"""float32 or float64 values -> the little-endian bytes of a stored type, rounded once, to nearest and ties to even."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Stored:
    """How one ONNX type is computed and stored.

    Attributes:
        name: The ONNX name, lower case.
        itemsize: Bytes per element.
        work: Type of the arithmetic before the one rounding.
        cast: The rounding, to little-endian elements of `itemsize` bytes.
        largest: Largest finite magnitude.
        beyond: The first magnitude that rounds to infinity.
    """

    name: str
    itemsize: int
    work: type[np.floating[Any]]
    cast: Callable[[Floats], npt.NDArray[np.generic]]
    largest: float
    beyond: float

    def encode(self, values: Floats) -> npt.NDArray[np.generic]:
        """Round `values` (of type `work`, any shape) to the stored type.

        Raises:
            OverflowError: A magnitude is NaN or rounds to infinity; the argument is the largest one.
        """
        peak = max(float(values.max()), -float(values.min())) if values.size else 0.0
        if not peak < self.beyond:
            raise OverflowError(peak)
        return self.cast(values)


def _ieee(dtype: str) -> Callable[[Floats], npt.NDArray[np.generic]]:
    return lambda values: values.astype(dtype, copy=False)


def _bfloat16(values: Floats) -> npt.NDArray[np.generic]:
    """The upper half of the float32 bits; carrying half a unit into it rounds, its last bit decides the ties."""
    bits = values.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")


STORED = {
    t.name: t
    for t in (
        Stored("float", 4, np.float32, _ieee("<f4"), float.fromhex("0x1.fffffep127"), float("inf")),
        Stored("double", 8, np.float64, _ieee("<f8"), float.fromhex("0x1.fffffffffffffp1023"), float("inf")),
        Stored("float16", 2, np.float32, _ieee("<f2"), 65504.0, 65520.0),
        Stored("bfloat16", 2, np.float32, _bfloat16, float.fromhex("0x1.fep127"), float.fromhex("0x1.ffp127")),
    )
}
