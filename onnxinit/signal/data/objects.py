"""Data that Python hands over: dicts, iterables of dicts, ONNX Runtime's calibration readers, callables of a module."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from onnxinit.errors import DataError, OnnxinitError
from onnxinit.signal.data.inputs import Input
from onnxinit.signal.data.pieces import Piece, Pieces, as_arrays

T = TypeVar("T")
_SPEC = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")
_TAKES = "a dict of arrays, an iterable of such dicts, or an object with get_next()"


def from_module(spec: str) -> Any:
    """What `module:callable` names; modules of the working folder are found too.

    Returns:
        The callable; None where the text is not of this form.

    Raises:
        DataError: The module cannot be imported, or has nothing callable of that name.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        return None
    module_name, names = match.groups()
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise DataError(f"{spec}: the module {module_name!r} cannot be imported ({_said(error)})") from error
    finally:
        sys.path.remove(here)
    for name in names.split("."):
        if not hasattr(found, name):
            raise DataError(f"{spec}: {module_name!r} has no {names!r}")
        found = getattr(found, name)
    if not callable(found):
        raise DataError(f"{spec}: {names!r} is a {type(found).__name__}, nothing that could be called")
    return found


def from_object(data: Any, inputs: tuple[Input, ...], source: str, samples: int | None) -> Pieces:
    """Data that is already Python's.

    An iterator, or an object with `get_next()` and no `rewind()`, gives its feeds once: they are kept. What can be
    started again is, so that it need not fit into memory.

    Raises:
        DataError: It is none of these, or its own code fails.
    """
    if callable(data) and not hasattr(data, "get_next"):
        data = _run(data, source)
    if isinstance(data, Mapping):
        return Pieces(source, [Piece.of(as_arrays(data, source), source)], batched=False)
    if callable(getattr(data, "get_next", None)):
        if callable(getattr(data, "rewind", None)):
            return Pieces(source, _Rewound(data, source), batched=True, checked=False)
        return _kept(_pull(iter(data.get_next, None), source), source, inputs, samples)
    if isinstance(data, str | bytes) or not hasattr(data, "__iter__") or hasattr(data, "__array__"):
        raise DataError(f"{source}: is a {type(data).__name__}; give {_TAKES}")
    if isinstance(data, list | tuple):
        return Pieces(source, [_piece(item, f"{source}, feed {n}") for n, item in enumerate(data)], batched=True)
    iterator = _run(lambda: iter(data), source)
    if iterator is data:
        return _kept(_pull(iterator, source), source, inputs, samples)
    return Pieces(source, _Again(data, source), batched=True, checked=False)


def _kept(pieces: Iterator[Piece], source: str, inputs: tuple[Input, ...], samples: int | None) -> Pieces:
    """Pull no more than is asked for: a generator may have no end."""
    free = [i.name for i in inputs if not i.is_single]
    held: list[Piece] = []
    count = 0
    while samples is None or count < samples:
        piece = next(pieces, None)
        if piece is None:
            break
        held.append(piece)
        shape = next((piece.heads[n].shape for n in free if n in piece.heads), ())
        count += shape[0] if shape else 1
    return Pieces(source, held, batched=True)


class _Again:
    """The feeds of an iterable that can be started again."""

    def __init__(self, data: Iterable[Any], source: str):
        self._data, self._source = data, source

    def __iter__(self) -> Iterator[Piece]:
        return _pull(_run(lambda: iter(self._data), self._source), self._source)


class _Rewound:
    """The feeds of a calibration reader that can be rewound."""

    def __init__(self, data: Any, source: str):
        self._data, self._source = data, source

    def __iter__(self) -> Iterator[Piece]:
        _run(self._data.rewind, self._source)
        return _pull(iter(self._data.get_next, None), self._source)


def _pull(items: Iterator[Any], source: str) -> Iterator[Piece]:
    n = 0
    end = object()
    while (item := _run(lambda: next(items, end), source)) is not end:
        yield _piece(item, f"{source}, feed {n}")
        n += 1


def _piece(item: Any, label: str) -> Piece:
    if not isinstance(item, Mapping):
        raise DataError(f"{label}: is a {type(item).__name__}, not a dict of arrays by input")
    return Piece.of(as_arrays(item, label), label)


def _run(function: Callable[[], T], source: str) -> T:
    """Run code of the user's; what it raises becomes one line."""
    try:
        return function()
    except OnnxinitError:
        raise
    except Exception as error:
        raise DataError(f"{source}: its code failed ({_said(error)})") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
