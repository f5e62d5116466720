"""Feeds that are made up where there is no data: seeded, in the shapes and ranges that the graph asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnxinit.errors import DataError
from onnxinit.sampling import Stream, stream, weight_key
from onnxinit.signal.inputs import Input
from onnxinit.signal.lengths import resolve
from onnxinit.signal.pieces import Array, Feed
from onnxinit.signal.purposes import Purpose, purposes

BATCH = 8


def synthetic(
    inputs: Sequence[Input], batch_size: int | None, samples: int | None, dims: Mapping[str, int], seed: int
) -> tuple[tuple[str, ...], Callable[[], Iterator[Feed]]]:
    """Feeds of standard normal values, ids, masks and the rest, by what becomes of each input in the graph.

    Args:
        inputs: The model's.
        batch_size: Length of axis 0 where the model leaves it free, 8 if not given.
        samples: As many batches as hold so many samples; one batch if not given.
        dims: Lengths of symbolic dimensions.
        seed: The root seed. Each input and batch has a stream of its own.

    Returns:
        What a user should know of them, and what makes them.

    Raises:
        DataError: An input takes values that cannot be made up.
    """
    for i in inputs:
        if i.dtype in (TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128):
            raise DataError(f"{i} takes {i.type_name} values, which cannot be made up: give --data")
    model = inputs[0].model if inputs else None
    shapes = resolve(model, inputs, batch_size or BATCH, dims)
    kinds = purposes(model, shapes) if model is not None else {}
    first = next((s[0] for s in shapes.values() if s), 1)
    count = math.ceil((samples or first) / max(1, first))

    def make() -> Iterator[Feed]:
        for n in range(count):
            yield {
                i.name: _values(i, shapes[i.name], kinds[i.name], stream(weight_key(seed, f"feed\0{i.name}"), n))
                for i in inputs
            }

    shown = ", ".join(f"{name} {list(shape)} {kinds[name]}" for name, shape in shapes.items())
    return (f"made up: {shown}",) if shapes else (), make


def _values(i: Input, shape: tuple[int, ...], purpose: Purpose, source: Stream) -> Array:
    dtype = i.numpy_dtype
    if purpose.kind == "normal":
        floats: npt.NDArray[np.floating[Any]] = np.empty(shape, np.float64 if dtype == np.float64 else np.float32)
        source.normal(floats)
        return floats.astype(dtype)
    if purpose.kind == "below":
        return source.below(np.full(shape, purpose.number, np.int64)).astype(dtype)
    if purpose.kind == "positions":
        along = np.arange(shape[-1] if shape else 1)
        return np.ascontiguousarray(np.broadcast_to(along % purpose.number if purpose.number else along, shape), dtype)
    return np.full(shape, purpose.number, dtype)
