"""The other operators of ONNX Runtime (`com.microsoft`) with weights, as its optimisers write them."""

from __future__ import annotations

from onnxinit.analysis.activations import by_name
from onnxinit.analysis.operators.layers import depthwise
from onnxinit.analysis.operators.standard import look_up
from onnxinit.analysis.operators.table import MICROSOFT, STATE, Reading, Site, matrix, out_value, row, vector, vectors
from onnxinit.analysis.trail import Tile

# ---------------------------------------------------------------- biases fused with what follows them

_BIAS = {1: "bias (C)"}


@row("BiasGelu", "FastGelu", "BiasSplitGelu", "BiasAdd", domain=MICROSOFT, holds=_BIAS)
@row("BiasDropout", "BitmaskBiasDropout", domain=MICROSOFT, holds=_BIAS)
def bias_of(site: Site) -> Reading | None:
    """A bias fused with what follows it."""
    return vector("bias", site) if site.at == 1 and len(site.shape) == 1 else None


vectors("BiasSoftmax", domain=MICROSOFT, holds={1: "positional, added to the scores"})

# ---------------------------------------------------------------- norms

_ADDED = dict.fromkeys((0, 1), "positional (T, C), added to the other")
vectors(
    "SkipLayerNormalization",
    domain=MICROSOFT,
    holds={**_ADDED, 2: "norm_scale (C)", 3: "norm_shift (C)", 4: "bias (C), added before"},
)
vectors(
    "SkipSimplifiedLayerNormalization",
    domain=MICROSOFT,
    holds={**_ADDED, 2: "norm_scale (C)", 3: "bias (C), added before"},
)
vectors("GroupNorm", domain=MICROSOFT, holds={1: "norm_scale (C)", 2: "norm_shift (C)"})
vectors(
    "SkipGroupNorm", domain=MICROSOFT, holds={1: "norm_scale (C)", 2: "norm_shift (C)", 4: "bias (C), added before"}
)
vectors("GatedRMSNorm", "BranchwiseRMSNorm", domain=MICROSOFT, holds={1: "norm_scale (C)"})
vectors(
    "EngramGate",
    domain=MICROSOFT,
    holds={3: "norm_scale (n, C), of the keys", 4: "norm_scale (n, C), of the queries", 5: "norm_scale (n, C)"},
)

# ---------------------------------------------------------------- embeddings


@row(
    "EmbedLayerNormalization",
    domain=MICROSOFT,
    holds={
        2: "embedding (V, D), of words",
        3: "positional (T, D)",
        4: "embedding (S, D), of segments",
        5: "norm_scale (D)",
        6: "norm_shift (D)",
    },
)
def embed_layer_norm(site: Site) -> Reading | None:
    """EmbedLayerNormalization: word, position and segment tables, gamma, beta."""
    if site.at in (2, 3, 4) and len(site.shape) == 2:
        return Reading("positional" if site.at == 3 else "embedding", look_up(site, 0).tiles)
    role_of = {5: "norm_scale", 6: "norm_shift"}.get(site.at)
    return vector(role_of, site) if role_of else None


@row(
    "WordConvEmbedding",
    domain=MICROSOFT,
    holds={1: "weight (M, 1, k, D)", 2: "bias (M)", 3: "embedding (V, D), of characters"},
)
def word_conv_embedding(site: Site) -> Reading | None:
    """WordConvEmbedding: characters are looked up and convolved; tanh and the largest over the word follow."""
    node, shape = site.node, site.shape
    if site.at == 3 and len(shape) == 2:
        return Reading("embedding", look_up(site, 0).tiles)
    if site.at == 2:
        return Reading("bias", layer=node.input(1), output=out_value(node))
    if site.at != 1 or len(shape) != 4:
        return None
    m, one, taps, width = shape
    tiles: list[list[Tile]] = [[(m, "out")], [(one, "in")], [(taps, "kernel")], [(width, "in")]]
    return Reading("weight", tiles, after=by_name("Tanh"))


# ---------------------------------------------------------------- state spaces and linear attention

vectors(
    "LinearAttentionGate",
    domain=MICROSOFT,
    holds={1: "bias (heads), of the time step", 2: "other (heads), minus the exponential of A_log"},
    starts={2: -1.0},
)
vectors(
    "GatedDeltaNet",
    domain=MICROSOFT,
    holds={7: "other (heads), A_log", 8: "bias (heads), of the time step"},
    keeps={6: STATE},
    starts={7: 0.0},
)


@row(
    "Mamba2Verify",
    domain=MICROSOFT,
    holds={
        3: "weight (C, 4) or (C, 1, 4), a block for every channel",
        4: "bias (C)",
        5: "bias (heads), of the time step",
        6: "other (heads), minus the exponential of A_log",
        7: "other (heads), past the recurrence",
        8: "norm_scale (C)",
    },
    keeps={1: STATE, 2: STATE},
)
def mamba(site: Site) -> Reading | None:
    """Mamba2Verify: a causal convolution, a selective recurrence and a gated norm."""
    if site.at in (3, 4):
        return depthwise(site, 3, 4)
    starts = {6: -1.0, 7: 1.0}
    if site.at in starts:
        return Reading("other", default=starts[site.at])
    role = {5: "bias", 8: "norm_scale"}.get(site.at)
    return Reading(role, output=out_value(site.node)) if role is not None else None


# ---------------------------------------------------------------- hyper-connections


@row(
    "HyperConnectionLowRankMix",
    domain=MICROSOFT,
    holds={
        1: "norm_scale (n * C)",
        2: "weight (n * C, r)",
        3: "weight (r, n * C)",
        4: "weight (n * C, n), of the gates",
    },
)
def hyper_connection(site: Site) -> Reading | None:
    """HyperConnectionLowRankMix: low-rank factors and gates of the residual streams."""
    if site.at == 1:
        return vector("norm_scale", site)
    if site.at not in (2, 3, 4) or len(site.shape) != 2:
        return None
    if site.at == 3:
        return Reading("weight", matrix(site.shape), before=by_name("Swish"), after=by_name("Sigmoid"))
    after = by_name("Swish" if site.at == 2 else "Sigmoid")
    return Reading("weight", matrix(site.shape), source=site.node.input(0), after=after)
