"""Recurrent cells by a small simulation of fixed seed: what their states are like after some steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from onnxinit.analysis.pointwise import sigmoid
from onnxinit.sampling import stream, weight_key

Array = npt.NDArray[np.float64]

WIDTH, SAMPLES, STEPS = 64, 64, 64  # standard errors below 2 % of the variance
_FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
    "hardsigmoid": lambda x: np.clip(0.2 * x + 0.5, 0.0, 1.0),
    "softsign": lambda x: x / (1.0 + np.abs(x)),
    "affine": lambda x: x,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    "leakyrelu": lambda x: np.where(x > 0, x, 0.01 * x),
    "softplus": lambda x: np.logaddexp(0.0, x),
}


@dataclass(frozen=True, slots=True)
class States:
    """Moments of a cell's states.

    Attributes:
        mean: Of the hidden state, over all steps.
        var: Likewise.
        rho: The correlation of a unit's hidden states at two steps.
        last: Mean and variance of the last hidden state.
        cell: Mean and variance of the last cell state; those of the hidden state where there is none.
    """

    mean: float
    var: float
    rho: float
    last: tuple[float, float]
    cell: tuple[float, float]


@lru_cache(maxsize=512)
def simulate(
    kind: str,
    functions: tuple[str, ...],
    var: float,
    rho: float,
    recurrent: float,
    biases: tuple[float, ...],
    steps: int,
    after_reset: bool = False,
) -> States:
    """Run a cell of random weights on normal inputs.

    Args:
        kind: "LSTM" (gates i, o, f, c), "GRU" (z, r, h) or "RNN".
        functions: The activations by their ONNX names.
        var: The variance of the input's part of a gate's pre-activation.
        rho: Its correlation at two steps.
        recurrent: h Var[R], the factor from E[h^2] to the variance of the recurrent part.
        biases: Of every gate.
        steps: How many; at most `STEPS` are run.
        after_reset: Of a GRU, whether the reset gate acts after the recurrent product.
    """
    gates, steps = len(biases), max(1, min(steps, STEPS))
    f = [_FUNCTIONS.get(name.lower(), np.tanh) for name in functions]
    key = weight_key(0, "moments of a recurrent cell")
    bits = stream(key)

    def drawn(*shape: int) -> Array:
        out = np.empty(math.prod(shape))
        bits.normal(out)
        return out.reshape(shape)

    r = drawn(gates, WIDTH, WIDTH) * math.sqrt(recurrent / WIDTH)
    shared = drawn(gates, SAMPLES, WIDTH) * math.sqrt(var * rho)
    h: Array = np.zeros((SAMPLES, WIDTH))
    c: Array = h
    states: list[Array] = []
    for _ in range(steps):
        own = drawn(gates, SAMPLES, WIDTH) * math.sqrt(var * (1.0 - rho)) + shared
        u = [x + b for x, b in zip(own, biases, strict=True)]
        if kind == "LSTM":
            i, o, forget = (f[0](u[k] + h @ r[k].T) for k in (0, 1, 2))
            c = forget * c + i * f[1](u[3] + h @ r[3].T)
            h = o * f[2](c)
        elif kind == "GRU":
            z, reset = (f[0](u[k] + h @ r[k].T) for k in (0, 1))
            new = f[1](u[2] + (reset * (h @ r[2].T) if after_reset else (reset * h) @ r[2].T))
            h = (1.0 - z) * new + z * h
            c = h
        else:
            c = h = f[0](u[0] + h @ r[0].T)
        states.append(h)
    every = np.stack(states)
    mean, total = float(every.mean()), float(every.var())
    means = float(every.mean(axis=0).var())
    alike = (steps * means / total - 1.0) / (steps - 1.0) if steps > 1 and total > 0 else 1.0
    return States(mean, total, alike, (float(h.mean()), float(h.var())), (float(c.mean()), float(c.var())))
