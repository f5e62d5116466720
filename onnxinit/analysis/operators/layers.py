"""Convolutions and matrix products, of ONNX and of ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxinit.analysis.operators.table import MICROSOFT, Reading, Site, batch, out_value, row, vector
from onnxinit.analysis.trail import Tile
from onnxinit.analysis.view import Value
from onnxinit.analysis.weight import Kind

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


def dense(site: Site, side: int, transposed: bool, output: Value | None, source: Value | None) -> Reading | None:
    """A factor of a matrix product: (..., K, N) on the right, (..., M, K) on the left; leading axes are batches."""
    shape = site.shape
    if not shape:
        return None
    if len(shape) == 1:
        return Reading("weight", [[(shape[0], "in")]], output=output, source=source)
    right: tuple[Kind, Kind] = ("in", "out")
    kinds: tuple[Kind, Kind] = right if (side == 1) != transposed else ("out", "in")
    tiles: list[list[Tile]] = [*map(batch, shape[:-2]), [(shape[-2], kinds[0])], [(shape[-1], kinds[1])]]
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
