"""Real values to the codes of a quantised type, and back."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxinit.analysis import Quantised, Weight, zero_points
from onnxinit.sampling import CHUNK
from onnxinit.values.rounding import STORED, Floats


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
}
_SCALES: dict[str, npt.DTypeLike] = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}


def bits_of(dtype: str) -> int:
    """Bits of an element of a type of codes, scales or zero points."""
    return 4 if dtype in ("int4", "uint4") else 8 * np.dtype(_TYPES.get(dtype) or _SCALES[dtype]).itemsize


def real_weight(weight: Weight) -> Weight:
    """The weight as it would be if it were not quantised: float32 of the real shape."""
    assert weight.quantised is not None
    return replace(weight, dtype="float", shape=weight.quantised.shape, quantised=None)


def places(one: Quantised, at: int, count: int) -> npt.NDArray[np.intp] | None:
    """The number of the scale of each of `count` elements from `at` on, in stored order; None where all share one."""
    if math.prod(one.grid) == 1:
        return None
    flat = np.arange(at, at + count)
    numbers = np.zeros(count, np.intp)
    for axis, (n, grain, parts) in enumerate(zip(one.shape, one.grain, one.grid, strict=True)):
        if parts > 1:
            along = flat // math.prod(one.shape[axis + 1 :])
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
    if not dtype.startswith("float"):
        np.rint(ratio, out=ratio)
    return pack(np.clip(ratio + zero, one.low, one.high), dtype, one.bits)


def pack(codes: Floats, dtype: str, bits: int) -> Bytes:
    """Codes as they are stored: little-endian, of four bits two to a byte, the low half first."""
    if bits > 4:
        return codes.astype(_TYPES[dtype]).reshape(-1).view(np.uint8)
    halves = np.asarray(codes.reshape(-1).astype(np.int8).view(np.uint8) & 15, np.uint8)
    halves = np.append(halves, np.zeros(halves.size % 2, np.uint8))
    return np.asarray(halves[::2] | halves[1::2] << 4, np.uint8)


def pack_zero_points(zero: Numbers, dtype: str, one: Quantised) -> Bytes:
    """Zero points as a tensor of a type holds them: of packed weights in rows of whole bytes."""
    if dtype in STORED:
        return pack_scales(zero, dtype)
    if dtype != "uint8" or one.bits != 4:
        return pack(zero, dtype, bits_of(dtype))
    return np.concatenate([pack(row, dtype, 4) for row in zero.reshape(one.grid[0], -1)])


def pack_scales(scale: Numbers, dtype: str) -> Bytes:
    """Scales as a tensor of a float type holds them."""
    return np.asarray(scale).astype(_SCALES[dtype]).view(np.uint8)


def rounded(scale: Numbers, dtype: str) -> Numbers:
    """Scales as their type holds them; one too small for its normal numbers becomes the least of them."""
    kind = np.dtype(_SCALES[dtype])
    least = float(ml_dtypes.finfo(kind).smallest_normal)  # type: ignore[no-untyped-call]
    return np.maximum(scale, least).astype(kind).astype(np.float64)


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
        run: The first code, of an even number, and how many; all if not given.
    """
    one = weight.quantised
    assert one is not None
    if math.prod(one.shape) == weight.size:
        return read(weight.path, run).reshape(-1)
    first, count = run or (0, math.prod(one.shape))  # two to an element
    both = read(weight.path, (first // 2, (count + 1) // 2)).astype(np.uint8)
    halves: npt.NDArray[np.generic] = np.stack([both & 15, both >> 4], axis=-1).reshape(-1)
    return halves[:count]


def real_values(weight: Weight, read: Read, run: tuple[int, int] | None = None) -> npt.NDArray[np.float32]:
    """What the codes of a file stand for: (code - zero point) * scale.

    Args:
        weight: A quantised weight.
        read: The values of a tensor of the file by its path.
        run: The first value in stored order, of an even number, and how many; all if not given.

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
        codes = stored[at : at + CHUNK].astype(np.float64)
        index = places(one, first + at, codes.size)
        out[at : at + codes.size] = (codes - spread(zero, index)) * spread(scale, index)
    return out.reshape(one.shape) if run is None else out
