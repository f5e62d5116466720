"""The protobuf wire format: where bytes come from, variable-length integers, fields.

A message is a row of fields. A field is a tag (number and wire type, as a varint) and a value:

    wire type 0   varint             1, 5   eight, four bytes
    wire type 2   length, bytes      3, 4   start and end of a group (obsolete, legal in unknown fields)

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from onnxinit.errors import ModelError

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = range(6)
HEAD = 20  # a tag and a length take at most ten bytes each


class MalformedError(Exception):
    """The bytes are not what the wire format allows; the caller knows the file's name."""


class Source(Protocol):
    """Bytes that are read piece by piece."""

    @property
    def size(self) -> int:
        """Number of bytes."""

    def read(self, start: int, end: int) -> bytes:
        """Read the bytes [start, end)."""


class FileSource:
    """A file read with `pread`; a memory map would count the pages that were touched as resident memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._fd)
        self.size = os.fstat(self._fd).st_size

    def read(self, start: int, end: int) -> bytes:
        """Read the bytes [start, end).

        Raises:
            ModelError: The file became shorter since it was opened, or cannot be read.
        """
        pieces: list[bytes] = []
        while start < end:
            try:
                piece = os.pread(self._fd, end - start, start)
            except OSError as error:
                raise ModelError(f"{self.path}: cannot be read: {error.strerror}") from error
            if not piece:
                raise ModelError(f"{self.path}: the file became shorter while it was read; try again")
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class BytesSource:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, start: int, end: int) -> bytes:
        """Read the bytes [start, end)."""
        return self._data[start:end]


def encode_varint(value: int) -> bytes:
    """Encode a non-negative integer, seven bits to a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes, at: int) -> tuple[int, int]:
    """Decode the varint at `at`.

    Returns:
        The value and the position after it.

    Raises:
        MalformedError: It is longer than ten bytes or cut short.
    """
    if at < len(data) and data[at] < 0x80:  # most often
        return data[at], at + 1
    value = 0
    for i in range(10):
        if at + i >= len(data):
            raise MalformedError("a number is cut short")
        byte = data[at + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise MalformedError("a number has more than ten bytes")


def bytes_head(number: int, size: int) -> bytes:
    """The tag and the length of a field of wire type 2."""
    return encode_varint(number << 3 | BYTES) + encode_varint(size)


def fields(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Walk the fields of a message that is known to be well formed.

    Yields:
        Number, wire type, position of the tag, of the value, and of what comes after it.
    """
    at = 0
    while at < len(data):
        start = at
        tag, at = decode_varint(data, at)
        value, end = extent(data, tag, at)
        yield tag >> 3, tag & 7, start, value, end
        at = end


def extent(data: bytes, tag: int, at: int) -> tuple[int, int]:
    """Where the value of a field starts and ends in `data`, given its tag and the position after the tag.

    Raises:
        MalformedError: The tag is not one of protobuf's.
    """
    wire = tag & 7
    if tag >> 3 == 0 or wire > FIXED32 or wire == END_GROUP:
        raise MalformedError(f"no field has the tag {tag}")
    if wire == BYTES:
        size, at = decode_varint(data, at)
        return at, at + size
    if wire == VARINT:
        return at, decode_varint(data, at)[1]
    if wire == GROUP:
        return at, _group_end(data, tag + 1, at)
    return at, at + (8 if wire == FIXED64 else 4)


def _group_end(data: bytes, closing: int, at: int) -> int:
    while True:
        tag, at = decode_varint(data, at)
        if tag == closing:
            return at
        at = extent(data, tag, at)[1]
        if at > len(data):
            raise MalformedError("a group is cut short")
