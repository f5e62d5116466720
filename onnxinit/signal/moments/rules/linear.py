"""Convolutions and matrix products: of a signal with a weight, and of two signals.

    y = sum over K of a_k b_k,  a and b independent:
    E[y y'] = S E[a a'] E[b b'] + (K^2 - S) E[a_k a'_l] E[b_k b'_l]

S counts the products that y and y' have in common: all K for the variance, fewer of two places near the ends of a
picture. With weights of mean 0 that are independent the second term vanishes: Var y = K Var[w] E[x^2], exactly,
whatever the correlations of x. K counts the taps that meet the signal: those in the padding are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnxinit.analysis.activations import function_within
from onnxinit.analysis.einsum import read_equation
from onnxinit.analysis.operators import MICROSOFT, NHWC
from onnxinit.analysis.view import Node
from onnxinit.analysis.windows import leading
from onnxinit.analysis.windows import spread as lengths_spread
from onnxinit.signal.moments.arrays import LENGTH
from onnxinit.signal.moments.moments import Apart, Edge, Moments, add, constant, joint, normal, scaled, shaped
from onnxinit.signal.moments.rules.quantised import coded
from onnxinit.signal.moments.rules.shapes import aligned
from onnxinit.signal.moments.rules.table import Known, rule
from onnxinit.signal.moments.rules.windows import LONGEST, by_tap, common, edge_of, gathered, spread, taps

if TYPE_CHECKING:
    from onnxinit.signal.moments.carry import Sweep

Axes = Sequence["tuple[float | None, float | None]"]


def contract(
    a: Moments,
    b: Moments,
    count: float,
    along: tuple[float, float],
    axes: Axes,
    alike: Mapping[int, float] | None = None,
) -> Moments:
    """The sum of `count` products of independent values.

    Args:
        a: One factor.
        b: The other.
        count: How many products; no whole number where the ends of an axis have fewer.
        along: The correlations of a and of b along what is summed.
        axes: For every axis of the result the correlations of a and of b there, None where the factor is the same.
        alike: Of an axis of the result the share of the products that elements which differ there have in common.
    """

    def product(p: float, q: float, same: float = 1.0) -> float:
        one = (a.mean**2 + p * a.var) * (b.mean**2 + q * b.var)
        two = (a.mean**2 + joint(p, along[0]) * a.var) * (b.mean**2 + joint(q, along[1]) * b.var)
        return count * same * one + count * (count - same) * two

    mean = count * a.mean * b.mean
    var = max(0.0, product(1.0, 1.0) - mean * mean)
    rho = [
        (product(1.0 if p is None else p, 1.0 if q is None else q, (alike or {}).get(i, 1.0)) - mean * mean) / var
        if var > 0.0
        else 1.0
        for i, (p, q) in enumerate(axes)
    ]
    return normal(mean, var, rho)


def finished(
    sweep: Sweep, node: Node, made: Known, bias: int | None, axis: int = -1, add_at: int | None = None
) -> Known:
    """A layer's output with its bias, its built-in sum and its built-in function."""
    if made is None:
        return None
    shift = sweep.input(node, bias) if bias is not None else None
    if shift is not None:
        rank = len(made.rho)
        at = axis % max(1, rank)
        made = add(made, shaped(shift, lambda rho: tuple(rho[-1] if i == at and rho else 1.0 for i in range(rank))))
    other = sweep.input(node, add_at) if add_at is not None else None
    if other is not None:
        made = add(made, other)
    f = function_within(node)
    return made if f is None else sweep.apply(f, made)


# ---------------------------------------------------------------- convolutions


def _convolve(
    sweep: Sweep, node: Node, x_at: int, w_at: int, bias: int | None, *, last: bool = False, add_at: int | None = None
) -> Known:
    x, shape = sweep.input(node, x_at), sweep.dims(node.input(w_at))
    if x is None or len(shape) < 3:
        return None
    rank = len(shape)
    channel = rank - 1 if last else 1
    axes = [i for i in range(rank) if i not in (0, channel)]
    signal = sweep.dims(node.input(x_at))
    moved = last and len(signal) == rank and shape[-1] * node.int_attribute("group", 1) == signal[-1]
    moved = moved and shape[1] * node.int_attribute("group", 1) != signal[-1]
    depth, kernel = (shape[-1], shape[1:-1]) if moved else (shape[1], shape[2:])
    counts: list[float] = [float(k) for k in kernel]
    edge: Edge = ()
    alike = [1.0 for _ in kernel]
    if len(signal) == rank:
        counts, edge, alike = gathered(x, node, axes, [signal[i] for i in axes], kernel)
    count = depth * math.prod(counts)

    def compute(w: Moments) -> Moments:
        return replace(_summed(x, w, count, depth, channel, axes, alike, w_free=0), edge=edge)

    made = sweep.layer(node, w_at, compute)
    return finished(sweep, node, made, bias, channel, add_at)


def _summed(
    x: Moments,
    w: Moments,
    count: float,
    depth: int,
    channel: int,
    axes: Sequence[int],
    alike: Sequence[float],
    w_free: int,
) -> Moments:
    within = [x.along(a) for a in axes]
    own = [x.along(channel), *within] if depth > 1 else within
    along = own[0] if own else 0.0
    for r in own[1:]:
        along = joint(along, r)
    inner = w.along(1)
    for i in range(2, len(w.rho)):
        inner = joint(inner, w.along(i))
    rank = len(axes) + 2
    rho: list[tuple[float | None, float | None]] = [(x.along(i), None) for i in range(rank)]
    rho[channel] = (x.along(channel) if depth == 1 else None, w.along(w_free))
    made = contract(x, w, count, (along, inner), rho, dict(zip(axes, alike, strict=True)))
    kept = tuple(
        max(0.0, r) if i in axes else r for i, r in enumerate(made.rho)
    )  # ends of a sum of weights that is zero
    return replace(normal(made.mean, made.var, kept), apart=_apart(x, axes, alike))


def _apart(x: Moments, axes: Sequence[int], alike: Sequence[float]) -> Apart:
    """What elements that differ on two axes share, over what those do that differ on the axis where they share less."""
    if len(axes) < 2:
        return (), 1.0
    i, j = axes[-2:]
    square, less = x.mean * x.mean, alike[-2] * alike[-1]
    one = min(alike[-2] * (square + x.along(i) * x.var), alike[-1] * (square + x.along(j) * x.var))
    return tuple(axes), min(1.0, less * (square + x.both(i, j) * x.var) / one) if one > 0.0 else 1.0


@rule("Conv")
def conv(sweep: Sweep, node: Node) -> Known:
    """A sum over channels and taps."""
    return _convolve(sweep, node, 0, 1, 2)


@rule("FusedConv", domain=MICROSOFT)
def fused_conv(sweep: Sweep, node: Node) -> Known:
    """With a sum and a function at the end."""
    return _convolve(sweep, node, 0, 1, 2, add_at=3)


@rule("Conv", domain=NHWC)
def nhwc_conv(sweep: Sweep, node: Node) -> Known:
    """Channels last."""
    return _convolve(sweep, node, 0, 1, 2, last=True)


@rule("NhwcConv", domain=MICROSOFT)
@rule("NhwcFusedConv", domain=MICROSOFT)
def nhwc_fused_conv(sweep: Sweep, node: Node) -> Known:
    """Channels last; the kernel in either order."""
    return _convolve(sweep, node, 0, 1, 2, last=True, add_at=3 if node.op == "NhwcFusedConv" else None)


@rule("DeformConv")
def deform_conv(sweep: Sweep, node: Node) -> Known:
    """Taps where other values put them: as Conv."""
    return _convolve(sweep, node, 0, 1, 3)


@rule("CausalConvWithState")
@rule("CausalConvWithState", domain=MICROSOFT)
@rule("VarlenCausalConvWithState", domain=MICROSOFT)
def causal_conv(sweep: Sweep, node: Node) -> tuple[Known, Known]:
    """A depthwise convolution of (batch, channels, length); the first places meet the state, which is zero."""
    x, shape = sweep.input(node), sweep.dims(node.input(1))
    if x is None or not shape:
        return None, None
    k, size = shape[-1], sweep.dims(node.input(0))
    n = size[-1] if size else 0
    count = taps(n, k, n, 1, 1, k - 1) if n else float(k)
    made = sweep.layer(node, 1, lambda w: _summed(x, w, count, 1, 1, [2], [1.0], w_free=0))
    return finished(sweep, node, made, 3 if node.op.startswith("Varlen") else 2, 1), x


@rule("QLinearConv")
@rule("QLinearConv", domain=MICROSOFT)
@rule("QLinearConv", domain=NHWC)
def qlinear_conv(sweep: Sweep, node: Node) -> Known:
    """Real values: what is quantised stands for what it was made of."""
    last = node.domain == NHWC or bool(node.int_attribute("channels_last", 0))
    return coded(sweep, node, _convolve(sweep, node, 0, 3, 8, last=last), 6)


@rule("ConvInteger")
def conv_integer(sweep: Sweep, node: Node) -> Known:
    """Real values, as everywhere among quantised ones."""
    return _convolve(sweep, node, 0, 1, None)


@rule("ConvTranspose")
@rule("ConvTranspose", domain=NHWC)
@rule("ConvTransposeWithDynamicPads", domain=MICROSOFT)
@rule("QLinearConvTranspose", domain=NHWC)
def conv_transpose(sweep: Sweep, node: Node) -> Known:
    """Every input meets every tap; what falls into the cut ends is lost."""
    w_at = 3 if node.op.startswith("QLinear") else 1
    bias = 8 if w_at == 3 else 3 if node.op.endswith("Pads") else 2
    x, shape = sweep.input(node), sweep.dims(node.input(w_at))
    if x is None or len(shape) < 3:
        return None
    rank, group = len(shape), node.int_attribute("group", 1)
    channel = rank - 1 if node.domain == NHWC else 1
    axes = [i for i in range(rank) if i not in (0, channel)]
    size, kernel = sweep.dims(node.input(0)), shape[2:]
    own = tuple(size[i] for i in axes) if len(size) == rank else tuple(1 for _ in kernel)
    steps = leading(node, own, kernel)
    out = lengths_spread(node, own, kernel) if len(size) == rank else (None,) * len(kernel)
    count = shape[0] / max(1, group)
    edge: Edge = ()
    alike = [1.0 for _ in kernel]
    for i, k in enumerate(kernel):
        if m := out[i]:
            alike[i] = common(by_tap(m, k, own[i], *steps[i]), m)
        if (m := out[i]) and max(m, size[axes[i]]) <= LONGEST:
            found = spread(edge_of(x, axes[i], size[axes[i]]), k, m, *steps[i])
            count *= float(found.mean())
            if found.mean() > 0.0 and np.ptp(found) > 1e-9:
                edge += ((axes[i], tuple((found / found.mean()).tolist())),)
        else:
            count *= k / steps[i][0]
    depth = shape[0] // max(1, group)

    def compute(w: Moments) -> Moments:
        return replace(_summed(x, w, count, depth, channel, axes, alike, w_free=1), edge=edge)

    made = sweep.layer(node, w_at, compute)
    return finished(sweep, node, made, bias, channel)


# ---------------------------------------------------------------- matrix products


def product(
    sweep: Sweep, node: Node, at: tuple[int, int], flipped: tuple[bool, bool] = (False, False), alpha: float = 1.0
) -> Known:
    """A B for the operands at two inputs, batches broadcast, `flipped` where a factor is transposed."""
    a, b = sweep.input(node, at[0]), sweep.input(node, at[1])
    if a is None or b is None:
        return None
    left, right = node.input(at[0]), node.input(at[1])
    dims_a, dims_b = sweep.dims(left), sweep.dims(right)
    if not dims_a and dims_b:  # of unknown rank: a batch of rows that fit
        dims_a = (LENGTH, dims_b[-1 if flipped[1] or len(dims_b) == 1 else -2])
    if not dims_b:
        dims_b = (dims_a[-1], dims_a[-1]) if dims_a else (LENGTH, LENGTH)
    dims_a = dims_a or (LENGTH, LENGTH)
    out = sweep.dims(node.outputs[0])
    k_a = -2 if flipped[0] and len(dims_a) > 1 else -1
    k_b = -1 if flipped[1] or len(dims_b) == 1 else -2
    count = float(dims_a[k_a] if left is not None and left.shape is not None and left.shape[k_a] else dims_b[k_b])
    if right is not None and right.shape is not None and right.shape[k_b] is not None:
        count = float(dims_b[k_b])

    def compute(x: Moments, y: Moments) -> Moments:
        batches = max(len(dims_a), len(dims_b), 2) - 2
        rho: list[tuple[float | None, float | None]] = []
        for i in range(-2 - batches, -2):
            size = out[i] if len(out) >= -i and len(dims_a) > 1 and len(dims_b) > 1 else 0
            rho.append((_batch(x, dims_a, i, size), _batch(y, dims_b, i, size)))
        if len(dims_a) > 1:
            rho.append((x.along(-1 if k_a == -2 else -2), None))
        if len(dims_b) > 1:
            rho.append((None, y.along(-2 if k_b == -1 else -1)))
        return scaled(contract(x, y, count, (x.along(k_a), y.along(k_b)), rho), alpha)

    if sweep.asks(node, at[0]):
        return sweep.layer(node, at[0], lambda w: compute(w, sweep.input(node, at[1]) or b))
    return sweep.layer(node, at[1], lambda w: compute(a, w))


def _batch(m: Moments, dims: Sequence[int], axis: int, size: int) -> float | None:
    """The correlation along a batch axis; None where the factor is the same for all batches."""
    if len(dims) < -axis or (dims[axis] == 1 and size != 1):
        return None
    return m.along(axis)


def _flips(node: Node) -> tuple[bool, bool]:
    return bool(node.int_attribute("transA", 0)), bool(node.int_attribute("transB", 0))


@rule("MatMul")
@rule("FusedMatMul", "FusedMatMulActivation", "TransposeMatMul", "SparseToDenseMatMul", domain=MICROSOFT)
def matmul(sweep: Sweep, node: Node) -> Known:
    """Alpha A B, transposed where the node says so."""
    made = product(sweep, node, (0, 1), _flips(node), node.float_attribute("alpha", 1.0))
    return finished(sweep, node, made, None)


@rule("Gemm")
@rule("FusedGemm", "GemmFloat8", "GemmFastGelu", domain=MICROSOFT)
def gemm(sweep: Sweep, node: Node) -> Known:
    """Alpha A B + beta C; C is a bias, or a signal."""
    made = product(sweep, node, (0, 1), _flips(node), node.float_attribute("alpha", 1.0))
    below = sweep.input(node, 2)
    if made is not None and below is not None:
        below = aligned(below, sweep.dims(node.input(2)), sweep.dims(node.outputs[0]))
        made = add(made, scaled(below, node.float_attribute("beta", 1.0)))
    return finished(sweep, node, made, None)


_INTEGER: Mapping[str, tuple[tuple[int, int], int | None]] = {
    "MatMulInteger": ((0, 1), None),
    "MatMulInteger16": ((0, 1), None),
    "DynamicQuantizeMatMul": ((0, 1), 4),
    "MatMulIntegerToFloat": ((0, 1), 6),
    "QLinearMatMul": ((0, 3), None),
    "QGemm": ((0, 3), 6),
    "QOrderedMatMul": ((0, 2), 5),
}


@rule("MatMulInteger", "QLinearMatMul")
@rule("MatMulInteger16", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm", "QOrderedMatMul", domain=MICROSOFT)
def matmul_integer(sweep: Sweep, node: Node) -> Known:
    """Real values, as everywhere: codes stand for what they were made of, and scales are ones."""
    at, bias = _INTEGER[node.op]
    made = finished(sweep, node, product(sweep, node, at, _flips(node)), bias)
    return coded(sweep, node, made, 6) if node.op == "QLinearMatMul" else made


@rule("MatMulNBits", "MatMulBnb4", domain=MICROSOFT)
def matmul_nbits(sweep: Sweep, node: Node) -> Known:
    """As MatMul by the transpose of the weight that is packed."""
    x = sweep.input(node)
    if x is None:
        return None
    count = float(node.int_attribute("K" if node.int_attribute("transB", 1) else "N", 1))
    rho: Axes = [*((r, None) for r in x.rho[:-1]), (None, 0.0)]
    return finished(sweep, node, sweep.layer(node, 1, lambda w: contract(x, w, count, (x.along(-1), 0.0), rho)), 5)


@rule("Einsum")
def einsum(sweep: Sweep, node: Node) -> Known:
    """Factor by factor; an index that neither the result nor a later factor has is summed over."""
    terms, result = read_equation(node)
    factors = [sweep.of(v) for v in node.inputs]
    sizes: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=False):
        sizes.update(zip(term, sweep.dims(value), strict=False))
    if "." in "".join(terms) or len(factors) != len(terms) or not set().union(*terms) <= sizes.keys():
        return None
    known = [m for m in factors if m is not None]
    if len(known) < len(factors):
        return None

    def compute(at: int, w: Moments) -> Moments:
        given = [w if i == at else m for i, m in enumerate(known)]
        made, term = given[0], terms[0]
        for i in range(1, max(2, len(terms))):
            other, own = (given[i], terms[i]) if i < len(terms) else (constant(1.0), "")
            rest = "".join(terms[i + 1 :]) + result
            kept = result if i >= len(terms) - 1 else "".join(dict.fromkeys(c for c in term + own if c in rest))
            made, term = _joined(made, term, other, own, kept, sizes), kept
        return made

    at = next((i for i in range(len(terms)) if sweep.asks(node, i)), len(terms) - 1)
    return sweep.layer(node, at, lambda w: compute(at, w))


def _joined(a: Moments, term_a: str, b: Moments, term_b: str, result: str, sizes: Mapping[str, int]) -> Moments:
    """One product with its sums."""
    summed = [c for c in dict.fromkeys(term_a + term_b) if c not in result and sizes[c] > 1]

    def along(m: Moments, term: str) -> float:
        found = [m.along(term.index(c)) for c in summed if c in term]
        total = found[0] if found else 1.0
        for r in found[1:]:
            total = joint(total, r)
        return total

    axes: Axes = [
        (a.along(term_a.index(c)) if c in term_a else None, b.along(term_b.index(c)) if c in term_b else None)
        for c in result
    ]
    count = float(math.prod(sizes[c] for c in summed))
    return contract(a, b, count, (along(a, term_a), along(b, term_b)), axes)
