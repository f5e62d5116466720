"""Does the data fit the model? Asked before anything runs where the heads tell, and of the values as they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxinit.errors import DataError
from onnxinit.signal.data.inputs import Input
from onnxinit.signal.data.pieces import Array, Feed, Head, Piece


def check_heads(piece: Piece, inputs: Sequence[Input]) -> list[str]:
    """See that a piece holds what the model wants, but for the values.

    Returns:
        What will be converted, a sentence each.

    Raises:
        DataError: An input is missing or unknown, or an element type, rank, fixed dimension or symbolic dimension
            does not fit.
    """
    _check_names(piece, inputs)
    notes: list[str] = []
    sizes: dict[str, tuple[int, str]] = {}
    for i in inputs:
        head = piece.heads[i.name]
        notes += _check_dtype(piece.label, i, head)
        _check_shape(piece.label, i, head.shape)
        for axis, (dim, size) in enumerate(zip(i.dims or (), head.shape, strict=False)):
            if not isinstance(dim, str):
                continue
            other, where = sizes.setdefault(dim, (size, i.name))
            if other != size:
                samples = " (axis 0 holds the samples, as many for every input)" if axis == 0 else ""
                raise DataError(
                    f"{piece.label}: the dimension {dim!r} is {other} in {where!r} and {size} in {i.name!r}: "
                    f"one name is one length{samples}"
                )
    return notes


def _check_names(piece: Piece, inputs: Sequence[Input]) -> None:
    wanted = [i.name for i in inputs]
    missing, extra = [n for n in wanted if n not in piece.heads], [n for n in piece.heads if n not in wanted]
    if missing:
        has = ", ".join(map(repr, piece.heads)) or "nothing"
        raise DataError(f"{piece.label}: misses {next(str(i) for i in inputs if i.name in missing)}; it has {has}")
    if extra:
        raise DataError(
            f"{piece.label}: has {extra[0]!r}, which is no input of the model; it takes {', '.join(map(repr, wanted))}"
        )


def _check_dtype(label: str, i: Input, head: Head) -> list[str]:
    wanted, has = i.numpy_dtype, head.dtype
    if has == wanted or (wanted.kind == "O" and has.kind in "UO"):
        return []
    if not _converts(has, wanted):
        raise DataError(f"{label}: holds {has} for {i}; convert it to {_name(wanted)} first")
    return [f"{i.name!r} is converted from {has} to {_name(wanted)}"]


def _name(dtype: np.dtype[Any]) -> str:
    return "text" if dtype.kind == "O" else str(dtype)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _converts(has: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Between floats, and between integers where the values fit: what a value stands for stays the same."""
    if _is_float(has) and _is_float(wanted):
        return True
    return (has.kind in "iu" and wanted.kind in "iu") or (has.kind == "b" and wanted.kind in "iu")


def _check_shape(label: str, i: Input, shape: tuple[int, ...]) -> None:
    if i.dims is None:
        return
    if len(shape) != len(i.dims):
        way = "; axis 0 holds the samples, so one sample has a first axis of 1" if len(shape) == len(i.dims) - 1 else ""
        raise DataError(f"{label}: has shape {list(shape)} for {i}: {len(i.dims)} dimensions are wanted{way}")
    for axis, (dim, size) in enumerate(zip(i.dims, shape, strict=True)):
        if axis > 0 and isinstance(dim, int) and dim != size:
            raise DataError(f"{label}: has shape {list(shape)} for {i}: dimension {axis} must be {dim}")


def check_values(feed: Mapping[str, Array], inputs: Sequence[Input], label: str) -> Feed:
    """The feed in the model's element types, C-contiguous.

    Raises:
        DataError: A value is NaN or infinite, or is too large for the model's type.
    """
    return {i.name: _converted(feed[i.name], i, label) for i in inputs}


def _converted(array: Array, i: Input, label: str) -> Array:
    wanted = i.numpy_dtype
    if _is_float(array.dtype) or array.dtype.kind == "c":
        _check_finite(array, i, label)
    if wanted.kind in "iu" and array.size and not np.can_cast(array.dtype, wanted):
        bounds: Any = np.iinfo(wanted.name)
        if array.min() < bounds.min or array.max() > bounds.max:
            raise DataError(f"{label}: {i} cannot hold {array.min()} to {array.max()}")
    with np.errstate(over="ignore"):
        result = np.array(array, dtype=wanted, order="C", ndmin=0)
    if _is_float(wanted) and result.dtype.itemsize < array.dtype.itemsize and not np.isfinite(result).all():
        raise DataError(f"{label}: {i} has values of up to {np.abs(array).max():g}, too large for {_name(wanted)}")
    return result


def _check_finite(array: Array, i: Input, label: str) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        at = [int(k) for k in np.argwhere(~finite)[0]]
        kind = "NaN" if np.isnan(array[tuple(at)]) else "infinity"
        raise DataError(f"{label}: {i} holds {kind} ({array.size - int(finite.sum())} such values, the first at {at})")
