"""What the units of a layer see: rows of its input, or the windows that a convolution slides over it.

A reader knows how a step multiplies the operand at an index with the signal. It takes patches out of the signal, as
(blocks, patches, values), and puts filters, as (blocks, units, values), into the operand: blocks are the groups of a
convolution and the matrices of a batched product, which see inputs of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from onnx import helper

from onnxinit.sampling import Stream
from onnxinit.signal.run.engine import Engine
from onnxinit.signal.run.program import Step

Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]
Shape = tuple[int, ...]

_FLIPS = ("transA", "transB")
_PRODUCTS = frozenset({"MatMul", "MatMulInteger", "MatMulNBits", "Gemm", "FusedMatMul", "TransposeMatMul"})
_BATCHES_MOVED = ("transBatchA", "transBatchB")


class Reader(Protocol):
    """How a step reads the signal that it multiplies with an operand."""

    @property
    def signal(self) -> int:
        """The index of the signal."""

    def count(self, x: Floats, shape: Shape) -> int:
        """How many patches a batch has, for an operand of some shape."""

    def take(self, x: Floats, shape: Shape, index: Indices) -> Floats:
        """Patches by their numbers: (blocks, patches, values)."""

    def form(self, shape: Shape) -> tuple[int, int, int]:
        """Blocks, units of a block and values that a unit sees, of an operand of some shape."""

    def kernel(self, shape: Shape) -> Shape:
        """The axes of a window among the values that a unit sees, which run along them last; none for rows."""

    def operand(self, filters: Floats, shape: Shape) -> Floats:
        """The operand that holds filters: (blocks, units, values) as `shape`."""


def reader_of(step: Step, at: int) -> Reader | str:
    """The reader of a step, or why there is none.

    Args:
        step: A layer's step.
        at: The index of the operand that filters go into.
    """
    told = {a.name: helper.get_attribute_value(a) for a in step.node.attribute}
    if step.op in ("Conv", "ConvInteger"):
        return _Windows(0, told)
    if step.op not in _PRODUCTS or at > 1 or any(told.get(name) for name in _BATCHES_MOVED):
        return f"filters of {step.op} are not learned"
    flips = [bool(told.get(name, 0)) for name in _FLIPS] if step.op != "MatMulNBits" else [False, True]
    return _Rows(1 - at, flips[1 - at] != (at == 0), flips[at] != (at == 0))


def sample(reader: Reader, engine: Engine, name: str, shape: Shape, most: int, stream: Stream) -> Floats:
    """Patches of a signal, spread evenly over all batches, one at a random place of every run of equal length.

    Args:
        reader: How a step reads the signal.
        engine: What holds it.
        name: The signal.
        shape: Shape of the operand.
        most: How many patches are taken; all of them where there are no more.
        stream: The random bits.

    Returns:
        float32 (blocks, patches, values).
    """
    counts = [reader.count(x, shape) for x in engine.values(name)]
    ends = np.cumsum([0, *counts], dtype=np.int64)
    total = int(ends[-1])
    places: Indices = np.arange(total)
    if total > most:
        within = np.empty(most)
        stream.uniform(within)
        places = np.minimum(((np.arange(most) + within) * (total / most)).astype(np.int64), total - 1)
    taken: list[Floats] = []
    for x, first, last in zip(engine.values(name), ends[:-1], ends[1:], strict=True):
        index = places[np.searchsorted(places, first) : np.searchsorted(places, last)] - first
        taken.append(reader.take(x, shape, index).astype(np.float32))
    return np.concatenate(taken, axis=1)


@dataclass(frozen=True, slots=True)
class _Rows:
    """A product: every row of the signal, brought into the form (..., rows, values), is a patch.

    Attributes:
        signal: The signal's index.
        upright: Whether its last two axes are (values, rows).
        units_first: Whether those of the operand are (units, values).
    """

    signal: int
    upright: bool
    units_first: bool

    def count(self, x: Floats, shape: Shape) -> int:
        return int(self._apart(x, shape).shape[1])

    def take(self, x: Floats, shape: Shape, index: Indices) -> Floats:
        picked: Floats = self._apart(x, shape)[:, index]
        return picked

    def form(self, shape: Shape) -> tuple[int, int, int]:
        rows, columns = shape[-2:] if len(shape) > 1 else (shape[0], 1)
        units, values = (rows, columns) if self.units_first and len(shape) > 1 else (columns, rows)
        return math.prod(shape[:-2]), units, values

    def kernel(self, shape: Shape) -> Shape:
        return ()

    def operand(self, filters: Floats, shape: Shape) -> Floats:
        return (filters if self.units_first else filters.swapaxes(1, 2)).reshape(shape)

    def _apart(self, x: Floats, shape: Shape) -> Floats:
        """The signal as (blocks, rows, values); a batch axis along which the operand is one block is one of rows."""
        x = x[None] if x.ndim == 1 else x.swapaxes(-1, -2) if self.upright else x
        lead = shape[:-2]
        x = x.reshape((1,) * (len(lead) + 2 - x.ndim) + x.shape)
        outer = x.ndim - 2 - len(lead)
        own = [outer + i for i, n in enumerate(lead) if n > 1]
        full = [lead[i - outer] if i in own else n for i, n in enumerate(x.shape)]
        order = [*own, *(i for i in range(x.ndim) if i not in own)]
        return np.broadcast_to(x, full).transpose(order).reshape(math.prod(lead), -1, x.shape[-1])


@dataclass(frozen=True, slots=True)
class _Windows:
    """A convolution: every window, its padding included, is a patch.

    Attributes:
        signal: The signal's index.
        told: The attributes.
    """

    signal: int
    told: dict[str, Any]

    def count(self, x: Floats, shape: Shape) -> int:
        return len(x) * math.prod(places for places, *_ in self._axes(x, shape))

    def take(self, x: Floats, shape: Shape, index: Indices) -> Floats:
        axes = self._axes(x, shape)
        kernel = shape[2:]
        padded = np.pad(x, [(0, 0), (0, 0), *((before, after) for *_, before, after in axes)])
        extents = [d * (k - 1) + 1 for k, (_, _, d, *_) in zip(kernel, axes, strict=True)]
        windows = np.lib.stride_tricks.sliding_window_view(padded, (1, 1, *extents))
        dilated: tuple[Any, ...] = (..., 0, 0, *(slice(None, None, d) for _, _, d, *_ in axes))
        sample, *at = np.unravel_index(index, (len(x), *(places for places, *_ in axes)))
        chosen: tuple[Any, ...] = (sample, slice(None), *(a * s for a, (_, s, *_) in zip(at, axes, strict=True)))
        picked = windows[dilated][chosen]
        groups, _, values = self.form(shape)
        apart: Floats = picked.reshape(len(index), groups, values).swapaxes(0, 1)
        return apart

    def form(self, shape: Shape) -> tuple[int, int, int]:
        groups = int(self.told.get("group", 1))
        return groups, shape[0] // groups, math.prod(shape[1:])

    def kernel(self, shape: Shape) -> Shape:
        return shape[2:]

    def operand(self, filters: Floats, shape: Shape) -> Floats:
        return filters.reshape(shape)

    def _axes(self, x: Floats, shape: Shape) -> list[tuple[int, int, int, int, int]]:
        """Of every axis the number of windows, stride, dilation, and what is padded before and after it."""
        rank, auto = x.ndim - 2, self.told.get("auto_pad", b"NOTSET").decode()
        ones, none = [1] * rank, [0] * 2 * rank
        strides: Sequence[int] = self.told.get("strides", ones)
        dilations: Sequence[int] = self.told.get("dilations", ones)
        pads: Sequence[int] = self.told.get("pads", none) if auto != "VALID" else none
        found: list[tuple[int, int, int, int, int]] = []
        for i, (n, k, s, d) in enumerate(zip(x.shape[2:], shape[2:], strides, dilations, strict=True)):
            before, after = pads[i], pads[i + rank]
            if auto.startswith("SAME"):
                missing = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
                before = missing // 2 if auto == "SAME_UPPER" else missing - missing // 2
                after = missing - before
            places = max(0, (n + before + after - d * (k - 1) - 1) // s + 1)
            found.append((places, s, d, before, after))
        return found
