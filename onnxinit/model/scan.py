"""Scan a model file: where every tensor lies, without reading the tensors.

The scanner walks only the messages that can hold tensors and jumps over everything else by its length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxinit.model.wire import (
    BYTES,
    FIXED32,
    FIXED64,
    GROUP,
    HEAD,
    VARINT,
    MalformedError,
    Source,
    decode_varint,
    extent,
)

SMALL = 1024  # bytes of values up to which a tensor is read with the graph
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
_WITH_NODES = {"GraphProto", "FunctionProto"}
_BY_TAG = {
    message: {number << 3 | BYTES: child for number, child in children.items()} for message, children in TABLE.items()
}
# AttributeProto: the fields that hold floats.
FLOATS = {7 << 3 | BYTES: "floats", 7 << 3 | FIXED32: "floats", 2 << 3 | FIXED32: "f"}
_FLOATS = "floats of an AttributeProto"
_BY_TAG["AttributeProto"].update((tag, (name, _FLOATS, True)) for tag, name in FLOATS.items())

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
        return f"{self.parent.path}.{self.step}" if self.parent.parent else self.step

    @property
    def step(self) -> str:
        """The last step of that path."""
        return self.field if self.index < 0 else f"{self.field}[{self.index}]"


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


# Of a tensor: where its values lie, and start and end of the fields that speak of external data.
Fields = tuple[list[Run], list[tuple[int, int]]]


@dataclass(slots=True)
class TensorSpan:
    """Where a tensor lies, and (of a small one not before it is asked for) where its values lie in it.

    An attribute that holds floats counts as a tensor, too.
    """

    message: Message
    source: Source
    found: Fields | None = None

    def fields(self) -> Fields:
        """Where the values lie, and the fields that speak of external data."""
        if self.found is None:
            self.found = Scanner(self.source).tensor(self.message)
        return self.found

    @property
    def runs(self) -> list[Run]:
        """Where the values lie."""
        return self.fields()[0]

    @property
    def external(self) -> list[tuple[int, int]]:
        """Start and end of the fields that speak of external data."""
        return self.fields()[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all values in the message."""
        return sum(run.nbytes for run in self.runs)

    @property
    def is_large(self) -> bool:
        """Whether there are more than `SMALL` bytes of values."""
        return self.found is not None and self.nbytes > SMALL


# A message on the way down, cheaper than `Message`: what is around it, field, index, tag, head, start, end.
Frame = tuple[Any, str, int, int, int, int, int]


@dataclass(slots=True)
class Scan:
    """What a scan finds.

    Attributes:
        root: The model.
        tensors: Every tensor, in file order.
        lists: The attributes that hold floats, in file order.
        metadata: The entries of the model's metadata.
        has_graph: Whether the model has a main graph.
    """

    root: Message
    tensors: list[TensorSpan] = field(default_factory=list)
    lists: list[TensorSpan] = field(default_factory=list)
    metadata: list[Message] = field(default_factory=list)
    has_graph: bool = False


class Scanner:
    """Reads a source through a window that grows while reading is sequential and shrinks after a jump.

    The inner loop is the price of opening a model, so that it reads the common one-byte tags and lengths itself.
    """

    LEAST, MOST = 1 << 12, 1 << 18  # bytes of the window

    def __init__(self, source: Source) -> None:
        self.source = source
        self.size = source.size
        self.window = b""
        self.base = 0
        self.limit = 0
        self.block = self.LEAST
        self.first = True  # small nodes are left for later
        self.nodes: list[tuple[Message, list[Frame]]] = []
        root = Message(None, "", -1, (0, 0, 0, source.size))
        self.messages = {0: root}  # by head
        self.found = Scan(root)

    def model(self) -> Scan:
        """Find the tensors of a model, but for those in small nodes.

        Raises:
            MalformedError: The bytes are no protobuf message, or cut short.
            SplitMessageError: A message that can be there once is given in two parts.
        """
        self._message((None, "", -1, 0, 0, 0, self.size), "ModelProto", 0)
        return self.found

    def small_nodes(self, holds: Callable[[Message], Sequence[bool]]) -> None:
        """Find the tensors of the small nodes as well.

        Args:
            holds: For a graph or function, which of its nodes hold tensors or graphs.

        Raises:
            SplitMessageError: As for `model`.
        """
        self.first = False
        for around, frames in self.nodes:
            hold, depth = holds(around), around.depth + 1
            for frame in frames:
                if hold[frame[2]]:
                    self._load(frame[5])
                    self._message(frame, "NodeProto", depth)
        for spans in (self.found.tensors, self.found.lists):
            spans.sort(key=lambda span: span.message.start)

    def _load(self, at: int, block: int = 0) -> None:
        """Put the window at `at`."""
        if self.base <= at and at + HEAD <= self.limit and not block:
            return
        near = self.base <= at <= self.limit
        self.block = min(2 * self.block, self.MOST) if near else self.LEAST
        self.base = at
        self.limit = min(at + max(self.block, block), self.size)
        self.window = self.source.read(at, self.limit)

    def _field(self, at: int) -> tuple[int, int, int, int]:
        """Tag, position after the tag, and start and end of the value of the field at `at`, of any form."""
        if at + HEAD > self.limit < self.size:
            self._load(at)
        base = self.base
        tag, after = decode_varint(self.window, at - base)
        if tag & 7 == GROUP:
            self._load(at, GROUP_LIMIT)
            base, after = at, after - at + base
        start, end = extent(self.window, tag, after)
        return tag, after + base, start + base, end + base

    def _message(self, frame: Frame, kind: str, depth: int) -> None:
        if depth > DEPTH:
            raise MalformedError(f"more than {DEPTH} messages within each other")
        children = _BY_TAG[kind]
        skip = self.first and kind in _WITH_NODES
        counts: dict[int, int] = {}
        small: list[Frame] = []
        at, end = frame[5:]
        window, base, limit = self.window, self.base, self.limit
        while at < end:
            if at + HEAD > limit:
                if limit < self.size:
                    self._load(at)
                window, base, limit = self.window, self.base, self.limit
            i = at - base
            tag, length = window[i : i + 2] if i + 2 <= len(window) else (0, 0)
            if tag & 7 == BYTES and 8 < tag < 0x80 and length < 0x80:
                head, start = at + 1, at + 2
                stop = start + length
            else:
                tag, head, start, stop = self._field(at)
                window, base, limit = self.window, self.base, self.limit
            if stop > end:
                raise MalformedError(f"a field at byte {at} ends {stop - end} bytes after what it belongs to")
            child = children.get(tag)
            if child is not None:
                name, inner, repeated = child
                index = counts.get(tag, 0)
                counts[tag] = index + 1
                if not repeated:
                    if index:
                        raise SplitMessageError(f"{kind}.{name}")
                    index = -1
                inside = (frame, name, index, at, head, start, stop)
                if skip and name == "node" and stop - start <= SMALL:
                    small.append(inside)
                else:
                    self._child(inside, inner, depth + 1)
                    window, base, limit = self.window, self.base, self.limit
            at = stop
        if small:
            self.nodes.append((self._keep(frame), small))

    def _child(self, frame: Frame, kind: str, depth: int) -> None:
        if kind == "TensorProto":
            span = TensorSpan(self._keep(frame), self.source)
            if span.message.end - span.message.start > SMALL:
                span.found = self.tensor(span.message)
            self.found.tensors.append(span)
        elif kind == _FLOATS:
            attribute = self._keep(frame[0])
            if not self.found.lists or self.found.lists[-1].message is not attribute:  # one field for each float
                self.found.lists.append(TensorSpan(attribute, self.source))
        elif kind == "StringStringEntryProto":
            self.found.metadata.append(self._keep(frame))
        else:
            self.found.has_graph |= depth == 1 and kind == "GraphProto"
            self._message(frame, kind, depth)

    def _keep(self, frame: Frame) -> Message:
        """Make the message of a frame, and those around it."""
        around, name, index, tag, head, start, end = frame
        if head not in self.messages:
            self.messages[head] = Message(self._keep(around), name, index, (tag, head, start, end))
        return self.messages[head]

    def children(
        self, around: Message, kind: str, others: Mapping[int, str] | None = None
    ) -> dict[str, tuple[Message, str]]:
        """The messages in one that can lead to tensors, with their kinds, by their step of a path: "node[3]".

        Args:
            around: The message around them.
            kind: Its kind.
            others: Numbers and names of repeated fields of messages that are wanted instead.
        """
        wanted = {number << 3 | BYTES: (name, "", True) for number, name in (others or {}).items()}
        known, counts = wanted or _BY_TAG[kind], Counter[str]()
        found: dict[str, tuple[Message, str]] = {}
        at = around.start
        self._load(at)
        while at < around.end:
            begin = at
            tag, head, start, at = self._field(at)
            if tag in known:
                name, inner, repeated = known[tag]
                child = Message(around, name, counts[name] if repeated else -1, (begin, head, start, at))
                counts[name] += 1
                found[child.step] = child, inner
        return found

    def tensor(self, message: Message) -> Fields:
        """Find the values of a tensor or of an attribute that holds floats, and what it says of external data."""
        is_list = message.field in ("attribute", "attribute_proto")
        payloads, elsewhere = (FLOATS, ()) if is_list else (PAYLOADS, (EXTERNAL_DATA, DATA_LOCATION))
        runs: list[Run] = []
        external: list[tuple[int, int]] = []
        at, end = message.start, message.end
        while at < end:
            begin = at
            tag, _, body, at = self._field(at)
            if at > end:
                raise MalformedError(f"a field at byte {begin} ends {at - end} bytes after its tensor")
            if tag in payloads:
                _extend(runs, payloads[tag], begin, body, at)
            elif tag in elsewhere:
                external.append((begin, at))
        return runs, external


def _extend(runs: list[Run], name: str, start: int, body: int, end: int) -> None:
    if runs and runs[-1].field == name and runs[-1].end == start:
        last = runs[-1]
        last.end, last.pieces, last.nbytes = end, last.pieces + 1, last.nbytes + end - body
    else:
        runs.append(Run(name, start, body, end, 1, end - body))
