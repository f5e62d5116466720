"""Values held by name and batch, in memory or in files."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_LARGE = 1 << 16  # bytes; smaller values stay in memory


class Held:
    """Values by name, one for each batch.

    Args:
        folder: Where larger arrays go, in a folder of their own; None for memory.
    """

    def __init__(self, folder: Path | None = None):
        self._home = None if folder is None else tempfile.TemporaryDirectory(dir=folder, prefix=".onnxinit-")
        self._values: dict[str, list[Any]] = {}
        self._still: dict[str, Any] = {}  # the same in all batches
        self._numbers = itertools.count()

    def __contains__(self, name: str) -> bool:
        return name in self._values or name in self._still

    def all(self, name: str) -> Iterator[Any]:
        """The values of a name, batch by batch; without end where they are the same in all."""
        for value in itertools.repeat(self._still[name]) if name in self._still else self._values[name]:
            yield np.load(value) if isinstance(value, Path) else value

    def change(self, name: str, change: Callable[[Any], Any]) -> None:
        """Hold what is made of a name's values in their place; each is changed once."""
        if name in self._still:
            self._still[name] = change(self._still[name])
            return
        values = self._values[name]
        for i, value in enumerate(values):
            if isinstance(value, Path):
                np.save(value, change(np.load(value)))
            else:
                values[i] = change(value)

    def put_all(self, names: Sequence[str], batches: Iterable[Sequence[Any]], varying: Collection[str]) -> None:
        """Hold several values; one that no feed moves is held once, and nothing more is run where none does."""
        moving = [name in varying for name in names]
        fresh: list[list[Any]] = [[] for _ in names]
        for batch in batches:
            for values, value, moves in zip(fresh, batch, moving, strict=True):
                if moves or not values:
                    values.append(self._store(value))
            if not any(moving):
                break
        for name, values, moves in zip(names, fresh, moving, strict=True):
            self.drop(name)
            if moves:
                self._values[name] = values
            elif values:
                self._still[name] = values[0]

    def drop(self, name: str) -> None:
        """Give values up, if there are any."""
        still = self._still.pop(name, None)
        for value in (*self._values.pop(name, ()), still):
            if isinstance(value, Path):
                value.unlink(missing_ok=True)

    def clear(self) -> None:
        """Give everything up, and the folder."""
        self._values.clear()
        self._still.clear()
        if self._home is not None:
            self._home.cleanup()

    def _store(self, value: Any) -> Any:
        if self._home is None or not isinstance(value, np.ndarray) or value.nbytes < _LARGE or value.dtype.hasobject:
            return value
        path = Path(self._home.name) / f"value{next(self._numbers)}.npy"
        np.save(path, value)
        return path
