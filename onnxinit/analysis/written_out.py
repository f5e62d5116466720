"""Codes that plain arithmetic makes real values of: a Cast, perhaps a Sub of zero points, and a Mul by scales.

The Mul stands behind the Cast, or behind the product that reads it, whose outputs have a scale each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxinit.analysis.operators import Reading, UnknownFormError, out_value
from onnxinit.analysis.scales import Source, blocks_of_operand, size_of
from onnxinit.analysis.trail import Trail
from onnxinit.analysis.view import Node, Value
from onnxinit.analysis.views import step
from onnxinit.analysis.walker import Found

_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})


def written_out(value: Value, found: Sequence[Found]) -> list[Source]:
    """Where the uses of a tensor of codes take scale and zero point from, if each of them is written out so.

    Raises:
        UnknownFormError: A scale does not run along the axes of the codes.
    """
    before = list(_before(value))
    if before:
        return before
    behind = [_behind(f) for f in found]
    return [s for s in behind if s is not None] if all(behind) else []


def _before(value: Value) -> Iterator[Source]:
    """The Mul nodes that a tensor comes to, moved and shifted only."""
    stack: list[tuple[Value, Trail, tuple[Node, int] | None]] = [
        (value, Trail.of([n or 0 for n in value.shape or ()]), None)
    ]
    while stack:
        at_value, trail, shift = stack.pop()
        for node, at in at_value.uses:
            other = node.input(1 - at) if node.op in ("Mul", "Sub") and node.domain == "" else None
            out = out_value(node)
            if other is not None and (not other.static or out is None):
                continue
            if node.op == "Mul" and other is not None and "Cast" in trail.via:
                yield _source(other, (node, 1 - at), shift, trail)
            elif node.op == "Sub" and other is not None and out is not None and at == 0 and shift is None:
                stack.append((out, trail, (node, 1)))
            elif (following := step(node, at, trail)) is not None:
                stack.extend((v, t, shift) for v, t in following)


def _source(scale: Value, use: tuple[Node, int], shift: tuple[Node, int] | None, trail: Trail) -> Source:
    zero = shift[0].input(shift[1]) if shift is not None else None
    uses = (use, *([shift] if shift is not None else []))
    if size_of(scale) == 1:
        return Source(scale, zero, trail, None, uses)
    dims = [n or 0 for n in scale.shape or ()]
    dims = [1] * (len(trail.shape) - len(dims)) + dims
    if len(dims) != len(trail.shape) or any(d not in (1, n) for d, n in zip(dims, trail.shape, strict=True)):
        raise UnknownFormError
    blocks = tuple((n if d == 1 else 1) for d, n in zip(dims, trail.shape, strict=True))
    return Source(scale, zero, trail, blocks, uses)


def _behind(found: Found) -> Source | None:
    """The scale that a product's result is multiplied by, one for each output or one for all."""
    node, reading = found.site.node, found.verdict
    if node.op not in _PRODUCTS or not isinstance(reading, Reading) or "Cast" not in found.site.trail.via:
        return None
    value = out_value(node)
    if value is None or len(value.uses) != 1:
        return None
    user, at = value.uses[0]
    scale = user.input(1 - at) if user.op == "Mul" else None
    if scale is None or not scale.static:
        return None
    blocks = blocks_of_operand(found.site, scale, reading.out_axis)
    return Source(scale, None, found.site.trail, blocks, ((user, 1 - at),))
