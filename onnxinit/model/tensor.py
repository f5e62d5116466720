"""A stored tensor: its record, the size of its values, and whether its data fits its shape."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from onnxinit.model.scan import TensorSpan

_T = onnx.TensorProto
_LARGEST = 2**63 - 1
_BLOCK = 1 << 20

# Element type -> bits of one element in raw_data, the typed field, values of that field for one element.
_INT32 = "int32_data"
_TYPES: dict[int, tuple[int, str, float]] = {
    1: (32, "float_data", 1),  # float
    2: (8, _INT32, 1),  # uint8
    3: (8, _INT32, 1),  # int8
    4: (16, _INT32, 1),  # uint16
    5: (16, _INT32, 1),  # int16
    6: (32, _INT32, 1),  # int32
    7: (64, "int64_data", 1),  # int64
    9: (8, _INT32, 1),  # bool
    10: (16, _INT32, 1),  # float16
    11: (64, "double_data", 1),  # double
    12: (32, "uint64_data", 1),  # uint32
    13: (64, "uint64_data", 1),  # uint64
    14: (64, "float_data", 2),  # complex64
    15: (128, "double_data", 2),  # complex128
    16: (16, _INT32, 1),  # bfloat16
    17: (8, _INT32, 1),  # float8e4m3fn
    18: (8, _INT32, 1),  # float8e4m3fnuz
    19: (8, _INT32, 1),  # float8e5m2
    20: (8, _INT32, 1),  # float8e5m2fnuz
    21: (4, _INT32, 1 / 2),  # uint4
    22: (4, _INT32, 1 / 2),  # int4
    23: (4, _INT32, 1 / 2),  # float4e2m1
    24: (8, _INT32, 1),  # float8e8m0
    25: (2, _INT32, 1 / 4),  # uint2
    26: (2, _INT32, 1 / 4),  # int2
    27: (6, _INT32, 1),  # float6e2m3
    28: (6, _INT32, 1),  # float6e3m2
}
_CONTINUED = bytes(range(0x80, 0x100))  # every byte of a varint but its last

# Where an attribute holds floats that stand for a tensor: a list, or one number.
LISTS = ("floats", "f")
_RAW = {(_T.FLOAT, "float_data"), (_T.DOUBLE, "double_data"), *((_T.FLOAT, field) for field in LISTS)}

# Where embedded values can be.
FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of the file.

    Attributes:
        path: Its unique place: the names of the fields from the model down, with ordinals in repeated ones, such as
            "graph.initializer[3]", "graph.node[5].attribute[0].t" or "graph.sparse_initializer[0].values"; of floats
            that an attribute holds itself "graph.node[5].attribute[0].floats" or ".f".
        name: `TensorProto.name`.
        dims: Its shape.
        data_type: Its element type, an `onnx.TensorProto.DataType`.
        storage: The field that holds the values, of the tensor or (`LISTS`) of the attribute; "external", or "none"
            where there are none.
        nbytes: Size of the values as raw little-endian bytes.
        identity: Equal for tensors whose values lie at one place of an external file, else unique.
    """

    path: str
    name: str
    dims: tuple[int, ...]
    data_type: int
    storage: str
    nbytes: int
    identity: tuple[object, ...]


class TensorFaultError(Exception):
    """What is wrong with a tensor; whoever catches it says which tensor it is."""


def describe(path: str, name: str, data_type: int, dims: Iterable[int]) -> str:
    """What to call a tensor in a message: its name, place, type and shape."""
    known = data_type in _T.DataType.values()
    kind = _T.DataType.Name(data_type).lower() if known else f"type {data_type}"
    return f"tensor {name!r} ({path}, {kind} {list(dims)})"


def is_byte_wise(data_type: int) -> bool:
    """Whether an element of the type takes whole bytes in raw data."""
    return data_type in _TYPES and _TYPES[data_type][0] % 8 == 0


def element_bits(data_type: int) -> int:
    """Bits that an element of the type takes in raw data; 8 for a type that has no such form."""
    return _TYPES[data_type][0] if data_type in _TYPES else 8


def is_raw(data_type: int, storage: str) -> bool:
    """Whether the bytes of a field, packed, are those of raw data."""
    return storage == "raw_data" or (data_type, storage) in _RAW


def raw_size(tensor: onnx.TensorProto) -> int | None:
    """Bytes that the values take as raw data: elements x bits / 8, rounded up; None where the type has no such form.

    Raises:
        TensorFaultError: A dimension is negative, or the size has no 64-bit number.
    """
    if min(tensor.dims, default=0) < 0:
        raise TensorFaultError("has a negative dimension, but a stored tensor has a full shape; export the model again")
    bits = _TYPES[tensor.data_type][0] if tensor.data_type in _TYPES else None
    elements = math.prod(tensor.dims)
    if elements * (bits or 8) // 8 > _LARGEST:
        raise TensorFaultError("has dimensions whose product overflows 64 bits; export the model again")
    return None if bits is None else -(-elements * bits // 8)


def storage_of(span: TensorSpan, tensor: onnx.TensorProto) -> str:
    """The field that holds the embedded values; readers take raw data where a typed field is there as well.

    Args:
        span: Where the tensor lies.
        tensor: The tensor, its values left out if they are large.
    """
    filled = {run.field for run in span.runs if run.nbytes} if span.is_large else ()
    for field in FIELDS:
        if field in filled or (not span.is_large and len(getattr(tensor, field))):
            return field
    return "none"


def check_fit(span: TensorSpan, tensor: onnx.TensorProto, storage: str, nbytes: int | None) -> None:
    """See that the embedded values are as many as the shape says.

    Raises:
        TensorFaultError: They are not, or stand in a field that is not for their type.
    """
    if storage == "none" or (nbytes is None and tensor.data_type != _T.STRING):
        return
    field, per = ("string_data", 1.0) if nbytes is None else _TYPES[tensor.data_type][1:]
    if storage == "raw_data" and nbytes is not None:
        expected, what = nbytes, "bytes of raw_data"
    elif storage == field:
        expected, what = math.ceil(math.prod(tensor.dims) * per), f"values in {storage}"
    else:
        raise TensorFaultError(f"has its values in {storage}, but its type needs {field}; export the model again")
    there = _count(span, storage) if span.is_large else len(getattr(tensor, storage))
    if there != expected:
        raise TensorFaultError(f"has {there} {what}, but its shape needs {expected}; export the model again")


def _count(span: TensorSpan, storage: str) -> int:
    """Number of values in a field of a large tensor, bytes in the case of raw data."""
    runs = [run for run in span.runs if run.field == storage]
    fixed = {"float_data": 4, "double_data": 8}.get(storage)
    if fixed:
        return sum(run.nbytes for run in runs) // fixed
    if storage == "string_data":
        return sum(run.pieces for run in runs)
    if len(runs) > 1 or runs[0].pieces > 1:  # in parts: of raw data, the last counts
        return len(getattr(parse(span), storage))
    if storage == "raw_data":
        return runs[0].nbytes
    return sum(
        len(span.source.read(at, min(at + _BLOCK, runs[0].end)).translate(None, _CONTINUED))
        for at in range(runs[0].body, runs[0].end, _BLOCK)
    )


def parse(span: TensorSpan) -> onnx.TensorProto:
    """Read a whole embedded tensor."""
    data = span.source.read(span.message.start, span.message.end)
    if span.runs and span.runs[0].field in LISTS:
        attribute = onnx.AttributeProto.FromString(data)
        floats = attribute.floats or [attribute.f]
        return _T(data_type=_T.FLOAT, dims=[len(floats)] if attribute.floats else [], float_data=floats)
    tensor: onnx.TensorProto = _T.FromString(data)
    return tensor
