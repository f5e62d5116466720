"""A model file: the skeleton that the onnx package parses, and where every tensor's bytes lie."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import EncodeError
from onnx import helper, numpy_helper

from onnxinit.errors import ModelError
from onnxinit.model import external
from onnxinit.model.check import check_graphs
from onnxinit.model.external import Folder, Region, open_region
from onnxinit.model.scan import Scan, TensorSpan
from onnxinit.model.skeleton import NUMBER, Skeleton
from onnxinit.model.splice import Edit, SplicedSource, splice
from onnxinit.model.tensor import (
    StoredTensor,
    TensorFaultError,
    check_fit,
    describe,
    element_bits,
    is_byte_wise,
    is_raw,
    parse,
    raw_size,
    storage_of,
)
from onnxinit.model.wire import BytesSource, FileSource, Source


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies: its message, and its values where they are external."""

    span: TensorSpan
    region: Region | None


@dataclass(frozen=True, slots=True, eq=False)
class ModelFile:
    """A model file, opened but not loaded.

    A tensor has a path, which is its place in the model: `graph.node[5].attribute[0].t`. Who walks `proto` finds the
    path of a tensor by joining the field names and ordinals of the way down with dots. Floats that an attribute holds
    itself, as a list or as the number of a Constant, count as tensors.

    Attributes:
        path: The file; None for a model given in memory.
        proto: The skeleton: everything but the values of tensors that have more than 1 KiB of them.
        tensors: Every tensor by path, in file order.
        source: The bytes of the file.
        scan: What lies where in `source`.
        places: Where each tensor lies, by path.
        folder: Where external data may lie; None for a model given in memory.
        replaced: What stood before where tensors without values are now, by their paths: "generated" for a node,
            "sparse" for a sparse tensor (`model.materialise`).
        former: External data of the file before it was edited.
        gone: By the path of a graph the ordinals that nodes had which are no longer there.
    """

    path: Path | None
    proto: onnx.ModelProto
    tensors: dict[str, StoredTensor]
    source: Source
    scan: Scan
    places: dict[str, Place]
    folder: Folder | None = None
    replaced: Mapping[str, str] = field(default_factory=dict)
    former: tuple[Region, ...] = ()
    gone: Mapping[str, Sequence[int]] = field(default_factory=dict)

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

    def edited(self, edits: Sequence[Edit], made: Sequence[tuple[bytes, str]] = ()) -> ModelFile:
        """The file as it is after edits without holes; nothing is written.

        Args:
            edits: The edits.
            made: Those of their pieces that are whole tensors in place of something else, with what it was.
        """
        segments, size = splice(self.source.size, edits)
        file = _read(self.path, SplicedSource(self.source, segments, size), str(self.path or "the model"), self.folder)
        ours = {id(piece): was for piece, was in made}
        was = {segment.at: ours[id(segment.content)] for segment in segments if id(segment.content) in ours}
        copied = [(s.content, s.at, s.nbytes) for s in segments if isinstance(s.content, int)]
        for path, before in self.replaced.items():
            start = self.places[path].span.message.start
            was |= {at + start - first: before for first, at, nbytes in copied if first <= start < first + nbytes}
        messages = (place.span.message for place in file.places.values())
        replaced = {m.path: was[m.start] for m in messages if m.start in was}
        return replace(file, replaced=replaced, former=self.regions, gone=self.gone)

    @property
    def regions(self) -> tuple[Region, ...]:
        """The external data of the tensors, and of the file before it was edited."""
        return (*(place.region for place in self.places.values() if place.region is not None), *self.former)

    def has_data(self, path: str) -> bool:
        """Whether the values of a tensor are there: False where external data is missing or too short."""
        place = self.places[path]
        if place.region is not None:
            return external.is_there(place.region)
        return self.tensors[path].storage != "none" or self.tensors[path].nbytes == 0

    def label(self, path: str) -> str:
        """What to call a tensor in a message: the file, its name, place, type and shape."""
        tensor = self.tensors[path]
        return f"{self.path or 'the model'}: {describe(path, tensor.name, tensor.data_type, tensor.dims)}"

    def array(self, path: str, run: tuple[int, int] | None = None) -> npt.NDArray[np.generic]:
        """Read the values of a tensor.

        Args:
            path: The tensor.
            run: The first element, in stored order, and how many; all of them if not given. Where the values lie in one
                piece, nothing else is read.

        Returns:
            An array of the tensor's shape, flat for a run, in the dtypes of `onnx.numpy_helper` (ml_dtypes for bfloat16
            and the like).

        Raises:
            ModelError: The values are not there.
        """
        tensor, place = self.tensors[path], self.places[path]
        if not self.has_data(path) and place.region is None:
            raise ModelError(f"{self.label(path)} has no values in the file, but they are needed")
        first, count = run or (0, math.prod(tensor.dims))
        dims = tensor.dims if run is None else (count,)
        bits = element_bits(tensor.data_type)
        where, runs = place.region, place.span.runs
        if not self._in_one_piece(path) or first * bits % 8:
            whole = _decode(parse(place.span), self.label(path)) if where is None else self.array(path)
            return whole if run is None else whole.reshape(-1)[first : first + count]
        begin, end = first * bits // 8, -(-(first + count) * bits // 8)
        if where is not None:
            raw = open_region(where, self.label(path)).read(where.offset + begin, where.offset + end)
        else:
            raw = self.source.read(runs[0].body + begin, runs[0].body + end)
        if is_byte_wise(tensor.data_type):  # without the copies that a message makes
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(dims)
        return _decode(onnx.TensorProto(data_type=tensor.data_type, dims=dims, raw_data=raw), self.label(path))

    def runs(self, path: str, count: int) -> Iterator[npt.NDArray[np.generic]]:
        """Read the values of a tensor in stored order, flat, so many at a time.

        Args:
            path: The tensor.
            count: How many values a run has; the last may have fewer.

        Raises:
            ModelError: As `array`.
        """
        whole = None if self._in_one_piece(path) else self.array(path).reshape(-1)
        total = math.prod(self.tensors[path].dims)
        for at in range(0, total, count):
            some = min(count, total - at)
            yield self.array(path, (at, some)) if whole is None else whole[at : at + some]

    def _in_one_piece(self, path: str) -> bool:
        """Whether the raw bytes of a tensor's values lie one after the other."""
        tensor, place = self.tensors[path], self.places[path]
        runs = place.span.runs
        return place.region is not None or (
            is_raw(tensor.data_type, tensor.storage) and len(runs) == runs[0].pieces == 1
        )


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
    skeleton = Skeleton(source, name)
    tensors: dict[str, StoredTensor] = {}
    places: dict[str, Place] = {}
    found = [_tensor(span, skeleton.find(span.message), name, folder) for span in skeleton.scan.tensors]
    found += [made for span in skeleton.scan.lists if (made := _list(span, skeleton.find(span.message))) is not None]
    for stored, place in sorted(found, key=lambda pair: pair[1].span.message.start):
        tensors[stored.path] = stored
        places[stored.path] = place
    check_graphs(skeleton.proto, name)
    return ModelFile(path, skeleton.proto, tensors, skeleton.source, skeleton.scan, places, folder)


def _list(span: TensorSpan, attribute: onnx.AttributeProto) -> tuple[StoredTensor, Place] | None:
    """The floats that an attribute holds, as a tensor; None for a number that is a setting."""
    if not attribute.floats and attribute.name != NUMBER:
        return None
    field, dims = ("floats", (len(attribute.floats),)) if attribute.floats else ("f", ())
    path = f"{span.message.path}.{field}"
    nbytes = 4 * math.prod(dims)
    return StoredTensor(path, "", dims, onnx.TensorProto.FLOAT, field, nbytes, ("at", path)), Place(span, None)


def _tensor(span: TensorSpan, tensor: onnx.TensorProto, name: str, folder: Folder | None) -> tuple[StoredTensor, Place]:
    path = span.message.path
    stored_in = "external" if tensor.data_location == onnx.TensorProto.EXTERNAL else storage_of(span, tensor)
    identity: tuple[object, ...] = ("at", path)
    if not isinstance(tensor.name, str):
        raise ModelError(f"{name}: the name of a tensor ({path}) is not UTF-8 text; export the model again")
    where: Region | None = None
    try:
        nbytes = raw_size(tensor)
        if stored_in == "external":
            where = external.region(tensor, nbytes, folder)
            nbytes = where.nbytes
            identity = ("external", str(where.file or where.location), where.offset, nbytes) if nbytes else identity
        else:
            check_fit(span, tensor, stored_in, nbytes)
    except TensorFaultError as fault:
        raise ModelError(f"{name}: {describe(path, tensor.name, tensor.data_type, tensor.dims)} {fault}") from fault
    stored = StoredTensor(
        path,
        tensor.name,
        tuple(tensor.dims),
        tensor.data_type,
        stored_in,
        span.nbytes if nbytes is None else nbytes,
        identity,
    )
    return stored, Place(span, where)
