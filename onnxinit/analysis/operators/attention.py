"""Attention as ONNX Runtime fuses it: projections of query, key and value, their biases, norms and position tables."""

from __future__ import annotations

from collections.abc import Callable

from onnxinit.analysis.activations import by_name
from onnxinit.analysis.operators.standard import look_up
from onnxinit.analysis.operators.table import (
    MICROSOFT,
    ROTARY,
    SCALE,
    STATE,
    ZERO_POINT,
    Reading,
    Site,
    behind,
    keep,
    matrix,
    row,
    vector,
    vectors,
)
from onnxinit.analysis.trail import Tile
from onnxinit.analysis.view import Node

QKV = ("q", "k", "v")
_WEIGHT, _BIAS = "weight (D, Q + K + V)", "bias (Q + K + V)"
_SCORES = "positional, added to the scores"
_PROJECTED = {1: _WEIGHT, 2: _BIAS, 5: _SCORES}


def _columns(site: Site, names: tuple[str, ...]) -> tuple[list[Tile], tuple[int, ...]]:
    """How projections stand side by side along the last axis: as blocks of one width, or in unlike widths."""
    width, n = site.shape[-1], len(names)
    given = site.node.ints_attribute("qkv_hidden_sizes") if n == 3 else None
    if given is not None and len(set(given)) > 1 and sum(given) == width:
        return [(width, "out")], tuple(given)
    return ([(n, "block"), (width // n, "out")], ()) if width % n == 0 else ([(width, "out")], ())


def projection(site: Site, names: tuple[str, ...] = QKV) -> Reading | None:
    """W (D, Q + K + V): projections side by side, each a matrix of its own."""
    if len(site.shape) != 2:
        return None
    columns, cuts = _columns(site, names)
    tiles: list[list[Tile]] = [[(site.shape[0], "in")], columns]
    return Reading("weight", tiles, source=site.node.input(0), out_axis=1, cuts=cuts, names=names)


def projected_bias(site: Site, layer: int | None = None, names: tuple[str, ...] = QKV) -> Reading | None:
    """The bias (Q + K + V) of such projections, with a block for each."""
    if len(site.shape) != 1:
        return None
    columns, cuts = _columns(site, names)
    source = site.node.input(0)
    weight = site.node.input(layer) if layer is not None else behind(source)
    return Reading("bias", [columns], source=source, out_axis=0, cuts=cuts, names=names, layer=weight)


@row("Attention", "DecoderMaskedSelfAttention", domain=MICROSOFT, holds=_PROJECTED, keeps={4: STATE})
@row("PackedAttention", domain=MICROSOFT, holds=_PROJECTED)
@row(
    "QAttention",
    domain=MICROSOFT,
    holds={1: _WEIGHT, 2: _BIAS},
    keeps={3: SCALE, 4: SCALE, 6: ZERO_POINT, 7: ZERO_POINT, 8: STATE},
)
def attention(site: Site) -> Reading | None:
    """Attention: W (D, Q + K + V) and a bias (Q + K + V), in widths that `qkv_hidden_sizes` gives where unlike."""
    if site.at == 5 and site.node.op != "QAttention":
        return vector("positional", site)
    return projection(site) if site.at == 1 else projected_bias(site, 1) if site.at == 2 else None


@row(
    "LongformerAttention",
    domain=MICROSOFT,
    holds={1: _WEIGHT, 2: _BIAS, 4: "weight (D, Q + K + V) of the global tokens", 5: "bias (Q + K + V) of those"},
)
def longformer_attention(site: Site) -> Reading | None:
    """LongformerAttention: one set of projections for the window, one for the global tokens."""
    if site.at in (1, 4):
        return projection(site)
    return projected_bias(site, site.at - 1) if site.at in (2, 5) else None


@row(
    "DecoderAttention",
    domain=MICROSOFT,
    holds={2: "weight (D, Q)", 3: "weight (D, K + V)", 4: _BIAS},
    keeps={6: STATE, 7: STATE},
)
def decoder_attention(site: Site) -> Reading | None:
    """DecoderAttention: W_q (D, D), W_kv (D, 2D), bias (3D)."""
    if site.at == 4:
        return projected_bias(site, 2)
    return projection(site, QKV[:1] if site.at == 2 else QKV[1:]) if site.at in (2, 3) else None


def _fused_bias(bias: int, scores: int) -> Callable[[Site], Reading | None]:
    def read(site: Site) -> Reading | None:
        """The bias of Q, K and V that were projected before, and a position bias."""
        return projected_bias(site) if site.at == bias else vector("positional", site) if site.at == scores else None

    return read


for _op, _bias, _at, _past in (
    ("MultiHeadAttention", 3, 5, (6, 7)),
    ("PackedMultiHeadAttention", 3, 6, ()),
    ("DecoderMaskedMultiHeadAttention", 10, 4, (5, 6)),
):
    row(_op, domain=MICROSOFT, holds={_bias: _BIAS, _at: _SCORES}, keeps=dict.fromkeys(_past, STATE))(
        _fused_bias(_bias, _at)
    )


# ---------------------------------------------------------------- attention on projected heads

_NORM, _SINK = "norm_scale (d), of every head", "other (heads), a logit of each softmax"
_CACHES = {3: STATE, 4: STATE}

vectors(
    "GroupQueryAttention",
    domain=MICROSOFT,
    holds={10: _SCORES, 11: _SINK, 14: _NORM, 15: _NORM},
    keeps={**_CACHES, 7: ROTARY, 8: ROTARY, 12: SCALE, 13: SCALE},
    starts={11: 0.0},
)
vectors(
    "PagedAttention",
    domain=MICROSOFT,
    holds={11: _SINK, 12: _NORM, 13: _NORM},
    keeps={**_CACHES, 8: ROTARY, 9: ROTARY, 14: SCALE, 15: SCALE},
    starts={11: 0.0},
)
vectors(
    "SparsePagedAttention",
    domain=MICROSOFT,
    holds={16: _SINK, 17: _NORM, 18: _NORM},
    keeps={**_CACHES, 14: ROTARY, 15: ROTARY, 19: SCALE, 20: SCALE},
    starts={16: 0.0},
)
vectors(
    "DynamicSparseAttention",
    domain=MICROSOFT,
    holds={14: _NORM, 15: _NORM, 16: _SINK},
    keeps={**_CACHES, 11: ROTARY, 12: ROTARY, 18: SCALE, 19: SCALE},
    starts={16: 0.0},
)
vectors(
    "SparseAttentionIndexer",
    "PackedSparseAttentionIndexer",
    domain=MICROSOFT,
    holds={2: _NORM, 3: _NORM, 9: "positional, added to the gates"},
    keeps={4: ROTARY, 5: ROTARY},
)
keep("SparseAttention", domain=MICROSOFT, inputs={**_CACHES, 9: ROTARY, 10: ROTARY})
keep("RotaryEmbedding", "MRotaryEmbedding", domain=MICROSOFT, inputs={2: ROTARY, 3: ROTARY})
keep("GemmaRotaryEmbedding", domain=MICROSOFT, inputs={0: ROTARY})
vectors("RMSNormRotary", domain=MICROSOFT, holds={1: "norm_scale (d)"}, keeps={3: ROTARY, 4: ROTARY})


# ---------------------------------------------------------------- positions


@row("RelativePositionBias", domain=MICROSOFT, holds={0: "positional (buckets, heads)"})
def relative_positions(site: Site) -> Reading | None:
    """RelativePositionBias: a table (buckets, heads) that is looked up by distances."""
    return Reading("positional", look_up(site, 0).tiles) if site.at == 0 and len(site.shape) == 2 else None


@row(
    "GatedRelativePositionBias",
    domain=MICROSOFT,
    holds={
        1: "bias (heads * d), of the query",
        2: "positional (1, heads, t, t)",
        3: "weight (d, 2 * n)",
        4: "bias (2 * n)",
        5: "other (1, heads, 1, 1), a factor",
    },
)
def gated_relative_positions(site: Site) -> Reading | None:
    """GatedRelativePositionBias: a position bias, gated by sigmoids of a small layer on the heads of the query."""
    if site.at == 3 and len(site.shape) == 2:
        return Reading("weight", matrix(site.shape), source=site.node.input(0), after=by_name("Sigmoid"))
    if site.at == 4:
        return Reading("bias", layer=site.node.input(3), after=by_name("Sigmoid"))
    if site.at == 5:
        return Reading("other", default=1.0)
    role = {1: "bias", 2: "positional"}.get(site.at)
    return vector(role, site) if role is not None else None


# ---------------------------------------------------------------- operators that take a fused projection apart


def packed(node: Node, at: int, rank: int, width: int) -> tuple[int, list[int]] | None:
    """How an operator cuts a signal that holds several projections.

    Args:
        node: The consumer.
        at: Its input.
        rank: Number of axes of the signal.
        width: Length of the signal's axis that is cut, where it is the last.

    Returns:
        The axis and the lengths of its pieces; None where the operator uses the signal whole.
    """
    if node.domain != MICROSOFT or at > 1:
        return None
    if (node.op, rank) in (("MultiHeadAttention", 5), ("PackedMultiHeadAttention", 4)):  # (..., heads, 3, d)
        return rank - 2, [1] * (3 - at)
    alone = at == 0 and node.input(1) is None
    if alone and node.op == "DecoderMaskedMultiHeadAttention" and width % 3 == 0:
        return rank - 1, [width // 3] * 3
    if alone and node.op in ("GroupQueryAttention", "PagedAttention", "SparsePagedAttention", "DynamicSparseAttention"):
        heads, shared = node.int_attribute("num_heads", 0), node.int_attribute("kv_num_heads", 0)
        unit = width // max(1, heads + 2 * shared)
        return rank - 1, [heads * unit, shared * unit, shared * unit]
    if at == 0 and (node.op == "BiasSplitGelu" or (node.op == "SwiGLU" and alone)):
        return rank - 1, [width // 2, width // 2]
    return None
