"""Tensors that follow from weights: what they have to be so that the graph makes of fresh weights what it should.

The scale of a weight norm holds the norm of its weight, the vectors of a spectral norm its singular vectors, the copy
that an exporter made of a kernel the same values again. A recipe works such a tensor out of the weights, by running the
few nodes between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnxinit.analysis.statics import Leaf, Numbers, evaluate
from onnxinit.analysis.trail import Trail
from onnxinit.analysis.view import Value

_MOST = 1000  # steps of a power iteration
_STILL = 1e-7  # the change of a singular value that ends it, relative


class Recipe(Protocol):
    """How a tensor follows from others."""

    def values(self, leaf: Leaf) -> Numbers | None:
        """The tensor's values.

        Args:
            leaf: What the others hold, by path; None where that is not known.
        """

    @property
    def of(self) -> str:
        """The path of the weight that it follows."""


@dataclass(frozen=True, slots=True)
class Size:
    """The factor of a kernel that the graph normalises: with it the kernel has the size of the weight that it is of.

    With E(g) the kernel, D = E(1) and W the weight as it is stored, cell by cell of what one factor multiplies:

        g = |W| / |D|,  for E = g W / |W| the norm of W, so that E = W

    Attributes:
        path: The factor.
        shape: Its shape.
        of: The weight.
        stored: The weight's shape.
        operand: The kernel as the layer multiplies by it.
        trail: How the weight stands in it.
        rho: The correlation of two elements of the kernel that differ along one of its axes, axis by axis.
    """

    path: str
    shape: tuple[int, ...]
    of: str
    stored: tuple[int, ...]
    operand: Value
    trail: Trail
    rho: tuple[float, ...] = ()

    def values(self, leaf: Leaf) -> Numbers | None:
        """As `Recipe` says."""
        found = self.cells(leaf)
        if found is None:
            return None
        weight, made, cell = found
        norms = [np.sqrt(np.bincount(cell, x * x, minlength=math.prod(self.shape))) for x in (weight, made)]
        return np.divide(norms[0], norms[1], out=np.zeros_like(norms[0]), where=norms[1] > 0).reshape(self.shape)

    def cells(self, leaf: Leaf) -> tuple[Numbers, Numbers, np.ndarray[tuple[int], np.dtype[np.int64]]] | None:
        """Where the kernel is not zero: the weight, the kernel D with factors of one, and which factor multiplies it.

        None where that is not known, or some elements are multiplied by none of them or by several.
        """
        weight, count = leaf(self.of), math.prod(self.shape)
        places, both = self.trail.places(self.stored), self._numbered(leaf)
        if weight is None or places is None or both is None or both[0].shape != places.shape:
            return None
        made, ratio = both
        live = (places >= 0) & np.isfinite(ratio)
        cell = np.rint(ratio[live]).astype(np.int64)
        if (
            np.abs(ratio[live] - cell).max(initial=0.0) > 1e-3
            or not 0 <= cell.min(initial=0) <= cell.max(initial=0) < count
        ):
            return None
        return weight.reshape(-1)[places[live]].astype(np.float64), made[live], cell

    def correlations(self, leaf: Leaf) -> tuple[float, ...]:
        """What `rho` is: two of n values that are centred in their cell correlate by -1/(n - 1), others by nothing."""
        both = self._numbered(leaf)
        if both is None or not np.isfinite(both[1]).all():
            return ()
        made, cell = both[0], np.rint(both[1]).astype(np.int64)
        sums, sizes = (np.bincount(cell.reshape(-1), x.reshape(-1)) for x in (made, np.abs(made)))
        shared = -1.0 / max(1, made.size // math.prod(self.shape) - 1) if (np.abs(sums) < 1e-6 * sizes).all() else 0.0
        return tuple(0.0 if np.diff(cell, axis=axis).any() else shared for axis in range(made.ndim))

    def _numbered(self, leaf: Leaf) -> tuple[Numbers, Numbers] | None:
        """The kernel with factors of one, and at every place the number of the factor, where the kernel is not zero."""
        count = math.prod(self.shape)
        made = self._made(leaf, np.ones(self.shape))
        numbered = self._made(leaf, np.arange(1.0, count + 1).reshape(self.shape))
        if made is None or numbered is None or made.shape != numbered.shape:
            return None
        with np.errstate(all="ignore"):
            return made, np.where(made != 0, numbered / made, np.nan) - 1.0

    def _made(self, leaf: Leaf, factor: Numbers) -> Numbers | None:
        return evaluate(self.operand, lambda path: factor if path == self.path else leaf(path))


@dataclass(frozen=True, slots=True)
class Singular:
    """A stored singular vector of the largest singular value, as a spectral norm W / (u^T W v) holds two.

    Attributes:
        shape: The vector's shape.
        of: The weight.
        matrix: The weight as the matrix that the vectors multiply.
        left: Whether it is u, of the matrix's rows.
        turned: Whether `matrix` has to be transposed.
    """

    shape: tuple[int, ...]
    of: str
    matrix: Value
    left: bool
    turned: bool

    def values(self, leaf: Leaf) -> Numbers | None:
        """As `Recipe` says."""
        matrix = evaluate(self.matrix, leaf)
        if matrix is None:
            return None
        u, v = singular_pair(matrix.T if self.turned else matrix)
        return (u if self.left else v).reshape(self.shape)


def singular_pair(matrix: Numbers) -> tuple[Numbers, Numbers]:
    """The singular vectors of the largest singular value, by power iteration from a fixed start.

    Source: Miyato, Kataoka, Koyama, Yoshida: Spectral Normalization for Generative Adversarial Networks, ICLR 2018,
    arXiv:1802.05957
    """
    v = _unit(np.cos(np.arange(1.0, matrix.shape[1] + 1)))
    u, before = np.zeros(matrix.shape[0]), 0.0
    for _ in range(_MOST):
        u = _unit(np.asarray(matrix @ v))
        image = np.asarray(matrix.T @ u)
        size, v = float(np.linalg.norm(image)), _unit(image)
        if size - before <= _STILL * size:
            break
        before = size
    return u, v


def _unit(x: Numbers) -> Numbers:
    size = float(np.linalg.norm(x))
    unit: Numbers = x / size if size > 0 else np.full(x.shape, 1 / math.sqrt(x.size))
    return unit


@dataclass(frozen=True, slots=True)
class Copy:
    """The same values again, which an exporter stored a second time for the statistics of a kernel.

    Attributes:
        shape: The copy's shape.
        of: The weight.
        kernel: The kernel that the statistics are of, its channels along axis 1.
        axis: The copy's axis that the channels run along.
    """

    shape: tuple[int, ...]
    of: str
    kernel: Value
    axis: int

    def values(self, leaf: Leaf) -> Numbers | None:
        """As `Recipe` says."""
        kernel = evaluate(self.kernel, leaf)
        if kernel is None or kernel.size != math.prod(self.shape):
            return None
        return np.moveaxis(kernel, 1, self.axis).reshape(self.shape)
