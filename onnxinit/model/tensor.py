"""A stored tensor: its record, the size of its values, and whether its data fits its shape."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx

from onnxinit.errors import ModelError
from onnxinit.model.scan import Run, TensorSpan
from onnxinit.model.wire import Source

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
_FIXED = {"float_data": 4, "double_data": 8}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of the file.

    Attributes:
        path: Its unique place: the names of the fields from the model down, with ordinals in repeated ones, such as
            "graph.initializer[3]", "graph.node[5].attribute[0].t" or "graph.sparse_initializer[0].values".
        name: `TensorProto.name`.
        dims: Its shape.
        data_type: Its element type, an `onnx.TensorProto.DataType`.
        storage: The field that holds the values, "external", or "none" where there are none.
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


def describe(path: str, tensor: onnx.TensorProto) -> str:
    """What to call a tensor in a message: its name, place, type and shape."""
    kind = _T.DataType.Name(tensor.data_type).lower() if tensor.data_type in _TYPES or tensor.data_type == 8 else "?"
    return f"tensor {tensor.name!r} ({path}, {kind}{list(tensor.dims)})"


def raw_size(tensor: onnx.TensorProto, label: str) -> int | None:
    """Bytes that the values take as raw data: elements x bits / 8, rounded up; None where the type has no such form.

    Raises:
        ModelError: A dimension is negative, or the size has no 64-bit number.
    """
    if any(n < 0 for n in tensor.dims):
        raise ModelError(f"{label} has a negative dimension; a stored tensor must have a full shape")
    if math.prod(tensor.dims) > _LARGEST:
        raise ModelError(
            f"{label} has more elements than 64 bits can count; the file is damaged or not meant to be read"
        )
    if tensor.data_type not in _TYPES:
        return None
    nbytes: int = -(-math.prod(tensor.dims) * _TYPES[tensor.data_type][0] // 8)
    if nbytes > _LARGEST:
        raise ModelError(f"{label} has more bytes than 64 bits can count; the file is damaged or not meant to be read")
    return nbytes


def storage_of(span: TensorSpan) -> str:
    """The field that holds the embedded values. Readers take raw data where a typed field is there as well."""
    filled = [run.field for run in span.runs if run.nbytes or run.field == "string_data"]
    return "raw_data" if "raw_data" in filled else filled[0] if filled else "none"


def check_fit(source: Source, span: TensorSpan, tensor: onnx.TensorProto, nbytes: int | None, label: str) -> None:
    """See that the embedded values are as many as the shape says.

    Raises:
        ModelError: They are not, or stand in a field that is not for their type.
    """
    storage = storage_of(span)
    if storage == "none" or (nbytes is None and tensor.data_type != _T.STRING):
        return
    runs = [run for run in span.runs if run.field == storage]
    if storage == "raw_data" and nbytes is not None:
        # Given several times, the last one counts: a parser knows.
        there = runs[0].nbytes if len(runs) == runs[0].pieces == 1 else len(parse(source, span).raw_data)
        expected, what = nbytes, "bytes of raw_data"
    else:
        field, per = ("string_data", 1.0) if nbytes is None else _TYPES[tensor.data_type][1:]
        if field != storage:
            raise ModelError(f"{label} has its values in {storage}, where its type needs {field}")
        there = _count(source, span, runs)
        expected, what = math.ceil(math.prod(tensor.dims) * per), f"values in {storage}"
    if there != expected:
        raise ModelError(f"{label} has {there} {what}, where its shape needs {expected}")


def _count(source: Source, span: TensorSpan, runs: list[Run]) -> int:
    """Number of values in a typed field."""
    field = runs[0].field
    if field in _FIXED:
        return sum(run.nbytes for run in runs) // _FIXED[field]
    if field == "string_data":
        return sum(run.pieces for run in runs)
    if len(runs) > 1 or runs[0].pieces > 1:
        return len(getattr(parse(source, span), field))
    count = 0
    for at in range(runs[0].body, runs[0].end, _BLOCK):
        block = source.read(at, min(at + _BLOCK, runs[0].end))
        count += len(block.translate(None, _CONTINUED))
    return count


_CONTINUED = bytes(range(0x80, 0x100))  # every byte of a varint but its last


def parse(source: Source, span: TensorSpan) -> onnx.TensorProto:
    """Read a whole embedded tensor."""
    tensor: onnx.TensorProto = _T.FromString(source.read(span.message.start, span.message.end))
    return tensor
