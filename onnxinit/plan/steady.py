"""The standard deviation of sparse layers where that of their paper would make the signal overflow.

Martens drew values of unit variance, whatever the fan, for units that saturate. Where nothing bounds the signal, every
such layer makes its variance nonzeros * E[f(z)^2] times as large: over a few dozen of them more than a float holds.
"""

from __future__ import annotations

import math

from onnxinit.analysis.weight import Weight
from onnxinit.plan.blocks import shares
from onnxinit.schemes import Spec, exact_gain, mean_gain

DEEP = 10
"""Layers over which a signal that each makes several times larger becomes one that no float holds."""

STEADY = "; with the std that keeps the variance, since the network is deep and has no norms"


def swells(spec: Spec, weight: Weight) -> bool:
    """Whether a sparse layer makes the signal larger than it came: of no std in particular, after no bounds."""
    if spec.values["std"] is not None or weight.role not in ("weight", "input_weight"):
        return False
    return not all(activation.bounded for activation in weight.upstream) and _heard(spec, weight) > 0


def steady(spec: Spec, weight: Weight) -> Spec:
    """The same with the std that keeps the variance: 1/sqrt(n E[f(z)^2]), n the non-zero weights that an output hears.

    Rounded to 12 digits, as gains are.
    """
    gain = mean_gain([exact_gain(activation) for activation in weight.upstream])
    std = float(f"{gain / math.sqrt(_heard(spec, weight)):.12g}")
    return Spec.of("sparse", {**dict(spec.params), "std": std})


def _heard(spec: Spec, weight: Weight) -> float:
    """The mean number of non-zero weights that reach an output: of a strided transposed kernel not all of a unit's."""
    moments = [(share, spec.moments(block), block.fan_in) for share, block in shares(weight)]
    return math.fsum(share * known[1] ** 2 * fan for share, known, fan in moments if known and fan)
