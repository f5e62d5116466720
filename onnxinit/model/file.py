"""A model file: the skeleton that the onnx package parses, and where every tensor's bytes lie."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import helper, numpy_helper

from onnxinit.errors import ModelError
from onnxinit.model import external
from onnxinit.model.check import check_graphs
from onnxinit.model.external import Folder, Region
from onnxinit.model.scan import Message, Scan, SplitMessageError, TensorSpan, scan
from onnxinit.model.splice import Edit, render
from onnxinit.model.tensor import StoredTensor, check_fit, describe, parse, raw_size, storage_of
from onnxinit.model.wire import BytesSource, FileSource, MalformedError, Source

SMALL = 1024  # bytes of values up to which a tensor stays in the skeleton
PROTOBUF_LIMIT = 2**31 - 1  # bytes of a message that protobuf parses


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies: its message, and its values where they are external."""

    span: TensorSpan
    region: Region | None
    label: str


@dataclass(frozen=True, slots=True, eq=False)
class ModelFile:
    """A model file, opened but not loaded.

    A tensor has a path, which is its place in the model: `graph.node[5].attribute[0].t`. Who walks `proto` finds the
    path of a tensor by joining the field names and ordinals of the way down with dots.

    Attributes:
        path: The file; None for a model given in memory.
        proto: The skeleton: everything but the values of tensors that have more than 1 KiB of them.
        tensors: Every tensor by path, in file order.
        source: The bytes of the file.
        scan: What lies where in `source`.
        places: Where each tensor lies, by path.
    """

    path: Path | None
    proto: onnx.ModelProto
    tensors: dict[str, StoredTensor]
    source: Source
    scan: Scan
    places: dict[str, Place]

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, external_root: Path | None = None) -> ModelFile:
        """Open a model file. External data need not be there.

        Args:
            path: The file.
            external_root: A folder besides the model's own that external data may lie in.

        Raises:
            ModelError: It cannot be read, is no ONNX model, is damaged, or names data outside the allowed folders.
        """
        path = Path(path)
        source = _open(path)
        # The link, not what it points to, says where the model is: the caches of model hubs are laid out so.
        return _read(path, source, str(path), Folder(path.parent, external_root))

    @classmethod
    def of(cls, model: onnx.ModelProto) -> ModelFile:
        """Take a model in memory. Where its external data lies is not known, so that it counts as absent.

        Raises:
            ModelError: It has 2 GB or more, no graph, or is damaged.
        """
        try:
            data = model.SerializeToString()
        except (EncodeError, ValueError) as error:
            raise ModelError("the model has 2 GB or more; save it with external data and give the path") from error
        return _read(None, BytesSource(data), "the model", None)

    def has_data(self, path: str) -> bool:
        """Whether the values of a tensor are there: False where external data is missing or too short."""
        place = self.places[path]
        if place.region is not None:
            return external.is_there(place.region)
        return self.tensors[path].storage != "none" or self.tensors[path].nbytes == 0

    def array(self, path: str) -> npt.NDArray[np.generic]:
        """Read the values of a tensor.

        Returns:
            An array of the tensor's shape, in the dtypes of `onnx.numpy_helper` (ml_dtypes for bfloat16 and the like).

        Raises:
            ModelError: The values are not there.
        """
        tensor, place = self.tensors[path], self.places[path]
        if not self.has_data(path) and place.region is None:
            raise ModelError(f"{place.label} has no values in the file")
        if place.region is not None:
            where = place.region
            raw = external.open_region(where, place.label).read(where.offset, where.offset + where.nbytes)
        elif tensor.storage == "raw_data" and len(place.span.runs) == place.span.runs[0].pieces == 1:
            raw = self.source.read(place.span.runs[0].body, place.span.runs[0].end)
        else:
            return _decode(parse(self.source, place.span), place.label)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if dtype.itemsize * int(np.prod(tensor.dims, dtype=object)) == tensor.nbytes == len(raw):
            return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(tensor.dims)
        packed = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=raw)
        return _decode(packed, place.label)


def _decode(tensor: onnx.TensorProto, label: str) -> npt.NDArray[np.generic]:
    try:
        values: npt.NDArray[np.generic] = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{label} cannot be read: {error}") from error
    return values


def _open(path: Path) -> FileSource:
    """Open a file for scanning, or say in one line why not."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise ModelError(f"{path}: is a folder; give the .onnx file in it")
        if not stat.S_ISREG(mode):
            raise ModelError(f"{path}: is not a regular file; save the model to one first")
        source = FileSource(path)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such file") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{str(path)!r}: is no possible file name ({error})") from error
    if source.size == 0:
        raise ModelError(f"{path}: is empty; copy or download the model again")
    return source


def _read(path: Path | None, source: Source, name: str, folder: Folder | None) -> ModelFile:
    try:
        try:
            found = scan(source)
        except SplitMessageError as error:
            source = _merged(source, name, str(error))
            found = scan(source)
        proto = onnx.ModelProto.FromString(_skeleton(source, found))
    except (MalformedError, DecodeError) as error:
        raise ModelError(f"{name}: is not an ONNX model, or damaged or cut short ({error})") from error
    if not found.has_graph:
        raise ModelError(f"{name}: has no graph, so it is not an ONNX model")
    tensors: dict[str, StoredTensor] = {}
    places: dict[str, Place] = {}
    protos: dict[Message, onnx.TensorProto] = {found.root: proto}
    for span in found.tensors:
        stored, place = _tensor(source, span, _find(protos, span.message), name, folder)
        tensors[stored.path] = stored
        places[stored.path] = place
    check_graphs(proto, name)
    return ModelFile(path, proto, tensors, source, found, places)


def _merged(source: Source, name: str, message: str) -> BytesSource:
    """Bring a file whose messages are in several parts to the usual form, by parsing and serialising it."""
    if source.size > PROTOBUF_LIMIT:
        raise ModelError(f"{name}: gives {message} in two parts, and is too large to merge them; write it in one part")
    return BytesSource(onnx.ModelProto.FromString(source.read(0, source.size)).SerializeToString())


def _skeleton(source: Source, found: Scan) -> bytes:
    """The file without the values of the tensors that have more than `SMALL` bytes of them."""
    large = (span for span in found.tensors if span.nbytes > SMALL)
    data = render(source, [Edit(span.message, run.start, run.end) for span in large for run in span.runs])
    if len(data) > PROTOBUF_LIMIT:
        raise DecodeError("the graph alone has 2 GB")
    return data


def _find(protos: dict[Message, onnx.TensorProto], message: Message) -> onnx.TensorProto:
    """The parsed message at a place in the file."""
    if message not in protos and message.parent is not None:
        value = getattr(_find(protos, message.parent), message.field)
        protos[message] = value if message.index < 0 else value[message.index]
    return protos[message]


def _tensor(
    source: Source, span: TensorSpan, tensor: onnx.TensorProto, name: str, folder: Folder | None
) -> tuple[StoredTensor, Place]:
    path = span.message.path
    label = f"{name}: {describe(path, tensor)}"
    if not isinstance(tensor.name, str):
        raise ModelError(f"{label}: its name is not UTF-8 text; the file is damaged")
    nbytes = raw_size(tensor, label)
    where: Region | None = None
    identity: tuple[object, ...] = ("at", path)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        storage = "external"
        where = external.region(tensor, nbytes, folder, label)
        if where.nbytes:
            identity = ("external", str(where.file or where.location), where.offset, where.nbytes)
    else:
        storage = storage_of(span)
        check_fit(source, span, tensor, nbytes, label)
    stored = StoredTensor(
        path,
        tensor.name,
        tuple(tensor.dims),
        tensor.data_type,
        storage,
        span.nbytes if nbytes is None else nbytes,
        identity,
    )
    return stored, Place(span, where, label)
