"""The inputs that a model wants to be fed, as its file declares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import helper

from onnxinit.errors import DataError

Dim = int | str | None
"""A length: fixed, the name of one that is free, or None for one that is free and nameless."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a model.

    Attributes:
        name: Its name.
        dtype: Its ONNX element type.
        dims: Its dimensions; None where the file leaves the rank open.
        model: The model that it is an input of: synthetic values follow from what becomes of it there.
    """

    name: str
    dtype: int
    dims: tuple[Dim, ...] | None
    model: onnx.ModelProto | None = field(default=None, repr=False, compare=False)

    @property
    def type_name(self) -> str:
        """The element type as ONNX spells it, in small letters."""
        return str(onnx.TensorProto.DataType.Name(self.dtype)).lower()

    @property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        """The element type of an array that ONNX Runtime takes."""
        found: np.dtype[np.generic] = np.dtype(helper.tensor_dtype_to_np_dtype(self.dtype))
        return found

    @property
    def batch(self) -> int | None:
        """The length that the model fixes for axis 0, which holds the samples; None where it is free."""
        first = self.dims[0] if self.dims else None
        return first if isinstance(first, int) else None

    @property
    def is_single(self) -> bool:
        """Whether it is one number, without an axis for samples."""
        return self.dims == ()

    def __str__(self) -> str:
        if self.dims is None:
            return f"input {self.name!r} ({self.type_name}, any shape)"
        inner = ", ".join("?" if d is None else str(d) for d in self.dims)
        return f"input {self.name!r} ({self.type_name} [{inner}])"


def model_inputs(proto: onnx.ModelProto) -> tuple[Input, ...]:
    """The inputs that a feed must hold: those of the main graph that no initializer gives a value to.

    Args:
        proto: The model; the values of its tensors need not be there.

    Returns:
        In the order of the graph.

    Raises:
        DataError: One of them is no tensor.
    """
    stored = {t.name for t in proto.graph.initializer} | {t.values.name for t in proto.graph.sparse_initializer}
    return tuple(_input(info, proto) for info in proto.graph.input if info.name not in stored)


def _input(info: onnx.ValueInfoProto, model: onnx.ModelProto) -> Input:
    if not info.type.HasField("tensor_type"):
        kind = (info.type.WhichOneof("value") or "unknown").removesuffix("_type").replace("_", " ")
        raise DataError(f"input {info.name!r} is of the kind {kind}: only models that take tensors can be fed")
    tensor = info.type.tensor_type
    dims = tuple(_dim(d) for d in tensor.shape.dim) if tensor.HasField("shape") else None
    return Input(info.name, int(tensor.elem_type), dims, model)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):  # some exporters write -1 for a free one
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return dim.dim_param or None


def pin(inputs: Sequence[Input], dims: Mapping[str, int]) -> tuple[Input, ...]:
    """Fix symbolic dimensions.

    Raises:
        DataError: No input has a dimension of that name.
    """
    names = sorted({d for i in inputs for d in i.dims or () if isinstance(d, str)})
    for name in dims:
        if name not in names:
            has = f"it has {', '.join(names)}" if names else "it has none"
            raise DataError(f"no input of the model has a dimension named {name!r}: {has}")
    return tuple(
        i if i.dims is None else replace(i, dims=tuple(dims.get(d, d) if isinstance(d, str) else d for d in i.dims))
        for i in inputs
    )
