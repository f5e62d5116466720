"""Real values to the codes of a quantised type, and back."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxinit.analysis import Quantised, Weight, packed, unpacked, zero_points
from onnxinit.sampling import CHUNK
from onnxinit.values.rounding import Floats


class Read(Protocol):
    """The values of a stored tensor by its path, or a run of them in stored order, flat: `ModelFile.array`."""

    def __call__(self, path: str, run: tuple[int, int] | None = None) -> npt.NDArray[np.generic]:
        """Read."""


Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.float64]

_TYPES: dict[str, npt.DTypeLike] = {
    "int8": "<i1",
    "uint8": "<u1",
    "int16": "<i2",
    "uint16": "<u2",
    "int32": "<i4",
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8e5m2": ml_dtypes.float8_e5m2,
    "float8e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "float4e2m1": ml_dtypes.float4_e2m1fn,
}
_SCALES: dict[str, npt.DTypeLike] = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8e8m0": ml_dtypes.float8_e8m0fnu,
}
# Types of less than a byte.
NARROW = {"int4": 4, "uint4": 4, "float4e2m1": 4, "int2": 2, "uint2": 2}


def bits_of(dtype: str) -> int:
    """Bits of an element of a type of codes, scales or zero points."""
    return NARROW.get(dtype) or 8 * np.dtype(_TYPES.get(dtype) or _SCALES[dtype]).itemsize


def real_weight(weight: Weight) -> Weight:
    """The weight as it would be if it were not quantised: float32 of the real shape."""
    assert weight.quantised is not None
    return replace(weight, dtype="float", shape=weight.quantised.shape, quantised=None)


def places(one: Quantised, at: int, count: int) -> npt.NDArray[np.intp] | None:
    """The number of the scale of each of `count` elements from `at` on, in stored order; None where all share one."""
    if math.prod(one.grid) == 1:
        return None
    flat = np.arange(at, at + count)
    if one.columns:
        across = len(one.columns)
        listed: npt.NDArray[np.intp] = flat // across * math.prod(one.grid[1:])
        listed = listed + np.asarray(one.columns, np.intp)[flat % across]
        return listed
    numbers = np.zeros(count, np.intp)
    for axis, (n, grain, parts) in enumerate(zip(one.axes, one.grain, one.grid, strict=True)):
        if parts > 1:
            along = flat // math.prod(one.axes[axis + 1 :])
            numbers = numbers * parts + along % n // grain
    return numbers


def spread(numbers: Numbers, index: npt.NDArray[np.intp] | None) -> Numbers | float:
    """The number of each element, or the one for all."""
    if numbers.size == 1:
        return float(numbers[0])
    assert index is not None
    return numbers[index]


def encode(values: Floats, scale: Numbers | float, zero: Numbers | float, one: Quantised, dtype: str) -> Bytes:
    """Real values as they are stored: w / scale + zero point, to nearest and ties to even, cut at the type's ends."""
    ratio = values / scale
    if one.levels:
        return pack(_nearest(ratio, one.levels), dtype, one)
    if not dtype.startswith("float"):
        np.rint(ratio, out=ratio)
    return pack(np.clip(ratio + zero, one.low, one.high), dtype, one)


def _nearest(ratio: Floats, levels: tuple[float, ...]) -> Floats:
    """The number of the level that is nearest to each ratio."""
    order = np.argsort(levels, kind="stable")
    rising = np.asarray(levels)[order]
    return order[np.searchsorted((rising[1:] + rising[:-1]) / 2, ratio)].astype(np.float32)


def pack(codes: Floats, dtype: str, one: Quantised | None = None) -> Bytes:
    """Codes as they are stored: little-endian, those of less than a byte together.

    Args:
        codes: The codes.
        dtype: The type of the tensor.
        one: What the codes are of, where several of them are packed into an element.
    """
    bits = one.bits if one is not None and dtype == "uint8" else bits_of(dtype)
    if dtype == "float4e2m1":
        whole = np.asarray(codes.astype(_TYPES[dtype])).view(np.uint8)
    elif bits >= 8:
        return codes.astype(_TYPES[dtype]).reshape(-1).view(np.uint8)
    else:
        whole = codes.astype(np.int16).astype(np.uint8)
    low: Bytes = whole.reshape(-1) & np.uint8((1 << bits) - 1)
    return packed(low, bits, one is not None and one.high_first)


def pack_zero_points(zero: Numbers, dtype: str, one: Quantised) -> Bytes:
    """Zero points as a tensor of a type holds them: of packed weights in rows of whole bytes."""
    if dtype in _SCALES:
        return pack_scales(zero, dtype)
    if not one.zero_rows:
        return pack(zero, dtype)
    return np.concatenate([packed(row.astype(np.uint8), one.bits) for row in zero.reshape(one.zero_rows, -1)])


def pack_scales(scale: Numbers, dtype: str) -> Bytes:
    """Scales as a tensor of a float type holds them."""
    return np.asarray(scale).astype(_SCALES[dtype]).view(np.uint8)


def unpack_scales(raw: Bytes, dtype: str) -> Floats:
    """Numbers of a float type from their bytes."""
    values: Floats = raw.view(_SCALES[dtype])
    return values


def rounded(scale: Numbers, dtype: str) -> Numbers:
    """Scales as their type holds them: at least its least normal number; of powers of two the next above."""
    kind = np.dtype(_SCALES[dtype])
    if dtype == "float8e8m0":
        above: Numbers = np.exp2(np.clip(np.ceil(np.log2(scale)), -127, 127))
        return above
    least = float(ml_dtypes.finfo(kind).smallest_normal)  # type: ignore[no-untyped-call]
    return np.maximum(scale, least).astype(kind).astype(np.float64)


def symmetric(ends: tuple[float, float], zero: float) -> tuple[float, float]:
    """The codes that lie as far below a zero point as above it."""
    reach = min(ends[1] - zero, zero - ends[0])
    return zero - reach, zero + reach


def parameters(
    low: Numbers, high: Numbers, ends: tuple[float, float], zero: Numbers | None, dtype: str, room: float = 1.0
) -> tuple[Numbers, Numbers]:
    """Scales and zero points that just hold values between two ends, zero among them.

    Args:
        low: The least values, at most 0.
        high: The largest, at least 0.
        ends: The least and the largest code.
        zero: The zero points, where they stay.
        dtype: The type of the scales.
        room: How many times larger the scales are than they need to be.
    """
    if zero is None:
        scale = rounded(_or_one((high - low) / (ends[1] - ends[0]) * room), dtype)
        return scale, np.clip(np.rint(np.rint(ends[0] / room) - low / scale), *ends)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.fmax(_finite(high / (ends[1] - zero)), _finite(low / (ends[0] - zero)))
    return rounded(_or_one(scale * room), dtype), zero


def _or_one(scale: Numbers) -> Numbers:
    """Where all values are zero, any scale will do: one."""
    return np.where(scale > 0, scale, 1.0)


def _finite(scale: Numbers) -> Numbers:
    return np.where(np.isfinite(scale), scale, 0.0)


def stored_scale(one: Quantised, read: Read) -> Numbers:
    """The scales that a file holds, in the order of the grid."""
    scale: Numbers = np.ones(1)
    for path in [one.scale] if one.scale else one.factors:
        scale = scale * read(path).astype(np.float64).reshape(-1)
    return scale


def stored_zero(one: Quantised, read: Read) -> Numbers:
    """The zero points that a file holds, or that its codes are symmetric around."""
    return np.full(1, one.zero) if one.zero is not None else zero_points(read(one.zero_point), one)


def stored_codes(weight: Weight, read: Read, run: tuple[int, int] | None = None) -> npt.NDArray[np.generic]:
    """The codes of a quantised weight, one to an element, flat.

    Args:
        weight: A quantised weight.
        read: The values of a tensor of the file by its path.
        run: The first code, a multiple of eight, and how many; all if not given.
    """
    one = weight.quantised
    assert one is not None
    if math.prod(one.shape) == weight.size:
        return read(weight.path, run).reshape(-1)
    first, count = run or (0, math.prod(one.shape))  # several to an element
    begin, end = first * one.bits // 8, -(-(first + count) * one.bits // 8)
    raw = read(weight.path, (begin, end - begin)).astype(np.uint8)
    return unpacked(raw, one.bits, one.high_first)[:count]


def real_values(weight: Weight, read: Read, run: tuple[int, int] | None = None) -> npt.NDArray[np.float32]:
    """What the codes of a file stand for: (code - zero point) * scale.

    Args:
        weight: A quantised weight.
        read: The values of a tensor of the file by its path.
        run: The first value in stored order, a multiple of eight, and how many; all if not given.

    Returns:
        float32 of the real shape, flat for a run.
    """
    one = weight.quantised
    assert one is not None
    first = run[0] if run else 0
    stored = stored_codes(weight, read, run)
    scale, zero = stored_scale(one, read), stored_zero(one, read)
    out = np.empty(stored.size, np.float32)
    for at in range(0, stored.size, CHUNK):
        some = stored[at : at + CHUNK]
        codes = np.asarray(one.levels)[some.astype(np.intp)] if one.levels else some.astype(np.float64)
        index = places(one, first + at, codes.size)
        out[at : at + codes.size] = (codes - spread(zero, index)) * spread(scale, index)
    return out.reshape(one.shape) if run is None else out
