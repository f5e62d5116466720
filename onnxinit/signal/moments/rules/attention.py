"""Softmax and attention: means of values with random weights.

A softmax over n logits gives weights p with sum 1, so E[p] = 1/n and, for each row, E[p_j p_k] = (1 - E sum p^2) /
(n (n - 1)): their correlation along the keys is -1/(n - 1), whatever the logits. What a row's logits share does not
count, so that

    E sum p_j^2 = concentration(n, v (1 - rho))      v, rho: variance of the logits and their correlation along the keys

With it the product of the weights and the values is a contraction as any other: E[o^2] = E sum p^2 E[v^2] + (1 - E sum
p^2) E[v v'], a mean of many values where the weights are spread, one value where they are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxinit.analysis.operators import MICROSOFT
from onnxinit.analysis.view import Node
from onnxinit.signal.moments import gauss
from onnxinit.signal.moments.moments import IDENTITY, Moments, add, constant, normal, piece, scaled, shaped
from onnxinit.signal.moments.rules.linear import contract, finished
from onnxinit.signal.moments.rules.shapes import aligned
from onnxinit.signal.moments.rules.table import Known, rule

if TYPE_CHECKING:
    from onnxinit.signal.moments.carry import Sweep


def softmax(m: Moments, axis: int, count: int) -> Moments:
    """The weights of a softmax along an axis."""
    n = max(1, count)
    causal = m.hidden > 0.0 and abs(m.hidden - (n - 1) / (2 * n)) < 0.1
    shown = n if causal else max(1, round(n * (1.0 - m.hidden)))
    own = 1.0 - max(0.0, m.along(axis))
    if m.law is None or m.law.f is IDENTITY:
        second = gauss.concentration(shown, float(f"{m.var * own:.9g}"), causal) / n
    else:
        second = gauss.gathered(m.law.f, m.law.mean, m.law.std * math.sqrt(own), shown, causal) / n
    mean = 1.0 / n
    var = max(0.0, second - mean * mean)
    at = axis % max(1, len(m.rho))
    rho = [(-1.0 / (n - 1) if n > 1 else 1.0) if i == at else max(0.0, r) for i, r in enumerate(m.rho)]
    return normal(mean, var, rho, positive=True) if var > 0.0 else constant(mean, len(m.rho))


@rule("Softmax")
@rule("QLinearSoftmax", "BiasSoftmax", domain=MICROSOFT)
def soft(sweep: Sweep, node: Node) -> Known:
    """The weights along an axis."""
    m, dims = sweep.input(node), sweep.dims(node.input(0))
    if m is None:
        return None
    other = sweep.input(node, 1) if node.op == "BiasSoftmax" else None
    if other is not None:
        m = replace(add(m, aligned(other, sweep.dims(node.input(1)), dims)), hidden=max(m.hidden, other.hidden))
    found = _summed(sweep, node, dims)
    return m if found is None else softmax(m, *found)


@rule("Hardmax")
def hard(sweep: Sweep, node: Node) -> Known:
    """One where the largest is, zero elsewhere."""
    m, dims = sweep.input(node), sweep.dims(node.input(0))
    found = _summed(sweep, node, dims)
    if m is None or found is None:
        return m
    axis, n = found[0] % len(dims), max(1, found[1])
    if n == 1:
        return constant(1.0, len(m.rho))
    rho = [-1.0 / (n - 1) if i == axis else max(0.0, r) for i, r in enumerate(m.rho)]
    return normal(1.0 / n, (n - 1) / n**2, rho, positive=True)


def _summed(sweep: Sweep, node: Node, dims: Sequence[int]) -> tuple[int, int] | None:
    """The axis that the results sum up to one along and its length; before opset 13 all axes from it on count."""
    old = sweep.graph.view.opsets.get("", 13) < 13
    axis = node.int_attribute("axis", 1 if old else -1)
    if not -len(dims) <= axis < len(dims):
        return None
    return axis, math.prod(dims[axis % len(dims) :]) if old else dims[axis]


@rule("LogSoftmax")
def log_soft(sweep: Sweep, node: Node) -> Known:
    """X - ln sum exp(x): what the logits share goes; the mean is -ln n - v/2."""
    m, dims = sweep.input(node), sweep.dims(node.input(0))
    axis = node.int_attribute("axis", -1 if sweep.graph.view.opsets.get("", 13) >= 13 else 1)
    if m is None or not -len(dims) <= axis < len(dims):
        return m
    var = m.var * (1.0 - max(0.0, m.along(axis)))
    return normal(-math.log(max(1, dims[axis])) - 0.5 * var, var, m.rho)


def attend(
    q: Moments, k: Moments, v: Moments, width: float, keys: int, scale: float, *, causal: bool, bias: Known = None
) -> Moments:
    """softmax(scale q k') v for values with the axes (batch, places, features)."""
    logits = contract(
        q, k, width, (q.along(-1), k.along(-1)), [(q.along(0), k.along(0)), (q.along(-2), None), (None, k.along(-2))]
    )
    logits = scaled(logits, scale)
    if bias is not None and not bias.hidden:
        shift = bias.rho[-1] if bias.rho else 0.0
        logits = add(logits, shaped(bias, lambda rho: (1.0, 0.0, shift), same=False))
    hidden = (keys - 1) / (2 * keys) if causal else bias.hidden if bias is not None else 0.0
    p = softmax(replace(logits, hidden=hidden), -1, keys)
    return contract(
        p,
        v,
        float(keys),
        (p.along(-1), v.along(-2)),
        [(p.along(0), v.along(0)), (p.along(-2), None), (None, v.along(-1))],
    )


@rule(
    "Attention", "PackedAttention", "QAttention", "DecoderMaskedSelfAttention", "LongformerAttention", domain=MICROSOFT
)
def projected_attention(sweep: Sweep, node: Node) -> Known:
    """Projections of one signal to queries, keys and values, and the attention on them."""
    x, shape = sweep.input(node), sweep.dims(node.input(1))
    dims = sweep.dims(node.input(0))
    if x is None or len(shape) != 2:
        return None
    made = sweep.layer(
        node,
        1,
        lambda w: contract(
            x, w, float(shape[0]), (x.along(-1), w.along(0)), [*((r, None) for r in x.rho[:-1]), (None, w.along(1))]
        ),
    )
    made = finished(sweep, node, made, 2)
    if made is None:
        return None
    out = sweep.dims(node.outputs[0])
    heads = max(1, node.int_attribute("num_heads", 1))
    width = max(1, (out[-1] if out else shape[1] // 3) // heads)
    keys = dims[-2] if len(dims) > 1 else 1
    scale = node.float_attribute("scale", 0.0) or 1.0 / math.sqrt(width)
    rank = len(made.rho)
    three = made if rank == 3 else shaped(made, lambda rho: ((0.0,) * 3 + rho)[-3:], same=False)
    causal = bool(node.int_attribute("unidirectional", 0)) or node.op.startswith("DecoderMasked")
    bias = sweep.input(node, 5) if node.op in ("Attention", "PackedAttention") else None
    return attend(piece(three), piece(three), piece(three), width, keys, scale, causal=causal, bias=bias)


@rule("Attention")
@rule("MultiHeadAttention", "GroupQueryAttention", "PackedMultiHeadAttention", "PagedAttention", domain=MICROSOFT)
@rule("DecoderMaskedMultiHeadAttention", "SparseAttention", domain=MICROSOFT)
def headed_attention(sweep: Sweep, node: Node) -> list[Known]:
    """Attention on heads that were projected before: (batch, places, heads * d) or (batch, heads, places, d)."""
    q = sweep.input(node, 0)
    dims = sweep.dims(node.input(0))
    if q is None or not dims:
        return [None]
    k, v = sweep.input(node, 1), sweep.input(node, 2)
    k, v = k if k is not None else piece(q), v if v is not None else piece(k if k is not None else q)
    if node.op == "MultiHeadAttention" and (shift := sweep.input(node, 3)) is not None:
        rank = len(q.rho)
        shift = shaped(shift, lambda rho: (*(1.0 for _ in range(rank - 1)), 0.0), same=False)
        q, k, v = add(q, shift), add(k, shift), add(v, shift)
    heads = max(1, node.int_attribute("num_heads" if node.domain else "q_num_heads", 1))
    key_dims = sweep.dims(node.input(1)) or dims
    keys = key_dims[-2] if len(key_dims) in (3, 4) else dims[-2]
    width = dims[-1] if len(dims) != 3 else dims[-1] // heads
    if node.input(1) is None and node.op == "GroupQueryAttention":
        width = dims[-1] // max(1, heads + 2 * node.int_attribute("kv_num_heads", heads))
    scale = node.float_attribute("scale", 0.0) or 1.0 / math.sqrt(max(1, width))
    causal = node.op in ("GroupQueryAttention", "PagedAttention", "SparseAttention") or bool(
        node.int_attribute("is_causal", 0) or node.int_attribute("unidirectional", 0)
    )
    at = 3 if not node.domain else 5 if node.op == "MultiHeadAttention" else -1
    bias = sweep.input(node, at) if at > 0 else None
    three = [shaped(m, lambda rho: (rho[0] if rho else 0.0, *((0.0,) * 2 + rho)[-2:]), same=False) for m in (q, k, v)]
    made = attend(three[0], three[1], three[2], width, keys, scale, causal=causal, bias=bias)
    if len(dims) == 4:
        made = shaped(made, lambda rho: (rho[0], 0.0, *rho[1:]), same=False)
    return [made, k, v]


@rule("RotaryEmbedding")
@rule("RotaryEmbedding", "GemmaRotaryEmbedding", "MRotaryEmbedding", domain=MICROSOFT)
def rotary(sweep: Sweep, node: Node) -> list[Known]:
    """A rotation, which keeps the second moment."""
    m = sweep.input(node, 1 if node.op == "GemmaRotaryEmbedding" else 0)
    return [None if m is None else piece(m) for _ in node.outputs]
