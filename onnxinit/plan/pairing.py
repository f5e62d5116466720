"""Which blocks of a donor's weight become the blocks of a weight, and whether they can."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxinit.analysis.weight import Weight


@dataclass(frozen=True, slots=True)
class Form:
    """What of a weight says whether another can give it values.

    Attributes:
        role: Its role.
        blocks: (name, canonical shape) of every block, in the order of the layout; of a tensor without a layout, its
            shape.
        laid_out: Whether there is a layout.
    """

    role: str
    blocks: tuple[tuple[str, tuple[int, ...]], ...]
    laid_out: bool

    @classmethod
    def of(cls, weight: Weight) -> Form:
        """The form of a weight; of a quantised one, that of its real values."""
        if weight.layout is None:
            shape = weight.quantised.shape if weight.quantised else weight.shape
            return cls(weight.role, (("", shape),), False)
        blocks = [
            (part.names[i] if part.names else "", part.block_shape)
            for part in weight.layout.parts
            for i in range(part.blocks)
        ]
        return cls(weight.role, tuple(blocks), True)


@dataclass(frozen=True, slots=True)
class Pairing:
    """How a donor fills a weight.

    Attributes:
        blocks: For each block of the weight the number of the donor's block.
        shape: Shape that the donor's tensor is read in where there is no layout; () where there is one.
        how: "" for all of the donor's values as they are, else whether they are "subsampled" or "repeated".
    """

    blocks: tuple[int, ...]
    shape: tuple[int, ...] = ()
    how: str = ""


def pair(form: Form, donor: Form, *, tile: bool = False) -> Pairing | str:
    """Pair the blocks of a weight with those of a donor.

    Of the n blocks of a name the k-th gets block floor(k m/n) of the donor's m blocks of that name, and every axis the
    same way; with `tile`, where the donor has fewer, they come again and again.

    Args:
        form: The weight.
        donor: The weight that it could take its values from.
        tile: Whether a smaller donor is repeated.

    Returns:
        The pairing, or why there is none, in words that follow the donor's name.
    """
    if form.role != donor.role:
        return f"is a {donor.role}"
    if form.laid_out != donor.laid_out:
        return "is cut into other blocks"
    if not form.laid_out:
        shape = _in_rank(donor.blocks[0][1], form.blocks[0][1])
        if shape is None:
            return "has another rank"
        return _fault(form.blocks[0][1], shape, tile) or Pairing((0,), shape, _how([(form.blocks[0][1], shape)], 1))
    theirs: dict[str, list[int]] = {}
    for number, (name, _) in enumerate(donor.blocks):
        theirs.setdefault(name, []).append(number)
    ours: dict[str, int] = {}
    for name, _ in form.blocks:
        ours[name] = ours.get(name, 0) + 1
    if ours.keys() != theirs.keys():
        return "is cut into other blocks"
    if not tile and any(len(theirs[name]) < n for name, n in ours.items()):
        return "has fewer blocks"
    chosen, seen = list[int](), dict.fromkeys(ours, 0)
    faults: dict[tuple[tuple[int, ...], tuple[int, ...]], str] = {}
    for name, shape in form.blocks:
        k, n, m = seen[name], ours[name], len(theirs[name])
        seen[name] += 1
        number = theirs[name][k * m // n if m >= n else k % m]
        both = shape, donor.blocks[number][1]
        if both not in faults:
            faults[both] = _fault(*both, tile)
        if faults[both]:
            return faults[both]
        chosen.append(number)
    return Pairing(tuple(chosen), how=_how(faults, len(donor.blocks) / len(form.blocks)))


def _fault(shape: Sequence[int], there: Sequence[int], tile: bool) -> str:
    if len(shape) != len(there):
        return "has another rank"
    return "" if tile or all(t >= s for s, t in zip(shape, there, strict=True)) else "is smaller"


def _how(shapes: Iterable[tuple[Sequence[int], Sequence[int]]], blocks: float) -> str:
    ratios = [(s, t) for here, there in shapes for s, t in zip(here, there, strict=True)]
    if blocks < 1 or any(t < s for s, t in ratios):
        return "repeated"
    return "subsampled" if blocks > 1 or any(t > s for s, t in ratios) else ""


def _in_rank(shape: tuple[int, ...], like: tuple[int, ...]) -> tuple[int, ...] | None:
    """A shape brought to the rank of another by axes of length 1: (c,) like (1, c, 1, 1); None where that cannot be."""
    if len(shape) == len(like):
        return shape
    long = [n for n in shape if n != 1]
    axes = [i for i, n in enumerate(like) if n != 1]
    if len(long) != len(axes):
        return None
    out = [1] * len(like)
    for axis, n in zip(axes, long, strict=True):
        out[axis] = n
    return tuple(out)


def likeness(form: Form, donor: Form) -> float:
    """How much two forms look like one layer at two widths, from 0 to 1: equal shapes, or equal ratios of out to in.

    A network that is wider throughout keeps the ratios, which tell its stages, bottlenecks and expansions apart.
    """
    if form == donor:
        return 1.0
    return max(0.0, 0.75 - abs(_ratio(form) - _ratio(donor)) / 4)


def _ratio(form: Form) -> float:
    shape = form.blocks[0][1]
    return math.log2(shape[0] / shape[1]) if len(shape) > 1 and shape[0] and shape[1] else 0.0
