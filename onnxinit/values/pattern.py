"""Weights that are stored sparse: the dense values are drawn, and those kept that the pattern names."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from onnxinit.analysis import Weight
from onnxinit.errors import ModelError
from onnxinit.model import Chunk, Fresh
from onnxinit.plan import label
from onnxinit.values.codes import Bytes, Read

Places = npt.NDArray[np.int64]


def places_of(weight: Weight, read: Read) -> Places:
    """Where the stored values of a sparse weight stand among the dense ones in stored order.

    Both forms of a pattern are read: [count] of such places, and [count, rank] of indices along each axis.

    Raises:
        ModelError: The pattern is not there, or an index lies outside the shape.
    """
    given = np.asarray(read(weight.pattern), np.int64)
    shape = (weight.size,) if given.ndim < 2 else weight.shape
    columns = given.reshape(len(given), len(shape))
    if ((columns < 0) | (columns >= shape)).any():
        raise ModelError(f"{label(weight)} has a sparse pattern with places outside its shape; export the model again")
    return columns @ np.array([math.prod(shape[i + 1 :]) for i in range(len(shape))], np.int64)


def dense(values: npt.NDArray[np.generic], weight: Weight, read: Read) -> npt.NDArray[np.generic]:
    """The dense tensor that the stored values of a sparse weight stand for."""
    out = np.zeros(weight.size, values.dtype)
    out[places_of(weight, read)] = values.reshape(-1)
    return out.reshape(weight.shape)


@dataclass(frozen=True, slots=True)
class Picked:
    """The fresh values of a sparse weight, in the order of its pattern.

    Attributes:
        weight: The weight.
        count: How many values its pattern names.
        itemsize: Bytes of one.
        whole: The dense values.
        read: The values of a stored tensor by its path, for the pattern.
    """

    weight: Weight
    count: int
    itemsize: int
    whole: Fresh
    read: Read

    @property
    def nbytes(self) -> int:
        """Size as raw little-endian bytes."""
        return self.count * self.itemsize

    def chunks(self) -> Iterator[Chunk]:
        """Jobs that draw the values; a pattern in ascending order, as it should be, makes one of each dense chunk."""
        places = places_of(self.weight, self.read)
        if (np.diff(places) < 0).any():
            yield Chunk(0, self.nbytes, partial(self._pick_all, places))
            return
        for chunk in self.whole.chunks():
            first, last = chunk.offset // self.itemsize, (chunk.offset + chunk.nbytes) // self.itemsize
            a, b = (int(i) for i in np.searchsorted(places, [first, last]))
            if b > a:
                within = places[a:b] - first
                yield Chunk(a * self.itemsize, (b - a) * self.itemsize, partial(self._pick, chunk, within))

    def _pick(self, chunk: Chunk, within: Places) -> Bytes:
        return self._items(chunk)[within].reshape(-1)

    def _pick_all(self, places: Places) -> Bytes:
        return np.concatenate([self._items(chunk) for chunk in self.whole.chunks()])[places].reshape(-1)

    def _items(self, chunk: Chunk) -> Bytes:
        return np.frombuffer(chunk.draw(), np.uint8).reshape(-1, self.itemsize)
