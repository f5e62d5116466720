"""Correlations by axis where axes are added, dropped, split, merged and repeated."""

from __future__ import annotations

from collections.abc import Sequence

from onnxinit.signal.moments.moments import Moments, Rho, joint, shaped


def aligned(m: Moments, own: Sequence[int], out: Sequence[int]) -> Moments:
    """A value broadcast to a shape: along an axis that it repeats on, its elements are the same."""
    if len(m.rho) == len(out) and tuple(own) == tuple(out):
        return m
    if len(m.rho) > len(out) or (own and len(own) != len(m.rho)):
        return m
    lead = len(out) - len(m.rho)

    def change(rho: Rho) -> Rho:
        kept = (1.0 if own and own[i] == 1 and out[lead + i] != 1 else r for i, r in enumerate(rho))
        return (*(1.0 for _ in range(lead)), *kept)

    return shaped(m, change, same=False)


def regrouped(rho: Rho, old: Sequence[int], new: Sequence[int]) -> Rho:
    """Correlations after a reshape: those of the old axes that a new one runs over, all of them differing."""
    if len(rho) != len(old):
        return (0.0,) * len(new)
    spans: list[tuple[int, int, float]] = []
    step = 1
    for n, r in zip(reversed(old), reversed(rho), strict=True):
        if n > 1:
            spans.append((step, step * n, r))
        step *= max(1, n)
    out: list[float] = []
    step = 1
    for n in reversed(new):
        met = [r for low, high, r in spans if max(low, step) < min(high, step * n)]
        value = met[0] if met else 1.0 if n == 1 else 0.0
        for r in met[1:]:
            value = joint(value, r)
        out.append(value)
        step *= max(1, n)
    return tuple(reversed(out))


def dropped(rho: Rho, axes: Sequence[int], keep: bool) -> Rho:
    """Correlations where some axes have length one, or are gone."""
    at = {a % max(1, len(rho)) for a in axes}
    if keep:
        return tuple(1.0 if i in at else r for i, r in enumerate(rho))
    return tuple(r for i, r in enumerate(rho) if i not in at)
