"""Pointwise operators: functions of one normal value by quadrature, sums and products of several by their sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from onnx import TensorProto

from onnxinit.analysis.operators import MICROSOFT
from onnxinit.analysis.pointwise import POINTWISE, Expression, cast_target
from onnxinit.analysis.view import Node
from onnxinit.signal.moments.moments import Law, Moments, add, centre, constant, mix, multiply, normal, scaled
from onnxinit.signal.moments.rules.shapes import aligned
from onnxinit.signal.moments.rules.table import RULES, Known, rule

if TYPE_CHECKING:
    from onnxinit.signal.moments.carry import Sweep

_RECIPROCAL = Node("Reciprocal", "", "", "", [], [], {})
_AFFINE = frozenset({"Add", "Sub", "Mul", "Div", "Neg"})


def pointwise(sweep: Sweep, node: Node) -> Known:
    """A function of one normal value, where all operands are such functions or numbers; else by operator."""
    inputs = node.inputs
    known = [sweep.of(v) for v in inputs]
    given = [m for m, v in zip(known, inputs, strict=True) if v is not None]
    if not given:
        return None
    if any(m is None for m in given):
        return _combined(sweep, node)
    law = _law(sweep, node, known)
    if law is None and any(m is not None and m.var > 0.0 for m in known):
        return _combined(sweep, node)
    if any(m.hidden for m in given if m is not None) and (node.op in _JOINS or node.op == "Where"):
        return _combined(sweep, node)
    operands = tuple(None if m is None else m.law.f if m.law is not None else m.mean for m in known)
    if law is None:
        numbers = tuple(o if o is None else float(o) for o in operands if not isinstance(o, Expression))
        return _number(sweep, node, numbers, max(len(m.rho) for m in given if m is not None))
    reduced = next((m.reduced for m in given if m is not None and m.reduced), 0)
    hidden = max(m.hidden for m in given if m is not None)
    made = sweep.function(sweep.expression(node, operands), law, hidden=hidden, reduced=reduced)
    moving = [i for i, m in enumerate(known) if m is not None and m.var > 0.0]
    one = known[moving[0]]
    made = replace(made, edge=one.edge, apart=one.apart) if one is not None else made
    if len(moving) == 1 and one is not None and node.op in _AFFINE and not (node.op == "Div" and moving[0] == 1):
        return replace(made, rho=one.rho)  # what a line leaves as it is, where the law is but an approximation
    return made


def _law(sweep: Sweep, node: Node, known: Sequence[Known]) -> Law | None:
    """The one law that all operands are functions of, in place; None where there are several or none."""
    found: Law | None = None
    out = sweep.dims(node.outputs[0])
    for value, m in zip(node.inputs, known, strict=False):
        if m is None or m.var == 0.0:
            continue
        if m.law is None or (found is not None and m.law.key != found.key):
            return None
        dims = sweep.dims(value)
        if dims and out and dims != out:
            return None
        deeper = found is None or m.law.depth > found.depth
        found = m.law if deeper else found
    return found


def _number(sweep: Sweep, node: Node, numbers: tuple[float | None, ...], rank: int) -> Known:
    """A function of numbers alone."""
    f = sweep.expression(node, numbers)
    hidden = 0.0
    m = sweep.apply(f, constant(0.0, rank))
    if m.mean < -1e3 and math.isfinite(m.mean):
        hidden, m = 1.0, constant(0.0, rank)
    return replace(m, hidden=hidden)


for _key in POINTWISE:
    RULES[_key] = pointwise
del RULES["", "Identity"], RULES["", "Dropout"]


@rule("Cast", "CastLike")
def cast(sweep: Sweep, node: Node) -> Known:
    """The same in another type; what becomes whole numbers is taken as it was."""
    m = sweep.input(node)
    if m is None or m.var > 0.0 or cast_target(node) != TensorProto.BOOL:
        return m
    return constant(float(m.mean != 0.0), len(m.rho))


@rule("And", "Or", "Xor", "Not")
def logic(sweep: Sweep, node: Node) -> Known:
    """Of independent truths, by the shares that are true."""
    found = [min(1.0, max(0.0, m.mean)) for m in operands(sweep, node)]
    if len(found) < len(node.inputs) or not found:
        return None
    p = found[0]
    for q in found[1:]:
        p = {"And": p * q, "Or": p + q - p * q, "Xor": p + q - 2.0 * p * q}[node.op]
    p = 1.0 - p if node.op == "Not" else p
    return normal(p, p * (1.0 - p), (0.0,) * len(sweep.dims(node.outputs[0])))


# ---------------------------------------------------------------- several values


def operands(sweep: Sweep, node: Node) -> list[Moments]:
    """The operands that are known, broadcast to the result."""
    out = sweep.dims(node.outputs[0])
    found = []
    for value in node.inputs:
        m = sweep.of(value)
        if m is not None:
            found.append(aligned(m, sweep.dims(value), out) if out else m)
    return found


def _combined(sweep: Sweep, node: Node) -> Known:
    if node.op == "Where" and node.domain == "":
        return _where(sweep, node)
    join = _JOINS.get(node.op)
    found = operands(sweep, node)
    if join is None or node.domain != "":
        moving = [m for m in found if m.var > 0.0]
        if node.op in _UNKNOWN or not moving:
            return None
        sweep.without_rule[node.op] += 1
        return moving[0]
    present = sum(v is not None for v in node.inputs)
    if len(found) < present and node.op in _NEED_ALL:
        return None
    if len(found) == 1:
        return found[0]
    if not found:
        return None
    made = join(sweep, found)
    roots = {m.reduced for m in found if m.var > 0.0}
    return replace(made, reduced=roots.pop()) if len(roots) == 1 else made


_UNKNOWN = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "And", "Or", "Xor", "Not", "IsNaN"})
_NEED_ALL = frozenset({"Pow", "PRelu"})


def _sum(sweep: Sweep, found: Sequence[Moments]) -> Moments:
    total = found[0]
    for m in found[1:]:
        total = add(total, m)
    return total


def _subtract(sweep: Sweep, found: Sequence[Moments]) -> Moments:
    """A - b; where b is the mean of a over some axes, what is left when that goes."""
    a, b = found
    if b.middle is not None and a.law is not None and (a.law.key, a.law.f) == (b.middle[0].key, b.middle[0].f):
        return centre(a, b.middle[1], b.middle[2])
    return add(a, b, -1.0)


def _multiply(sweep: Sweep, found: Sequence[Moments]) -> Moments:
    total = found[0]
    for m in found[1:]:
        total = multiply(total, m)
    return total


def _divide(sweep: Sweep, found: Sequence[Moments]) -> Moments:
    """A / b; where b is a spread or sum of a itself, by the root mean square of b: both rise and fall together."""
    a, b = found
    if b.var == 0.0:
        return scaled(a, 1.0 / b.mean) if b.mean else a
    if (a.law is not None and b.reduced and a.law.root == b.reduced) or b.mean**2 > 400.0 * b.var:
        return scaled(a, math.copysign(1.0, b.mean) / math.sqrt(b.second))
    inverse = sweep.apply(sweep.expression(_RECIPROCAL, (Expression(),)), b)
    if not inverse.second < 1e6 / b.second:
        return scaled(a, math.copysign(1.0, b.mean) / math.sqrt(b.second))
    return multiply(a, inverse)


def _mean(sweep: Sweep, found: Sequence[Moments]) -> Moments:
    return scaled(_sum(sweep, found), 1.0 / len(found))


def _largest(sweep: Sweep, found: Sequence[Moments], sign: float = 1.0) -> Moments:
    """The larger of normal values, two by two (Clark 1961); a mask's floor is no operand."""
    rest = [m for m in found if not m.hidden]
    if not rest:
        return found[0]
    total = scaled(rest[0], sign)
    for m in rest[1:]:
        total = _larger(total, scaled(m, sign))
    return scaled(total, sign)


def _larger(a: Moments, b: Moments) -> Moments:
    gap = add(a, b, -1.0)
    if gap.var == 0.0:
        return a if gap.mean >= 0 else b
    t = gap.mean / gap.std
    above = 0.5 * math.erfc(-t / math.sqrt(2.0))
    density = math.exp(-0.5 * t * t) / math.sqrt(2.0 * math.pi)
    mean = a.mean * above + b.mean * (1.0 - above) + gap.std * density
    second = a.second * above + b.second * (1.0 - above) + (a.mean + b.mean) * gap.std * density
    rho = [above * p + (1.0 - above) * q for p, q in zip(a.rho, b.rho, strict=False)]
    return normal(mean, max(0.0, second - mean * mean), rho)


def _smallest(sweep: Sweep, found: Sequence[Moments]) -> Moments:
    return _largest(sweep, found, -1.0)


def _slope(sweep: Sweep, found: Sequence[Moments]) -> Moments:
    """A parametric ReLU by slopes that vary: by their mean."""
    f = sweep.expression(Node("PRelu", "", "", "", [], [], {}), (Expression(), found[1].mean))
    return sweep.apply(f, found[0])


def _power(sweep: Sweep, found: Sequence[Moments]) -> Moments:
    f = sweep.expression(Node("Pow", "", "", "", [], [], {}), (Expression(), found[1].mean))
    return sweep.apply(f, found[0])


def _where(sweep: Sweep, node: Node) -> Known:
    """A choice between two values; one that hides (minus infinity) makes masked logits of the other."""
    out = sweep.dims(node.outputs[0])
    cond, yes, no = (
        None if (m := sweep.of(v)) is None else aligned(m, sweep.dims(v), out) if out else m for v in node.inputs[:3]
    )
    if yes is None or no is None:
        return yes or no
    share = None if cond is None else min(1.0, max(0.0, cond.mean))
    if share in (0.0, 1.0):
        return yes if share else no
    for hiding, shown, part in ((yes, no, share), (no, yes, None if share is None else 1.0 - share)):
        if hiding.hidden == 1.0:
            hidden = 0.5 if part is None else part
            return replace(shown, hidden=max(shown.hidden, hidden))
    return mix([(0.5 if share is None else share, yes), (0.5 if share is None else 1.0 - share, no)])


def _clip(sweep: Sweep, found: Sequence[Moments]) -> Moments:
    return found[0]


_JOINS: Mapping[str, Callable[[Sweep, Sequence[Moments]], Moments]] = {
    "Add": _sum,
    "Sum": _sum,
    "Sub": _subtract,
    "Mul": _multiply,
    "Div": _divide,
    "Mean": _mean,
    "Max": _largest,
    "Min": _smallest,
    "PRelu": _slope,
    "Pow": _power,
    "Clip": _clip,
}


# ---------------------------------------------------------------- operators of their own


@rule("SwiGLU")
@rule("SwiGLU", domain=MICROSOFT)
def swiglu(sweep: Sweep, node: Node) -> Known:
    """swish(a) b of two operands, or of the halves of one."""
    a = sweep.input(node)
    if a is None:
        return None
    gate = sweep.apply(sweep.expression(Node("Swish", "", "", "", [], [], node.attributes), (Expression(),)), a)
    other = sweep.input(node, 1) or replace(a, parts={}, law=a.law)
    return multiply(gate, normal(other.mean, other.var, other.rho))


@rule("BiasGelu", "FastGelu", "BiasSplitGelu", "BiasAdd", domain=MICROSOFT)
def biased(sweep: Sweep, node: Node) -> Known:
    """A bias along the last axis, then a function; BiasSplitGelu multiplies by the other half."""
    from onnxinit.signal.moments.rules.linear import finished

    m = sweep.input(node)
    made = finished(sweep, node, m, 1)
    if node.op != "BiasSplitGelu" or made is None or m is None:
        return made
    return multiply(made, normal(m.mean, m.var, m.rho))
