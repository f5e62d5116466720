"""Stream segments to their places: copies and fresh values as jobs that any number of threads share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import numpy.typing as npt

from onnxinit.model.external import Region, open_region
from onnxinit.model.splice import Hole, Segment
from onnxinit.model.wire import FileSource, Source

BLOCK = 1 << 20  # bytes copied at a time

Buffer = bytes | bytearray | memoryview | npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of the fresh values of one tensor.

    Attributes:
        offset: Where it lies in the tensor's raw bytes.
        nbytes: How many bytes it has.
        draw: Makes the bytes, little-endian, in any C-contiguous buffer; called once, from any thread.
    """

    offset: int
    nbytes: int
    draw: Callable[[], Buffer]


class Fresh(Protocol):
    """Fresh values for one tensor."""

    @property
    def nbytes(self) -> int:
        """Size of all values as raw bytes."""

    def chunks(self) -> Iterator[Chunk]:
        """The chunks, which tile the tensor's bytes; to be called anew for every writing."""


@dataclass(frozen=True, slots=True)
class Job:
    """Bytes to make and put at a place of the output."""

    at: int
    nbytes: int
    make: Callable[[], Buffer]
    fresh: bool


def jobs(segments: Iterable[Segment], source: Source, fresh: Mapping[str, Fresh]) -> Iterator[Job]:
    """Break segments down to jobs of bounded size."""
    opened: dict[str, FileSource] = {}
    for segment in segments:
        content = segment.content
        if isinstance(content, bytes):
            yield Job(segment.at, segment.nbytes, partial(bytes, content), False)
        elif isinstance(content, Hole):
            total = 0
            for chunk in fresh[content.path].chunks():
                total += chunk.nbytes
                if chunk.offset < 0 or chunk.offset + chunk.nbytes > segment.nbytes:
                    raise ValueError(f"a chunk of {content.path} lies outside the tensor")
                yield Job(segment.at + chunk.offset, chunk.nbytes, chunk.draw, True)
            if total != segment.nbytes:
                raise ValueError(f"the chunks of {content.path} have {total} of {segment.nbytes} bytes")
        elif isinstance(content, Region) and content.nbytes:
            file = str(content.file)
            if file not in opened:
                opened[file] = open_region(content, "a kept tensor")
            yield from _copy(opened[file], content.offset, segment)
        elif isinstance(content, int):
            yield from _copy(source, content, segment)


def _copy(source: Source, start: int, segment: Segment) -> Iterator[Job]:
    for done in range(0, segment.nbytes, BLOCK):
        nbytes = min(BLOCK, segment.nbytes - done)
        yield Job(segment.at + done, nbytes, partial(source.read, start + done, start + done + nbytes), False)


def run(
    work: Iterator[Job], put: Callable[[int, memoryview], None], threads: int, progress: Callable[[int], None] | None
) -> None:
    """Run jobs, at most one per thread in memory at a time.

    Args:
        work: The jobs; drawn from one after the other.
        put: Puts bytes at a place of the output; called from all threads.
        threads: How many threads share the work; with 1 it is done in the caller's.
        progress: Gets the number of fresh bytes just written, from one thread at a time.
    """
    lock, stop = threading.Lock(), threading.Event()

    def share() -> None:
        while not stop.is_set():
            with lock:
                job = next(work, None)
            if job is None:
                return
            view = memoryview(cast("bytes", job.make()))  # numpy tells of its buffers from Python 3.12 on
            if view.nbytes != job.nbytes:
                raise ValueError(f"a job made {view.nbytes} bytes, {job.nbytes} were announced")
            if job.nbytes:
                put(job.at, view.cast("B"))
            if progress is not None and job.fresh:
                with lock:
                    progress(job.nbytes)

    if threads <= 1:
        return share()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for done in as_completed([pool.submit(share) for _ in range(threads)]):
                done.result()
        except BaseException:
            stop.set()
            raise
