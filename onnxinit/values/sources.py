"""Values that are taken from a tensor: the one that is replaced, or one of a donor."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import numpy.typing as npt

from onnxinit.analysis.weight import Weight
from onnxinit.errors import SchemeError
from onnxinit.model import Chunk
from onnxinit.plan import Entry, Pairing, parts_of
from onnxinit.sampling import CHUNK, stream
from onnxinit.schemes import Block
from onnxinit.values.codes import Read, pack, real_values, stored_codes
from onnxinit.values.rounding import STORED, Floats, narrowed

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]


class Source:
    """The old values that a weight's are taken from, as real numbers.

    Args:
        weight: The weight that gets values; of a quantised one, its real counterpart.
        held: The weight that holds them.
        read: Reads the model that it is of.
        pairing: Which blocks are taken; None for the weight's own.
    """

    def __init__(self, weight: Weight, held: Weight, read: Read, pairing: Pairing | None = None):
        self._weight, self._held, self._read, self._pairing = weight, held, read, pairing
        self._lock = threading.Lock()

    def run(self, at: int, count: int) -> Floats:
        """The values of a run of the stored order, flat."""
        return self._real((at, count)).reshape(-1)

    def pieces(self, piece: str) -> list[Floats]:
        """All values: the tensor as it is stored, or the blocks for those of the weight, in their order."""
        whole = self._real(None)
        if piece == "tensor":
            return [whole]
        if self._pairing is not None and self._pairing.shape:
            whole = whole.reshape(self._pairing.shape)
        blocks = [cast(Floats, b) for part in parts_of(self._held) for b in part.to_canonical(whole)]
        blocks = blocks or [whole]
        return [blocks[i] for i in self._pairing.blocks] if self._pairing is not None else blocks

    def _real(self, run: tuple[int, int] | None) -> Floats:
        if self._held.quantised is not None:
            return real_values(self._held, self._read, run)
        values = narrowed(cast(Floats, self._read(self._held.path, run)), self._weight.dtype)
        return values if run is not None else values.reshape(self._held.shape)  # an attribute holds a flat list

    @property
    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the non-zero values; worked out by one thread, for all."""
        with self._lock:
            return self._moments

    @cached_property
    def _moments(self) -> tuple[float, float]:
        """In chunks, about the first value, so that a constant comes out exact; the sums in one order everywhere.

        Source: Chan, Golub, LeVeque: Algorithms for computing the sample variance, Am. Stat. 37 (1983)
        """
        count, mean, squares, first = 0, 0.0, 0.0, None
        for at in range(0, self._weight.size, CHUNK):
            values = self.run(at, min(CHUNK, self._weight.size - at)).astype(np.float64)
            values = values[values != 0]
            if not values.size:
                continue
            first = float(values[0]) if first is None else first
            values -= first
            n = values.size
            middle = float(np.cumsum(values)[-1]) / n
            apart = middle - mean
            mean += apart * n / (count + n)
            squares += float(np.cumsum((values - middle) ** 2)[-1]) + apart**2 * count * n / (count + n)
            count += n
        if not math.isfinite(mean + squares):
            raise SchemeError("not all of its values are finite, so that they have no mean; take another scheme")
        return mean + (first or 0.0), math.sqrt(squares / max(1, count))


@dataclass(frozen=True, slots=True)
class Moved:
    """The stored values of a tensor, moved about: no value changes a bit.

    Attributes:
        weight: The tensor.
        entry: What moves them.
        key: The key of its streams, one for each block.
        read: Reads the model.
    """

    weight: Weight
    entry: Entry
    key: bytes
    read: Read

    @property
    def nbytes(self) -> int:
        """Size as it is stored."""
        one = self.weight.quantised
        bits = one.bits if one is not None else 8 * STORED[self.weight.dtype].itemsize
        return (math.prod(self._shape) * bits + 7) // 8

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.weight.quantised.shape if self.weight.quantised is not None else self.weight.shape

    def chunks(self) -> Iterator[Chunk]:
        """One job that moves them all."""
        if self.weight.size:
            yield Chunk(0, self.nbytes, self._made)

    def _made(self) -> Bytes:
        one, spec = self.weight.quantised, self.entry.scheme
        old = stored_codes(self.weight, self.read) if one is not None else self.read(self.weight.path)
        old = old.reshape(self._shape)
        if spec.piece == "tensor" or self.weight.layout is None:
            out = spec.draw_from(Block(self._shape), stream(self.key), old)
        else:
            out, number = np.empty_like(old), 0
            for part in parts_of(self.weight):
                blocks = []
                for block in part.to_canonical(old):
                    blocks.append(spec.draw_from(Block(block.shape), stream(self.key, number), block))
                    number += 1
                part.from_canonical(np.stack(blocks), out)
        if one is not None and one.bits < 8:
            return pack(out.astype(np.float32), self.weight.dtype, one)
        return np.ascontiguousarray(out if np.little_endian else out.byteswap()).reshape(-1).view(np.uint8)
