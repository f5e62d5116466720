"""Mean and variance of large arrays, merged over batches without losing digits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Numbers = npt.NDArray[np.float64]

_RUN = 1024  # values whose float32 sum keeps six digits; runs are added in float64
_ONES = np.ones((_RUN, 1), np.float32)
_BLOCK = 1 << 15  # values that are converted to float64 at once, so that they stay in the cache
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

    def pooled(self) -> Moments:
        """Of all channels together."""
        mean = self.mean.mean()
        squares = self.squares.sum() + self.count * ((self.mean - mean) ** 2).sum()
        return Moments(self.count * self.mean.size, np.asarray(mean), np.asarray(squares))

    @property
    def std(self) -> float:
        """The standard deviation of all values."""
        return math.sqrt(float(self.variance))


def moments_of(values: Array) -> Moments:
    """The moments of all values of a float array, to about nine digits.

    Runs of 1024 float32 values are summed in float32, by BLAS, and the runs in float64: a tenth of the time that
    converting every value takes. Where the mean is far from zero, or squares could leave float32, every value is
    converted.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    if flat.dtype == np.float32 and flat.size >= 2 * _RUN:
        whole = flat.size // _RUN * _RUN
        sums = products = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for at in range(0, whole, 1 << 18):  # read from memory once
                runs = flat[at : min(at + (1 << 18), whole)].reshape(-1, 1, _RUN)
                # Run by run, so that BLAS wakes no threads of its own: they would spin beside those of ONNX Runtime.
                sums += float(np.matmul(runs, _ONES).sum(dtype=np.float64))
                products += float(np.matmul(runs, runs.transpose(0, 2, 1)).sum(dtype=np.float64))
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
    """The moments of every index along an axis, which counts from the end if it is below 0."""
    shape, axis = values.shape, axis % values.ndim
    apart = values.reshape(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
    count = apart.shape[0] * apart.shape[2]
    if apart.dtype == np.float32 and apart.shape[2] <= 4 * _RUN:
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.einsum("ncl->nc", apart).sum(axis=0, dtype=np.float64) / count
            variance = np.einsum("ncl,ncl->nc", apart, apart).sum(axis=0, dtype=np.float64) / count - mean**2
        if ((variance > _SAFE[0] ** 2) & (variance < _SAFE[1] ** 2) & (mean**2 < _OFF**2 * variance)).all():
            return Moments(count, mean, variance * count)
    return _channels_exactly(apart)


def _channels_exactly(apart: Array) -> Moments:
    """The moments along the middle axis of (n, channels, l), every value converted, about the means of some of them."""
    outer, channels, inner = apart.shape
    wide = max(1, _BLOCK // max(inner, 1))  # channels of a block
    deep = max(1, wide // max(channels, 1))
    sums, squares = np.zeros((2, channels))
    with np.errstate(over="ignore", invalid="ignore"):
        guess = apart[:deep].mean(axis=(0, 2), dtype=np.float64) if apart.size else np.zeros(channels)
        for row in range(0, outer, deep):
            for at in range(0, channels, wide):
                block = apart[row : row + deep, at : at + wide].astype(np.float64)
                block -= guess[at : at + wide, None]
                sums[at : at + wide] += block.sum(axis=(0, 2))
                squares[at : at + wide] += np.einsum("ncl,ncl->c", block, block)
        count = outer * inner
        off = sums / max(count, 1)
        return Moments(count, guess + off, squares - off * sums)


def gate_moments(values: Array, gates: int) -> Moments:
    """The moments of every gate of a product whose last axis runs along the gates, the units of each together."""
    return channel_moments(values.reshape(-1, gates, values.shape[-1] // gates), 1)
