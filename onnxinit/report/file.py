"""A file that is whole or not there: for reports."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from onnxinit.errors import ModelError
from onnxinit.model import draft
from onnxinit.plan import Aside, aside_path


@contextmanager
def report_file(path: Path | None) -> Iterator[Callable[[Any, Aside], None]]:
    """Give a function that writes the report and larger measured values beside it, once; without a path nothing.

    The file is made at once, so that a path that cannot be written is refused before anything is done, and takes the
    report's name when the report is complete. A device is written to as it is.

    Raises:
        ModelError: The file cannot be written.
    """
    if path is None:
        yield lambda data, aside: None
        return
    special = path.exists() and not path.is_file()
    with nullcontext(path) if special else draft(path.parent) as place:
        try:
            stream = open(place, "w" if special else "x", encoding="utf-8")
        except OSError as e:
            raise ModelError(f"the report {path} cannot be written: {e.strerror}") from None

        def write(data: Any, aside: Aside) -> None:
            try:
                if aside:
                    _write_aside(aside_path(path), aside)
                json.dump(data, stream, indent=1)
                stream.write("\n")
                stream.close()
                if not special:
                    os.replace(place, path)
            except OSError as e:
                raise ModelError(f"the report {path} cannot be written: {e.strerror}") from None

        with stream:
            yield write


def _write_aside(path: Path, aside: Aside) -> None:
    with draft(path.parent) as place:
        with open(place, "xb") as stream, zipfile.ZipFile(stream, "w") as archive:  # as np.savez does, of any name
            for name, values in aside.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, values, allow_pickle=False)
        os.replace(place, path)
