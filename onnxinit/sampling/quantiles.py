"""Words of random bits to normal values, by look-up, multiplication and addition.

`tables.py` says how a word is read. Every step is exactly rounded, so the values are the same on every processor
and with every numpy.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxinit.sampling.tables import FILE, K32, K64

Table = tuple[npt.NDArray[np.floating[Any]], ...]


@cache
def _table32() -> Table:
    """The pairs (a, b), each column by the float's leading bits: sparse, most pages are never touched."""
    shipped = np.load(FILE)["normal32"]
    columns = np.zeros((2, 1 << (9 + K32)), np.float32)
    start = 127 << K32
    for sign, rows in enumerate(shipped):
        base = sign << (8 + K32)
        columns[:, base] = rows[0]
        columns[:, base + start : base + start + len(rows) - 1] = rows[1:].T
    return tuple(columns)


@cache
def _table64() -> Table:
    """The four columns, by the exponent's last six bits and the leading bits of the mantissa."""
    shipped = np.load(FILE)["normal64"]
    return tuple(np.ascontiguousarray(column) for column in np.roll(shipped, -(1 << K64), axis=0).T)


class Quantiles32:
    """Normal float32 values from int32 words.

    One word in 2^32 lies beyond +-6.2, where the value is +-6.4; the law of the others is off by less than 1e-6 in x.
    """

    words = np.dtype(np.int32)

    def __init__(self, size: int):
        self._a, self._b = _table32()
        self._index = np.empty(size, np.int32)
        self._wide = np.empty(size, np.int64)
        self._f = np.empty(size, np.float32)

    def __call__(self, words: npt.NDArray[np.int32], out: npt.NDArray[np.float32]) -> None:
        """Fill `out` with the values of `words`, at most `size` of them."""
        n = len(words)
        f, index, wide = self._f[:n], self._index[:n], self._wide[:n]
        np.copyto(f, words, casting="unsafe")
        np.right_shift(f.view(np.uint32), 23 - K32, out=index.view(np.uint32))
        np.copyto(wide, index)
        self._b.take(wide, out=out, mode="wrap")
        np.multiply(out, f, out=out)
        self._a.take(wide, out=f, mode="wrap")
        np.add(out, f, out=out)


class Quantiles64:
    """Normal float64 values from int64 words: 53 significant bits of every word, off by less than 1e-11 in x."""

    words = np.dtype(np.int64)

    def __init__(self, size: int):
        self._columns = _table64()
        self._index = np.empty(size, np.int64)
        self._f = np.empty(size, np.float64)
        self._c = np.empty(size, np.float64)

    def __call__(self, words: npt.NDArray[np.int64], out: npt.NDArray[np.float64]) -> None:
        """Fill `out` with the values of `words`, at most `size` of them."""
        n = len(words)
        index, f, c = self._index[:n], self._f[:n], self._c[:n]
        np.bitwise_or(words, 1, out=index)
        np.copyto(f, index, casting="unsafe")
        np.absolute(f, out=f)
        np.right_shift(f.view(np.int64), 52 - K64, out=index)
        np.bitwise_and(index, (64 << K64) - 1, out=index)
        self._columns[3].take(index, out=out, mode="wrap")
        for column in self._columns[2::-1]:
            np.multiply(out, f, out=out)
            column.take(index, out=c, mode="wrap")
            np.add(out, c, out=out)
        np.bitwise_and(words, np.iinfo(np.int64).min, out=index)
        np.bitwise_xor(out.view(np.int64), index, out=out.view(np.int64))
