"""What windows gather along an axis: taps that meet the signal, and how much of it is there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxinit.analysis.view import Node
from onnxinit.analysis.windows import leading, slide
from onnxinit.signal.moments.moments import Edge, Moments

Array = npt.NDArray[np.float64]
Gathered = tuple["list[float]", Edge, "list[float]"]

LONGEST = 4096  # places along an axis, beyond which its ends do not count
_MOST_TAPS = 1 << 20


def met(p: Array, k: int, out: int, stride: int, dilation: int, before: int) -> Array:
    """What k taps gather at each of `out` places: the sum of p over those that meet the signal."""
    total = np.zeros(out)
    places_ = np.arange(out) * stride - before
    for j in range(k):
        at = places_ + j * dilation
        inside = (at >= 0) & (at < len(p))
        total[inside] += p[at[inside]]
    return total


def spread(p: Array, k: int, out: int, stride: int, dilation: int, before: int) -> Array:
    """What reaches each of `out` places where every element is spread over k taps."""
    total = np.zeros(out)
    for j in range(k):
        at = np.arange(len(p)) * stride + j * dilation - before
        inside = (at >= 0) & (at < out)
        np.add.at(total, at[inside], p[inside])
    return total


def edge_of(m: Moments, axis: int, n: int) -> Array:
    """How E[x^2] varies along an axis."""
    own = dict(m.edge).get(axis, ())
    return np.array(own) if len(own) == n else np.ones(n)


def by_tap(n: int, k: int, out: int, stride: int, dilation: int, before: int) -> list[int]:
    """At how many of `out` places each of k taps meets a signal of length n.

    Raises:
        ValueError: There are more taps than any file holds.
    """
    if k > _MOST_TAPS:
        raise ValueError(f"{k} taps")
    shift = np.arange(k) * dilation - before
    first = np.maximum(0, -(shift // stride))
    last = np.minimum(out - 1, (n - 1 - shift) // stride)
    inside: list[int] = np.maximum(0, last - first + 1).tolist()
    return inside


def taps(n: int, k: int, out: int, stride: int, dilation: int, before: int) -> float:
    """How many of k taps meet a signal of length n, on average over `out` places."""
    return sum(by_tap(n, k, out, stride, dilation, before)) / out if out > 0 else float(k)


def common(inside: Sequence[int], out: int) -> float:
    """The share of its taps that meet the signal at another place too, of `out` places: what two places can share.

    Args:
        inside: At how many places each tap meets the signal.
        out: How many places there are.
    """
    met_ = sum(inside)
    return sum(c * (c - 1) for c in inside) / ((out - 1) * met_) if out > 1 and met_ else 1.0


def gathered(x: Moments, node: Node, axes: Sequence[int], sizes: Sequence[int], kernel: Sequence[int]) -> Gathered:
    """What the taps of a convolution or a window meet, along every axis: how much on average, where, and in common."""
    counts: list[float] = []
    alike: list[float] = []
    edge: list[tuple[int, tuple[float, ...]]] = []
    made, steps = slide(node, tuple(sizes), tuple(kernel)), leading(node, tuple(sizes), tuple(kernel))
    for axis, n, k, out, (s, d, a) in zip(axes, sizes, kernel, made, steps, strict=True):
        alike.append(common(by_tap(n, k, out, s, d, a), out) if out else 1.0)
        if not out or max(n, out) > LONGEST:
            counts.append(taps(n, k, out or 0, s, d, a))
            continue
        found = met(edge_of(x, axis, n), k, out, s, d, a)
        counts.append(float(found.mean()))
        if counts[-1] > 0.0 and np.ptp(found) > 1e-9 * k:
            edge.append((axis, tuple((found / found.mean()).tolist())))
    return counts, tuple(edge), alike


def reach(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> list[float]:
    """How many taps of a kernel meet the signal, along every axis."""
    made, steps = slide(node, tuple(sizes), tuple(kernel)), leading(node, tuple(sizes), tuple(kernel))
    parts = zip(sizes, kernel, made, steps, strict=True)
    return [taps(n, k, out or 0, s, d, a) for n, k, out, (s, d, a) in parts]
