"""What a graph makes of stored tensors: values that no feed decides, worked out in float64.

Many kernels are not stored as their layer multiplies by them: the graph standardises, masks or scales them first. What
it makes of them follows from running those few nodes, whatever they are, on the values that the tensors have or will
have. Subgraphs and functions are no boundary here either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from onnxinit.analysis.constants import FOLDS, Fold, Known
from onnxinit.analysis.view import Node, Value

Array = npt.NDArray[np.generic]
Numbers = npt.NDArray[np.float64]
Leaf = Callable[[str], "Array | None"]


def leaves(target: Value) -> list[Value]:
    """The values that hold what a static value is made of, the stored tensors and numbers, in no order."""
    found, seen, waiting = list[Value](), {id(target)}, [target]
    while waiting:
        value = waiting.pop()
        if value.proto is not None:
            found.append(value)
            continue
        for before in value.producer.inputs if value.producer is not None else ():
            if before is not None and id(before) not in seen:
                seen.add(id(before))
                waiting.append(before)
    return found


def evaluate(target: Value, leaf: Leaf) -> Numbers | None:
    """A static value.

    Args:
        target: The value.
        leaf: What a stored tensor holds by its path; None where that is not known.

    Returns:
        Its elements; None where a tensor is not known, or an operator on the way is none that is evaluated.
    """
    known: dict[int, Array] = {}
    for value in leaves(target):
        held = leaf(value.tensor) if value.tensor else None
        if held is None and not value.tensor and value.proto is not None:
            held = numpy_helper.to_array(value.proto)
        if held is None:
            return None
        known[id(value)] = held.astype(np.int64 if held.dtype.kind in "iu" else np.float64, copy=False)
    for node in _makers(target):
        made = _run(node, [known.get(id(v)) if v is not None else None for v in node.inputs])
        if made is None:
            return None
        known.update((id(v), m) for v, m in zip(node.outputs, made, strict=False) if v is not None)
    found = known.get(id(target))
    return None if found is None else found.astype(np.float64, copy=False)


def _makers(target: Value) -> list[Node]:
    """The nodes that make a value of stored tensors, in their order."""
    nodes: dict[int, Node] = {}
    waiting = [target]
    while waiting:
        value = waiting.pop()
        node = value.producer if value.proto is None else None
        if node is not None and node.index not in nodes:
            nodes[node.index] = node
            waiting.extend(v for v in node.inputs if v is not None)
    return [nodes[i] for i in sorted(nodes)]


def _run(node: Node, operands: Sequence[Known | None]) -> Sequence[Array] | None:
    """What a node makes; None where it is not evaluated, or an operand is not known."""
    if node.domain != "" or any(k is None and v is not None for k, v in zip(operands, node.inputs, strict=True)):
        return None
    function = _MORE.get(node.op) or FOLDS.get(node.op)
    try:
        with np.errstate(all="ignore"):
            if node.op == "Split":
                return _split(node, operands)
            return None if function is None else [np.asarray(function(node, operands))]
    except (ValueError, IndexError, TypeError, ZeroDivisionError):
        return None  # the shapes do not fit: the file is odd


# ---------------------------------------------------------------- operators


def _needed(x: Sequence[Known | None], index: int = 0) -> Numbers:
    held = x[index] if index < len(x) else None
    if held is None:
        raise ValueError("an operand is missing")
    return held.astype(np.float64, copy=False)


def _ints(node: Node, x: Sequence[Known | None], name: str, index: int = 1) -> list[int] | None:
    """A list of numbers that is an attribute, or an input in later versions."""
    given = node.ints_attribute(name)
    held = x[index] if index < len(x) else None
    return given if given is not None or held is None else [int(i) for i in held.reshape(-1)]


def _reduced(function: Callable[..., Any]) -> Fold:
    def run(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
        axes = _ints(node, x, "axes")
        if not axes and node.int_attribute("noop_with_empty_axes", 0):
            return _needed(x)
        found: npt.ArrayLike = function(
            _needed(x), axis=tuple(axes) if axes else None, keepdims=bool(node.int_attribute("keepdims", 1))
        )
        return found

    return run


def _root(x: Numbers, **how: Any) -> npt.ArrayLike:
    norm: Numbers = np.sqrt(np.sum(x * x, **how))
    return norm


def _lp(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    data, p = _needed(x), node.int_attribute("p", 2)
    norm = (np.abs(data) ** p).sum(axis=node.int_attribute("axis", -1), keepdims=True) ** (1 / p)
    made: Numbers = np.divide(data, norm, out=np.zeros_like(data), where=norm != 0)
    return made


def _matmul(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    made: Numbers = np.matmul(_needed(x), _needed(x, 1))
    return made


def _gemm(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    a, b = (
        _needed(x, i).T if node.int_attribute(flip, 0) else _needed(x, i) for i, flip in enumerate(("transA", "transB"))
    )
    added = _needed(x, 2) * node.float_attribute("beta", 1.0) if len(x) > 2 and x[2] is not None else 0.0
    return node.float_attribute("alpha", 1.0) * (a @ b) + added


def _einsum(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    made: Numbers = np.einsum(node.string_attribute("equation"), *(_needed(x, i) for i in range(len(x))))
    return made


def _expand(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    data, dims = _needed(x), [int(n) for n in _needed(x, 1)]
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(dims)))


def _tile(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    return np.tile(_needed(x), [int(n) for n in _needed(x, 1)])


def _flat(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    data, axis = _needed(x), node.int_attribute("axis", 1)
    axis = axis + data.ndim if axis < 0 else axis
    return data.reshape(math.prod(data.shape[:axis]), -1)


def _triangle(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    k = int(_needed(x, 1).reshape(-1)[0]) if len(x) > 1 and x[1] is not None else 0
    return (np.triu if node.int_attribute("upper", 1) else np.tril)(_needed(x), k)


def _shape(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    dims = _needed(x).shape
    return np.asarray(dims[node.int_attribute("start", 0) : node.int_attribute("end", len(dims))], np.int64)


def _filled(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    given = node.attributes.get("value")
    fill = numpy_helper.to_array(given.t).reshape(-1)[0] if given is not None else np.float32(0.0)
    return np.full([int(n) for n in _needed(x)], fill)


def _batch_norm(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    data = _needed(x)
    along = [1, -1] + [1] * (data.ndim - 2)
    scale, shift, mean, var = (_needed(x, i).reshape(along) for i in range(1, 5))
    if node.int_attribute("training_mode", 0):
        others = tuple(i for i in range(data.ndim) if i != 1)
        mean, var = data.mean(axis=others, keepdims=True), data.var(axis=others, keepdims=True)
    made: Numbers = (data - mean) / np.sqrt(var + node.float_attribute("epsilon", 1e-5)) * scale + shift
    return made


def _instance_norm(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    data = _needed(x)
    made = _standard(data, tuple(range(2, data.ndim)), node.float_attribute("epsilon", 1e-5))
    along = [-1] + [1] * (data.ndim - 2)
    scaled: Numbers = made * _needed(x, 1).reshape(along) + _needed(x, 2).reshape(along)
    return scaled


def _layer_norm(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    data = _needed(x)
    first = node.int_attribute("axis", -1) % data.ndim
    made = _standard(data, tuple(range(first, data.ndim)), node.float_attribute("epsilon", 1e-5)) * _needed(x, 1)
    return made + _needed(x, 2) if len(x) > 2 and x[2] is not None else made


def _mean_variance(node: Node, x: Sequence[Known | None]) -> npt.ArrayLike:
    return _standard(_needed(x), tuple(node.ints_attribute("axes") or (0, 2, 3)), 0.0)


def _standard(data: Numbers, axes: tuple[int, ...], eps: float) -> Numbers:
    made: Numbers = (data - data.mean(axis=axes, keepdims=True)) / np.sqrt(data.var(axis=axes, keepdims=True) + eps)
    return made


def _split(node: Node, x: Sequence[Known | None]) -> list[Array]:
    data, axis = _needed(x), node.int_attribute("axis", 0)
    sizes = _ints(node, x, "split")
    if sizes is None:
        each = -(-data.shape[axis] // len(node.outputs))
        return list(np.split(data, range(each, data.shape[axis], each), axis))
    return list(np.split(data, np.cumsum(sizes)[:-1], axis))


_MORE: Mapping[str, Fold] = {
    "ReduceSum": _reduced(np.sum),
    "ReduceMean": _reduced(np.mean),
    "ReduceMax": _reduced(np.max),
    "ReduceMin": _reduced(np.min),
    "ReduceProd": _reduced(np.prod),
    "ReduceL1": _reduced(lambda x, **how: np.sum(np.abs(x), **how)),
    "ReduceL2": _reduced(_root),
    "ReduceSumSquare": _reduced(lambda x, **how: np.sum(x * x, **how)),
    "LpNormalization": _lp,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Expand": _expand,
    "Tile": _tile,
    "Flatten": _flat,
    "Trilu": _triangle,
    "Shape": _shape,
    "ConstantOfShape": _filled,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MeanVarianceNormalization": _mean_variance,
    "@Exit": lambda node, x: _needed(x),
}
