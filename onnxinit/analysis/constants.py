"""Small values that follow from stored tensors and known shapes, folded on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, numpy_helper

from onnxinit.analysis.pointwise import POINTWISE, cast_target
from onnxinit.analysis.view import Node, Value

Known = npt.NDArray[np.generic]

MOST = 256  # elements; what is larger is never a constant that the analysis asks about


class Constants:
    """Values of small constants.

    Args:
        read: Gives the values of a stored tensor by its path where the skeleton does not hold them (they are external);
            None where they are missing.

    A constant is a stored tensor whose payload the skeleton holds, or what arithmetic, casts and reshapes make of such.
    Exporters that do not fold write sqrt(d) or an axis so. Each value is folded once, and without recursion.
    """

    def __init__(self, read: Callable[[str], Known | None] | None = None):
        self._read = read
        self._known: dict[Value, Known | None] = {}

    def constant(self, value: Value | None) -> Known | None:
        """The elements of a value of at most 256 elements: float64, int64 or bool; None where they are not known."""
        if value is None or (value not in self._known and _is_signal(value)):
            return None
        stack = [value]
        while stack:
            at = stack[-1]
            if at not in self._known:
                operands = _operands(at)
                waiting = [v for v in operands if v not in self._known]
                if waiting:
                    stack.extend(waiting)
                    continue
                self._known[at] = self._fold(at)
            stack.pop()
        return self._known[value]

    def scalar(self, value: Value | None) -> float | None:
        """The one number that a value holds, whatever its rank; None where it holds several or is not known."""
        if value is None or (value.shape is not None and any(n not in (1, None) for n in value.shape)):
            return None
        held = self.constant(value)
        return float(held.reshape(-1)[0]) if held is not None and held.size == 1 and held.dtype.kind in "fib" else None

    def _fold(self, value: Value) -> Known | None:
        if value.proto is not None:
            held = _stored(value.proto)
            if held is None and value.tensor and self._read is not None and math.prod(value.proto.dims) <= MOST:
                given = self._read(value.tensor)
                held = _small(given) if given is not None else None
            return held
        node = value.producer
        if node is None or node.domain != "" or value.index > 0:
            return None
        if node.op == "ConstantOfShape":
            return self._filled(node)
        if node.op == "Shape":
            return _shape(node)
        function = FOLDS.get(node.op)
        if function is None:
            return None
        needed = _operands(value)
        operands = [self._known[v] if v is not None and v in needed else None for v in node.inputs]
        if any(self._known[v] is None for v in needed):
            return None
        try:
            with np.errstate(all="ignore"):
                return _small(function(node, operands))
        except (ValueError, IndexError, TypeError, ZeroDivisionError):
            return None  # the shapes do not fit: the file is odd, and nothing is known

    def _filled(self, node: Node) -> Known | None:
        shape = node.input(0)
        dims = self._known[shape] if shape is not None else None
        lengths = [int(n) for n in dims.reshape(-1)] if dims is not None else [-1]
        if min(lengths, default=0) < 0 or math.prod(lengths) > MOST:
            return None
        given = node.attributes.get("value")
        fill = _stored(given.t) if given is not None else np.zeros(1)
        return np.full(lengths, fill.reshape(-1)[0]) if fill is not None else None


def _is_signal(value: Value) -> bool:
    """Whether nothing can be folded, seen at once."""
    node = value.producer
    return value.proto is None and (node is None or node.op not in _FOLDABLE)


def _operands(value: Value) -> list[Value]:
    """What a value is folded from."""
    node = value.producer
    if value.proto is not None or node is None or node.domain != "":
        return []
    if node.op not in FOLDS and node.op != "ConstantOfShape":
        return []
    return [v for v in (node.inputs[:1] if node.op == "CastLike" else node.inputs) if v is not None]


def _stored(proto: TensorProto) -> Known | None:
    external = proto.data_location == TensorProto.EXTERNAL
    if external or math.prod(proto.dims) > MOST or proto.data_type == TensorProto.STRING:
        return None
    try:
        return _small(numpy_helper.to_array(proto))
    except (ValueError, TypeError, RuntimeError, OSError):
        return None  # the payload is external or left out


def _small(array: npt.ArrayLike) -> Known | None:
    """In one of three element types; None where it is too large."""
    held = np.asarray(array)
    if held.size > MOST:
        return None
    if held.dtype.kind in "iu":
        return held.astype(np.int64)
    return held if held.dtype.kind == "b" else held.astype(np.float64)


def _shape(node: Node) -> Known | None:
    shape = node.inputs[0].shape if node.inputs and node.inputs[0] is not None else None
    if shape is None or None in shape:
        return None
    end = node.int_attribute("end", len(shape))
    return np.asarray(shape[node.int_attribute("start", 0) : end], np.int64)


# ---------------------------------------------------------------- what is folded

Fold = Callable[[Node, Sequence["Known | None"]], npt.ArrayLike]


def _arithmetic(op: str) -> Fold:
    def run(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
        if op == "Div" and all(k is not None and k.dtype.kind == "i" for k in x):
            return np.trunc(np.divide(*x)).astype(np.int64)  # type: ignore[arg-type]
        whole = all(k is None or k.dtype.kind == "i" for k in x) and op != "Cast"
        result = POINTWISE["", op](node, x)  # type: ignore[arg-type]
        integral = whole or (op == "Cast" and _is_integer(cast_target(node)))
        return result.astype(np.int64) if integral and result.dtype.kind == "f" else result

    return run


def _is_integer(kind: int) -> bool:
    return kind in (TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.INT8, TensorProto.UINT8)


def _axes(node: Node, x: Sequence[Known | None]) -> list[int] | None:
    given = node.ints_attribute("axes")
    if given is None and len(x) > 1 and x[1] is not None:
        given = [int(i) for i in x[1].reshape(-1)]
    return given


def _unsqueeze(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    return np.expand_dims(_first(x), tuple(_axes(node, x) or ()))


def _squeeze(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    axes = _axes(node, x)
    return np.squeeze(_first(x), tuple(axes) if axes is not None else None)


def _reshape(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    target = node.ints_attribute("shape")
    if target is None:
        target = [int(i) for i in _first(x[1:]).reshape(-1)]
    shape = _first(x).shape
    return _first(x).reshape([shape[i] if n == 0 and i < len(shape) else n for i, n in enumerate(target)])


def _slice(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    data = _first(x)
    starts, ends = [int(i) for i in _first(x[1:]).reshape(-1)], [int(i) for i in _first(x[2:]).reshape(-1)]
    axes = [int(i) for i in x[3].reshape(-1)] if len(x) > 3 and x[3] is not None else list(range(len(starts)))
    steps = [int(i) for i in x[4].reshape(-1)] if len(x) > 4 and x[4] is not None else [1] * len(starts)
    cut = [slice(None)] * data.ndim
    for axis, a, b, step in zip(axes, starts, ends, steps, strict=True):
        cut[axis] = slice(a, b if step > 0 or b >= -data.shape[axis] else None, step)
    return data[tuple(cut)]


def _product(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    held = np.asarray(_first(x), np.int64)
    return np.prod(held).reshape([1] * held.ndim if node.int_attribute("keepdims", 1) else [])


def _first(x: Sequence[Known | None]) -> Known:
    if not x or x[0] is None:
        raise ValueError("an operand is missing")
    return x[0]


FOLDS: dict[str, Fold] = {
    **{op: _arithmetic(op) for domain, op in POINTWISE if domain == ""},
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Slice": _slice,
    "Flatten": lambda node, x: _first(x).reshape(1, -1),
    "Transpose": lambda node, x: np.transpose(_first(x), node.ints_attribute("perm")),
    "Concat": lambda node, x: np.concatenate([_first([k]) for k in x], node.int_attribute("axis", 0)),
    "Gather": lambda node, x: np.take(_first(x), _first(x[1:]).astype(np.int64), node.int_attribute("axis", 0)),
    "ReduceProd": _product,
}
_FOLDABLE = frozenset({*FOLDS, "ConstantOfShape", "Shape"})
