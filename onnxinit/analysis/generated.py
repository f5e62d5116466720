"""Weights that the graph makes whenever the model runs: a filled or random tensor where a layer wants its weight."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from onnx import TensorProto

from onnxinit.analysis.arithmetic import ARITHMETIC
from onnxinit.analysis.constants import Constants
from onnxinit.analysis.flow import FLOATS
from onnxinit.analysis.keeping import unused_id
from onnxinit.analysis.operators import Reading
from onnxinit.analysis.view import Node, Value
from onnxinit.analysis.walker import Found, Walker
from onnxinit.analysis.weight import Kept, Made
from onnxinit.model import Generated

_BY_ATTRIBUTES = frozenset({"RandomNormal", "RandomUniform", "GivenTensorFill", "ConstantFill"})
_MAKERS = frozenset({"ConstantOfShape", "RandomNormalLike", "RandomUniformLike", "EyeLike", "Range", *_BY_ATTRIBUTES})
_SPREADERS = frozenset({"Expand", "Tile"})  # makers of weights where what they spread is a single number
_KEEP_TYPE = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Neg", *_SPREADERS})
_ROLES_OF_DATA = frozenset({"positional", "token", "other"})  # said of what a graph fills or draws for other ends, too


def generated_weights(nodes: Iterable[Node], walker: Walker, constants: Constants, taken: set[str]) -> Iterator[Made]:
    """The weights that nodes make, from stored tensors and attributes alone and in a shape that is known.

    A tensor is taken for one where an operator of the tables reads it as its weight, beside a signal that follows from
    a feed: a random latent, or zeros that stand for a first state, meet stored weights.

    Args:
        nodes: Every node; those of a function once for every call.
        walker: Reads what a value is.
        constants: Small static values.
        taken: The ids that are in use; those of the weights are added.
    """
    made: set[str] = set()
    for node in nodes:
        value = node.outputs[0] if node.outputs and _makes(node) else None
        if value is None or not value.static or value.is_output or node.path in made or _dtype(node) not in FLOATS:
            continue
        shape = _shape(node, value, constants)
        if not all(shape or (0,)):  # a length that is not known, or no elements
            continue
        value.shape = shape
        if any(_is_weight(found, walker) for found in walker.readings(value)):
            made.add(node.path)
            dtype = _dtype(node)
            ident = unused_id(f"{value.scope}/{value.name}" if value.scope else value.name, taken)
            reason = f"made at run time by {node.op}, so that the file holds no values to replace"
            kept = Kept(ident, value.name, value.scope, shape, TensorProto.DataType.Name(dtype).lower(), reason)
            yield Made(Generated(node.path, value.name, shape, dtype), kept)


def _makes(node: Node) -> bool:
    before = node.input(0)
    one = before is not None and before.shape is not None and all(n == 1 for n in before.shape)
    return node.domain == "" and (node.op in _MAKERS or (node.op in _SPREADERS and one))


def _shape(node: Node, value: Value, constants: Constants) -> tuple[int, ...]:
    """The shape of a tensor that a node makes, 0 for a length that is not known."""
    if node.op == "Range":
        first, last, step = (constants.scalar(v) for v in node.inputs)
        if first is None or last is None or not step:
            return (0,)
        return (max(math.ceil((last - first) / step), 0),)
    return tuple(n or 0 for n in value.shape) if value.shape is not None else (0,)


def _dtype(node: Node) -> int:
    """The element type that a node makes, 0 where it is not known."""
    if node.op == "ConstantOfShape":
        fill = node.attributes.get("value")
        return fill.t.data_type if fill is not None else int(TensorProto.FLOAT)
    if (named := node.attributes.get("dtype")) is not None:
        return int(named.i)
    if node.op in _BY_ATTRIBUTES:
        return int(TensorProto.FLOAT)
    if node.op == "Cast":
        return node.int_attribute("to", 0)
    before = node.input(0)
    if before is None or before.dtype or before.producer is None:
        return before.dtype if before is not None else 0
    return _dtype(before.producer) if before.producer.op in _MAKERS | _KEEP_TYPE else 0


def _is_weight(found: Found, walker: Walker) -> bool:
    reading = found.verdict
    if not isinstance(reading, Reading) or reading.role in _ROLES_OF_DATA or found.site.node.op in ARITHMETIC:
        return False
    if found.site.trail.derived:  # a mask or another table that the graph makes of it
        return False
    return reading.source is None or walker.flow.follows_feed(reading.source)
