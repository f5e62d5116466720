"""LSUV: what the written model gives on the data is measured by running it whole, apart from the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import build
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from oracle import normal, run

import onnxinit
from onnxinit.errors import DataError, ExpectationError, SchemeError
from onnxinit.plan import Vector
from onnxinit.signal import Finding

MODELS = Path(__file__).parent.parent.parent / "models"
MLP = """(float[n, 12] x) => (float[n, 5] y) {
    a = Gemm <transB = 1> (x, w1, b1)
    r = Relu (a)
    c = MatMul (r, w2)
    d = Add (c, b2)
    t = Tanh (d)
    y = Gemm (t, w3)
}"""
SHAPES: dict[str, Any] = {"w1": [40, 12], "b1": [40], "w2": [40, 30], "b2": [30], "w3": [30, 5]}


def scaled(model: onnx.ModelProto, data: dict[str, Any], scheme: str = "lsuv", **more: Any) -> onnxinit.Result:
    return onnxinit.reinit(model, scheme=scheme, data=data, **more)


def findings(result: onnxinit.Result) -> dict[str, Finding]:
    """The first finding of every weight."""
    assert result.signal is not None
    found: dict[str, Finding] = {}
    for f in result.signal.layers:
        found.setdefault(f.id, f)
    return found


def made(result: onnxinit.Result) -> onnx.ModelProto:
    assert result.model is not None
    return result.model


def tensor(model: onnx.ModelProto, name: str) -> Any:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


# ---------------------------------------------------------------- the std of every layer


@pytest.mark.parametrize(
    "base", ["orthogonal", "he", "xavier", "uniform", "sparse", '"normal:std=1e12"', '"normal:std=1e-12"']
)
def test_every_layer_has_the_target_std_on_the_data(base: str) -> None:
    feed = {"x": normal(64, 12, scale=3, shift=1)}
    result = scaled(build(MLP, **SHAPES), feed, f"lsuv:base={base}")
    values = run(made(result), feed, ["a", "d", "y"])
    for name in ("a", "d", "y"):
        assert values[name].std() == pytest.approx(1, abs=1e-5), name
    assert {f.status for f in findings(result).values()} == {"set"}


def test_the_target_is_ones_own() -> None:
    feed = {"x": normal(64, 12)}
    result = scaled(build(MLP, **SHAPES), feed, "lsuv:target_std=0.25", rules=["w2=lsuv:target_std=4"])
    values = run(made(result), feed, ["a", "d", "y"])
    assert [values[n].std() for n in "ady"] == pytest.approx([0.25, 4, 0.25], rel=1e-5)


def test_kept_biases_count() -> None:
    """s^2 Var y + 2 s Cov(y, b) + Var b = 1, with the bias within the operator and after it."""
    b1, b2 = normal(40, seed=1, scale=0.6, shift=0.3), normal(30, seed=2, scale=0.7)
    feed = {"x": normal(64, 12, shift=0.5)}
    model = build(MLP, **{**SHAPES, "b1": b1, "b2": b2})
    result = scaled(model, feed, exclude=["role:bias"])
    values = run(made(result), feed, ["a", "d", "y"])
    assert [values[n].std() for n in "ady"] == pytest.approx([1, 1, 1], abs=1e-5)
    assert (tensor(made(result), "b1") == b1).all()


def test_a_bias_beyond_the_target_is_told() -> None:
    model = build(MLP, **{**SHAPES, "b1": normal(40, seed=1, scale=3)})
    result = scaled(model, {"x": normal(64, 12)}, exclude=["role:bias"])
    found = findings(result)["w1"]
    assert found.status == "not converged" and "bias alone has the std" in found.note
    base = onnxinit.reinit(model, scheme="orthogonal", exclude=["role:bias"])
    assert np.allclose(tensor(made(result), "w1"), tensor(made(base), "w1"), atol=1e-6)


def test_beta_and_old_gemms() -> None:
    text = "(float[n, 6] x) => (float[n, 8] y) { y = Gemm <beta = 0.5, alpha = 3.0> (x, w, b) }"
    feed = {"x": normal(50, 6)}
    for opset in (9, 17):
        model = build(text, opset=opset, w=[6, 8], b=normal(8, seed=3))
        values = run(made(scaled(model, feed, exclude=["b"])), feed)
        assert values["y"].std() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["resnet_bn", "mlp_tanh30", "unet_depthwise", "transformer", "cnn_int8"])
def test_the_sample_models(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = onnxinit.reinit(MODELS / f"{name}.onnx", out, scheme="lsuv")
    assert result.signal is not None and result.signal.source == "synthetic"
    assert all(f.status == "set" for f in result.signal.layers)
    assert {f.id for f in result.signal.layers} == {w.id for w in result.weights if w.role == "weight"}
    onnx.checker.check_model(out)


# ---------------------------------------------------------------- graphs


def test_execution_order_not_file_order() -> None:
    """Weights are named and stored against the order in which they act."""
    text = """(float[n, 9] x) => (float[n, 4] y) {
        p = MatMul (x, z)
        q = Relu (p)
        y = MatMul (q, a)
    }"""
    feed = {"x": normal(64, 9, scale=5)}
    result = scaled(build(text, a=[20, 4], z=[9, 20]), feed)
    assert result.signal is not None and [f.id for f in result.signal.layers] == ["z", "a"]
    assert [run(made(result), feed, ["p"])[n].std() for n in "py"] == pytest.approx([1, 1], abs=1e-5)


def test_residual_branches_concatenations_and_several_outputs() -> None:
    text = """(float[n, 4, 8, 8] x, float[n, 3] s) => (float[n, 6] y, float[n, 5] u) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        b = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (b, w2)
        d = Add (c, a)
        e = Concat <axis = 1> (d, b)
        f = Conv (e, w3)
        g = GlobalAveragePool (f)
        h = Flatten (g)
        k = Concat <axis = 1> (h, s)
        y = Gemm (k, w4)
        u = MatMul (h, w5)
    }"""
    model = build(text, w1=[4, 4, 3, 3], b1=[4], w2=[4, 4, 3, 3], w3=[7, 8, 1, 1], w4=[10, 6], w5=[7, 5])
    feed = {"x": normal(6, 4, 8, 8, scale=2), "s": normal(6, 3)}
    values = run(made(scaled(model, feed)), feed, ["a", "c", "f"])
    assert [values[n].std() for n in "acfyu"] == pytest.approx([1] * 5, abs=1e-5)


def test_a_shared_weight_is_scaled_at_its_first_use() -> None:
    text = """(float[n, 8] x) => (float[n, 8] y) {
        a = MatMul (x, w)
        b = Tanh (a)
        y = MatMul (b, w)
    }"""
    model, feed = build(text, w=[8, 8]), {"x": normal(64, 8)}
    result = scaled(model, feed)
    values = run(made(result), feed, ["a"])
    assert values["a"].std() == pytest.approx(1, abs=1e-5)
    assert result.signal is not None
    first, later = result.signal.layers
    assert (first.status, later.status) == ("set", "later use")
    assert later.after == pytest.approx(values["y"].std(), rel=1e-5)


def test_a_shared_weight_can_get_the_mean_of_its_uses() -> None:
    text = """(float[n, 8] x) => (float[n, 8] y) {
        a = MatMul (x, w)
        b = Tanh (a)
        y = MatMul (b, w)
    }"""
    model, feed = build(text, w=[8, 8]), {"x": normal(64, 8)}
    values = run(made(scaled(model, feed, "lsuv:shared=mean,tol=0.0001,max_iter=30")), feed, ["a"])
    assert np.sqrt(values["a"].std() * values["y"].std()) == pytest.approx(1, abs=1e-4)


BRANCH = """(float[n, 6] x, bool c) => (float[n, 5] y) {
    h = MatMul (x, w0)
    r = If (c) <
        then_branch = g1 () => (float[n, 7] t) { t = MatMul (h, w1) },
        else_branch = g2 () => (float[n, 7] e) { e = MatMul (h, w2) }
    >
    s = Relu (r)
    y = MatMul (s, w3)
}"""


@pytest.mark.parametrize("taken", [True, False])
def test_the_branch_that_the_data_takes_counts(taken: bool) -> None:
    model = build(BRANCH, w0=[6, 9], w1=[9, 7], w2=[9, 7], w3=[7, 5])
    feed = {"x": normal(64, 6, scale=4), "c": np.asarray(taken)}
    result = scaled(model, feed)
    values = run(made(result), feed, ["h", "r"])
    assert [values[n].std() for n in "hry"] == pytest.approx([1, 1, 1], abs=1e-5)
    other = findings(result)["w2" if taken else "w1"]
    assert other.status == "missed" and "that the data does not take" in other.note


def test_branches_that_batches_disagree_on() -> None:
    text = BRANCH.replace("bool c", "bool[1] c")
    model = build(text, w0=[6, 9], w1=[9, 7], w2=[9, 7], w3=[7, 5])
    feeds = [{"x": normal(8, 6, seed=i), "c": np.asarray([bool(i)])} for i in (0, 1)]
    result = scaled(model, feeds)  # type: ignore[arg-type]
    assert {i: f.status for i, f in findings(result).items()} == {
        "w0": "set",
        "w3": "set",
        "w1": "missed",
        "w2": "missed",
    }
    assert "some batches take and others do not" in findings(result)["w1"].note
    both = np.concatenate([run(made(result), f)["y"] for f in feeds])
    assert both.std() == pytest.approx(1, abs=1e-5)


LOOP = """(float[n, 6] x, int64 m) => (float[n, 4] y) {
    t = Constant <value = bool {1}> ()
    h = Loop (m, t, x) <
        body = g (int64 i, bool ci, float[n, 6] s) => (bool co, float[n, 6] u) {
            co = Identity (ci)
            p = MatMul (s, wl)
            u = Tanh (p)
        }
    >
    y = MatMul (h, w)
}"""


def test_the_body_of_a_loop_keeps_its_base() -> None:
    model, feed = build(LOOP, wl=[6, 6], w=[6, 4]), {"x": normal(64, 6), "m": np.asarray(3, np.int64)}
    result = scaled(model, feed)
    assert findings(result)["wl"].status == "missed" and "inside the body of the Loop" in findings(result)["wl"].note
    assert run(made(result), feed)["y"].std() == pytest.approx(1, abs=1e-5)
    with pytest.raises(
        ExpectationError, match=r"1 of 2 layers did not get what was asked for, the first is 'wl': inside"
    ):
        scaled(model, feed, strict=True)


def test_local_functions() -> None:
    text = """(float[n, 8] x) => (float[n, 8] y) {
        a = local.dense (x, w1)
        y = local.dense (a, w2)
    }"""
    function = """<opset_import: ["" : 17], domain: "local">
    dense (p, w) => (r) {
        q = MatMul (p, w)
        r = Relu (q)
    }"""
    model, feed = build(text, functions=function, w1=[8, 8], w2=[8, 8]), {"x": normal(64, 8, scale=7)}
    result = scaled(model, feed)
    values = run(made(result), feed, ["a"])
    # relu(z) of z with std 1: the pre-activation itself is no value of the main graph
    h = feed["x"].astype(np.float64) @ tensor(made(result), "w1")
    assert h.std() == pytest.approx(1, abs=1e-5)
    assert (values["a"] @ tensor(made(result), "w2").astype(np.float64)).std() == pytest.approx(1, abs=1e-5)


def test_what_lies_behind_an_operator_that_cannot_be_run() -> None:
    text = """(float[n, 8] x) => (float[n, 4] y) {
        a = MatMul (x, w1)
        b = strange.Op (a)
        c = MatMul (b, w2)
        d = MatMul (a, w3)
        y = Add (c, d)
    }"""
    model = build(text, check=False, w1=[8, 8], w2=[8, 4], w3=[8, 4])
    model.opset_import.append(helper.make_opsetid("strange", 1))
    found = findings(scaled(model, {"x": normal(64, 8)}))
    assert {i: f.status for i, f in found.items()} == {"w1": "set", "w2": "missed", "w3": "set"}
    assert "behind the Op that makes 'b', which cannot be run" in found["w2"].note


def test_dead_layers() -> None:
    text = """(float[n, 8] x) => (float[n, 4] y) {
        a = MatMul (x, w1)
        z = Sub (a, a)
        y = MatMul (z, w2)
    }"""
    found = findings(scaled(build(text, w1=[8, 8], w2=[8, 4]), {"x": normal(64, 8)}))
    assert (found["w1"].status, found["w2"].status) == ("set", "dead")


def test_a_standardised_kernel_is_told() -> None:
    text = """(float[n, 3, 8, 8] x) => (float[n, 5, 6, 6] y) {
        m = ReduceMean <axes = [1, 2, 3]> (w)
        c = Sub (w, m)
        q = Mul (c, c)
        v = ReduceMean <axes = [1, 2, 3]> (q)
        s = Sqrt (v)
        k = Div (c, s)
        y = Conv (x, k)
    }"""
    found = findings(scaled(build(text, w=[5, 3, 3, 3]), {"x": normal(4, 3, 8, 8)}))
    assert found["w"].status == "not converged" and "normalises it" in found["w"].note and found["w"].runs == 2


# ---------------------------------------------------------------- kinds of layers


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_every_gate_of_a_recurrent_layer(op: str) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    text = f"""(float[7, n, 10] x) => (float[7, 2, n, 6] y) {{
        y = {op} <hidden_size = 6, direction = "bidirectional"> (x, w, r, b)
    }}"""
    model = build(text, w=[2, gates * 6, 10], r=[2, gates * 6, 6], b=[2, 2 * gates * 6])
    feed = {"x": normal(7, 20, 10, scale=3)}
    result = scaled(model, feed)
    w = tensor(made(result), "w").reshape(2 * gates, 6, 10).astype(np.float64)
    assert [(feed["x"] @ gate.T).std() for gate in w] == pytest.approx([1] * 2 * gates, abs=1e-5)
    r = tensor(made(result), "r").reshape(2 * gates, 6, 6)
    for gate in r:  # its base stands
        assert np.abs(gate @ gate.T - np.eye(6)).max() < 1e-5


def test_per_channel_and_center() -> None:
    text = """(float[n, 3, 9, 9] x) => (float[n, 6, 5, 5] y) {
        a = Conv (x, w1, b1)
        r = Relu (a)
        y = Conv (r, w2, b2)
    }"""
    model, feed = build(text, w1=[8, 3, 3, 3], b1=[8], w2=[6, 8, 3, 3], b2=[6]), {"x": normal(16, 3, 9, 9, shift=2)}
    result = scaled(model, feed, "lsuv:per_channel=true,center=true")
    for value in (run(made(result), feed, ["a"])[n] for n in "ay"):
        assert value.std(axis=(0, 2, 3)) == pytest.approx(np.ones(value.shape[1]), abs=1e-4)
        assert np.abs(value.mean(axis=(0, 2, 3))).max() < 1e-4
    entries = {e.id: e for e in result.plan.entries}
    assert isinstance(entries["w1"].gain, Vector) and entries["b1"].measured is not None


def test_center_of_the_whole_output() -> None:
    feed = {"x": normal(64, 12, shift=2)}
    values = run(made(scaled(build(MLP, **SHAPES), feed, "lsuv:center=true")), feed, ["a", "d", "y"])
    for name in "ad":
        assert (values[name].std(), values[name].mean()) == pytest.approx((1, 0), abs=1e-5)
    found = findings(scaled(build(MLP, **SHAPES), feed, "lsuv:center=true"))["w3"]
    assert found.status == "set" and found.note == "no bias is drawn that could centre it"


def test_batch_norms_get_the_statistics_of_their_input() -> None:
    text = """(float[n, 3, 8, 8] x) => (float[n, 5, 8, 8] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r = Relu (a)
        y = BatchNormalization (r, s, b, m, v)
    }"""
    model = build(text, w1=[5, 3, 3, 3], s=[5], b=[5], m=normal(5, scale=9), v=np.abs(normal(5, scale=9)))
    feed = {"x": normal(16, 3, 8, 8)}
    result = scaled(model, feed)
    values = run(made(result), feed, ["r"])
    assert tensor(made(result), "m") == pytest.approx(values["r"].mean(axis=(0, 2, 3)), abs=1e-5)
    assert tensor(made(result), "v") == pytest.approx(values["r"].var(axis=(0, 2, 3)), rel=1e-5)
    assert np.abs(values["y"].mean(axis=(0, 2, 3))).max() < 1e-4
    plain = scaled(model, feed, recalibrate_norm=False)
    assert (tensor(made(plain), "m") == 0).all() and (tensor(made(plain), "v") == 1).all()
    alone = scaled(model, feed, "he", recalibrate_norm=True)
    assert tensor(made(alone), "v") == pytest.approx(run(made(alone), feed, ["r"])["r"].var(axis=(0, 2, 3)), rel=1e-5)


@pytest.mark.parametrize("kind, digits", [(TensorProto.FLOAT16, 2e-3), (TensorProto.BFLOAT16, 2e-2)])
def test_half_precision(kind: int, digits: float) -> None:
    """Measured in float32 and rounded once: bfloat16 is checked through a float32 copy of the written weights."""
    half = build(MLP, **SHAPES)
    for t in half.graph.initializer:
        values = numpy_helper.to_array(t).astype(helper.tensor_dtype_to_np_dtype(kind))
        t.CopyFrom(numpy_helper.from_array(values, t.name))
    for info in (*half.graph.input, *half.graph.output):
        info.type.tensor_type.elem_type = kind
    feed = {"x": normal(64, 12, scale=2)}
    result = scaled(half, feed, 'lsuv:base="normal:std=1e5"')
    written = {t.name: numpy_helper.to_array(t) for t in made(result).graph.initializer}
    assert {v.dtype for v in written.values()} == {np.dtype(helper.tensor_dtype_to_np_dtype(kind))}
    wide = build(MLP, **{n: v.astype(np.float32) for n, v in written.items()})
    values = run(wide, feed, ["a", "d", "y"])
    assert [values[n].std() for n in "ady"] == pytest.approx([1, 1, 1], abs=digits)


def test_fused_operators_are_measured_before_their_activation() -> None:
    text = """(float[n, 3, 8, 8] x) => (float[n, 7] y) {
        a = com.microsoft.FusedConv <activation = "Relu"> (x, w1, b1)
        f = Flatten (a)
        c = MatMul (f, w2)
        d = com.microsoft.BiasGelu (c, b2)
        y = com.microsoft.FusedGemm <activation = "LeakyRelu", activation_alpha = 0.1> (d, w3, b3)
    }"""
    model = build(text, w1=[4, 3, 3, 3], b1=[4], w2=[144, 20], b2=[20], w3=[20, 7], b3=[7])
    feed = {"x": normal(16, 3, 8, 8, scale=3)}
    result = scaled(model, feed)
    plain = text.replace('com.microsoft.FusedConv <activation = "Relu">', "Conv").replace(
        "f = Flatten (a)", "ar = Relu (a)\nf = Flatten (ar)"
    )
    plain = plain.replace("d = com.microsoft.BiasGelu (c, b2)", "e = Add (c, b2)\nd = com.microsoft.Gelu (e)")
    plain = plain.replace('com.microsoft.FusedGemm <activation = "LeakyRelu", activation_alpha = 0.1>', "Gemm")
    tensors = {t.name: numpy_helper.to_array(t) for t in made(result).graph.initializer}
    values = run(build(plain, check=False, **tensors), feed, ["a", "e"])
    assert [values[n].std() for n in "aey"] == pytest.approx([1, 1, 1], abs=1e-5)


def test_a_weight_put_together_from_several() -> None:
    """Q, K and V joined in the graph are scaled together."""
    text = """(float[n, 6] x) => (float[n, 12] y) {
        w = Concat <axis = 1> (q, k, v)
        y = MatMul (x, w)
    }"""
    model, feed = build(text, q=[6, 4], k=[6, 4], v=[6, 4]), {"x": normal(64, 6, scale=3)}
    result = scaled(model, feed)
    assert run(made(result), feed)["y"].std() == pytest.approx(1, abs=1e-5)
    assert {f.status for f in findings(result).values()} == {"set"}


# ---------------------------------------------------------------- data, plans, the surface


def test_batches_and_the_whole_give_the_same(tmp_path: Path) -> None:
    model, x = build(MLP, **SHAPES), normal(70, 12, scale=2)
    whole = scaled(model, {"x": x}, batch_size=70).plan
    some = scaled(model, {"x": x}, batch_size=16, spill=tmp_path).plan
    for a, b in zip(whole.entries, some.entries, strict=True):
        assert a.gain == pytest.approx(b.gain, rel=1e-6)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_where_activations_are_held(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        feeds = iter([{"x": normal(20000, 12)}, {"x": np.full((20000, 12), np.nan, np.float32)}])
        scaled(build(MLP, **SHAPES), feeds, spill=tmp_path)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_plan_rebuilds_the_model_without_the_data(tmp_path: Path) -> None:
    model, feed = build(MLP, **SHAPES), {"x": normal(64, 12)}
    first = scaled(model, feed, "lsuv:base=he,center=true")
    again = onnxinit.reinit(model, plan=onnxinit.Plan.from_json(json.loads(json.dumps(first.plan.to_json()))))
    assert made(first).SerializeToString() == made(again).SerializeToString()
    assert not any(e.pending for e in first.plan.entries)


def test_any_scheme_can_be_calibrated() -> None:
    feed = {"x": normal(64, 12, scale=9)}
    result = scaled(build(MLP, **SHAPES), feed, "xavier", rules=["w2=zeros"], calibrate=True)
    values = run(made(result), feed, ["a", "d"])
    assert values["a"].std() == pytest.approx(1, abs=1e-5)
    assert findings(result)["w2"].status == "dead"


def test_only_what_is_selected_is_scaled() -> None:
    feed = {"x": normal(64, 12)}
    model = build(MLP, **SHAPES)
    result = scaled(model, feed, include=["w3"])
    assert [f.id for f in findings(result).values()] == ["w3"]
    assert run(made(result), feed)["y"].std() == pytest.approx(1, abs=1e-5)
    assert (tensor(made(result), "w1") == tensor(model, "w1")).all()


def test_a_dry_run_leaves_the_data_alone() -> None:
    result = scaled(build(MLP, **SHAPES), {"x": normal(1, 7)}, dry_run=True)
    assert result.signal is None and all(e.pending == (e.role == "weight") for e in result.plan.entries)


def test_data_that_does_not_fit() -> None:
    with pytest.raises(DataError, match="x"):
        scaled(build(MLP, **SHAPES), {"x": normal(8, 7)})


def test_execution_providers() -> None:
    model, feed = build(MLP, **SHAPES), {"x": normal(8, 12)}
    for name in ("CPU", "CPUExecutionProvider"):
        assert len(findings(scaled(model, feed, provider=name))) == 3
    with pytest.raises(SchemeError, match=r"has no execution provider 'Abacus': it has .*CPUExecutionProvider"):
        scaled(model, feed, provider="Abacus")


@pytest.mark.parametrize("text", ["lsuv:base=nothing", "lsuv:tol=-1", "lsuv:max_iter=0", "lsuv:target_std=0"])
def test_parameters_out_of_range(text: str) -> None:
    with pytest.raises(SchemeError):
        scaled(build(MLP, **SHAPES), {"x": normal(8, 12)}, text)


@settings(max_examples=25)
@given(st.data())
def test_networks_of_any_shape(data: st.DataObject) -> None:
    """Layers on any earlier value, with biases kept or not, sums and joins between them."""
    lines, shapes, widths, layers = list[str](), dict[str, Any](), {"x": 5}, list[str]()
    for i in range(data.draw(st.integers(1, 7))):
        source = data.draw(st.sampled_from(sorted(widths)))
        kind = data.draw(st.sampled_from(["gemm", "matmul", "relu", "join", "add"]))
        name, width = f"v{i}", data.draw(st.integers(2, 9))
        if kind == "gemm":
            lines.append(f"{name} = Gemm ({source}, w{i}, b{i})")
            shapes |= {f"w{i}": [widths[source], width], f"b{i}": normal(width, seed=i, scale=0.3)}
        elif kind == "matmul":
            lines.append(f"{name} = MatMul ({source}, w{i})")
            shapes |= {f"w{i}": [widths[source], width]}
        else:
            other = data.draw(
                st.sampled_from([n for n in sorted(widths) if kind == "join" or widths[n] == widths[source]])
            )
            call = {"relu": f"Elu ({source})", "join": f"Concat <axis = 1> ({source}, {other})"}
            lines.append(f"{name} = {call.get(kind, f'Add ({source}, {other})')}")
            width = widths[source] + (widths[other] if kind == "join" else 0)
        widths[name] = width
        layers += [name] if kind in ("gemm", "matmul") else []
    lines.append(f"y = Identity ({name})")
    text = f"(float[n, 5] x) => (float[n, {widths[name]}] y) {{\n" + "\n".join(lines) + "\n}"
    model, feed = build(text, **shapes), {"x": normal(40, 5, scale=2, shift=0.5)}
    keep = ["role:bias"] if data.draw(st.booleans()) and any(s.startswith("b") for s in shapes) else []
    result = scaled(model, feed, exclude=keep, allow_unmatched=True)
    values = run(made(result), feed, layers)
    stds = findings(result) if layers else {}
    for name in layers:
        found = stds[f"w{name[1:]}"]
        assert found.status == "set" or values[name].std() < 1e-6 or "bias alone" in found.note
        if found.status == "set":
            assert values[name].std() == pytest.approx(1, abs=1e-4)
