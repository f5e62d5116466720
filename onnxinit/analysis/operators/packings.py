"""Operators whose weights are packed: several codes to a byte, in blocks with a scale each.

A row reads the operand as it is unpacked. What is packed how a `Form` says: one function for each operator, entered by
`form`. An operand whose form is not understood is kept, with the reason that the function gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from onnx import TensorProto

from onnxinit.analysis.activations import by_name
from onnxinit.analysis.operators.layers import dense
from onnxinit.analysis.operators.standard import look_up
from onnxinit.analysis.operators.table import (
    MICROSOFT,
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
)
from onnxinit.analysis.weight import LINEAR, Activation

# What the codes of MatMulBnb4 stand for, in units of the largest magnitude of their block.
# Source: Dettmers, Pagnoni, Holtzman, Zettlemoyer: QLoRA, NeurIPS 2023, arXiv:2305.14314, appendix E; bitsandbytes
_FP4_HALF = (0.0, 0.00520833333, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25)
FP4 = (*_FP4_HALF, *(-x for x in _FP4_HALF))
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


class UnknownFormError(Exception):
    """What is not understood of a quantised tensor; whoever catches it keeps the tensor."""


@dataclass(frozen=True, slots=True)
class Form:
    """How the values of a packed operand are stored.

    Attributes:
        shape: Their shape.
        bits: Bits of a code.
        blocks: The neighbours with one scale along each axis; one number where they follow the stored order, whatever
            the axes.
        levels: What the codes stand for, times the scale, where they are no numbers themselves.
        high_first: Whether of two codes in a byte the first is the high half.
        groups: The operand that numbers the scale of every value along the last axes, -1 where the blocks do.
    """

    shape: tuple[int, ...]
    bits: int
    blocks: tuple[int, ...]
    levels: tuple[float, ...] = ()
    high_first: bool = False
    groups: int = -1


FormOf = Callable[[Site, int], Form]

FORMS: dict[Key, Mapping[int, FormOf]] = {}

PREPACKED = "its bytes are laid out for a kernel of one processor"
_UNSIGNED = {int(TensorProto.UINT8)}


def form(op: str, *at: int) -> Callable[[FormOf], FormOf]:
    """Enter what reads the form of operands of an operator, from the use and the element type."""

    def put(function: FormOf) -> FormOf:
        FORMS[MICROSOFT, op] = dict.fromkeys(at, function)
        return function

    return put


def _scales(*scales: int, zeros: tuple[int, ...] = ()) -> Mapping[int, str]:
    return {**dict.fromkeys(scales, SCALE), **dict.fromkeys(zeros, ZERO_POINT)}


# ---------------------------------------------------------------- products of blocks along the inputs


def _blocks(bits: str, size: str, groups: int = -1) -> FormOf:
    """Rows of (N, K/block, block) codes, with the attributes that say bits and block."""

    def read(site: Site, dtype: int) -> Form:
        node, shape = site.node, site.shape
        if node.int_attribute("weight_prepacked", 0):
            raise UnknownFormError(PREPACKED)
        if len(shape) != 3 or dtype not in _UNSIGNED:
            raise UnknownFormError
        numbered = groups if groups >= 0 and node.input(groups) is not None else -1
        block = node.int_attribute(size, 0)
        return Form((*shape[:2], block), node.int_attribute(bits, 4), (1, 1, block), groups=numbered)

    return read


for _op, _at in (("MatMulNBits", (1,)), ("MatMulNBitsMlp", (3, 6)), ("MatMulNBitsQkv", (3, 6, 9))):
    form(_op, *_at)(_blocks("bits", "block_size", groups=4 if _op == "MatMulNBits" else -1))
FORMS[MICROSOFT, "MatMulNBitsQLoRA"] = {
    1: _blocks("bits", "block_size"),
    **dict.fromkeys((3, 5), _blocks("lora_bits", "lora_block_size")),
}


def _rows(site: Site, inputs: int) -> Reading | None:
    """A weight (N, K/block, block) of some inputs K, the last block filled up."""
    if len(site.shape) != 3 or 0 in site.shape:
        return None
    n, blocks, size = site.shape
    stored = blocks * size  # fewer than K where several values share an element, more where the last block is filled up
    return Reading(
        "weight",
        [[(n, "out")], [(blocks, "in")], [(size, "in")]],
        taps=stored / (inputs or stored),
        output=out_value(site.node),
        source=site.node.input(0),
        out_axis=0,
    )


@row(
    "MatMulNBits",
    domain=MICROSOFT,
    holds={1: "weight (N, K/block, block), packed", 5: "bias (N)"},
    keeps=_scales(2, zeros=(3,)),
)
def matmul_nbits(site: Site) -> Reading | None:
    """MatMulNBits: as MatMul by the transpose of (N, K)."""
    if site.at == 5:
        return vector("bias", site, layer=1)
    reading = _rows(site, site.node.int_attribute("K", 0)) if site.at == 1 else None
    return None if reading is None else replace(reading, fuses=-1)


_MLP = {
    2: "norm_scale (K)",
    3: "weight (N, K/block, block), packed, of the gate",
    5: "bias (N)",
    6: "weight (N, K/block, block), packed, of the trunk",
    8: "bias (N)",
}
_QKV = {
    2: "norm_scale (K)",
    3: "weight (Q, K/block, block), packed",
    5: "bias (Q)",
    6: "weight (K, K/block, block), packed",
    8: "bias (K)",
    9: "weight (V, K/block, block), packed",
    11: "bias (V)",
}


def _behind_norm(site: Site, held: Mapping[int, str], after: Activation | None, output: int) -> Reading | None:
    """A product of several that share an input, which may be normalised before."""
    node, what = site.node, held.get(site.at, "")
    if what.startswith("bias"):
        return vector("bias", site, layer=site.at - 2)
    if what.startswith("norm_scale"):
        return vector("norm_scale", site)
    reading = _rows(site, node.int_attribute("K", 0)) if what else None
    if reading is None:
        return None
    normed = LINEAR if node.input(2) is not None else None
    return replace(reading, output=out_value(node, output), before=normed, after=after)


_GATES = {"silu": "Swish", "swish": "Swish", "gelu": "Gelu", "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}


@row("MatMulNBitsMlp", domain=MICROSOFT, holds=_MLP, keeps=_scales(4, 7))
def nbits_mlp(site: Site) -> Reading | None:
    """MatMulNBitsMlp: act(n W1 + b1) * (n W2 + b2), n the input or its norm."""
    name = site.node.string_attribute("activation", "")
    gate = by_name(_GATES[name]) if name in _GATES else Activation("other")
    return _behind_norm(site, _MLP, gate if site.at == 3 else LINEAR, 0)


@row("MatMulNBitsQkv", domain=MICROSOFT, holds=_QKV, keeps=_scales(4, 7, 10))
def nbits_qkv(site: Site) -> Reading | None:
    """MatMulNBitsQkv: three products of one normalised input, an output for each."""
    return _behind_norm(site, _QKV, None, (site.at - 3) // 3)


_LORA = {
    1: "weight (N, K/block, block), packed",
    3: "weight (R, K/block, block), packed, of the adapter",
    5: "weight (N, R/block, block), packed, of the adapter",
}


@row("MatMulNBitsQLoRA", domain=MICROSOFT, holds=_LORA, keeps=_scales(2, 4, 6))
def nbits_lora(site: Site) -> Reading | None:
    """MatMulNBitsQLoRA: x W + x A B, A of K inputs and R outputs, B of R inputs."""
    node, down = site.node, site.operand_shape(3)
    if site.at not in _LORA:
        return None
    rank = (down[0] if down else None) or 0
    reading = _rows(site, rank if site.at == 5 else node.int_attribute("K", 0))
    if reading is None or site.at == 1:
        return reading
    return replace(reading, after=LINEAR) if site.at == 3 else replace(reading, before=LINEAR, default=0.0)


@form("MatMulBnb4", 1)
def _bnb4(site: Site, dtype: int) -> Form:
    """(N, K) in one row, blocks along it; the first of two codes in the high half of a byte."""
    node = site.node
    n, k = node.int_attribute("N", 0), node.int_attribute("K", 0)
    levels = {0: FP4, 1: NF4}.get(node.int_attribute("quant_type", -1))
    if levels is None or dtype not in _UNSIGNED:
        raise UnknownFormError
    return Form((n, k), 4, (node.int_attribute("block_size", 0),), levels, high_first=True)


@row("MatMulBnb4", domain=MICROSOFT, holds={1: "weight (N, K), packed"}, keeps=_scales(2))
def matmul_bnb4(site: Site) -> Reading | None:
    """MatMulBnb4: as MatMul by (N, K), transposed unless told otherwise."""
    node = site.node
    if site.at != 1:
        return None
    return dense(site, 1, bool(node.int_attribute("transB", 1)), out_value(node), node.input(0))


@form("MatMulBlockQuantizedFp8Weight", 1)
def _fp8(site: Site, dtype: int) -> Form:
    return Form(site.shape, 8, (1, site.node.int_attribute("block_size", 128)))


@row(
    "MatMulBlockQuantizedFp8Weight",
    domain=MICROSOFT,
    holds={1: "weight (N, K)", 4: "bias (N)"},
    keeps=_scales(2, 3),
)
def matmul_fp8(site: Site) -> Reading | None:
    """MatMulBlockQuantizedFp8Weight: as MatMul by the transpose."""
    node = site.node
    if site.at == 4:
        return vector("bias", site, layer=1)
    return dense(site, 1, True, out_value(node), node.input(0)) if site.at == 1 else None


# ---------------------------------------------------------------- tables


@form("GatherBlockQuantized", 0)
def _table(site: Site, dtype: int) -> Form:
    """Codes along the last axis, blocks along the axis that an attribute names."""
    node, shape = site.node, site.shape
    bits = node.int_attribute("bits", 4) if dtype in _UNSIGNED else 0
    axis = node.int_attribute("quantize_axis", 1)
    if not shape or not -len(shape) <= axis < len(shape):
        raise UnknownFormError
    if bits:
        shape = (*shape[:-1], shape[-1] * 8 // bits)
    size = node.int_attribute("block_size", 128) or shape[axis]
    return Form(shape, bits, tuple((size if i == axis % len(shape) else 1) for i in range(len(shape))))


@row(
    "GatherBlockQuantized",
    domain=MICROSOFT,
    holds={0: "embedding (V, D), packed"},
    keeps=_scales(2, zeros=(3,)),
)
def gather_blocks(site: Site) -> Reading | None:
    """GatherBlockQuantized: as Gather."""
    axis = site.node.int_attribute("gather_axis", 0)
    if site.at or not -len(site.shape) <= axis < len(site.shape):
        return None
    return look_up(site, axis % len(site.shape))


# ---------------------------------------------------------------- formats of their own

OWN_FORMAT = "a quantised weight of {op}, whose scales lie among its codes in a format of its own"
_TWICE = "a quantised weight of {op}, whose scales are scaled again and held as bytes"
_FP4 = {5: "bias (N)"}


@row(
    "MatMulBlockQuantizedFp4Weight",
    domain=MICROSOFT,
    holds=_FP4,
    keeps={1: _TWICE, **_scales(2, 3, 4)},
)
def matmul_fp4(site: Site) -> Reading | None:
    """MatMulBlockQuantizedFp4Weight: the bias."""
    return vector(role_of(_FP4[5]), site, layer=1) if site.at == 5 else None


keep("MatMulFpQ4", domain=MICROSOFT, inputs={1: OWN_FORMAT})
keep("MatMulPacked", domain=MICROSOFT, inputs={1: OWN_FORMAT, **_scales(2)})
keep("GatherPacked", domain=MICROSOFT, inputs={0: OWN_FORMAT})
