"""Scan a model file: where every tensor lies, without reading the tensors.

The scanner walks only the messages that can hold tensors and jumps over everything else by its length.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxinit.model.wire import BYTES, FIXED32, FIXED64, HEAD, VARINT, MalformedError, Source, decode_varint, extent

DEPTH = 100  # messages within messages: the limit of protobuf's own parsers
GROUP_LIMIT = 1 << 20  # bytes in an unknown group that are looked through for its end

# Which fields of which message lead to tensors: message -> field number -> (field, its message, repeated).
TABLE = {
    "ModelProto": {
        7: ("graph", "GraphProto", False),
        14: ("metadata_props", "StringStringEntryProto", True),
        20: ("training_info", "TrainingInfoProto", True),
        25: ("functions", "FunctionProto", True),
    },
    "GraphProto": {
        1: ("node", "NodeProto", True),
        5: ("initializer", "TensorProto", True),
        15: ("sparse_initializer", "SparseTensorProto", True),
    },
    "NodeProto": {5: ("attribute", "AttributeProto", True)},
    "AttributeProto": {
        5: ("t", "TensorProto", False),
        6: ("g", "GraphProto", False),
        10: ("tensors", "TensorProto", True),
        11: ("graphs", "GraphProto", True),
        22: ("sparse_tensor", "SparseTensorProto", False),
        23: ("sparse_tensors", "SparseTensorProto", True),
    },
    "FunctionProto": {7: ("node", "NodeProto", True), 11: ("attribute_proto", "AttributeProto", True)},
    "TrainingInfoProto": {1: ("initialization", "GraphProto", False), 2: ("algorithm", "GraphProto", False)},
    "SparseTensorProto": {1: ("values", "TensorProto", False), 2: ("indices", "TensorProto", False)},
}
_BY_TAG = {
    message: {number << 3 | BYTES: child for number, child in children.items()} for message, children in TABLE.items()
}

# TensorProto: the fields that hold values, packed or (where it is legal) one to a field, by tag ...
PAYLOADS = {
    number << 3 | wire: name
    for number, name, single in (
        (4, "float_data", FIXED32),
        (5, "int32_data", VARINT),
        (6, "string_data", BYTES),
        (7, "int64_data", VARINT),
        (9, "raw_data", BYTES),
        (10, "double_data", FIXED64),
        (11, "uint64_data", VARINT),
    )
    for wire in (BYTES, single)
}
# ... and those that say that the values are elsewhere.
EXTERNAL_DATA, DATA_LOCATION = 13 << 3 | BYTES, 14 << 3 | VARINT


class SplitMessageError(Exception):
    """A message that can be there once is given in two parts: legal, merged by protobuf, written by nobody."""


class Message:
    """A length-prefixed message on the way to a tensor.

    Attributes:
        parent: The message around it, None for the model.
        field: The name of the field of `parent` that holds it.
        index: Its ordinal in a repeated field, -1 in a singular one.
        tag: Position of the tag of that field.
        head: Position of its length.
        start: Position of its first byte.
        end: Position after its last byte.
    """

    __slots__ = ("end", "field", "head", "index", "parent", "start", "tag")

    def __init__(self, parent: Message | None, field: str, index: int, span: tuple[int, int, int, int]) -> None:
        self.parent = parent
        self.field = field
        self.index = index
        self.tag, self.head, self.start, self.end = span

    @property
    def depth(self) -> int:
        """How many messages are around it."""
        return 1 + self.parent.depth if self.parent else 0

    @property
    def path(self) -> str:
        """Its place in the model: the names of the fields from the model down, with ordinals."""
        if self.parent is None:
            return ""
        step = self.field if self.index < 0 else f"{self.field}[{self.index}]"
        return f"{self.parent.path}.{step}" if self.parent.parent else step


@dataclass(slots=True)
class Run:
    """Consecutive fields of one tensor that hold its values: one packed field, or many of one value each.

    Attributes:
        field: Name of the field.
        start: Position of the first tag.
        body: Position of the first value.
        end: Position after the last value.
        pieces: Number of fields.
        nbytes: Bytes of the values alone.
    """

    field: str
    start: int
    body: int
    end: int
    pieces: int
    nbytes: int


@dataclass(slots=True)
class TensorSpan:
    """Where a tensor lies, where its values lie in it, and the fields that speak of external data (start, end)."""

    message: Message
    runs: list[Run] = field(default_factory=list)
    external: list[tuple[int, int]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes of all values in the message."""
        return sum(run.nbytes for run in self.runs)


@dataclass(slots=True)
class Scan:
    """What a scan finds, in file order."""

    root: Message
    tensors: list[TensorSpan] = field(default_factory=list)
    metadata: list[Message] = field(default_factory=list)
    has_graph: bool = False


def scan(source: Source) -> Scan:
    """Find every tensor of a model.

    Raises:
        MalformedError: The bytes are no protobuf message, or cut short.
        SplitMessageError: A message that can be there once is given in two parts.
    """
    return _Scanner(source).run()


class _Scanner:
    """One pass over a source through a window that grows while reading is sequential and shrinks after a jump."""

    SMALL, LARGE = 1 << 12, 1 << 18

    def __init__(self, source: Source) -> None:
        self.source = source
        self.size = source.size
        self.window = b""
        self.base = 0
        self.limit = 0
        self.block = self.SMALL
        self.found = Scan(Message(None, "", -1, (0, 0, 0, source.size)))

    def run(self) -> Scan:
        self._message(self.found.root, "ModelProto", 0)
        return self.found

    def _load(self, at: int, block: int = 0) -> None:
        """Put the window at `at`."""
        near = at <= self.limit
        self.block = min(2 * self.block, self.LARGE) if near else self.SMALL
        self.base = at
        self.limit = min(at + max(self.block, block), self.size)
        self.window = self.source.read(at, self.limit)

    def _message(self, message: Message, kind: str, depth: int) -> None:
        if depth > DEPTH:
            raise MalformedError(f"more than {DEPTH} messages within each other")
        children = _BY_TAG[kind]
        counts: dict[int, int] = {}
        at, end, size = message.start, message.end, self.size
        window, base, limit = self.window, self.base, self.limit
        while at < end:
            if at + HEAD > limit and limit < size:
                self._load(at)
                window, base, limit = self.window, self.base, self.limit
            begin = at
            try:
                tag = window[at - base]
                at += 1
                if tag > 0x7F:
                    tag, at = self._varint(at - 1)
                if tag & 7 != BYTES or tag < 8:
                    at = self._skip(tag, at)
                    window, base, limit = self.window, self.base, self.limit
                    continue
                head = at
                length = window[at - base]
                at += 1
            except IndexError:
                raise MalformedError(f"a field is cut short at byte {at}") from None
            if length > 0x7F:
                length, at = self._varint(head)
            stop = at + length
            if stop > end:
                raise MalformedError(f"a field at byte {head} says {length} bytes, {end - at} are there")
            child = children.get(tag)
            if child is not None:
                name, inner, repeated = child
                index = counts.get(tag, 0)
                counts[tag] = index + 1
                if not repeated:
                    if index:
                        raise SplitMessageError(f"{kind}.{name}")
                    index = -1
                self._child(Message(message, name, index, (begin, head, at, stop)), inner, depth + 1)
                window, base, limit = self.window, self.base, self.limit
            at = stop
        if at != end:
            raise MalformedError(f"a message is cut short at byte {end}")

    def _child(self, message: Message, kind: str, depth: int) -> None:
        if kind == "TensorProto":
            self._tensor(message)
        elif kind == "StringStringEntryProto":
            self.found.metadata.append(message)
        else:
            if kind == "GraphProto":
                self.found.has_graph = True
            self._message(message, kind, depth)

    def _tensor(self, message: Message) -> None:
        span = TensorSpan(message)
        self.found.tensors.append(span)
        at, end = message.start, message.end
        while at < end:
            start = at
            if at + HEAD > self.limit and self.limit < self.size:
                self._load(at)
            tag, at = self._varint(at)
            if tag & 7 == BYTES and tag > 7:
                length, body = self._varint(at)
                at = body + length
            else:
                body = at
                at = self._skip(tag, at)
            if at > end:
                raise MalformedError(f"a field of {message.path} at byte {start} ends after the tensor")
            if tag in PAYLOADS:
                _extend(span.runs, PAYLOADS[tag], start, body, at)
            elif tag in (EXTERNAL_DATA, DATA_LOCATION):
                span.external.append((start, at))

    def _varint(self, at: int) -> tuple[int, int]:
        value, end = decode_varint(self.window, at - self.base)
        return value, end + self.base

    def _skip(self, tag: int, at: int) -> int:
        """Position after the value of a field that holds no message of ours; `at` is after its tag."""
        wire = tag & 7
        if wire == VARINT and tag > 7:
            return self._varint(at)[1]
        if wire in (FIXED32, FIXED64) and tag > 7:
            return at + (4 if wire == FIXED32 else 8)
        self._load(at, GROUP_LIMIT)
        return extent(self.window, tag, at - self.base)[1] + self.base


def _extend(runs: list[Run], name: str, start: int, body: int, end: int) -> None:
    if runs and runs[-1].field == name and runs[-1].end == start:
        last = runs[-1]
        last.end, last.pieces, last.nbytes = end, last.pieces + 1, last.nbytes + end - body
    else:
        runs.append(Run(name, start, body, end, 1, end - body))
