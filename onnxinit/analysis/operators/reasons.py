"""Why a stored tensor that feeds an operator is no weight."""

from __future__ import annotations

from onnx import TensorProto

from onnxinit.analysis.operators.table import (
    KEEPS,
    OPERATORS,
    SCALE,
    ZERO_POINT,
    Site,
)
from onnxinit.analysis.operators.weightless import NO_WEIGHTS
from onnxinit.analysis.view import Node

# Element types that weights are quantised to; int32 is one of biases, and of shapes and indices too.
NARROW = frozenset(
    int(getattr(TensorProto, name))
    for name in (
        *("INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2"),
        *("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT4E2M1", "FLOAT6E2M3", "FLOAT6E3M2"),
    )
    if hasattr(TensorProto, name)
)
WIDE = frozenset({int(TensorProto.INT32), int(TensorProto.INT16), int(TensorProto.UINT16)})

_NOUNS = {"positional": "position table"}
_MOVES = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice"})

# Domains whose operators the tables name.
DOMAINS = frozenset(domain for domain, _ in NO_WEIGHTS)


def kept(node: Node, at: int) -> str | None:
    """What the table says of an operand that is no weight, None where it says nothing."""
    if node.op == "QLinearConcat" and at > 4:  # any number of (values, scale, zero point)
        at = 2 + (at - 2) % 3
    return KEEPS.get((node.domain, node.op), {}).get(at)


def reason(node: Node, at: int) -> str:
    """Why an operand that no row reads as a weight is none."""
    key = node.domain, node.op
    if key in NO_WEIGHTS:
        return f"feeds input {at} of {node.op}, which holds no weights"
    if key in OPERATORS:
        return f"feeds input {at} of {node.op}, which holds no weight there"
    if node.op.startswith("@"):
        return "handed on by a subgraph as it is"
    if node.domain not in DOMAINS:
        return f"feeds {node.op} of domain {node.domain!r}, which is not known"
    return f"feeds input {at} of {node.op}, which is not known"


def quantised(site: Site, role: str, dtype: int) -> str | None:
    """Why an integer tensor is kept that stands where a weight does, None where it is no quantised one.

    Args:
        site: Its use.
        role: What a float tensor would be there.
        dtype: Its ONNX element type.
    """
    node = site.node
    known = "DequantizeLinear" in site.trail.via or turned_by(node) is not None or _is_quantised(node)
    if not known and (dtype not in NARROW or role == "embedding"):
        return None
    return (
        f"a quantised {_NOUNS.get(role, role.replace('_', ' '))} of {node.op}, whose values this version does not draw"
    )


def turned_by(node: Node) -> Node | None:
    """What turns the integers that a node makes into floats next, at most moved before; None where nothing does."""
    for _ in range(4):
        users = [user for out in node.outputs if out is not None for user, _ in out.uses]
        turning = next((user for user in users if user.op == "DequantizeLinear"), None)
        if turning is not None:
            return turning
        if len(users) != 1 or users[0].op not in _MOVES:
            return None
        node = users[0]
    return None


def _is_quantised(node: Node) -> bool:
    """Whether an operator has scales or zero points among its operands."""
    return any(r in (SCALE, ZERO_POINT) for r in KEEPS.get((node.domain, node.op), {}).values())
