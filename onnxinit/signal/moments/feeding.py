"""Moments of inputs from calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt


def input_moments(feeds: Iterable[Mapping[str, npt.NDArray[np.generic]]]) -> dict[str, tuple[float, float]]:
    """Mean and variance of every float input over all feeds, in float64."""
    sums: dict[str, tuple[int, float, float]] = {}
    for feed in feeds:
        for name, array in feed.items():
            if array.dtype.kind in "iub" or not array.size:
                continue
            x = np.asarray(array).astype(np.float64)
            n, mean, spread = sums.get(name, (0, 0.0, 0.0))
            own, total = float(x.mean()), n + x.size
            gap = own - mean  # merged as Chan, Golub and LeVeque 1979 do, so that no digits are lost
            spread += float(((x - own) ** 2).sum()) + gap * gap * n * x.size / total
            sums[name] = (total, mean + gap * x.size / total, spread)
    return {name: (mean, spread / n) for name, (n, mean, spread) in sums.items()}
