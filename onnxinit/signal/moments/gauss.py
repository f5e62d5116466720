"""Functions of normal variables: projections on Hermite polynomials, the largest of several, the weights of a softmax.

All by quadrature, so that the same question has the same answer everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Function = Callable[[Array], Array]

ORDERS = 20
_REACH = 8.0  # the normal density beyond is 1e-15
_PANELS = 256  # 0 is an edge, where most functions bend
_NODES = 4
_LARGEST = 1e30
_SHARPEST = 400.0  # variance of logits; beyond, one weight is as good as one
_WIDEST = 180.0  # of a logit from their mean
_FEW_ROWS = 24  # counts of visible values that stand for all rows of a causal softmax


def _panels() -> tuple[Array, Array]:
    at, weight = np.polynomial.legendre.leggauss(_NODES)
    edges = np.linspace(-_REACH, _REACH, _PANELS + 1)
    half = _REACH / _PANELS
    z = (0.5 * (edges[1:] + edges[:-1])[:, None] + half * at).reshape(-1)
    mass = np.tile(weight * half, _PANELS) * np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return z, mass


def _hermite(z: Array) -> Array:
    """The orthonormal Hermite polynomials of orders 0 to `ORDERS` at z.

    Formula: h_k = (z h_{k-1} - sqrt(k-1) h_{k-2}) / sqrt(k)
    """
    h = [np.ones_like(z), z]
    for k in range(2, ORDERS + 1):
        h.append((z * h[-1] - math.sqrt(k - 1) * h[-2]) / math.sqrt(k))
    return np.stack(h)


_Z, _MASS = _panels()
_PROJECT = _hermite(_Z) * _MASS
_COMMON, _COMMON_MASS = (a.astype(np.float64) for a in np.polynomial.hermite_e.hermegauss(24))
_COMMON_MASS = _COMMON_MASS / _COMMON_MASS.sum()
_OWN = np.linspace(-_REACH, _REACH, 641, dtype=np.float64)
_OWN_MASS = np.exp(-0.5 * _OWN * _OWN)
_OWN_MASS /= _OWN_MASS.sum()


@dataclass(frozen=True, slots=True)
class Projection:
    """A function of a normal variable, seen by its moments.

    Attributes:
        mean: E[f].
        var: Var[f].
        energy: The share of the variance at each order k >= 1: a_k^2, f = sum of a_k h_k(z); the last takes the rest.
        slope: a_1, what the best line through f makes of z.
    """

    mean: float
    var: float
    energy: tuple[float, ...]
    slope: float

    def correlation(self, rho: float) -> float:
        """Of f(z) and f(z') where z and z' correlate by rho: sum of a_k^2 rho^k over the variance (Mehler)."""
        if self.var <= 0.0:
            return rho
        total, power = 0.0, 1.0
        for share in self.energy:
            power *= rho
            total += share * power
        return max(-1.0, min(1.0, total / self.var))


def values(f: Function, x: Array) -> Array:
    """The values of a function, without those that no float holds."""
    with np.errstate(all="ignore"):
        y = np.clip(np.nan_to_num(np.asarray(f(x), np.float64), nan=0.0), -_LARGEST, _LARGEST)
    return np.broadcast_to(y, x.shape)


def project(f: Function, mean: float, std: float) -> Projection:
    """The moments of f(x), x ~ N(mean, std^2).

    Args:
        f: Takes and returns float64 arrays of one shape.
        mean: The mean of x.
        std: The standard deviation of x, above 0.
    """
    y = values(f, mean + std * _Z)
    found = _PROJECT @ y
    centred = y - found[0]
    var = float(_MASS @ (centred * centred))
    energy = (found[1:] ** 2).tolist()
    energy[-1] += max(0.0, var - sum(energy))
    return Projection(float(found[0]), var, tuple(energy), float(found[1]))


def is_positive(f: Function, mean: float, std: float) -> bool:
    """Whether f is never negative within eight standard deviations, and not always zero."""
    y = values(f, mean + std * _Z)
    return bool(y.min() >= 0.0 and y.max() > 0.0)


def peak(f: Function, mean: float, std: float, rho: float, count: float) -> tuple[float, float, float]:
    """The largest of `count` values f(x_i), x_i ~ N(mean, std^2) that correlate by rho with one another.

    x_i = mean + std (sqrt(rho) z + sqrt(1 - rho) e_i): given z they are independent, so that the distribution function
    of the largest is F^count. Positive counts that are no whole numbers stand for windows that differ.

    Returns:
        Its mean, its variance, and the covariance with the largest of other values that share z.
    """
    rho = min(1.0, max(0.0, rho))
    x = mean + std * (math.sqrt(rho) * _COMMON[:, None] + math.sqrt(1.0 - rho) * _OWN)
    y = values(f, x)
    order = np.argsort(y, axis=1, kind="stable")
    below = np.cumsum(_OWN_MASS[order], axis=1)
    share = np.diff(np.minimum(below, 1.0) ** count, axis=1, prepend=0.0)
    sorted_y = np.take_along_axis(y, order, axis=1)
    first = (share * sorted_y).sum(axis=1)
    second = (share * sorted_y * sorted_y).sum(axis=1)
    middle = float(_COMMON_MASS @ first)
    return middle, float(_COMMON_MASS @ second) - middle**2, float(_COMMON_MASS @ (first - middle) ** 2)


@lru_cache(maxsize=4096)
def concentration(count: int, var: float, causal: bool = False) -> float:
    """E[sum of p_j^2] of a softmax over `count` independent normal logits of a variance.

    Args:
        count: The number of logits, at least 1.
        var: Their variance.
        causal: Whether row i sees the first i only: the mean over i = 1 ... count.
    """
    return gathered(lambda x: x, 0.0, math.sqrt(min(max(var, 0.0), _SHARPEST)), count, causal)


def gathered(f: Function, mean: float, std: float, count: int, causal: bool = False) -> float:
    """E[sum of p_j^2] of a softmax over independent logits g = f(x), x ~ N(mean, std^2).

    With S = sum of exp(g_j): 1/S^2 is the integral of s exp(-s S) over s, so that

        E[sum of p^2] = n * integral of s E[exp(2g - s exp(g))] E[exp(-s exp(g))]^(n-1) ds
    """
    counts = sorted({round(n) for n in np.linspace(1, count, min(count, _FEW_ROWS))}) if causal else [count]
    mass = _OWN_MASS[::4] / _OWN_MASS[::4].sum()
    g = values(f, mean + std * _OWN[::4])
    g = np.clip(g - mass @ g, -_WIDEST, _WIDEST)
    if g.max() - g.min() <= 1e-9:
        return math.fsum(1.0 / n for n in range(1, count + 1)) / count if causal else 1.0 / count
    low, high = -g.max() - math.log(count) - 8.0, 8.0 - g.min()
    t = np.linspace(low, high, max(400, round(12 * (high - low))))  # t = ln s
    term = np.exp(t[:, None] + g)
    kept = np.exp(-term)
    squares = (term * term * kept) @ mass  # s^2 E[exp(2g - s exp(g))], one s of it from ds = s dt
    one = kept @ mass
    step = float(t[1] - t[0])
    found = [n * step * float((squares * one ** (n - 1)).sum()) for n in counts]
    if not causal:
        return min(1.0, max(1.0 / count, found[0]))
    return float(np.interp(np.arange(1, count + 1), counts, found).mean())
