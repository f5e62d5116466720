"""Pooling: means of correlated elements, and the largest of them.

Elements of a window correlate as any two places do (rho along the axis): the covariance of neighbours under one draw of
the kernel is random with mean zero, and in the mean over all channels it does not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxinit.analysis.operators import MICROSOFT, NHWC
from onnxinit.analysis.pointwise import Expression
from onnxinit.analysis.view import Node
from onnxinit.signal.moments.moments import Edge, Moments, average, scaled
from onnxinit.signal.moments.rules.reductions import peaked
from onnxinit.signal.moments.rules.table import Known, rule
from onnxinit.signal.moments.rules.windows import gathered, reach

if TYPE_CHECKING:
    from onnxinit.signal.moments.carry import Sweep

_NCHWC = "com.microsoft.nchwc"


def _places(node: Node, rank: int) -> list[int]:
    """The axes that a window moves along."""
    last = node.domain == NHWC or node.op.startswith("Nhwc") or bool(node.int_attribute("channels_last", 0))
    return list(range(1, rank - 1)) if last else list(range(2, rank))


def _windows(sweep: Sweep, node: Node, axes: Sequence[int]) -> list[tuple[int, float]]:
    """For every axis the length of the window, and how many of its elements are no padding."""
    kernel = node.ints_attribute("kernel_shape") or [1] * len(axes)
    size = sweep.dims(node.input(0))
    met = reach(node, [size[a] for a in axes], kernel) if len(kernel) == len(axes) else [float(k) for k in kernel]
    return list(zip(kernel, met, strict=True))


def pooled(m: Moments, axes: Sequence[int], windows: Sequence[tuple[int, float]], *, padded: bool) -> Moments:
    """The mean over windows."""
    for axis, (k, inside) in zip(axes, windows, strict=False):
        m = average(m, axis, inside)
        if padded:
            m = scaled(m, inside / k)
    return m


@rule("AveragePool")
@rule("AveragePool", domain=_NCHWC)
@rule("AveragePool", domain=NHWC)
@rule("QLinearAveragePool", domain=MICROSOFT)
@rule("QLinearAveragePool", domain=NHWC)
def average_pool(sweep: Sweep, node: Node) -> Known:
    """The mean of a window."""
    m = sweep.input(node)
    if m is None:
        return None
    axes = _places(node, len(sweep.dims(node.input(0))))
    windows = _windows(sweep, node, axes)
    made = pooled(m, axes, windows, padded=bool(node.int_attribute("count_include_pad", 0)))
    return replace(made, edge=_edge(sweep, node, m, axes))


def _edge(sweep: Sweep, node: Node, m: Moments, axes: Sequence[int]) -> Edge:
    """How the second moment varies along the places of a pool, roughly: as the mean of what a window holds does."""
    size, kernel = sweep.dims(node.input(0)), node.ints_attribute("kernel_shape") or []
    if not m.edge or len(kernel) != len(axes):
        return ()
    plain = replace(m, edge=())
    sizes = [size[a] for a in axes]
    own, even = (dict(gathered(x, node, axes, sizes, kernel)[1]) for x in (m, plain))
    found: list[tuple[int, tuple[float, ...]]] = []
    for axis, p in own.items():
        q = [x / y if y > 0.0 else 1.0 for x, y in zip(p, even.get(axis, (1.0,) * len(p)), strict=True)]
        mean = sum(q) / len(q)
        found.append((axis, tuple(x / mean for x in q)))
    return tuple(found)


@rule("GlobalAveragePool")
@rule("GlobalAveragePool", domain=_NCHWC)
@rule("GlobalAveragePool", domain=NHWC)
@rule("QLinearGlobalAveragePool", domain=MICROSOFT)
def global_average(sweep: Sweep, node: Node) -> Known:
    """The mean of all places."""
    m, dims = sweep.input(node), sweep.dims(node.input(0))
    if m is None:
        return None
    axes = _places(node, len(dims))
    return pooled(m, axes, [(dims[a], float(dims[a])) for a in axes], padded=False)


@rule("MaxPool")
@rule("MaxPool", domain=_NCHWC)
@rule("MaxPool", domain=NHWC)
@rule("NhwcMaxPool", "MaxpoolWithMask", domain=MICROSOFT)
def max_pool(sweep: Sweep, node: Node) -> list[Known]:
    """The largest of a window, and where it is."""
    m = sweep.input(node)
    if m is None:
        return [None]
    axes = _places(node, len(sweep.dims(node.input(0))))
    count = math.prod(inside for _, inside in _windows(sweep, node, axes))
    return [replace(peaked(m, axes, count), edge=_edge(sweep, node, m, axes)), None]


@rule("GlobalMaxPool")
@rule("GlobalMaxPool", domain=_NCHWC)
@rule("GlobalMaxPool", domain=NHWC)
def global_max(sweep: Sweep, node: Node) -> Known:
    """The largest of all places."""
    m, dims = sweep.input(node), sweep.dims(node.input(0))
    if m is None:
        return None
    axes = _places(node, len(dims))
    return peaked(m, axes, float(math.prod(dims[a] for a in axes)))


@rule("LpPool", "GlobalLpPool")
@rule("GlobalLpPool", "LpPool", domain=NHWC)
def lp_pool(sweep: Sweep, node: Node) -> Known:
    """(sum of |x|^p)^(1/p)."""
    m, dims = sweep.input(node), sweep.dims(node.input(0))
    if m is None:
        return None
    p = node.int_attribute("p", 2)
    axes = _places(node, len(dims))
    windows = _windows(sweep, node, axes) if node.op == "LpPool" else [(dims[a], float(dims[a])) for a in axes]
    power = Node("Pow", "", "", "", [], [], {})
    size = Node("Abs", "", "", "", [], [], {})
    x = Expression()
    raised = sweep.apply(sweep.expression(power, (sweep.expression(size, (x,)), float(p))), m)
    total = scaled(pooled(raised, axes, windows, padded=False), math.prod(inside for _, inside in windows))
    return sweep.apply(sweep.expression(power, (x, 1.0 / p)), total)
