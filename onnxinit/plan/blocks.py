"""What a weight's blocks are to a scheme, and the standard deviation that an entry asks for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from onnxinit.analysis.weight import Analysis, Part, Weight
from onnxinit.plan.plan import Entry, Gain, Vector
from onnxinit.schemes import Block, Spec, resolve_gain


def work_type(dtype: str) -> np.dtype[np.floating[Any]]:
    """The type of the arithmetic for a stored type: float64 for double, else float32."""
    return np.dtype(np.float64 if dtype == "double" else np.float32)


def label(weight: Weight) -> str:
    """What to call a weight in a message: its id, operator, type and shape."""
    op = weight.uses[0].op if weight.uses else "unused"
    return f"the weight '{weight.id}' ({op}, {weight.dtype}{list(weight.shape)})"


def sampled(entry: Entry, analysis: Analysis) -> Weight:
    """The weight whose layout an entry is a sample of: its own, or the one that it shares the values of."""
    weight, owner = analysis.by_id[entry.id], analysis.by_id.get(entry.draws_as)
    if owner is None or weight.quantised is not None or owner.quantised is not None or owner.dtype != weight.dtype:
        return weight
    return owner if owner.shape == (weight.shape[::-1] if entry.turned else weight.shape) else weight


def of_weight(entry: Entry, weight: Weight) -> Entry:
    """What the owner of some values gets, as the entry of a weight that shares them."""
    return replace(entry, id=weight.id, role=weight.role, shape=weight.shape, turned=weight.turned)


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


def effective_gain(weight: Weight, spec: Spec) -> Gain:
    """The gain that gives the effective weight, which the layer multiplies by, what a spec's gain means for it.

    What the graph multiplies the stored values by is divided out; where it zeroes some, whole matrices that do not know
    of that are scaled up by the root of the share that is left. Values of a tensor are taken as they are.
    """
    gain = resolve_gain(spec, weight.downstream, weight.upstream)
    if spec.pending or spec.scheme.origin:
        return gain
    if spec.structured and spec.scheme.gain and weight.live < 1.0:
        gain /= math.sqrt(weight.live)
    if weight.factor is None:
        return gain
    values = tuple(gain / x for x in weight.factor.values)
    return values[0] if weight.factor.axis is None else Vector(weight.factor.axis, values)


def asked_std(weight: Weight, spec: Spec, gain: Gain) -> float | None:
    """The standard deviation that scheme and gain ask for, over the whole tensor; None where none is stated or finite.

    Formula: sqrt(E[(g std)^2 + (g mean - M)^2]), M = E[g mean], over the gains and over the parts by their size.
    """
    found = asked_moments(weight, spec, gain)
    return found[1] if found is not None and math.isfinite(found[1]) else None


def asked_moments(weight: Weight, spec: Spec, gain: Gain) -> tuple[float, float] | None:
    """Mean M and standard deviation, as `asked_std` has them; None where the scheme states none."""
    if spec.pending:
        return None
    gains = gain.values if isinstance(gain, Vector) else (gain,)
    g = math.fsum(gains) / max(1, len(gains))
    apart = math.hypot(*(x - g for x in gains)) / math.sqrt(max(1, len(gains)))
    blocks = [(share, spec.moments(block)) for share, block in shares(weight)]
    known = [(share, *moments) for share, moments in blocks if moments is not None]
    if len(known) < len(blocks):
        return None
    middle = g * sum(share * mean for share, mean, _ in known)
    terms = ((math.sqrt(n), x) for n, m, s in known for x in (g * s, apart * s, apart * m, g * m - middle))
    return middle, math.hypot(*(root * x for root, x in terms))  # squares of large values would overflow


def block_means(weight: Weight, spec: Spec, gain: Gain) -> dict[str, float]:
    """The means that scheme and gain ask for, of the blocks that have names."""
    g = math.fsum(gain.values) / len(gain.values) if isinstance(gain, Vector) else gain
    blocks = [block_of(weight, part, i) for part in parts_of(weight) for i in range(len(part.names))]
    return {b.name: g * moments[0] for b in blocks if (moments := spec.moments(b)) is not None}


def shares(weight: Weight) -> Iterator[tuple[float, Block]]:
    """Each block and its share of the elements; one block for all of a part where they have no names to differ by."""
    parts = parts_of(weight)
    if not parts:
        yield 1.0, block_of(weight, None)
    total = sum(math.prod(part.shape) for part in parts)  # of packed codes more than there are stored elements
    for part in parts:
        count = len(part.names) or 1
        share = math.prod(part.shape) / count / total if total else 1.0
        for index in range(count):
            yield share, block_of(weight, part, index)
