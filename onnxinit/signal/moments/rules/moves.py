"""Operators that move elements: moments stay, axes and sources change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnxinit.analysis.operators import MICROSOFT
from onnxinit.analysis.shapes import elements
from onnxinit.analysis.view import Node, Value
from onnxinit.signal.moments.moments import Edge, Moments, Rho, average, constant, mix, normal, piece, shaped
from onnxinit.signal.moments.rules.shapes import aligned, regrouped
from onnxinit.signal.moments.rules.table import Known, rule

if TYPE_CHECKING:
    from onnxinit.signal.moments.carry import Sweep


@rule("Identity", "BitCast", "MemcpyFromHost", "MemcpyToHost", "@Exit", "OptionalGetElement")
@rule("ReorderInput", "ReorderOutput", domain="com.microsoft.nchwc")
def same(sweep: Sweep, node: Node) -> Known:
    """What goes in comes out."""
    return sweep.input(node)


@rule("Dropout")
@rule("BitmaskDropout", domain=MICROSOFT)
def dropout(sweep: Sweep, node: Node) -> tuple[Known, Known]:
    """Nothing at inference; in training E[x^2] grows by 1/(1 - p)."""
    m, training, ratio = sweep.input(node), sweep.input(node, 2), sweep.input(node, 1)
    if m is None or training is None or training.mean != 1.0 or training.var > 0.0:
        return m, None
    p = ratio.mean if ratio is not None else 0.5
    return (normal(m.mean, m.second / max(1e-6, 1.0 - p) - m.mean**2, m.rho) if p < 1 else constant(0.0)), None


@rule("BiasDropout", "BitmaskBiasDropout", domain=MICROSOFT)
def bias_dropout(sweep: Sweep, node: Node) -> Known:
    """X + bias + residual."""
    from onnxinit.signal.moments.rules.arithmetic import _sum

    out = sweep.dims(node.outputs[0])
    found = [aligned(m, sweep.dims(v), out) for v in node.inputs[:3] if (m := sweep.of(v)) is not None]
    return _sum(sweep, found) if found else None


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
@rule("ExpandDims", domain=MICROSOFT)
def reshape(sweep: Sweep, node: Node) -> Known:
    """The same elements in order under another shape."""
    m = sweep.input(node)
    old, new = sweep.dims(node.input(0)), sweep.dims(node.outputs[0])
    return None if m is None else shaped(m, lambda rho: regrouped(rho, old, new))


@rule("Transpose")
def transpose(sweep: Sweep, node: Node) -> Known:
    """Axes in another order."""
    m = sweep.input(node)
    if m is None:
        return None
    perm = node.ints_attribute("perm") or list(range(len(m.rho)))[::-1]
    if len(perm) != len(m.rho):
        return m
    edge = tuple((perm.index(axis), p) for axis, p in m.edge)
    return replace(shaped(m, lambda rho: tuple(rho[p] for p in perm)), edge=edge)


@rule("Expand", "Tile")
def expand(sweep: Sweep, node: Node) -> Known:
    """Repeats: all elements along a new axis are the same, a tiled one has every n-th so."""
    m = sweep.input(node)
    if m is None:
        return None
    return aligned(m, sweep.dims(node.input(0)), sweep.dims(node.outputs[0]))


@rule(
    "Slice", "GatherElements", "Compress", "ReverseSequence", "Crop", "CenterCropPad", "DynamicSlice", "TensorScatter"
)
@rule("ArrayFeatureExtractor", domain="ai.onnx.ml")
def cut(sweep: Sweep, node: Node) -> Known:
    """Some of the elements."""
    m = sweep.input(node)
    return None if m is None else piece(m)


@rule("Split", "SplitToSequence", "Unique", "TopK")
def split(sweep: Sweep, node: Node) -> list[Known]:
    """Pieces, each of its own elements."""
    m = sweep.input(node)
    return [None if m is None else piece(m) for _ in node.outputs]


@rule("Gather")
@rule("ATen")
@rule("ATen", domain="org.pytorch.aten")
@rule("TorchEmbedding", "GatherBlockQuantized", domain=MICROSOFT)
def gather(sweep: Sweep, node: Node) -> Known:
    """A look-up: two indices of V meet in one row with probability 1/V; a fixed index is a cut."""
    m, table = sweep.input(node), node.input(0)
    if m is None or table is None:
        return None
    dims = sweep.dims(table)
    index = node.input(1)
    rank = len(sweep.dims(index)) if index is not None and index.shape is not None else 0
    if not dims:
        return piece(m)
    axis = node.int_attribute("axis", node.int_attribute("gather_axis", 0)) % len(dims)
    known = index is not None and (index.static or index.elements is not None)
    meets = m.along(axis) if known else max(m.along(axis), 1.0 / max(1, dims[axis]))

    def change(rho: Rho) -> Rho:
        return (*rho[:axis], *(meets for _ in range(rank)), *rho[axis + 1 :])

    return piece(m, change)


@rule("GatherND")
@rule("GatherND", domain=MICROSOFT)
def gather_nd(sweep: Sweep, node: Node) -> Known:
    """A look-up by the first axes."""
    m = sweep.input(node)
    if m is None:
        return None
    rank = len(sweep.dims(node.outputs[0]))
    return piece(m, lambda rho: ((0.0,) * (rank - len(rho)) + rho)[len(rho) - rank if len(rho) > rank else 0 :][:rank])


@rule("Concat", "QLinearConcat")
@rule("QLinearConcat", domain=MICROSOFT)
def concat(sweep: Sweep, node: Node) -> Known:
    """Side by side: moments by size."""
    values = node.inputs[2::3] if node.op == "QLinearConcat" else node.inputs
    axis = node.int_attribute("axis", 0)
    shares: list[tuple[float, Moments]] = []
    for value in values:
        m, dims = sweep.of(value), sweep.dims(value)
        if m is not None:
            shares.append((float(dims[axis]) if -len(dims) <= axis < len(dims) else 1.0, m))
    if not any(share > 0 for share, _ in shares):
        return shares[0][1] if shares else None
    rank = len(shares[0][1].rho)
    return mix(shares, axis % rank if rank else None)


@rule("@If", "ConcatFromSequence", "SequenceConstruct", "SequenceInsert")
def either(sweep: Sweep, node: Node) -> Known:
    """One of several: as likely as the others."""
    found = [m for v in node.inputs if (m := sweep.of(v)) is not None]
    return mix([(1.0, m) for m in found]) if found else None


@rule("SequenceAt", "@Step")
def one_of(sweep: Sweep, node: Node) -> Known:
    """An element of a sequence, or a step of a loop over the first axis."""
    m = sweep.input(node)
    return None if m is None else piece(m, (lambda rho: rho[1:]) if node.op == "@Step" else (lambda rho: rho))


@rule("@Stack")
def stack(sweep: Sweep, node: Node) -> Known:
    """The results of all steps, along a new first axis."""
    m = sweep.input(node)
    return None if m is None else piece(m, lambda rho: (0.0, *rho))


@rule("@Carry")
def carry(sweep: Sweep, node: Node) -> Known:
    """A state: as it is in the first iteration."""
    return sweep.input(node)


def _size(value: Value | None) -> int:
    """The number of elements, 0 where it is not known."""
    known = value is not None and value.shape is not None and None not in value.shape
    return math.prod(n or 0 for n in value.shape) if known and value is not None and value.shape is not None else 0


@rule("Pad")
@rule("Pad", domain=MICROSOFT)
def pad(sweep: Sweep, node: Node) -> Known:
    """Zeros around, by their share; reflected and repeated elements are like the others."""
    m = sweep.input(node)
    old, new = _size(node.input(0)), _size(node.outputs[0])
    if m is None or node.string_attribute("mode", "constant") != "constant" or not old or new <= old:
        return m
    fill = sweep.input(node, 2)
    return mix([(old / new, m), (1.0 - old / new, constant(fill.mean if fill is not None else 0.0, len(m.rho)))])


@rule("ScatterND", "ScatterElements", "Scatter")
def scatter(sweep: Sweep, node: Node) -> Known:
    """Some elements replaced, by their share."""
    data, updates = sweep.input(node), sweep.input(node, 2)
    if data is None or updates is None:
        return data or updates
    whole, part = math.prod(sweep.dims(node.input(0))), math.prod(sweep.dims(node.input(2)))
    share = min(1.0, part / whole) if whole else 0.5
    if len(updates.rho) != len(data.rho):
        updates = shaped(updates, lambda rho: data.rho, same=False)
    return mix([(1.0 - share, data), (share, updates)])


@rule("Trilu")
@rule("Trilu", domain=MICROSOFT)
def trilu(sweep: Sweep, node: Node) -> Known:
    """A triangle of it, zeros elsewhere: half of a mask hides, of a signal half is zero."""
    m = sweep.input(node)
    if m is None:
        return None
    if m.hidden:
        return replace(m, hidden=0.5 * m.hidden)
    return mix([(0.5, m), (0.5, constant(0.0, len(m.rho)))])


@rule("DepthToSpace", "SpaceToDepth")
@rule("DepthToSpace", "SpaceToDepth", domain="com.ms.internal.nhwc")
def blocks(sweep: Sweep, node: Node) -> Known:
    """Channels become places, or places channels: one in b^2 places has the same phase."""
    m, b = sweep.input(node), max(1, node.int_attribute("blocksize", 1))
    if m is None or len(m.rho) != 4:
        return m
    space = m.along(2) / b**2 if node.op == "DepthToSpace" else m.along(2)
    channel = m.along(1) if node.op == "DepthToSpace" else (m.along(1) / b**2 + (1 - 1 / b**2) * m.along(2))
    return shaped(m, lambda rho: (rho[0], channel, space, space), same=False)


@rule("Col2Im", "MaxUnpool")
def spread(sweep: Sweep, node: Node) -> Known:
    """Elements among zeros, by their number."""
    m = sweep.input(node)
    old, new = math.prod(sweep.dims(node.input(0))), math.prod(sweep.dims(node.outputs[0]))
    if m is None or not old or not new:
        return m
    share = old / new
    rank = len(sweep.dims(node.outputs[0]))
    m = shaped(m, lambda rho: (rho + (0.0,) * rank)[:rank], same=False)
    if share > 1.0:  # overlapping columns are summed
        return normal(share * m.mean, share * m.var, m.rho)
    return mix([(share, m), (1.0 - share, constant(0.0, rank))])


# ---------------------------------------------------------------- other sizes


@rule("Resize", "Upsample")
@rule("Resize", domain="com.ms.internal.nhwc")
def resize(sweep: Sweep, node: Node) -> Known:
    """Nearest repeats elements; linear takes means of two along each axis: (1 - t)^2 + t^2 of the variance remains."""
    m = sweep.input(node)
    old, new = sweep.dims(node.input(0)), sweep.dims(node.outputs[0])
    mode = node.string_attribute("mode", "nearest")
    if m is None or len(old) != len(new) or len(m.rho) != len(new) or mode == "nearest":
        return None if m is None else replace(piece(m), edge=_stretched(m.edge, old, new))
    how = node.string_attribute("coordinate_transformation_mode", "half_pixel" if node.op == "Resize" else "asymmetric")
    value, edge = node.outputs[0], _stretched(m.edge, old, new)
    for axis, (n, out) in enumerate(zip(old, new, strict=True)):
        if axis > 1 and value is not None and value.shape is not None and value.shape[axis] is None:
            out = 2 * n  # by a factor that is not known: mostly this one
        if n != out and n > 1:
            m = average(m, axis, 1.0, _blended(n, out, how, cubic=mode == "cubic"))
    return replace(m, edge=edge)


def _stretched(edge: Edge, old: Sequence[int], new: Sequence[int]) -> Edge:
    """Along axes of other lengths."""
    found: list[tuple[int, tuple[float, ...]]] = []
    for axis, p in edge:
        if axis < min(len(old), len(new)) and len(p) == old[axis] and new[axis] > 0:
            at = (np.arange(new[axis]) + 0.5) * old[axis] / new[axis] - 0.5
            found.append((axis, tuple(np.interp(at, np.arange(old[axis]), p).tolist())))
    return tuple(found)


def _blended(n: int, out: int, how: str, *, cubic: bool) -> float:
    """The sum of the squares of the weights that an output is made with, on average."""
    total = 0.0
    places = range(min(out, 512))
    for i in places:
        if how == "align_corners":
            x = i * (n - 1) / max(1, out - 1)
        elif how == "asymmetric":
            x = i * n / out
        else:
            x = (i + 0.5) * n / out - 0.5
        low = math.floor(x)
        t = x - low
        weights: Sequence[tuple[int, float]] = [(low, 1.0 - t), (low + 1, t)]
        if cubic:
            weights = [(low + j, _cubic(abs(t - j))) for j in (-1, 0, 1, 2)]
        held: dict[int, float] = {}
        for at, w in weights:
            at = min(n - 1, max(0, at))
            held[at] = held.get(at, 0.0) + w
        total += sum(w * w for w in held.values())
    return total / len(places)


def _cubic(d: float, a: float = -0.75) -> float:
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


@rule("GridSample", "RoiAlign", "MaxRoiPool")
@rule("GridSample", "CropAndResize", domain=MICROSOFT)
def sampled(sweep: Sweep, node: Node) -> Known:
    """Places that other values choose, blended of four in the mean of all phases: (2/3)^2 of the variance."""
    m = sweep.input(node)
    if m is None or len(m.rho) < 4 or node.op == "MaxRoiPool":
        return None if m is None else piece(m)
    nearest = node.string_attribute("mode", "linear") == "nearest"
    for axis in () if nearest else (2, 3):
        m = average(m, axis, 1.0, 2.0 / 3.0)
    return m


def axes_of(sweep: Sweep, node: Node, at: int = 1) -> list[int] | None:
    """Axes from an attribute or from an operand, None where there are none."""
    given = node.ints_attribute("axes")
    if given is not None:
        return given
    value = node.input(at)
    if value is None:
        return None
    held = elements(value)
    if held is None:
        known = sweep.graph.constants.constant(value)
        held = [int(i) for i in known.reshape(-1)] if known is not None else None
    return held
