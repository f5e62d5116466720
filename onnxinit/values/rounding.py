"""float32 or float64 values -> the little-endian bytes of a stored type, rounded once, to nearest and ties to even."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

_BLOCK = 1 << 14  # elements looked at at a time


@dataclass(frozen=True, slots=True)
class Stored:
    """How one ONNX type is computed and stored.

    Attributes:
        name: The ONNX name, lower case.
        itemsize: Bytes per element.
        work: Type of the arithmetic before the one rounding.
        cast: The rounding, to little-endian elements of `itemsize` bytes.
        largest: Largest finite magnitude.
        beyond: The first magnitude that rounds to infinity, or to NaN where the type has none.
        fraction: Bits behind the point of a normal number.
        signed_zero: Whether there is a zero of either sign.
    """

    name: str
    itemsize: int
    work: type[np.floating[Any]]
    cast: Callable[[Floats], npt.NDArray[np.generic]]
    largest: float
    beyond: float
    fraction: int
    signed_zero: bool = True

    def encode(self, values: Floats) -> npt.NDArray[np.generic]:
        """Round `values` (of type `work`, any shape) to the stored type.

        Raises:
            OverflowError: A magnitude is NaN or rounds to infinity; the argument is the largest one.
        """
        peak = max(float(values.max()), -float(values.min())) if values.size else 0.0
        if not peak < self.beyond:
            raise OverflowError(peak)
        return self.cast(values)

    def subnormal(self, encoded: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_] | None:
        """Which elements are subnormal: below the least number of full precision, and not zero. None where none is."""
        bits, least = self._bits(encoded).reshape(-1), (1 << self.fraction + 1) - 2
        # Most often there is none, which takes less than the memory for an answer.
        if all(_low(bits[at : at + _BLOCK]).min() >= least for at in range(0, bits.size, _BLOCK)):
            return None
        few: npt.NDArray[np.bool_] = _low(bits) < least
        return few.reshape(encoded.shape)

    def flushed(self, encoded: npt.NDArray[np.generic], few: npt.NDArray[np.bool_]) -> npt.NDArray[np.generic]:
        """The elements with zeros in the place of some, of the same sign where the type has both."""
        bits = self._bits(encoded)
        sign = bits & bits.dtype.type(1 << 8 * self.itemsize - 1)
        return np.where(few, sign if self.signed_zero else sign ^ sign, bits)

    def _bits(self, encoded: npt.NDArray[np.generic]) -> npt.NDArray[np.unsignedinteger[Any]]:
        return np.ascontiguousarray(encoded).view(f"<u{self.itemsize}")


def _low(bits: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Magnitudes as whole numbers, twice what the bits say, less two: zeros wrap around to the largest."""
    low: npt.NDArray[np.unsignedinteger[Any]] = np.left_shift(bits, 1)
    low -= 2
    return low


def _ieee(dtype: str) -> Callable[[Floats], npt.NDArray[np.generic]]:
    return lambda values: values.astype(dtype, copy=False)


def _bfloat16(values: Floats) -> npt.NDArray[np.generic]:
    """The upper half of the float32 bits; carrying half a unit into it rounds, its last bit decides the ties."""
    bits = values.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")


def _eight(dtype: type[np.generic]) -> Callable[[Floats], npt.NDArray[np.generic]]:
    return lambda values: values.astype(dtype)


STORED = {
    t.name: t
    for t in (
        Stored("float", 4, np.float32, _ieee("<f4"), float.fromhex("0x1.fffffep127"), float("inf"), 23),
        Stored("double", 8, np.float64, _ieee("<f8"), float.fromhex("0x1.fffffffffffffp1023"), float("inf"), 52),
        Stored("float16", 2, np.float32, _ieee("<f2"), 65504.0, 65520.0, 10),
        Stored("bfloat16", 2, np.float32, _bfloat16, float.fromhex("0x1.fep127"), float.fromhex("0x1.ffp127"), 7),
        Stored("float8e4m3fn", 1, np.float32, _eight(ml_dtypes.float8_e4m3fn), 448.0, 464.0, 3),
        Stored("float8e4m3fnuz", 1, np.float32, _eight(ml_dtypes.float8_e4m3fnuz), 240.0, 248.0, 3, False),
        Stored("float8e5m2", 1, np.float32, _eight(ml_dtypes.float8_e5m2), 57344.0, 61440.0, 2),
        Stored("float8e5m2fnuz", 1, np.float32, _eight(ml_dtypes.float8_e5m2fnuz), 57344.0, 61440.0, 2, False),
    )
}


def narrowed(values: Floats, dtype: str) -> Floats:
    """Values of any float type in the type of the arithmetic for a stored type, so that they are rounded once in all.

    float64 on its way to 16 bits is rounded to odd in float32: cut off, and the last bit set where that lost something.
    The rounding that follows then sees on which side of a tie a value lay.

    Source: Boldo, Melquiond: When double rounding is odd, IMACS World Congress 2005
    """
    stored = STORED[dtype]
    work = np.dtype(stored.work)
    if values.dtype != np.float64 or stored.itemsize > 2:
        with np.errstate(over="ignore"):  # looked for in the result
            return values.astype(work, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        near = values.astype(np.float32)
        near = np.where(np.abs(near) > np.abs(values), np.nextafter(near, np.float32(0)), near)
    odd: Floats = (near.view(np.uint32) | (near != values).astype(np.uint32)).view(np.float32)
    return odd
