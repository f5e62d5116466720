"""Recurrent operators, gate by gate."""

from __future__ import annotations

from collections.abc import Mapping

from onnxinit.analysis.operators.table import (
    MICROSOFT,
    SCALE,
    STATE,
    ZERO_POINT,
    Reading,
    Site,
    batch,
    matrix,
    out_value,
    row,
)
from onnxinit.analysis.trail import Tile

GATES: Mapping[str, tuple[str, ...]] = {"LSTM": ("i", "o", "f", "c"), "GRU": ("z", "r", "h"), "RNN": ("h",)}


def _holds(gates: int, turned: bool = False) -> dict[int, str]:
    g = f"{gates}h" if gates > 1 else "h"
    w, r = ("dirs, i, " + g, "dirs, h, " + g) if turned else (f"dirs, {g}, i", f"dirs, {g}, h")
    return {1: f"input_weight ({w})", 2: f"recurrent_weight ({r})", 3: f"bias (dirs, {2 * gates}h)"}


_LSTM = {**_holds(4), 7: "peephole (dirs, 3h)"}
_STATES = {5: STATE, 6: STATE}
_ATTENTION = {
    8: "weight (dirs, h, a), the query layer",
    9: "weight (dirs, m, a), the memory layer",
    10: "weight (dirs, a), the score",
    13: "weight (dirs, m + h, o), the attention layer",
}


@row("LSTM", holds=_LSTM, keeps=_STATES)
@row("GRU", holds=_holds(3), keeps={5: STATE})
@row("RNN", holds=_holds(1), keeps={5: STATE})
@row(
    "DynamicQuantizeLSTM",
    domain=MICROSOFT,
    holds={**_holds(4, turned=True), 7: "peephole (dirs, 3h)"},
    keeps={**_STATES, 8: SCALE, 9: ZERO_POINT, 10: SCALE, 11: ZERO_POINT},
)
def recurrent(site: Site) -> Reading | None:
    """LSTM, GRU, RNN: W (dirs, gates*h, i), R (dirs, gates*h, h), B (dirs, 2*gates*h), P (dirs, 3*h)."""
    node, shape = site.node, site.shape
    gates = GATES["LSTM" if "LSTM" in node.op else node.op]
    rank = {1: 3, 2: 3, 3: 2, 7: 2 if "LSTM" in node.op else -1}
    if len(shape) != rank.get(site.at):
        return None
    g, dirs = len(gates), shape[0]
    out, source = out_value(node), node.input(0)
    if site.at == 7:
        return Reading("peephole", [batch(dirs), [(3, "block"), (shape[1] // 3, "out")]], output=out, source=source)
    if site.at == 3:
        names = tuple(f"{half}.{gate}" for half in ("Wb", "Rb") for gate in gates) * dirs
        tiles: list[list[Tile]] = [batch(dirs), [(2 * g, "block"), (shape[1] // (2 * g), "out")]]
        return Reading("bias", tiles, output=out, source=source, names=names, layer=node.input(1))
    role = "input_weight" if site.at == 1 else "recurrent_weight"
    gated: list[list[Tile]] = [[(g, "block"), (shape[1] // g, "out")], [(shape[2], "in")]]
    if node.op == "DynamicQuantizeLSTM":  # stored transposed: (dirs, i, 4*h)
        gated = [[(shape[1], "in")], [(g, "block"), (shape[2] // g, "out")]]
    return Reading(role, [batch(dirs), *gated], output=out, source=source, names=gates * dirs)


@row("AttnLSTM", domain=MICROSOFT, holds={**_LSTM, **_ATTENTION}, keeps=_STATES)
def attention_lstm(site: Site) -> Reading | None:
    """AttnLSTM: an LSTM, and the layers of an additive attention over a memory at input 11."""
    if site.at not in _ATTENTION:
        return recurrent(site)
    if site.at == 10 and len(site.shape) == 2:
        return Reading("weight", [batch(site.shape[0]), [(site.shape[-1], "in")]])
    if len(site.shape) != 3:
        return None
    return Reading("weight", matrix(site.shape), source=site.node.input(11 if site.at == 9 else 0))
