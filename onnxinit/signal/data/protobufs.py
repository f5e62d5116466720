"""The test data of ONNX: folders `test_data_set_*` that hold `input_N.pb`, a TensorProto each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from onnxinit.errors import DataError
from onnxinit.signal.data.inputs import Input
from onnxinit.signal.data.pieces import Array, Head, Piece, Pieces

_NAME = re.compile(r"input_(\d+)\.pb")


def is_test_data(folder: Path) -> bool:
    """Whether a folder is a set of test data, or holds such folders."""
    return bool(_inputs(folder)) or bool(_sets(folder))


def read_test_data(folder: Path, inputs: Sequence[Input]) -> Pieces:
    """The sets below a folder, or the folder as one; a set is a feed.

    Raises:
        DataError: A file is damaged, holds no tensor, or there are more or fewer than the model has inputs.
    """
    sets = [folder] if _inputs(folder) else _sets(folder)
    return Pieces(str(folder), [_piece(s, inputs) for s in sets], batched=True)


def _sets(folder: Path) -> list[Path]:
    found = [p for p in folder.iterdir() if p.is_dir() and p.name.startswith("test_data_set_") and _inputs(p)]
    return sorted(found, key=lambda p: (len(p.name), p.name))


def _inputs(folder: Path) -> list[Path]:
    numbered = [(int(m[1]), p) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name))]
    return [p for _, p in sorted(numbered)]


def _piece(folder: Path, inputs: Sequence[Input]) -> Piece:
    files = _inputs(folder)
    if len(files) != len(inputs):
        names = ", ".join(repr(i.name) for i in inputs)
        raise DataError(f"{folder}: holds {len(files)} input_N.pb, the model has {len(inputs)} inputs ({names})")
    named = {i.name: path for i, path in zip(inputs, files, strict=True)}
    heads = {name: Head((a := _array(path)).dtype, a.shape) for name, path in named.items()}
    return Piece(str(folder), heads, lambda: {name: _array(path) for name, path in named.items()})


def _array(path: Path) -> Array:
    try:
        proto = TensorProto.FromString(path.read_bytes())
        if proto.data_type == TensorProto.UNDEFINED:
            raise DataError(f"{path}: holds no tensor; sequences and optionals cannot be fed")
        array: Array = np.asarray(numpy_helper.to_array(proto))
    except (DecodeError, ValueError, TypeError, OSError) as error:
        raise DataError(f"{path}: is no TensorProto, or damaged ({error})") from error
    return array
