"""Random matrices with orthonormal rows or columns, of Haar's law."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxinit.sampling.laws import Floats, Stream

PANEL = 64
"""Householder vectors that are applied at a time, as one matrix product. A change changes the draws."""

SLAB = 128
"""Rows of the result that are updated at a time, so that they stay in the cache."""


def haar(rows: int, cols: int, stream: Stream, dtype: npt.DTypeLike = np.float32) -> Floats:
    """A random matrix with orthonormal rows or columns, whichever are fewer.

    The Q of a Gaussian matrix (R with a positive diagonal) has Haar's law. Its k-th Householder vector comes from a
    Gaussian vector of n - k + 1 entries that is independent of the others, so those are drawn and nothing is
    factorised; Q is accumulated backwards, a panel of reflections H_1 ... H_b = I - V T V' at a time.

    Args:
        rows: Rows of the result.
        cols: Columns of the result.
        stream: Where the normal values come from: as many as the result has degrees of freedom.
        dtype: float32 or float64.

    Returns:
        (rows, cols); Q'Q or QQ' is the identity to 1e-6 (float32) or 1e-14 (float64).

    Source: G. W. Stewart, The efficient generation of random orthogonal matrices, SIAM J. Numer. Anal. 17 (1980);
    R. Schreiber and C. Van Loan, A storage-efficient WY representation for products of Householder transformations,
    SIAM J. Sci. Stat. Comput. 10 (1989).
    """
    if rows < cols:
        wide: Floats = haar(cols, rows, stream, dtype).T
        return wide
    q: Floats = np.zeros((rows, cols), dtype)
    if cols == 1 < rows:  # a vector, as in each of the many blocks of a depthwise kernel, is only made one long
        stream.normal(q)
        q /= np.sqrt(q.T @ q)
        return q
    signs = np.empty(cols, dtype)
    panels = [(at, _vectors(stream, rows - at, min(PANEL, cols - at), q.dtype)) for at in range(0, cols, PANEL)]
    for at, v in reversed(panels):
        end = at + len(v)
        signs[at:end] = _reflect(v, q[at:, at:])
    np.multiply(q, signs, out=q)
    return q


def _vectors(stream: Stream, length: int, count: int, dtype: np.dtype[np.floating[Any]]) -> Floats:
    """Gaussian vectors as rows, the k-th with k leading zeros: (count, length)."""
    v = np.zeros((count, length), dtype)
    corner = np.empty(count * (count + 1) // 2, dtype)
    stream.normal(corner)
    v[:, :count][np.triu_indices(count)] = corner
    rest = np.empty((count, length - count), dtype)
    stream.normal(rest)
    v[:, count:] = rest
    return v


def _reflect(v: Floats, q: Floats) -> Floats:
    """Apply the panel's reflections to q, whose first rows and columns are those of the identity, still unset.

    Args:
        v: The Gaussian vectors, overwritten with the Householder vectors u = x + sign(x_k) |x| e_k.
        q: The part of the result that the panel changes, overwritten.

    Returns:
        Per vector the sign that makes the diagonal of R positive.
    """
    count = len(v)
    diagonal = np.einsum("kk->k", v[:, :count])
    signs = np.copysign(v.dtype.type(1), diagonal)
    norms = np.sqrt(np.einsum("kn,kn->k", v, v))
    norms[norms == 0] = 1  # a vector of one entry can be zero
    diagonal += signs * norms
    # H_1 ... H_b = I - V T V' is orthogonal when inv(T) + inv(T)' = V'V, and T is upper triangular.
    gram = v @ v.T
    t = np.linalg.inv(np.triu(gram, 1) + np.diag(np.diag(gram) / 2))
    w: Floats = np.empty((count, q.shape[1]), v.dtype)
    w[:, :count] = v[:, :count]
    np.matmul(v[:, count:], q[count:, count:], out=w[:, count:])
    w = t @ w
    for at in range(0, len(q), SLAB):
        q[at : at + SLAB] -= v[:, at : at + SLAB].T @ w
    q[np.arange(count), np.arange(count)] += 1
    negated: Floats = -signs
    return negated
