"""Change a file of length-prefixed messages in places: what goes where, with the lengths of all ancestors set right."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxinit.model.external import Region
from onnxinit.model.scan import Message
from onnxinit.model.wire import Source, encode_varint


@dataclass(frozen=True, slots=True)
class Hole:
    """Room for the values of the tensor at `path`."""

    path: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Edit:
    """Put `pieces` in place of the bytes [start, end), which lie in the body of `message`."""

    message: Message
    start: int
    end: int
    pieces: tuple[bytes | Hole, ...] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes of the result.

    Attributes:
        at: Where they go.
        nbytes: How many they are.
        content: Where they come from: the position in the source that they are copied from, the bytes themselves,
            fresh values, or a region of an external file.
    """

    at: int
    nbytes: int
    content: int | bytes | Hole | Region


def _size(piece: bytes | Hole) -> int:
    return piece.nbytes if isinstance(piece, Hole) else len(piece)


def splice(size: int, edits: Iterable[Edit]) -> tuple[list[Segment], int]:
    """Lay out the result of edits on a file of `size` bytes.

    Args:
        size: Bytes of the source.
        edits: Edits that do not overlap.

    Returns:
        The segments of the result in order, and its size.
    """
    edits = list(edits)
    edits += _lengths(edits)
    # Of two insertions at one place, one at the end of a message and one after it, the inner comes first.
    edits.sort(key=lambda edit: (edit.start, edit.end, -edit.message.depth))
    segments: list[Segment] = []
    at = source = 0
    for edit in edits:
        if edit.start > source:
            segments.append(Segment(at, edit.start - source, source))
            at += edit.start - source
        for piece in edit.pieces:
            segments.append(Segment(at, _size(piece), piece))
            at += _size(piece)
        source = edit.end
    if size > source:
        segments.append(Segment(at, size - source, source))
        at += size - source
    return segments, at


def _lengths(edits: Sequence[Edit]) -> list[Edit]:
    """The edits of the lengths of all messages whose size the edits change; a length that stays is left as it is."""
    growth: dict[Message, int] = {}
    by_depth: dict[int, list[Message]] = {}

    def grow(message: Message | None, by: int) -> None:
        if message is None or by == 0:
            return
        if message not in growth:
            growth[message] = 0
            by_depth.setdefault(message.depth, []).append(message)
        growth[message] += by

    for edit in edits:
        grow(edit.message, sum(map(_size, edit.pieces)) - (edit.end - edit.start))
    lengths: list[Edit] = []
    for depth in range(max(by_depth, default=0), 0, -1):
        for message in by_depth.get(depth, ()):
            if growth[message] and message.parent is not None:
                new = encode_varint(message.end - message.start + growth[message])
                lengths.append(Edit(message.parent, message.head, message.start, (new,)))
                grow(message.parent, growth[message] + len(new) - (message.start - message.head))
    return lengths


class SplicedSource:
    """The result of edits without holes, read piece by piece."""

    def __init__(self, source: Source, segments: Sequence[Segment], size: int) -> None:
        self.size = size
        self._source = source
        self._segments = segments
        self._starts = [segment.at for segment in segments]

    def read(self, start: int, end: int) -> bytes:
        """Read the bytes [start, end)."""
        pieces: list[bytes] = []
        for segment in self._segments[max(bisect_right(self._starts, start) - 1, 0) :]:
            if segment.at >= end:
                break
            first, last = max(start - segment.at, 0), min(end - segment.at, segment.nbytes)
            if isinstance(segment.content, int):
                pieces.append(self._source.read(segment.content + first, segment.content + last))
            elif isinstance(segment.content, bytes):
                pieces.append(segment.content[first:last])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def render(source: Source, edits: Iterable[Edit]) -> bytes:
    """The result of edits without holes, in memory."""
    segments, size = splice(source.size, edits)
    return SplicedSource(source, segments, size).read(0, size)
