"""A piece of data: what one file, or one dict, holds, known by its heads before its values are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxinit.errors import DataError

Array = npt.NDArray[Any]
Feed = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Head:
    """Element type and shape of an array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Arrays by input.

    Attributes:
        label: What to call it in a message: the file, or its place in an iterable.
        heads: Element types and shapes, known without reading the values.
        load: Reads the values; a memory map where the file allows one.
    """

    label: str
    heads: Mapping[str, Head]
    load: Callable[[], Mapping[str, Array]]

    @staticmethod
    def of(arrays: Mapping[str, Array], label: str) -> Piece:
        """A piece that is in memory, or mapped into it."""
        return Piece(label, {k: Head(a.dtype, a.shape) for k, a in arrays.items()}, lambda: arrays)


@dataclass(frozen=True, slots=True)
class Pieces:
    """What a reader found.

    Attributes:
        source: What to call all of it in a result.
        pieces: One after another; iterated again for every pass.
        batched: Whether every piece is one feed as it is; otherwise it is samples, to be cut into batches.
        checked: Whether all heads can be looked at before anything runs, at no price.
        notes: What the reader did that a user should know.
    """

    source: str
    pieces: Iterable[Piece]
    batched: bool
    checked: bool = True
    notes: tuple[str, ...] = ()


def as_arrays(given: Mapping[Any, Any], label: str) -> dict[str, Array]:
    """The arrays of a dict that a user gave.

    Raises:
        DataError: A key is no text, or a value is no array of numbers or strings.
    """
    arrays: dict[str, Array] = {}
    for name, value in given.items():
        if not isinstance(name, str):
            raise DataError(f"{label}: has the key {name!r}; a feed maps the names of inputs to arrays")
        try:
            array = np.asarray(value)
        except (ValueError, TypeError) as error:
            raise DataError(f"{label}: the value for {name!r} is no array ({error})") from error
        if array.dtype.kind == "O" and not all(isinstance(x, str) for x in array.flat):
            raise DataError(f"{label}: the value for {name!r} is a {type(value).__name__}, not an array of numbers")
        arrays[name] = array
    return arrays
