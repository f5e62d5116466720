"""What a layer's activation makes of its output: units that say nothing, values that lie where it is flat."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper

from onnxinit.signal.run.engine import Engine, StepError
from onnxinit.signal.run.layers import MICROSOFT, Layer
from onnxinit.signal.run.program import Program, Step

Floats = npt.NDArray[np.floating[Any]]

FLAT = 0.05  # of its steepest slope: below, an activation counts as flat
FEWEST = 8  # values of a unit that must be seen before it is called dead
_FAR = 32.0  # how far out an activation is looked at
_POINTS = 6401

# What leads from a layer to its activation, value by value or channel by channel.
_NORMS = frozenset({"BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"})
_THROUGH = _NORMS | {"Identity", "Dropout", "Cast", "QuantizeLinear", "DequantizeLinear", "RMSNormalization"}
_WITH_TABLE = frozenset({"Add", "Sub", "Mul", "Div"})  # where the other operand is stored
_ACTIVATIONS = frozenset(
    {
        ("", op)
        for op in ("Relu", "LeakyRelu", "PRelu", "ThresholdedRelu", "Elu", "Selu", "Celu", "Gelu", "Swish", "Mish")
    }
    | {("", op) for op in ("HardSwish", "Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Softsign", "Clip", "Shrink")}
    | {(MICROSOFT, op) for op in ("QuickGelu", "Gelu", "FastGelu", "ScaledSiLU")}
)


@dataclass(frozen=True, slots=True)
class Site:
    """Where the activation of a layer is in the program.

    Attributes:
        step: The activation.
        channels: The axis of its output that the layer's units run along, None where it is not known.
    """

    step: Step
    channels: int | None


def output_of(program: Program, layer: Layer) -> str:
    """The name of a layer's output with its bias, also where the next step adds that."""
    return program.readers[layer.output][0].outputs[0] if layer.later else layer.output


def find_site(program: Program, layer: Layer) -> Site | None:
    """Follow a layer's output to the activation that it alone goes to, through norms, biases and transposes."""
    name, axis = output_of(program, layer), layer.channels
    for _ in range(8):
        readers = program.readers.get(name, ())
        if len(readers) != 1:
            return None
        step = readers[0]
        others = [n for n in step.inputs if n and n != name]
        if step.key in _ACTIVATIONS and program.moving.isdisjoint(others):
            return Site(step, axis)
        if step.op == "Transpose":
            axis = _moved(step, axis)
        elif step.op not in _THROUGH and (step.op not in _WITH_TABLE or not program.moving.isdisjoint(others)):
            return None
        name = step.outputs[0]
    return None


def _moved(step: Step, axis: int | None) -> int | None:
    """Where a transpose moves an axis."""
    order = next((list(helper.get_attribute_value(a)) for a in step.node.attribute if a.name == "perm"), None)
    return None if axis is None or order is None else order.index(axis % len(order))


def dead_share(batches: Iterable[Floats], axis: int | None) -> float | None:
    """The share of units whose values are one and the same in all batches.

    Args:
        batches: Values, with the units along an axis.
        axis: The axis.

    Returns:
        None where fewer than `FEWEST` values of a unit were seen.
    """
    if axis is None:
        return None
    low = high = None
    seen = 0
    for y in batches:
        if not y.size or (low is not None and len(low) != y.shape[axis]):
            return None
        seen += y.size // y.shape[axis]
        others = tuple(i for i in range(y.ndim) if i != axis % y.ndim)
        least, most = y.min(axis=others), y.max(axis=others)
        low = least if low is None else np.minimum(low, least)
        high = most if high is None else np.maximum(high, most)
    if low is None or high is None or seen < FEWEST:
        return None
    return float(np.mean(low == high))


def tails(engine: Engine, step: Step, dtype: npt.DTypeLike) -> tuple[float, float] | None:
    """Below and beyond which values a bounded activation is saturated.

    It is where its slope is less than `FLAT` of its steepest. Where what it then gives is f(0), as with the negative
    side of a ReLU6, a unit is off and not saturated.

    Returns:
        (low, high), infinite where it does not saturate on that side; None for an activation without bounds.
    """
    grid = np.linspace(-_FAR, _FAR, _POINTS).astype(dtype)
    apart = engine.fork([{}])
    apart.hold(step.inputs[0], [grid])
    try:
        apart.compute([step.outputs[0]])
        f = next(iter(apart.values(step.outputs[0]))).astype(np.float64)
    except StepError:  # parameters that a vector does not go with: one for each channel
        return None
    slope = np.abs(np.gradient(f, grid.astype(np.float64)))
    if not np.isfinite(f).all() or not slope.any():
        return None
    first, last = np.flatnonzero(slope >= FLAT * slope.max())[[0, -1]]
    if first == 0 or last == _POINTS - 1:
        return None
    off = f[_POINTS // 2]
    far = FLAT * float(np.ptp(f))
    low = float(grid[first]) if abs(f[0] - off) > far else -np.inf
    high = float(grid[last]) if abs(f[-1] - off) > far else np.inf
    return low, high
