"""Weights that are stored sparse: the dense values are drawn, and those kept that the pattern names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from onnxinit.analysis import Pattern, Weight, positions
from onnxinit.model import Chunk, Fresh
from onnxinit.plan import label
from onnxinit.values.codes import Bytes, Read
from onnxinit.values.rounding import STORED


@dataclass(frozen=True, slots=True)
class Picked:
    """The fresh values of a sparse weight, in the order of its pattern.

    Attributes:
        weight: The weight.
        pattern: Its pattern.
        whole: The dense values.
        read: The values of a stored tensor by its path, for the pattern.
    """

    weight: Weight
    pattern: Pattern
    whole: Fresh
    read: Read

    @property
    def nbytes(self) -> int:
        """Size as raw little-endian bytes."""
        return self.pattern.count * self._itemsize

    @property
    def _itemsize(self) -> int:
        return STORED[self.weight.dtype].itemsize

    def chunks(self) -> Iterator[Chunk]:
        """Jobs that draw the values: one for each dense chunk where the pattern ascends, as it should, else one."""
        found, size = positions(self.read(self.pattern.path), self.weight.shape, label(self.weight)), self._itemsize
        if (np.diff(found) < 0).any():
            yield Chunk(0, self.nbytes, partial(self._pick, list(self.whole.chunks()), found))
            return
        for chunk in self.whole.chunks():
            first, last = chunk.offset // size, (chunk.offset + chunk.nbytes) // size
            a, b = (int(i) for i in np.searchsorted(found, [first, last]))
            if b > a:
                yield Chunk(a * size, (b - a) * size, partial(self._pick, [chunk], found[a:b] - first))

    def _pick(self, chunks: list[Chunk], at: npt.NDArray[np.int64]) -> Bytes:
        drawn = [np.frombuffer(chunk.draw(), np.uint8).reshape(-1, self._itemsize) for chunk in chunks]
        picked: Bytes = np.concatenate(drawn)[at].reshape(-1)
        return picked
