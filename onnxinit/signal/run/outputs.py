"""The output of a layer on the data: what scale of its weight gives it a target, and what it then is."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxinit.signal.run.engine import Engine
from onnxinit.signal.run.layers import Layer
from onnxinit.signal.run.statistics import Moments, channel_moments, moments_of

Floats = npt.NDArray[np.floating[Any]]
Numbers = npt.NDArray[np.float64]


class Output:
    """y = W x on the data, and the bias b that is added to it.

    Args:
        layer: The layer; its output is held by the engine.
        engine: What holds it.
        channels: Whether every channel is looked at on its own.
        bare: Whether the held output lacks its bias.
        for_norm: Whether the moments of every channel are wanted as well, for a batch norm that follows.

    Attributes:
        std: The std of y + b.
        mean: Its mean.
        beta: What a Gemm multiplies its bias by.
    """

    def __init__(self, layer: Layer, engine: Engine, channels: bool, *, bare: bool = True, for_norm: bool = False):
        self._layer, self._engine = layer, engine
        self._axis = layer.channels if channels or for_norm else None
        self.beta = _beta(layer)
        total: Moments | None = None
        product, shape = 0.0, (0,)
        self._bias = self._read_bias() if bare else None
        for y in engine.values(layer.output):
            some = moments_of(y) if self._axis is None else channel_moments(y, self._axis)
            total = some if total is None else total + some
            if self._bias is not None:
                product += float(np.multiply(y, _facing(self._bias, layer, y.ndim), dtype=np.float64).sum())
            shape = y.shape
        if total is None:
            total = Moments(1, np.zeros(()), np.zeros(()))
        self._each = total if self._axis is not None else None
        self._y, self._ndim = total if channels or self._each is None else total.pooled(), len(shape)
        self._b = 0.0, 0.0, 0.0  # mean and variance of b, covariance with y
        if self._bias is not None:
            mean = float(self._bias.mean(dtype=np.float64))
            count = self._y.count * self._y.mean.size
            covariance = product / count - mean * float(self._y.mean.mean())
            self._b = mean, float(self._bias.var(dtype=np.float64)), covariance
        self.std, self.mean = self.moments(np.ones(()), None)

    def _read_bias(self) -> Floats | None:
        """The bias as it is added; None where it is zero."""
        if not self._layer.bias:
            return None
        value: Floats = next(iter(self._engine.values(self._layer.bias)))
        return value * self.beta if value.any() else None

    def scale_for(self, target: float) -> Numbers | None:
        """The scale of W that gives y + b the std of a target: one, or one for each channel (0 for a dead one).

        Formula: s > 0 with s^2 Var y + 2 s Cov(y, b) + Var b = target^2

        Returns:
            None where there is no such scale.
        """
        variance = self._y.variance
        if not np.isfinite(variance).all() or not variance.any():
            return None
        if variance.ndim:  # within a channel the bias is constant
            scale: Numbers = np.divide(target, np.sqrt(variance), out=np.zeros_like(variance), where=variance > 0)
            return scale
        v, (_, b, c) = float(variance), self._b
        inside = c * c - v * (b - target * target)
        s = (math.sqrt(inside) - c) / v if inside >= 0 else 0.0
        return np.asarray(s) if s > 0 else None

    def fault(self, target: float) -> tuple[Literal["dead", "not converged"], str]:
        """Why there is no scale for a target."""
        variance = self._y.variance
        if not np.isfinite(variance).all():
            return "not converged", "its output is not finite, whatever its scale: a layer before it is not scaled"
        if not variance.any():
            return "dead", "its input is zero or constant"
        return (
            "not converged",
            f"its kept bias alone has the std {math.sqrt(self._b[1]):.3g}, beyond the target {target:g}",
        )

    def centre(self, scale: Numbers) -> Numbers:
        """The bias in place of b that gives s y + b the mean zero: one, or one for each channel."""
        return np.asarray(-scale * self._y.mean)

    def moments(self, scale: Numbers, shift: Numbers | None) -> tuple[float, float]:
        """Std and mean of s y + b, with a shift in place of b."""
        mean, variance = scale * self._y.mean, scale**2 * self._y.variance
        if shift is not None:
            mean = mean + shift
        across = float(variance.mean() + mean.var())
        middle = float(mean.mean())
        if shift is None:
            b_mean, b, c = self._b
            middle, across = middle + b_mean, across + b + 2 * float(scale.mean()) * c
        return math.sqrt(max(across, 0.0)), middle

    def channels(self, scale: Numbers, shift: Numbers | None) -> Moments | None:
        """The moments of every channel of what the engine holds then; None where they were not wanted."""
        if self._each is None or self._layer.later:
            return None
        added = self._bias.reshape(-1) if shift is None and self._bias is not None else shift
        mean = scale * self._each.mean + (0.0 if added is None else added)
        return Moments(self._each.count, np.asarray(mean), np.asarray(scale**2 * self._each.squares))

    def apply(self, scale: Numbers, shift: Numbers | None) -> None:
        """Let the engine hold s y + b, or s y where a later step adds b."""
        factor = self._along(scale)
        added: Floats | None = None
        if not self._layer.later:
            added = self._bias if shift is None else shift.astype(np.float64)

        def change(y: Floats) -> Floats:
            y = np.multiply(y, factor.astype(y.dtype), out=y if y.flags.writeable else None)
            if added is not None:
                b = _facing(added, self._layer, y.ndim) if shift is None else self._along(added)
                y = np.add(y, b.astype(y.dtype), out=y)
            return y

        self._engine.change(self._layer.output, change)

    def _along(self, numbers: Floats) -> Floats:
        """Numbers so that they stand along the channels."""
        if numbers.ndim == 0:
            return numbers
        shape = [1] * self._ndim
        shape[self._layer.channels or 0] = -1
        return numbers.reshape(shape)


def matrix_of(layer: Layer, engine: Engine) -> Floats:
    """What an operator multiplies its input by, of a layer whose product is inside it: (directions, in, out)."""
    step, weight = layer.step, layer.weight
    if weight.quantised is not None and len(layer.chain) == 1:
        held = engine.supply.real(weight.path)
    else:
        held = next(iter(engine.values(step.inputs[layer.at])))
    stacked: Floats = held.reshape(-1, *held.shape[-2:]).astype(np.float32)
    return stacked.transpose(0, 2, 1) if step.op in ("LSTM", "GRU", "RNN") else stacked


def _beta(layer: Layer) -> float:
    beta = [a.f for a in layer.step.node.attribute if a.name == "beta"] if layer.step.op == "Gemm" else []
    return float(beta[0]) if beta else 1.0


def _facing(bias: Floats, layer: Layer, ndim: int) -> Floats:
    """A bias so that it broadcasts against the output: that of a convolution runs along axis 1."""
    if bias.ndim == 1 and layer.channels == 1 and not layer.later:
        return bias.reshape([-1 if i == 1 else 1 for i in range(ndim)])
    return bias
