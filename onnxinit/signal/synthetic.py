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
from onnxinit.signal.pieces import Array, Feed

BATCH = 8
LENGTH = 16


def synthetic(
    inputs: Sequence[Input], batch_size: int | None, samples: int | None, seed: int
) -> tuple[tuple[str, ...], Callable[[], Iterator[Feed]]]:
    """Feeds of standard normal values, ids, masks and the rest, by what each input is for.

    Args:
        inputs: The model's.
        batch_size: Length of axis 0 where the model leaves it free, 8 if not given.
        samples: As many batches as hold so many samples; one batch if not given.
        seed: The root seed. Each input and batch has a stream of its own.

    Returns:
        What a user should know of them, and what makes them.

    Raises:
        DataError: An input takes values that cannot be made up.
    """
    for i in inputs:
        if i.dtype == TensorProto.STRING or i.numpy_dtype.kind == "c":
            raise DataError(f"{i} takes {i.type_name} values, which cannot be made up: give --data")
    batch = batch_size or BATCH
    shapes = resolve(inputs, batch)
    first = next((s[0] for s in shapes.values() if s), 1)
    count = math.ceil((samples or first) / max(1, first))

    def make() -> Iterator[Feed]:
        for n in range(count):
            yield {i.name: _values(i, shapes[i.name], stream(weight_key(seed, f"feed\0{i.name}"), n)) for i in inputs}

    return (), make


def resolve(inputs: Sequence[Input], batch: int) -> Mapping[str, tuple[int, ...]]:
    """A shape for every input; a name is one length wherever it stands."""
    named: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for i in inputs:
        shape: list[int] = []
        for axis, dim in enumerate(i.dims or ()):
            asked = i.purpose.lengths[axis] if axis < len(i.purpose.lengths) else None
            length = asked if asked is not None else batch if axis == 0 else LENGTH
            shape.append(dim if isinstance(dim, int) else named.setdefault(dim, length) if dim else length)
        shapes[i.name] = tuple(shape)
    return shapes


def _values(i: Input, shape: tuple[int, ...], source: Stream) -> Array:
    dtype, kind = i.numpy_dtype, i.purpose.kind
    if kind == "signal":
        floats: npt.NDArray[np.floating[Any]] = np.empty(shape, np.float64 if dtype == np.float64 else np.float32)
        source.normal(floats)
        return floats.astype(dtype)
    if kind == "ids":
        return source.below(np.full(shape, max(1, i.purpose.below), np.int64)).astype(dtype)
    if kind == "positions":
        last = np.arange(shape[-1] if shape else 1) % max(1, i.purpose.below or 1 << 31)
        return np.broadcast_to(last, shape).astype(dtype)
    if kind == "lengths":
        return np.full(shape, i.purpose.below, dtype)
    return (np.ones if kind == "ones" else np.zeros)(shape, dtype)
