"""Batch norm at inference, written out with static vectors.

x - mean, * 1/sqrt(var + eps), * scale, + shift      step by step, statistics as stored
x * (scale/sqrt(var + eps)) + (shift - mean * ...)   the same with the static part taken together
x * scale' + shift'                                  with the static part folded: what Keras exports hold
"""

from __future__ import annotations

import math

from onnxinit.analysis.constants import Constants
from onnxinit.analysis.norm import CASTS, Norm, Place, Role, bare, nothing_else
from onnxinit.analysis.view import Node, Value

_MOVES = CASTS | {"Reshape", "Unsqueeze", "Squeeze", "Expand", "Transpose"}
_UNARY = _MOVES | {"Reciprocal", "Neg"}
_REACH = 12
_MOST = 32


def batch_norm(first: Node, constants: Constants) -> Norm | None:
    """The batch norm that begins at a node: Sub, Mul or Div of a signal by a static vector.

    Returns:
        None where the node begins none: the vectors differ in length, nothing is added at the end of plain factors,
        or the signal is the feed itself (a fixed standardisation of the input).
    """
    start = _operand(first)
    if start is None or (first.op in ("Sub", "Div") and start[1] != 1):
        return None
    source, _ = start
    chain: list[Place] = []
    node: Node | None = first
    while node is not None and len(chain) < 4:
        operand = _operand(node)
        if operand is None or not _follows(chain, node) or _length(node.inputs[operand[1]]) != _length_of(chain, node):
            break
        chain.append((node, operand[1]))
        out = node.outputs[0]
        use = nothing_else(out) if out is not None else None
        node = use[0] if use is not None and node.op not in ("Add",) else None
    if not chain or not _is_norm(chain, source) or any(_is_none(n.inputs[at], constants) for n, at in chain):
        return None
    output = chain[-1][0].outputs[0]
    if output is None:
        return None
    roles: dict[Place, Role] = {}
    for place in chain:
        _assign(place, roles, constants)
    return Norm(source, output, tuple(roles.items()), frozenset({id(first)}), batch=True)


def _operand(node: Node) -> tuple[Value, int] | None:
    """The signal, and where the static vector is."""
    if node.op not in ("Sub", "Mul", "Div", "Add") or len(node.inputs) != 2:
        return None
    a, b = node.inputs
    if a is None or b is None or a.static == b.static:
        return None
    at = 0 if a.static else 1
    return (b if a.static else a, at) if _length(node.inputs[at]) > 1 else None


def _is_none(value: Value | None, constants: Constants) -> bool:
    """Whether a static vector is none of a norm: a mask of zeros and ones, or a token that joins a signal elsewhere."""
    held = constants.constant(value)
    if held is not None and set(held.reshape(-1).tolist()) == {0.0, 1.0}:
        return True
    return value is not None and any(
        n.op == "Concat" and n.outputs[0] is not None and not n.outputs[0].static for n, _ in value.uses
    )


def _length(value: Value | None) -> int:
    """Length of a static vector, 0 for what is none."""
    if value is None or value.shape is None or None in value.shape or sum(n != 1 for n in value.shape) != 1:
        return 0
    return math.prod(n or 1 for n in value.shape)


def _length_of(chain: list[Place], node: Node) -> int:
    place = chain[0] if chain else (node, 0 if node.inputs[0] is not None and node.inputs[0].static else 1)
    return _length(place[0].inputs[place[1]])


def _follows(chain: list[Place], node: Node) -> bool:
    """Whether a node can come next: one Sub at the beginning, factors, one Add or Sub at the end."""
    ops = [n.op for n, _ in chain]
    if node.op == "Sub":
        return not chain
    return node.op != "Add" or any(op in ("Mul", "Div") for op in ops)


def _is_norm(chain: list[Place], source: Value) -> bool:
    ops = [n.op for n, _ in chain]
    spread = any(_has_spread(n.inputs[at]) for n, at in chain)
    if not any(op in ("Mul", "Div") for op in ops):
        return False
    return spread or (ops[-1] == "Add" and not _is_feed(source) and not _ends(chain))


def _ends(chain: list[Place]) -> bool:
    """Whether a few channels are handed out at once: pixels that are scaled back."""
    node, at = chain[-1]
    out = node.outputs[0]
    return out is not None and out.is_output and _length(node.inputs[at]) <= 4


def _is_feed(value: Value) -> bool:
    """Whether a signal is the model's input, at most cast, moved or scaled."""
    for _ in range(_REACH):
        if value.is_input:
            return True
        node = value.producer
        if node is None or node.op not in _MOVES | {"Mul", "Div", "Sub", "Add", "Concat", "Gather", "Slice", "Split"}:
            return False
        moving = [v for v in node.inputs if v is not None and not v.static]
        if not moving:
            return False
        value = moving[0]
    return False


def _has_spread(value: Value | None) -> bool:
    """Whether a static value follows from a square root."""
    waiting = [value]
    for _ in range(_MOST):
        if not waiting:
            return False
        value = waiting.pop()
        node = bare(value).producer if value is not None else None
        if node is None:
            continue
        if node.op == "Sqrt" or (node.op == "Pow" and node.input(1) is not None):
            return True
        if node.op in ("Mul", "Div", "Sub", "Add"):
            waiting.extend(node.inputs)
        elif node.op in _UNARY:
            waiting.append(node.input(0))
    return False


def _assign(place: Place, roles: dict[Place, Role], constants: Constants) -> None:
    """Give the stored vectors behind an operand their roles, at the node where each enters."""
    role = {"Sub": "running_mean", "Add": "norm_shift"}.get(place[0].op, "norm_scale")
    waiting = [(place, role)]
    for _ in range(_MOST):
        if not waiting:
            return
        (node, at), role = waiting.pop()
        value = node.inputs[at]
        if value is None or constants.scalar(value) is not None:
            continue  # epsilon, or the one of 1 / sqrt
        maker = value.producer
        while maker is not None and maker.op in _UNARY and (before := maker.input(0)) is not None:
            maker = before.producer
        if maker is None or not maker.inputs:
            roles[node, at] = role, None
        else:
            waiting.extend(((maker, i), _inner_role(maker, i, role)) for i in range(len(maker.inputs)))


def _inner_role(node: Node, at: int, role: str) -> str:
    """The role of an operand inside the making of a static vector of a role."""
    if node.op in ("Sqrt", "Pow") or role == "running_var":
        return "running_var"
    if role == "norm_shift" and node.op in ("Mul", "Div"):  # mean * inverse
        return "norm_scale" if _has_spread(node.inputs[at]) else "running_mean"
    return role
