"""Which axis of an input is a past: what is joined before a fresh value, and handed out again for the next step."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from onnxinit.analysis.shapes import elements
from onnxinit.analysis.view import GraphView, Node, Value

_PORTS: dict[tuple[str, str], tuple[tuple[int, ...], int]] = {
    ("", "Attention"): ((4, 5), 2),
    ("com.microsoft", "Attention"): ((4,), 3),
    ("com.microsoft", "MultiHeadAttention"): ((6, 7), 2),
    ("com.microsoft", "GroupQueryAttention"): ((3, 4), 2),
    ("com.microsoft", "DecoderMaskedMultiHeadAttention"): ((5, 6), 2),
}
"""The inputs of fused attention that hold a past, and its axis."""

Axes = tuple["int | None", ...]


def past_axes(model: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """The (input, axis) pairs whose length is that of a past."""
    view = GraphView(model)
    for value in view.inputs:
        if not value.scope and value.shape is not None:
            yield from ((value.name, axis) for axis in _joined(value))


def _joined(start: Value) -> Iterator[int]:
    todo: list[tuple[Value, Axes]] = [(start, tuple(range(len(start.shape or ()))))]
    seen: set[int] = set()
    while todo:
        value, axes = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        for node, at in value.uses:
            ports, port_axis = _PORTS.get((node.domain, node.op), ((), 0))
            if at in ports and len(axes) > port_axis:
                axis = axes[port_axis]
                yield from () if axis is None else (axis,)
            elif node.domain == "" and node.op == "Concat":
                axis = axes[node.int_attribute("axis", 0)] if axes else None
                others = [v for i, v in enumerate(node.inputs) if i != at and v is not None]
                if axis and not all(v.static for v in others) and _is_handed_out(node):
                    yield axis
            elif at == 0:
                todo += [(v, moved) for v, moved in _moves(node, axes)]


def _moves(node: Node, axes: Axes) -> Iterator[tuple[Value, Axes]]:
    """Where the input's axes are after an operator that moves elements."""
    moved: Axes | None = None
    if node.op in ("Identity", "Cast", "@If", "Slice", "Split"):
        moved = axes
    elif node.op == "Transpose":
        moved = tuple(axes[p] for p in node.ints_attribute("perm") or range(len(axes))[::-1])
    elif node.op in ("Unsqueeze", "Squeeze"):
        given = node.input(1)
        where = node.ints_attribute("axes") or (elements(given) if given is not None else None) or []
        if node.op == "Squeeze":
            moved = tuple(a for i, a in enumerate(axes) if i not in {w % len(axes) for w in where})
        else:
            rank = len(axes) + len(where)
            rest = iter(axes)
            moved = tuple(None if i in {w % rank for w in where} else next(rest) for i in range(rank))
    elif node.op == "Gather" and (index := node.input(1)) is not None and index.shape == ():
        axis = node.int_attribute("axis", 0) % len(axes)
        moved = (*axes[:axis], *axes[axis + 1 :])
    if moved is not None:
        yield from ((v, moved) for v in node.outputs if v is not None)


def _is_handed_out(node: Node) -> bool:
    todo = [v for v in node.outputs if v is not None]
    for _ in range(12):
        if not todo:
            return False
        value = todo.pop(0)
        if value.is_output:
            return True
        todo += [
            out
            for user, at in value.uses
            if user.op in ("Identity", "Cast", "Transpose", "Unsqueeze", "Slice", "Concat", "@If", "Reshape", "Squeeze")
            and (at == 0 or user.op in ("Concat", "@If"))
            for out in user.outputs
            if out is not None
        ]
    return False
