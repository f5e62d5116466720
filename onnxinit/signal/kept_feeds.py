"""Feeds that are iterated over many times: small ones are kept, large ones read again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

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
        for feed in self._feeds:
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
