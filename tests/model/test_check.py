"""The structure of graphs, checked against what ONNX Runtime loads."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxinit.errors import ModelError
from onnxinit.model import ModelFile

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
C = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
W = numpy_helper.from_array(np.ones(2, np.float32), "w")
node = helper.make_node


def made(
    nodes: list[Any], inits: Any = (W,), inputs: Any = (X,), outputs: Any = (Y,), **options: Any
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", list(inputs), list(outputs), list(inits))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **options)


def branch(nodes: list[Any], out: str, inits: Any = ()) -> onnx.GraphProto:
    info = helper.make_tensor_value_info(out, TensorProto.FLOAT, [2])
    return helper.make_graph(nodes, "b", [], [info], list(inits))


def chosen(first: onnx.GraphProto) -> Any:
    other = branch([node("Relu", ["x"], ["other"])], "other")
    return node("If", ["c"], ["y"], name="choice", then_branch=first, else_branch=other)


def function(name: str, nodes: list[Any], inputs: Any = ("a",), outputs: Any = ("b",)) -> Any:
    return helper.make_function("local", name, list(inputs), list(outputs), nodes, [helper.make_opsetid("", 17)])


ADD = node("Add", ["x", "w"], ["y"])
GOOD = {
    "plain": made([ADD]),
    "unsorted": made([node("Add", ["z", "w"], ["y"]), node("Relu", ["x"], ["z"])]),
    "initializer also input": made([ADD], inputs=[X, helper.make_tensor_value_info("w", 1, [2])]),
    "initializer as output": made([node("Relu", ["x"], ["q"])], [numpy_helper.from_array(np.ones(2, np.float32), "y")]),
    "empty optional input": made([node("Clip", ["x", "", "m"], ["y"])], [numpy_helper.from_array(np.float32(1), "m")]),
    "empty optional output": made([node("Dropout", ["x"], ["y", ""])]),
    "outer name": made([chosen(branch([node("Add", ["x", "w"], ["a"])], "a"))], inputs=[X, C]),
    "later outer name": made(
        [chosen(branch([node("Relu", ["z"], ["a"])], "a")), node("Relu", ["x"], ["z"])], inputs=[X, C]
    ),
    "shadowed initializer": made([chosen(branch([node("Add", ["x", "w"], ["a"])], "a", [W]))], inputs=[X, C]),
    "function": made(
        [node("F", ["x"], ["y"], domain="local")], functions=[function("F", [node("Relu", ["a"], ["b"])])]
    ),
    "an output twice": made([ADD], outputs=[Y, Y]),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_runs_is_opened(name: str) -> None:
    onnxruntime.InferenceSession(GOOD[name].SerializeToString(), providers=["CPUExecutionProvider"])
    ModelFile.of(GOOD[name])


BAD = {
    "cycle": (
        made([node("Add", ["z", "w"], ["y"], name="first"), node("Relu", ["y"], ["z"])]),
        "the main graph runs in a circle through ",
    ),
    "itself": (made([node("Add", ["y", "w"], ["y"], name="n")]), "the main graph runs in a circle through Add 'n'"),
    "cycle through a subgraph": (
        made([chosen(branch([node("Relu", ["z"], ["a"])], "a")), node("Relu", ["y"], ["z"])], inputs=[X, C]),
        "the main graph runs in a circle",
    ),
    "missing input": (made([ADD], []), "'w', used by Add 'y', is defined nowhere in the main graph"),
    "missing output": (made([node("Relu", ["x"], ["q"])]), "'y', used by the output list, is defined nowhere"),
    "missing in a subgraph": (
        made([chosen(branch([node("Relu", ["q"], ["a"])], "a"))], inputs=[X, C]),
        "'q', used by If 'choice', is defined nowhere in the main graph",
    ),
    "missing in a function": (
        made([node("F", ["x"], ["y"], domain="local")], functions=[function("F", [node("Add", ["a", "w"], ["b"])])]),
        "'w', used by Add 'b', is defined nowhere in function 'F'",
    ),
    "two nodes": (made([node("Relu", ["x"], ["y"]), ADD]), "'y' is defined twice in the main graph"),
    "node and initializer": (made([node("Relu", ["x"], ["w"]), ADD]), "'w' is defined twice in the main graph"),
    "node and input": (made([node("Relu", ["x"], ["x"]), ADD]), "'x' is defined twice in the main graph"),
    "two inputs": (made([ADD], inputs=[X, X]), "'x' is there twice among the inputs of the main graph"),
    "twice in a subgraph": (
        made([chosen(branch([node("Relu", ["x"], ["a"]), node("Relu", ["w"], ["a"])], "a"))], inputs=[X, C]),
        "'a' is defined twice in 'then_branch' of If 'choice'",
    ),
    "function calls itself": (
        made(
            [node("F", ["x"], ["y"], domain="local")],
            functions=[
                function("F", [node("G", ["a"], ["b"], domain="local")]),
                function("G", [node("F", ["a"], ["b"], domain="local")]),
            ],
        ),
        "calls itself",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_run_is_refused(name: str) -> None:
    model, message = BAD[name]
    with pytest.raises(Exception):  # noqa: B017 - of a kind of its own
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with pytest.raises(ModelError) as caught:
        ModelFile.of(model)
    assert f"the model: {message}" in str(caught.value) or message == "calls itself"
    assert message in str(caught.value)


def test_initializers_of_one_name() -> None:
    # ONNX Runtime takes the last with a warning; which one a plan means could not be said.
    with pytest.raises(ModelError, match="'w' is there twice among the initializers of the main graph; rename one"):
        ModelFile.of(made([ADD], [W, W]))


def test_function_inputs_of_one_name() -> None:
    twice = function("F", [node("Relu", ["a"], ["b"])], inputs=("a", "a"))
    with pytest.raises(ModelError, match="'a' is there twice among the inputs of function 'F'"):
        ModelFile.of(made([ADD], functions=[twice]))


def test_training_graphs_may_use_names_of_the_main_graph() -> None:
    model = made([ADD])
    model.training_info.add().algorithm.CopyFrom(branch([node("Relu", ["w"], ["v"])], "v"))
    ModelFile.of(model)


def test_long_chains_backwards() -> None:
    n = 5000
    nodes = [node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(n)]
    nodes += [node("Relu", ["x"], ["t0"]), node("Relu", [f"t{n}"], ["y"])]
    ModelFile.of(made(nodes[::-1]))
    nodes[-2].input[0] = "y"
    with pytest.raises(ModelError, match="runs in a circle"):
        ModelFile.of(made(nodes[::-1]))
