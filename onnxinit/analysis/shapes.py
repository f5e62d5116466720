"""Shapes and shape arithmetic, as far as a file leaves them open.

Exporters that do not fold constants write shapes as arithmetic (Shape, Gather, Concat, Div ...), inside loops and
functions too. `fill_shapes` goes once through the view in topological order; it evaluates small integer vectors element
by element as far as they are known, and with them the shapes of the operators that move elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from onnx import TensorProto, numpy_helper

from onnxinit.analysis.extents import Known, extents, shape_range
from onnxinit.analysis.view import GraphView, Node, Value

_MOST = 64
_INTEGERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})


def fill_shapes(view: GraphView) -> None:
    """Set `Value.shape` where it is missing or has unknown lengths, and `Value.elements` of small integer vectors."""
    known: dict[int, Known] = {}
    for value in view.values:
        proto = value.proto
        if proto is None or value.dtype not in _INTEGERS or math.prod(proto.dims) > _MOST:
            continue
        if proto.data_location == TensorProto.EXTERNAL:
            continue  # need not be there, and the answer is the same whether it is
        try:
            known[id(value)] = np.asarray(numpy_helper.to_array(proto), np.float64)
        except (ValueError, RuntimeError):
            continue  # the payload is torn: nothing is known
    for node in view.nodes:
        _evaluate(node, known)
        _infer(node, known)
    for value in view.values:
        held = known.get(id(value))
        if held is not None:
            value.elements = tuple(int(x) if np.isfinite(x) else None for x in np.ravel(held))


# ---------------------------------------------------------------- values


def _evaluate(node: Node, known: dict[int, Known]) -> None:
    out = node.outputs[0] if len(node.outputs) == 1 else None
    function = _VALUES.get(node.op) if node.domain == "" else None
    if out is None or function is None or id(out) in known:
        return
    operands: list[Known] = []
    if node.op not in ("Shape", "Size"):
        for v in node.inputs:
            if v is None or id(v) not in known:
                return
            operands.append(known[id(v)])
    try:
        with np.errstate(all="ignore"):
            result = function(node, operands)
    except (ValueError, IndexError, ZeroDivisionError, TypeError, OverflowError):
        return
    if result is not None and result.size <= _MOST:
        known[id(out)] = np.asarray(result, np.float64)


def _shape_of(node: Node, _: Sequence[Known]) -> Known | None:
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    return np.array([math.nan if n is None else float(n) for n in value.shape[shape_range(node, len(value.shape))]])


def _size_of(node: Node, _: Sequence[Known]) -> Known | None:
    value = node.inputs[0]
    if value is None or value.shape is None or None in value.shape:
        return None
    return np.asarray(float(math.prod(n for n in value.shape if n is not None)))


def _axes(node: Node, operands: Sequence[Known]) -> list[int] | None:
    axes = node.ints_attribute("axes")
    return axes if axes is not None else [int(i) for i in np.ravel(operands[1])] if len(operands) > 1 else None


def _unsqueeze(node: Node, operands: Sequence[Known]) -> Known | None:
    axes = _axes(node, operands)
    return None if axes is None else np.expand_dims(operands[0], tuple(axes))


def _squeeze(node: Node, operands: Sequence[Known]) -> Known | None:
    axes = _axes(node, operands)
    return np.squeeze(operands[0], tuple(axes) if axes is not None else None)


def _slice_values(node: Node, operands: Sequence[Known]) -> Known | None:
    if "starts" in node.attributes or any(o.size != 1 or np.isnan(o).any() for o in operands[1:]):
        return None
    start, end = (int(np.clip(np.ravel(operands[i])[0], -(2**31), 2**31)) for i in (1, 2))
    stride = int(np.ravel(operands[4])[0]) if len(operands) > 4 else 1
    axis = int(np.ravel(operands[3])[0]) if len(operands) > 3 else 0
    held = np.moveaxis(operands[0], axis, 0)[slice(start, end if end > -(2**31) else None, stride)]
    return np.moveaxis(held, 0, axis)


def _gather_values(node: Node, operands: Sequence[Known]) -> Known | None:
    if np.isnan(operands[1]).any():
        return None
    return np.take(operands[0], operands[1].astype(np.int64), axis=node.int_attribute("axis", 0))


def _divide(node: Node, operands: Sequence[Known]) -> Known:
    return np.asarray(np.trunc(operands[0] / operands[1]))


def _fill(node: Node, operands: Sequence[Known]) -> Known | None:
    if np.isnan(operands[0]).any() or np.prod(operands[0]) > _MOST:
        return None
    attribute = node.attributes.get("value")
    fill = float(np.ravel(numpy_helper.to_array(attribute.t))[0]) if attribute is not None else 0.0
    return np.full(operands[0].astype(np.int64), fill)


def _where(node: Node, operands: Sequence[Known]) -> Known:
    return np.where(np.isnan(operands[0]), np.nan, np.where(operands[0] != 0, operands[1], operands[2]))


def _equal(node: Node, operands: Sequence[Known]) -> Known:
    unknown = np.isnan(operands[0] + operands[1])
    return np.where(unknown, np.nan, (operands[0] == operands[1]).astype(np.float64))


_VALUES: dict[str, Callable[[Node, Sequence[Known]], Known | None]] = {
    "Shape": _shape_of,
    "Size": _size_of,
    "Identity": lambda n, o: o[0],
    "Cast": lambda n, o: np.trunc(o[0]),
    "Floor": lambda n, o: np.floor(o[0]),
    "Ceil": lambda n, o: np.ceil(o[0]),
    "Neg": lambda n, o: -o[0],
    "Add": lambda n, o: o[0] + o[1],
    "Sub": lambda n, o: o[0] - o[1],
    "Mul": lambda n, o: o[0] * o[1],
    "Div": _divide,
    "Mod": lambda n, o: np.mod(o[0], o[1]),
    "Max": lambda n, o: np.maximum.reduce(np.broadcast_arrays(*o)),
    "Min": lambda n, o: np.minimum.reduce(np.broadcast_arrays(*o)),
    "Equal": _equal,
    "Where": _where,
    "Concat": lambda n, o: np.concatenate(list(o), axis=n.int_attribute("axis", 0)),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice_values,
    "Transpose": lambda n, o: np.transpose(o[0], n.ints_attribute("perm")),
    "Gather": _gather_values,
    "Reshape": lambda n, o: np.reshape(o[0], o[1].astype(np.int64)) if len(o) > 1 else None,
    "Expand": lambda n, o: o[0] * np.ones(o[1].astype(np.int64)),
    "ReduceProd": lambda n, o: np.asarray(np.prod(o[0])) if o[0].ndim == 1 else None,
    "ConstantOfShape": _fill,
    "Range": lambda n, o: np.arange(float(o[0]), float(o[1]), float(o[2]), dtype=np.float64),
}


# ---------------------------------------------------------------- shapes


def _infer(node: Node, known: dict[int, Known]) -> None:
    if not any(v is not None and (v.shape is None or None in v.shape) for v in node.outputs):
        return
    shapes = extents(node, known)
    for value, shape in zip(node.outputs, shapes, strict=False):
        if value is None or shape is None:
            continue
        if value.shape is None:
            value.shape = shape
        elif len(value.shape) == len(shape):
            value.shape = tuple(b if a is None else a for a, b in zip(value.shape, shape, strict=True))


def elements(value: Value) -> list[int] | None:
    """The elements of a small integer value, None unless all are known."""
    held = value.elements
    return [n for n in held if n is not None] if held is not None and None not in held else None


_INDEX_MOVES = frozenset(
    {
        "Slice",
        "Expand",
        "Unsqueeze",
        "Squeeze",
        "Reshape",
        "Cast",
        "Identity",
        "Gather",
        "GatherElements",
        "Tile",
        "Mul",
    }
)


def index_origin(index: Value) -> Value:
    """What an index is cut and spread from."""
    for _ in range(8):
        node = index.producer
        before = node.input(0) if node is not None else None
        if index.elements is not None or node is None or node.op not in _INDEX_MOVES or before is None:
            break
        index = before
    return index


def is_one_index(origin: Value) -> bool:
    """Whether an index has the same value everywhere, as far as small values tell."""
    if origin.producer is not None and origin.producer.op == "ConstantOfShape":
        return True
    held = elements(origin)
    return held is not None and len(set(held)) == 1
