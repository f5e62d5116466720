"""Build the quantile tables of the normal law: `python -m onnxinit.sampling.tables` (needs scipy) writes normal.npz.

A random word is read as a signed integer w; its magnitude m is twice the probability left beyond the value, in units of
the largest m, and its sign is the value's sign. As a float the word splits into cells by its leading bits: 2^k cells to
every halving of the remaining probability (an octave, one exponent of the float), so that the tails are as fine as the
middle. In each cell the quantile function is replaced by its projection on the polynomials of one degree, which keeps
the cell's mean exactly:

    normal32   32-bit words, 2^K32 cells an octave, x = a + b f      with f = float32(w), both signs tabulated
    normal64   64-bit words, 2^K64 cells an octave, x = a + b f + c f^2 + d f^3   with f = |float64(w | 1)|

What is shipped is the file; this script says where its numbers come from and need not give the same last bits twice.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

FILE = Path(__file__).with_name("normal.npz")
K32 = 9
K64 = 7
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)


def _beyond(p: Array) -> Array:
    """The value beyond which a standard normal lies with probability p <= 1/2."""
    from scipy.special import ndtri  # type: ignore[import-untyped]

    x: Array = -ndtri(p)
    return x


def _project(lo: Array, hi: Array, degree: int, scale: float) -> Array:
    """Legendre coefficients (cells, degree + 1) of the quantile function on scale * [lo, hi], t in [-1, 1]."""
    x = _beyond(scale * ((lo + hi) / 2 + (hi - lo) / 2 * _NODES))
    columns = [
        (2 * j + 1) / 2 * (x * _WEIGHTS * np.polynomial.Legendre.basis(j)(_NODES)).sum(1) for j in range(degree + 1)
    ]
    return np.stack(columns, 1)


def _octaves(first: int, last: int, k: int) -> Array:
    """Lower ends of the cells of the octaves [2^e, 2^(e+1)), e from first to last."""
    mantissa = 1 + np.arange(1 << k) / (1 << k)
    starts: Array = np.ldexp(1.0, np.arange(first, last + 1))[:, None] * mantissa
    return starts.ravel()


def normal32() -> npt.NDArray[np.float32]:
    """The table for 32-bit words.

    Returns:
        float32 (2, 2 + 31 * 2^K32, 2): for either sign the pairs (a, b) of the word 0, of the cells of magnitudes 1 to
        2^31, and of 2^31 itself, which is where the words next to it round to.
    """
    starts = _octaves(0, 30, K32)
    ends = np.append(starts[1:], 2.0**31)
    # Of the words that a cell holds the first and the last; a cell finer than the words may hold none.
    first, last = np.ceil(starts), np.ceil(ends) - 1
    held = last >= first
    first, last = first[held], last[held]
    table = np.zeros((2, 2 + len(starts), 2))
    for sign in (0, 1):
        # The word w >= 0 stands for the probabilities from w to w + 1, the word -w for those from w - 1 to w.
        lo, hi = (first, last + 1) if sign == 0 else (first - 1, last)
        mean, half_slope = _project(lo[:, None], hi[:, None], 1, 2.0**-32).T
        slope = np.where(first == last, 0.0, half_slope / ((hi - lo) / 2))
        rows = 1 + np.flatnonzero(held)
        table[sign, rows] = np.stack([mean - slope * (first + last) / 2, slope], 1)
        table[sign, 0] = _project(np.zeros((1, 1)), np.ones((1, 1)), 0, 2.0**-32)[0, 0], 0
    table[1, :, 0] *= -1  # f carries the sign into b f already
    return table.astype(np.float32)


def normal64() -> Array:
    """The table for 64-bit words.

    Returns:
        float64 (64 * 2^K64, 4): the coefficients (a, b, c, d) of the cells of magnitudes 1 to 2^63, and behind them one
        octave for 2^63 itself, which is where the largest words round to.
    """
    starts = _octaves(0, 62, K64)
    width = np.repeat(2.0 ** np.arange(63), 1 << K64) / (1 << K64)
    local = _project(starts[:, None], (starts + width)[:, None], 3, 2.0**-64).astype(np.longdouble)
    middle, half = (starts + width / 2).astype(np.longdouble), (width / 2).astype(np.longdouble)
    # Legendre to powers of t = (f - middle) / half, then to powers of f.
    t0, t1 = local[:, 0] - local[:, 2] / 2, local[:, 1] - local[:, 3] * 3 / 2
    t2, t3 = local[:, 2] * 3 / 2 / half**2, local[:, 3] * 5 / 2 / half**3
    t1 = t1 / half
    powers = np.stack(
        [
            t0 - t1 * middle + t2 * middle**2 - t3 * middle**3,
            t1 - 2 * t2 * middle + 3 * t3 * middle**2,
            t2 - 3 * t3 * middle,
            t3,
        ],
        1,
    )
    return np.asarray(np.concatenate([powers, np.zeros((1 << K64, 4))]), np.float64)


if __name__ == "__main__":
    np.savez_compressed(FILE, normal32=normal32(), normal64=normal64())
    print(f"{FILE}: {FILE.stat().st_size} bytes")
