"""The operator table: which inputs of an operator training learns, and what their axes mean.

A row is a function of a `Use` site that answers with a `Reading`, or None where the operand is no weight. To teach the
walker a new operator, add a row here (and, where it only moves elements, in `views`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from onnxinit.analysis.trail import Tile, Trail
from onnxinit.analysis.view import Node, Value
from onnxinit.analysis.weight import Kind

MICROSOFT = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Site:
    """One use of a tensor: a node, the input, and how the tensor stands in it."""

    node: Node
    at: int
    trail: Trail

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the operand."""
        return self.trail.shape

    def operand_shape(self, index: int) -> tuple[int | None, ...] | None:
        """The shape of another operand as far as it is known."""
        value = self.node.input(index)
        return value.shape if value is not None else None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a use says of the tensor.

    Attributes:
        role: One of the roles.
        tiles: For every axis of the operand the (size, kind) it splits into; None for a role without matrices.
        groups: Convolution groups.
        taps: Divisor of fan_in: a strided transposed convolution reaches an output with every stride-th tap only.
        output: The layer's output value, for the downstream activation.
        source: The layer's input value, for the upstream activation.
        fuses: The axis of `output` that the outputs of the layer run along, where it may be a fused projection.
        out_axis: The operand's axis that makes `fuses`.
        names: Names of the blocks.
        layer: The operand that holds the layer's weight, for a bias.
        default: A default of its own.
        note: What a reader should know.
    """

    role: str
    tiles: Sequence[Sequence[Tile]] | None = None
    groups: int = 1
    taps: float = 1.0
    output: Value | None = None
    source: Value | None = None
    fuses: int | None = None
    out_axis: int | None = None
    names: tuple[str, ...] = ()
    layer: Value | None = None
    default: float | None = None
    note: str = ""
    fan_in: float | None = field(default=None)


Row = Callable[[Site], Reading | None]

OPERATORS: dict[tuple[str, str], Row] = {}


def row(*ops: str, domain: str = "") -> Callable[[Row], Row]:
    """Put a function into the table for the operators named."""

    def put(function: Row) -> Row:
        OPERATORS.update({(domain, op): function for op in ops})
        return function

    return put


def out_value(node: Node, index: int = 0) -> Value | None:
    """An output of a node, None where it is omitted."""
    return node.outputs[index] if index < len(node.outputs) else None


def vector(role: str, site: Site, *, layer: int | None = None, default: float | None = None) -> Reading:
    """A learned vector beside a layer or a norm."""
    node = site.node
    return Reading(
        role,
        output=out_value(node),
        source=node.input(0),
        layer=node.input(layer) if layer is not None else None,
        default=default,
    )


# ---------------------------------------------------------------- convolutions


def _kernel(shape: Sequence[int]) -> list[list[Tile]]:
    return [[(n, "kernel")] for n in shape[2:]]


@row("Conv")
@row("FusedConv", "NhwcFusedConv", "Conv", domain=MICROSOFT)
@row("Conv", domain="com.ms.internal.nhwc")
def conv(site: Site) -> Reading | None:
    """Conv: W (M, C/g, k...), fan_in = C/g*prod(k), fan_out = M/g*prod(k)."""
    if site.at == 2:
        return vector("bias", site, layer=1)
    if site.at != 1 or len(site.shape) < 3:
        return None
    node, (m, c, *_) = site.node, site.shape
    g = node.int_attribute("group", 1)
    if m % g:
        return None
    tiles: list[list[Tile]] = [[(g, "block"), (m // g, "out")], [(c, "in")], *_kernel(site.shape)]
    return Reading(
        "weight", tiles, groups=g, output=out_value(node), source=node.input(0), fuses=1 if g == 1 else None, out_axis=0
    )


@row("ConvTranspose")
@row("ConvTransposeWithDynamicPads", domain=MICROSOFT)
def conv_transpose(site: Site) -> Reading | None:
    """ConvTranspose: W (C, M/g, k...), fan_in = C/g*prod(k)/prod(strides), fan_out = M/g*prod(k)."""
    bias = 2 if site.node.op == "ConvTranspose" else 3
    if site.at == bias:
        return vector("bias", site, layer=1)
    if site.at != 1 or len(site.shape) < 3:
        return None
    node, (c, m, *_) = site.node, site.shape
    g = node.int_attribute("group", 1)
    strides = node.ints_attribute("strides") or [1]
    tiles: list[list[Tile]] = [[(g, "block"), (c // g, "in")], [(m, "out")], *_kernel(site.shape)]
    return Reading(
        "weight", tiles, groups=g, taps=float(math.prod(strides)), output=out_value(node), source=node.input(0)
    )


@row("DeformConv")
def deform_conv(site: Site) -> Reading | None:
    """DeformConv: as Conv, with the bias at input 3."""
    if site.at == 3:
        return vector("bias", site, layer=1)
    return conv(site) if site.at == 1 else None


# ---------------------------------------------------------------- matrix products


def _batch(n: int) -> list[Tile]:
    return [(n, "block")]


def dense(site: Site, side: int, transposed: bool, output: Value | None, source: Value | None) -> Reading | None:
    """A factor of a matrix product: (..., K, N) on the right, (..., M, K) on the left; leading axes are batches."""
    shape = site.shape
    if not shape:
        return None
    if len(shape) == 1:
        return Reading("weight", [[(shape[0], "in")]], output=output, source=source)
    right: tuple[Kind, Kind] = ("in", "out")
    kinds: tuple[Kind, Kind] = right if (side == 1) != transposed else ("out", "in")
    tiles: list[list[Tile]] = [*map(_batch, shape[:-2]), [(shape[-2], kinds[0])], [(shape[-1], kinds[1])]]
    out_axis = len(shape) - 2 + kinds.index("out")
    return Reading("weight", tiles, output=output, source=source, fuses=-1 if side == 1 else -2, out_axis=out_axis)


@row("MatMul")
@row("FusedMatMul", "FusedMatMulActivation", "TransposeMatMul", domain=MICROSOFT)
def matmul(site: Site) -> Reading | None:
    """MatMul with the weight on either side."""
    node = site.node
    if site.at > 1:
        return None
    flag = node.int_attribute("transB" if site.at == 1 else "transA", 0)
    return dense(site, site.at, bool(flag), out_value(node), node.input(1 - site.at))


@row("Gemm")
@row("FusedGemm", "GemmFastGelu", domain=MICROSOFT)
def gemm(site: Site) -> Reading | None:
    """Gemm: alpha * A' B' + beta * C."""
    node = site.node
    if site.at == 2:
        return vector("bias", site, layer=1 if (b := node.input(1)) is not None and b.static else 0)
    flag = node.int_attribute("transB" if site.at == 1 else "transA", 0)
    return dense(site, site.at, bool(flag), out_value(node), node.input(1 - site.at))


@row("Einsum")
def einsum(site: Site) -> Reading | None:
    """Einsum: an index that the result drops is contracted; one that others carry too is a batch; else it is free."""
    equation = site.node.string_attribute("equation").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if site.at >= len(terms) or "..." in terms[site.at] or len(terms[site.at]) != len(site.shape):
        return None
    if not arrow:
        result = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    others = {c for i, t in enumerate(terms) if i != site.at for c in t}
    tiles: list[list[Tile]] = []
    for letter, n in zip(terms[site.at], site.shape, strict=True):
        kind: Kind = "in" if letter not in result else "block" if letter in others else "out"
        tiles.append([(n, kind)])
    sources = [v for i, v in enumerate(site.node.inputs) if i != site.at and v is not None and not v.static]
    return Reading("weight", tiles, output=out_value(site.node), source=sources[0] if sources else None)


# ---------------------------------------------------------------- recurrent operators

GATES: Mapping[str, tuple[str, ...]] = {"LSTM": ("i", "o", "f", "c"), "GRU": ("z", "r", "h"), "RNN": ("h",)}


@row("LSTM", "GRU", "RNN")
@row("DynamicQuantizeLSTM", "AttnLSTM", domain=MICROSOFT)
def recurrent(site: Site) -> Reading | None:
    """LSTM, GRU, RNN: W (dirs, gates*h, i), R (dirs, gates*h, h), B (dirs, 2*gates*h), P (dirs, 3*h)."""
    node, shape = site.node, site.shape
    gates = GATES["LSTM" if "LSTM" in node.op else node.op]
    if site.at not in (1, 2, 3, 7) or len(shape) < 2 or (site.at == 7 and "LSTM" not in node.op):
        return None
    g, dirs = len(gates), shape[0]
    reading_of = {1: "input_weight", 2: "recurrent_weight", 3: "bias", 7: "peephole"}
    out, source = out_value(node), node.input(0)
    if site.at == 7:
        return Reading("peephole", [_batch(dirs), [(3, "block"), (shape[1] // 3, "out")]], output=out, source=source)
    if site.at == 3:
        names = tuple(f"{half}.{gate}" for half in ("Wb", "Rb") for gate in gates) * dirs
        tiles: list[list[Tile]] = [_batch(dirs), [(2 * g, "block"), (shape[1] // (2 * g), "out")]]
        return Reading("bias", tiles, output=out, source=source, names=names, layer=node.input(1))
    matrix: list[list[Tile]] = [[(g, "block"), (shape[1] // g, "out")], [(shape[2], "in")]]
    if node.op == "DynamicQuantizeLSTM":  # stored transposed: (dirs, i, 4*h)
        matrix = [[(shape[1], "in")], [(g, "block"), (shape[2] // g, "out")]]
    return Reading(reading_of[site.at], [_batch(dirs), *matrix], output=out, source=source, names=gates * dirs)


# ---------------------------------------------------------------- look-ups and the rest


@row("Gather")
def gather(site: Site) -> Reading | None:
    """A look-up by an index that a feed decides: an embedding (V, D); fan_in = D by convention, fan_out = V."""
    if site.at != 0:
        return None
    return look_up(site, site.node.int_attribute("axis", 0) % max(1, len(site.shape)))


def look_up(site: Site, axis: int) -> Reading:
    """A table read along `axis`; axes before it are tables of their own, or the features where none come after."""
    before: Kind = "in" if axis == len(site.shape) - 1 else "block"
    tiles: list[list[Tile]] = [
        [(n, "out")] if i == axis else [(n, before if i < axis else "in")] for i, n in enumerate(site.shape)
    ]
    return Reading("embedding", tiles, output=out_value(site.node))


@row("GatherND", "GatherElements")
def gather_nd(site: Site) -> Reading | None:
    """GatherND of a table by its first axis."""
    return look_up(site, 0) if site.at == 0 and site.shape else None


@row("PRelu")
def prelu(site: Site) -> Reading | None:
    """PRelu: the slope."""
    return Reading("prelu_slope", source=site.node.input(0), output=out_value(site.node)) if site.at == 1 else None


# ---------------------------------------------------------------- com.microsoft, as the optimisers write it


@row("Attention", "QAttention", "PackedAttention", "LongformerAttention", domain=MICROSOFT)
def attention(site: Site) -> Reading | None:
    """Attention: W (D, Q+K+V), bias (Q+K+V)."""
    node = site.node
    if site.at not in (1, 2) or (node.op == "QAttention" and site.at == 2 and len(site.shape) != 1):
        return None
    width = site.shape[-1]
    sizes = node.ints_attribute("qkv_hidden_sizes") or [width // 3] * 3
    names = ("q", "k", "v")
    if site.at == 2:
        tiles: list[list[Tile]] = [[(3, "block"), (width // 3, "out")]] if len(set(sizes)) == 1 else [[(width, "out")]]
        return Reading("bias", tiles, output=None, source=node.input(0), names=names, layer=node.input(1))
    columns: list[Tile] = [(3, "block"), (width // 3, "out")] if len(set(sizes)) == 1 else [(width, "out")]
    return Reading("weight", [[(site.shape[0], "in")], columns], source=node.input(0), names=names)


@row("MultiHeadAttention", "DecoderMaskedMultiHeadAttention", "PackedMultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(site: Site) -> Reading | None:
    """The bias of Q, K and V at input 3."""
    return Reading("bias", names=("q", "k", "v")) if site.at == 3 and len(site.shape) == 1 else None


@row("BiasGelu", "FastGelu", "BiasSplitGelu", "BiasSoftmax", "BiasDropout", "BiasAdd", domain=MICROSOFT)
def bias_of(site: Site) -> Reading | None:
    """A bias fused with what follows it."""
    return vector("bias", site) if site.at == 1 and len(site.shape) == 1 else None


@row("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(site: Site) -> Reading | None:
    """SkipLayerNormalization: gamma, beta, and the bias that is added before."""
    role = {2: "norm_scale", 3: "norm_shift", 4: "bias"}.get(site.at)
    return vector(role, site) if role else None


@row("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_simplified_layer_norm(site: Site) -> Reading | None:
    """SkipSimplifiedLayerNormalization: gamma and the bias that is added before."""
    role = {2: "norm_scale", 3: "bias"}.get(site.at)
    return vector(role, site) if role else None


@row("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_norm(site: Site) -> Reading | None:
    """EmbedLayerNormalization: word, position and segment tables, gamma, beta."""
    if site.at in (2, 3, 4) and len(site.shape) == 2:
        reading = look_up(site, 0)
        role = "positional" if site.at == 3 else "embedding"
        return Reading(role, reading.tiles, output=reading.output)
    role_of = {5: "norm_scale", 6: "norm_shift"}.get(site.at)
    return vector(role_of, site) if role_of else None


@row("BatchNormalization")
def batch_norm(site: Site) -> Reading | None:
    """BatchNormalization: scale, shift, running mean, running variance."""
    role = {1: "norm_scale", 2: "norm_shift", 3: "running_mean", 4: "running_var"}.get(site.at)
    return vector(role, site) if role else None


@row("InstanceNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization")
@row("SimplifiedLayerNormalization", "LayerNormalization")
@row("GroupNorm", "SkipGroupNorm", "SimplifiedLayerNormalization", "LayerNormalization", domain=MICROSOFT)
def norm(site: Site) -> Reading | None:
    """A normalisation: scale at input 1, shift at input 2."""
    role = {1: "norm_scale", 2: "norm_shift"}.get(site.at)
    return vector(role, site) if role else None
