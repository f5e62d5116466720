"""Fused projections: how the outputs of one layer are divided among different consumers.

The query, key and value of attention, the gates of a recurrent cell, the halves of a gated unit are often one matrix.
That it is several shows behind the layer only: its output axis is cut, by a Split, or by slices or indices that take it
apart. `partition` follows the output axis through reshapes and transposes to such a cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxinit.analysis.operators import packed
from onnxinit.analysis.shapes import elements
from onnxinit.analysis.trail import Tile
from onnxinit.analysis.view import Node, Value
from onnxinit.analysis.views import axes_of, sequence_reads, slice_ranges, split_sizes
from onnxinit.analysis.weight import Kind

_REACH = 16  # a cut further away than this many operators is not the layer's own

# Digits of the tracked axis, outermost first, as (stride, size); an axis of other things is empty.
_Axis = tuple[tuple[int, int], ...]
_Axes = tuple[_Axis, ...]

_POINTWISE = frozenset(
    {"Identity", "Cast", "Dropout", "Add", "Mul", "Sub", "Div", "Neg", "Slice", "Squeeze", "Unsqueeze", "Transpose"}
)
_THROUGH = frozenset(
    {"Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear", "Add", "Mul", "Div", "Sub", "BiasAdd", "Relu"}
)


def partition(value: Value, axis: int, size: int) -> tuple[Tile, ...] | None:
    """Find how the axis of a layer's output is cut into equal blocks, or contracted again as in a bilinear form.

    Args:
        value: The output of the layer.
        axis: The axis that the layer's outputs run along; negative from the end.
        size: Its length.

    Returns:
        The axis as (size, kind), outermost first; None where it is used whole or cut unevenly.
    """
    rank = len(value.shape) if value.shape is not None else None
    if axis < 0 and rank is None:
        rank = max(-axis, 3)  # only the end matters until a Transpose tells the rank
    if not rank or size <= 1:  # of a layer's output a file can only wrongly say that it has no axes
        return None
    axes: _Axes = tuple(((1, size),) if i == axis % rank else () for i in range(rank))
    for _ in range(_REACH):
        uses = [(n, i) for n, i in value.uses if n.op not in ("Shape", "Size")]
        if not uses:
            return None
        pieces = _pieces(uses, axes)
        if pieces is not None and _rejoined(uses, channels=axis == 1):
            return None
        if pieces is not None:
            return _tiles(axes[pieces[0]], pieces[1], size)
        if len({id(n) for n, _ in uses}) != 1:
            return None
        node, at = uses[0]
        if node.op == "MatMul" and at == 0 and len(axes) > 1 and axes[-1] and axes[-2]:
            # Rows and columns of one matrix for every sample, taken against a second signal: x1' W x2. (The heads of a
            # query stand on a batch axis here, which the keys share.)
            return _interleave(list(axes[-1]), size, "in")
        moved = _move(node, at, axes)
        out = node.outputs[0] if node.outputs else None
        if moved is None or out is None:
            return None
        value, axes = out, moved
    return None


def _rejoined(uses: Sequence[tuple[Node, int]], channels: bool) -> bool:
    """Whether pieces are joined again, as the halves that a partial rotation or a block of a convolutional net cuts.

    Of a dense layer they must meet one another: a key goes to a Concat with earlier keys, a rotated half to its own.
    The channels of a convolution are no projection if any goes to a Concat.
    """
    pieces = [v for node, _ in uses for v in _piece_values(node)]
    reached: dict[tuple[int, int], int] = {}
    for number, piece in enumerate(pieces):
        front, seen = [piece], {id(piece)}
        for _ in range(_REACH):
            following: list[Value] = []
            for v in front:
                for node, at in v.uses:
                    if node.op == "Concat" and channels:
                        return True
                    if node.op == "Concat":
                        if any(reached.get((id(node), i), number) != number for i in range(len(node.inputs))):
                            return True
                        reached[id(node), at] = number
                    elif node.op in _POINTWISE or (channels and at == 0 and (node.op == "Conv" or "Pool" in node.op)):
                        following.extend(o for o in node.outputs if o is not None and id(o) not in seen)
                        seen.update(id(o) for o in node.outputs)
            front = following
    return False


def _piece_values(node: Node) -> list[Value]:
    outs = [v for v in node.outputs if v is not None]
    if node.op == "SplitToSequence":
        return [o for s in outs for n, _ in s.uses if n.op == "SequenceAt" for o in n.outputs if o is not None]
    return outs


def _length(axis: _Axis) -> int:
    return math.prod(n for _, n in axis)


def _pieces(uses: Sequence[tuple[Node, int]], axes: _Axes) -> tuple[int, list[tuple[int, int]]] | None:
    """The (begin, length) pieces that the uses take, all from one tracked axis; None where a use takes it whole."""
    cut_axis: int | None = None
    pieces: set[tuple[int, int]] = set()
    for node, at in uses:
        cut = _cut(node, at, axes)
        if cut is None or cut_axis not in (None, cut[0]):
            return None
        cut_axis = cut[0]
        pieces.update(cut[1])
    if cut_axis is None or len(pieces) < 2:
        return None
    return cut_axis, sorted(pieces)


def _cut(node: Node, at: int, axes: _Axes) -> tuple[int, list[tuple[int, int]]] | None:
    together = packed(node, at, len(axes), _length(axes[-1]))
    if together is not None and axes[together[0]]:
        return together[0], [(sum(together[1][:i]), n) for i, n in enumerate(together[1]) if n]
    if at != 0 or node.domain:
        return None
    if node.op in ("Split", "SplitToSequence"):
        axis = node.int_attribute("axis", 0)
        if not -len(axes) <= axis < len(axes):
            return None
        axis %= len(axes)
        sizes = split_sizes(node, _length(axes[axis])) if axes[axis] else None
        if not sizes:
            return None
        if node.op == "SplitToSequence" and not any(True for _ in sequence_reads(node)):
            return None
        begins = [sum(sizes[:i]) for i in range(len(sizes))]
        return axis, [(b, n) for b, n in zip(begins, sizes, strict=True) if n]
    if node.op == "Slice":
        lengths = tuple(_length(a) if a else None for a in axes)
        try:
            ranges = slice_ranges(node, lengths)
        except IndexError:
            return None
        tracked = [(a, r) for a, r in (ranges or {}).items() if axes[a] and r[1] < _length(axes[a])]
        return (tracked[0][0], [tracked[0][1]]) if len(tracked) == 1 else None
    if node.op == "Gather" and (index := node.input(1)) is not None:
        axis = node.int_attribute("axis", 0) % max(1, len(axes))
        held = elements(index)
        if not axes[axis] or held is None or len(held) != 1:
            return None
        return axis, [(held[0] % _length(axes[axis]), 1)]
    return None


def _tiles(axis: _Axis, pieces: list[tuple[int, int]], size: int) -> tuple[Tile, ...] | None:
    lengths = {n for _, n in pieces}
    n = lengths.pop()
    total = _length(axis)
    if lengths or total % n or any(begin % n for begin, _ in pieces):
        return None
    blocks: list[tuple[int, int]] = []  # strides and sizes of the digits that number the blocks
    need = total // n
    for stride, width in axis:
        take = math.gcd(need, width)
        if take > 1:
            blocks.append((stride * (width // take), take))
        need //= take
        if need == 1:
            break
        if take != width:
            return None
    return _interleave(blocks, size)


def _interleave(blocks: list[tuple[int, int]], size: int, kind: Kind = "block") -> tuple[Tile, ...]:
    """The whole axis as tiles, given the digits that are no outputs and what they are."""
    tiles: list[Tile] = []
    rest = size
    for stride, count in sorted(blocks, reverse=True):
        outer = rest // (stride * count)
        if outer > 1:
            tiles.append((outer, "out"))
        tiles.append((count, kind))
        rest = stride
    if rest > 1:
        tiles.append((rest, "out"))
    return tuple(tiles)


def _move(node: Node, at: int, axes: _Axes) -> _Axes | None:
    """The axes behind one operator; None where they cannot be followed."""
    if node.op in _THROUGH:
        other = node.input(1 - at) if node.op in ("Mul", "Div", "Sub") else None
        return axes if other is None or other.static else None
    if node.op == "Gemm" and at == 2:  # added to another product, as the halves of a recurrent cell are
        return ((),) * (2 - len(axes)) + axes
    if at != 0 or node.domain:
        return None
    if node.op == "Transpose":
        perm = node.ints_attribute("perm") or list(range(len(axes)))[::-1]
        if len(perm) > len(axes) and not any(axes[: len(axes) - 1]):
            axes = ((),) * (len(perm) - len(axes)) + axes
        elif not any(axes[: len(axes) - len(perm)]):  # the rank was a guess
            axes = axes[max(0, len(axes) - len(perm)) :]
        return tuple(axes[p] for p in perm) if sorted(perm) == list(range(len(axes))) else None
    if node.op in ("Squeeze", "Unsqueeze"):
        given = axes_of(node)
        if given is None and node.op == "Squeeze" and (v := node.inputs[0]) is not None and v.shape is not None:
            given = [i - len(v.shape) for i, n in enumerate(v.shape) if n == 1]
        if given is None:
            return None
        rank = len(axes) + (len(given) if node.op == "Unsqueeze" else 0)
        at_axes = {a % rank for a in given}
        if node.op == "Squeeze":
            return tuple(a for i, a in enumerate(axes) if i not in at_axes)
        old = iter(axes)
        return tuple(() if i in at_axes else next(old) for i in range(rank))
    if node.op == "Reshape":
        return _reshaped(node, axes)
    return None


def _target(node: Node) -> list[int | None] | None:
    """The shape a Reshape makes, as far as it is known: the inferred one, filled up by what its shape input holds."""
    out, wanted = node.outputs[0], node.input(1)
    inferred = list(out.shape) if out is not None and out.shape is not None else None
    if wanted is None or wanted.elements is None:
        return inferred
    given = [n if n is not None and n > 0 else None for n in wanted.elements]
    if inferred is not None and len(inferred) == len(given):
        return [b if a is None else a for a, b in zip(inferred, given, strict=True)]
    return given


def _reshaped(node: Node, axes: _Axes) -> _Axes | None:
    """Axes after a Reshape: the tracked ones keep their order; each side's foreign axes stay on their side."""
    target = _target(node)
    if target is None:
        return None
    places = [i for i, a in enumerate(axes) if a]
    first, last = places[0], places[-1]
    if places != list(range(first, last + 1)):
        return _in_front(axes, target)
    digits = [d for i in places for d in axes[i]]
    need = math.prod(n for _, n in digits)
    behind = len(axes) - 1 - last  # foreign axes after the tracked ones: those must stay as they are
    stop = len(target) - behind
    begin, product = stop, 1
    unknown: int | None = None
    while begin > 0 and product < need:
        n = target[begin - 1]
        if n is None:
            if unknown is not None or begin - 1 < first:
                break
            unknown, n = begin - 1, 1
        begin -= 1
        product *= n
        if unknown is not None and begin <= first:
            break
    if unknown is not None:
        if need % product:
            return None
        target[unknown], product = need // product, need
    if product != need:
        return None
    out: list[_Axis] = [()] * len(target)
    pending = list(digits)
    for i in range(stop - 1, begin - 1, -1):
        taken: list[tuple[int, int]] = []
        left = target[i] or 1
        while left > 1:
            if not pending:
                return None
            stride, n = pending.pop()
            if left % n == 0:
                taken.append((stride, n))
                left //= n
            elif n % left == 0:
                taken.append((stride, left))
                pending.append((stride * left, n // left))
                left = 1
            else:
                return None
        out[i] = tuple(reversed(taken))
    return tuple(out)


def _in_front(axes: _Axes, target: list[int | None]) -> _Axes | None:
    """The first axis after a Reshape that leaves it and mixes the rest, as one that puts samples and heads together."""
    rest = len(target) - 1
    return (axes[0], *((),) * rest) if axes[0] and target[0] == _length(axes[0]) and rest else None
