"""Tensors that follow from weights: worked out of the values that the weights get, when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from onnxinit.analysis import Analysis, Weight
from onnxinit.analysis.recipes import Recipe
from onnxinit.errors import ModelError
from onnxinit.model import Chunk, Fresh
from onnxinit.plan import label
from onnxinit.values.codes import Bytes, Read
from onnxinit.values.rounding import STORED, Floats, narrowed
from onnxinit.values.tally import Tally

Array = npt.NDArray[np.generic]


def drawn(values: Fresh) -> Bytes:
    """All bytes of a tensor's fresh values."""
    out = np.empty(values.nbytes, np.uint8)
    for chunk in values.chunks():
        out[chunk.offset : chunk.offset + chunk.nbytes] = np.frombuffer(chunk.draw(), np.uint8)
    return out


def decoded(raw: Bytes, data_type: int, dims: tuple[int, ...]) -> Array:
    """The numbers of a tensor's bytes."""
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    if np.prod(dims, dtype=np.int64) * dtype.itemsize == raw.size:
        return raw.view(dtype).reshape(dims)
    return numpy_helper.to_array(TensorProto(data_type=data_type, dims=dims, raw_data=raw.tobytes()))


@dataclass(frozen=True, slots=True)
class Following:
    """A tensor that follows from weights.

    Attributes:
        weight: The tensor.
        recipe: How it follows.
        analysis: What the tensors are.
        fresh: The values of the tensors that are drawn, by path.
        read: Those of the others.
        tally: Counts subnormal numbers, or puts zeros in their place.
    """

    weight: Weight
    recipe: Recipe
    analysis: Analysis
    fresh: Mapping[str, Fresh]
    read: Read
    tally: Tally

    @property
    def nbytes(self) -> int:
        """Size as raw little-endian bytes."""
        return self.weight.size * STORED[self.weight.dtype].itemsize

    def chunks(self) -> Iterator[Chunk]:
        """One job that works it out.

        Raises (when the job runs):
            ModelError: What it follows from is not there, or its type cannot hold it.
        """
        yield Chunk(0, self.nbytes, self._made)

    def _made(self) -> Bytes:
        values, stored = self.recipe.values(self._leaf), STORED[self.weight.dtype]
        if values is None:
            raise ModelError(
                f"{label(self.weight)} follows {', '.join(self.weight.follows)}, but not all that it takes is there: "
                "give the missing data, or keep it with --exclude"
            )
        try:
            encoded = stored.encode(narrowed(cast(Floats, values), self.weight.dtype)).reshape(-1)
            return self.tally.rounded(self.weight.id, stored, encoded, 0).view(np.uint8)
        except OverflowError as e:
            raise ModelError(
                f"{label(self.weight)} cannot hold the {e.args[0]:g} that follows from "
                f"{', '.join(self.weight.follows)}, which need a smaller scale: give them one by a --rule"
            ) from None

    def _leaf(self, path: str) -> Array | None:
        if path not in self.fresh or self.analysis.graph is None:
            return self.read(path)
        weight = self.analysis.by_id[self.analysis.graph.ids[path]]
        kind: int = TensorProto.DataType.Value(weight.dtype.upper())
        return decoded(drawn(self.fresh[path]), kind, weight.shape)
