"""Normalisations: what all elements of a norm's axes share goes, and the second moment becomes one.

A norm that an exporter wrote out needs no rule: its Sub, Mul, ReduceMean, Sqrt and Div have theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxinit.analysis.operators import MICROSOFT, NHWC
from onnxinit.analysis.view import Node
from onnxinit.signal.moments.moments import Moments, add, centre, constant, multiply, scaled, shaped
from onnxinit.signal.moments.rules.moves import axes_of
from onnxinit.signal.moments.rules.shapes import aligned
from onnxinit.signal.moments.rules.table import Known, rule

if TYPE_CHECKING:
    from onnxinit.signal.moments.carry import Sweep


def standardised(m: Moments, axes: Sequence[int], dims: Sequence[int], eps: float, *, centred: bool = True) -> Moments:
    """(x - mean) / sqrt(var + eps) over axes, or x / sqrt(mean square + eps)."""
    count = float(math.prod(dims[a] for a in axes if -len(dims) <= a < len(dims)) or 1)
    at = {a % max(1, len(dims)) for a in axes}
    edge = tuple((i, p) for i, p in m.edge if i in at)  # the places that are normalised together stay unlike
    if centred:
        m = centre(m, axes, count if dims else math.inf)
    return replace(scaled(m, 1.0 / math.sqrt(m.second + eps)) if m.second + eps > 0.0 else m, edge=edge)


def affine(sweep: Sweep, node: Node, m: Moments, scale: int | None, shift: int | None, axis: int | None) -> Moments:
    """Times a learned scale, plus a learned shift: along one axis, or along the last ones (None)."""
    rank = len(m.rho)
    for at, join in ((scale, multiply), (shift, add)):
        vector = sweep.input(node, at) if at is not None else None
        if vector is None or at is None:
            continue
        if axis is None:
            dims = sweep.dims(node.input(at))
            out = sweep.dims(node.outputs[0])
            vector = aligned(vector, dims, out) if out else vector
        else:
            vector = along_one(vector, axis, rank)
        m = join(m, vector)
    return m


def along_one(m: Moments, axis: int, rank: int) -> Moments:
    """A vector that stands along one axis of a value, repeated along the others."""
    place = axis % max(1, rank)
    own = m.rho[-1] if m.rho else 0.0
    return shaped(m, lambda rho: tuple(own if i == place else 1.0 for i in range(rank)), same=False)


def _last(node: Node, rank: int) -> list[int]:
    axis = node.int_attribute("axis", -1)
    if not rank:
        return [-1]
    return list(range(axis % rank if rank else 0, rank))


@rule("LayerNormalization")
@rule("LayerNormalization", domain=MICROSOFT)
def layer_norm(sweep: Sweep, node: Node) -> Known:
    """Over the last axes."""
    m, dims = sweep.input(node), sweep.dims(node.input(0))
    if m is None:
        return None
    made = standardised(m, _last(node, len(dims)), dims, node.float_attribute("epsilon", 1e-5))
    return affine(sweep, node, made, 1, 2, None)


@rule("RMSNormalization", "SimplifiedLayerNormalization")
@rule("SimplifiedLayerNormalization", "RMSNormalization", "BranchwiseRMSNorm", "GatedRMSNorm", domain=MICROSOFT)
def rms_norm(sweep: Sweep, node: Node) -> Known:
    """Over the last axes, without the mean."""
    m, dims = sweep.input(node), sweep.dims(node.input(0))
    if m is None:
        return None
    made = standardised(m, _last(node, len(dims)), dims, node.float_attribute("epsilon", 1e-5), centred=False)
    return affine(sweep, node, made, 1, None, None)


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_norm(sweep: Sweep, node: Node) -> list[Known]:
    """The norm of a sum, and the sum."""
    plain = "Simplified" in node.op
    out = sweep.dims(node.outputs[0])
    found = [
        aligned(m, sweep.dims(node.input(at)), out)
        for at in (0, 1, 3 if plain else 4)
        if (m := sweep.input(node, at)) is not None
    ]
    if not found:
        return [None]
    total = found[0]
    for m in found[1:]:
        total = add(total, m)
    dims = sweep.dims(node.input(0))
    eps = node.float_attribute("epsilon", 1e-5 if plain else 1e-12)
    made = standardised(total, [len(dims) - 1], dims, eps, centred=not plain)
    return [affine(sweep, node, made, 2, None if plain else 3, None), None, None, total]


@rule("EmbedLayerNormalization", domain=MICROSOFT)
@rule("QEmbedLayerNormalization", domain=MICROSOFT)
def embed_norm(sweep: Sweep, node: Node) -> list[Known]:
    """The norm of the sum of three look-ups; all samples have the same positions."""
    total: Moments | None = None
    for at in (2, 3, 4):
        table = sweep.input(node, at)
        dims = sweep.dims(node.input(at))
        if table is None or not dims:
            continue
        meets = 1.0 / max(1, dims[0])
        found = _looked_up(table, 1.0 if at == 3 else meets, 0.0 if at == 3 else meets)
        total = found if total is None else add(total, found)
    if total is None:
        return [None]
    dims = sweep.dims(node.outputs[0])
    made = standardised(total, [2], dims, node.float_attribute("epsilon", 1e-12))
    return [affine(sweep, node, made, 5, 6, None), None, total]


def _looked_up(table: Moments, batch: float, places: float) -> Moments:
    return shaped(table, lambda rho: (batch, places, 0.0), same=False)


@rule("BatchNormalization")
@rule("BatchNormalization", domain=NHWC)
def batch_norm(sweep: Sweep, node: Node) -> list[Known]:
    """At inference by the running statistics that the plan gives; in training, or where they are to follow, a norm."""
    m, dims = sweep.input(node), sweep.dims(node.input(0))
    if m is None:
        return [None]
    rank = len(m.rho)
    channel = rank - 1 if node.domain == NHWC else 1
    eps = node.float_attribute("epsilon", 1e-5)
    mean, var = sweep.input(node, 3), sweep.input(node, 4)
    training = node.int_attribute("training_mode", 0) or len(node.outputs) > 1
    training = training or (
        mean is not None and m.law is not None and mean.reduced == m.law.root
    )  # of a kernel, by hand
    if training or sweep.recalibrated or mean is None or var is None:
        made = standardised(m, [i for i in range(rank) if i != channel], dims, eps)
    else:
        made = add(m, along_one(mean, channel, rank), -1.0)
        made = scaled(made, math.sqrt((1.0 + var.var / max(1e-30, (var.mean + eps) ** 2)) / max(1e-30, var.mean + eps)))
    return [affine(sweep, node, made, 1, 2, channel)]


@rule("InstanceNormalization")
@rule("InstanceNormalization", domain=NHWC)
def instance_norm(sweep: Sweep, node: Node) -> Known:
    """Over the places of a channel of a sample."""
    m, dims = sweep.input(node), sweep.dims(node.input(0))
    if m is None:
        return None
    rank = len(dims)
    channel = rank - 1 if node.domain == NHWC else 1
    axes = [i for i in range(1, rank) if i != channel]
    made = standardised(m, axes, dims, node.float_attribute("epsilon", 1e-5))
    return affine(sweep, node, made, 1, 2, channel)


@rule("GroupNormalization")
@rule("GroupNorm", "SkipGroupNorm", domain=MICROSOFT)
def group_norm(sweep: Sweep, node: Node) -> list[Known]:
    """Over the places and the channels of a group; GroupNorm has its channels last, and perhaps a SiLU."""
    m, dims = sweep.input(node), list(sweep.dims(node.input(0)))
    if m is None or len(dims) < 2:
        return [m]
    total = m
    for at in (3, 4) if node.op == "SkipGroupNorm" else ():
        other = sweep.input(node, at)
        if other is not None:
            total = add(total, aligned(other, sweep.dims(node.input(at)), dims))
    last = node.domain == MICROSOFT and bool(node.int_attribute("channels_last", 1))
    channel = len(dims) - 1 if last else 1
    groups = max(1, node.int_attribute("groups" if node.domain == MICROSOFT else "num_groups", 1))
    shape = [n // groups if i == channel else n for i, n in enumerate(dims)]
    made = standardised(total, list(range(1, len(dims))), shape, node.float_attribute("epsilon", 1e-5))
    made = affine(sweep, node, made, 1, 2, channel)
    if node.domain == MICROSOFT and node.int_attribute("activation", 0):
        from onnxinit.analysis.pointwise import Expression

        made = sweep.apply(sweep.expression(Node("Swish", "", "", "", [], [], {}), (Expression(),)), made)
    return [made, total]


@rule("MeanVarianceNormalization")
def mean_variance(sweep: Sweep, node: Node) -> Known:
    """Over the axes named."""
    m, dims = sweep.input(node), sweep.dims(node.input(0))
    axes = axes_of(sweep, node) or [0, 2, 3]
    return None if m is None else standardised(m, [a for a in axes if a < len(dims)], dims, 1e-9)


@rule("LpNormalization")
def lp_norm(sweep: Sweep, node: Node) -> Known:
    """X / |x|_2 along an axis of n: a root mean square of 1/sqrt(n). With p = 1 by the mean of |x|, a normal one."""
    m, dims = sweep.input(node), sweep.dims(node.input(0))
    axis = node.int_attribute("axis", -1)
    if m is None or m.second == 0.0 or not -len(dims) <= axis < len(dims):
        return m
    n = dims[axis]
    if node.int_attribute("p", 2) == 1:
        return scaled(m, 1.0 / (n * math.sqrt(2.0 / math.pi * m.second)))
    return scaled(m, 1.0 / math.sqrt(n * m.second))


@rule("LRN")
@rule("LRN", domain=NHWC)
def local_response(sweep: Sweep, node: Node) -> Known:
    """X / (bias + alpha E[x^2])^beta: the mean over `size` channels is taken for its expectation."""
    m = sweep.input(node)
    if m is None:
        return None
    base = node.float_attribute("bias", 1.0) + node.float_attribute("alpha", 1e-4) * m.second
    return scaled(m, base ** -node.float_attribute("beta", 0.75)) if base > 0 else constant(0.0, len(m.rho))
