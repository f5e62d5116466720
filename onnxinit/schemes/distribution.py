"""The laws that independent schemes draw from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxinit.sampling import Stream

Kind = Literal["constant", "normal", "uniform", "truncated_normal"]


@dataclass(frozen=True, slots=True)
class Distribution:
    """A law of independent values.

    Attributes:
        kind: Which law.
        mean: The value of a constant; the mean of a normal law, before truncation.
        std: The standard deviation of a normal law, before truncation.
        low: The lower bound of a uniform law; of a truncated normal law in units of std from the mean.
        high: The upper bound, likewise.
    """

    kind: Kind
    mean: float = 0.0
    std: float = 0.0
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def constant(cls, value: float) -> Distribution:
        """Every value is `value`."""
        return cls("constant", mean=value)

    @classmethod
    def normal(cls, std: float, mean: float = 0.0) -> Distribution:
        """N(mean, std^2)."""
        return cls("normal", mean=mean, std=std)

    @classmethod
    def uniform(cls, low: float, high: float) -> Distribution:
        """U[low, high]."""
        return cls("uniform", low=low, high=high)

    @classmethod
    def truncated_normal(cls, std: float, mean: float = 0.0, low: float = -2.0, high: float = 2.0) -> Distribution:
        """N(mean, std^2) under the condition that the value lies in [mean + low std, mean + high std]."""
        return cls("truncated_normal", mean=mean, std=std, low=low, high=high)

    def scaled(self, gain: float) -> Distribution:
        """The law of `gain` (at least 0) times a value of this one."""
        if self.kind == "uniform":
            return replace(self, low=gain * self.low, high=gain * self.high)
        return replace(self, mean=gain * self.mean, std=gain * self.std)

    @property
    def expectation(self) -> float:
        """The mean that the values have, truncation included."""
        if self.kind == "uniform":
            return self.low / 2 + self.high / 2
        if self.kind == "truncated_normal":
            return self.mean + self.std * _truncated(self.low, self.high)[0]
        return self.mean

    @property
    def deviation(self) -> float:
        """The standard deviation that the values have, truncation included."""
        if self.kind == "uniform":
            return (self.high - self.low) / math.sqrt(12)
        if self.kind == "truncated_normal":
            return self.std * math.sqrt(_truncated(self.low, self.high)[1])
        return self.std

    def sample(self, stream: Stream, out: npt.NDArray[np.floating[Any]]) -> None:
        """Fill `out` (float32 or float64, C-contiguous) with values of this law."""
        real = out.dtype.type
        if self.kind == "constant":
            out.fill(self.mean)
            return
        if self.kind == "uniform":
            stream.uniform(out, self.low, self.high)
            return
        if self.kind == "normal":
            stream.normal(out)
        else:
            stream.truncated_normal(out, self.low, self.high)
        np.multiply(out, real(self.std), out=out)
        if self.mean:
            np.add(out, real(self.mean), out=out)


def _truncated(low: float, high: float) -> tuple[float, float]:
    """Mean and variance of a standard normal in [low, high], by the closed form; no draw depends on it."""
    if low > 0:  # the upper tail by the lower one, where differences of probabilities are exact
        mean, variance = _truncated(-high, -low)
        return -mean, variance

    def density(x: float) -> float:
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    def below(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    mass = below(high) - below(low)
    mean = (density(low) - density(high)) / mass

    def edge(x: float) -> float:
        return x * density(x) if math.isfinite(x) else 0.0

    return mean, 1 + (edge(low) - edge(high)) / mass - mean * mean
