"""The skeleton: a model without the values of its larger tensors, parsed, beside where everything lies in the file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from onnxinit.errors import ModelError
from onnxinit.model.scan import Message, Scan, Scanner, SplitMessageError
from onnxinit.model.splice import Edit, render
from onnxinit.model.wire import BytesSource, MalformedError, Source

NUMBER = "value_float"  # the attribute of a Constant whose one float is a tensor
_LISTS = (onnx.AttributeProto.FLOATS, onnx.AttributeProto.UNDEFINED)
PROTOBUF_LIMIT = 2**31 - 1  # bytes of a message that protobuf parses


class Skeleton:
    """A model without the values of the tensors that have more than 1 KiB of them.

    Attributes:
        source: The bytes of the file, brought to the usual form where it is legal but unusual.
        scan: What lies where in `source`.
        proto: The rest of the model.
    """

    def __init__(self, source: Source, name: str) -> None:
        """Read it.

        Raises:
            ModelError: It is no ONNX model, damaged, or too large.
        """
        try:
            try:
                self._read(source, name)
            except SplitMessageError as error:
                self._read(_merged(source, name, str(error)), name)
        except (MalformedError, DecodeError) as error:
            raise ModelError(f"{name}: is not an ONNX model, or damaged or cut short ({error})") from error
        if not self.scan.has_graph:
            raise ModelError(f"{name}: has no graph, so it is not an ONNX model")

    def _read(self, source: Source, name: str) -> None:
        scanner = Scanner(source)
        self.source = source
        self.scan: Scan = scanner.model()
        large = (span for span in self.scan.tensors if span.is_large)
        data = render(source, [Edit(span.message, run.start, run.end) for span in large for run in span.runs])
        if len(data) > PROTOBUF_LIMIT:
            raise ModelError(f"{name}: has {len(data)} bytes besides its tensors, more than protobuf takes; split it")
        self.proto = onnx.ModelProto.FromString(data)
        self._found: dict[Message, Any] = {self.scan.root: self.proto}
        scanner.small_nodes(lambda message: [_holds_tensors(node.attribute) for node in self.find(message).node])

    def find(self, message: Message) -> Any:
        """The parsed message at a place in the file."""
        if message not in self._found and message.parent is not None:
            value = getattr(self.find(message.parent), message.field)
            self._found[message] = value if message.index < 0 else value[message.index]
        return self._found[message]


def _holds_tensors(attributes: Iterable[onnx.AttributeProto]) -> bool:
    for a in attributes:
        if a.HasField("t") or a.HasField("g") or a.HasField("sparse_tensor"):
            return True
        if a.tensors or a.graphs or a.sparse_tensors or _holds_floats(a):
            return True
    return False


def _holds_floats(a: onnx.AttributeProto) -> bool:
    """Whether an attribute holds a list of floats, or the number of a Constant; the first files state no type."""
    if a.type == onnx.AttributeProto.FLOAT:
        return bool(a.name == NUMBER)
    return a.type in _LISTS and bool(a.floats)


def _merged(source: Source, name: str, message: str) -> BytesSource:
    """Bring a file that gives a message in two parts to the usual form, by parsing and serialising it."""
    if source.size > PROTOBUF_LIMIT:
        raise ModelError(f"{name}: gives {message} in two parts and is too large to merge them; write it in one part")
    return BytesSource(onnx.ModelProto.FromString(source.read(0, source.size)).SerializeToString())
