"""The table of activations: one row per name, recognised by the values of a function, whatever it is written with.

A row says how far a function is from its activation: the largest |f(x) - g(x)| / max(1, |x|) on the grid, with the
parameters of a family fitted first. The nearest row within `TOLERANCE` names the function. That admits constants
rounded to float16 or bfloat16 and still tells GELU from its tanh approximation, since both are rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from onnx import AttributeProto
from onnx.helper import make_attribute

from onnxinit.analysis.pointwise import (
    GRID,
    POINTWISE,
    Array,
    Expression,
    celu,
    elu,
    gelu,
    gelu_tanh,
    hardsigmoid,
    leaky_relu,
    selu,
    sigmoid,
    softplus,
)
from onnxinit.analysis.view import Node
from onnxinit.analysis.weight import LINEAR, Activation

TOLERANCE = 2e-3
PRELU_SLOPE = 0.25  # the slope that a parametric ReLU starts from
_HANDING_ON = frozenset({"Identity", "Dropout", "Cast", "CastLike"})
_WIDE = np.maximum(1.0, np.abs(GRID))

Fit = Callable[[Array], "tuple[float, float | None]"]  # values on the grid to (distance, slope)


def distance(f: Array, g: Array) -> float:
    """The largest |f - g| / max(1, |x|) on the grid."""
    return float((np.abs(f - g) / _WIDE).max())


@dataclass(frozen=True, slots=True)
class Row:
    """One activation.

    Attributes:
        name: The design's name.
        fit: How far values on the grid are from it, and the negative slope where it has one.
        operator: The ONNX operator of that name, which decides between functions that are the same.
    """

    name: str
    fit: Fit
    operator: str = ""


def _fixed(*variants: Callable[[Array], Array]) -> Fit:
    """Functions without parameters; several where constants are commonly rounded."""
    values = [np.asarray(g(GRID), np.float64) for g in variants]
    return lambda f: (min(distance(f, g) for g in values), None)


def _leaky(f: Array) -> tuple[float, float | None]:
    slope = float(f[0] / GRID[0])
    fits = 1e-6 < slope and abs(slope - 1.0) > 1e-3
    return (distance(f, leaky_relu(GRID, slope)) if fits else math.inf), slope


def _clip(f: Array) -> tuple[float, float | None]:
    low, high = float(f.min()), float(f.max())
    low = low if low > -16 else -np.inf
    high = high if high < 29 else np.inf
    bounded = high - low > TOLERANCE and (np.isfinite(low) or np.isfinite(high))
    return (distance(f, np.clip(GRID, low, high)) if bounded else math.inf), None


def _family(g: Callable[[Array, float], Array]) -> Fit:
    """A family whose parameter is minus its lower bound; the grid may end a little before that."""

    def fit(f: Array) -> tuple[float, float | None]:
        alpha = bound = float(-f[0])
        if not 1e-2 < alpha < 30:
            return math.inf, None
        for _ in range(8):
            alpha *= bound / float(-g(GRID[:1], alpha)[0])
        return distance(f, g(GRID, alpha)), None

    return fit


def _hardsigmoid(f: Array) -> tuple[float, float | None]:
    """Clip(alpha x + beta, 0, 1), alpha and beta from where it crosses a quarter and three quarters."""
    if abs(f[0]) > TOLERANCE or abs(f[-1] - 1.0) > TOLERANCE or (np.diff(f) < -TOLERANCE).any():
        return math.inf, None
    inner = np.flatnonzero((f > 0.02) & (f < 0.98))
    if len(inner) < 3:
        return math.inf, None
    alpha, beta = np.polyfit(GRID[inner], f[inner], 1)
    return distance(f, hardsigmoid(GRID, float(alpha), float(beta))), None


# Rows with two functions hold one with its constants rounded to bfloat16.
TABLE: tuple[Row, ...] = (
    Row("relu", _fixed(lambda x: np.maximum(x, 0.0)), "Relu"),
    Row("relu6", _fixed(lambda x: np.clip(x, 0.0, 6.0))),
    Row("leaky_relu", _leaky, "LeakyRelu"),
    Row("prelu", _leaky, "PRelu"),
    Row("selu", _fixed(selu, partial(selu, alpha=1.671875, gamma=1.046875)), "Selu"),
    Row("elu", _family(elu), "Elu"),
    Row("celu", _family(celu), "Celu"),
    Row("gelu", _fixed(gelu), "Gelu"),
    Row("gelu_tanh", _fixed(gelu_tanh, partial(gelu_tanh, c=0.796875, k=0.044677734375))),
    Row("quick_gelu", _fixed(lambda x: x * sigmoid(1.702 * x), lambda x: x * sigmoid(1.703125 * x))),
    Row("silu", _fixed(lambda x: x * sigmoid(x)), "Swish"),
    Row("mish", _fixed(lambda x: x * np.tanh(softplus(x))), "Mish"),
    Row("hardswish", _fixed(lambda x: x * hardsigmoid(x, 1 / 6)), "HardSwish"),
    Row("sigmoid", _fixed(sigmoid), "Sigmoid"),
    Row("tanh", _fixed(np.tanh), "Tanh"),
    Row("softplus", _fixed(softplus), "Softplus"),
    Row("softsign", _fixed(lambda x: x / (1.0 + np.abs(x))), "Softsign"),
    Row("clip", _clip),
    Row("hardsigmoid", _hardsigmoid, "HardSigmoid"),
)

# Operators that are named but not pointwise.
SOFTMAX = Activation("softmax", bounded=True)
LOGSOFTMAX = Activation("logsoftmax")
NAMED: Mapping[tuple[str, str], Activation] = {
    ("", "Softmax"): SOFTMAX,
    ("", "LogSoftmax"): LOGSOFTMAX,
    ("com.microsoft", "BiasSoftmax"): SOFTMAX,
    ("com.microsoft", "QLinearSoftmax"): SOFTMAX,
}


def recognise(f: Array, operator: str = "") -> tuple[str, float | None] | None:
    """The name and negative slope of a function.

    Args:
        f: Its values on `GRID`.
        operator: The operator that computes it, where it is a single one.

    Returns:
        None where no row is near enough.
    """
    if f.dtype.kind != "f" or not np.isfinite(f).all():
        return None
    best: tuple[float, str, float | None] | None = None
    for row in TABLE:
        far, slope = row.fit(f)
        if row.operator == operator and far <= 1e-6:
            return row.name, slope
        if far <= TOLERANCE and (best is None or far < best[0] - 1e-7):
            best = far, row.name, slope
    return (best[1], best[2]) if best is not None else None


def named(f: Expression) -> tuple[str, float | None] | None:
    """`recognise` for an expression, remembered with it."""
    if "named" not in f.__dict__:
        operator = _operator(f)
        f.__dict__["named"] = recognise(f.on_grid, operator)
    found: tuple[str, float | None] | None = f.__dict__["named"]
    return found


def _operator(f: Expression) -> str:
    """The operator that computes a function, at most handed on behind it; "" where it is one of no standard."""
    while f.node is not None and f.node.op in _HANDING_ON and isinstance(f.operands[0], Expression):
        f = f.operands[0]
    return f.node.op if f.node is not None and f.node.domain == "" else ""


def activation(name: str, f: Expression, slope: float | None = None) -> Activation:
    """An activation with the exact moments of the function that the graph computes."""
    mean, second, derivative = f.moments or (None, None, None)
    return Activation(name, slope, mean, second, derivative, f.bounded)


# Attributes of the operators that a fused operator's `activation` names, in the order of its parameters.
_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "LeakyRelu": ("alpha",),
    "ThresholdedRelu": ("alpha",),
    "Elu": ("alpha",),
    "Celu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
}
# Operators that apply an activation after adding a bias.
AFTER_BIAS: Mapping[str, tuple[str, str]] = {
    "BiasGelu": ("com.microsoft", "Gelu"),
    "FastGelu": ("com.microsoft", "FastGelu"),
    "BiasSplitGelu": ("com.microsoft", "Gelu"),
    "QLinearSigmoid": ("", "Sigmoid"),
    "QLinearLeakyRelu": ("", "LeakyRelu"),
}
# Layers that apply one always, and what some call those that they name.
_WITHIN: Mapping[str, tuple[str, str]] = {"GemmFastGelu": ("com.microsoft", "FastGelu")}
_SPELLED = {
    "none": "",
    "relu": "Relu",
    "gelu": "Gelu",
    "silu": "Swish",
    "swish": "Swish",
    "sigmoid": "Sigmoid",
    "logistic": "Sigmoid",
    "softmax": "Softmax",
    "softmax_zero": "Softmax",
}
_FUSING = frozenset({"", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"})


def fused(node: Node) -> Activation | None:
    """The activation inside a fused operator: of a layer, on its output; of BiasGelu and its kin, on input and bias."""
    if (kind := _within(node)) is None:
        return None
    if kind in NAMED:
        return NAMED[kind]
    f = function_within(node)
    return Activation("other") if f is None else _read(f)


def function_within(node: Node) -> Expression | None:
    """The pointwise function inside a fused operator, None where there is none or it is not known."""
    kind = _within(node)
    return None if kind is None or kind not in POINTWISE else _expression(*kind, _settings(node, kind[1]))


def _within(node: Node) -> tuple[str, str] | None:
    """Domain and operator of the activation inside a fused operator."""
    if node.domain not in _FUSING:
        return None
    if node.op in AFTER_BIAS or node.op in _WITHIN:
        return AFTER_BIAS.get(node.op) or _WITHIN[node.op]
    kind = node.string_attribute("activation") or node.string_attribute("post_transform")
    kind = _SPELLED.get(kind.lower(), kind)
    return ("", kind) if kind else None


def _settings(node: Node, kind: str) -> Mapping[str, AttributeProto]:
    """The attributes that the activation inside a fused operator would have as one of its own."""
    if node.op in AFTER_BIAS or node.op in _WITHIN:
        return node.attributes
    given = node.attributes.get("activation_params")
    names = _PARAMETERS.get(kind, ())
    parameters = dict(zip(names, given.floats if given is not None else (), strict=False))
    for n in ("alpha", "beta"):
        if n in names and (held := node.attributes.get(f"activation_{n}")) is not None:
            parameters[n] = held.f
    return {n: make_attribute(n, float(x)) for n, x in parameters.items()}


def by_name(operator: str, *parameters: float) -> Activation:
    """The activation that an ONNX operator of one input is.

    Args:
        operator: "Relu", "Clip" ...
        parameters: Its float attributes in the order of the specification; the rest have their defaults.
    """
    names = _PARAMETERS.get(operator, ())
    given = {n: make_attribute(n, float(x)) for n, x in zip(names, parameters, strict=False)}
    return _read(_expression("", operator, given))


def _expression(domain: str, op: str, attributes: Mapping[str, AttributeProto]) -> Expression:
    operands = (Expression(), PRELU_SLOPE) if op == "PRelu" else (Expression(),)
    return Expression(Node(op, domain, "", "", [], [], attributes), operands)


def _read(f: Expression) -> Activation:
    name, slope = named(f) or ("other", None)
    return LINEAR if f.affine is not None else activation(name, f, slope)
