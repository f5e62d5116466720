"""The number that a SPEC's gain stands for at one weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxinit.analysis.weight import Activation
from onnxinit.schemes.spec import Spec


def resolve_gain(spec: Spec, downstream: Sequence[Activation], upstream: Sequence[Activation]) -> float:
    """The gain of a weight.

    paper: the scheme's own; exact: 1/sqrt(E[f(z)^2]), z standard normal, of the downstream activation; upstream: the
    same of the upstream one; a number: itself. Several activations: the root mean square of their gains.

    Args:
        spec: What the weight gets.
        downstream: The functions applied to its layer's output.
        upstream: The functions that made its layer's input.

    Returns:
        The gain, at least 0.
    """
    if isinstance(spec.gain, float):
        return spec.gain
    if spec.gain == "paper":
        return spec.paper_gain(downstream)
    return mean_gain([exact_gain(a) for a in (downstream if spec.gain == "exact" else upstream)])


def exact_gain(activation: Activation) -> float:
    """1/sqrt(E[f(z)^2]), z standard normal; 1 where the function is not pointwise or gives nothing.

    Rounded to 12 digits: the moments are integrals over functions that are not the same in their last bit everywhere,
    and bytes that depend on them should be.
    """
    if not activation.second or not math.isfinite(activation.second):
        return 1.0
    return float(f"{1 / math.sqrt(activation.second):.12g}")


def mean_gain(gains: Sequence[float]) -> float:
    """The root mean square, 1 where there are none."""
    if len(set(gains)) <= 1:
        return gains[0] if gains else 1.0
    return math.sqrt(sum(g * g for g in gains) / len(gains))
