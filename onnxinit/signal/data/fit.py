"""Pairs of lengths that a graph wants to be equal: what an operator contracts, broadcasts or joins.

A negative number stands for any multiple of its amount.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from onnxinit.analysis.pointwise import POINTWISE
from onnxinit.analysis.shapes import elements
from onnxinit.analysis.view import GraphView, Node

Dims = tuple["int | None", ...]
Pairs = Iterator[tuple["int | None", "int | None"]]
_DOMAINS = ("", "com.microsoft")


def equations(view: GraphView, *, guess: bool = False) -> Iterator[tuple[int, int]]:
    """All pairs of known lengths that must be equal for the model to run, those that are equal left out.

    Args:
        view: With shapes filled in.
        guess: Whether to take what must be a multiple of a length for that length.
    """
    for node in view.nodes:
        rule = _RULES.get(node.op) if node.domain in _DOMAINS else None
        if rule is None:
            rule = _broadcast if (node.domain, node.op) in POINTWISE and len(node.inputs) > 1 else None
        if rule is None:
            continue
        try:
            found = list(rule(node))
        except (IndexError, TypeError, ValueError, ZeroDivisionError):
            continue  # a rank that does not fit or is not known
        for a, b in found:
            if a is not None and b is not None and a != b:
                yield a, (-b if b < 0 and guess else b)


def _dims(node: Node, index: int) -> Dims:
    value = node.input(index)
    if value is None or value.shape is None:
        raise IndexError
    return value.shape


def _aligned(a: Dims, b: Dims) -> Pairs:
    """Axes from the last one backwards; a length of one fits any."""
    return ((m, n) for m, n in zip(a[::-1], b[::-1], strict=False) if m != 1 and n != 1)


def _broadcast(node: Node) -> Pairs:
    shapes = [v.shape for v in node.inputs if v is not None and v.shape is not None]
    for i, a in enumerate(shapes):
        for b in shapes[i + 1 :]:
            yield from _aligned(a, b)


def _matmul(node: Node) -> Pairs:
    a, b = _dims(node, 0), _dims(node, 1)
    yield a[-1], b[-2 if len(b) > 1 else 0]
    yield from _aligned(a[:-2], b[:-2])


def _gemm(node: Node) -> Pairs:
    a, b = _dims(node, 0), _dims(node, 1)
    yield a[0 if node.int_attribute("transA", 0) else 1], b[1 if node.int_attribute("transB", 0) else 0]


def _nbits(node: Node) -> Pairs:
    yield _dims(node, 0)[-1], node.int_attribute("K", 0)


def _conv(node: Node) -> Pairs:
    x, w = _dims(node, 0), _dims(node, 3 if node.op == "QLinearConv" else 1)
    yield x[1], None if w[1] is None else w[1] * node.int_attribute("group", 1)
    yield from _windows(node)


def _conv_transpose(node: Node) -> Pairs:
    yield _dims(node, 0)[1], _dims(node, 1)[0]


def _windows(node: Node) -> Pairs:
    """A window that is larger than what it slides over leaves nothing."""
    out = node.outputs[0].shape if node.outputs[0] is not None else None
    for n in (out or ())[2:]:
        if n is not None and n < 1:
            yield n, 1


def _recurrent(node: Node) -> Pairs:
    x = _dims(node, 0)
    yield x[2], _dims(node, 1)[2]
    if node.input(5) is not None and not node.int_attribute("layout", 0):
        yield x[1], _dims(node, 5)[1]


def _channels(node: Node) -> Pairs:
    yield _dims(node, 0)[1], _dims(node, 1)[0]


def _last(node: Node) -> Pairs:
    yield from _aligned(_dims(node, 0), _dims(node, 1))


def _concat(node: Node) -> Pairs:
    shapes = [v.shape for v in node.inputs if v is not None and v.shape is not None]
    axis = node.int_attribute("axis", 0) % len(shapes[0])
    for other in shapes[1:]:
        if len(other) == len(shapes[0]):
            yield from ((m, n) for i, (m, n) in enumerate(zip(shapes[0], other, strict=True)) if i != axis)


def _reshape(node: Node) -> Pairs:
    shape, target = _dims(node, 0), node.input(1)
    wanted = node.ints_attribute("shape") if target is None else elements(target)
    if wanted is None or None in shape:
        return
    total = math.prod(n for n in shape if n is not None)
    if not node.int_attribute("allowzero", 0):
        wanted = [shape[i] or 0 if n == 0 else n for i, n in enumerate(wanted)]
    rest = math.prod(n for n in wanted if n != -1)
    if -1 not in wanted:
        yield total, rest
    elif rest > 0 and total % rest:
        yield total, -rest  # a multiple of it


def _expand(node: Node) -> Pairs:
    target = node.input(1)
    held = elements(target) if target is not None else None
    if held is not None:
        yield from _aligned(_dims(node, 0), tuple(held))


def _split(node: Node) -> Pairs:
    shape = _dims(node, 0)
    sizes = node.ints_attribute("split") or (elements(v) if (v := node.input(1)) is not None else None)
    if sizes:
        yield shape[node.int_attribute("axis", 0)], sum(sizes)


def _einsum(node: Node) -> Pairs:
    left = node.string_attribute("equation").replace(" ", "").partition("->")[0]
    lengths: dict[str, int | None] = {}
    if "." not in left:
        for i, term in enumerate(left.split(",")):
            for letter, n in zip(term, _dims(node, i), strict=True):
                yield lengths.setdefault(letter, n), n


_RULES: dict[str, Callable[[Node], Pairs]] = {
    **dict.fromkeys(("MatMul", "MatMulInteger"), _matmul),
    **dict.fromkeys(("Gemm", "FusedGemm"), _gemm),
    **dict.fromkeys(("Conv", "ConvInteger", "QLinearConv", "FusedConv"), _conv),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _windows),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "GroupNormalization"), _channels),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), _last),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), _last),
    **dict.fromkeys(("BiasGelu", "FastGelu", "PRelu"), _last),
    "MatMulNBits": _nbits,
    "ConvTranspose": _conv_transpose,
    "Concat": _concat,
    "Reshape": _reshape,
    "Expand": _expand,
    "Split": _split,
    "Einsum": _einsum,
}
