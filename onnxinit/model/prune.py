"""Initializers that nothing uses: which they are, and the file without them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Protocol

import onnx
from onnx import GraphProto, NodeProto, ValueInfoProto

from onnxinit.model.file import ModelFile
from onnxinit.model.scan import Message, Scanner
from onnxinit.model.splice import Edit

_NAMED = {11: "input", 13: "value_info"}  # fields of a GraphProto that speak of an initializer


class _Body(Protocol):
    node: Iterable[NodeProto]


def unused_initializers(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """The initializers, dense and sparse, that no node reads and no graph hands out.

    What a node reads that itself leads nowhere is used. So is what an annotation of quantised tensors or the training
    information names.

    Args:
        model: The model, with or without its tensors' values.

    Returns:
        By the path of the initializer those of its stored tensors, of a sparse one two.
    """
    found: dict[str, tuple[str, ...]] = {}
    _look(model.graph, "graph", set(_of_training(model)), found)
    for i, function in enumerate(model.functions):
        for path, body in _bodies(function.node, f"functions[{i}]"):
            _look(body, path, set(), found)
    return found


def without(file: ModelFile, initializers: Collection[str]) -> ModelFile:
    """The file without some initializers, the inputs of the main graph of the same name, and what tells their shapes.

    Args:
        file: The model.
        initializers: Their paths.
    """
    edits: list[Edit] = []
    graphs: dict[Message, set[str]] = {}
    for path in initializers:
        message = file.places[path if path in file.places else f"{path}.values"].span.message
        message = message if message.path == path or message.parent is None else message.parent
        graph = message.parent
        assert graph is not None
        edits.append(Edit(graph, message.tag, message.end))
        graphs.setdefault(graph, set()).add(_name(file, path))
    for graph, names in graphs.items():
        for child, _ in Scanner(file.source).children(graph, "GraphProto", _NAMED).values():
            if ValueInfoProto.FromString(file.source.read(child.start, child.end)).name in names:
                edits.append(Edit(graph, child.tag, child.end))
    return file.edited(edits)


def _name(file: ModelFile, path: str) -> str:
    return file.tensors[path if path in file.tensors else f"{path}.values"].name


def _look(graph: GraphProto, path: str, used: set[str], found: dict[str, tuple[str, ...]]) -> None:
    """Enter what a graph and those within it hold unused."""
    used = used | set(_names(graph)) | {o.name for o in graph.output}
    if path != "graph":
        used |= {i.name for i in graph.input}
    for annotation in graph.quantization_annotation:
        used |= {annotation.tensor_name, *(p.value for p in annotation.quant_parameter_tensor_names)}
    for i, t in enumerate(graph.initializer):
        if t.name not in used:
            place = f"{path}.initializer[{i}]"
            found[place] = (place,)
    for i, s in enumerate(graph.sparse_initializer):
        if s.values.name not in used:
            place = f"{path}.sparse_initializer[{i}]"
            found[place] = (f"{place}.values", f"{place}.indices")
    for inner, body in _bodies(graph.node, path):
        _look(body, inner, set(), found)


def _names(graph: _Body) -> Iterator[str]:
    """What the nodes of a graph read, and those of the graphs within it, which may mean names of their own."""
    for node in graph.node:
        yield from node.input
    for _, body in _bodies(graph.node, ""):
        yield from _names(body)
        yield from (o.name for o in body.output)


def _bodies(nodes: Iterable[NodeProto], path: str) -> Iterator[tuple[str, GraphProto]]:
    """The graphs that nodes hold, and where."""
    for i, node in enumerate(nodes):
        for k, a in enumerate(node.attribute):
            if a.HasField("g"):
                yield f"{path}.node[{i}].attribute[{k}].g", a.g
            yield from ((f"{path}.node[{i}].attribute[{k}].graphs[{j}]", g) for j, g in enumerate(a.graphs))


def _of_training(model: onnx.ModelProto) -> Iterator[str]:
    """What the training information names of the main graph."""
    for info in model.training_info:
        for binding in (*info.initialization_binding, *info.update_binding):
            yield from (binding.key, binding.value)
        for graph in (info.initialization, info.algorithm):
            yield from _names(graph)
            yield from (o.name for o in graph.output)
