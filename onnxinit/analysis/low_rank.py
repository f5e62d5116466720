"""Low-rank updates of a layer, as adapters add them: y = L x + s B A x, or L + s B A as one kernel.

A is drawn and B starts as zero, so that the layer starts as itself.

Source: Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, arXiv:2106.09685
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from onnxinit.analysis.flow import LAYERS, MOVES, Flow, layer_width
from onnxinit.analysis.operators import Reading, Site, out_value
from onnxinit.analysis.trail import Tile
from onnxinit.analysis.view import Node, Value
from onnxinit.analysis.weight import LINEAR

NOTE = "the outer factor of a low-rank update, which starts as zero"
_REACH = 8
_SAME = frozenset(
    {"Identity", "Cast", "CastLike", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}
)
_JOINS = MOVES | {"Concat", "Pad"}
_SUMS = frozenset({"Add", "Sum"})


def is_outer(site: Site, reading: Reading, flow: Flow) -> bool:
    """Whether a weight is the outer one of two layers, nothing but linear, beside a layer of the same input.

    Args:
        site: Its use.
        reading: What that says.
        flow: Questions about signals.
    """
    operand, source = site.node.input(site.at), reading.source
    if site.node.op not in LAYERS or operand is None or source is None or reading.output is None:
        return False
    inner = flow.layer_behind(source)
    if inner is None or inner.biased or inner.source is None or not inner.width:
        return False
    below = math.prod(n or 0 for n in inner.weight.shape or ()) // inner.width
    if inner.width >= min(below, layer_width(site.node, operand)):
        return False
    beside = (flow.layer_behind(value) for value in _added(reading.output))
    known = [o for o in beside if o is not None and o.node is not site.node and o.source is not None]
    return any(_root(o.source) is _root(inner.source) for o in known if o.source is not None)


def _root(value: Value) -> Value:
    """A signal before it was moved, cast or multiplied by a number."""
    for _ in range(_REACH):
        node = value.producer
        before = node.input(0) if node is not None and node.op in _SAME | {"Mul", "Div"} else None
        if node is None or before is None or (node.op in ("Mul", "Div") and not _is_number(node.input(1))):
            break
        value = before
    return value


def _is_number(value: Value | None) -> bool:
    return value is not None and value.static and all(n == 1 for n in value.shape or ())


def _added(value: Value) -> Iterator[Value]:
    """What a signal is added to, and the summands of that."""
    for _ in range(_REACH):
        uses = [(n, i) for n, i in value.uses if n.op not in ("Shape", "Size")]
        node, at = uses[0] if len(uses) == 1 else (None, 0)
        if node is None:
            return
        others = [v for i, v in enumerate(node.inputs) if i != at and v is not None]
        if node.op in _SUMS and not all(v.static for v in others):
            for other in others:
                yield from _summands(other, _REACH)
            value = node.outputs[0] or value
            continue
        scaled = node.op in ("Mul", "Div", *_SUMS) and all(v.static for v in others)
        out = node.outputs[0] if node.outputs else None
        if out is None or not (scaled or node.op in _JOINS):
            return
        value = out


def _summands(value: Value, most: int) -> Iterator[Value]:
    yield value
    node = value.producer
    if most and node is not None and node.op in _SUMS:
        for before in node.inputs:
            if before is not None and not before.static:
                yield from _summands(before, most - 1)


# ---------------------------------------------------------------- factors of one kernel


def adds_update(node: Node, at: int) -> bool:
    """Whether a node adds an update of low rank to the kernel of a layer that stands at an input."""
    other, own = node.input(1 - at) if node.op == "Add" else None, node.input(at)
    if other is None or own is None or other.shape != own.shape or node.outputs[0] is None:
        return False
    return _is_thin(other) and _makes_kernel(node.outputs[0])


def _makes_kernel(value: Value) -> bool:
    """Whether nothing but layers read a static value, as what they multiply a signal by."""
    front, seen, read = [value], {id(value)}, False
    while front:
        for node, at in front.pop().uses:
            out = out_value(node)
            if node.op in LAYERS and at == 1 and (x := node.input(0)) is not None and not x.static:
                read = True
            elif node.op.startswith("Reduce"):
                continue  # of a norm that the kernel is divided by
            elif out is None or not out.static or node.op not in _SAME | {"Mul", "Div", "Neg", "Add", "Pow"}:
                return False
            elif id(out) not in seen:
                seen.add(id(out))
                front.append(out)
    return read


def _is_thin(value: Value) -> bool:
    """Whether a static value is a product of stored tensors of low rank, scaled and moved perhaps."""
    for _ in range(_REACH):
        node = value.producer
        if node is None:
            return False
        if node.op in ("MatMul", "Gemm"):
            return _rank(node) > 0
        operands = [v for v in node.inputs if v is not None and not _is_number(v)]
        if node.op not in _SAME | {"Mul", "Div", "Neg"} or not operands:
            return False
        value = operands[0]
    return False


def _rank(node: Node) -> int:
    """What a product of two stored matrices sums over, where that is less than both of its sides; else 0."""
    stored = [v for v in node.inputs[:2] if v is not None and v.static]
    shapes = [v.shape for v in stored if v.shape is not None and len(v.shape) == 2]
    if len(shapes) != 2:
        return 0
    rows, inner = shapes[0][::-1] if node.int_attribute("transA", 0) else shapes[0]
    columns = shapes[1][0 if node.int_attribute("transB", 0) else 1]
    return inner if inner and rows and columns and inner < min(rows, columns) else 0


def factor_of(site: Site, uses: Callable[[Value], Iterable[tuple[Site, Reading]]]) -> Reading | None:
    """What a factor of a kernel of low rank is: the matrix of one of two layers in place of one.

    Args:
        site: Its use, a product with the other factor.
        uses: The uses of a value that a layer's weight is made of.

    Returns:
        Its reading; None where this is no such product.
    """
    out, rank = out_value(site.node), _rank(site.node) if site.node.op in ("MatMul", "Gemm") and site.at < 2 else 0
    if not rank or out is None or len(site.shape) != 2 or not _makes_kernel(out):
        return None
    found = next(((s, r) for s, r in uses(out) if r.role == "weight" and r.tiles is not None), None)
    part = found[0].trail.part(found[1].tiles or ()) if found is not None else None
    if found is None or part is None:
        return None
    sides: list[list[Tile]] = [list(zip(n, k, strict=True)) for n, k in zip(part.factors, part.kinds, strict=True)]
    outward = any(kind == "out" for _, kind in sides[site.at])  # whether this factor has the outputs of the layer
    between: Sequence[Tile] = [(rank, "in" if outward else "out")]
    tiles = [sides[0], between] if site.at == 0 else [between, sides[1]]
    flipped = site.node.int_attribute("transB" if site.at else "transA", 0)
    added = outward and any(True for _ in _kernels_beside(out))
    tiles = tiles[::-1] if flipped else tiles
    made = replace(found[1], tiles=tiles, groups=1, fuses=None, out_axis=None, cuts=(), names=())
    if outward:
        return replace(made, before=LINEAR, default=0.0 if added else None, note=NOTE if added else "")
    return replace(made, after=LINEAR)


def _kernels_beside(value: Value) -> Iterator[Value]:
    """The stored kernels that a product of factors is added to."""
    for _ in range(_REACH):
        node, at = value.uses[0] if len(value.uses) == 1 else (None, 0)
        out = node.outputs[0] if node is not None and node.outputs else None
        if node is None or out is None or not out.static:
            return
        if node.op == "Add" and (other := node.input(1 - at)) is not None:
            if not _is_thin(other):
                yield other
        elif node.op not in _SAME | {"Mul", "Div", "Neg"}:
            return
        value = out
