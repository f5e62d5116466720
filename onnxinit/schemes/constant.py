"""Schemes whose values are all the same, and those that leave the choice to the plan."""

from __future__ import annotations

from onnxinit.schemes.distribution import Distribution
from onnxinit.schemes.table import Block, Scheme, register, scheme


@scheme("zeros", aliases={"zero": {}}, symmetric=True)
def zeros(block: Block) -> Distribution:
    """Zero everywhere.

    Formula: w = 0
    """
    return Distribution.constant(0.0)


@scheme("ones", aliases={"one": {}}, symmetric=True)
def ones(block: Block) -> Distribution:
    """One everywhere.

    Formula: w = 1
    """
    return Distribution.constant(1.0)


@scheme("constant", aliases={"const": {}}, symmetric=True)
def constant(block: Block, *, value: float = 0.0) -> Distribution:
    """One value everywhere.

    Formula: w = value

    Args:
        block: What it is drawn for.
        value: The value.
    """
    return Distribution.constant(value)


register(
    Scheme(
        "auto",
        summary="Chosen per weight from its downstream activation.",
        formula="he:gain=exact for the ReLU family and smooth functions like it; lecun for SELU; xavier for tanh, "
        "sigmoid, softmax, linear and what is not known; orthogonal for recurrent weights",
        family="constant",
    )
)
register(Scheme("keep", summary="The tensor stays as it is.", formula="w = w", family="constant"))
register(
    Scheme(
        "refit",
        summary="What is worked out of weights that are drawn: scales and zero points of quantised ones, the scale of "
        "a weight norm, the vectors of a spectral norm, copies of kernels.",
        formula="weight norm: g = norm(w); spectral norm: u and v the singular vectors of the largest singular value; "
        "scales, symmetric: s = max abs(w) / q_max; else s = (max w - min w) / (q_max - q_min) and "
        "z = q_min - min w / s, zero within the range; per tensor, channel or block, as they were",
        family="constant",
    )
)
register(
    Scheme(
        "measured",
        summary="What a pass over calibration data measured: running statistics, biases that centre their layer.",
        formula="running_mean = E[x], running_var = Var[x] per channel; bias = -E[y]",
        family="constant",
    )
)
