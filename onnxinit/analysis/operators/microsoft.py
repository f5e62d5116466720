"""Operators of ONNX Runtime (`com.microsoft`), as its optimisers write them."""

from __future__ import annotations

from onnxinit.analysis.operators.standard import look_up
from onnxinit.analysis.operators.table import MICROSOFT, Reading, Site, row, vector
from onnxinit.analysis.trail import Tile


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
