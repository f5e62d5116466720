"""External data: where a tensor's values lie beside the model, and whether they may be read from there.

Source: https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from onnxinit.errors import ModelError
from onnxinit.model.tensor import TensorFaultError
from onnxinit.model.wire import FileSource


@dataclass(frozen=True, slots=True)
class Region:
    """A range of an external file.

    Attributes:
        file: The file, with links and `..` resolved; None for a model in memory, whose folder is unknown.
        location: The file as the model names it.
        offset: First byte.
        nbytes: Number of bytes.
        checksum: Whether the model states a checksum.
    """

    file: Path | None
    location: str
    offset: int
    nbytes: int
    checksum: bool


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of a model, and the other place that its data may lie in (`--external-root`)."""

    path: Path
    root: Path | None
    _found: dict[str, Path] = field(default_factory=dict, compare=False, repr=False)

    def resolve(self, location: str) -> Path:
        """The file that a location means; it need not exist.

        Raises:
            TensorFaultError: It is outside the model's folder and the external root.
        """
        if location in self._found:
            return self._found[location]
        outside = f"has external data {location!r} outside the model's folder"
        way_out = "; if you trust the model, allow that place with --external-root DIR"
        if not location:
            raise TensorFaultError("has external data without a location; export the model again")
        if not isinstance(location, str):  # protobuf gives the bytes of what is not UTF-8
            raise TensorFaultError(f"has external data {location!r}, no possible file name (not UTF-8 text)")
        if os.path.isabs(location) and self.root is None:
            raise TensorFaultError(f"{outside} (an absolute path){way_out}")
        try:
            file = (self.path / location).resolve()
            allowed = [self.path.resolve(), *([self.root.resolve()] if self.root else [])]
        except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a NUL in the name
            raise TensorFaultError(f"has external data {location!r}, no possible file name ({error})") from error
        if not any(file.is_relative_to(folder) for folder in allowed):
            besides = f" and outside {self.root}" if self.root else ""
            raise TensorFaultError(f"{outside}{besides} ({file}){way_out}")
        self._found[location] = file
        return file


def region(tensor: onnx.TensorProto, nbytes: int | None, folder: Folder | None) -> Region:
    """Read where the values of an external tensor are.

    Args:
        tensor: A tensor with `data_location` EXTERNAL.
        nbytes: Bytes of its values, None where its type does not say.
        folder: Where the model is; None for a model in memory.

    Raises:
        TensorFaultError: An entry cannot be, the length does not fit the shape, or the file may not be read.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    offset = _number(entries, "offset") or 0
    length = _number(entries, "length")
    if nbytes is not None and length is not None and length != nbytes:
        raise TensorFaultError(
            f"has {length} bytes of external data, but its shape needs {nbytes}; export the model again"
        )
    location = entries.get("location", "")
    file = folder.resolve(location) if folder else None
    size = nbytes if nbytes is not None else length or 0
    return Region(file, location, offset, size, "checksum" in entries)


def _number(entries: dict[str, str], key: str) -> int | None:
    if key not in entries:
        return None
    text = entries[key]
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**63:
        raise TensorFaultError(
            f"has external data whose {key} is {text!r}, not a number of bytes; export the model again"
        )
    return int(text)


def is_there(where: Region) -> bool:
    """Whether the file exists and is long enough."""
    return where.nbytes == 0 or _missing(where) is None


def _missing(where: Region) -> str | None:
    if where.file is None:
        return "where the file lies is not known, as the model was given in memory"
    try:
        status = os.stat(where.file)
    except OSError as error:
        return error.strerror
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if status.st_size < where.offset + where.nbytes:
        return f"the file has {status.st_size} bytes, {where.offset + where.nbytes} are needed"
    return None


def open_region(where: Region, label: str) -> FileSource:
    """Open the file of a region.

    Raises:
        ModelError: It is missing, too short or cannot be read.
    """
    reason = _missing(where)
    if reason is None and where.file is not None:
        try:
            return FileSource(where.file)
        except OSError as error:
            reason = error.strerror
    raise ModelError(f"{label}: its external data {where.location!r} is missing or incomplete: {reason}; put it there")
