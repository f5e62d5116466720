"""Quantised operators: how their integer weights lie, and which operands are scales and zero points.

A row reads an integer operand just as its float sibling's row reads a float one; `PARAMETERS` and `FACTORS` say where
its scale and zero point are.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxinit.analysis.operators.layers import convolution, dense, transposed_convolution
from onnxinit.analysis.operators.standard import look_up
from onnxinit.analysis.operators.table import (
    MICROSOFT,
    NHWC,
    SCALE,
    ZERO_POINT,
    Key,
    Reading,
    Site,
    keep,
    out_value,
    role_of,
    row,
    vector,
    vectors,
)


def _scales(*scales: int, zeros: tuple[int, ...] = ()) -> Mapping[int, str]:
    return {**dict.fromkeys(scales, SCALE), **dict.fromkeys(zeros, ZERO_POINT)}


# By operator, for each quantised operand: the inputs of its scale and zero point, -1 where the operator has none.
PARAMETERS: Mapping[Key, Mapping[int, tuple[int, int]]] = {
    **{(domain, "QLinearConv"): {3: (4, 5)} for domain in ("", MICROSOFT, NHWC)},
    (NHWC, "QLinearConvTranspose"): {3: (4, 5)},
    ("", "QLinearMatMul"): {0: (1, 2), 3: (4, 5)},
    ("", "ConvInteger"): {1: (-1, 3)},
    ("", "MatMulInteger"): {0: (-1, 2), 1: (-1, 3)},
    (MICROSOFT, "MatMulInteger16"): {0: (-1, -1), 1: (-1, -1)},
    (MICROSOFT, "DynamicQuantizeMatMul"): {1: (2, 3)},
    (MICROSOFT, "MatMulIntegerToFloat"): {0: (2, 4), 1: (3, 5)},
    (MICROSOFT, "QGemm"): {0: (1, 2), 3: (4, 5)},
    (MICROSOFT, "DynamicQuantizeLSTM"): {1: (8, 9), 2: (10, 11)},
    (MICROSOFT, "QAttention"): {1: (4, 7)},
    (MICROSOFT, "QEmbedLayerNormalization"): {i: (i + 6, i + 11) for i in range(2, 7)},
    (MICROSOFT, "MatMulNBits"): {1: (2, 3)},
    (MICROSOFT, "MatMulNBitsMlp"): {3: (4, -1), 6: (7, -1)},
    (MICROSOFT, "MatMulNBitsQkv"): {3: (4, -1), 6: (7, -1), 9: (10, -1)},
    (MICROSOFT, "MatMulNBitsQLoRA"): {1: (2, -1), 3: (4, -1), 5: (6, -1)},
    (MICROSOFT, "MatMulBnb4"): {1: (2, -1)},
    (MICROSOFT, "MatMulBlockQuantizedFp8Weight"): {1: (2, -1)},
    (MICROSOFT, "GatherBlockQuantized"): {0: (2, 3)},
    (MICROSOFT, "QMoE"): {2: (3, 11), 5: (6, 12), 8: (9, 13)},
}
# By operator, for its int32 bias: the inputs of the two scales whose product is the bias's.
FACTORS: Mapping[Key, Mapping[int, tuple[int, int]]] = {
    **{(domain, "QLinearConv"): {8: (1, 4)} for domain in ("", MICROSOFT, NHWC)},
    (NHWC, "QLinearConvTranspose"): {8: (1, 4)},
    (MICROSOFT, "QGemm"): {6: (1, 4)},
}

# ---------------------------------------------------------------- between float and integer

for _domain in ("", MICROSOFT):
    keep("QuantizeLinear", "DequantizeLinear", domain=_domain, inputs=_scales(1, zeros=(2,)))
keep("QuantizeWithOrder", "DequantizeWithOrder", domain=MICROSOFT, inputs=_scales(1))

# ---------------------------------------------------------------- layers

_CONV = {3: "weight (M, C/g, k...)", 8: "bias (M)"}
_CONV_SCALES = _scales(1, 4, 6, zeros=(2, 5, 7))


@row("QLinearConv", holds=_CONV, keeps=_CONV_SCALES)
@row("QLinearConv", domain=MICROSOFT, holds=_CONV, keeps=_CONV_SCALES)
@row("QLinearConv", domain=NHWC, holds=_CONV, keeps=_CONV_SCALES)
def qlinear_conv(site: Site) -> Reading | None:
    """QLinearConv: as Conv."""
    return convolution(site, 3, 8)


@row("QLinearConvTranspose", domain=NHWC, holds={3: "weight (C, M/g, k...)", 8: "bias (M)"}, keeps=_CONV_SCALES)
def qlinear_conv_transpose(site: Site) -> Reading | None:
    """QLinearConvTranspose: as ConvTranspose."""
    return transposed_convolution(site, 3, 8)


@row("ConvInteger", holds={1: "weight (M, C/g, k...)"}, keeps=_scales(zeros=(2, 3)))
def conv_integer(site: Site) -> Reading | None:
    """ConvInteger: as Conv, without a bias."""
    return convolution(site, 1, -1)


@row("QLinearMatMul", holds={0: "weight (..., M, K)", 3: "weight (..., K, N)"}, keeps=_scales(1, 4, 6, zeros=(2, 5, 7)))
def qlinear_matmul(site: Site) -> Reading | None:
    """QLinearMatMul: as MatMul, with its right factor at input 3."""
    if site.at not in (0, 3):
        return None
    return dense(site, site.at // 3, False, out_value(site.node), site.node.input(3 - site.at))


_FACTORS = {0: "weight (..., M, K)", 1: "weight (..., K, N)"}


@row("MatMulInteger", holds=_FACTORS, keeps=_scales(zeros=(2, 3)))
@row("MatMulInteger16", domain=MICROSOFT, holds=_FACTORS)
@row("DynamicQuantizeMatMul", domain=MICROSOFT, holds={**_FACTORS, 4: "bias (N)"}, keeps=_scales(2, zeros=(3,)))
@row("MatMulIntegerToFloat", domain=MICROSOFT, holds={**_FACTORS, 6: "bias (N)"}, keeps=_scales(2, 3, zeros=(4, 5)))
def matmul_integer(site: Site) -> Reading | None:
    """MatMulInteger and what fuses a scale and a bias to it: as MatMul."""
    node = site.node
    if site.at == {"DynamicQuantizeMatMul": 4, "MatMulIntegerToFloat": 6}.get(node.op):
        return vector("bias", site, layer=1)
    return dense(site, site.at, False, out_value(node), node.input(1 - site.at)) if site.at < 2 else None


@row(
    "QGemm",
    domain=MICROSOFT,
    holds={0: "weight (M, K), or (K, M) with transA", 3: "weight (K, N), or (N, K) with transB", 6: "bias (N)"},
    keeps=_scales(1, 4, 7, zeros=(2, 5, 8)),
)
def qgemm(site: Site) -> Reading | None:
    """QGemm: as Gemm, with its right factor at input 3."""
    node = site.node
    if site.at == 6:
        return vector("bias", site, layer=3)
    if site.at not in (0, 3):
        return None
    flag = node.int_attribute("transB" if site.at else "transA", 0)
    return dense(site, site.at // 3, bool(flag), out_value(node), node.input(3 - site.at))


@row(
    "QOrderedMatMul",
    domain=MICROSOFT,
    holds={2: "weight (K, N)", 5: "bias (N)"},
    keeps={**_scales(1, 3, 4, 7), 6: "a quantised operand of {op}"},
)
def qordered_matmul(site: Site) -> Reading | None:
    """QOrderedMatMul: as MatMul."""
    if site.at == 5:
        return vector("bias", site, layer=2)
    return dense(site, 1, False, out_value(site.node), site.node.input(0)) if site.at == 2 else None


# ---------------------------------------------------------------- attention, embeddings and norms

_LAID_OUT = "a quantised weight of {op}, laid out for a library of matrix products"
_ORDERED = dict.fromkeys((5, 6, 7), _LAID_OUT)
vectors(
    "QOrderedAttention",
    domain=MICROSOFT,
    holds={11: "bias (Q)", 12: "bias (K)", 13: "bias (V)", 19: "positional, added to the scores"},
    keeps={**_ORDERED, **_scales(1, 2, 3, 4, 8, 9, 10, 14, 15, 16)},
)
vectors(
    "QOrderedLongformerAttention",
    domain=MICROSOFT,
    holds={4: "bias (Q + K + V)", 10: "bias (Q + K + V) of the global tokens"},
    keeps={2: _LAID_OUT, 8: _LAID_OUT, **_scales(1, 3, 5, 6, 9, 11, 13)},
)
vectors(
    "QOrderedLayerNormalization",
    domain=MICROSOFT,
    holds={2: "norm_scale (C)", 3: "norm_shift (C)"},
    keeps=_scales(1, 4),
)
_EMBEDDED = {
    2: "embedding (V, D), of words",
    3: "positional (T, D)",
    4: "embedding (S, D), of segments",
    5: "norm_scale (D)",
    6: "norm_shift (D)",
}


@row(
    "QEmbedLayerNormalization",
    domain=MICROSOFT,
    holds=_EMBEDDED,
    keeps=_scales(*range(8, 13), zeros=(13, 14, 15, 16, 17)),
)
def qembed_layer_norm(site: Site) -> Reading | None:
    """QEmbedLayerNormalization: as EmbedLayerNormalization."""
    if site.at not in _EMBEDDED:
        return None
    role = role_of(_EMBEDDED[site.at])
    return Reading(role, look_up(site, 0).tiles) if site.at < 5 else vector(role, site)


# ---------------------------------------------------------------- pointwise and pooling

_OPERAND = "a quantised operand of {op}"
for _op in ("QLinearAdd", "QLinearMul"):
    keep(_op, domain=MICROSOFT, inputs={0: _OPERAND, 3: _OPERAND, **_scales(1, 4, 6, zeros=(2, 5, 7))})
for _op in ("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearReduceMean", "QLinearAveragePool"):
    keep(_op, domain=MICROSOFT, inputs=_scales(1, 3, zeros=(2, 4)))
keep("QLinearGlobalAveragePool", domain=MICROSOFT, inputs=_scales(1, 3, zeros=(2, 4)))
keep("QLinearAveragePool", domain=NHWC, inputs=_scales(1, 3, zeros=(2, 4)))
keep(
    "QLinearWhere",
    domain=MICROSOFT,
    inputs={1: _OPERAND, 4: _OPERAND, **_scales(2, 5, 7, zeros=(3, 6, 8))},
)
keep("QLinearConcat", domain=MICROSOFT, inputs={2: _OPERAND, **_scales(0, 3, zeros=(1, 4))})
keep("MulInteger", domain=MICROSOFT, inputs={0: _OPERAND, 2: _OPERAND, **_scales(zeros=(1, 3))})
keep("QOrderedGelu", domain=MICROSOFT, inputs=_scales(1, 2))
