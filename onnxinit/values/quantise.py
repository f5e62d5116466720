"""Quantised weights: the real values are drawn, scales and zero points fitted to them, then the codes made.

The values are drawn once to find their range and once more to be encoded: the same stream gives the same values, so
that nothing larger than a chunk is held.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnxinit.analysis import Analysis, Quantised, Weight
from onnxinit.model import Chunk, Fresh
from onnxinit.plan import REFIT, Measured, Plan
from onnxinit.values.codes import (
    Bytes,
    Numbers,
    Read,
    bits_of,
    encode,
    pack,
    pack_scales,
    pack_zero_points,
    parameters,
    places,
    rounded,
    spread,
    stored_zero,
    symmetric,
    unpack_scales,
)
from onnxinit.values.rounding import Floats
from onnxinit.values.tally import Tally

_WIDE = 32  # bits of a code; these need float64
# For a normal x and a step s = 1.48 std, s^2 P(|x| > s/2) is the variance: three codes of that step keep it. With one
# that holds the largest value they would have a third more.
_TERNARY = 1.48


class Fitting:
    """The scales and zero points of a model as they will be written, worked out when they are asked for, each once.

    Args:
        plan: What is drawn.
        analysis: What the tensors are.
        reals: By id, the real values of the quantised weights that are drawn.
        read: The values of a tensor of the old file by its path, for what stays.
    """

    def __init__(self, plan: Plan, analysis: Analysis, reals: Mapping[str, Fresh], read: Read):
        self._read = read
        self._types = {w.path: w.dtype for e in plan.entries if (w := analysis.by_id[e.id]) and e.scheme.name == REFIT}
        self._gains = {analysis.by_id[e.id].path: e.gain for e in plan.entries if isinstance(e.gain, float)}
        self._told = {
            analysis.by_id[e.id].path: e.measured.values.astype(np.float64)
            for e in plan.entries
            if e.measured is not None and e.role == "quant_scale"
        }
        self._owners: dict[str, list[tuple[Quantised, Fresh, str]]] = {}
        for ident, values in reals.items():
            weight = analysis.by_id[ident]
            one, dtype = weight.codes, "float" if weight.quantised is not None else weight.dtype
            assert one is not None
            self._owners.setdefault(one.scale, []).append((one, values, dtype))
        self._owner = {p: o for owners in self._owners.values() for o, *_ in owners for p in (o.scale, o.zero_point)}
        self._locks = {path: threading.Lock() for path in self._types}
        self._fitted: dict[str, tuple[Numbers, Numbers]] = {}
        self._last: tuple[Fresh, Floats] | None = None  # what was drawn last, where it was drawn at once

    def drawn(self, values: Fresh, chunk: Chunk, dtype: str = "float") -> Floats:
        """The values of a job; those of a whole tensor are not drawn twice to be looked at and then encoded."""
        last = self._last
        if last is not None and last[0] is values:
            return last[1]
        made = _drawn(chunk, dtype)
        if chunk.nbytes == values.nbytes:
            self._last = values, made
        return made

    def owner(self, path: str) -> Quantised:
        """A weight that a scale or zero point is for."""
        return self._owner[path]

    def is_fitted(self, one: Quantised) -> bool:
        """Whether the scale of a weight follows its values."""
        return any(path in self._types or path in self._told for path in (one.scale, *one.factors))

    def encoding(self, one: Quantised) -> Quantised:
        """The codes that a weight may have: of two bits around zero three, where their step is fitted."""
        if one.zero is None or not _is_ternary(one) or one.scale not in self._types:
            return one
        low, high = symmetric((one.low, one.high), one.zero)
        return replace(one, low=low, high=high)

    def scale(self, one: Quantised) -> Numbers:
        """The scales of a weight, in the order of its grid."""
        return self._of(one.scale) if one.scale else self._product(one)

    def zero(self, one: Quantised) -> Numbers:
        """The zero points of a weight, one for each scale or one for all."""
        return self._fit(one.scale)[1] if one.zero_point in self._types else stored_zero(one, self._read)

    def _of(self, path: str) -> Numbers:
        if path in self._told:
            return self._told[path]
        return self._fit(path)[0] if path in self._types else self._read(path).astype(np.float64).reshape(-1)

    def _product(self, one: Quantised) -> Numbers:
        """The scale of a bias, from those of its layer's input and weight."""
        scale: Numbers = np.ones(1)
        for path in one.factors:
            scale = scale * self._of(path)
        return scale

    def _fit(self, path: str) -> tuple[Numbers, Numbers]:
        with self._locks[path]:
            if path not in self._fitted:
                self._fitted[path] = self._fit_now(path)
            return self._fitted[path]

    def _fit_now(self, path: str) -> tuple[Numbers, Numbers]:
        """Scales and zero points that just hold the values of all owners of a scale."""
        owners, dtype = self._owners[path], self._types[path]
        one = owners[0][0]
        if one.factors:
            return rounded(self._product(one), dtype), stored_zero(one, self._read)
        low, high = self._range(owners)
        ends, room = (one.low, one.high), self._gains.get(path, 1.0)
        if one.zero is not None:
            ends = symmetric(ends, one.zero)
            if _is_ternary(one):
                most = _TERNARY * self._root_mean_square(owners)
                low, high = np.maximum(low, -most), np.minimum(high, most)
            return parameters(low, high, ends, np.full(1, one.zero), dtype, room)
        zero = None if one.zero_point in self._types else stored_zero(one, self._read)
        return parameters(low, high, ends, zero, dtype, room)

    def _root_mean_square(self, owners: Sequence[tuple[Quantised, Fresh, str]]) -> Numbers:
        """Of the values of each scale."""
        squares, counts = np.zeros((2, math.prod(owners[0][0].grid)))
        for one, values, dtype in owners:
            for chunk in values.chunks():
                drawn = self.drawn(values, chunk, dtype).astype(np.float64)
                index = places(one, chunk.offset * 8 // bits_of(dtype), drawn.size)
                where = np.zeros(drawn.size, np.intp) if index is None else index
                squares += np.bincount(where, drawn**2, squares.size)
                counts += np.bincount(where, minlength=squares.size)
        means: Numbers = squares / np.maximum(counts, 1)
        return np.sqrt(means)

    def _range(self, owners: Sequence[tuple[Quantised, Fresh, str]]) -> tuple[Numbers, Numbers]:
        """The least and the largest value for each scale, zero among them."""
        low, high = np.zeros((2, math.prod(owners[0][0].grid)))
        for one, values, dtype in owners:
            for chunk in values.chunks():
                drawn = self.drawn(values, chunk, dtype)
                index = places(one, chunk.offset * 8 // bits_of(dtype), drawn.size)
                if index is None:
                    low[0], high[0] = min(low[0], drawn.min()), max(high[0], drawn.max())
                    continue
                runs = np.concatenate([[0], np.flatnonzero(np.diff(index)) + 1])
                np.minimum.at(low, index[runs], np.minimum.reduceat(drawn, runs))
                np.maximum.at(high, index[runs], np.maximum.reduceat(drawn, runs))
        return low, high


def _is_ternary(one: Quantised) -> bool:
    """Whether codes around zero are -1, 0 and 1 alone."""
    return one.zero is not None and not one.levels and min(one.high - one.zero, one.zero - one.low) == 1


def _drawn(chunk: Chunk, dtype: str = "float") -> Floats:
    """The values of a job, of 16-bit floats as float32."""
    values = unpack_scales(np.frombuffer(chunk.draw(), np.uint8), dtype)
    return values.astype(np.float32) if values.dtype.itemsize == 2 else values


@dataclass(frozen=True, slots=True)
class Encoded:
    """The codes of a quantised weight.

    Attributes:
        weight: The weight.
        real: Its real values.
        fitting: Gives its scales and zero points.
        tally: Counts what scales that stay hold badly.
    """

    weight: Weight
    real: Fresh
    fitting: Fitting
    tally: Tally

    @property
    def _one(self) -> Quantised:
        assert self.weight.quantised is not None
        return self.weight.quantised

    @property
    def nbytes(self) -> int:
        """Size as it is stored."""
        return (math.prod(self._one.shape) * self._one.bits + 7) // 8

    def chunks(self) -> Iterator[Chunk]:
        """Jobs that make the codes, each for a range of the tensor's bytes."""
        bits, drawn = self._one.bits, list(self.real.chunks())
        if any(c.offset // 4 * bits % 8 for c in drawn):  # a chunk would begin within a byte
            yield Chunk(0, self.nbytes, partial(self._encode, drawn))
            return
        for c in drawn:
            yield Chunk(c.offset // 4 * bits // 8, (c.nbytes // 4 * bits + 7) // 8, partial(self._encode, [c]))

    def _encode(self, chunks: Sequence[Chunk]) -> Bytes:
        one = self._one
        scale, zero = self.fitting.scale(one), self.fitting.zero(one)
        drawn = [self.fitting.drawn(self.real, c) for c in chunks]
        values = np.concatenate(drawn) if len(drawn) > 1 else drawn[0]
        index = places(one, chunks[0].offset // 4, values.size)
        exact: Floats = values.astype(np.float64) if one.bits == _WIDE else values
        each, middle = spread(scale, index), spread(zero, index)
        if not self.fitting.is_fitted(one):
            self._count(exact / each, middle, chunks[0].offset)
        return encode(exact, each, middle, self.fitting.encoding(one), self.weight.dtype)

    def _count(self, ratio: Floats, zero: Numbers | float, at: int) -> None:
        """Count what lies more than half a step beyond the range, and what becomes zero."""
        one = self._one
        beyond = np.maximum(ratio + zero - one.high, one.low - zero - ratio)
        step = 0.0 if one.levels or self.weight.dtype.startswith("float") else 0.5
        lost = np.count_nonzero((np.abs(ratio) < 0.5) & (ratio != 0)) if step else 0
        cut = int(np.count_nonzero(beyond > step))
        self.tally.coded(self.weight.id, self.weight.dtype, at, ratio.size, cut, int(lost))


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor of scales or zero points.

    Attributes:
        weight: The tensor.
        make: Works out its bytes, when they are asked for.
    """

    weight: Weight
    make: Callable[[], Bytes]

    @property
    def nbytes(self) -> int:
        """Size as it is stored."""
        return (self.weight.size * bits_of(self.weight.dtype) + 7) // 8

    def chunks(self) -> Iterator[Chunk]:
        """One job that makes it."""
        yield Chunk(0, self.nbytes, self.make)


def fitted(weight: Weight, fitting: Fitting) -> Parameter:
    """What follows the quantised weights that it is for."""

    def make() -> Bytes:
        one = fitting.owner(weight.path)
        if weight.role == "quant_scale":
            return pack_scales(fitting.scale(one), weight.dtype)
        return pack_zero_points(fitting.zero(one), weight.dtype, one)

    return Parameter(weight, make)


def given(weight: Weight, measured: Measured) -> Parameter:
    """What was measured."""

    def make() -> Bytes:
        values = measured.values.astype(np.float64)
        return (pack_scales if weight.role == "quant_scale" else pack)(values, weight.dtype)

    return Parameter(weight, make)
