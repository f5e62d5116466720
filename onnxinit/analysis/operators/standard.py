"""Look-ups, slopes and norms of ONNX."""

from __future__ import annotations

from onnxinit.analysis.operators.table import MICROSOFT, Reading, Site, out_value, row, vector
from onnxinit.analysis.trail import Tile
from onnxinit.analysis.weight import Kind


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
