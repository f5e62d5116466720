"""Weights that attributes hold: linear models of ai.onnx.ml, and Constant nodes of every form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from graphs import build
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper

import onnxinit
from onnxinit.cli.main import run
from onnxinit.model.wire import encode_varint

Array = npt.NDArray[Any]
ML = "ai.onnx.ml"


def model_of(*nodes: NodeProto, inputs: Sequence[Any] = ("x", 200), outputs: Sequence[str] = ("y",)) -> onnx.ModelProto:
    x = helper.make_tensor_value_info(inputs[0], TensorProto.FLOAT, ["n", inputs[1]])
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None]) for name in outputs]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)]
    graph = helper.make_graph(list(nodes), "g", [x], given)
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def values(n: int, seed: int = 0) -> list[float]:
    return [float(v) for v in np.random.default_rng(seed).standard_normal(n).astype(np.float32)]


def regressor(targets: int = 50, features: int = 200, post: str = "NONE", **more: Any) -> NodeProto:
    return helper.make_node(
        "LinearRegressor", ["x"], ["y"], "reg", domain=ML, coefficients=values(targets * features),
        intercepts=values(targets), targets=targets, post_transform=post, **more,
    )  # fmt: skip


def classifier(post: str = "SOFTMAX") -> onnx.ModelProto:
    node = helper.make_node(
        "LinearClassifier", ["x"], ["label", "p"], "cls", domain=ML, coefficients=values(4 * 200),
        intercepts=values(4), classlabels_ints=[3, 5, 7, 9], post_transform=post, multi_class=1,
    )  # fmt: skip
    model = model_of(node, outputs=["p"])
    model.graph.output.add().CopyFrom(helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]))
    return model


def attribute(model: onnx.ModelProto, name: str, node: int = 0) -> Array:
    (found,) = [a for a in model.graph.node[node].attribute if a.name == name]
    return np.asarray(found.floats or [found.f], np.float32)


def without_floats(model: onnx.ModelProto) -> onnx.ModelProto:
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for a in (a for n in bare.graph.node for a in n.attribute):
        if a.name in ("coefficients", "intercepts", "value_floats", "value_float"):
            a.ClearField("floats")
            a.ClearField("f")
    del bare.metadata_props[:]
    return bare


def ran(model: onnx.ModelProto | Path, x: Array) -> list[Array]:
    given = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    found: list[Array] = onnxruntime.InferenceSession(given).run(None, {"x": x})
    return found


def reinit(model: onnx.ModelProto, **asked: Any) -> onnx.ModelProto:
    made = onnxinit.reinit(model, **asked).model
    assert made is not None
    return made


# ---------------------------------------------------------------- linear models


def test_a_regressor_is_a_layer() -> None:
    found = onnxinit.inspect(model_of(regressor()))
    w, b = found.weights
    assert (w.id, w.where, w.role, w.shape, w.fan_in, w.fan_out) == (
        "reg.coefficients", "attribute", "weight", (50, 200), 200, 50,
    )  # fmt: skip
    assert (b.id, b.where, b.role, b.shape, b.fan_in) == ("reg.intercepts", "attribute", "bias", (50,), 200)
    assert [u.op for u in (*w.uses, *b.uses)] == ["LinearRegressor"] * 2
    assert not found.kept
    assert found.to_json()["weights"][0]["where"] == "attribute"


@pytest.mark.parametrize(
    ("post", "name"),
    [
        ("NONE", "linear"),
        ("SOFTMAX", "softmax"),
        ("LOGISTIC", "sigmoid"),
        ("SOFTMAX_ZERO", "softmax"),
        ("PROBIT", "other"),
    ],
)
def test_what_follows_is_the_function_at_its_end(post: str, name: str) -> None:
    for model in (model_of(regressor(post=post)), classifier(post)):
        assert [a.name for a in onnxinit.inspect(model).weights[0].downstream] == [name]


def test_layers_around_a_linear_model_are_seen() -> None:
    relu = helper.make_node("Relu", ["y"], ["r"])
    second = regressor(1, 50)
    second.input[0], second.output[0], second.name = "r", "z", "out"
    found = {w.id: w for w in onnxinit.inspect(model_of(regressor(), relu, second, outputs=["z"])).weights}
    assert [a.name for a in found["reg.coefficients"].downstream] == ["relu"]
    assert [a.name for a in found["out.coefficients"].upstream] == ["relu"]
    assert (found["out.coefficients"].depth, found["out.coefficients"].fan_in) == (1, 50)


def test_the_drawn_model_computes_what_its_weights_say(tmp_path: Path) -> None:
    model = model_of(regressor())
    made = reinit(model, scheme="he", rules="*.intercepts=constant:value=0.5", seed=4)
    w = attribute(made, "coefficients").reshape(50, 200)
    assert w.std() == pytest.approx(np.sqrt(2 / 200), rel=5 / np.sqrt(2 * w.size))
    assert (attribute(made, "intercepts") == 0.5).all()
    x = np.random.default_rng(1).standard_normal((8, 200)).astype(np.float32)
    np.testing.assert_allclose(ran(made, x)[0], x @ w.T + 0.5, rtol=1e-4, atol=1e-4)
    assert without_floats(made) == without_floats(model)
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(model, path)
    onnxinit.reinit(path, out, scheme="he", rules="*.intercepts=constant:value=0.5", seed=4, threads=2)
    assert onnx.load(out).graph == made.graph
    onnx.checker.check_model(out)


def test_structured_schemes_and_classifiers() -> None:
    made = reinit(classifier(), scheme="orthogonal")
    w = attribute(made, "coefficients").reshape(4, 200)
    np.testing.assert_allclose(w @ w.T, np.eye(4), atol=1e-5)
    x = np.random.default_rng(1).standard_normal((8, 200)).astype(np.float32)
    scores, label = ran(made, x)
    logits = x @ w.T
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, softmax, rtol=1e-4)
    np.testing.assert_array_equal(label, np.array([3, 5, 7, 9])[logits.argmax(axis=1)])


def test_two_classes_with_one_row() -> None:
    node = helper.make_node(
        "LinearClassifier", ["x"], ["label", "y"], "cls", domain=ML, coefficients=values(200), intercepts=values(1),
        classlabels_strings=["no", "yes"], post_transform="LOGISTIC",
    )  # fmt: skip
    found = onnxinit.inspect(model_of(node))
    assert [w.shape for w in found.weights] == [(1, 200), (1,)]


@pytest.mark.parametrize("scheme", ["lsuv:base=he", "analytic"])
def test_unit_variance(scheme: str) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((400, 200)).astype(np.float32)
    mixed = helper.make_node("Relu", ["y"], ["r"])
    second = regressor(30, 50)
    second.input[0], second.output[0], second.name = "r", "z", "out"
    model = model_of(regressor(), mixed, second, outputs=["y", "z"])
    result = onnxinit.reinit(model, scheme=scheme, data={"x": x})
    assert result.model is not None
    assert not result.warnings
    y, z = ran(result.model, x)
    # exact on the data, or in expectation over 50 x 200 draws
    tolerance = 1e-3 if scheme.startswith("lsuv") else 0.1
    assert y.std() == pytest.approx(1, rel=tolerance)
    assert z.std() == pytest.approx(1, rel=max(tolerance, 0.02) if scheme.startswith("lsuv") else 0.3)
    if scheme.startswith("lsuv"):
        assert result.signal is not None
        assert [f.status for f in result.signal.layers] == ["set", "set"]


def test_lsuv_behind_a_classifier() -> None:
    """Labels and scores come out as the operator makes them."""
    model = classifier("LOGISTIC")
    model.graph.node.append(helper.make_node("MatMul", ["p", "w"], ["z"]))
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [4, 6], values(24)))
    model.graph.output.add().CopyFrom(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 6]))
    x = np.random.default_rng(2).standard_normal((400, 200)).astype(np.float32)
    result = onnxinit.reinit(model, scheme="lsuv", data={"x": x})
    assert result.model is not None
    p, label, z = ran(result.model, x)
    assert z.std() == pytest.approx(1, rel=1e-3)
    logits = x @ attribute(result.model, "coefficients").reshape(4, 200).T
    assert logits.std() == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-logits)), rtol=1e-3)
    np.testing.assert_array_equal(label, np.array([3, 5, 7, 9])[logits.argmax(axis=1)])


def test_old_values_are_taken_where_a_scheme_asks() -> None:
    model = model_of(regressor())
    shuffled = reinit(model, scheme="shuffle")
    old, new = attribute(model, "coefficients"), attribute(shuffled, "coefficients")
    assert not np.array_equal(old, new)
    np.testing.assert_array_equal(np.sort(old), np.sort(new))
    matched = reinit(model, rules="*=match")
    assert attribute(matched, "coefficients").std() == pytest.approx(old.std(), rel=5 / np.sqrt(2 * old.size))
    kept = reinit(model, exclude="*.intercepts")
    np.testing.assert_array_equal(attribute(kept, "intercepts"), attribute(model, "intercepts"))


def test_a_donor_gives_them(tmp_path: Path) -> None:
    big, small = model_of(regressor()), model_of(regressor(25, 100), inputs=("x", 100))
    onnx.save(big, tmp_path / "big.onnx")
    made = reinit(small, scheme=f"donor:path={tmp_path / 'big.onnx'}")
    expected = attribute(big, "coefficients").reshape(50, 200)[::2, ::2]
    np.testing.assert_array_equal(attribute(made, "coefficients").reshape(25, 100), expected)


def unpacked(model: onnx.ModelProto) -> bytes:
    """The model with every list of floats as fields of one float each, which is legal."""
    node = model.graph.node[0]
    body = b""
    for a in node.attribute:
        bare = onnx.AttributeProto()
        bare.CopyFrom(a)
        bare.ClearField("floats")
        floats = b"".join(b"\x3d" + np.float32(v).tobytes() for v in a.floats)
        data = bare.SerializeToString() + floats
        body += b"\x2a" + encode_varint(len(data)) + data
    rest = onnx.NodeProto()
    rest.CopyFrom(node)
    del rest.attribute[:]
    body = rest.SerializeToString() + body
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    del graph.node[:]
    data = b"\x0a" + encode_varint(len(body)) + body + graph.SerializeToString()
    outer = onnx.ModelProto()
    outer.CopyFrom(model)
    outer.ClearField("graph")
    return bytes(outer.SerializeToString() + b"\x3a" + encode_varint(len(data)) + data)


@pytest.mark.parametrize("features", [3, 200])  # a small node, and one that the scanner enters at once
def test_a_list_of_single_fields(tmp_path: Path, features: int) -> None:
    model = model_of(regressor(2, features), inputs=("x", features))
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    path.write_bytes(unpacked(model))
    assert onnx.load(path).graph == model.graph
    onnxinit.reinit(path, out, scheme="he", seed=1)
    assert onnx.load(out).graph == reinit(model, scheme="he", seed=1).graph
    assert attribute(onnx.load(out), "coefficients").size == 2 * features


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 300), st.sampled_from(["he", "orthogonal", "sparse:nonzeros=2"]))
def test_any_size(targets: int, features: int, scheme: str) -> None:
    model = model_of(regressor(targets, features), inputs=("x", features))
    made = reinit(model, scheme=scheme, seed=9)
    assert without_floats(made) == without_floats(model)
    assert attribute(made, "coefficients").size == targets * features
    assert made == reinit(model, scheme=scheme, seed=9)
    x = np.ones((2, features), np.float32)
    w = attribute(made, "coefficients").reshape(targets, features)
    np.testing.assert_allclose(ran(made, x)[0].reshape(2, targets), x @ w.T, rtol=1e-3, atol=1e-4)


def test_a_report_measures_them(tmp_path: Path) -> None:
    path, report = tmp_path / "m.onnx", tmp_path / "r.json"
    onnx.save(model_of(regressor()), path)
    assert run(["reinit", str(path), "-o", str(tmp_path / "o.onnx"), "--scheme", "he", "--report", str(report)]) == 0
    written = {w["id"]: w for w in json.loads(report.read_text())["written"]}
    made = attribute(onnx.load(tmp_path / "o.onnx"), "coefficients")
    assert written["reg.coefficients"]["std"] == pytest.approx(made.std(), rel=1e-5)
    assert run(["reinit", str(path), "-o", str(tmp_path / "p.onnx"), "--plan", str(report)]) == 0
    assert (tmp_path / "p.onnx").read_bytes() == (tmp_path / "o.onnx").read_bytes()


# ---------------------------------------------------------------- in functions and subgraphs


def test_in_a_function_and_handed_over_by_its_call() -> None:
    inner = regressor()
    handed = helper.make_node("LinearRegressor", ["y"], ["z"], "handed", domain=ML, targets=2)
    for name in ("coefficients", "intercepts"):
        reference = handed.attribute.add(name=name, type=onnx.AttributeProto.FLOATS)
        reference.ref_attr_name = name
    function = helper.make_function(
        "local", "F", ["x"], ["z"], [inner, handed], [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)],
        attributes=["coefficients", "intercepts"],
    )  # fmt: skip
    call = helper.make_node("F", ["x"], ["z"], domain="local", coefficients=values(100), intercepts=values(2))
    model = model_of(call, outputs=["z"])
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.functions.append(function)
    result = onnxinit.reinit(model, scheme="he")
    assert [w.id for w in result.weights] == [f"function:local::F/reg.{n}" for n in ("coefficients", "intercepts")]
    hands = "that the call of a function hands over, which this version does not rewrite"
    assert {k.id: k.reason for k in result.kept} == {
        f"function:local::F/handed.{n}": f"{n} of LinearRegressor {hands}" for n in ("coefficients", "intercepts")
    }
    assert result.model is not None
    drawn, old = result.model.functions[0].node[0], function.node[0]
    by_name = {a.name: np.asarray(a.floats) for a in drawn.attribute}
    assert by_name["coefficients"].std() == pytest.approx(0.1, rel=5 / np.sqrt(2 * 50 * 200))
    assert drawn != old
    assert result.model.graph == model.graph
    scaled = onnxinit.reinit(model, scheme="lsuv")
    assert scaled.signal is not None
    assert [f.status for f in scaled.signal.layers] == ["set"]


def test_in_the_body_of_a_loop() -> None:
    """The body runs with the fresh values: what follows it is scaled for these."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["d"]),
            helper.make_node(
                "LinearRegressor", ["h"], ["k"], "reg", domain=ML, coefficients=values(36), intercepts=[100.0] * 6,
                targets=6,
            ),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, ["n", 6]),
        ],
        [
            helper.make_tensor_value_info("d", TensorProto.BOOL, []),
            helper.make_tensor_value_info("k", TensorProto.FLOAT, ["n", 6]),
        ],
    )  # fmt: skip
    model = model_of(
        helper.make_node("Constant", [], ["m"], value_int=1),
        helper.make_node("Loop", ["m", "", "x"], ["l"], body=body),
        helper.make_node("MatMul", ["l", "w"], ["y"]),
        inputs=("x", 6),
    )
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [6, 4], values(24)))
    x = np.random.default_rng(2).standard_normal((100, 6)).astype(np.float32)
    result = onnxinit.reinit(model, scheme="lsuv", data={"x": x})
    assert result.model is not None
    assert ran(result.model, x)[0].std() == pytest.approx(1, rel=1e-3)


# ---------------------------------------------------------------- Constant nodes


CONSTANTS = """(float[n,60] x) => (float[n,40] y) {{
    f = Constant<value_floats = [{0}]>() s = Constant<value_ints = [60, 40]>() w = Reshape(f, s) h = MatMul(x, w)
    b = Constant<value_floats = [{1}]>() a = Add(h, b) p = Constant<value_float = 0.1>() y = PRelu(a, p) }}"""


def test_constants_of_every_form(tmp_path: Path) -> None:
    text = CONSTANTS.format(*(", ".join(f"{v:.6f}" for v in values(n)) for n in (2400, 40)))
    model = build(text)
    found = onnxinit.inspect(model)
    assert [(w.id, w.where, w.role, w.shape) for w in found.weights] == [
        ("f", "constant", "weight", (2400,)),
        ("b", "constant", "bias", (40,)),
        ("p", "constant", "prelu_slope", ()),
    ]
    assert (found.weights[0].fan_in, found.weights[0].fan_out) == (60, 40)
    made = reinit(model, scheme="orthogonal", rules="b=constant:value=0.25")
    w = attribute(made, "value_floats").reshape(60, 40)
    np.testing.assert_allclose(w.T @ w, np.eye(40), atol=1e-5)
    assert (attribute(made, "value_floats", 4) == 0.25).all()
    assert attribute(made, "value_float", 6) == 0.25
    assert without_floats(made) == without_floats(model)
    x = np.random.default_rng(1).standard_normal((8, 60)).astype(np.float32)
    z = x @ w + 0.25
    np.testing.assert_allclose(ran(made, x)[0], np.where(z > 0, z, 0.25 * z), rtol=1e-3, atol=1e-5)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    onnxinit.reinit(path, tmp_path / "o.onnx", scheme="orthogonal", rules="b=constant:value=0.25")
    assert onnx.load(tmp_path / "o.onnx").graph == made.graph
    scaled = onnxinit.reinit(model, scheme="lsuv", data={"x": x})
    assert scaled.model is not None
    w = attribute(scaled.model, "value_floats").reshape(60, 40)
    assert (x @ w).std() == pytest.approx(1, rel=1e-3)


def test_constants_that_are_no_weights_are_listed() -> None:
    model = build("(float[n,4] x) => (float[n,4] y) { c = Constant<value_float = 0.5>() y = Mul(x, c) }")
    found = onnxinit.inspect(model)
    assert not found.weights
    assert [(k.id, k.shape, k.dtype) for k in found.kept] == [("c", (), "float")]
    settings_alone = build(
        "(float[1,3,8,8] x) => (y) { y = Upsample<scales = [1.0, 1.0, 2.0, 2.0]>(x) }", opset=8, check=False
    )
    assert not onnxinit.inspect(settings_alone).kept


def test_trees_and_preparation_stay(tmp_path: Path) -> None:
    scaler = helper.make_node("Scaler", ["x"], ["s"], "prep", domain=ML, offset=values(200), scale=values(200, 1))
    model = model_of(scaler, regressor())
    model.graph.node[1].input[0] = "s"
    made = reinit(model, scheme="he")
    assert made.graph.node[0] == model.graph.node[0]
    assert made.graph.node[1] != model.graph.node[1]
