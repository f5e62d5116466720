"""Convolutions and matrix products, of ONNX and of ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from onnxinit.analysis.einsum import read_equation
from onnxinit.analysis.operators.table import (
    MICROSOFT,
    NHWC,
    SCALE,
    STATE,
    Reading,
    Site,
    batch,
    keep,
    matrix,
    out_value,
    row,
    vector,
)
from onnxinit.analysis.trail import Tile
from onnxinit.analysis.view import Value
from onnxinit.analysis.weight import Kind

# ---------------------------------------------------------------- convolutions

_CONV = {1: "weight (M, C/g, k...)", 2: "bias (M)"}
_TRANSPOSED = "weight (C, M/g, k...), fan_in divided by the strides"
_DEPTHWISE = "weight (C, 1, k...), a block for every channel"
_BLOCKED = "a {} in the blocked layout of one processor: take the model as it was before ONNX Runtime optimised it so"


@row("Conv", holds=_CONV)
@row("FusedConv", "NhwcFusedConv", domain=MICROSOFT, holds=_CONV)
@row("Conv", domain=NHWC, holds=_CONV)
@row("NhwcConv", domain=MICROSOFT, holds={1: "weight (M, C/g, k...) or (M, k..., C/g)", 2: "bias (M)"})
def conv(site: Site) -> Reading | None:
    """Conv: W (M, C/g, k...), fan_in = C/g*prod(k), fan_out = M/g*prod(k)."""
    return convolution(site, 1, 2)


def convolution(site: Site, weight: int, bias: int) -> Reading | None:
    """A convolution with its kernel and its bias at the inputs given."""
    node, shape = site.node, site.shape
    if site.at == bias:
        return vector("bias", site, layer=weight)
    if site.at != weight or len(shape) < 3:
        return None
    g, m = node.int_attribute("group", 1), shape[0]
    if g < 1 or m % g:
        return None
    inner: list[list[Tile]] = [[(shape[1], "in")], *_kernel(shape[2:])]
    if node.op == "NhwcConv" and _channels_last(site, g):
        inner = [*_kernel(shape[1:-1]), [(shape[-1], "in")]]
    last = node.op.startswith("Nhwc") or node.domain == NHWC or node.int_attribute("channels_last", 0)
    fuses = None if g > 1 else -1 if last else 1
    tiles: list[list[Tile]] = [[(g, "block"), (m // g, "out")], *inner]
    own = g // math.prod(f.size for f in site.trail.copies(0)) if site.trail.derived else g  # a kernel for each sample
    return Reading("weight", tiles, groups=own, output=out_value(node), source=node.input(0), fuses=fuses, out_axis=0)


def _kernel(sizes: Sequence[int]) -> list[list[Tile]]:
    return [[(n, "kernel")] for n in sizes]


def _channels_last(site: Site, groups: int) -> bool:
    """Whether a kernel is (M, k..., C/g): its users write it so, its specification (M, C/g, k...)."""
    shape, kernel = site.shape, site.node.ints_attribute("kernel_shape")
    if kernel is not None and list(shape[2:]) != list(shape[1:-1]):
        return list(shape[1:-1]) == kernel
    signal = site.operand_shape(0)
    channels = signal[-1] if signal else None
    return channels is not None and shape[1] * groups != channels == shape[-1] * groups


@row("ConvTranspose", holds={1: _TRANSPOSED, 2: "bias (M)"})
@row("ConvTranspose", domain=NHWC, holds={1: _TRANSPOSED, 2: "bias (M)"})
@row("ConvTransposeWithDynamicPads", domain=MICROSOFT, holds={1: _TRANSPOSED, 3: "bias (M)"})
def conv_transpose(site: Site) -> Reading | None:
    """ConvTranspose: W (C, M/g, k...), fan_in = C/g*prod(k)/prod(strides), fan_out = M/g*prod(k)."""
    return transposed_convolution(site, 1, 2 if site.node.op == "ConvTranspose" else 3)


def transposed_convolution(site: Site, weight: int, bias: int) -> Reading | None:
    """A transposed convolution with its kernel and its bias at the inputs given."""
    if site.at == bias:
        return vector("bias", site, layer=weight)
    if site.at != weight or len(site.shape) < 3:
        return None
    node, (c, m, *kernel) = site.node, site.shape
    g = node.int_attribute("group", 1)
    strides = node.ints_attribute("strides") or [1]
    if g < 1 or c % g or min(strides) < 1:
        return None
    tiles: list[list[Tile]] = [[(g, "block"), (c // g, "in")], [(m, "out")], *_kernel(kernel)]
    return Reading(
        "weight", tiles, groups=g, taps=float(math.prod(strides)), output=out_value(node), source=node.input(0)
    )


@row("DeformConv", holds={1: "weight (M, C/g, k...)", 3: "bias (M)"})
def deform_conv(site: Site) -> Reading | None:
    """DeformConv: as Conv, with the bias at input 3."""
    return convolution(site, 1, 3)


@row("CausalConvWithState", holds={1: _DEPTHWISE, 2: "bias (C)"}, keeps={3: STATE})
@row("CausalConvWithState", domain=MICROSOFT, holds={1: _DEPTHWISE, 2: "bias (C)"}, keeps={3: STATE})
@row("VarlenCausalConvWithState", domain=MICROSOFT, holds={1: _DEPTHWISE, 3: "bias (C)"}, keeps={4: STATE})
def causal_conv(site: Site) -> Reading | None:
    """CausalConvWithState: W (C, 1, k...), one kernel for every channel, as Conv with C groups."""
    return depthwise(site, 1, 3 if site.node.op.startswith("Varlen") else 2)


def depthwise(site: Site, weight: int, bias: int) -> Reading | None:
    """A depthwise convolution: W (C, 1, k...) or (C, k)."""
    node, shape = site.node, site.shape
    if site.at == bias:
        return vector("bias", site, layer=weight)
    if site.at != weight or len(shape) < 2:
        return None
    channels, *kernel = shape
    tiles: list[list[Tile]] = [batch(channels), *_kernel(kernel)]
    return Reading("weight", tiles, groups=channels, output=out_value(node), source=node.input(0))


keep("Conv", domain="com.microsoft.nchwc", inputs={1: _BLOCKED.format("kernel"), 2: _BLOCKED.format("bias")})

# ---------------------------------------------------------------- matrix products

_MATMUL = {0: "weight (..., M, K)", 1: "weight (..., K, N)"}
_GEMM = {0: "weight (M, K), or (K, M) with transA", 1: "weight (K, N), or (N, K) with transB", 2: "bias (N)"}


def dense(site: Site, side: int, transposed: bool, output: Value | None, source: Value | None) -> Reading | None:
    """A factor of a matrix product: (..., K, N) on the right, (..., M, K) on the left; leading axes are batches."""
    shape = site.shape
    if not shape:
        return None
    if len(shape) == 1:
        return Reading("weight", [[(shape[0], "in")]], output=output, source=source)
    outs_first = (side == 1) == transposed
    out_axis = len(shape) - (2 if outs_first else 1)
    fuses = -1 if side == 1 else -2
    return Reading("weight", matrix(shape, outs_first), output=output, source=source, fuses=fuses, out_axis=out_axis)


@row("MatMul", holds=_MATMUL)
@row("FusedMatMul", "FusedMatMulActivation", "TransposeMatMul", "SparseToDenseMatMul", domain=MICROSOFT, holds=_MATMUL)
def matmul(site: Site) -> Reading | None:
    """MatMul with the weight on either side."""
    node = site.node
    if site.at > 1:
        return None
    side = "B" if site.at == 1 else "A"
    reading = dense(
        site, site.at, bool(node.int_attribute(f"trans{side}", 0)), out_value(node), node.input(1 - site.at)
    )
    if (
        reading is None
        or reading.tiles is None
        or len(site.shape) < 3
        or not node.int_attribute(f"transBatch{side}", 0)
    ):
        return reading
    *batches, first, last = reading.tiles  # stored with the first axis of the matrix before its batches
    sizes = [[(n, kind) for (_, kind) in tile] for tile, n in zip([first, *batches, last], site.shape, strict=True)]
    return replace(reading, tiles=sizes, fuses=None, out_axis=None)


@row("Gemm", holds=_GEMM)
@row("FusedGemm", domain=MICROSOFT, holds=_GEMM)
@row("GemmFloat8", domain=MICROSOFT, holds=_GEMM, keeps={3: SCALE, 4: SCALE, 5: SCALE})
@row("GemmFastGelu", domain=MICROSOFT, holds={0: "weight (M, K)", 1: "weight (K, N)", 2: "bias (N)"})
def gemm(site: Site) -> Reading | None:
    """Gemm: alpha * A' B' + beta * C."""
    node = site.node
    if site.at == 2:
        return vector("bias", site, layer=1 if (b := node.input(1)) is not None and b.static else 0)
    if site.at > 1:
        return None
    flag = node.int_attribute("transB" if site.at == 1 else "transA", 0)
    return dense(site, site.at, bool(flag), out_value(node), node.input(1 - site.at))


@row("Einsum", holds={0: "weight, any equation", 1: "weight, any equation"})
def einsum(site: Site) -> Reading | None:
    """Einsum: an index that the result drops is contracted; one that others carry too is a batch; else it is free."""
    terms, result = read_equation(site.node)
    if site.at >= len(terms) or "..." in terms[site.at] or len(terms[site.at]) != len(site.shape):
        return None
    others = {c for i, t in enumerate(terms) if i != site.at for c in t}
    tiles: list[list[Tile]] = []
    for letter, n in zip(terms[site.at], site.shape, strict=True):
        kind: Kind = "in" if letter not in result else "block" if letter in others else "out"
        tiles.append([(n, kind)])
    sources = [v for i, v in enumerate(site.node.inputs) if i != site.at and v is not None and not v.static]
    free = [c for c, ((_, kind),) in zip(terms[site.at], tiles, strict=True) if kind == "out"]
    single = len(free) == 1  # may be a fused projection; of heads that stand apart the layout says it already
    return Reading(
        "weight",
        tiles,
        output=out_value(site.node),
        source=sources[0] if sources else None,
        fuses=result.index(free[0]) - len(result) if single else None,
        out_axis=terms[site.at].index(free[0]) if single else None,
    )
