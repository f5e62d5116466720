"""Tensors that are stored sparse: values, and a pattern that says where they stand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxinit.errors import ModelError


def pattern_of(path: str) -> str:
    """The path of the pattern that belongs to the stored values at a path."""
    return path.removesuffix("values") + "indices"


def positions(pattern: npt.NDArray[np.generic], shape: Sequence[int], label: str) -> npt.NDArray[np.int64]:
    """Where the values stand in the dense tensor, in stored order.

    Args:
        pattern: Either form: [count] of positions in the flat tensor, or [count, rank] of indices along each axis.
        shape: The dense shape.
        label: What to call the tensor in a message.

    Raises:
        ModelError: A place lies outside the shape.
    """
    size = math.prod(shape)
    sides = (size,) if pattern.ndim < 2 else tuple(shape)
    columns = np.asarray(pattern, np.int64).reshape(len(pattern), len(sides))
    if ((columns < 0) | (columns >= sides)).any():
        raise ModelError(f"{label} has a sparse pattern with places outside its shape; export the model again")
    steps = [math.prod(sides[i + 1 :]) for i in range(len(sides))]
    found: npt.NDArray[np.int64] = columns @ np.array(steps, np.int64)
    return found


def dense(
    values: npt.NDArray[np.generic], pattern: npt.NDArray[np.generic], shape: Sequence[int], label: str
) -> npt.NDArray[np.generic]:
    """The dense tensor that values and a pattern stand for.

    Raises:
        ModelError: As `positions`.
    """
    out = np.zeros(math.prod(shape), values.dtype)
    out[positions(pattern, shape, label)] = values.reshape(-1)
    return out.reshape(tuple(shape))
