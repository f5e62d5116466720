"""The same model in another form: other names, other order, other places for its tensors, functions, branches."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


def copy(model: ModelProto) -> ModelProto:
    return ModelProto.FromString(model.SerializeToString())


def graphs_in(nodes: Iterator[NodeProto]) -> Iterator[GraphProto]:
    """The subgraphs of nodes, at any depth."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
                yield from graphs_in(iter(attribute.g.node))


def renamed(model: ModelProto, seed: int) -> ModelProto:
    """Every tensor, node, graph and open dimension under a random name."""
    model, rng = copy(model), random.Random(seed)
    fresh: dict[str, str] = {"": ""}

    def new(name: str) -> str:
        return fresh.setdefault(name, "".join(rng.choices("abcdefghijklmnop./:_", k=12)) + str(len(fresh)))

    def lines(nodes: Iterator[NodeProto]) -> None:
        for node in nodes:
            node.name = new(f"node {node.name}") if rng.random() < 0.8 else ""
            node.input[:] = [new(n) for n in node.input]
            node.output[:] = [new(n) for n in node.output]

    def infos(graph: GraphProto) -> None:
        graph.name = new(graph.name)
        for info in itertools.chain(graph.input, graph.output, graph.value_info):
            info.name = new(info.name)
            for dim in info.type.tensor_type.shape.dim:
                if dim.HasField("dim_param"):
                    dim.dim_param = new(dim.dim_param)
        for tensor in graph.initializer:
            tensor.name = new(tensor.name)
        for sparse in graph.sparse_initializer:
            sparse.values.name = new(sparse.values.name)

    for graph in [model.graph, *graphs_in(iter(model.graph.node))]:
        infos(graph)
        lines(iter(graph.node))
    for function in model.functions:
        function.input[:] = [new(n) for n in function.input]
        function.output[:] = [new(n) for n in function.output]
        lines(iter(function.node))
        for graph in graphs_in(iter(function.node)):
            infos(graph)
            lines(iter(graph.node))
    return model


def reordered(model: ModelProto, seed: int) -> ModelProto:
    """Nodes and initializers of the main graph in a random order."""
    model, rng = copy(model), random.Random(seed)
    for field in (model.graph.node, model.graph.initializer):
        shuffled = list(field)
        rng.shuffle(shuffled)
        shuffled = [type(m).FromString(m.SerializeToString()) for m in shuffled]
        del field[:]
        field.extend(shuffled)
    return model


def with_other_values(model: ModelProto, names: set[str], seed: int) -> ModelProto:
    """The float initializers named filled with other values."""
    model, rng = copy(model), np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        if tensor.name in names and tensor.data_type in FLOATS:
            values = rng.standard_normal(tuple(tensor.dims))
            tensor.CopyFrom(
                numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(tensor.data_type)), tensor.name)
            )
    return model


def as_inputs_too(model: ModelProto) -> ModelProto:
    """As the first versions of the format have it: every initializer is an input of the graph."""
    model = copy(model)
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer
    )
    return model


def as_constants(model: ModelProto) -> ModelProto:
    """Every initializer of the main graph in a Constant node."""
    model = copy(model)
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
    rest = [NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    del model.graph.initializer[:]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    return model


def in_a_function(model: ModelProto) -> ModelProto:
    """All nodes in one function that is called once and gets the initializers as inputs."""
    model = copy(model)
    inputs = [i.name for i in model.graph.input] + [t.name for t in model.graph.initializer]
    outputs = [o.name for o in model.graph.output]
    opsets = [helper.make_opsetid(o.domain, o.version) for o in model.opset_import]
    body = [NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    model.functions.append(helper.make_function("wrapped", "Whole", inputs, outputs, body, opsets))
    model.opset_import.append(helper.make_opsetid("wrapped", 1))
    del model.graph.node[:]
    del model.graph.value_info[:]
    model.graph.node.append(helper.make_node("Whole", inputs, outputs, domain="wrapped"))
    return model


def in_a_branch(model: ModelProto) -> ModelProto:
    """All nodes in a branch of an If that sees inputs and initializers from outside; the other hands out zeros."""
    model = copy(model)
    inner = helper.make_graph(
        [NodeProto.FromString(n.SerializeToString()) for n in model.graph.node], "then", [], list(model.graph.output)
    )
    nothing = [
        helper.make_node(
            "Constant", [], [f"{o.name} else"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.0])
        )
        for o in model.graph.output
    ]
    other = helper.make_graph(
        nothing, "else", [], [helper.make_tensor_value_info(n.output[0], TensorProto.FLOAT, [1]) for n in nothing]
    )
    outputs = [f"{o.name} out" for o in model.graph.output]
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("If", ["which way"], outputs, then_branch=inner, else_branch=other))
    model.graph.input.append(helper.make_tensor_value_info("which way", TensorProto.BOOL, []))
    for info, name in zip(model.graph.output, outputs, strict=True):
        info.name = name
    return model


DISGUISES: dict[str, Callable[[ModelProto], ModelProto]] = {
    "initializers are inputs too": as_inputs_too,
    "weights in Constant nodes": as_constants,
    "all in a function": in_a_function,
    "all in a branch": in_a_branch,
}


def shapes_forgotten(model: ModelProto) -> ModelProto:
    """No shapes but those of the inputs and of what is stored."""
    model = copy(model)
    del model.graph.value_info[:]
    for info in model.graph.output:
        info.type.tensor_type.ClearField("shape")
    return onnx.ModelProto.FromString(model.SerializeToString())
