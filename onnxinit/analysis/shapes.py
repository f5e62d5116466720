"""Shapes and shape arithmetic that ONNX's own inference leaves open.

Exporters that do not fold constants write shapes as arithmetic (Shape, Gather, Concat, Div ...), inside loops and
functions too. `fill_shapes` goes once through the view in topological order; it evaluates small integer vectors element
by element as far as they are known, and with them the shapes of the operators that move elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, numpy_helper

from onnxinit.analysis.view import GraphView, Node, Value

Shape = tuple["int | None", ...]
_Known = npt.NDArray[np.float64]  # elements of a small integer value; NaN where one is not known

_MOST = 64
_INTEGERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})


def fill_shapes(view: GraphView) -> None:
    """Set `Value.shape` where it is missing or has unknown lengths, and `Value.elements` of small integer vectors."""
    known: dict[int, _Known] = {}
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


def _evaluate(node: Node, known: dict[int, _Known]) -> None:
    out = node.outputs[0] if len(node.outputs) == 1 else None
    function = _VALUES.get(node.op) if node.domain == "" else None
    if out is None or function is None or id(out) in known:
        return
    operands: list[_Known] = []
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


def _shape_of(node: Node, _: Sequence[_Known]) -> _Known | None:
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    return np.array([math.nan if n is None else float(n) for n in value.shape[_range(node, len(value.shape))]])


def _range(node: Node, rank: int) -> slice:
    """The axes that a Shape tells of."""
    return slice(node.int_attribute("start", 0), node.int_attribute("end", rank))


def _size_of(node: Node, _: Sequence[_Known]) -> _Known | None:
    value = node.inputs[0]
    if value is None or value.shape is None or None in value.shape:
        return None
    return np.asarray(float(math.prod(n for n in value.shape if n is not None)))


def _axes(node: Node, operands: Sequence[_Known]) -> list[int] | None:
    axes = node.ints_attribute("axes")
    return axes if axes is not None else [int(i) for i in np.ravel(operands[1])] if len(operands) > 1 else None


def _unsqueeze(node: Node, operands: Sequence[_Known]) -> _Known | None:
    axes = _axes(node, operands)
    return None if axes is None else np.expand_dims(operands[0], tuple(axes))


def _squeeze(node: Node, operands: Sequence[_Known]) -> _Known | None:
    axes = _axes(node, operands)
    return np.squeeze(operands[0], tuple(axes) if axes is not None else None)


def _slice_values(node: Node, operands: Sequence[_Known]) -> _Known | None:
    if operands[0].ndim != 1 or "starts" in node.attributes or any(np.isnan(o).any() for o in operands[1:]):
        return None
    start, end = (int(np.clip(np.ravel(operands[i])[0], -(2**31), 2**31)) for i in (1, 2))
    stride = int(np.ravel(operands[4])[0]) if len(operands) > 4 else 1
    return operands[0][slice(start, end if end > -(2**31) else None, stride)]


def _gather_values(node: Node, operands: Sequence[_Known]) -> _Known | None:
    if np.isnan(operands[1]).any():
        return None
    return np.take(operands[0], operands[1].astype(np.int64), axis=node.int_attribute("axis", 0))


def _divide(node: Node, operands: Sequence[_Known]) -> _Known:
    return np.trunc(operands[0] / operands[1])


def _fill(node: Node, operands: Sequence[_Known]) -> _Known | None:
    if np.isnan(operands[0]).any() or np.prod(operands[0]) > _MOST:
        return None
    attribute = node.attributes.get("value")
    fill = float(np.ravel(numpy_helper.to_array(attribute.t))[0]) if attribute is not None else 0.0
    return np.full(operands[0].astype(np.int64), fill)


def _where(node: Node, operands: Sequence[_Known]) -> _Known:
    return np.where(np.isnan(operands[0]), np.nan, np.where(operands[0] != 0, operands[1], operands[2]))


def _equal(node: Node, operands: Sequence[_Known]) -> _Known:
    unknown = np.isnan(operands[0] + operands[1])
    return np.where(unknown, np.nan, (operands[0] == operands[1]).astype(np.float64))


_VALUES: dict[str, Callable[[Node, Sequence[_Known]], _Known | None]] = {
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
    "Gather": _gather_values,
    "Reshape": lambda n, o: np.reshape(o[0], o[1].astype(np.int64)) if len(o) > 1 else None,
    "Expand": lambda n, o: o[0] * np.ones(o[1].astype(np.int64)),
    "ReduceProd": lambda n, o: np.asarray(np.prod(o[0])) if o[0].ndim == 1 else None,
    "ConstantOfShape": _fill,
    "Range": lambda n, o: np.arange(float(o[0]), float(o[1]), float(o[2])),
}


# ---------------------------------------------------------------- shapes


def _infer(node: Node, known: dict[int, _Known]) -> None:
    if not any(v is not None and (v.shape is None or None in v.shape) for v in node.outputs):
        return
    function = _SHAPES.get(node.op) or (_same if node.domain == "" and node.op in _SAME else None)
    if function is None:
        return
    try:
        shapes = function(node, known)
    except (ValueError, IndexError, TypeError, AttributeError, ArithmeticError, RuntimeError):
        return  # the operands do not fit the operator; a generator that runs dry is a RuntimeError
    for value, shape in zip(node.outputs, shapes, strict=False):
        if value is None or shape is None:
            continue
        if value.shape is None:
            value.shape = shape
        elif len(value.shape) == len(shape):
            value.shape = tuple(b if a is None else a for a, b in zip(value.shape, shape, strict=True))


_Shapes = Sequence["Shape | None"]

_SAME = frozenset(
    {
        "Identity", "Cast", "CastLike", "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Erf", "Softmax", "LogSoftmax",
        "Elu", "Selu", "Celu", "Gelu", "Mish", "HardSigmoid", "HardSwish", "Softplus", "Softsign", "Clip", "Exp", "Log",
        "Sqrt", "Neg", "Abs", "Reciprocal", "Dropout", "LayerNormalization", "RMSNormalization", "BatchNormalization",
        "InstanceNormalization", "GroupNormalization", "QuantizeLinear", "DequantizeLinear", "@If", "@Exit", "@Carry",
        "Sin", "Cos", "Not", "Floor", "Ceil", "Round", "Sign", "Swish", "ThresholdedRelu", "LpNormalization",
    }
)  # fmt: skip


def _first(node: Node, index: int = 0) -> Shape:
    value = node.inputs[index]
    if value is None or value.shape is None:
        raise ValueError("unknown rank")
    return value.shape


def _same(node: Node, known: dict[int, _Known]) -> _Shapes:
    return [_first(node)]


def _broadcast(node: Node, known: dict[int, _Known]) -> _Shapes:
    shapes = [v.shape for v in node.inputs if v is not None and v.shape is not None]
    if len(shapes) != len([v for v in node.inputs if v is not None]):
        raise ValueError("unknown rank")
    return [broadcast(shapes)]


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """The shape that NumPy's broadcasting makes; an unknown length wins against one, a known one against both."""
    rank = max(map(len, shapes))
    out: list[int | None] = []
    for i in range(rank):
        dims = [s[i - rank + len(s)] for s in shapes if i - rank + len(s) >= 0]
        long = [n for n in dims if n is not None and n != 1]
        out.append(long[0] if long else None if None in dims else 1)
    return tuple(out)


def _matmul(node: Node, known: dict[int, _Known]) -> _Shapes:
    a, b = _first(node, 0), _first(node, 1)
    if len(a) < 2 or len(b) < 2:
        return [(*a[:-1], *b[:-2], *b[-1:])] if len(b) > 1 else [a[:-1]]
    return [(*broadcast([a[:-2], b[:-2]]), a[-2], b[-1])] if len(a) > 2 or len(b) > 2 else [(a[-2], b[-1])]


def _gemm(node: Node, known: dict[int, _Known]) -> _Shapes:
    a, b = _first(node, 0), _first(node, 1)
    return [(a[1 if node.int_attribute("transA", 0) else 0], b[0 if node.int_attribute("transB", 0) else 1])]


def _conv(node: Node, known: dict[int, _Known]) -> _Shapes:
    x, w = _first(node, 0), _first(node, 1)
    return [(x[0], w[0], *(None for _ in w[2:]))]


def _transpose(node: Node, known: dict[int, _Known]) -> _Shapes:
    shape = _first(node)
    perm = node.ints_attribute("perm") or list(range(len(shape)))[::-1]
    return [tuple(shape[p] for p in perm)]


def _reshape(node: Node, known: dict[int, _Known]) -> _Shapes:
    held = known.get(id(node.input(1)))
    if held is None:
        return [None]
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    dims: list[int | None] = []
    for i, x in enumerate(np.ravel(held)):
        if x == 0 and not node.int_attribute("allowzero", 0):
            dims.append(shape[i] if shape is not None and i < len(shape) else None)
        else:
            dims.append(None if np.isnan(x) else int(x))
    if -1 in dims:
        rest = [n for n in dims if n != -1]
        free: int | None = None
        if shape is not None:
            mine, theirs = sorted(n for n in shape if n is not None), [n for n in rest if n is not None]
            if None not in shape and None not in rest and (product := math.prod(theirs)):
                free = math.prod(mine) // product
            elif shape.count(None) == rest.count(None) and (product := math.prod(theirs)):
                free = math.prod(mine) // product  # the unknown lengths are taken for the same
        dims[dims.index(-1)] = free
    return [tuple(dims)]


def _unsqueezed(node: Node, known: dict[int, _Known]) -> _Shapes:
    shape, axes = _first(node), _node_axes(node, known)
    if axes is None:
        return [None]
    rank = len(shape) + len(axes)
    new, old = {a % rank for a in axes}, iter(shape)
    return [tuple(1 if i in new else next(old) for i in range(rank))]


def _squeezed(node: Node, known: dict[int, _Known]) -> _Shapes:
    shape, axes = _first(node), _node_axes(node, known)
    if axes is None:
        return [tuple(n for n in shape if n != 1)] if None not in shape else [None]
    return [tuple(n for i, n in enumerate(shape) if i not in {a % len(shape) for a in axes})]


def _node_axes(node: Node, known: dict[int, _Known]) -> list[int] | None:
    axes = node.ints_attribute("axes")
    held = known.get(id(node.input(1)))
    return axes if axes is not None else None if held is None else [int(i) for i in np.ravel(held)]


def _concat(node: Node, known: dict[int, _Known]) -> _Shapes:
    shapes = [_first(node, i) for i in range(len(node.inputs))]
    axis = node.int_attribute("axis", 0) % len(shapes[0])
    lengths = [s[axis] for s in shapes]
    joined = list(broadcast(shapes))
    joined[axis] = None if None in lengths else sum(n for n in lengths if n is not None)
    return [tuple(joined)]


def _split(node: Node, known: dict[int, _Known]) -> _Shapes:
    shape = list(_first(node))
    axis = node.int_attribute("axis", 0) % len(shape)
    sizes = node.ints_attribute("split")
    held = known.get(id(node.input(1)))
    if sizes is None and held is not None and not np.isnan(held).any():
        sizes = [int(i) for i in held]
    total, count = shape[axis], len(node.outputs)
    if sizes is None and node.input(1) is None and total is not None:
        size = -(-total // count)
        sizes = [min(size, total - i * size) for i in range(count)]
    if sizes is None:
        return [tuple(None if i == axis else n for i, n in enumerate(shape))] * count
    return [tuple(size if i == axis else n for i, n in enumerate(shape)) for size in sizes]


def _slice(node: Node, known: dict[int, _Known]) -> _Shapes:
    shape = list(_first(node))
    starts, ends, axes, steps = (_slice_argument(node, k, known) for k in range(4))
    if axes is None or None in axes:
        return [(None,) * len(shape)]
    for i, axis in enumerate(axes or range(len(starts or ends or shape))):
        n, start, end, step = shape[axis or 0], _at(starts, i), _at(ends, i), 1 if steps == [] else _at(steps, i)
        whole = n is not None and start is not None and end is not None and step is not None
        shape[axis or 0] = len(range(*slice(start, end, step).indices(n or 0))) if whole else None
    return [tuple(shape)]


def _at(held: list[int | None] | None, index: int) -> int | None:
    return held[index] if held is not None and index < len(held) else None


def _slice_argument(node: Node, k: int, known: dict[int, _Known]) -> list[int | None] | None:
    """The elements of an argument as far as they are known, [] where it is not given, None where nothing is known."""
    given = node.ints_attribute(("starts", "ends", "axes", "steps")[k])
    value = node.input(k + 1)
    if given is not None or value is None:
        return list(given or [])
    held = known.get(id(value))
    return None if held is None else [_element(x) for x in np.ravel(held)]


def _element(x: float) -> int | None:
    return None if np.isnan(x) else int(np.clip(x, -(2**62), 2**62))


def _gather(node: Node, known: dict[int, _Known]) -> _Shapes:
    shape, index = _first(node, 0), _first(node, 1)
    axis = node.int_attribute("axis", 0) % len(shape)
    return [(*shape[:axis], *index, *shape[axis + 1 :])]


def _expand(node: Node, known: dict[int, _Known]) -> _Shapes:
    shape, held = _first(node), known.get(id(node.input(1)))
    if held is None:
        return [None]
    return [broadcast([shape, tuple(None if np.isnan(x) else int(x) for x in held)])]


def _reduce(node: Node, known: dict[int, _Known]) -> _Shapes:
    shape, axes = _first(node), _node_axes(node, known)
    gone = {a % len(shape) for a in axes} if axes is not None else set(range(len(shape)))
    if node.int_attribute("keepdims", 1):
        return [tuple(1 if i in gone else n for i, n in enumerate(shape))]
    return [tuple(n for i, n in enumerate(shape) if i not in gone)]


_SHAPES: dict[str, Callable[[Node, dict[int, _Known]], _Shapes]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Where", "Sum", "Min", "Max", "Equal", "Less"), _broadcast),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare"), _reduce),
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueezed,
    "Squeeze": _squeezed,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Expand": _expand,
    "@Stack": lambda n, k: [(None, *_first(n))],
    "@Step": lambda n, k: [_first(n)[1:]],
    "Shape": lambda n, k: [(len(_first(n)[_range(n, len(_first(n)))]),)],
}


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
