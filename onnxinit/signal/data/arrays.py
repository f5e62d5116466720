"""Files of numpy, read without unpickling and without holding more than is asked for."""

from __future__ import annotations

import functools
import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as _format

from onnxinit.errors import DataError
from onnxinit.signal.data.inputs import Input
from onnxinit.signal.data.pieces import Array, Head, Piece

npy: Any = _format  # the annotations of its functions differ from release to release
_READ_HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def npy_piece(path: Path, inputs: tuple[Input, ...]) -> Piece:
    """A .npy file for the one input of a model, as a memory map.

    Raises:
        DataError: It cannot be read, is damaged or pickled, or the model has several inputs.
    """
    if len(inputs) != 1:
        names = ", ".join(repr(i.name) for i in inputs)
        raise DataError(f"{path}: holds one array, the model has {len(inputs)} inputs ({names}): give a .npz with them")
    array = _guarded(path, lambda: _mapped(path, 0, ""))
    return Piece.of({inputs[0].name: array}, str(path))


def npz_piece(path: Path, inputs: tuple[Input, ...]) -> Piece:
    """A .npz file with the inputs by name; arrays that are stored as they are become memory maps.

    Raises:
        DataError: It cannot be read, is damaged or holds pickled objects.
    """
    heads = _guarded(path, lambda: _heads(path))
    return Piece(str(path), heads, functools.partial(_load, path, tuple(heads)))


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except _PickledError as error:
        raise DataError(f"{path}: {error}; they are not read, since that could run code: save plain arrays") from None
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, KeyError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read as numpy's {path.suffix} ({error})") from error


class _PickledError(Exception):
    """A member holds objects."""


def _head(file: IO[bytes], name: str) -> tuple[Head, bool]:
    version = npy.read_magic(file)
    if version not in _READ_HEADER:  # UTF-8 names of fields, which no input has
        raise ValueError(f"{name!r} is of version {version}")
    shape, fortran, dtype = _READ_HEADER[version](file)
    if dtype.hasobject:
        raise _PickledError(f"holds pickled objects{name and f' under {name!r}'}")
    return Head(dtype, shape), fortran


def _heads(path: Path) -> dict[str, Head]:
    found: dict[str, Head] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            name = member.removesuffix(".npy")
            with archive.open(member) as file:
                found[name], _ = _head(file, name)
    return found


def _load(path: Path, names: tuple[str, ...]) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    with zipfile.ZipFile(path) as archive:
        for name in names:
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type == zipfile.ZIP_STORED:
                arrays[name] = _guarded(path, functools.partial(_mapped, path, _member(path, info), name))
            else:
                with archive.open(info) as file:
                    arrays[name] = _guarded(path, functools.partial(npy.read_array, file, allow_pickle=False))
    return arrays


def _member(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of an uncompressed member of an archive begin."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)  # of the local header: 30 bytes, the name, what else there is
        return info.header_offset + 30 + sum(map(int, struct.unpack("<HH", file.read(4))))


def _mapped(path: Path, start: int, name: str) -> Array:
    """The array that begins somewhere in a file, where it lies."""
    with path.open("rb") as file:
        file.seek(start)
        head, fortran = _head(file, name)
        if math.prod(head.shape) == 0 or not head.shape:  # nothing that could be mapped
            return np.fromfile(file, head.dtype, math.prod(head.shape)).reshape(head.shape)
        order: Any = "F" if fortran else "C"
        return np.memmap(path, head.dtype, "r", file.tell(), head.shape, order)
