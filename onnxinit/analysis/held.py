"""What nodes hold in attributes that stands for a tensor: the value of a Constant, the weights of a linear model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import onnx
from onnx import AttributeProto, NodeProto, TensorProto

Attributes = Mapping[str, AttributeProto]
Shapes = Callable[[Attributes], Mapping[str, tuple[int, ...]]]

# Operators that hold weights in attributes: by domain and operator what gives their shapes by the attribute's name, in
# the order in which they stand for further inputs, behind those that the operator has; () for one without such a shape.
OPERANDS: dict[tuple[str, str], Shapes] = {}

# Of a Constant, the attributes that hold floats, and the field that their values are in.
_FIELDS = {
    ("value", AttributeProto.TENSOR): "t",
    ("value_floats", AttributeProto.FLOATS): "floats",
    ("value_float", AttributeProto.FLOAT): "f",
}


def stored_constant(node: NodeProto) -> tuple[str, TensorProto] | None:
    """What a Constant node itself stores, and where in it; None for integers and for what a function is handed."""
    for k, a in enumerate(node.attribute):
        field = _FIELDS.get((a.name, a.type)) if not a.ref_attr_name else None
        tensor = as_tensor(a) if field is not None else None
        if tensor is not None and (field != "floats" or a.floats):
            return f"attribute[{k}].{field}", tensor
    return None


def operands(node: NodeProto, domain: str, attributes: Attributes) -> Iterator[tuple[str, str, tuple[int, ...]] | None]:
    """The weights that a node holds in attributes, as its further inputs.

    Args:
        node: The node.
        domain: Its domain, in its one spelling.
        attributes: Its attributes, those that a function was handed among them.

    Yields:
        The attribute's name, where the values are in the node, and the shape that they stand for; None for an attribute
        that is absent, handed over by the call of a function, or does not fit the others.
    """
    shapes = OPERANDS.get((domain, node.op_type))
    own = {a.name: k for k, a in enumerate(node.attribute) if not a.ref_attr_name}
    for name, shape in shapes(attributes).items() if shapes is not None else ():
        yield (name, f"attribute[{own[name]}].floats", shape) if shape and name in own else None


def as_tensor(a: AttributeProto) -> TensorProto | None:
    """The tensor that an attribute of a Constant stands for; None for text and the like."""
    kind, make = a.type, onnx.helper.make_tensor
    if kind == AttributeProto.TENSOR:
        return a.t
    if kind == AttributeProto.FLOAT:
        return make(a.name, TensorProto.FLOAT, [], [a.f])
    if kind == AttributeProto.INT:
        return make(a.name, TensorProto.INT64, [], [a.i])
    if kind == AttributeProto.FLOATS:
        return make(a.name, TensorProto.FLOAT, [len(a.floats)], list(a.floats))
    if kind == AttributeProto.INTS:
        return make(a.name, TensorProto.INT64, [len(a.ints)], list(a.ints))
    return None
