"""Where calibration data comes from: one small reader for each form, and the table of them.

A reader gives the `Pieces` of what it knows, and None of what it does not; the first that knows the data reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onnxinit.errors import DataError
from onnxinit.signal.data.arrays import npy_piece, npz_piece
from onnxinit.signal.data.images import is_image, read_images
from onnxinit.signal.data.inputs import Input
from onnxinit.signal.data.objects import from_module, from_object
from onnxinit.signal.data.options import ImageOptions
from onnxinit.signal.data.pieces import Piece, Pieces
from onnxinit.signal.data.protobufs import is_test_data, read_test_data

Inputs = tuple[Input, ...]
_PATH_FORMS = ".npz, .npy, a folder of either, ONNX test_data_set_* folders, a folder of images, or module:callable"
_FILES: dict[str, Callable[[Path, Inputs], Piece]] = {".npz": npz_piece, ".npy": npy_piece}


def read(data: Any, inputs: Inputs, images: ImageOptions, samples: int | None) -> Pieces:
    """Find the reader for what was given, and what it holds.

    Args:
        data: A path, "module:callable", a dict of arrays, an iterable of such dicts, an object with `get_next()`, or
            a callable that gives one of these.
        inputs: The model's.
        images: How images become arrays.
        samples: How many will be asked for at most.

    Raises:
        DataError: Nothing is there, nothing knows the form, or it is damaged.
    """
    if isinstance(data, str | Path):
        path = Path(data)
        if not path.exists() and isinstance(data, str):
            made = from_module(data)
            if made is not None:
                return from_object(made, inputs, data, samples)
        return _read_path(path, inputs, images, samples)
    return from_object(data, inputs, "the data", samples)


def _read_path(path: Path, inputs: Inputs, images: ImageOptions, samples: int | None) -> Pieces:
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder; --data takes {_PATH_FORMS}")
    if path.is_dir():
        return _read_folder(path, inputs, images, samples)
    if path.suffix.lower() in _FILES:
        return Pieces(str(path), [_FILES[path.suffix.lower()](path, inputs)], batched=False)
    if is_image(path):
        return read_images(path, [path], inputs, images, samples)
    raise DataError(f"{path}: is of no known form; --data takes {_PATH_FORMS}")


def _read_folder(folder: Path, inputs: Inputs, images: ImageOptions, samples: int | None) -> Pieces:
    if is_test_data(folder):
        return read_test_data(folder, inputs)
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    arrays = [p for p in files if p.suffix.lower() in _FILES]
    pictures = [p for p in files if is_image(p)]
    if arrays and pictures:
        raise DataError(f"{folder}: holds arrays ({arrays[0].name}) and images ({pictures[0].name}): give one of them")
    if arrays:
        return Pieces(str(folder), _pieces(arrays, inputs), batched=True)
    if pictures:
        return read_images(folder, pictures, inputs, images, samples)
    holds = f"only {files[0].name} and the like" if files else "nothing"
    raise DataError(f"{folder}: holds {holds}; --data takes {_PATH_FORMS}")


def _pieces(files: Sequence[Path], inputs: Inputs) -> list[Piece]:
    return [_FILES[p.suffix.lower()](p, inputs) for p in files]
