"""Fused operators as the plain ones that they stand for, so that what comes before an activation can be measured.

One function for each operator, one table. A function gets a node and what finds the real values of a quantised weight
(the name of a tensor with them, "" where there is none), and gives the nodes in its place; none, to leave it whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper

from onnxinit.analysis.held import OPERANDS
from onnxinit.analysis.operators import ML

Real = Callable[[str], str]
Split = Callable[[NodeProto, Real], list[NodeProto]]

MICROSOFT = "com.microsoft"

SPLITS: dict[tuple[str, str], Split] = {}


def _row(*ops: str, domain: str = MICROSOFT) -> Callable[[Split], Split]:
    def put(function: Split) -> Split:
        SPLITS.update({(domain, op): function for op in ops})
        return function

    return put


def _input(node: NodeProto, index: int) -> str:
    return str(node.input[index]) if index < len(node.input) else ""


def _plain(node: NodeProto, op: str, inputs: Sequence[str], output: str, without: Sequence[str] = ()) -> NodeProto:
    """The node with another operator and operands, and only those attributes that are not named."""
    made = helper.make_node(op, list(inputs), [output], name=node.name)
    made.attribute.extend(a for a in node.attribute if a.name not in without)
    return made


_FUNCTIONS: dict[str, tuple[str, ...]] = {  # with the attributes that their parameters become
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Elu": ("alpha",),
    "Softplus": (),
    "Softsign": (),
    "ThresholdedRelu": ("alpha",),
    "Selu": ("alpha", "gamma"),
}


def _activation(name: str, parameters: Sequence[float], source: str, output: str) -> list[NodeProto]:
    """The node of a fused activation; none where it is not known."""
    if name in _FUNCTIONS:
        node = helper.make_node(name, [source], [output])
        node.attribute.extend(map(helper.make_attribute, _FUNCTIONS[name], parameters))
        return [node]
    if name == "Clip" and len(parameters) == 2:
        bounds = [f"{output}/low", f"{output}/high"]
        constants = [
            helper.make_node("Constant", [], [b], value_float=float(p)) for b, p in zip(bounds, parameters, strict=True)
        ]
        return [*constants, helper.make_node("Clip", [source, *bounds], [output])]
    return []


def held_name(node: NodeProto, attribute: str) -> str:
    """The name of the stored tensor that an attribute's list of floats is."""
    return f"{next(name for name in node.output if name)}/{attribute}"


def _text(a: AttributeProto | None) -> str:
    return a.s.decode() if a is not None else ""


@_row("FusedConv")
def _fused_conv(node: NodeProto, real: Real) -> list[NodeProto]:
    """FusedConv: activation(Conv(x, w, b) + z)."""
    attributes = {a.name: a for a in node.attribute}
    out, added = node.output[0], _input(node, 3)
    linear = f"{out}/linear"
    parameters = attributes["activation_params"].floats if "activation_params" in attributes else ()
    last = _activation(_text(attributes.get("activation")), parameters, f"{out}/sum" if added else linear, out)
    if not last:
        return []
    conv = _plain(node, "Conv", node.input[:3], linear, ("activation", "activation_params"))
    return [conv, *([helper.make_node("Add", [linear, added], [f"{out}/sum"])] if added else []), *last]


@_row("FusedGemm", "FusedMatMulActivation")
def _fused_product(node: NodeProto, real: Real) -> list[NodeProto]:
    """FusedGemm: activation(Gemm(a, b, c)), FusedMatMulActivation: activation(FusedMatMul(a, b))."""
    attributes = {a.name: a for a in node.attribute}
    named = [n for n in attributes if n.startswith("activation")]
    parameters = [attributes[n].f for n in ("activation_alpha", "activation_beta", "activation_gamma") if n in named]
    out = node.output[0]
    last = _activation(_text(attributes.get("activation")), parameters, f"{out}/linear", out)
    if not last:
        return []
    product = _plain(node, "Gemm" if node.op_type == "FusedGemm" else "FusedMatMul", node.input, f"{out}/linear", named)
    product.domain = "" if node.op_type == "FusedGemm" else MICROSOFT
    return [product, *last]


@_row("BiasGelu", "FastGelu")
def _bias_gelu(node: NodeProto, real: Real) -> list[NodeProto]:
    """BiasGelu and FastGelu: gelu(x + bias)."""
    if not _input(node, 1):
        return []
    out = node.output[0]
    op = "Gelu" if node.op_type == "BiasGelu" else "FastGelu"
    return [
        helper.make_node("Add", node.input[:2], [f"{out}/sum"], name=node.name),
        helper.make_node(op, [f"{out}/sum"], [out], domain=MICROSOFT),
    ]


@_row("GemmFastGelu")
def _gemm_fast_gelu(node: NodeProto, real: Real) -> list[NodeProto]:
    """GemmFastGelu: gelu(x @ w + bias)."""
    out, bias = node.output[0], _input(node, 2)
    product = _plain(node, "MatMul", node.input[:2], f"{out}/linear")
    added = [helper.make_node("Add", [f"{out}/linear", bias], [f"{out}/sum"])] if bias else []
    source = f"{out}/sum" if bias else f"{out}/linear"
    return [product, *added, helper.make_node("FastGelu", [source], [out], domain=MICROSOFT)]


@_row("QLinearConv", domain="")
def _qlinear_conv(node: NodeProto, real: Real) -> list[NodeProto]:
    """QLinearConv (x, sx, zx, w, sw, zw, sy, zy, b): quantise(Conv(dequantise(x), w, b))."""
    x, sx, zx, w, _, _, sy, zy = node.input[:8]
    weight, b = real(w), _input(node, 8)
    bias = real(b) if b else ""
    if not weight or (b and not bias):
        return []
    out = node.output[0]
    return [
        helper.make_node("DequantizeLinear", [x, sx, zx], [f"{out}/x"]),
        _plain(node, "Conv", [f"{out}/x", weight, *([bias] if bias else [])], f"{out}/linear"),
        helper.make_node("QuantizeLinear", [f"{out}/linear", sy, zy], [out]),
    ]


@_row("QLinearMatMul", domain="")
def _qlinear_matmul(node: NodeProto, real: Real) -> list[NodeProto]:
    """QLinearMatMul (a, sa, za, b, sb, zb, sy, zy): quantise(a' @ b'), with the weight on either side."""
    a, sa, za, b, sb, zb, sy, zy = node.input[:8]
    left, right = real(a), real(b)
    if bool(left) == bool(right):
        return []
    out = node.output[0]
    other = helper.make_node("DequantizeLinear", [b, sb, zb] if left else [a, sa, za], [f"{out}/x"])
    return [
        other,
        _plain(node, "MatMul", [left, f"{out}/x"] if left else [f"{out}/x", right], f"{out}/linear"),
        helper.make_node("QuantizeLinear", [f"{out}/linear", sy, zy], [out]),
    ]


@_row("QGemm")
def _qgemm(node: NodeProto, real: Real) -> list[NodeProto]:
    """QGemm (a, sa, za, b, sb, zb, c, sy, zy): Gemm of the real values, quantised where sy is there."""
    a, sa, za, b = node.input[:4]
    c, sy, zy = (_input(node, i) for i in (6, 7, 8))
    weight, bias = real(b), real(c) if c else ""
    if not weight or (c and not bias):
        return []
    out = node.output[0]
    linear = f"{out}/linear" if sy else out
    made = [
        helper.make_node("DequantizeLinear", [a, sa, za], [f"{out}/x"]),
        _plain(node, "Gemm", [f"{out}/x", weight, *([bias] if bias else [])], linear),
    ]
    return [*made, helper.make_node("QuantizeLinear", [linear, sy, zy], [out])] if sy else made


def _between(
    node: NodeProto, sources: Sequence[Sequence[str]], result: Sequence[str], op: NodeProto
) -> list[NodeProto]:
    """An operator on the real values of codes, (codes, scale, zero point) each, whose result becomes codes again."""
    out = node.output[0]
    made = [helper.make_node("DequantizeLinear", list(filter(None, s)), [f"{out}/x{i}"]) for i, s in enumerate(sources)]
    op.input[:] = [f"{out}/x{i}" for i in range(len(sources))]
    op.output[:] = [f"{out}/real"]
    return [*made, op, helper.make_node("QuantizeLinear", [f"{out}/real", *filter(None, result)], [out])]


@_row("QLinearAdd", "QLinearMul")
def _qlinear_binary(node: NodeProto, real: Real) -> list[NodeProto]:
    """QLinearAdd and QLinearMul (a, sa, za, b, sb, zb, sy, zy)."""
    read = [_input(node, i) for i in range(8)]
    op = _plain(node, node.op_type.removeprefix("QLinear"), [], "")
    return _between(node, [read[:3], read[3:6]], read[6:], op)


_NAMES = {"QLinearLeakyRelu": "LeakyRelu", "QLinearSigmoid": "Sigmoid", "QLinearGlobalAveragePool": "GlobalAveragePool"}


@_row(*_NAMES)
def _qlinear_unary(node: NodeProto, real: Real) -> list[NodeProto]:
    """A function or pool of codes (x, sx, zx, sy, zy) with the channels first."""
    if any(a.name == "channels_last" and a.i for a in node.attribute):
        return []
    read = [_input(node, i) for i in range(5)]
    return _between(node, [read[:3]], read[3:], _plain(node, _NAMES[node.op_type], [], "", ("channels_last",)))


@_row("QLinearConcat")
def _qlinear_concat(node: NodeProto, real: Real) -> list[NodeProto]:
    """QLinearConcat (sy, zy, then codes, scale and zero point of each)."""
    sources = [node.input[i : i + 3] for i in range(2, len(node.input), 3)]
    return _between(node, sources, node.input[:2], _plain(node, "Concat", [], ""))


@_row("MatMulIntegerToFloat", "DynamicQuantizeMatMul")
def _to_float(node: NodeProto, real: Real) -> list[NodeProto]:
    """MatMulIntegerToFloat (a, b, sa, sb, za, zb, bias) and DynamicQuantizeMatMul (x, b, sb, zb, bias)."""
    dynamic = node.op_type == "DynamicQuantizeMatMul"
    weight, bias = real(node.input[1]), _input(node, 4 if dynamic else 6)
    if not weight:
        return []
    out, x = node.output[0], node.input[0]
    made: list[NodeProto] = []
    if not dynamic:
        x = f"{out}/x"
        made.append(helper.make_node("DequantizeLinear", [node.input[0], node.input[2], _input(node, 4)], [x]))
    made.append(helper.make_node("MatMul", [x, weight], [f"{out}/linear" if bias else out], name=node.name))
    return [*made, helper.make_node("Add", [f"{out}/linear", bias], [out])] if bias else made


@_row("LinearRegressor", "LinearClassifier", domain=ML)
def _linear(node: NodeProto, real: Real) -> list[NodeProto]:
    """The product x W^T + b, then the operator itself with W = I and b = 0 for labels and the function at its end."""
    attributes = {a.name: a for a in node.attribute}
    shape = OPERANDS[ML, node.op_type](attributes)["coefficients"]
    if not shape:
        return []
    weight, rows = held_name(node, "coefficients"), shape[0]
    has_bias = "intercepts" in attributes and len(attributes["intercepts"].floats) == rows
    last = helper.make_node(
        node.op_type, [f"{weight}/linear"], list(node.output), domain=ML,
        coefficients=np.eye(rows, dtype=np.float32).reshape(-1).tolist(), intercepts=[0.0] * rows,
    )  # fmt: skip
    last.attribute.extend(a for a in node.attribute if a.name not in ("coefficients", "intercepts"))
    operands = [f"{weight}/x", f"{weight}/matrix", *([held_name(node, "intercepts")] if has_bias else [])]
    return [
        helper.make_node("Cast", [node.input[0]], [f"{weight}/x"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], [f"{weight}/shape"], value_ints=list(shape)),
        helper.make_node("Reshape", [weight, f"{weight}/shape"], [f"{weight}/matrix"]),
        helper.make_node("Gemm", operands, [f"{weight}/linear"], name=node.name, transB=1),
        last,
    ]
