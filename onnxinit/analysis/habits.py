"""What the codes of a quantised weight tell of how it was quantised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnxinit.analysis.weight import Quantised

_HALF = 64  # a range reduced to seven bits: codes of -64 ... 64, or of 0 ... 127 (128 where 64 is zero)


def with_habit(one: Quantised, zero: float | None, runs: Iterable[npt.NDArray[np.generic]]) -> Quantised:
    """The codes of eight bits with the room that was left, where they never leave seven bits and use these up.

    Some processors add products of codes in 16 bits, which the whole range would overflow; quantisers then reduce it.

    Args:
        one: Integers of eight bits that scales are fitted to.
        zero: Their zero point, where all share one.
        runs: The codes, run by run; they are looked at up to the first that is outside.
    """
    least, largest = (-_HALF, _HALF) if one.low < 0 else (0, 2 * _HALF if zero == _HALF else 2 * _HALF - 1)
    low, high = largest, least
    for codes in runs:
        low, high = min(low, int(codes.min())), max(high, int(codes.max()))
        if low < least or high > largest:
            return one
    if high < largest - 1 and low > least + 1:
        return one
    if one.low == 0 and zero == _HALF:  # its codes are symmetric around the middle of seven bits
        return replace(one, zero=float(_HALF))
    span = one.high - one.low if one.zero is None else min(one.high - one.zero, one.zero - one.low)
    return replace(one, headroom=span / (largest - least if one.zero is None else _HALF))
