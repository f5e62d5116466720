"""Schemes that draw a whole block (out, in, *kernel) at a time, and unit vectors."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np

from onnxinit.errors import SchemeError
from onnxinit.sampling import Stream, haar
from onnxinit.schemes.distribution import Distribution
from onnxinit.schemes.parameters import Range
from onnxinit.schemes.table import Block, Floats, scheme


def _matrix(block: Block) -> tuple[int, int]:
    """The block as a matrix: (out, in * kernel)."""
    if len(block.shape) < 2:
        raise SchemeError(
            f"a block of shape {block.shape} is no matrix: take an independent scheme such as zeros or normal:std=0.02"
        )
    return block.shape[0], math.prod(block.shape[1:])


def _orthogonal_moments(block: Block) -> tuple[float, float]:
    return 0.0, 1 / math.sqrt(max(1, *_matrix(block)))


@scheme("orthogonal", gain=True, moments=_orthogonal_moments)
def orthogonal(block: Block, stream: Stream) -> Floats:
    """Orthonormal rows or columns (whichever are fewer) of the matrix (out, in * kernel), of Haar's law, per block.

    Formula: W W' = gain^2 I or W' W = gain^2 I; Var[w] = gain^2 / max(out, in * kernel)

    Source: Saxe, McClelland, Ganguli: Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks, ICLR 2014, arXiv:1312.6120; drawn as in Stewart, SIAM J. Numer. Anal. 17 (1980)
    """
    return haar(*_matrix(block), stream, block.dtype).reshape(block.shape)


def _ones(block: Block) -> float:
    """The share of a block that as many ones make up as fit on the diagonal of its centre tap."""
    rows, cols = _matrix(block)
    return min(block.shape[:2]) / (rows * cols) if rows * cols else 0.0


@scheme("delta_orthogonal", gain=True, moments=lambda block: (0.0, math.sqrt(_ones(block))))
def delta_orthogonal(block: Block, stream: Stream) -> Floats:
    """An orthogonal matrix at the kernel's centre, zero elsewhere; without a kernel the same as orthogonal.

    Formula: W[:, :, (k-1)//2] = gain Q, Q'Q = I (needs out >= in)

    Source: Xiao, Bahri, Sohl-Dickstein, Schoenholz, Pennington: Dynamical Isometry and a Mean Field Theory of CNNs,
    ICML 2018, arXiv:1806.05393
    """
    _matrix(block)
    out, inn, *kernel = block.shape
    if not kernel:
        return haar(out, inn, stream, block.dtype)
    if out < inn:
        raise SchemeError(
            f"delta_orthogonal needs at least as many outputs as inputs, and a block has {out} and {inn}: "
            "take orthogonal for this weight, such as --rule 'ID=orthogonal'"
        )
    w = np.zeros(block.shape, block.dtype)
    centre = np.ravel_multi_index([(k - 1) // 2 for k in kernel], kernel)
    w.reshape(out, inn, -1)[:, :, centre] = haar(out, inn, stream, block.dtype)
    return w


def _identity_moments(block: Block) -> tuple[float, float]:
    share = _ones(block)
    return share, math.sqrt(share - share**2)


@scheme(
    "identity",
    aliases={"eye": {}, "dirac": {}, "irnn": {}},
    gain=True,
    exact_to="bytes",
    moments=_identity_moments,
)
def identity(block: Block, stream: Stream) -> Floats:
    """Each output is the input of its number: a rectangular identity, for kernels at the centre tap (dirac).

    Formula: W[i, i, k//2] = gain, 0 elsewhere

    Source: Le, Jaitly, Hinton: A Simple Way to Initialize Recurrent Networks of Rectified Linear Units, 2015,
    arXiv:1504.00941 (recurrent weights); torch.nn.init.dirac_ (kernels)
    """
    _matrix(block)
    w = np.zeros(block.shape, block.dtype)
    i = np.arange(min(block.shape[:2]))
    kernel = block.shape[2:]
    centre = np.ravel_multi_index([k // 2 for k in kernel], kernel) if kernel else 0
    w.reshape(*block.shape[:2], -1)[i, i, centre] = 1
    return w


def _nonzeros(n: int, nonzeros: int, sparsity: float | None) -> int:
    return min(nonzeros, n) if sparsity is None else n - math.ceil(sparsity * n)


def _sparse_moments(block: Block, *, nonzeros: int, sparsity: float | None, std: float | None) -> tuple[float, float]:
    n = _matrix(block)[1]
    return 0.0, (1.0 if std is None else std) * math.sqrt(_nonzeros(n, nonzeros, sparsity) / n) if n else 0.0


@scheme("sparse", exact_to="bytes", moments=_sparse_moments)
def sparse(
    block: Block,
    stream: Stream,
    *,
    nonzeros: Annotated[int, Range(least=0)] = 15,
    sparsity: Annotated[float, Range(least=0, most=1)] | None = None,
    std: Annotated[float, Range(least=0)] | None = None,
) -> Floats:
    """A fixed number of non-zero incoming weights per unit, at random places.

    Formula: in each unit's incoming vector min(nonzeros, n) entries ~ N(0, std^2), the others 0, n = in * kernel;
    with sparsity s: n - ceil(s n) entries

    Source: Martens: Deep learning via Hessian-free optimization, ICML 2010

    Args:
        block: What it is drawn for.
        stream: The random bits.
        nonzeros: Non-zero weights per unit.
        sparsity: The fraction of zeros, in place of nonzeros.
        std: The standard deviation of the non-zero weights; if not given, 1 as published, and what keeps the variance
            in a deep network without norms, after activations that have no bounds.
    """
    units, n = _matrix(block)
    kept = _nonzeros(n, nonzeros, sparsity)
    mask = _choose(units, n, kept, stream)
    values = np.empty(units * kept, block.dtype)
    stream.normal(values)
    w = np.zeros((units, n), block.dtype)
    w[mask] = values * block.dtype.type(1.0 if std is None else std)
    return w.reshape(block.shape)


def _choose(rows: int, n: int, count: int, stream: Stream) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """In each row `count` of n places, all subsets as likely: Floyd's algorithm, one step for all rows at a time.

    Source: Bentley, Floyd: Programming pearls: a sample of brilliance, CACM 30 (1987)
    """
    if 2 * count > n:
        return ~_choose(rows, n, n - count, stream)
    mask = np.zeros((rows, n), np.bool_)
    every = np.arange(rows)
    for last in range(n - count, n):
        place = stream.below(np.full(rows, last + 1))
        mask[every, np.where(mask[every, place], last, place)] = True
    return mask


def _unit_vectors(block: Block, stream: Stream, *, exact: bool) -> Floats:
    units, n = _matrix(block)
    w = np.empty((units, n), np.float64)
    stream.normal(w)
    # A running sum in one order on every machine: what numpy's own sum adds first depends on the processor.
    norms = np.sqrt(np.cumsum(w * w, axis=1)[:, -1:])
    unit: Floats = (w / norms).astype(block.dtype)
    return unit.reshape(block.shape)


def _unit_moments(block: Block, *, exact: bool) -> tuple[float, float]:
    return 0.0, 1 / math.sqrt(max(1, _matrix(block)[1]))


@scheme("normalized", gain=True, make_if=("exact", _unit_vectors), moments=_unit_moments)
def normalized(block: Block, *, exact: bool = False) -> Distribution:
    """Normal, each unit's incoming vector of unit length: on average, or exactly.

    Formula: w ~ N(0, gain^2 / m^2), m = sqrt(2) Gamma((n+1)/2) / Gamma(n/2), the mean length of n standard normal
    values, n = in * kernel; exact: each vector divided by its own length

    Source: the mean of the chi distribution

    Args:
        block: What it is drawn for.
        exact: Whether every vector has length 1, not the average only.
    """
    n = _matrix(block)[1]
    return Distribution.normal(1 / chi_mean(n) if n else 0.0)


def chi_mean(n: int) -> float:
    """The mean of the chi distribution, sqrt(2) Gamma((n + 1)/2) / Gamma(n/2), for n >= 1.

    By Stirling's series for n >= 256 and m(n) = m(n + 2) n / (n + 1) below: square roots and divisions only, which are
    the same everywhere, as lgamma is not. The relative error is below 1e-13.
    """
    factor = 1.0
    while n < 256:
        factor *= n / (n + 1)
        n += 2
    x = 1 / n
    series = 1 + x * (-1 / 4 + x * (1 / 32 + x * (5 / 128 + x * (-21 / 2048 + x * (-399 / 8192 + x * 869 / 65536)))))
    return factor * math.sqrt(n) * series
