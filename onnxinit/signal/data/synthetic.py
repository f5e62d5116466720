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
from onnxinit.signal.data.inputs import Input
from onnxinit.signal.data.lengths import resolve
from onnxinit.signal.data.pieces import Array, Feed
from onnxinit.signal.data.purposes import Purpose, purposes

BATCH = 8


def synthetic(
    inputs: Sequence[Input], batch_size: int | None, samples: int | None, dims: Mapping[str, int], seed: int
) -> tuple[tuple[str, ...], Callable[[], Iterator[Feed]]]:
    """Feeds of standard normal values, ids, masks and the rest, by what becomes of each input in the graph.

    Args:
        inputs: The model's.
        batch_size: Length of axis 0 where the model leaves it free, 8 if not given.
        samples: So many in all; one batch if not given. Where the first axis is fixed, as many as fill batches of it.
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
    batch = min(batch_size or BATCH, samples or math.inf)
    shapes = resolve(model, inputs, int(batch), dims)
    kinds = purposes(model, shapes) if model is not None else {}
    first = max(1, next((s[0] for s in shapes.values() if s), 1))
    total = samples or first
    free = all(not isinstance(i.dims[0], int) and shapes[i.name][0] == first for i in inputs if i.dims)

    def make() -> Iterator[Feed]:
        for n in range(math.ceil(total / first)):
            rows = slice(total - n * first) if free else slice(None)
            made = {i.name: _values(i, shapes[i.name], kinds[i.name], _stream(seed, i, n)) for i in inputs}
            yield {name: a[rows] if a.ndim else a for name, a in made.items()}

    shown = ", ".join(f"{name} {list(shape)} {kinds[name]}" for name, shape in shapes.items())
    return (f"made up: {shown}",) if shapes else (), make


def _stream(seed: int, i: Input, batch: int) -> Stream:
    return stream(weight_key(seed, f"feed\0{i.name}"), batch)


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
