"""Schemes of independent values whose law is given outright."""

from __future__ import annotations

from typing import Annotated

from onnxinit.errors import SchemeError
from onnxinit.schemes.distribution import Distribution
from onnxinit.schemes.parameters import Range
from onnxinit.schemes.table import Block, Params, scheme

Spread = Annotated[float, Range(least=0)]


def _ordered(params: Params) -> None:
    if not params["low"] < params["high"]:
        raise SchemeError(f"low must be below high, not {params['low']:g} and {params['high']:g}")


@scheme("uniform", check=_ordered)
def uniform(block: Block, *, low: float = -0.05, high: float = 0.05) -> Distribution:
    """Uniform between two bounds.

    Formula: w ~ U[low, high]

    Args:
        block: What it is drawn for.
        low: The lower bound.
        high: The upper bound.
    """
    return Distribution.uniform(low, high)


@scheme("normal", aliases={"gaussian": {}})
def normal(block: Block, *, mean: float = 0.0, std: Spread = 0.02) -> Distribution:
    """Normal with a given standard deviation.

    Formula: w ~ N(mean, std^2)

    Args:
        block: What it is drawn for.
        mean: The mean.
        std: The standard deviation.
    """
    return Distribution.normal(std, mean)


@scheme("truncated_normal", aliases={"trunc_normal": {}}, check=_ordered)
def truncated_normal(
    block: Block, *, mean: float = 0.0, std: Spread = 0.02, low: float = -2.0, high: float = 2.0
) -> Distribution:
    """Normal, cut at low and high (in standard deviations); std is nominal, before the cut.

    Formula: w = mean + std z, z ~ N(0, 1) given low <= z <= high; at two sigma Var[w] = (0.8796 std)^2

    Args:
        block: What it is drawn for.
        mean: The mean before the cut.
        std: The standard deviation before the cut.
        low: The lower cut, in standard deviations from the mean.
        high: The upper cut, in standard deviations from the mean.
    """
    return Distribution.truncated_normal(std, mean, low, high)
