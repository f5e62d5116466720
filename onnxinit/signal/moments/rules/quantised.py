"""Quantised values: what they stand for is carried, so that quantise pairs are transparent and scales are ones.

A scale that is stored is kept with its model, and cuts off what its codes do not hold: the steps are taken for fine,
the range counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from onnx import TensorProto

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

_FAR = 1e30
_CLIP = Node("Clip", "", "", "", [], [], {})


_CODES: Mapping[int, tuple[float, float]] = {
    TensorProto.UINT8: (0.0, 255.0),
    TensorProto.INT8: (-128.0, 127.0),
    TensorProto.UINT16: (0.0, 65535.0),
    TensorProto.INT16: (-32768.0, 32767.0),
    TensorProto.UINT4: (0.0, 15.0),
    TensorProto.INT4: (-8.0, 7.0),
}


def coded(sweep: Sweep, node: Node, m: Known, scale_at: int) -> Known:
    """A value in the range of its codes, (low - zero point) scale to (high - zero point) scale.

    Args:
        sweep: The sweep.
        node: The operator that makes the codes, its zero point the operand after the scale.
        m: The value.
        scale_at: Where the scale is; one for a whole tensor counts, one a channel is for weights.
    """
    scale, point, result = sweep.stored(node.input(scale_at)), node.input(scale_at + 1), node.outputs[0]
    kinds = [v.dtype for v in (point, result) if v is not None and v.dtype]
    codes = _CODES.get(kinds[0] if kinds else TensorProto.UINT8)
    if m is None or codes is None or scale is None or scale.size != 1 or m.var == 0.0:
        return m
    zero = sweep.stored(point)
    step, middle = float(scale.reshape(-1)[0]), float(zero.reshape(-1)[0]) if zero is not None and zero.size else 0.0
    low, high = ((code - middle) * step for code in codes)
    if sweep.loose:  # only where codes begin at zero, which stands for a ReLU, they cut something off
        low, high = (0.0 if low == 0.0 else -_FAR), _FAR
    return sweep.apply(sweep.expression(_CLIP, (Expression(), low, high)), m)


@rule("QuantizeLinear")
@rule("QuantizeLinear", domain=MICROSOFT)
def quantise(sweep: Sweep, node: Node) -> Known:
    """The real value, in the range of the codes."""
    m = sweep.input(node)
    return coded(sweep, node, m, 1) if node.inputs[0] is not None and not node.inputs[0].static else m


@rule("DequantizeLinear")
@rule("DequantizeLinear", "QuantizeWithOrder", "DequantizeWithOrder", domain=MICROSOFT)
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
    return coded(sweep, node, add(a, b) if node.op == "QLinearAdd" else multiply(a, b), 6)


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
