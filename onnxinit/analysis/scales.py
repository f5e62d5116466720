"""Scales of quantised tensors: where they are stored, and along which axes of the codes they run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onnxinit.analysis.operators import Site, UnknownFormError, out_value
from onnxinit.analysis.trail import Trail
from onnxinit.analysis.view import Node, Value

LINKS = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})  # keep the order of scales


@dataclass(frozen=True, slots=True)
class Source:
    """Where one use takes scale and zero point from, and along which axes of the operand the scales run."""

    scale: Value
    zero_point: Value | None
    trail: Trail
    blocks: tuple[int, ...] | None  # along each axis of the operand, neighbours with one scale; None: one for all
    uses: tuple[tuple[Node, int], ...]


def held_in(value: Value) -> str:
    """The path of the stored tensor that a value is but for its shape and precision, "" where it is none."""
    while not value.tensor:
        node = value.producer
        before = node.input(0) if node is not None and node.op in LINKS else None
        if before is None:
            return ""
        value = before
    return value.tensor if value.where != "sparse" else ""


def size_of(value: Value) -> int:
    """Number of elements, 0 where it is not known."""
    return math.prod(n or 0 for n in value.shape) if value.shape is not None else 0


def blocks_of_turning(node: Node, trail: Trail) -> tuple[int, ...] | None:
    """The neighbours with one scale along each axis of what a DequantizeLinear reads; None where all share one."""
    scale = node.input(1)
    if scale is None or scale.shape is None or size_of(scale) == 1:
        return None
    shape, block = trail.shape, node.int_attribute("block_size", 0)
    axis = node.int_attribute("axis", 1)
    if not -len(shape) <= axis < len(shape) or len(scale.shape) not in (1, len(shape)):
        raise UnknownFormError
    axis %= len(shape)
    if len(scale.shape) == len(shape) > 1 or block:
        return tuple((block if i == axis else 1) for i in range(len(shape)))
    return tuple((1 if i == axis else n) for i, n in enumerate(shape))


def blocks_of_look_up(look_up: Node, turning: Node, trail: Trail) -> tuple[int, ...] | None:
    """Likewise for a table that is looked up in before: scales may run along its last axis, which no index replaces."""
    scale, out = turning.input(1), out_value(look_up)
    if scale is None or size_of(scale) == 1:
        return None
    rank = len(out.shape) if out is not None and out.shape is not None else 0
    last = turning.int_attribute("axis", 1) in (-1, rank - 1) and out_value(look_up) is turning.input(0)
    if not last or len(trail.shape) != 2 or look_up.int_attribute("axis", 0) % 2 or size_of(scale) != trail.shape[1]:
        raise UnknownFormError
    return (trail.shape[0], 1)


def blocks_of_operand(site: Site, scale: Value, axis: int | None) -> tuple[int, ...] | None:
    """Likewise for an operand of a quantised operator, whose outputs run along an axis."""
    shape, size = site.shape, size_of(scale)
    if size == 1:
        return None
    dims = tuple(n or 0 for n in scale.shape or ())
    if site.node.op == "DynamicQuantizeLSTM":
        return (1, shape[1], 1) if len(dims) == 2 else (1, *shape[1:])
    if axis is not None and size == shape[axis] and max(dims) == size:
        return tuple((1 if i == axis else n) for i, n in enumerate(shape))
    if len(dims) == len(shape) and all(s in (1, n) for s, n in zip(dims, shape, strict=True)):
        return tuple((1 if s == n else n) for s, n in zip(dims, shape, strict=True))
    raise UnknownFormError


def stored_grain(source: Source, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Blocks along the axes of an operand, brought back to those of the tensor."""
    blocks, trail = source.blocks, source.trail
    if blocks is None:
        return shape
    if len(blocks) < len(trail.shape):  # along the order of an operand that is as it is stored
        return blocks
    along = [i for i, (b, n) in enumerate(zip(blocks, trail.shape, strict=True)) if b < n]
    if trail.lost or trail.apart or trail.extent != shape:
        return None
    if len(along) > 1 and trail.spans != Trail.of(shape).spans and not _in_order(trail, along):
        return None
    grain = list(shape)
    for i in along:
        span = trail.spans[i]
        if len(span.factors) != 1 or span.total != span.size:
            return None
        (digit,) = span.factors
        if digit.axis < 0 or digit.size * digit.stride != shape[digit.axis]:
            return None
        grain[digit.axis] = blocks[i] * digit.stride  # of an axis that was split, the outer part
    return tuple(grain)


def _in_order(trail: Trail, along: Sequence[int]) -> bool:
    """Whether axes of an operand are those of the tensor in its order, so that scales along them lie in that order."""
    digits = [trail.spans[i].factors[0] for i in along if len(trail.spans[i].factors) == 1]
    axes = [d.axis for d in digits]
    return len(digits) == len(along) and axes == sorted(set(axes))
