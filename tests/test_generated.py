"""Weights that the graph makes at run time become stored ones; the written files are looked at and run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import pytest
from graphs import build
from onnx import TensorProto, helper, numpy_helper
from runs import run

import onnxinit
from onnxinit.cli.main import run as command_line

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

MAKERS = {
    "ConstantOfShape": "m = ConstantOfShape <value = float[1] {0.02}> (shape)",
    "ConstantOfShape of zeros": "m = ConstantOfShape (shape)",
    "RandomNormal": "m = RandomNormal <shape = [60, 80], seed = 1.0> ()",
    "RandomUniform": "m = RandomUniform <shape = [60, 80], high = 0.1> ()",
    "RandomNormalLike": "m = RandomNormalLike (like)",
    "EyeLike": "m = EyeLike <dtype = 1> (like)",
    "Expand": "m = Expand (one, shape)",
    "Range": "r = Range (first, last, step) flat = Reshape (r, shape) m = Identity (flat)",
}
STORED = {
    "shape": np.array([60, 80]),
    "like": np.ones((60, 80), np.float32),
    "one": np.full((1, 1), 0.5, np.float32),
    "first": np.float32(0),
    "last": np.float32(4800),
    "step": np.float32(1),
}


def layer(maker: str) -> onnx.ModelProto:
    """x (n, 60) by a made (60, 80), with a rectifier behind."""
    held = {
        name: np.asarray(a)
        for name, a in STORED.items()
        if f"({name}" in maker or f" {name})" in maker or f" {name}," in maker
    }
    return build(f"(float[n,60] x) => (float[n,80] y) {{ {maker} p = MatMul (x, m) y = Relu (p) }}", **held)


def stored(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("maker", MAKERS)
def test_a_kernel_that_a_node_makes_is_stored_and_drawn(maker: str) -> None:
    result = onnxinit.reinit(layer(MAKERS[maker]), scheme="he")
    (weight,) = result.weights
    assert (weight.where, weight.role, weight.size, weight.fan_in) == ("generated", "weight", 4800, 60)
    assert result.model is not None
    onnx.checker.check_model(result.model, full_check=True)
    values = stored(result.model)[weight.name].reshape(60, 80)
    assert values.std() == pytest.approx(math.sqrt(2 / 60), rel=5 / math.sqrt(2 * 4800))
    x = np.random.default_rng(0).standard_normal((7, 60)).astype(np.float32)
    assert run(result.model, x=x)[0] == pytest.approx(np.maximum(x @ values, 0), abs=1e-4)
    assert maker.split()[0] not in {n.op_type for n in result.model.graph.node}


@pytest.mark.parametrize("maker", MAKERS)
def test_no_materialize_leaves_it_to_the_node(maker: str) -> None:
    before = layer(MAKERS[maker])
    result = onnxinit.reinit(before, materialize=False, metadata=False)
    assert result.model == before
    assert any("made at run time by" in left.reason for left in result.kept)
    assert not result.weights


TWO = """(float[n,60] x) => (float[n,60] y) {
    a = ConstantOfShape <value = float[1] {0.1}> (there)
    h = MatMul (x, a)
    r = Relu (h)
    b = RandomNormal <shape = [80, 60], seed = 3.0> ()
    y = MatMul (r, b)
}"""


def two() -> onnx.ModelProto:
    return build(TWO, there=np.array([60, 80]))


def test_what_the_user_keeps_is_still_made_when_the_model_runs() -> None:
    result = onnxinit.reinit(two(), exclude="b", metadata=False)
    assert result.model is not None
    assert [n.op_type for n in result.model.graph.node] == ["MatMul", "Relu", "RandomNormal", "MatMul"]
    assert [w.id for w in result.weights] == ["a"]
    assert {left.id: left.reason for left in result.kept}["b"] == "--exclude b"
    both = onnxinit.reinit(two(), metadata=False).model
    assert both is not None
    assert (stored(result.model)["a"] == stored(both)["a"]).all()  # keeping one changes no other
    assert onnxinit.reinit(two(), exclude="*", metadata=False).model == two()


def test_the_text_says_what_becomes_an_initializer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(two(), tmp_path / "two.onnx")
    assert command_line(["reinit", str(tmp_path / "two.onnx"), "--dry-run"]) == 0
    assert "become initializers: 2 tensors\n     2  made at run time so far" in capsys.readouterr().out
    assert command_line(["reinit", str(tmp_path / "two.onnx"), "--dry-run", "--no-materialize"]) == 0
    assert "become initializers" not in capsys.readouterr().out


NAMELESS = """(float[n,6] x, bool c) => (float[n,6] y) {
    s = Constant <value = int64[2] {6, 6}> () a = ConstantOfShape (s) h = MatMul (x, a)
    b = EyeLike (a) i = MatMul (h, b)
    y = If (c) <
        then_branch = yes () => (float[n,6] p) {
            d = RandomNormal <shape = [6, 6]> () j = MatMul (i, d)
            p = If (c) <
                then_branch = t () => (float[n,6] k) { w = Constant <value = float[6, 6] {1.0}> () k = MatMul (j, w) },
                else_branch = e () => (float[n,6] o) { o = Identity (j) } > },
        else_branch = no () => (float[n,6] q) { q = Identity (i) }
    > }"""


def test_ids_count_the_nodes_of_the_file_that_was_given() -> None:
    model = build(NAMELESS.replace("{1.0}", "{" + ", ".join(["1.0", "2.0"] * 18) + "}"))
    ids = {"a", "b", "If5.then_branch/d", "If5.then_branch/If2.then_branch/w"}
    assert {w.id for w in onnxinit.inspect(model).weights} == ids
    plain = onnxinit.inspect(model, materialize=False)
    assert {w.id for w in plain.weights} == {"If5.then_branch/If2.then_branch/w"}
    assert ids <= {k.id for k in plain.kept} | {w.id for w in plain.weights}
    for spared in ids:
        result = onnxinit.reinit(model, exclude=spared)
        assert {w.id for w in result.weights} == ids - {spared}


def test_what_has_no_values_is_equal_to_nothing() -> None:
    result = onnxinit.reinit(two(), tie_equal=True)
    assert [w.tied_to for w in result.weights] == [(), ()]


def test_a_plan_repeats_it(tmp_path: Path) -> None:
    onnx.save(two(), tmp_path / "two.onnx")
    for i, flags in enumerate(([], ["--exclude", "b"], ["--no-materialize"])):
        first, again = tmp_path / f"first{i}.onnx", tmp_path / f"again{i}.onnx"
        report = tmp_path / f"report{i}.json"
        for command in ([*flags, "--report", str(report), "-o", str(first)], ["--plan", str(report), "-o", str(again)]):
            assert command_line(["reinit", str(tmp_path / "two.onnx"), "--quiet", *command]) == 0
        assert first.read_bytes() == again.read_bytes()
        assert len(json.loads(report.read_text())["written"]) == 2 - i


def test_inspect_says_where_it_comes_from() -> None:
    found = onnxinit.inspect(two(), scheme="he")
    assert [(w.id, w.where) for w in found.weights] == [("a", "generated"), ("b", "generated")]
    assert [w["std"] for w in found.to_json()["weights"]] == pytest.approx([math.sqrt(2 / 60), math.sqrt(2 / 80)])


def test_all_else_stays_as_it_was(tmp_path: Path) -> None:
    model = two()
    model.graph.initializer.append(numpy_helper.from_array(np.arange(3000, dtype=np.float32), "aside"))
    model.graph.doc_string = "told"
    onnx.save(model, tmp_path / "two.onnx")
    onnxinit.reinit(tmp_path / "two.onnx", tmp_path / "fresh.onnx", metadata=False)
    fresh = onnx.load(tmp_path / "fresh.onnx")
    assert (tmp_path / "two.onnx").read_bytes() == model.SerializeToString()
    added = [t for t in fresh.graph.initializer if t.name in "ab"]
    for t in added:
        fresh.graph.initializer.remove(t)
    model.graph.node.remove(model.graph.node[3])
    model.graph.node.remove(model.graph.node[0])
    assert len(added) == 2
    assert fresh == model


def test_before_ir_4_it_is_an_input_as_well(tmp_path: Path) -> None:
    model = build(
        "(float[n,3,8,8] x, int64[4] there) => (float[n,5,6,6] y) { w = ConstantOfShape (there) y = Conv (x, w) }",
        opset=9,
        there=np.array([5, 3, 3, 3]),
    )
    model.ir_version = 3
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "old.onnx")
    onnxinit.reinit(tmp_path / "old.onnx", tmp_path / "fresh.onnx")
    fresh = onnx.load(tmp_path / "fresh.onnx")
    onnx.checker.check_model(fresh)
    assert [i.name for i in fresh.graph.input] == ["x", "there", "w"]
    assert run(tmp_path / "fresh.onnx", x=np.ones((1, 3, 8, 8), np.float32))[0].std() > 0


IN_BRANCHES = """(float[n,60] x, bool c) => (float[n,80] y) {
    y = If (c) <
        then_branch = yes () => (float[n,80] p) { a = RandomUniform <shape = [60, 80]> () p = MatMul (x, a) },
        else_branch = no () => (float[n,80] q) { b = ConstantOfShape (there) q = MatMul (x, b) }
    >
}"""


@pytest.mark.parametrize("ir_version", [3, 10])
def test_in_the_branches_of_an_if(ir_version: int) -> None:
    model = build(IN_BRANCHES, there=np.array([60, 80]))
    model.ir_version = ir_version
    if ir_version == 3:
        model.graph.input.append(helper.make_tensor_value_info("there", TensorProto.INT64, [2]))
    fresh = onnxinit.reinit(model, scheme="he").model
    assert fresh is not None
    onnx.checker.check_model(fresh)
    x = np.random.default_rng(0).standard_normal((500, 60)).astype(np.float32)
    for branch in (True, False):
        (y,) = run(fresh, x=x, c=np.array(branch))
        assert y.std() == pytest.approx(math.sqrt(2), rel=0.15)  # 60 inputs of variance 1, kernels of variance 2/60


FUNCTION = """<opset_import: ["": 17], domain: "local">
Layer (x) => (y) {
    s = Constant <value = int64[2] {60, 60}> ()
    w = ConstantOfShape <value = float[1] {0.5}> (s)
    p = MatMul (x, w)
    y = Relu (p)
}"""


def test_in_a_function_it_becomes_a_constant() -> None:
    calls = "(float[n,60] x) => (float[n,60] y) { h = local.Layer (x) y = local.Layer (h) }"
    result = onnxinit.reinit(build(calls, functions=FUNCTION), scheme="he")
    assert [w.id for w in result.weights] == ["function:local::Layer/w"]
    assert result.model is not None
    onnx.checker.check_model(result.model)
    constant = result.model.functions[0].node[1]
    assert (constant.op_type, list(constant.input), list(constant.output)) == ("Constant", [], ["w"])
    kernel = numpy_helper.to_array(constant.attribute[0].t)
    x = np.random.default_rng(0).standard_normal((4, 60)).astype(np.float32)
    expected = np.maximum(np.maximum(x @ kernel, 0) @ kernel, 0)
    assert run(result.model, x=x)[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        # A latent that the model draws itself, and what stands for the first state of a recurrence, meet weights.
        "(float[n,8] x) => (float[3,4] y) { z = RandomNormal <shape = [3, 8]> () y = MatMul (z, w) }",
        "(float[n,8] x) => (float[3,4] y) { z = ConstantOfShape (three) y = Gemm (z, w) }",
        # Noise on a signal; a length that only the feed knows.
        "(float[3,8] x) => (float[3,4] y) { e = RandomNormal <shape = [3, 8]> () n = Add (x, e) y = MatMul (n, w) }",
        "(float[n,8] x) => (float[n,n] y) { r = RandomNormalLike (x) t = Transpose (r) y = MatMul (x, t) }",
        # A triangle that sums up; a table that the model hands out as well.
        "(float[n,3] x) => (float[n,8] y) { o = ConstantOfShape (three) z = Trilu (o) y = MatMul (x, z) }",
        "(float[n,3] x) => (float[n,8] y, float[3,8] z) { z = ConstantOfShape (three) y = MatMul (x, z) }",
    ],
)
def test_what_is_data_stays(text: str) -> None:
    tensors = {name: given for name, given in (("w", [8, 4]), ("three", np.array([3, 8]))) if f"{name})" in text}
    model = build(text, **tensors)
    fresh = onnxinit.reinit(model, metadata=False).model
    assert fresh is not None
    assert list(fresh.graph.node) == list(model.graph.node)


def test_floats_that_a_call_hands_to_a_function_stay() -> None:
    functions = """<domain: "local", opset_import: ["": 17]> Shifted <b> (a) => (s)
    { c = Constant <value_floats : floats = @b> () s = Add (a, c) }"""
    model = build(
        """(float[n,3] x) => (float[n,2] y) { h = MatMul (x, w) i = local.Shifted <b = [0.1, 0.7]> (h)
        y = local.Shifted <b = [0.9, 0.4]> (i) }""",
        functions=functions, w=[3, 2],
    )  # fmt: skip
    fresh = onnxinit.reinit(model, metadata=False).model
    assert fresh is not None
    assert list(fresh.graph.node) == list(model.graph.node)
    assert list(fresh.functions) == list(model.functions)


@pytest.mark.skipif(not LIGHT.is_dir(), reason="this onnx package is without its test data")
def test_the_light_models_of_the_onnx_package(tmp_path: Path) -> None:
    result = onnxinit.reinit(LIGHT / "light_squeezenet.onnx", tmp_path / "squeezenet.onnx", scheme="he")
    onnx.checker.check_model(tmp_path / "squeezenet.onnx")
    kernels = [w for w in result.weights if w.role == "weight"]
    assert (len(kernels), len(result.weights)) == (26, 52)
    values = stored(onnx.load(tmp_path / "squeezenet.onnx"))
    for w in kernels:
        assert w.fan_in is not None
        std = math.sqrt(2 / w.fan_in)
        assert values[w.name].std() == pytest.approx(std, rel=5 / math.sqrt(2 * w.size))
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    assert np.isfinite(run(tmp_path / "squeezenet.onnx", data_0=image)[0]).all()
