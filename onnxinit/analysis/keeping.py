"""What is kept beside the tensors that the walker follows: what attributes hold, and kernels made at run time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import onnx
from onnx import AttributeProto, TensorProto

from onnxinit.analysis.operators import Reading, held_in_attributes, reason_of_attribute
from onnxinit.analysis.view import Node, normal_domain
from onnxinit.analysis.walker import Walker
from onnxinit.analysis.weight import FAN_ROLES, Kept

_STEP = re.compile(r"(\w+)(?:\[(\d+)\])?")
_MAKERS = frozenset({"ConstantOfShape", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"})


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


def made_at_run_time(nodes: Iterable[Node], walker: Walker, taken: set[str]) -> Iterator[Kept]:
    """The kernels and tables that nodes make whenever the model runs, so that no stored values could be replaced.

    Args:
        nodes: Every node; those of a function once for every call, of which the first counts.
        walker: Reads what a value is.
        taken: The ids that are in use; those of the kernels are added.
    """
    done: set[tuple[str, str]] = set()
    for node in nodes:
        value = node.outputs[0] if node.op in _MAKERS and node.domain == "" else None
        if value is None or not value.static or (value.scope, value.name) in done:
            continue
        done.add((value.scope, value.name))
        verdicts = [found.verdict for found in walker.readings(value)]
        if any(isinstance(v, Reading) and v.role in FAN_ROLES for v in verdicts):
            held = node.attributes.get("value")
            made = held.t.data_type if held is not None else node.int_attribute("dtype", TensorProto.FLOAT)
            dtype = TensorProto.DataType.Name(made).lower()
            shape = tuple(n or 0 for n in value.shape or ())
            reason = f"made at run time by {node.op}, so that the file holds no values to replace"
            ident = unused_id(f"{value.scope}/{value.name}" if value.scope else value.name, taken)
            yield Kept(ident, value.name, value.scope, shape, dtype, reason)


def stored_aside(model: onnx.ModelProto, path: str) -> str:
    """Why a stored tensor is kept that no value of the graph is."""
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
