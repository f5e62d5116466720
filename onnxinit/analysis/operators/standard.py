"""Look-ups, slopes and norms of ONNX."""

from __future__ import annotations

from onnxinit.analysis.operators.table import (
    MICROSOFT,
    NHWC,
    ROTARY,
    Reading,
    Site,
    keep,
    out_value,
    row,
    vectors,
)
from onnxinit.analysis.trail import Tile
from onnxinit.analysis.weight import Kind

# ---------------------------------------------------------------- look-ups


@row("Gather", holds={0: "embedding (V, D) read along its axis"})
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


@row("GatherND", "GatherElements", holds={0: "embedding (V, ...)"})
@row("GatherND", "TorchEmbedding", domain=MICROSOFT, holds={0: "embedding (V, D)"})
def gather_nd(site: Site) -> Reading | None:
    """GatherND of a table by its first axis."""
    return look_up(site, 0) if site.at == 0 and site.shape else None


@row("ATen", holds={0: "embedding (V, D), of embedding and embedding_bag"})
@row("ATen", domain="org.pytorch.aten", holds={0: "embedding (V, D), of embedding and embedding_bag"})
def aten(site: Site) -> Reading | None:
    """An operator of PyTorch that its exporter handed on by name."""
    if site.at != 0 or not site.shape:
        return None
    return look_up(site, 0) if site.node.string_attribute("operator") in ("embedding", "embedding_bag") else None


# ---------------------------------------------------------------- vectors


@row("PRelu", holds={1: "prelu_slope, any shape"})
def prelu(site: Site) -> Reading | None:
    """PRelu: the slope."""
    return Reading("prelu_slope", source=site.node.input(0), output=out_value(site.node)) if site.at == 1 else None


_NORM = {1: "norm_scale (C)", 2: "norm_shift (C)"}

for _domain in ("", NHWC):
    vectors("BatchNormalization", domain=_domain, holds={**_NORM, 3: "running_mean (C)", 4: "running_var (C)"})
    vectors("InstanceNormalization", domain=_domain, holds=_NORM)
vectors("LayerNormalization", "GroupNormalization", holds=_NORM)
vectors("LayerNormalization", "SimplifiedLayerNormalization", domain=MICROSOFT, holds=_NORM)
vectors("RMSNormalization", "SimplifiedLayerNormalization", holds={1: "norm_scale (C)"})


# ---------------------------------------------------------------- attention and positions


vectors("Attention", holds={3: "positional, added to the scores"})
keep("RotaryEmbedding", inputs={1: ROTARY, 2: ROTARY})
keep("STFT", inputs={2: "a window"})
