"""Feeds that are iterated over many times: small ones are kept, large ones read again; 16-bit floats become float32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

_MOST = 1 << 28  # bytes that are kept


class KeptFeeds:
    """Feeds that are read once if they are small.

    Args:
        feeds: The feeds; every iteration starts again.

    Attributes:
        samples: Samples of all feeds, once they were iterated over: lengths of axis 0 of the first input that has one.
    """

    def __init__(self, feeds: Iterable[Mapping[str, Any]]):
        self._feeds = feeds
        self._kept: list[Mapping[str, Any]] | None = None
        self.samples = 0

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Mapping[str, Any]] = []
        samples = nbytes = 0
        for feed in map(_wide, self._feeds):
            samples += next((len(a) for a in feed.values() if a.ndim), 1)
            nbytes += sum(a.nbytes for a in feed.values())
            if nbytes <= _MOST:
                kept.append(feed)
            else:
                kept.clear()
            yield feed
        self.samples = samples
        if nbytes <= _MOST:
            self._kept = kept


def _wide(feed: Mapping[str, Any]) -> Mapping[str, Any]:
    """A feed as a program takes it, which has no 16-bit floats."""
    return {n: a.astype(np.float32) if a.dtype.name in ("float16", "bfloat16") else a for n, a in feed.items()}
