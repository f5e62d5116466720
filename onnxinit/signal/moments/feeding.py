"""Moments of inputs from calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy.typing as npt

from onnxinit.signal.run.statistics import Moments, moments_of


def input_moments(feeds: Iterable[Mapping[str, npt.NDArray[Any]]]) -> dict[str, tuple[float, float]]:
    """Mean and variance of every float input over all feeds."""
    total: dict[str, Moments] = {}
    for feed in feeds:
        for name, array in feed.items():
            if array.dtype.kind not in "iub" and array.size:
                some = moments_of(array)
                total[name] = total[name] + some if name in total else some
    return {name: (float(m.mean), float(m.variance)) for name, m in total.items()}
