"""Pointwise ONNX operators as numpy functions, expressions built of them, and their Gaussian moments.

An `Expression` is a function of one variable x that a piece of a graph computes: operators applied to x and numbers.
Equal expressions are one object, so that a network with a thousand GELUs has one to evaluate.

The moments are E[f], E[f^2] and E[f'^2] for z ~ N(0, 1), by Gauss-Legendre quadrature on narrow panels. Gauss-Hermite
nodes converge slowly where f has a kink; here the usual kinks (0, +-1/2, +-1, +-2.5, +-3, 6) are panel edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnxinit.analysis.view import Node

Array = npt.NDArray[np.float64]
Operand = Array | float | None
Function = Callable[[Node, Sequence[Operand]], Array]

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x: npt.ArrayLike) -> Array:
    """The error function, element by element."""
    return np.asarray(_erf(x), np.float64)


def sigmoid(x: npt.ArrayLike) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, np.float64))))


def softplus(x: npt.ArrayLike) -> Array:
    """log(1 + exp(x)), without overflow."""
    return np.logaddexp(0.0, np.asarray(x, np.float64))


def gelu(x: npt.ArrayLike) -> Array:
    """X Phi(x) (Hendrycks and Gimpel 2016)."""
    x = np.asarray(x, np.float64)
    return 0.5 * x * (1.0 + erf(x / math.sqrt(2.0)))


def gelu_tanh(x: npt.ArrayLike, c: float = math.sqrt(2.0 / math.pi), k: float = 0.044715) -> Array:
    """The tanh approximation of GELU; `c` and `k` are its two constants."""
    x = np.asarray(x, np.float64)
    return np.asarray(0.5 * x * (1.0 + np.tanh(c * (x + k * x**3))))


def elu(x: npt.ArrayLike, alpha: float = 1.0) -> Array:
    """X above zero, alpha (exp(x) - 1) below (Clevert et al. 2015)."""
    x = np.asarray(x, np.float64)
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def selu(x: npt.ArrayLike, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> Array:
    """Gamma elu(x, alpha) (Klambauer et al. 2017)."""
    return gamma * elu(x, alpha)


def celu(x: npt.ArrayLike, alpha: float = 1.0) -> Array:
    """X above zero, alpha (exp(x / alpha) - 1) below (Barron 2017)."""
    x = np.asarray(x, np.float64)
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0) / alpha))


def hardsigmoid(x: npt.ArrayLike, alpha: float = 0.2, beta: float = 0.5) -> Array:
    """Clip(alpha x + beta, 0, 1)."""
    return np.clip(alpha * np.asarray(x, np.float64) + beta, 0.0, 1.0)


def leaky_relu(x: npt.ArrayLike, slope: float) -> Array:
    """X above zero, slope x below (Maas et al. 2013)."""
    x = np.asarray(x, np.float64)
    return np.where(x > 0, x, slope * x)


# ---------------------------------------------------------------- the table of operators


def _unary(f: Callable[..., npt.ArrayLike], **attributes: float) -> Function:
    """A function of one input; the attributes are handed on with the operator's defaults."""

    def run(node: Node, x: Sequence[Operand]) -> Array:
        given = {name: node.float_attribute(name, default) for name, default in attributes.items()}
        return np.asarray(f(x[0], **given))

    return run


def _binary(f: Callable[..., npt.ArrayLike]) -> Function:
    return lambda node, x: np.asarray(f(x[0], x[1]))


def _many(f: Callable[[Array, Array], npt.ArrayLike]) -> Function:
    def run(node: Node, x: Sequence[Operand]) -> Array:
        total = np.asarray(x[0])
        for operand in x[1:]:
            total = np.asarray(f(total, np.asarray(operand)))
        return total

    return run


def _clip(node: Node, x: Sequence[Operand]) -> Array:
    low, high = [
        x[i] if len(x) > i and x[i] is not None else node.float_attribute(name, default)
        for i, name, default in ((1, "min", -np.inf), (2, "max", np.inf))
    ]
    return np.asarray(np.minimum(np.maximum(np.asarray(x[0]), np.asarray(low)), np.asarray(high)))


def cast_target(node: Node) -> int:
    """The type that a Cast makes; the first versions name it by a string."""
    name = node.string_attribute("to").upper()
    return TensorProto.DataType.Value(name) if name in TensorProto.DataType.keys() else node.int_attribute("to", 1)


def _cast(node: Node, x: Sequence[Operand]) -> Array:
    kind = cast_target(node)
    if kind == TensorProto.BOOL:
        return np.asarray(np.asarray(x[0]) != 0)
    value = np.asarray(x[0], np.float64)
    return value if kind in _FLOATS or node.op == "CastLike" else np.asarray(np.trunc(value))


def _gelu(node: Node, x: Sequence[Operand]) -> Array:
    return (gelu_tanh if node.string_attribute("approximate", "none") == "tanh" else gelu)(np.asarray(x[0]))


def _thresholded(x: npt.ArrayLike, alpha: float) -> Array:
    return np.where(np.asarray(x) > alpha, np.asarray(x, np.float64), 0.0)


def _shrink(x: npt.ArrayLike, lambd: float, bias: float) -> Array:
    x = np.asarray(x, np.float64)
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0.0))


def _swish(x: npt.ArrayLike, alpha: float) -> Array:
    return np.asarray(x) * sigmoid(alpha * np.asarray(x))


def _power(x: npt.ArrayLike, y: npt.ArrayLike) -> Array:
    return np.asarray(np.power(np.asarray(x, np.float64), np.asarray(y, np.float64)))


_TABLE: dict[str, Function] = {
    "Identity": _unary(np.asarray),
    "Dropout": _unary(np.asarray),
    "Cast": _cast,
    "CastLike": _cast,
    "Relu": _unary(lambda x: np.maximum(x, 0.0)),
    "LeakyRelu": _unary(lambda x, alpha: leaky_relu(x, alpha), alpha=0.01),
    "PRelu": _binary(leaky_relu),
    "Elu": _unary(elu, alpha=1.0),
    "Selu": _unary(selu, alpha=1.6732632423543772, gamma=1.0507009873554805),
    "Celu": _unary(celu, alpha=1.0),
    "ThresholdedRelu": _unary(_thresholded, alpha=1.0),
    "Shrink": _unary(_shrink, lambd=0.5, bias=0.0),
    "Sigmoid": _unary(sigmoid),
    "HardSigmoid": _unary(hardsigmoid, alpha=0.2, beta=0.5),
    "HardSwish": _unary(lambda x: x * hardsigmoid(x, 1 / 6)),
    "Tanh": _unary(np.tanh),
    "Erf": _unary(erf),
    "Softplus": _unary(softplus),
    "Softsign": _unary(lambda x: x / (1.0 + np.abs(x))),
    "Gelu": _gelu,
    "Mish": _unary(lambda x: x * np.tanh(softplus(x))),
    "Swish": _unary(_swish, alpha=1.0),
    "Exp": _unary(np.exp),
    "Log": _unary(np.log),
    "Sqrt": _unary(np.sqrt),
    "Abs": _unary(np.abs),
    "Neg": _unary(np.negative),
    "Reciprocal": _unary(lambda x: 1.0 / np.asarray(x, np.float64)),
    "Sign": _unary(np.sign),
    "Sin": _unary(np.sin),
    "Cos": _unary(np.cos),
    "Tan": _unary(np.tan),
    "Atan": _unary(np.arctan),
    "Asinh": _unary(np.arcsinh),
    "Sinh": _unary(np.sinh),
    "Cosh": _unary(np.cosh),
    "Floor": _unary(np.floor),
    "Ceil": _unary(np.ceil),
    "Round": _unary(np.rint),
    "Pow": _binary(_power),
    "Add": _binary(np.add),
    "Sub": _binary(lambda x, y: np.subtract(x, y, dtype=np.float64)),
    "Mul": _binary(np.multiply),
    "Div": _binary(lambda x, y: np.divide(x, y, dtype=np.float64)),
    "Min": _many(np.minimum),
    "Max": _many(np.maximum),
    "Sum": _many(np.add),
    "Mean": lambda node, x: _many(np.add)(node, x) / len(x),
    "Clip": _clip,
    "Where": lambda node, x: np.where(np.asarray(x[0]) != 0, np.asarray(x[1]), np.asarray(x[2])),
    "Greater": _binary(np.greater),
    "GreaterOrEqual": _binary(np.greater_equal),
    "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal),
    "Equal": _binary(np.equal),
    "And": _binary(np.logical_and),
    "Or": _binary(np.logical_or),
    "Xor": _binary(np.logical_xor),
    "Not": _unary(np.logical_not),
    "IsNaN": _unary(np.isnan),
    "IsInf": _unary(np.isinf),
    # Of the first versions of the format.
    "Affine": _unary(lambda x, alpha, beta: alpha * np.asarray(x) + beta, alpha=1.0, beta=0.0),
    "Scale": _unary(lambda x, scale: scale * np.asarray(x), scale=1.0),
    "ScaledTanh": _unary(lambda x, alpha, beta: alpha * np.tanh(beta * np.asarray(x)), alpha=1.0, beta=1.0),
    "ParametricSoftplus": _unary(lambda x, alpha, beta: alpha * softplus(beta * np.asarray(x)), alpha=1.0, beta=1.0),
}

POINTWISE: Mapping[tuple[str, str], Function] = {
    **{("", op): f for op, f in _TABLE.items()},
    ("com.microsoft", "QuickGelu"): _unary(_swish, alpha=1.702),
    ("com.microsoft", "ScaledSiLU"): _unary(lambda x, alpha: _swish(alpha * np.asarray(x), 1.0), alpha=1.0),
    ("com.microsoft", "Gelu"): _unary(gelu),
    ("com.microsoft", "FastGelu"): _unary(gelu_tanh),
}


def is_pointwise(node: Node) -> bool:
    """Whether each element of the node's output follows from the same element of its inputs alone."""
    if (node.domain, node.op) not in POINTWISE:
        return False
    return node.op != "FastGelu" or node.input(1) is None


# ---------------------------------------------------------------- expressions

# Dense around zero, where activations bend, and wide enough to see their bounds.
GRID: Array = np.sinh(np.linspace(-4.15, 4.15, 193))
GRID.setflags(write=False)


class Expression:
    """A function of x: `node` applied to operands; without a node it is x itself."""

    __slots__ = ("__dict__", "node", "operands")

    def __init__(self, node: Node | None = None, operands: tuple[Expression | float | None, ...] = ()):
        self.node = node
        self.operands = operands

    def __call__(self, x: Array) -> Array:
        """The values at x.

        Args:
            x: Any shape, float64.
        """
        with np.errstate(all="ignore"):
            return np.broadcast_to(self._at(x, {}), x.shape)

    def _at(self, x: Array, known: dict[int, Array]) -> Array:
        if self.node is None:
            return x
        if id(self) not in known:
            operands = [o._at(x, known) if isinstance(o, Expression) else o for o in self.operands]
            known[id(self)] = POINTWISE[self.node.domain, self.node.op](self.node, operands)
        return known[id(self)]

    @cached_property
    def on_grid(self) -> Array:
        """The values on `GRID`."""
        if self.node is None:
            return GRID
        operands = [o.on_grid if isinstance(o, Expression) else o for o in self.operands]
        with np.errstate(all="ignore"):
            result = POINTWISE[self.node.domain, self.node.op](self.node, operands)
        return np.broadcast_to(result, GRID.shape)

    @cached_property
    def affine(self) -> tuple[float, float] | None:
        """(a, b) where the function is a x + b, else None."""
        return affine_fit(GRID, self.on_grid)

    @cached_property
    def bounded(self) -> bool:
        """Whether the values have bounds: far out and further out they are about as large, where a root would grow."""
        near, far = (float(np.abs(self(np.array([-x, x]))).max()) for x in (1e3, 1e6))
        return math.isfinite(far) and far <= 3 * near

    @cached_property
    def moments(self) -> tuple[float, float, float] | None:
        """`moments` of the function, None where they are not finite."""
        found = moments(self)
        return found if all(math.isfinite(m) for m in found) else None


def affine_fit(x: Array, y: Array) -> tuple[float, float] | None:
    """(a, b) with y = a x + b, None where y is not on one line (or is no number)."""
    if y.dtype.kind != "f" or not np.isfinite(y).all():
        return None
    i, j = len(x) // 4, -len(x) // 4
    a = float((y[j] - y[i]) / (x[j] - x[i]))
    b = float(y[i] - a * x[i])
    scale = abs(a) * float(np.abs(x).max()) + abs(b)
    return (a, b) if np.abs(y - a * x - b).max() <= 1e-9 * scale else None


class Expressions:
    """A table that makes each expression once."""

    def __init__(self) -> None:
        self.x = Expression()
        self._made: dict[tuple[object, ...], Expression] = {}

    def make(self, node: Node, operands: tuple[Expression | float | None, ...]) -> Expression:
        """`node` applied to operands."""
        settings = tuple((n, a.SerializeToString()) for n, a in sorted(node.attributes.items()))
        key = (node.domain, node.op, settings, *(id(o) if isinstance(o, Expression) else (o,) for o in operands))
        if key not in self._made:
            self._made[key] = Expression(node, operands)
        return self._made[key]


# ---------------------------------------------------------------- moments

_REACH = 10.0  # the normal density beyond is 1e-23
_PANEL = 0.02
_ORDER = 5


def _panels() -> tuple[Array, Array, Array]:
    """Nodes (panels, order), Gaussian weights for them, and the matrix that differentiates on one panel."""
    at, weight = np.polynomial.legendre.leggauss(_ORDER)
    edges = np.linspace(-_REACH, _REACH, round(2 * _REACH / _PANEL) + 1)
    middle = 0.5 * (edges[1:] + edges[:-1])
    x = middle[:, None] + 0.5 * _PANEL * at
    density = np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    powers = np.vander(at, increasing=True)
    slopes = np.zeros_like(powers)
    slopes[:, 1:] = powers[:, :-1] * np.arange(1, _ORDER)
    return x, density * weight * (0.5 * _PANEL), slopes @ np.linalg.inv(powers) / (0.5 * _PANEL)


_X, _W, _D = _panels()


def moments(f: Callable[[Array], npt.ArrayLike]) -> tuple[float, float, float]:
    """E[f(z)], E[f(z)^2] and E[f'(z)^2] for z ~ N(0, 1).

    On every panel f' is that of the polynomial through its five nodes: exact to rounding for smooth f, and one panel
    wide where f has a kink off the panel edges.

    Args:
        f: Takes and returns float64 arrays of one shape.
    """
    with np.errstate(all="ignore"):
        y = np.asarray(f(_X), np.float64)
        slope = y @ _D.T
        return float((_W * y).sum()), float((_W * y * y).sum()), float((_W * slope * slope).sum())
