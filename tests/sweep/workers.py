"""Files given to processes of their own, so that a crash or a hang in one costs that file alone."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue

from tests.sweep.promises import Checked, check_file

Check = Callable[[Path, Path], Checked]


def sweep(files: list[Path], jobs: int, limit: float, check: Check = check_file) -> Iterator[tuple[Path, Checked]]:
    """Check files in several processes, and give each with what was found, as they are done.

    Args:
        files: The files.
        jobs: How many processes.
        limit: Seconds for each file.
        check: What is done in the process, with a file and an empty folder.
    """
    waiting: SimpleQueue[Path] = SimpleQueue()
    done: SimpleQueue[tuple[Path, Checked]] = SimpleQueue()
    for file in files:
        waiting.put(file)
    threads = [
        threading.Thread(target=_drive, args=(waiting, done, limit, check)) for _ in range(min(jobs, len(files)))
    ]
    for thread in threads:
        thread.start()
    for _ in files:
        yield done.get()
    for thread in threads:
        thread.join()


def _drive(waiting: SimpleQueue[Path], done: SimpleQueue[tuple[Path, Checked]], limit: float, check: Check) -> None:
    """Give one process after another the files that wait; a new one where the last has died."""
    worker: _Worker | None = None
    while True:
        try:
            file = waiting.get_nowait()
        except Empty:
            break
        worker = worker or _Worker(check)
        checked = worker.check(file, limit)
        if isinstance(checked, str):
            done.put((file, Checked(broken={"answers": checked})))
            worker = None
        else:
            done.put((file, checked))
    if worker is not None:
        worker.end()


class _Worker:
    """A process that checks one file after another."""

    def __init__(self, check: Check):
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, check), daemon=True)
        self._process.start()
        theirs.close()
        self._ours.recv()  # it has imported what it needs

    def check(self, file: Path, limit: float) -> Checked | str:
        """What was found; how the process ended if it did, after which there is none."""
        try:
            self._ours.send(file)
            if self._ours.poll(limit):
                found: Checked = self._ours.recv()
                return found
            self.end(kill=True)
            return f"no answer within {limit:g} seconds"
        except (EOFError, OSError):
            self.end()
            return f"the process died, with exit status {self._process.exitcode}"

    def end(self, *, kill: bool = False) -> None:
        """Wait for the end of the process."""
        self._ours.close()
        if kill:
            self._process.kill()
        self._process.join()


def _serve(connection: Connection, check: Check) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # native libraries print what they like
    os.dup2(nowhere, 2)
    connection.send("ready")
    while True:
        try:
            file = connection.recv()
        except EOFError:
            return
        with tempfile.TemporaryDirectory() as work:
            connection.send(check(file, Path(work)))
