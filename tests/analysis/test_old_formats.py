"""Files of every version: the first forms of operators, those that are gone since, and odd but legal structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import pytest
from graphs import analysed, roles, tensor, weights
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

import onnxinit


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def info(name: str, *shape: int, kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


X, Y = info("x", 1, 3, 10, 10), info("y", 1, 8, 8, 8)
SHAPES: dict[str, tuple[int, ...]] = {
    "k": (8, 3, 3, 3), "b": (8,), "s": (8,), "t": (8,), "m": (8,), "v": (8,), "w": (4, 5), "c": (5,), "slope": (8,),
    "w0": (2, 2, 5), "table": (10, 4),
}  # fmt: skip
CONV = node("Conv", "x k b", "h", kernel_shape=[3, 3])
GEMM = node("Gemm", "x w c", "h", broadcast=1)
PLAIN = node("Conv", "x k", "h", kernel_shape=[3, 3])


def model(
    nodes: Sequence[NodeProto],
    opset: int | None,
    ir: int = 3,
    inputs: Sequence[ValueInfoProto] = (X,),
    outputs: Sequence[ValueInfoProto] = (Y,),
) -> ModelProto:
    """A model of those nodes; what `SHAPES` names and they read is stored, and an input too as IR 3 has it."""
    read = dict.fromkeys(name for n in nodes for name in n.input if name in SHAPES)
    stored = [tensor(name, SHAPES[name]) for name in read]
    feeds = [*inputs, *(info(t.name, *t.dims) for t in stored if ir < 4)]
    graph = helper.make_graph(list(nodes), "g", feeds, list(outputs), stored)
    made: ModelProto = helper.make_model(graph, ir_version=ir)
    del made.opset_import[:]
    if opset is not None:
        made.opset_import.append(helper.make_opsetid("", opset))
    return made


@pytest.mark.parametrize("ir", range(1, 14))
def test_every_version_of_the_format(ir: int) -> None:
    found = weights(model([CONV, node("Relu", "h", "y")], None if ir < 3 else 1 if ir < 4 else 8, ir))
    assert {w.id: w.role for w in found.values()} == {"k": "weight", "b": "bias"}
    assert (found["k"].fan_in, found["k"].fan_out, found["k"].downstream[0].name) == (27, 72, "relu")


@pytest.mark.parametrize("opset", [None, 0, *range(1, 27), 999])
def test_every_version_of_the_operators(opset: int | None) -> None:
    found = weights(model([CONV, node("Relu", "h", "y")], opset, 8))
    assert {w.id: (w.role, w.fan_in, w.downstream[0].name) for w in found.values()} == {
        "k": ("weight", 27, "relu"),
        "b": ("bias", 27, "relu"),
    }


NORM = {"k": "weight", "s": "norm_scale", "t": "norm_shift", "m": "running_mean", "v": "running_var"}
LAYER = {"k": "weight", "b": "bias"}
DENSE = {"w": "weight", "c": "bias"}
CELL = {"W": "input_weight", "R": "recurrent_weight", "B": "bias"}
RELU = node("Relu", "n", "y")


def bn(outputs: str = "n", **attributes: Any) -> list[NodeProto]:
    return [PLAIN, node("BatchNormalization", "h s t m v", outputs, **attributes), RELU]


# Opset, nodes, roles, the activation of the layer.
FIRST_FORMS: dict[str, tuple[int, list[NodeProto], dict[str, str], str]] = {
    "BatchNormalization 1": (1, bn(spatial=1, is_test=1, consumed_inputs=[0, 0, 0, 1, 1]), NORM, "relu"),
    "BatchNormalization 1 in training": (1, bn("n m2 v2 m3 v3", consumed_inputs=[0, 0, 0, 1, 1]), NORM, "relu"),
    "BatchNormalization 6": (6, bn(spatial=1, is_test=1), NORM, "relu"),
    "BatchNormalization 7": (7, bn(spatial=1), NORM, "relu"),
    "InstanceNormalization 1": (
        1,
        [PLAIN, node("InstanceNormalization", "h s t", "n", consumed_inputs=[0, 0, 0]), RELU],
        {"k": "weight", "s": "norm_scale", "t": "norm_shift"},
        "relu",
    ),
    "Add along an axis": (6, [PLAIN, node("Add", "h b", "n", broadcast=1, axis=1), RELU], LAYER, "relu"),
    "Mul and Add along an axis": (
        6,
        [
            PLAIN,
            node("Mul", "h s", "a", broadcast=1, axis=1),
            node("Add", "a t", "n", broadcast=1, axis=1),
            RELU,
        ],
        {"k": "weight", "s": "norm_scale", "t": "norm_shift"},
        "relu",
    ),
    "Gemm that broadcasts": (1, [GEMM, node("Sigmoid", "h", "y")], DENSE, "sigmoid"),
    "Reshape to an attribute": (
        1,
        [
            node("Reshape", "w0", "w1", shape=[4, 5]),
            node("MatMul", "x w1", "h"),
            node("Add", "h c", "n", broadcast=1),
            RELU,
        ],
        {"w0": "weight", "c": "bias"},
        "relu",
    ),
    "Dropout with a mask": (1, [GEMM, node("Dropout", "h", "n mask", is_test=1), RELU], DENSE, "relu"),
    "Upsample 1": (1, [CONV, node("Upsample", "h", "n", height_scale=2.0, width_scale=2.0), RELU], LAYER, "relu"),
    "Upsample 7": (7, [CONV, node("Upsample", "h", "n", scales=[1.0, 1.0, 2.0, 2.0]), RELU], LAYER, "relu"),
    "Cast to a name": (1, [CONV, node("Cast", "h", "n", to="FLOAT"), RELU], LAYER, "relu"),
    "Clip with attributes": (1, [CONV, node("Clip", "h", "y", min=0.0, max=6.0)], LAYER, "relu6"),
    "PRelu 1": (1, [CONV, node("PRelu", "h slope", "y")], {**LAYER, "slope": "prelu_slope"}, "prelu"),
    "Affine": (1, [CONV, node("Affine", "h", "n", alpha=0.5, beta=1.0), RELU], LAYER, "relu"),
    "Scale": (1, [CONV, node("Scale", "h", "n", scale=0.5), RELU], LAYER, "relu"),
    "Crop": (1, [CONV, node("Crop", "h", "n", border=[1, 1, 1, 1]), RELU], LAYER, "relu"),
    "ScaledTanh": (1, [CONV, node("ScaledTanh", "h", "y", alpha=1.7159, beta=0.6667)], LAYER, "other"),
    "ScaledTanh, plain": (1, [CONV, node("ScaledTanh", "h", "y", alpha=1.0, beta=1.0)], LAYER, "tanh"),
    "ParametricSoftplus": (1, [CONV, node("ParametricSoftplus", "h", "y", alpha=1.0, beta=1.0)], LAYER, "softplus"),
    "ThresholdedRelu": (1, [CONV, node("ThresholdedRelu", "h", "y", alpha=0.5)], LAYER, "other"),
    "ImageScaler": (
        1,
        [node("ImageScaler", "x", "x2", scale=2.0, bias=[1.0, 2.0, 3.0]), node("Conv", "x2 k b", "n"), RELU],
        LAYER,
        "relu",
    ),
    "ATen": (
        9,
        [node("ATen", "table i", "e", operator="embedding"), node("MatMul", "e w", "h"), node("Relu", "h", "y")],
        {"table": "embedding", "w": "weight"},
        "relu",
    ),
    "GivenTensorFill": (
        1,
        [
            node("GivenTensorFill", "", "f", shape=[4, 5], values=[0.1 * i for i in range(20)]),
            node("ConstantFill", "", "d", shape=[5, 3], value=0.5),
            node("MatMul", "x f", "h"),
            node("Relu", "h", "n"),
            node("MatMul", "n d", "y"),
        ],
        {"f": "weight", "d": "weight"},
        "relu linear",
    ),
    "GRUUnit": (1, [GEMM, node("GRUUnit", "state h", "y")], DENSE, "linear"),
}


@pytest.mark.parametrize("name", FIRST_FORMS)
def test_the_first_forms_of_operators(name: str) -> None:
    opset, nodes, expected, activation = FIRST_FORMS[name]
    inputs = [X, info("i", 3, kind=TensorProto.INT64), info("state", 1, 2, 5)]
    built = model(nodes, opset, 3, inputs)
    found = {w.id: w for w in onnxinit.inspect(built).weights}
    assert {w.id: w.role for w in found.values()} == expected
    layers = [w for w in found.values() if w.role == "weight"]
    assert [w.downstream[0].name for w in layers] == activation.split()
    assert all(w.fan_in == layers[0].fan_in for w in found.values() if w.role == "bias")


@pytest.mark.parametrize("opset", [1, 3, 7, 14])
@pytest.mark.parametrize(("op", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_recurrent_operators_of_every_version(op: str, gates: int, opset: int) -> None:
    older = {"output_sequence": 1} if opset == 1 else {}
    graph = helper.make_graph(
        [node(op, "x W R B", "y", hidden_size=6, **older)],
        "g",
        [info("x", 7, 2, 4)],
        [info("y", 7, 1, 2, 6)],
        [tensor("W", (1, gates * 6, 4)), tensor("R", (1, gates * 6, 6)), tensor("B", (1, gates * 12))],
    )
    found = weights(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))
    assert {w.id: w.role for w in found.values()} == CELL
    assert (found["W"].fan_in, found["W"].fan_out, found["W"].blocks) == (4, 6, gates)


# ---------------------------------------------------------------- structure

PRODUCT = node("MatMul", "x w", "y")
FLAT = [info("x", 2, 4)]


def product(*more: NodeProto, outputs: Sequence[str] = ("y",)) -> ModelProto:
    return model([PRODUCT, *more], 17, 8, FLAT, [info(name, 2, 5) for name in outputs])


def test_a_graph_without_nodes() -> None:
    for outputs in ([], FLAT):
        assert roles(model([], 17, 8, outputs, outputs)) == {}


def test_an_initializer_that_is_an_output_is_a_weight_where_it_is_used() -> None:
    assert roles(product(outputs=("y", "w"))) == {"w": "weight"}
    unused = model([], 17, 8, FLAT, [info("w", 4, 5)])
    unused.graph.initializer.append(tensor("w", (4, 5)))
    assert roles(unused) == {"w": ""}


def test_initializers_without_a_name() -> None:
    built = product()
    built.graph.initializer.append(tensor("", (3,)))
    assert roles(built) == {"w": "weight", "graph.initializer[1]": ""}


def test_operators_and_domains_that_nobody_knows_keep_their_tensors() -> None:
    for domain in ("", "my.own"):
        built = product(helper.make_node("Magic", ["y", "w0"], ["z"], domain=domain))
        assert roles(built) == {"w": "weight", "w0": ""}
        (kept,) = analysed(built).kept
        assert "Magic" in kept.reason and "not known" in kept.reason


def test_the_long_name_of_the_standard_domain() -> None:
    built = product()
    built.graph.node[0].domain = built.opset_import[0].domain = "ai.onnx"
    assert roles(built) == {"w": "weight"}


def test_training_information_is_kept() -> None:
    built = product()
    training = built.training_info.add()
    outputs = [info("w1", 4, 5)]
    training.algorithm.CopyFrom(
        helper.make_graph([node("Sub", "w rate", "w1")], "step", [], outputs, [tensor("rate", (1,))])
    )
    training.initialization.CopyFrom(
        helper.make_graph([node("RandomNormal", "", "w2", shape=[4, 5])], "begin", [], [info("w2", 4, 5)])
    )
    training.initialization_binding.add(key="w", value="w2")
    assert roles(built) == {"w": "weight", "rate": ""}
    fresh = onnxinit.reinit(built).model
    assert fresh is not None and fresh.training_info[0] == training


def branch(name: str, *stored: onnx.TensorProto) -> onnx.GraphProto:
    return helper.make_graph([node("MatMul", "x w", "z")], name, [], [info("z", 2, 5)], list(stored))


def test_one_name_in_several_graphs() -> None:
    """A branch with a weight of its own, one with the outer of that name, one in a branch of a branch."""
    inner = helper.make_node(
        "If", ["way"], ["z"], then_branch=branch("a", tensor("w", (4, 5))), else_branch=branch("b")
    )
    middle = helper.make_graph([inner], "m", [], [info("z", 2, 5)], [tensor("w", (4, 5))])
    choice = helper.make_node("If", ["way"], ["y"], then_branch=middle, else_branch=branch("d"))
    built = model([choice], 17, 8, [*FLAT, info("way", kind=TensorProto.BOOL)], [info("y", 2, 5)])
    built.graph.initializer.append(tensor("w", (4, 5)))
    onnx.checker.check_model(built)
    assert roles(built) == {
        "If0.then_branch/If0.then_branch/w": "weight",
        "If0.then_branch/w": "weight",
        "w": "weight",
    }
