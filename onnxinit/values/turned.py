"""A matrix that holds the values of another one transposed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxinit.model import Chunk, Fresh


@dataclass(frozen=True, slots=True)
class Turned:
    """The values of a matrix transposed, in memory as a whole: its chunks in stored order end up all over this one.

    Attributes:
        values: The matrix.
        shape: The shape of its transpose.
    """

    values: Fresh
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size as raw bytes: that of the matrix."""
        return self.values.nbytes

    def chunks(self) -> Iterator[Chunk]:
        """One job that draws the matrix and puts every value in its place."""
        if self.nbytes:
            yield Chunk(0, self.nbytes, self._made)

    def _made(self) -> npt.NDArray[np.uint8]:
        size = self.nbytes // (self.shape[0] * self.shape[1])
        out = np.empty(self.shape, f"u{size}")
        for chunk in self.values.chunks():
            first = chunk.offset // size
            out.T.flat[first : first + chunk.nbytes // size] = np.frombuffer(chunk.draw(), out.dtype)
        return out.reshape(-1).view(np.uint8)
