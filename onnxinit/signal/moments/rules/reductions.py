"""Means, sums, norms and extremes over axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxinit.analysis.pointwise import Expression
from onnxinit.analysis.view import Node
from onnxinit.signal.moments import gauss
from onnxinit.signal.moments.moments import Moments, average, constant, joint, normal, scaled, shaped
from onnxinit.signal.moments.rules.moves import axes_of
from onnxinit.signal.moments.rules.shapes import dropped
from onnxinit.signal.moments.rules.table import Known, rule

if TYPE_CHECKING:
    from onnxinit.signal.moments.carry import Sweep

_BEFORE = {"ReduceL1": "Abs", "ReduceLogSumExp": "Exp"}
_AFTER = {"ReduceL2": "Sqrt", "ReduceLogSumExp": "Log", "ReduceLogSum": "Log"}


def _node(op: str) -> Node:
    return Node(op, "", "", "", [], [], {})


def over(sweep: Sweep, node: Node) -> tuple[list[int], float, bool]:
    """The axes of a reduction, how many elements they hold, and whether they stay."""
    dims = sweep.dims(node.input(0))
    axes = axes_of(sweep, node)
    if axes is None or (not axes and not node.int_attribute("noop_with_empty_axes", 0)):
        axes = list(range(len(dims)))
    count = math.prod(dims[a] for a in axes if -len(dims) <= a < len(dims))
    return axes, float(max(1, count)), bool(node.int_attribute("keepdims", 1))


def averaged(sweep: Sweep, m: Moments, axes: Sequence[int], dims: Sequence[int]) -> Moments:
    """The mean over axes, one after the other."""
    root = m.law.root if m.law is not None else m.reduced
    for axis in axes:
        if -len(dims) <= axis < len(dims) and dims[axis] > 1:
            m = average(m, axis, float(dims[axis]))
    return replace(m, reduced=root)


@rule("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp")
def reduce(sweep: Sweep, node: Node) -> Known:
    """A function, the mean times the number of elements, another function."""
    m = sweep.input(node)
    if m is None:
        return None
    axes, count, keep = over(sweep, node)
    dims = sweep.dims(node.input(0))
    if node.op in ("ReduceSumSquare", "ReduceL2"):
        m = sweep.apply(sweep.expression(_node("Mul"), (Expression(), Expression())), m)
    elif node.op in _BEFORE:
        m = sweep.apply(sweep.expression(_node(_BEFORE[node.op]), (Expression(),)), m)
    made = averaged(sweep, m, axes, dims)
    if node.op != "ReduceMean":
        made = replace(scaled(made, count), reduced=made.reduced)
    elif m.law is not None:
        made = replace(made, middle=(m.law, tuple(axes), count))
    if node.op in _AFTER:
        made = sweep.apply(sweep.expression(_node(_AFTER[node.op]), (Expression(),)), made)
    return shaped(made, lambda rho: dropped(rho, axes, keep))


@rule("ReduceMax", "ReduceMin")
def extreme(sweep: Sweep, node: Node) -> Known:
    """The largest of as many values as the axes hold."""
    m = sweep.input(node)
    if m is None:
        return None
    axes, count, keep = over(sweep, node)
    made = peaked(m, axes, count, -1.0 if node.op == "ReduceMin" else 1.0)
    return shaped(replace(made, hidden=0.0), lambda rho: dropped(rho, axes, keep))


def peaked(m: Moments, axes: Sequence[int], count: float, sign: float = 1.0) -> Moments:
    """The largest (smallest with sign -1) of `count` elements along axes, by order statistics."""
    law = m.law
    if law is None or count <= 1.0:
        return m
    own = 1.0
    for axis in axes:
        own = joint(own, law.rho[axis] if -len(law.rho) <= axis < len(law.rho) else 0.0)
    f = law.f
    mean, var, shared = gauss.peak(lambda x: sign * f(x), law.mean, law.std, own, count)
    at = {a % max(1, len(m.rho)) for a in axes}
    rho = [shared / var if i in at and var > 0.0 else r for i, r in enumerate(m.rho)]
    return normal(sign * mean, max(0.0, var), rho)


@rule("ReduceProd", "CumProd")
def unknown_product(sweep: Sweep, node: Node) -> Known:
    """A product of many values has no moments that help: it is taken for a number."""
    m = sweep.input(node)
    return None if m is None else constant(m.mean, len(sweep.dims(node.outputs[0])))


@rule("CumSum")
def cumulative(sweep: Sweep, node: Node) -> Known:
    """Sums of the first i, i = 1 ... n: second moments in their mean."""
    m, dims = sweep.input(node), sweep.dims(node.input(0))
    held = sweep.input(node, 1)
    axis = int(held.mean) if held is not None and dims else 0
    if m is None or not dims or not -len(dims) <= axis < len(dims):
        return m
    n = float(dims[axis])
    one, two = (n + 1.0) / 2.0, (n + 1.0) * (2.0 * n + 1.0) / 6.0
    second = one * m.second + (two - one) * m.shared(axis)
    return normal(one * m.mean, max(0.0, second - (one * m.mean) ** 2), m.rho)


@rule("ArgMax", "ArgMin")
def place(sweep: Sweep, node: Node) -> Known:
    """An index."""
    return None
