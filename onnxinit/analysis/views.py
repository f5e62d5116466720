"""Operators that move elements without changing them: how a `Trail` goes through each.

`step` answers where a value leads through one of its uses: the outputs of the node with the arrangement there, or None
where the operator is none of these. A row here is all that a new element-moving operator needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from onnxinit.analysis.shapes import elements, index_origin, is_one_index
from onnxinit.analysis.trail import Trail
from onnxinit.analysis.view import Node, Value

Step = Callable[[Node, int, Trail], "list[tuple[Value, Trail]] | None"]

_STEPS: dict[str, Step] = {}
_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


def _row(*ops: str) -> Callable[[Step], Step]:
    def put(function: Step) -> Step:
        _STEPS.update(dict.fromkeys(ops, function))
        return function

    return put


def moving_operators() -> tuple[str, ...]:
    """The operators of ONNX that move elements without changing them."""
    return tuple(sorted(op for op in _STEPS if not op.startswith("@")))


def step(node: Node, at: int, trail: Trail) -> list[tuple[Value, Trail]] | None:
    """Follow a tensor through one use.

    Args:
        node: The consumer.
        at: Its input index.
        trail: The arrangement of the tensor in that input.

    Returns:
        The outputs of the node that hold the tensor, each with its arrangement; None where the node is no view of
        this input.
    """
    known = node.domain == "" or (node.domain == "com.microsoft" and node.op in _QUANTISERS)
    row = _STEPS.get(node.op) if known else None
    found = row(node, at, trail) if row is not None else None
    return None if found is None else [(v, t.through(node.op)) for v, t in found]


def _all_outputs(node: Node, trail: Trail | None, before: Trail) -> list[tuple[Value, Trail]]:
    return [(v, trail if trail is not None else before.lose(v.shape)) for v in node.outputs[:1] if v is not None]


@_row("Identity", "Cast", "CastLike", "Dropout", "@If", "@Exit", "Optional", "OptionalGetElement")
def _same(node: Node, at: int, trail: Trail) -> list[tuple[Value, Trail]] | None:
    if at != 0 and node.op != "@If":
        return None
    return _all_outputs(node, trail, trail)


@_row(*_QUANTISERS)
def _quantise(node: Node, at: int, trail: Trail) -> list[tuple[Value, Trail]] | None:
    return _all_outputs(node, trail, trail) if at == 0 else None


@_row("Transpose")
def _transpose(node: Node, at: int, trail: Trail) -> list[tuple[Value, Trail]] | None:
    perm = node.ints_attribute("perm") or list(range(len(trail.spans)))[::-1]
    ok = sorted(perm) == list(range(len(trail.spans)))
    return _all_outputs(node, trail.transpose(perm) if ok else None, trail)


@_row("Reshape")
def _reshape(node: Node, at: int, trail: Trail) -> list[tuple[Value, Trail]] | None:
    if at != 0:
        return None
    dims = target_shape(node, trail.shape)
    return _all_outputs(node, trail.reshape(dims) if dims else None, trail)


def target_shape(node: Node, shape: tuple[int, ...]) -> list[int] | None:
    """The full target of a Reshape of a value of known shape; None where it is not known."""
    target = node.input(1)
    wanted = node.ints_attribute("shape") if target is None else None
    if target is not None:
        wanted = elements(target)
    if wanted is None:
        out = node.outputs[0]
        known = out.shape if out is not None else None
        return [n for n in known if n is not None] if known is not None and None not in known else None
    if not node.int_attribute("allowzero", 0):
        wanted = [shape[i] if n == 0 and i < len(shape) else n for i, n in enumerate(wanted)]
    if -1 in wanted:
        rest = math.prod(n for n in wanted if n != -1)
        if rest <= 0 or math.prod(shape) % rest:
            return None
        wanted = [math.prod(shape) // rest if n == -1 else n for n in wanted]
    return wanted


@_row("Flatten")
def _flatten(node: Node, at: int, trail: Trail) -> list[tuple[Value, Trail]] | None:
    axis = node.int_attribute("axis", 1)
    axis = axis + len(trail.spans) if axis < 0 else axis
    return _all_outputs(node, trail.reshape([math.prod(trail.shape[:axis]), math.prod(trail.shape[axis:])]), trail)


def axis_of(node: Node, trail: Trail) -> int | None:
    """The axis of a Split, Concat or Gather; None where the value has no such axis."""
    axis, rank = node.int_attribute("axis", 0), len(trail.spans)
    return axis % rank if -rank <= axis < rank else None


def axes_of(node: Node, index: int = 1) -> list[int] | None:
    """The axes of a Squeeze, Unsqueeze or reduction: attribute or input; None where not given or not known."""
    held = node.ints_attribute("axes")
    given = node.input(index)
    return elements(given) if held is None and given is not None else held


@_row("Squeeze", "Unsqueeze")
def _squeeze(node: Node, at: int, trail: Trail) -> list[tuple[Value, Trail]] | None:
    if at != 0:
        return None
    axes = axes_of(node)
    if node.op == "Squeeze":
        return _all_outputs(node, trail.squeeze(axes), trail)
    ok = axes is not None and len({a % (len(trail.spans) + len(axes)) for a in axes}) == len(axes)
    return _all_outputs(node, trail.unsqueeze(axes) if axes is not None and ok else None, trail)


@_row("Expand", "Tile")
def _expand(node: Node, at: int, trail: Trail) -> list[tuple[Value, Trail]] | None:
    if at != 0:
        return None
    held = v.elements if (v := node.input(1)) is not None else None
    out = node.outputs[0]
    dims: list[int | None] | None = list(out.shape) if out is not None and out.shape is not None else None
    if held is not None:
        dims = list(held)
        if node.op == "Tile":
            if any(n != 1 and s.total != 1 for n, s in zip(dims, trail.spans, strict=False)):
                return _all_outputs(node, None, trail)
        elif len(dims) < len(trail.spans):
            dims = [*(None for _ in range(len(trail.spans) - len(dims))), *dims]
    if dims is None or len(dims) < len(trail.spans):
        return _all_outputs(node, trail, trail)
    return _all_outputs(node, trail.expand(dims), trail)


@_row("Slice")
def _slice(node: Node, at: int, trail: Trail) -> list[tuple[Value, Trail]] | None:
    if at != 0:
        return None
    cut = slice_ranges(node, trail.shape)
    found: Trail | None = trail
    if cut is None:  # a range that the feed decides can reach over the whole axis, unless it leaves elements out
        steps = elements(v) if (v := node.input(4)) is not None else [1]
        return _all_outputs(node, trail if steps is not None and set(steps) == {1} else None, trail)
    for axis, (begin, length) in cut.items():
        if found is not None and length > 0:
            found = found.window(axis, begin, length)
            if found is None and not _meets(trail, axis, begin, length):
                return []
    return _all_outputs(node, found, trail)


def _meets(trail: Trail, axis: int, begin: int, length: int) -> bool:
    s = trail.spans[axis]
    return max(begin, s.before) < min(begin + length, s.before + s.size)


def slice_ranges(node: Node, shape: tuple[int | None, ...]) -> dict[int, tuple[int, int]] | None:
    """The (begin, length) of every axis that a Slice narrows; None where it is not known or steps."""
    if "starts" in node.attributes:
        starts, ends = node.ints_attribute("starts") or [], node.ints_attribute("ends") or []
        axes = node.ints_attribute("axes") or list(range(len(starts)))
    else:
        held = [elements(v) if v is not None else None for v in (node.input(i) for i in range(1, 5))]
        if held[0] is None or held[1] is None or (node.input(3) is not None and held[2] is None):
            return None
        starts, ends, axes = held[0], held[1], held[2] or list(range(len(held[0])))
        if node.input(4) is not None and any(i != 1 for i in held[3] or [0]):
            return None
    ranges: dict[int, tuple[int, int]] = {}
    for start, end, axis in zip(starts, ends, axes, strict=False):
        if not -len(shape) <= axis < len(shape):
            return None
        axis %= len(shape)
        n = shape[axis]
        if n is None:
            return None
        begin, stop, _ = slice(start, end).indices(n)
        ranges[axis] = (begin, max(0, stop - begin))
    return ranges


@_row("Split", "SplitToSequence")
def _split(node: Node, at: int, trail: Trail) -> list[tuple[Value, Trail]] | None:
    if at != 0:
        return None
    axis = axis_of(node, trail)
    if axis is None:
        return [(v, trail.lose(v.shape)) for v in node.outputs if v is not None]
    sizes = split_sizes(node, trail.shape[axis])
    if node.op == "SplitToSequence":
        return _sequence(node, trail, axis, sizes)
    found: list[tuple[Value, Trail]] = []
    begin = 0
    for value, size in zip(node.outputs, sizes or [0] * len(node.outputs), strict=False):
        if value is not None and sizes is None:
            found.append((value, trail.lose(value.shape)))
        elif value is not None and _meets(trail, axis, begin, size):
            found.append((value, trail.window(axis, begin, size) or trail.lose(value.shape)))
        begin += size
    return found


def split_sizes(node: Node, total: int) -> list[int] | None:
    """The lengths that a Split or SplitToSequence cuts an axis into."""
    given = node.ints_attribute("split")
    held = elements(v) if (v := node.input(1)) is not None else None
    if given is None and held is not None:
        given = held
        if v is not None and v.shape == ():
            given = [given[0]] * (total // given[0]) + ([total % given[0]] if total % given[0] else [])
    if given is None:
        if node.input(1) is not None:
            return None
        count = len(node.outputs) if node.op == "Split" else total
        size = -(-total // max(1, count))
        given = [min(size, total - i * size) for i in range(count)]
    return given


def _sequence(node: Node, trail: Trail, axis: int, sizes: list[int] | None) -> list[tuple[Value, Trail]]:
    """A SplitToSequence hands its parts to SequenceAt nodes; each of those holds one of them."""
    squeezes = node.input(1) is None and not node.int_attribute("keepdims", 1)
    found: list[tuple[Value, Trail]] = []
    for value, index in sequence_reads(node):
        if sizes is None or index is None or not -len(sizes) <= index < len(sizes):
            found.append((value, trail.lose(value.shape)))
            continue
        begin = sum(sizes[: index % len(sizes)])
        if _meets(trail, axis, begin, sizes[index]):
            part = trail.window(axis, begin, sizes[index]) or trail.lose(value.shape)
            found.append((value, part.squeeze([axis]) if squeezes and not part.lost else part))
    return found


def sequence_reads(node: Node) -> Iterator[tuple[Value, int | None]]:
    """The values that SequenceAt nodes read from a node's sequence, each with its index if that is known."""
    for out in node.outputs:
        for user, _ in out.uses if out is not None else ():
            value = user.outputs[0] if user.op == "SequenceAt" and user.outputs else None
            if value is not None:
                at = elements(v) if (v := user.input(1)) is not None else None
                yield value, at[0] if at else None


@_row("Concat")
def _concat(node: Node, at: int, trail: Trail) -> list[tuple[Value, Trail]] | None:
    if not all(v is None or v.static for v in node.inputs):
        return None
    axis = axis_of(node, trail)
    sizes = [_length(v, axis) for v in node.inputs]
    if axis is not None:
        sizes[at] = trail.shape[axis]
    if axis is None or any(n is None for n in sizes):
        return _all_outputs(node, None, trail)
    known = [n for n in sizes if n is not None]
    return _all_outputs(node, trail.concat(axis, sum(known[:at]), sum(known)), trail)


@_row("Resize", "Upsample", "Pad", "DepthToSpace", "SpaceToDepth", "CenterCropPad")
def _resample(node: Node, at: int, trail: Trail) -> list[tuple[Value, Trail]] | None:
    return _all_outputs(node, None, trail) if at == 0 else None


def _length(value: Value | None, axis: int | None) -> int | None:
    shape = value.shape if value is not None else None
    return shape[axis] if shape is not None and axis is not None and axis < len(shape) else None


@_row("@Step")
def _one_step(node: Node, at: int, trail: Trail) -> list[tuple[Value, Trail]] | None:
    return _all_outputs(node, trail.pick(0), trail) if trail.spans else None


@_row("Gather")
def _gather(node: Node, at: int, trail: Trail) -> list[tuple[Value, Trail]] | None:
    """A constant index is a view; an index that a feed decides is a look-up, which the operators know."""
    index = node.input(1)
    if at != 0 or index is None:
        return None
    axis = axis_of(node, trail)
    flat = elements(index)
    if axis is None or flat is None or index.shape is None:
        return _all_outputs(node, None, trail) if index.static and not is_one_index(index_origin(index)) else None
    if index.shape == ():
        at_index = flat[0] % trail.shape[axis]
        if not _meets(trail, axis, at_index, 1):
            return []
        one = trail.window(axis, at_index, 1)
        return _all_outputs(node, one.squeeze([axis]) if one is not None else None, trail)
    if len(index.shape) == 1 and flat and flat[0] >= 0 and flat == list(range(flat[0], flat[0] + len(flat))):
        return _all_outputs(node, trail.window(axis, flat[0], len(flat)), trail)
    if len(flat) > 1 and len(set(flat)) == 1:
        return None  # one row for every position: a look-up whose index happens to be known
    return _all_outputs(node, None, trail)


def changed(trail: Trail) -> Trail:
    """The same places with other values."""
    return replace(trail, derived=True)
