"""Mean and variance of large arrays, merged over batches without losing digits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Numbers = npt.NDArray[np.float64]

_RUN = 4096  # values whose float32 sum keeps six digits; runs are added in float64
_SAFE = (1e-15, 1e15)  # magnitudes whose squares a float32 sum of a run holds
_OFF = 4.0  # standard deviations that a mean may lie from zero before the squares lose digits


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and sum of squared deviations: of all values, or one of each for every channel.

    Attributes:
        count: Values (of a channel).
        mean: Their mean.
        squares: The sum of (x - mean)^2.
    """

    count: int
    mean: Numbers
    squares: Numbers

    def __add__(self, other: Moments) -> Moments:
        """Of both together (Chan, Golub, LeVeque: Updating formulae, 1979)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        with np.errstate(invalid="ignore", over="ignore"):
            mean = self.mean + apart * (other.count / count)
            return Moments(count, mean, self.squares + other.squares + apart**2 * (self.count * other.count / count))

    @property
    def variance(self) -> Numbers:
        """E[(x - mean)^2]."""
        return self.squares / self.count

    @property
    def std(self) -> float:
        """The standard deviation of all values."""
        return math.sqrt(float(self.variance))


def moments_of(values: Array) -> Moments:
    """The moments of all values of a float array, to about nine digits.

    Runs of 4096 float32 values are summed in float32 and the runs in float64: a fifth of the time that converting every
    value takes. Where the mean is far from zero, or squares could leave float32, every value is converted.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    if flat.dtype == np.float32 and flat.size >= 2 * _RUN:
        whole = flat.size // _RUN * _RUN
        runs = flat[:whole].reshape(-1, _RUN)
        with np.errstate(over="ignore", invalid="ignore"):
            sums = runs.sum(axis=1).sum(dtype=np.float64)
            products = np.einsum("ij,ij->i", runs, runs).sum(dtype=np.float64)
        mean, square = sums / whole, products / whole
        variance = square - mean**2
        if _SAFE[0] ** 2 < variance < _SAFE[1] ** 2 and mean**2 < _OFF**2 * variance:
            most = Moments(whole, np.asarray(mean), np.asarray(variance * whole))
            return most if whole == flat.size else most + _exactly(flat[whole:])
    return _exactly(flat)


def _exactly(flat: Array) -> Moments:
    total: Moments | None = None
    with np.errstate(over="ignore", invalid="ignore"):
        for at in range(0, max(flat.size, 1), 1 << 16):
            block = flat[at : at + (1 << 16)].astype(np.float64)
            mean = block.mean() if block.size else np.float64(0.0)
            some = Moments(block.size, np.asarray(mean), np.asarray(((block - mean) ** 2).sum()))
            total = some if total is None else total + some
    assert total is not None
    return total


def channel_moments(values: Array, axis: int) -> Moments:
    """The moments of every index along an axis."""
    moved = np.moveaxis(values, axis, 1) if values.ndim > 1 else values[None]
    apart = moved.reshape(len(moved), moved.shape[1], -1)
    count = apart.shape[0] * apart.shape[2]
    if apart.dtype == np.float32 and apart.shape[2] <= _RUN:
        with np.errstate(over="ignore", invalid="ignore"):
            mean = apart.sum(axis=2).sum(axis=0, dtype=np.float64) / count
            variance = np.einsum("ncl,ncl->nc", apart, apart).sum(axis=0, dtype=np.float64) / count - mean**2
        if ((variance > _SAFE[0] ** 2) & (variance < _SAFE[1] ** 2) & (mean**2 < _OFF**2 * variance)).all():
            return Moments(count, mean, variance * count)
    mean, squares = np.empty((2, apart.shape[1]))
    for i in range(apart.shape[1]):
        one = _exactly(np.ascontiguousarray(apart[:, i]).reshape(-1))
        mean[i], squares[i] = one.mean, one.squares
    return Moments(count, mean, squares)


def gate_moments(values: Array, gates: int) -> Moments:
    """The moments of every gate of a product whose last axis runs along the gates, the units of each together."""
    return channel_moments(values.reshape(-1, gates, values.shape[-1] // gates), 1)
