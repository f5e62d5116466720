"""Schemes whose variance follows from the fans: at gain 1 it is scale/fan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from onnxinit.analysis.weight import Activation
from onnxinit.schemes.distribution import Distribution
from onnxinit.schemes.gains import mean_gain
from onnxinit.schemes.parameters import Range
from onnxinit.schemes.table import Block, Params, scheme

TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal cut at two sigma: sqrt(1 - 4 phi(2) / erf(sqrt(2)))."""

Shape = Literal["normal", "uniform"]
NORMAL = {"distribution": "normal"}
UNIFORM = {"distribution": "uniform"}


def spread(shape: str, fan: float, scale: float = 1.0) -> Distribution:
    """The law of variance scale/fan: normal, uniform, or truncated at two sigma with the variance corrected."""
    std = math.sqrt(scale / fan) if fan > 0 else 0.0
    if shape == "uniform":
        return Distribution.uniform(-math.sqrt(3.0) * std, math.sqrt(3.0) * std)
    if shape == "truncated_normal":
        return Distribution.truncated_normal(std / TRUNCATED_STD)
    return Distribution.normal(std)


def _he_gain(params: Params, downstream: Sequence[Activation]) -> float:
    if params["slope"] is not None:
        slopes = [params["slope"]]
    else:
        slopes = [a.slope if a.name in ("leaky_relu", "prelu") and a.slope is not None else 0.0 for a in downstream]
    return mean_gain([math.sqrt(2 / (1 + a * a)) for a in slopes or [0.0]])


@scheme(
    "he",
    aliases={"he_normal": NORMAL, "he_uniform": UNIFORM, "kaiming": {}, "kaiming_normal": NORMAL}
    | {"kaiming_uniform": UNIFORM, "msra": {}},
    gain=True,
    paper=_he_gain,
)
def he(
    block: Block,
    *,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    distribution: Shape = "normal",
    slope: float | None = None,
) -> Distribution:
    """He (Kaiming): keeps the variance through rectifiers.

    Formula: Var[w] = gain^2 / fan, gain = sqrt(2 / (1 + slope^2)); uniform: limit sqrt(3 Var[w])

    Source: He, Zhang, Ren, Sun: Delving Deep into Rectifiers, ICCV 2015, arXiv:1502.01852

    Args:
        block: What it is drawn for.
        mode: fan_in keeps the variance forward, fan_out backward.
        distribution: The shape of the law.
        slope: Negative slope of the rectifier; if not given, that of the downstream activation (0 for a plain ReLU).
    """
    return spread(distribution, block.fan(mode))


@scheme(
    "xavier",
    aliases={"xavier_uniform": UNIFORM, "xavier_normal": NORMAL, "glorot": {}, "glorot_uniform": UNIFORM}
    | {"glorot_normal": NORMAL},
    gain=True,
)
def xavier(
    block: Block, *, mode: Literal["fan_avg", "fan_in", "fan_out"] = "fan_avg", distribution: Shape | None = None
) -> Distribution:
    """Xavier (Glorot): a compromise between forward and backward variance for linear-like units.

    Formula: Var[w] = gain^2 * 2 / (fan_in + fan_out); uniform: limit sqrt(6 / (fan_in + fan_out)); mode=fan_in:
    N(0, 1/fan_in)

    Source: Glorot, Bengio: Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010

    Args:
        block: What it is drawn for.
        mode: fan_avg as in the paper; fan_in or fan_out for the one-sided forms that textbooks call Xavier too.
        distribution: The shape of the law; if not given, uniform for fan_avg and normal for the one-sided forms.
    """
    return spread(distribution or ("uniform" if mode == "fan_avg" else "normal"), block.fan(mode))


@scheme("lecun", aliases={"lecun_normal": NORMAL, "lecun_uniform": UNIFORM}, gain=True)
def lecun(block: Block, *, distribution: Shape = "normal") -> Distribution:
    """LeCun: unit variance through linear units, and what SELU is made for.

    Formula: Var[w] = gain^2 / fan_in; uniform: limit sqrt(3 / fan_in)

    Source: LeCun, Bottou, Orr, Mueller: Efficient BackProp, 1998; Klambauer et al.: Self-Normalizing Neural Networks,
    NeurIPS 2017, arXiv:1706.02515

    Args:
        block: What it is drawn for.
        distribution: The shape of the law.
    """
    return spread(distribution, block.fan("fan_in"))


@scheme("variance_scaling", gain=True)
def variance_scaling(
    block: Block,
    *,
    scale: Annotated[float, Range(least=0)] = 1.0,
    mode: Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"] = "fan_in",
    distribution: Literal["truncated_normal", "normal", "uniform"] = "truncated_normal",
) -> Distribution:
    """Any scale over any fan, as Keras and JAX have it.

    Formula: Var[w] = gain^2 * scale / fan; truncated at two sigma with the std divided by 0.87962566103423978

    Source: Keras and JAX, VarianceScaling

    Args:
        block: What it is drawn for.
        scale: The factor of the variance.
        mode: Which fan; fan_geo_avg is sqrt(fan_in fan_out).
        distribution: The shape of the law.
    """
    return spread(distribution, block.fan(mode), scale)
