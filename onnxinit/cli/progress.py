"""A progress bar on stderr: to a terminal only, and only for what lasts more than a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

PATIENCE = 1.0  # seconds


@contextmanager
def bar(wanted: bool = True) -> Iterator[Callable[[int, int], None] | None]:
    """Give a callback that is told (bytes just written, bytes in all), or None where no bar would be seen."""
    if not (wanted and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    started, done = time.monotonic(), 0
    columns = (TextColumn("writing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task("writing", total=None)
    with ExitStack() as shown:

        def report(just: int, total: int) -> None:
            nonlocal done
            done += just
            if not progress.live.is_started and time.monotonic() - started > PATIENCE:
                shown.enter_context(progress)
            progress.update(task, completed=done, total=total)

        yield report
