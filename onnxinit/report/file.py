"""A file that is whole or not there: for reports."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from onnxinit.errors import ModelError
from onnxinit.model import draft


@contextmanager
def report_file(path: Path | None) -> Iterator[Callable[[Any], None]]:
    """Give a function that writes the report, once; without a path it does nothing.

    The file is made at once, so that a path that cannot be written is refused before anything is done, and takes the
    report's name when the report is complete. A device is written to as it is.

    Raises:
        ModelError: The file cannot be written.
    """
    if path is None:
        yield lambda data: None
        return
    special = path.exists() and not path.is_file()
    with nullcontext(path) if special else draft(path.parent) as place:
        try:
            stream = open(place, "w" if special else "x", encoding="utf-8")
        except OSError as e:
            raise ModelError(f"the report {path} cannot be written: {e.strerror}") from None

        def write(data: Any) -> None:
            try:
                json.dump(data, stream, indent=1)
                stream.write("\n")
                stream.close()
                if not special:
                    os.replace(place, path)
            except OSError as e:
                raise ModelError(f"the report {path} cannot be written: {e.strerror}") from None

        with stream:
            yield write
