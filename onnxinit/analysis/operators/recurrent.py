"""Recurrent operators, gate by gate."""

from __future__ import annotations

from collections.abc import Mapping

from onnxinit.analysis.operators.table import MICROSOFT, Reading, Site, batch, out_value, row
from onnxinit.analysis.trail import Tile

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
        return Reading("peephole", [batch(dirs), [(3, "block"), (shape[1] // 3, "out")]], output=out, source=source)
    if site.at == 3:
        names = tuple(f"{half}.{gate}" for half in ("Wb", "Rb") for gate in gates) * dirs
        tiles: list[list[Tile]] = [batch(dirs), [(2 * g, "block"), (shape[1] // (2 * g), "out")]]
        return Reading("bias", tiles, output=out, source=source, names=names, layer=node.input(1))
    matrix: list[list[Tile]] = [[(g, "block"), (shape[1] // g, "out")], [(shape[2], "in")]]
    if node.op == "DynamicQuantizeLSTM":  # stored transposed: (dirs, i, 4*h)
        matrix = [[(shape[1], "in")], [(g, "block"), (shape[2] // g, "out")]]
    return Reading(reading_of[site.at], [batch(dirs), *matrix], output=out, source=source, names=gates * dirs)
