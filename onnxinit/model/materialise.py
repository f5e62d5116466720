"""Weights that nodes make whenever a model runs, or that are stored sparse, become stored tensors to be drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import onnx
from onnx import TensorProto, helper

from onnxinit.model.file import ModelFile
from onnxinit.model.scan import Message, Scanner
from onnxinit.model.splice import Edit
from onnxinit.model.wire import bytes_head

_INITIALIZER, _INPUT, _ATTRIBUTE, _TENSOR = 5, 11, 5, 5  # field numbers in GraphProto, NodeProto, AttributeProto
_IR_WITH_INPUTS = 3  # up to which every initializer of the main graph is an input as well


@dataclass(frozen=True, slots=True)
class Generated:
    """What can become a stored tensor: a node that makes one from attributes and stored tensors, or a sparse tensor.

    Attributes:
        path: Place in the file of the node, or of the sparse initializer.
        name: Name of the node's output, or of the initializer.
        dims: The shape.
        data_type: The element type.
        was: How it is stored so far.
    """

    path: str
    name: str
    dims: tuple[int, ...]
    data_type: int
    was: Literal["generated", "sparse"] = "generated"


def materialised(file: ModelFile, made: Iterable[Generated]) -> ModelFile:
    """The file with stored tensors in place of nodes and sparse tensors, as yet without values.

    A tensor becomes an initializer of the node's graph, after those that are there; in files of IR 3 and before it
    becomes an input as well, as these want it. Where there can be no initializer (in functions, and in subgraphs of
    such files) the node becomes a Constant. What the node read stays, used or not.

    Args:
        file: The model.
        made: What becomes stored; each node once.
    """
    places = _Places(file)
    listed = file.proto.ir_version <= _IR_WITH_INPUTS
    edits: list[Edit] = []
    pieces: list[tuple[bytes, str]] = []
    gone: dict[str, list[int]] = {}
    for one in made:
        node, around, kind = places.find(one.path)
        name = one.name if kind == "GraphProto" and (not listed or around.path == "graph") else ""
        tensor: bytes = TensorProto(name=name, dims=one.dims, data_type=one.data_type).SerializeToString()
        if name:
            edits.append(Edit(around, node.tag, node.end))
            if node.field == "node":
                gone.setdefault(around.path, []).append(node.index)
            edits.append(Edit(around, around.end, around.end, (bytes_head(_INITIALIZER, len(tensor)), tensor)))
        else:
            old = onnx.NodeProto.FromString(file.source.read(node.start, node.end))
            head = _constant_before_its_tensor(old, len(tensor))
            edits.append(Edit(node, node.start, node.end, (head, tensor)))
        if name and listed:
            info: bytes = helper.make_tensor_value_info(name, one.data_type, one.dims).SerializeToString()
            edits.append(Edit(around, around.end, around.end, (bytes_head(_INPUT, len(info)) + info,)))
        pieces.append((tensor, one.was))
    return replace(file.edited(edits, pieces), gone=_renumbered(gone))


def _renumbered(gone: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """The ordinals of nodes that are gone, by the path that their graph has without them."""
    found: dict[str, tuple[int, ...]] = {}
    for path, ordinals in gone.items():
        old = new = ""
        for step in path.split("."):
            at = int(step[5:-1]) if step.startswith("node[") else -1
            moved = f"node[{at - sum(i < at for i in gone.get(old, ()))}]" if at >= 0 else step
            old, new = (f"{p}.{s}" if p else s for p, s in ((old, step), (new, moved)))
        found[new] = tuple(sorted(ordinals))
    return found


def _constant_before_its_tensor(old: onnx.NodeProto, size: int) -> bytes:
    """A Constant in place of a node, as bytes up to where a tensor of some size begins, which ends it."""
    node = onnx.NodeProto(op_type="Constant", name=old.name, output=old.output, metadata_props=old.metadata_props)
    attribute = onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR).SerializeToString()
    attribute += bytes_head(_TENSOR, size)
    return bytes(node.SerializeToString() + bytes_head(_ATTRIBUTE, len(attribute) + size) + attribute)


class _Places:
    """Finds messages by their paths; those within one are looked for once."""

    def __init__(self, file: ModelFile) -> None:
        self._scanner = Scanner(file.source)
        self._root = file.scan.root
        self._within: dict[str, dict[str, tuple[Message, str]]] = {}

    def find(self, path: str) -> tuple[Message, Message, str]:
        """The message at a path, and the one around it with its kind."""
        message, kind = self._root, "ModelProto"
        for step in path.split("."):
            around, of = message, kind
            if around.path not in self._within:
                self._within[around.path] = self._scanner.children(around, of)
            message, kind = self._within[around.path][step]
        return message, around, of
