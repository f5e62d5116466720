"""Weights made by hand, for tests of what comes after the analysis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from onnxinit.analysis.weight import LINEAR, Activation, Analysis, Kept, Kind, Layout, Part, Use, Weight

RELU = Activation("relu", mean=0.398942, second=0.5, derivative=0.5)
TANH = Activation("tanh", mean=0.0, second=0.394294, derivative=0.464403, bounded=True)
SELU = Activation("selu", mean=0.0, second=1.0, derivative=1.0716)
GELU = Activation("gelu", mean=0.282095, second=1.533530**-2, derivative=0.455857)


def part(
    factors: Sequence[Sequence[int]],
    kinds: Sequence[Sequence[Kind]],
    fan_in: float | None = None,
    fan_out: float | None = None,
    names: Sequence[str] = (),
    start: Sequence[int] | None = None,
) -> Part:
    return Part(
        start=tuple(start or [0] * len(factors)),
        shape=tuple(map(math.prod, factors)),
        factors=tuple(map(tuple, factors)),
        kinds=tuple(map(tuple, kinds)),
        fan_in=fan_in,
        fan_out=fan_out,
        names=tuple(names),
    )


def weight(
    ident: str, role: str, shape: Sequence[int], op: str = "Conv", parts: Sequence[Part] = (), **more: Any
) -> Weight:
    given = Weight(
        id=ident,
        name=ident.rpartition("/")[2],
        scope=ident.rpartition("/")[0],
        where="initializer",
        role=role,
        shape=tuple(shape),
        dtype="float",
        path=f"path of {ident}",
        layout=Layout(tuple(parts)) if parts else None,
        fan_in=parts[0].fan_in if parts else None,
        fan_out=parts[0].fan_out if parts else None,
        groups=1,
        upstream=(LINEAR,),
        downstream=(LINEAR,),
        uses=(Use(op, "node", 1),),
    )
    return replace(given, **more)


def conv(ident: str, out: int = 8, inn: int = 4, kernel: Sequence[int] = (3, 3), **more: Any) -> Weight:
    """A convolution's kernel, of one group."""
    taps = math.prod(kernel)
    kinds: list[list[Kind]] = [["out"], ["in"], *(["kernel"] for _ in kernel)]
    whole = part([[out], [inn], *([k] for k in kernel)], kinds, float(inn * taps), float(out * taps))
    return weight(ident, "weight", (out, inn, *kernel), "Conv", [whole], **more)


def gemm(ident: str, inn: int = 16, out: int = 8, **more: Any) -> Weight:
    """A Gemm's matrix as stored without transB: (in, out)."""
    return weight(ident, "weight", (inn, out), "Gemm", [part([[inn], [out]], [["in"], ["out"]], inn, out)], **more)


def lstm(ident: str, hidden: int = 6, inputs: int = 5) -> list[Weight]:
    """W, R and B of a bidirectional LSTM."""
    gates = [f"{way}.{gate}" for way in ("f", "b") for gate in "iofc"]
    biases = [f"{half}.{gate}" for _ in range(2) for half in ("Wb", "Rb") for gate in "iofc"]
    kinds: list[list[Kind]] = [["block"], ["block", "out"], ["in"]]
    w = part([[2], [4, hidden], [inputs]], kinds, inputs, hidden, gates)
    r = part([[2], [4, hidden], [hidden]], kinds, hidden, hidden, gates)
    b = part([[2], [8, hidden]], [["block"], ["block", "out"]], None, None, biases)
    return [
        weight(f"{ident}.W", "input_weight", (2, 4 * hidden, inputs), "LSTM", [w]),
        weight(f"{ident}.R", "recurrent_weight", (2, 4 * hidden, hidden), "LSTM", [r]),
        weight(f"{ident}.B", "bias", (2, 8 * hidden), "LSTM", [b], fan_in=float(inputs)),
    ]


def analysis(*weights: Weight, kept: Sequence[Kept] = (), **more: Any) -> Analysis:
    return Analysis(tuple(weights), tuple(kept), **more)
