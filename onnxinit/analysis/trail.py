"""Where the elements of a stored tensor stand in a value that is made of it by moving elements only.

A `Trail` follows a tensor through Transpose, Reshape, Slice, Split, Concat, Gather, Expand and their like. Every axis
of the value is a list of *factors*, outermost first; a factor is a digit of one stored axis: (axis, stride, size).
Moving elements permutes digits, a Reshape regroups and splits them, a Slice narrows the window into the stored tensor.
At its use the operator says what each axis means, and the digits carry the meaning back to the stored axes (`part`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
import numpy.typing as npt

from onnxinit.analysis.weight import Kind, Part

Tile = tuple[int, Kind]

BROADCAST = -1  # the stored axis of a digit that only repeats


@dataclass(frozen=True, slots=True)
class Factor:
    """A digit of a stored axis: index on the axis = sum of digit * stride; `axis` is -1 where values only repeat."""

    axis: int
    stride: int
    size: int


@dataclass(frozen=True, slots=True)
class Span:
    """One axis of the value: the tensor's digits, at `before` of an axis of length `total` (longer after a Concat)."""

    factors: tuple[Factor, ...]
    before: int
    total: int

    @property
    def size(self) -> int:
        """How much of the axis the tensor fills."""
        return math.prod(f.size for f in self.factors)


def _span(*factors: Factor) -> Span:
    kept = tuple(f for f in factors if f.size != 1)
    return Span(kept, 0, math.prod(f.size for f in kept))


@dataclass(frozen=True, slots=True)
class Trail:
    """The arrangement of a stored tensor in a value.

    Attributes:
        start: First index of the window into the stored tensor, on every stored axis.
        extent: Size of the window on every stored axis.
        spans: The axes of the value.
        via: Operators passed on the way.
        derived: Whether the values themselves changed on the way (a scale, a norm), not just their places.
        lost: Whether the places are no longer known; only the shape of the value is.
    """

    start: tuple[int, ...]
    extent: tuple[int, ...]
    spans: tuple[Span, ...]
    via: tuple[str, ...] = ()
    derived: bool = False
    lost: bool = False

    @staticmethod
    def of(shape: Sequence[int]) -> Trail:
        """The tensor itself."""
        spans = tuple(_span(Factor(i, 1, n)) for i, n in enumerate(shape))
        return Trail((0,) * len(shape), tuple(shape), spans)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return tuple(s.total for s in self.spans)

    def copies(self, axis: int) -> tuple[Factor, ...]:
        """The outermost digits of an axis that only repeat the rest."""
        return tuple(takewhile(lambda f: f.axis == BROADCAST, self.spans[axis].factors))

    def through(self, op: str) -> Trail:
        """The same arrangement one operator further."""
        return replace(self, via=(*self.via, op))

    def lose(self, dims: Sequence[int | None] | None) -> Trail:
        """The arrangement is gone; what is left is the shape of the value, an unknown length counted as one."""
        sizes = [n or 1 for n in dims] if dims is not None else [s.total for s in self.spans]
        return replace(self, spans=tuple(_span(Factor(BROADCAST, 1, n)) for n in sizes), lost=True)

    def transpose(self, perm: Sequence[int]) -> Trail:
        """Axes in another order."""
        return replace(self, spans=tuple(self.spans[p] for p in perm))

    def reshape(self, dims: Sequence[int]) -> Trail | None:
        """The same elements in order under another shape; None where a digit would be torn."""
        groups = _common_groups([s.total for s in self.spans], dims)
        if groups is None:
            return None
        spans: list[Span] = []
        for old, new in groups:
            made = _regroup([self.spans[i] for i in old], [dims[i] for i in new])
            if made is None:
                return None
            spans.extend(made)
        return replace(self, spans=tuple(spans))

    def squeeze(self, axes: Sequence[int] | None) -> Trail:
        """Drop axes of length one."""
        rank = max(1, len(self.spans))
        gone = {a % rank for a in axes} if axes is not None else {i for i, s in enumerate(self.spans) if s.total == 1}
        return replace(self, spans=tuple(s for i, s in enumerate(self.spans) if i not in gone))

    def unsqueeze(self, axes: Sequence[int]) -> Trail:
        """Add axes of length one."""
        rank = len(self.spans) + len(axes)
        new = {a % rank for a in axes}
        old = iter(self.spans)
        return replace(self, spans=tuple(_span() if i in new else next(old) for i in range(rank)))

    def expand(self, dims: Sequence[int | None]) -> Trail:
        """Broadcast to a shape; an unknown length counts as no repetition."""
        spans = (_span(),) * (len(dims) - len(self.spans)) + self.spans
        wide = (
            _span(Factor(BROADCAST, 1, n)) if n is not None and s.total == 1 and n > 1 else s
            for s, n in zip(spans, dims, strict=True)
        )
        return replace(self, spans=tuple(wide))

    def pick(self, axis: int) -> Trail:
        """One index of an axis that is not known: the axis goes, what it numbers are independent blocks."""
        return replace(self, spans=self.spans[:axis] + self.spans[axis + 1 :])

    def concat(self, axis: int, before: int, total: int) -> Trail:
        """Stand at `before` of a longer axis."""
        s = self.spans[axis]
        if s.total != s.size:  # a Concat of a Concat
            placed = Span(s.factors, before + s.before, total)
        else:
            placed = Span(s.factors, before, total)
        return replace(self, spans=(*self.spans[:axis], placed, *self.spans[axis + 1 :]))

    def window(self, axis: int, begin: int, length: int) -> Trail | None:
        """A contiguous range of an axis; None where it cuts digits unevenly or misses the tensor."""
        s = self.spans[axis]
        if begin == 0 and length == s.total:
            return self
        low, high = max(begin, s.before), min(begin + length, s.before + s.size)
        if low >= high:
            return None
        if low == s.before and high == s.before + s.size:  # the whole tensor, a shorter Concat around it
            placed = Span(s.factors, low - begin, length)
            return replace(self, spans=(*self.spans[:axis], placed, *self.spans[axis + 1 :]))
        if not s.factors:
            return None
        head, inner = s.factors[0], math.prod(f.size for f in s.factors[1:])
        first, count = low - s.before, high - low
        if inner > 1 and (first % inner or count % inner):
            return None
        first, count = first // inner, count // inner
        factors: tuple[Factor, ...] = (replace(head, size=count), *s.factors[1:])
        start, extent = list(self.start), list(self.extent)
        if head.axis != BROADCAST and head.stride * head.size != extent[head.axis]:
            # An inner digit of its stored axis, so that the window has gaps: equal pieces are blocks side by side, and
            # what is said of one goes for all.
            if first % count or head.size % count:
                return None
        elif head.axis != BROADCAST:
            start[head.axis] += first * head.stride
            extent[head.axis] = count * head.stride
        if count == 1:
            factors = factors[1:]
        placed = Span(factors, low - begin, length)
        spans = (*self.spans[:axis], placed, *self.spans[axis + 1 :])
        return replace(self, start=tuple(start), extent=tuple(extent), spans=spans)

    def places(self, stored: Sequence[int]) -> npt.NDArray[np.int64] | None:
        """Which element of the stored tensor stands at every place of the value.

        Args:
            stored: The shape of the stored tensor.

        Returns:
            Its number in stored order, in the shape of the value, -1 where other tensors stand; None where this is not
            known or an unknown index took an axis away.
        """
        steps = [math.prod(stored[i + 1 :]) for i in range(len(stored))]
        first = sum(a * step for a, step in zip(self.start, steps, strict=True))
        if self.lost or self.apart:
            return None
        found = np.full([s.total for s in self.spans], -1, np.int64)
        numbers = np.asarray(first, np.int64)
        for f in (f for span in self.spans for f in span.factors):
            step = 0 if f.axis == BROADCAST else f.stride * steps[f.axis]
            numbers = numbers[..., None] + step * np.arange(f.size)
        own = tuple(slice(s.before, s.before + s.size) for s in self.spans)
        found[own] = numbers.reshape([s.size for s in self.spans])
        return found

    @property
    def apart(self) -> bool:
        """Whether the value is one of several equal pieces of the window, so that what is said of it goes for all."""
        digits = (f for span in self.spans for f in span.factors if f.axis != BROADCAST)
        return math.prod(f.size for f in digits) != math.prod(self.extent)

    def part(self, tiles: Sequence[Sequence[Tile]], names: tuple[str, ...] = ()) -> Part | None:
        """What the meaning of the value's axes says of the stored tensor.

        Args:
            tiles: For every axis of the value the (size, kind) that it splits into, outermost first.
            names: Names of the blocks in the order of the axes.

        Returns:
            The part of the stored tensor, or None where digits and tiles do not divide one another.
        """
        if self.lost or len(tiles) != len(self.spans) or not all(n for tiling in tiles for n, _ in tiling):
            return None
        digits: list[_Digit] = []
        first, step = 0, 1  # where the first block stands among the names, and what one more block adds
        for span, tiling in zip(reversed(self.spans), reversed(tiles), strict=True):
            own = _own_tiles(span, tiling)
            met = _meet(span.factors, own[0]) if own is not None else None
            if own is None or met is None:
                return None
            first += own[1] * step
            inner = step
            for factor, kind in met:
                digits.append(_Digit(factor, kind, inner))
                inner *= factor.size if kind == "block" else 1
            step *= math.prod(n for n, kind in tiling if kind == "block")
        axes = [_along(axis, extent, digits) for axis, extent in enumerate(self.extent)]
        factors = tuple(tuple(d.factor.size for d in own_digits) for own_digits in axes)
        kinds = tuple(tuple(d.kind for d in own_digits) for own_digits in axes)
        if tuple(map(math.prod, factors)) != self.extent:
            return None
        part = Part(self.start, self.extent, factors, kinds)
        repeats = any(d.factor.axis == BROADCAST and d.kind == "block" for d in digits)
        if len(names) != step or repeats or any(d.step == 0 for own_digits in axes for d in own_digits):
            return part
        at = [first]
        for digit in (d for own_digits in axes for d in own_digits if d.kind == "block"):
            at = [i + k * digit.step for i in at for k in range(digit.factor.size)]
        return replace(part, names=tuple(names[i] for i in at))


@dataclass(frozen=True, slots=True)
class _Digit:
    """A digit with its meaning; one more of a block's is `step` names further, 0 where that is not known."""

    factor: Factor
    kind: Kind
    step: int


def _along(axis: int, extent: int, digits: Sequence[_Digit]) -> list[_Digit]:
    """The digits of a stored axis, outermost first; one that an unknown index took away numbers blocks."""
    own: list[_Digit] = []
    rest = extent
    for digit in sorted((d for d in digits if d.factor.axis == axis), key=lambda d: -d.factor.stride):
        covered = digit.factor.stride * digit.factor.size
        if rest > covered:
            own.append(_Digit(Factor(axis, covered, rest // covered), "block", 0))
        own.append(digit)
        rest = digit.factor.stride
    return [*own, _Digit(Factor(axis, 1, rest), "block", 0)] if rest > 1 else own


def _common_groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]] | None:
    """Pair up the shortest runs of axes with equal products."""
    if math.prod(old) != math.prod(new):
        return None
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [], []
        a = b = 1
        if i < len(old):
            left.append(i)
            a = old[i]
            i += 1
        if j < len(new):
            right.append(j)
            b = new[j]
            j += 1
        while a != b:
            if a < b and i < len(old):
                left.append(i)
                a *= old[i]
                i += 1
            elif b < a and j < len(new):
                right.append(j)
                b *= new[j]
                j += 1
            else:
                break
        if a != b:
            return None
        groups.append((left, right))
    return groups


def _regroup(old: list[Span], dims: list[int]) -> list[Span] | None:
    if len(old) == 1 and len(dims) == 1:
        return old
    joined = [s for s in old if s.total != 1]
    if any(s.total != s.size for s in old):  # within a Concat: only an outermost split keeps its place
        if len(joined) != 1:
            return None
        span = joined[0]
        inner = math.prod(dims[1:])
        if span.before % inner or span.size % inner:
            return None
        rest = _distribute(list(span.factors), [span.size // inner, *dims[1:]])
        if rest is None:
            return None
        return [Span(rest[0].factors, span.before // inner, dims[0]), *rest[1:]]
    return _distribute([f for s in old for f in s.factors], dims)


def _distribute(factors: list[Factor], dims: Sequence[int]) -> list[Span] | None:
    spans: list[Span] = []
    pending = list(factors)
    for n in reversed(dims):
        taken: list[Factor] = []
        need = n
        while need > 1:
            if not pending:
                return None
            f = pending.pop()
            if need % f.size == 0:
                taken.append(f)
                need //= f.size
            elif f.size % need == 0:
                taken.append(Factor(f.axis, f.stride, need))
                pending.append(Factor(f.axis, f.stride * need, f.size // need))
                need = 1
            else:
                return None
        spans.append(_span(*reversed(taken)))
    return spans[::-1] if all(f.size == 1 for f in pending) else None


def _own_tiles(span: Span, tiling: Sequence[Tile]) -> tuple[list[Tile], int] | None:
    """The tiles of the tensor's own stretch of an axis, and how many blocks of the axis stand before it."""
    tiles = [t for t in tiling if t[0] != 1]
    if span.total == span.size:
        return tiles, 0
    if not tiles:
        return None
    outer, inner = tiles[0][1], math.prod(n for n, _ in tiles[1:])
    before = span.before // inner * math.prod(n for n, k in tiles[1:] if k == "block") if outer == "block" else 0
    if span.before % inner == 0 and span.size % inner == 0:
        own: list[Tile] = [(span.size // inner, outer), *tiles[1:]]
        return [t for t in own if t[0] != 1], before
    offset = span.before % inner
    if len(tiles) == 2 and offset + span.size <= inner:  # a stretch within one outer tile
        return [(span.size, tiles[1][1])], before + (offset if tiles[1][1] == "block" else 0)
    return None


def _meet(factors: Sequence[Factor], tiles: Sequence[Tile]) -> list[tuple[Factor, Kind]] | None:
    """Split digits and tiles against one another, innermost first."""
    digits, pending, out = list(factors), list(tiles), list[tuple[Factor, Kind]]()
    while digits and pending:
        f, (n, kind) = digits.pop(), pending.pop()
        if f.size % n == 0:
            out.append((Factor(f.axis, f.stride, n), kind))
            if f.size > n:
                digits.append(Factor(f.axis, f.stride * n, f.size // n))
        elif n % f.size == 0:
            out.append((f, kind))
            pending.append((n // f.size, kind))
        else:
            return None
    return out if not digits and not pending else None
