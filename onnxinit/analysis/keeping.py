"""What is kept beside the tensors that the walker follows: what attributes hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import onnx
from onnx import AttributeProto

from onnxinit.analysis.operators import held_in_attributes, reason_of_attribute
from onnxinit.analysis.view import Node, normal_domain
from onnxinit.analysis.weight import Kept

_STEP = re.compile(r"(\w+)(?:\[(\d+)\])?")


def unused_id(base: str, taken: set[str]) -> str:
    """An id that nothing has yet, entered among those that are taken."""
    ident, count = base, 1
    while ident in taken:
        count += 1
        ident = f"{base}#{count}"
    taken.add(ident)
    return ident


def attribute_lists(nodes: Iterable[Node], taken: set[str]) -> Iterator[Kept]:
    """The learned or fitted lists of floats that nodes hold in attributes, which nothing rewrites.

    Args:
        nodes: Every node.
        taken: The ids that are in use; those of the lists are added.
    """
    for node in nodes:
        for attribute, length, reason in held_in_attributes(node):
            name = f"{node.name or node.op}.{attribute}"
            ident = unused_id(f"{node.scope}/{name}" if node.scope else name, taken)
            yield Kept(ident, name, node.scope, (length,), "float", reason)


def stored_aside(model: onnx.ModelProto, path: str) -> str:
    """Why a stored tensor is kept that no value of the graph is."""
    if path.endswith(".indices"):
        return "the pattern of a sparse tensor"
    held = _holder(model, path)
    if held is None or held[0].op_type == "Constant":
        return "stored outside the graph that runs (training information, or a function that nothing calls)"
    node, attribute = held
    return reason_of_attribute(normal_domain(node.domain), node.op_type, attribute.name)


def in_constant(model: onnx.ModelProto, path: str) -> bool:
    """Whether a stored tensor is the value of a Constant node."""
    held = _holder(model, path)
    return held is not None and held[0].op_type == "Constant"


def _holder(model: onnx.ModelProto, path: str) -> tuple[onnx.NodeProto, AttributeProto] | None:
    """The innermost node and attribute on the way to a stored tensor, None where it is in none of a graph's nodes."""
    at: object = model
    node: onnx.NodeProto | None = None
    found: tuple[onnx.NodeProto, AttributeProto] | None = None
    for field, index in _STEP.findall(path):
        at = getattr(at, field)
        at = at[int(index)] if index else at  # type: ignore[index]
        if isinstance(at, onnx.NodeProto):
            node, found = at, None
        elif isinstance(at, AttributeProto) and node is not None:
            found = node, at
        elif isinstance(at, onnx.GraphProto):
            found = None
    return found
