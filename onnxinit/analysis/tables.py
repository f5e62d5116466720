"""Values that were written down or computed, not learned.

Where topology leaves two readings, a look at the values decides. What training makes holds about as many values as
elements, in no order; a mask holds two or three, a phase or a linear bias climbs in equal steps, frequencies and
decays in equal ratios, a sinusoidal table holds sines and cosines of the same angles. A tensor whose data is missing is
never one of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Values = Callable[[], "npt.NDArray[np.generic] | None"]

_FEW = 3
_UNITS = (math.pi, 1 / math.pi, math.log(2), 1 / math.log(2))
_CLOSE = 1e-3  # float16 tables are read too


def few_values(values: Values, most: int = _FEW) -> bool:
    """Whether a tensor holds at most so many distinct values, twice or more on average, or whole numbers."""
    held = values()
    if held is None or held.size < 2:
        return False
    distinct = np.unique(held.astype(np.float64))
    return distinct.size <= most and (2 * distinct.size <= held.size or bool((distinct == np.rint(distinct)).all()))


def is_mask(values: Values) -> bool:
    """Whether a tensor holds two or three distinct values over and over: zeros and ones, zeros and minus infinity."""
    held = values()
    if held is None or held.size < 6:
        return False
    return 2 <= np.unique(held.astype(np.float64)).size <= _FEW


def is_binary(values: Values) -> bool:
    """Whether a tensor holds zeros and ones and nothing else, both of them."""
    held = values()
    return held is not None and held.size > 1 and np.unique(held.astype(np.float64)).tolist() == [0.0, 1.0]


def is_eye(values: Values) -> bool:
    """Whether a matrix is an identity, which a layer can start from."""
    held = values()
    return held is not None and held.ndim == 2 and bool((held == np.eye(*held.shape, dtype=held.dtype)).all())


def is_neutral(values: Values) -> bool:
    """Whether a scale or shift does nothing: all ones or all zeros."""
    held = values()
    return held is not None and bool((held == 1).all() or (held == 0).all())


def is_empty(values: Values) -> bool:
    """Whether a tensor holds nothing but zeros."""
    held = values()
    return held is not None and not held.any()


def is_varied(values: Values) -> bool:
    """Whether a tensor is known to hold several values."""
    held = values()
    return held is not None and np.unique(held).size > 1


def is_computed(values: Values) -> bool:
    """Whether a table is a mask or a grid, climbs in equal steps or ratios, or holds whole numbers, sines or cosines.

    Whole numbers as floats, that is: distances, say. Integers are the codes of what may be anything.
    """
    held = values()
    if held is None or held.size < 2:
        return False
    table = held.astype(np.float64)
    if _climbs(table) or ((table > 0).all() and _climbs(np.log(table))):
        return True
    distinct = np.unique(table).size
    if table.size < 6 or distinct == 1:
        return False
    codes = held.dtype.kind in "iub" or held.dtype.itemsize == 1  # of less than 16 bits, floats too
    whole = not codes and bool((table == np.rint(table)).all())
    return whole or distinct <= _FEW or _is_grid(table, distinct) or _is_sinusoidal(table) or _is_causal(table)


def is_ordered(values: Values) -> bool:
    """Whether angles or frequencies are computed, or not known not to be: those climb, or come again and again."""
    held = values()
    if held is None or held.size < 6 or is_computed(values):
        return True
    table = held.astype(np.float64)
    half = table.shape[-1] // 2
    if np.array_equal(table[..., :half], table[..., half:]):  # the angles of both halves of a head
        table = table[..., :half]
    if np.unique(table).size < table.size:
        return True
    steps = [np.diff(table, axis=i) for i, n in enumerate(table.shape) if n > 3]
    return not steps or any(bool((s > 0).all() or (s < 0).all()) for s in steps)


def _is_grid(table: npt.NDArray[np.float64], distinct: int) -> bool:
    """Whether a table holds points or boxes (two to four numbers each) of a grid: the same numbers again and again."""
    return table.ndim > 1 and 2 <= table.shape[-1] <= 4 and table.size >= 64 and distinct * 8 <= table.size


def _climbs(table: npt.NDArray[np.float64]) -> bool:
    """Whether every row along the last long axis is an arithmetic progression, and not a constant."""
    long = [i for i, n in enumerate(table.shape) if n > 3]
    if not long or not np.isfinite(table).all():
        return False
    for axis in long:
        steps = np.diff(table, axis=axis)
        spread = np.abs(steps - np.take(steps, [0], axis=axis)).max()
        if 0 < np.abs(steps).max() and spread <= _CLOSE * np.abs(steps).max():
            return True
    return False


def _is_sinusoidal(table: npt.NDArray[np.float64]) -> bool:
    """Whether every row holds sines and cosines of the same angles, in any order: the mean of the squares is a half."""
    width = table.shape[-1] if table.ndim else 0
    if width < 2 or width % 2 or table.size == width or np.abs(table).max() > 1 + _CLOSE:
        return False
    squares = (table * table).sum(axis=-1)
    rows = squares > 0  # a padding row is zero
    return bool(rows.any()) and float(np.abs(squares[rows] * 2 / width - 1).max()) <= _CLOSE


def _is_causal(table: npt.NDArray[np.float64]) -> bool:
    """Whether the last two axes hold decays of the past: nothing above the diagonal, something on it."""
    if table.ndim < 2 or table.shape[-1] != table.shape[-2] or table.shape[-1] < 4:
        return False
    return not np.triu(table, 1).any() and bool(np.diagonal(table, axis1=-2, axis2=-1).all())


def is_repeated(values: Values) -> bool:
    """Whether every row of a table is the same but its elements are not: a vector that an exporter spread."""
    held = values()
    if held is None or held.ndim < 2:
        return False
    rows = held.reshape(-1, held.shape[-1])
    return len(rows) > 1 and bool((rows == rows[0]).all()) and np.unique(rows[0]).size > 1


def is_one_filter(values: Values) -> bool:
    """Whether all kernels of a convolution are the same, and not just flat."""
    held = values()
    if held is None or held.ndim < 3 or len(held) < 2 or np.unique(held[0]).size < 2:
        return False
    return bool((held == held[:1]).all())


def is_round(values: Values) -> bool:
    """Whether a number was written down: few digits suffice for it, a power of it, or either times pi or ln 2."""
    held = values()
    if held is None or held.size != 1:
        return True
    x = float(np.ravel(held)[0])
    step = 2.0**-10 if held.dtype == np.float16 else 2.0**-23  # of the type that it is stored in
    if not math.isfinite(x) or abs(x - float(f"{x:.5g}")) <= step * abs(x) or _is_short(x):
        return True
    if not 1e-9 < abs(x) < 1e9:
        return True  # an epsilon, or the lowest number of a type
    powers = (x**2, x**-2, x**4, x**-4, *(x**p * c for p in (1, 2, -2) for c in _UNITS))
    return any(abs(c - float(f"{c:.3g}")) <= 3 * step * abs(c) for c in powers)


def _is_short(x: float) -> bool:
    """Whether a number has no more digits than bfloat16 holds, in which some programs work out sqrt(d)."""
    mantissa = math.frexp(x)[0] * 2**8
    return mantissa == int(mantissa)


def is_zero(values: Values) -> bool:
    """Whether a number is zero."""
    held = values()
    return held is not None and held.size == 1 and float(np.ravel(held)[0]) == 0.0
