"""balance: rates of change against gradients worked out by hand or one weight after the other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import build
from onnx import numpy_helper
from oracle import normal, run

import onnxinit
from onnxinit.analysis import analyse
from onnxinit.errors import SchemeError
from onnxinit.model import ModelFile
from onnxinit.signal.passes.balance import PROBES, Rates, rates
from onnxinit.signal.run.supply import Supply
from onnxinit.signal.run.walk import Walk

Numbers = np.ndarray[Any, np.dtype[Any]]

LINEAR = """(float[n, 12] x) => (float[n, 6] y) {
    a = MatMul (x, w1)
    b = Gemm <transB = 1> (a, w2)
    y = MatMul (b, w3)
}"""
RELU = """(float[n, 12] x) => (float[n, 6] y) {
    a = MatMul (x, w1)
    p = Relu (a)
    b = Gemm <transB = 1> (p, w2)
    q = Relu (b)
    y = MatMul (q, w3)
}"""
SHAPES = {"w1": [12, 40], "w2": [25, 40], "w3": [25, 6]}
BIASED = """(float[n, 12] x) => (float[n, 6] y) {
    a = Gemm (x, w1, b1)
    p = Relu (a)
    b = Gemm <transB = 1> (p, w2, b2)
    q = Relu (b)
    m = MatMul (q, w3)
    y = Add (m, b3)
}"""


def scaled(model: onnx.ModelProto, x: Numbers, scheme: str = "lsuv:balance=true", **more: Any) -> onnxinit.Result:
    return onnxinit.reinit(model, scheme=scheme, data={"x": x}, **more)


def made(result: onnxinit.Result) -> onnx.ModelProto:
    assert result.model is not None
    return result.model


def tensor(model: onnx.ModelProto, name: str) -> Numbers:
    return np.asarray(numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name)), np.float64)


def note(result: onnxinit.Result) -> str:
    assert result.signal is not None
    return result.signal.notes[-1]


def estimated(model: onnx.ModelProto, result: onnxinit.Result, x: Numbers, probes: int) -> dict[str, float]:
    file = ModelFile.of(model)
    analysis = analyse(file)
    feeds = [{"x": half} for half in np.split(x, 2)]
    weights = [w for w in analysis.weights if w.role == "weight"]
    walk = Walk(Supply(result.plan, analysis, file), feeds, weights)
    walk.run(lambda layer: None)
    found = rates(walk, result.plan, weights, feeds, probes)
    assert isinstance(found, Rates)
    return dict(found.each)


def by_hand(model: onnx.ModelProto, x: Numbers, relu: bool) -> dict[str, tuple[float, float]]:
    """r by backpropagation, and the relative standard error of r^2 from one normal direction in place of all.

    J of a weight has, for sample i and output k, the row delta_ik x_i^T. |J V|^2 = sum of s^2 chi^2 over its singular
    values s: a relative variance of 2 sum s^4 / (sum s^2)^2.
    """
    w1, w2, w3 = tensor(model, "w1").T, tensor(model, "w2"), tensor(model, "w3").T
    a = x @ w1.T
    p = np.maximum(a, 0) if relu else a
    b = p @ w2.T
    q = np.maximum(b, 0) if relu else b
    on_a, on_b = (a > 0, b > 0) if relu else (np.ones(a.shape), np.ones(b.shape))
    found: dict[str, tuple[float, float]] = {}
    for name, w, fed, back in (
        ("w1", w1, x, lambda i: (w3 * on_b[i]) @ w2 * on_a[i]),
        ("w2", w2, p, lambda i: w3 * on_b[i]),
        ("w3", w3, q, lambda i: np.eye(6)),
    ):
        rows = [np.kron(back(i), fed[i][None]) for i in range(len(x))]
        jacobian = np.concatenate(rows)  # of vec(W), units first
        squares = np.linalg.svd(jacobian, compute_uv=False) ** 2
        error = math.sqrt(2 * (squares**2).sum()) / squares.sum()
        found[name] = math.sqrt(squares.sum() / w.size / np.square(w).mean()), error
    return found


# ---------------------------------------------------------------- the estimate


@pytest.mark.parametrize("text, relu", [(LINEAR, False), (RELU, True)], ids=["linear", "relu"])
def test_rates_are_those_of_the_gradient(text: str, relu: bool) -> None:
    model, x, probes = build(text, **SHAPES), normal(20, 12), 100
    result = scaled(model, x, "he")
    found = estimated(model, result, x, probes)
    for name, (rate, error) in by_hand(made(result), x, relu).items():
        kinks = 0.01 if relu else 0.0  # a step of finite length crosses some
        assert found[name] ** 2 == pytest.approx(rate**2, rel=5 * error / math.sqrt(probes) + kinks), name


def test_the_rate_of_a_convolution_sums_over_its_places() -> None:
    """Against the outputs' change with one value of the kernel after the other."""
    text = """(float[n, 2, 8] x) => (float[n, 3, 4] y) {
        a = Conv <pads = [1, 1]> (x, w1)
        r = Relu (a)
        y = Conv <strides = [2], pads = [1, 0]> (r, w2)
    }"""
    model, x = build(text, w1=[4, 2, 3], w2=[3, 4, 2]), normal(20, 2, 8)
    result = scaled(model, x, "he")
    probes = 100
    found = estimated(model, result, x, probes)
    for name in ("w1", "w2"):
        rows = []
        for at in range(tensor(made(result), name).size):
            rows.append([])
            for step in (1e-3, -1e-3):
                moved = onnx.ModelProto()
                moved.CopyFrom(made(result))
                held = next(t for t in moved.graph.initializer if t.name == name)
                values = numpy_helper.to_array(held).copy()
                values.reshape(-1)[at] += step
                held.CopyFrom(numpy_helper.from_array(values, name))
                rows[-1].append(run(moved, {"x": x})["y"].reshape(-1))
        jacobian = np.stack([(up - down) / 2e-3 for up, down in rows])
        squares = np.linalg.svd(jacobian, compute_uv=False) ** 2
        w = tensor(made(result), name)
        error = math.sqrt(2 * (squares**2).sum() / probes) / squares.sum()
        expected = squares.sum() / w.size / np.square(w).mean()
        assert found[name] ** 2 == pytest.approx(expected, rel=5 * error + 0.02), name


# ---------------------------------------------------------------- the scales


@pytest.mark.parametrize("text, relu", [(LINEAR, False), (RELU, True)], ids=["linear", "relu"])
def test_layers_change_at_the_same_rate(text: str, relu: bool) -> None:
    model, x = build(text, **SHAPES), normal(40, 12)
    before, after = (
        scaled(model, x, f"lsuv:balance={b}", rules=[f"w2=lsuv:target_std=4,balance={b}"]) for b in ("false", "true")
    )
    apart = []
    for result in (before, after):
        hand = by_hand(made(result), x, relu)
        squares = [rate**2 for rate, _ in hand.values()]
        apart.append(max(squares) / min(squares))
    assert apart[0] > 1e4 and apart[1] < 2  # squares, each estimated to 10 or 20 %
    steps = {n: tensor(made(after), n) / tensor(made(before), n) for n in SHAPES}
    assert all(s.std() < 1e-5 * s.mean() for s in steps.values())  # one scale for a weight
    assert math.prod(float(s.mean()) for s in steps.values()) == pytest.approx(1, rel=0.01)
    outputs = [run(made(result), {"x": x})["y"] for result in (before, after)]
    assert outputs[1] == pytest.approx(outputs[0], rel=0.01, abs=0.01)
    assert note(after).startswith("rates of change of 3 layers balanced in 1 round: the largest is 1 times the least")


def test_the_scale_is_the_root_of_the_rate_over_the_mean() -> None:
    """s = sqrt(r / t): with the r of the very directions that were looked along."""
    model, x = build(LINEAR, **SHAPES), normal(40, 12)
    before, after = (scaled(model, x, f"lsuv:balance={b}") for b in ("false", "true"))
    rate = estimated(model, before, x, PROBES)
    mean = math.prod(rate.values()) ** (1 / 3)
    for name, r in rate.items():
        step = tensor(made(after), name) / tensor(made(before), name)
        assert float(step.mean()) == pytest.approx(math.sqrt(r / mean), rel=1e-3)


def test_biases_go_with_their_layers() -> None:
    """Where functions are homogeneous, all that changes is the scale of every layer's output."""
    tensors = {**SHAPES, "b1": [40], "b2": [25], "b3": [6]}
    model, x = build(BIASED, **tensors), normal(60, 12, shift=1)
    before, after = (scaled(model, x, f"lsuv:center=true,balance={b}") for b in ("false", "true"))
    assert all(np.abs(tensor(made(after), b)).max() > 0.01 for b in ("b1", "b2", "b3"))
    one, two = (run(made(result), {"x": x}, ["a", "b"]) for result in (before, after))
    for name in ("a", "b", "y"):
        factor = two[name].std() / one[name].std()
        assert two[name] == pytest.approx(one[name] * factor, abs=1e-4 * factor)
    assert two["y"].std() == pytest.approx(one["y"].std(), rel=0.03)


def test_biases_of_zero_stay_as_they_are() -> None:
    result = scaled(build(BIASED, **SHAPES, b1=[40], b2=[25], b3=[6]), normal(60, 12))
    assert [(str(e.scheme), e.gain) for e in result.plan.entries if e.role == "bias"] == [("zeros", 1.0)] * 3


def test_what_is_told_is_what_the_file_gives() -> None:
    text = """(float[n, 3, 8, 8] x) => (float[n, 5] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)
        c = BatchNormalization (a, s, b, m, v)
        r = Relu (c)
        d = Conv (r, w2)
        t = Tanh (d)
        g = GlobalAveragePool (t)
        f = Flatten (g)
        y = Gemm (f, w3)
    }"""
    model = build(text, w1=[6, 3, 3, 3], s=[6], b=[6], m=[6], v=[6], w2=[7, 6, 3, 3], w3=[7, 5])
    x = normal(32, 3, 8, 8, scale=2)
    result = scaled(model, x)
    values = run(made(result), {"x": x}, ["a", "d"])
    assert result.signal is not None
    for f, name in zip(result.signal.layers, ("a", "d", "y"), strict=True):
        assert f.after == pytest.approx(values[name].std(), rel=1e-4)
        assert f.mean == pytest.approx(values[name].mean(), abs=1e-4)
    assert tensor(made(result), "m") == pytest.approx(values["a"].mean(axis=(0, 2, 3)), abs=1e-4)
    assert tensor(made(result), "v") == pytest.approx(values["a"].var(axis=(0, 2, 3)), rel=1e-3)
    entries = {e.id: e for e in result.plan.entries}
    assert set(result.signal.norms) == {"m", "v"} and entries["m"].measured is not None


def test_functions_that_saturate_take_several_rounds() -> None:
    layers = "\n".join(f"a{i} = MatMul (t{i}, w{i}) t{i + 1} = Tanh (a{i})" for i in range(6))
    model = build(f"(float[n, 12] x) => (float[n, 12] y) {{ t0 = Identity (x) {layers} y = Identity (t6) }}",
                  **{f"w{i}": [12, 12] for i in range(6)})  # fmt: skip
    result = scaled(model, normal(80, 12), "lsuv:target_std=2,balance=true")
    rounds = int(note(result).partition("balanced in ")[2].split()[0])
    least, before = (float(t.split()[0]) for t in note(result).split("largest is ")[1].split("been "))
    assert 1 < rounds <= 10 and least < 1.2 < before


def test_branches_of_unlike_depth() -> None:
    """Two heads on a trunk, where the step for a chain goes the wrong way."""
    text = """(float[n, 12] x) => (float[n, 12] y, float[n, 12] z) {
        a = MatMul (x, w0)
        r = Relu (a)
        b = MatMul (r, w1)
        y = Relu (b)
        c = MatMul (r, w2)
        d = MatMul (c, w3)
        e = MatMul (d, w4)
        f = MatMul (e, w5)
        g = MatMul (f, w6)
        z = MatMul (g, w7)
    }"""
    model = build(text, **{f"w{i}": [12, 12] for i in range(8)})
    result = scaled(model, normal(64, 12), "lsuv:balance=true", rules=["w4=lsuv:target_std=3,balance=true"])
    least, before = (float(t.split()[0]) for t in note(result).split("largest is ")[1].split("been "))
    assert before > 5 and least < 1.02


def test_one_layer_has_nothing_to_be_balanced_with() -> None:
    result = scaled(build("(float[n, 12] x) => (float[n, 4] y) { y = MatMul (x, w) }", w=[12, 4]), normal(30, 12))
    assert note(result).startswith("rates of change are not balanced: fewer than two layers")


def test_the_softmax_of_the_loss_is_left_out() -> None:
    x = normal(40, 12)
    ends = [LINEAR, LINEAR.replace("y = MatMul (b, w3)", "z = MatMul (b, w3) y = Softmax (z)")]
    found = [tensor(made(scaled(build(text, **SHAPES), x)), "w2") for text in ends]
    assert (found[0] == found[1]).all()


def test_what_was_learned_is_balanced_too() -> None:
    model, x = build(RELU, **SHAPES), normal(200, 12)
    result = scaled(model, x, "pca:balance=true")
    again = onnxinit.reinit(model, plan=result.plan)
    assert "3 layers balanced in 1 round" in note(result)
    assert all((tensor(made(result), n) == tensor(made(again), n)).all() for n in SHAPES)


def test_outputs_that_say_nothing_of_the_weights() -> None:
    text = LINEAR.replace("=> (float[n, 6] y)", "=> (int64[n, 1] z)").replace("}", "z = ArgMax <axis = 1> (y) }")
    model, x = build(text, **SHAPES), normal(40, 12)
    result, plain = scaled(model, x), scaled(model, x, "lsuv")
    assert note(result) == "rates of change are not balanced: the outputs are constant or not finite"
    assert all((tensor(made(result), n) == tensor(made(plain), n)).all() for n in SHAPES)


def test_balance_is_yes_or_no() -> None:
    with pytest.raises(SchemeError, match="balance must be true or false"):
        scaled(build(LINEAR, **SHAPES), normal(4, 12), "lsuv:balance=maybe")
