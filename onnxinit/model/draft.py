"""Temporary files that no end of a run leaves behind."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def draft(folder: Path) -> Iterator[Path]:
    """The name of a file that is to be made within the block and is gone after it, unless it was renamed.

    Python raises what a signal means between any two steps, and on a busy machine most often right after the one that
    waited for the disk. So the name is settled before there is a file, and the step that removes it is a single call.

    Args:
        folder: Where it lies.
    """
    path = folder / f".onnxinit-{secrets.token_hex(8)}.tmp"
    try:
        yield path
    finally:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
