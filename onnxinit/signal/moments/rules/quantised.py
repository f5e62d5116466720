"""Quantised values: what they stand for is carried, so that quantise pairs are transparent and scales are ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onnxinit.analysis.activations import function_within
from onnxinit.analysis.operators import MICROSOFT
from onnxinit.analysis.pointwise import Expression
from onnxinit.analysis.view import Node
from onnxinit.signal.moments.moments import add, constant, multiply, shaped
from onnxinit.signal.moments.rules.reductions import averaged, over
from onnxinit.signal.moments.rules.shapes import aligned, dropped
from onnxinit.signal.moments.rules.table import Known, rule

if TYPE_CHECKING:
    from onnxinit.signal.moments.carry import Sweep


@rule("QuantizeLinear", "DequantizeLinear")
@rule("QuantizeLinear", "DequantizeLinear", "QuantizeWithOrder", "DequantizeWithOrder", domain=MICROSOFT)
def same(sweep: Sweep, node: Node) -> Known:
    """The real value."""
    return sweep.input(node)


@rule("DynamicQuantizeLinear")
def dynamic(sweep: Sweep, node: Node) -> list[Known]:
    """The real value, and a scale of one."""
    return [sweep.input(node), constant(1.0), constant(0.0)]


@rule("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def binary(sweep: Sweep, node: Node) -> Known:
    """A sum or a product."""
    a, b = sweep.input(node, 0), sweep.input(node, 3)
    if a is None or b is None:
        return a or b
    out = sweep.dims(node.outputs[0])
    a, b = aligned(a, sweep.dims(node.input(0)), out), aligned(b, sweep.dims(node.input(3)), out)
    return add(a, b) if node.op == "QLinearAdd" else multiply(a, b)


@rule("QLinearSigmoid", "QLinearLeakyRelu", "QOrderedGelu", domain=MICROSOFT)
def function(sweep: Sweep, node: Node) -> Known:
    """A pointwise function."""
    m = sweep.input(node)
    f = function_within(node)
    if f is None and node.op == "QOrderedGelu":
        f = sweep.expression(Node("Gelu", MICROSOFT, "", "", [], [], {}), (Expression(),))
    return m if m is None or f is None else sweep.apply(f, m)


@rule("QLinearReduceMean", domain=MICROSOFT)
def mean(sweep: Sweep, node: Node) -> Known:
    """A mean over axes."""
    m = sweep.input(node)
    if m is None:
        return None
    axes, _, keep = over(sweep, node)
    return shaped(averaged(sweep, m, axes, sweep.dims(node.input(0))), lambda rho: dropped(rho, axes, keep))


@rule("QLinearWhere", domain=MICROSOFT)
def where(sweep: Sweep, node: Node) -> Known:
    """One of two."""
    from onnxinit.signal.moments.moments import mix

    yes, no = sweep.input(node, 1), sweep.input(node, 4)
    return mix([(0.5, yes), (0.5, no)]) if yes is not None and no is not None else yes or no


@rule("MulInteger", domain=MICROSOFT)
def product(sweep: Sweep, node: Node) -> Known:
    """A product."""
    a, b = sweep.input(node, 0), sweep.input(node, 2)
    return replace(multiply(a, b)) if a is not None and b is not None and len(a.rho) == len(b.rho) else a
