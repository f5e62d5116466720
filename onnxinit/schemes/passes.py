"""Schemes that look at signals: a pass over the network settles the gains or values of their weights."""

from __future__ import annotations

from typing import Annotated, Literal

from onnxinit.errors import SchemeError
from onnxinit.schemes.parameters import Range
from onnxinit.schemes.spec import parse_spec
from onnxinit.schemes.table import Params, scheme


def check_base(params: Params) -> None:
    """See that the base is a scheme that draws.

    Raises:
        SchemeError: There is no such scheme, or it leaves the choice to the plan.
    """
    base = parse_spec(params["base"])
    if base.planned or base.scheme.origin == "model":
        raise SchemeError(f"base must be a scheme that draws, such as orthogonal or he, not '{params['base']}'")


@scheme("lsuv", by_pass=True, check=check_base)
def lsuv(
    *,
    base: str = "orthogonal",
    target_std: Annotated[float, Range(least=1e-30, most=1e30)] = 1.0,
    tol: Annotated[float, Range(least=0.0)] = 0.02,
    max_iter: Annotated[int, Range(least=1)] = 10,
    per_channel: bool = False,
    center: bool = False,
    balance: bool = False,
    shared: Literal["first", "mean"] = "first",
) -> None:
    """Layer-sequential unit variance: every layer's output measured on data, layer after layer, and scaled.

    Formula: w = target_std / std(y) * base, y the layer's output on the calibration data, in execution order

    Source: Mishkin, Matas: All you need is a good init, ICLR 2016, arXiv:1511.06422

    Args:
        base: The scheme that draws the weights which are then scaled.
        target_std: The standard deviation of every layer's output.
        tol: Where a layer takes several runs, they end when its variance over the target's is within tol of 1.
        max_iter: The most runs of such a layer.
        per_channel: Whether every output channel gets the target std, not the output as a whole.
        center: Whether the layer's bias is set so that its output has mean 0.
        balance: Whether layers are scaled once more, so that a gradient changes all of them at the same rate.
        shared: What counts for a weight with several uses: the first, or the geometric mean of their stds.
    """


@scheme("analytic", by_pass=True, check=check_base)
def analytic(*, base: str = "he", target_std: Annotated[float, Range(least=1e-30, most=1e30)] = 1.0) -> None:
    """Unit variance without data: moments carried through the graph by rule, every layer's output scaled to them.

    Formula: w = target_std / std(y) * base; for y = sum of n products w x: Var[y] = n Var[w] E[x^2], with E[x^2] by the
    rules of all operators on the way from the input

    Source: Bingham, Miikkulainen: AutoInit: Analytic Signal-Preserving Weight Initialization for Neural Networks, AAAI
    2023, arXiv:2109.08958; correlations along axes as in Schoenholz, Gilmer, Ganguli, Sohl-Dickstein: Deep Information
    Propagation, ICLR 2017, arXiv:1611.01232

    Args:
        base: The scheme that draws the weights which are then scaled.
        target_std: The standard deviation of every layer's output.
    """


@scheme("pca", by_pass=True, check=check_base)
def pca(
    *,
    base: str = "orthogonal",
    target_std: Annotated[float, Range(least=1e-30, most=1e30)] = 1.0,
    per_channel: bool = True,
    center: bool = True,
    balance: bool = False,
    patches: Annotated[int, Range(least=2)] = 10000,
    damping: Annotated[float, Range(least=0.0)] = 1e-3,
) -> None:
    """Principal components of what a layer sees on the data, whitened; then scaled as by lsuv.

    Formula: w_i = target_std / std(y_i) * (l_i + damping l_1)^(-1/2) v_i, v_i the i-th eigenvector of the covariance of
        the layer's input patches, l_i its eigenvalue

    Source: Kraehenbuehl, Doersch, Donahue, Darrell: Data-dependent Initializations of Convolutional Neural Networks,
    ICLR 2016, arXiv:1511.06856

    Args:
        base: The scheme that draws what cannot be learned: kernels of recurrent and of transposed layers, for instance.
        target_std: The standard deviation of every layer's output.
        per_channel: Whether every output channel gets the target std, not the output as a whole.
        center: Whether the layer's bias is set so that its output has mean 0.
        balance: Whether layers are scaled once more, so that a gradient changes all of them at the same rate.
        patches: The most patches of a layer's input that are looked at.
        damping: What is added to the eigenvalues, in units of the largest.
    """


@scheme("zca", by_pass=True, check=check_base)
def zca(
    *,
    base: str = "orthogonal",
    target_std: Annotated[float, Range(least=1e-30, most=1e30)] = 1.0,
    per_channel: bool = True,
    center: bool = True,
    balance: bool = False,
    patches: Annotated[int, Range(least=2)] = 10000,
    damping: Annotated[float, Range(least=0.0)] = 1e-3,
) -> None:
    """Whitening in place of what a layer sees on the data: one filter for one input value; then scaled as by lsuv.

    Formula: w_i = target_std / std(y_i) * the row of V (L + damping l_1)^(-1/2) V^T of an input value, V L V^T the
        covariance of the layer's input patches; values at the centre of a kernel first, spread over the channels

    Source: Kraehenbuehl, Doersch, Donahue, Darrell: Data-dependent Initializations of Convolutional Neural Networks,
    ICLR 2016, arXiv:1511.06856

    Args:
        base: The scheme that draws what cannot be learned: kernels of recurrent and of transposed layers, for instance.
        target_std: The standard deviation of every layer's output.
        per_channel: Whether every output channel gets the target std, not the output as a whole.
        center: Whether the layer's bias is set so that its output has mean 0.
        balance: Whether layers are scaled once more, so that a gradient changes all of them at the same rate.
        patches: The most patches of a layer's input that are looked at.
        damping: What is added to the eigenvalues, in units of the largest.
    """


@scheme("kmeans", by_pass=True, check=check_base)
def kmeans(
    *,
    base: str = "orthogonal",
    target_std: Annotated[float, Range(least=1e-30, most=1e30)] = 1.0,
    per_channel: bool = True,
    center: bool = True,
    balance: bool = False,
    patches: Annotated[int, Range(least=2)] = 10000,
    damping: Annotated[float, Range(least=0.0)] = 1e-3,
) -> None:
    """Centroids of what a layer sees on the data, by k-means of whitened patches; then scaled as by lsuv.

    Formula: w_i = target_std / std(y_i) * c_i W, W = (L + damping l_1)^(-1/2) V^T, c_i a centroid of the whitened
        patches W x / |W x|, V L V^T the covariance of the layer's input patches x

    Source: Kraehenbuehl, Doersch, Donahue, Darrell: Data-dependent Initializations of Convolutional Neural Networks,
    ICLR 2016, arXiv:1511.06856

    Args:
        base: The scheme that draws what cannot be learned: kernels of recurrent and of transposed layers, for instance.
        target_std: The standard deviation of every layer's output.
        per_channel: Whether every output channel gets the target std, not the output as a whole.
        center: Whether the layer's bias is set so that its output has mean 0.
        balance: Whether layers are scaled once more, so that a gradient changes all of them at the same rate.
        patches: The most patches of a layer's input that are looked at.
        damping: What is added to the eigenvalues, in units of the largest.
    """
