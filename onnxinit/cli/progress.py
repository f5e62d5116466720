"""A progress bar on stderr: to a terminal only, and only for what lasts more than a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

PATIENCE = 1.0  # seconds


@contextmanager
def bar() -> Iterator[Callable[[int, int], None] | None]:
    """Give a callback that is told (bytes written, bytes in all), or None where nobody would see a bar."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    started = time.monotonic()
    columns = (TextColumn("writing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task("writing", total=None)
    with ExitStack() as shown:

        def told(done: int, total: int) -> None:
            if not progress.live.is_started and time.monotonic() - started >= PATIENCE:
                shown.enter_context(progress)
            progress.update(task, completed=done, total=total)

        yield told
