"""What a weight's blocks are to a scheme, and the standard deviation that an entry asks for."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from onnxinit.analysis.weight import Part, Weight
from onnxinit.plan.plan import Gain, Vector
from onnxinit.schemes import Block, Spec


def work_type(dtype: str) -> np.dtype[np.floating]:
    """The type of the arithmetic for a stored type: float64 for double, else float32."""
    return np.dtype(np.float64 if dtype == "double" else np.float32)


def label(weight: Weight) -> str:
    """What to call a weight in a message: its id, operator, type and shape."""
    op = weight.uses[0].op if weight.uses else "unused"
    return f"the weight '{weight.id}' ({op}, {weight.dtype}{list(weight.shape)})"


def parts_of(weight: Weight) -> tuple[Part, ...]:
    """The weight's parts; a tensor without a layout is one part of one block, its stored shape."""
    return weight.layout.parts if weight.layout is not None else ()


def block_of(weight: Weight, part: Part | None, index: int = 0) -> Block:
    """The block with a number in a part as a scheme sees it; the whole tensor where there is no layout."""
    if part is None:
        return Block(weight.shape, weight.fan_in, weight.fan_out, "", work_type(weight.dtype))
    fan_in = weight.fan_in if part.fan_in is None else part.fan_in
    fan_out = weight.fan_out if part.fan_out is None else part.fan_out
    name = part.names[index] if part.names else ""
    return Block(part.block_shape, fan_in, fan_out, name, work_type(weight.dtype))


def asked_std(weight: Weight, spec: Spec, gain: Gain) -> float | None:
    """The standard deviation of all values of the tensor that scheme and gain ask for; None where it is not stated.

    Formula: sqrt(E[(g std)^2 + (g mean - M)^2]), M = E[g mean], over the gains and over the parts by their size.
    """
    gains = np.asarray(gain.values if isinstance(gain, Vector) else [gain])
    shares, moments = zip(*((share, spec.moments(block)) for share, block in _shares(weight)), strict=True)
    if None in moments:
        return None
    means, spreads = (np.outer(column, gains) for column in zip(*moments, strict=True))
    middle = np.average(means.mean(axis=1), weights=shares)
    return float(np.sqrt(np.average((spreads**2 + (means - middle) ** 2).mean(axis=1), weights=shares)))


def _shares(weight: Weight) -> Iterator[tuple[float, Block]]:
    """Each block and its share of the elements; one block for all of a part where they have no names to differ by."""
    parts = parts_of(weight)
    if not parts:
        yield 1.0, block_of(weight, None)
    for part in parts:
        count = len(part.names) or 1
        share = math.prod(part.shape) / count / weight.size if weight.size else 1.0
        for index in range(count):
            yield share, block_of(weight, part, index)
