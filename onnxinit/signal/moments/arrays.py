"""Moments of values that are known element by element."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from onnxinit.signal.moments.moments import HUGE, Moments, constant, normal

LENGTH = 32  # what an axis of unknown length counts as
_MASKED = -50.0  # exp of it is nothing beside 1; windows of images are masked with -100
_LOOKED_AT = 1 << 20  # elements of a constant beyond which only its mean and variance are taken


def array_moments(array: npt.NDArray[np.generic]) -> Moments:
    """The moments of values that are known, hugely negative ones (of a mask) apart.

    The correlation along an axis of n values follows from the variance of the means: Var(mean)/Var = 1/n + (1-1/n) rho.
    """
    held = np.asarray(array).astype(np.float64)
    if held.size == 0:
        return constant(0.0, held.ndim)
    shown = held > -HUGE
    if held.max() == 0.0 and not ((held < 0.0) & (held > _MASKED)).any():  # zeros, and what hides as well as infinity
        shown = held > _MASKED
    hidden = 1.0 - float(shown.mean())
    if hidden:
        kept = held[shown]
        mean, var = (float(kept.mean()), float(kept.var())) if kept.size else (0.0, 0.0)
        return normal(mean, var, (0.0,) * held.ndim, hidden=hidden) if var else constant(mean, held.ndim, hidden)
    mean, var = float(held.mean()), float(held.var())
    if not math.isfinite(var):
        return constant(0.0, held.ndim)
    if var <= 1e-24 * max(mean * mean, 1e-30):
        return constant(mean, held.ndim)
    rho = []
    for axis, n in enumerate(held.shape if held.size <= _LOOKED_AT else ()):
        means = float(held.mean(axis=axis).var()) / var
        rho.append((n * means - 1.0) / (n - 1.0) if n > 1 else 1.0)
    return normal(mean, var, rho or (0.0,) * held.ndim)
