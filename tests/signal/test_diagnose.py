"""Diagnosis: figures against numpy, which has the singular values; words on networks that are built to deserve them."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from graphs import build
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from oracle import normal, run

import onnxinit
from onnxinit.errors import DataError
from onnxinit.signal import Diagnosis, Gradient, LayerHealth

Numbers = npt.NDArray[np.float64]


def mlp(weights: list[Any], act: str = "", biases: list[Any] | None = None) -> onnx.ModelProto:
    """x @ w0 + b0, the activation, x @ w1 + b1 ... without an activation at the end."""
    lines, name = list[str](), "x"
    for i in range(len(weights)):
        bias = f", b{i}" if biases else ""
        lines.append(f"z{i} = Gemm ({name}, w{i}{bias})")
        name = f"z{i}"
        if act and i + 1 < len(weights):
            lines.append(f"a{i} = {act} (z{i})")
            name = f"a{i}"
    body = "\n".join([*lines, f"y = Identity ({name})"])
    tensors = {f"w{i}": w.astype(np.float32) for i, w in enumerate(weights)}
    tensors |= {f"b{i}": b.astype(np.float32) for i, b in enumerate(biases or [])}
    head = f"(float[n, {weights[0].shape[0]}] x) => (float[n, {weights[-1].shape[1]}] y)"
    return build(f"{head} {{ {body} }}", **tensors)


def drawn(*sizes: int, var: float = 1.0, seed: int = 0) -> list[Numbers]:
    """Matrices with variance var/fan_in."""
    rng = np.random.default_rng(seed)
    return [rng.normal(0, math.sqrt(var / a), (a, b)) for a, b in itertools.pairwise(sizes)]


def rotations(width: int, depth: int) -> list[Numbers]:
    rng = np.random.default_rng(3)
    return [np.linalg.qr(rng.standard_normal((width, width)))[0] for _ in range(depth)]


def layers(found: Diagnosis) -> dict[str, LayerHealth]:
    return {h.id: h for h in found.layers}


def gradient(h: LayerHealth) -> Gradient:
    assert h.gradient is not None
    return h.gradient


def square(g: Gradient | None) -> float:
    assert g is not None
    assert g.mean_square is not None
    return g.mean_square


def check(g: Gradient | None, jacobians: list[Numbers], probes: int, slack: float = 0.0) -> None:
    """See that a figure is |J|_F^2 / n, of the J of every sample (m, n), within five standard errors of the probes.

    For v on the sphere in n dimensions Var(v^T A v) = 2 (tr A^2 / n - (tr A / n)^2) / (n + 2) with A = J^T J; a batch
    of samples is one J of blocks, of which each probe sees all. A float32 output is rounded to 6e-8 of itself, and its
    change, a hundredth of that or less where signs cancel, so much the worse: a part in a thousand is allowed.
    """
    assert g is not None
    n = sum(j.shape[1] for j in jacobians)
    first = sum(float((j**2).sum()) for j in jacobians) / n
    second = sum(float(((j.T @ j) ** 2).sum()) for j in jacobians) / n
    error = math.sqrt(max(2 * (second - first**2) / (n + 2), 0) / probes)
    assert square(g) == pytest.approx(first, abs=5 * error + (1e-3 + slack) * first)
    assert g.size == n
    assert g.backward == pytest.approx(square(g) * n / g.outputs)
    if probes >= 1000:  # of one value in many directions the ratio is a chi square with a kurtosis of 15 at most
        assert g.error == pytest.approx(error, rel=5 * math.sqrt(14 / (4 * probes)))


# ---------------------------------------------------------------- the gradient against numpy


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, 24), min_size=2, max_size=5), st.integers(2, 6), st.integers(0, 99))
def test_linear_networks_have_the_singular_values_of_their_product(sizes: list[int], samples: int, seed: int) -> None:
    weights = drawn(*sizes, seed=seed)
    found = onnxinit.diagnose(mlp(weights), data={"x": normal(samples, sizes[0], seed=seed)}, probes=32, threads=1)
    whole = weights[0].T
    for w in weights[1:]:
        whole = w.T @ whole
    check(found.input, [whole] * samples, 32)
    after = np.eye(sizes[-1])
    for i in reversed(range(len(weights))):
        check(layers(found)[f"w{i}"].gradient, [after] * samples, 32)
        after = after @ weights[i].T


def test_the_error_is_the_standard_error_over_the_probes() -> None:
    weights = drawn(9, 12, 11, 5)
    found = onnxinit.diagnose(mlp(weights), data={"x": normal(2, 9)}, probes=1000, threads=1, gradient_layers=0)
    check(found.input, [(weights[0] @ weights[1] @ weights[2]).T] * 2, 1000)


def test_rotations_keep_lengths_so_that_nothing_is_left_to_chance() -> None:
    found = onnxinit.diagnose(mlp(rotations(16, 20)), data={"x": normal(4, 16)}, gradient_layers=30, threads=1)
    for h in found.layers:
        g = gradient(h)
        assert (square(g), g.backward) == pytest.approx((1.0, 1.0), rel=1e-4)
        assert g.error == pytest.approx(0, abs=1e-5)
    assert found.verdict == "healthy"


@pytest.mark.parametrize("var", [2.0, 1.0, 5.0])
def test_relu_networks_have_the_singular_values_of_the_paths_that_are_open(var: float) -> None:
    weights = drawn(40, 60, 50, 30, 8, var=var)
    x = normal(5, 40, seed=1)
    found = onnxinit.diagnose(mlp(weights, "Relu"), data={"x": x}, probes=64, threads=1)
    open_, value = list[Numbers](), x.astype(np.float64)
    for w in weights[:-1]:
        value = np.maximum(value @ w, 0)
        open_.append((value > 0).astype(np.float64))
    jacobians = {"": [np.eye(40)] * 5}
    for i, w in enumerate(weights):
        start = jacobians.pop("")
        jacobians |= {
            k: [w.T @ j for j in js] for k, js in {**jacobians, "input": jacobians.get("input", start)}.items()
        }
        jacobians[f"w{i}"] = [np.eye(w.shape[1])] * 5
        if i < len(open_):
            jacobians = {k: [open_[i][s][:, None] * j for s, j in enumerate(js)] for k, js in jacobians.items()}
        jacobians[""] = []
    check(found.input, jacobians["input"], 64, slack=0.02)
    for i in range(len(weights)):
        check(layers(found)[f"w{i}"].gradient, jacobians[f"w{i}"], 64, slack=0.02)


def test_a_response_that_is_not_small_is_measured_with_a_smaller_perturbation() -> None:
    """Chaos: tanh networks with large weights double what is small and fold what is not."""
    weights = drawn(*[80] * 13, var=6.0)
    x = normal(3, 80, seed=2)
    found = onnxinit.diagnose(mlp(weights, "Tanh"), data={"x": x}, probes=32, threads=1)
    jacobians, value = [np.eye(80)] * 3, x.astype(np.float64)
    for i, w in enumerate(weights):
        value = value @ w
        jacobians = [w.T @ j for j in jacobians]
        if i + 1 < len(weights):
            value = np.tanh(value)
            jacobians = [(1 - value[s] ** 2)[:, None] * j for s, j in enumerate(jacobians)]
    assert found.input is not None
    assert found.input.step < 1e-2
    check(found.input, jacobians, 32, slack=0.1)


def jacobian(model: onnx.ModelProto, feed: dict[str, Any], name: str) -> Numbers:
    """Of a model that is linear in one of its inputs: what it makes of every basis vector."""
    base = np.concatenate([v.ravel() for v in run(model, {**feed, name: np.zeros_like(feed[name])}).values()])
    columns = []
    for i in range(feed[name].size):
        unit = np.zeros(feed[name].size, np.float32)
        unit[i] = 1
        made = run(model, {**feed, name: unit.reshape(feed[name].shape)})
        columns.append(np.concatenate([v.ravel() for v in made.values()]) - base)
    return np.stack(columns, axis=1)


def test_convolutions_pooling_shortcuts_and_several_outputs() -> None:
    model = build(
        """(float[n, 3, 6, 6] x) => (float[n, 4, 3, 3] half, float[n, 7] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
            b = Conv <pads = [1, 1, 1, 1]> (a, w2)
            s = Add (a, b)
            half = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (s)
            f = Flatten (half)
            y = MatMul (f, w3)
        }""",
        w1=[4, 3, 3, 3],
        b1=[4],
        w2=[4, 4, 3, 3],
        w3=[36, 7],
    )
    x = normal(1, 3, 6, 6)
    found = onnxinit.diagnose(model, data={"x": x}, probes=64, threads=1)
    check(found.input, [jacobian(model, {"x": x}, "x")], 64)
    assert found.input is not None
    assert found.input.outputs == 36 + 7
    inner = onnx.ModelProto()
    inner.CopyFrom(model)
    del inner.graph.node[0], inner.graph.input[:]
    inner.graph.input.append(onnx.helper.make_tensor_value_info("a", 1, [1, 4, 6, 6]))
    check(layers(found)["w1"].gradient, [jacobian(inner, {"a": normal(1, 4, 6, 6)}, "a")], 64)


def test_figures_are_the_same_however_many_probes_are_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = mlp(drawn(9, 20, 4, var=2), "Relu"), {"x": normal(10, 9)}
    found = onnxinit.diagnose(model, data=data, threads=1)
    monkeypatch.setattr("onnxinit.signal.health.gradients._MOST", 1)
    alone = onnxinit.diagnose(model, data=data, threads=1)
    assert [square(gradient(h)) for h in alone.layers] == pytest.approx([square(gradient(h)) for h in found.layers])


def test_batches_take_turns() -> None:
    weights = drawn(9, 20, 4)
    found = onnxinit.diagnose(mlp(weights), data={"x": normal(12, 9)}, batch_size=4, probes=33, threads=1)
    check(found.input, [(weights[0] @ weights[1]).T] * 4, 33)
    assert found.samples == 12


# ---------------------------------------------------------------- where the signal starts


def test_ids_start_at_their_embeddings() -> None:
    model = build(
        """(int64[n, 5] ids) => (float[n, 5, 6] y) {
            e = Gather (table, ids)
            y = MatMul (e, w)
        }""",
        table=[11, 8],
        w=[8, 6],
    )
    found = onnxinit.diagnose(model, probes=64, threads=1, samples=2)
    w = numpy_helper.to_array(model.graph.initializer[1]).astype(np.float64)
    assert "'e'" in found.start
    check(found.input, [w.T] * 10, 64)


def test_inputs_that_do_not_vary_are_left_alone() -> None:
    """A mask of ones that is made a penalty of thousands must not be perturbed."""
    model = build(
        """(float[n, 8] x, float[n, 6] mask) => (float[n, 6] y) {
            a = MatMul (x, w)
            o = Sub (mask, one)
            p = Mul (o, large)
            y = Add (a, p)
        }""",
        w=[8, 6],
        one=np.ones(1, np.float32),
        large=np.full(1, 1e4, np.float32),
    )
    found = onnxinit.diagnose(
        model, data={"x": normal(4, 8), "mask": np.ones((4, 6), np.float32)}, probes=64, threads=1
    )
    w = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    assert found.start == "the input 'x'"
    check(found.input, [w.T] * 4, 64)


# ---------------------------------------------------------------- the signal against numpy


def test_moments_are_those_of_the_output_with_its_bias() -> None:
    model = build(
        """(float[n, 12] x) => (float[n, 5] y) {
            a = Gemm (x, w1, b1)
            r = Relu (a)
            c = MatMul (r, w2)
            d = Add (c, b2)
            t = Tanh (d)
            y = Gemm (t, w3)
        }""",
        w1=[12, 40],
        b1=[40],
        w2=[40, 30],
        b2=[30],
        w3=[30, 5],
    )
    x = normal(50, 12, shift=0.5)
    found = layers(onnxinit.diagnose(model, data={"x": x}, batch_size=16, gradient_layers=0, threads=1))
    values = run(model, {"x": x}, ["a", "d", "r", "t"])
    for ident, name in (("w1", "a"), ("w2", "d"), ("w3", "y")):
        assert found[ident].std == pytest.approx(values[name].std(), rel=1e-5)
        assert found[ident].mean == pytest.approx(values[name].mean(), rel=1e-4, abs=1e-5)
        assert found[ident].non_finite == 0
    assert found["w1"].dead == np.mean((values["r"] == 0).all(axis=0))
    assert found["w2"].saturated == pytest.approx(np.mean(1 - values["t"] ** 2 < 0.05), abs=0.02)
    assert [found[i].activation for i in ("w1", "w2", "w3")] == ["Relu", "Tanh", ""]
    assert (found["w1"].saturated, found["w3"].saturated, found["w1"].gradient) == (None, None, None)


@pytest.mark.parametrize(
    ("act", "low", "high"),
    [
        ("Tanh (z)", -math.atanh(math.sqrt(0.95)), math.atanh(math.sqrt(0.95))),  # 1 - tanh^2 = 0.05
        ("Sigmoid (z)", -4.357, 4.357),  # s (1 - s) = 0.05 / 4
        ("Clip (z, zero, six)", -math.inf, 6.0),
        ("Clip (z, less, one)", -1.0, 1.0),
        ("HardSigmoid <alpha = 0.25> (z)", -2.0, 2.0),
        ("Softsign (z)", 1 - math.sqrt(20), math.sqrt(20) - 1),  # (1 + |z|)^-2 = 0.05
    ],
)
def test_values_are_saturated_where_the_activation_is_flat(act: str, low: float, high: float) -> None:
    numbers = {"zero": 0.0, "six": 6.0, "less": -1.0, "one": 1.0}
    tensors = {k: np.array(v, np.float32) for k, v in numbers.items() if k in act}
    model = build(
        f"(float[n, 20] x) => (float[n, 30] y) {{ z = MatMul (x, w)\n y = {act} }}",
        w=4 * normal(20, 30) / math.sqrt(20),
        **tensors,
    )
    x = normal(40, 20, seed=1)
    found = onnxinit.diagnose(model, data={"x": x}, gradient_layers=0, threads=1).layers[0]
    z = run(model, {"x": x}, ["z"])["z"]
    more, fewer = (np.mean((z < low + d) | (z > high - d)) for d in (0.03, -0.03))
    assert found.saturated is not None
    assert 0 < fewer <= found.saturated <= more < 1


@pytest.mark.parametrize("act", ["Relu (n)", "LeakyRelu (n)", "Elu (n)", "Gelu (n)", "Identity (n)"])
def test_functions_without_bounds_do_not_saturate(act: str) -> None:
    model = build(f"(float[n, 6] x) => (float[n, 5] y) {{ n = MatMul (x, w)\n y = {act} }}", opset=20, w=[6, 5])
    assert onnxinit.diagnose(model, gradient_layers=0, threads=1).layers[0].saturated is None


def test_units_are_dead_behind_a_norm_a_transpose_and_in_channels() -> None:
    """Three of eight channels are pushed below zero by the shift of the norm."""
    shift = np.array([1, -99, 2, -99, 0, 0.5, -99, 3], np.float32)
    model = build(
        """(float[n, 3, 5, 5] x) => (float[n, 5, 5, 8] y) {
            a = Conv <kernel_shape = [1, 1]> (x, w)
            b = BatchNormalization (a, scale, shift, mean, var)
            c = Transpose <perm = [0, 2, 3, 1]> (b)
            y = Relu (c)
        }""",
        w=[8, 3, 1, 1],
        scale=np.ones(8, np.float32),
        shift=shift,
        mean=np.zeros(8, np.float32),
        var=np.ones(8, np.float32),
    )
    found = onnxinit.diagnose(model, gradient_layers=0, threads=1).layers[0]
    assert (found.dead, found.activation) == (3 / 8, "Relu")


def test_too_few_values_say_nothing_of_units() -> None:
    found = onnxinit.diagnose(mlp(drawn(6, 5)), data={"x": normal(7, 6)}, gradient_layers=0, threads=1)
    assert found.layers[0].dead is None
    found = onnxinit.diagnose(mlp(drawn(6, 5)), data={"x": normal(8, 6)}, gradient_layers=0, threads=1)
    assert found.layers[0].dead == 0


# ---------------------------------------------------------------- words


def words(found: Diagnosis) -> set[tuple[str, str]]:
    return {(t.kind, t.of) for t in found.troubles}


DEEP = [64] * 30


def test_a_deep_tanh_network_with_small_weights_vanishes() -> None:
    found = onnxinit.diagnose(mlp(drawn(*DEEP, 10, var=0.4), "Tanh"), threads=1)
    assert words(found) == {("vanishing", "signal"), ("vanishing", "gradient")}
    signal = next(t for t in found.troubles if t.of == "signal")
    assert 13 <= int(signal.id[1:]) <= 19  # 0.4^(l/2) = 1e-3 at l = 15
    back = next(t for t in found.troubles if t.of == "gradient")
    assert 18 <= int(back.id[1:]) <= 23  # 0.4^(29 - l) = 1e-3 at l = 21.5, among the layers that are measured
    assert found.verdict == "vanishing"


def test_a_deep_tanh_network_with_large_weights_explodes_and_saturates() -> None:
    found = onnxinit.diagnose(mlp(drawn(*DEEP, 10, var=16), "Tanh"), threads=1)
    assert words(found) == {("exploding", "gradient"), ("saturated", "units")}
    assert found.verdict == "exploding"
    assert found.troubles[1].id == "w0"


def test_a_deep_tanh_network_of_rotations_is_healthy() -> None:
    found = onnxinit.diagnose(mlp(rotations(64, 30), "Tanh"), threads=1)
    assert (found.verdict, found.troubles) == ("healthy", ())


@pytest.mark.parametrize(("var", "kinds"), [(2.0, set()), (0.7, {"vanishing"}), (6.0, {"exploding"})])
def test_deep_relu_networks(var: float, kinds: set[str]) -> None:
    found = onnxinit.diagnose(mlp(drawn(*[256] * 30, 10, var=var), "Relu"), threads=1)
    assert words(found) == {(kind, of) for kind in kinds for of in ("signal", "gradient")}


def test_dead_layers() -> None:
    weights = drawn(20, 30, 30, 5, var=2)
    biases = [np.zeros(30), np.full(30, -50.0), np.zeros(5)]
    found = onnxinit.diagnose(mlp(weights, "Relu", biases), threads=1)
    assert found.verdict == "dead"
    assert layers(found)["w1"].dead == layers(found)["w2"].dead == 1
    assert words(found) == {("dead", "units"), ("vanishing", "gradient")}
    assert found.troubles[0].id == "w1"


def test_values_that_are_not_finite() -> None:
    found = onnxinit.diagnose(mlp([1e25 * w for w in drawn(20, 30, 30, 5)], "Relu"), threads=1)
    assert (found.verdict, found.troubles[0].id) == ("non-finite", "w1")
    h = layers(found)["w1"]
    assert 0.5 < h.non_finite <= 1
    assert (h.std, gradient(h).mean_square, gradient(h).error) == (None, None, None)
    json.dumps(found.to_json(), allow_nan=False)


def test_what_float16_cannot_hold_is_not_finite() -> None:
    model = build(
        "(float16[n, 8] x) => (float16[n, 6] y) { y = MatMul (x, w) }",
        w=(2e4 * normal(8, 6).clip(-3, 3)).astype(np.float16),
    )
    x = normal(64, 8)
    h = onnxinit.diagnose(model, data={"x": x}, threads=1).layers[0]
    w = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    exact = np.abs(x.astype(np.float16).astype(np.float64) @ w)
    assert 0.1 < h.non_finite == pytest.approx(np.mean(exact > 65504), abs=0.005)
    assert h.std is not None


# ---------------------------------------------------------------- graphs


def test_the_branch_that_the_data_takes() -> None:
    model = build(
        """(float[n, 4] x, bool flag) => (float[n, 3] y) {
            h = MatMul (x, w)
            t = If (flag) <
                then_branch = g1 () => (float[n, 3] a) { a = MatMul (h, w1) },
                else_branch = g2 () => (float[n, 3] b) { b = MatMul (h, w2) }
            >
            y = Relu (t)
        }""",
        w=[4, 5],
        w1=[5, 3],
        w2=[5, 3],
    )
    found = onnxinit.diagnose(model, data={"x": normal(9, 4), "flag": np.array(False)}, threads=1, probes=2)
    assert list(layers(found)) == ["w", "w2"]
    assert [ident for ident, _ in found.missed] == ["w1"]
    assert all(h.gradient is not None for h in found.layers)


def test_outputs_behind_an_operator_that_cannot_be_run_are_named() -> None:
    model = build(
        """(float[n, 4] x) => (float[n, 5] y, float[n, 3] z) {
            y = MatMul (x, w)
            o = local.Strange (y)
            z = MatMul (o, w2)
        }""",
        check=False,
        w=[4, 5],
        w2=[5, 3],
    )
    found = onnxinit.diagnose(model, threads=1, probes=32, samples=3)
    assert any("no gradient of 'z'" in note and "Strange" in note for note in found.notes)
    assert [ident for ident, _ in found.missed] == ["w2"]
    w = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    check(found.input, [w.T] * 3, 32)


def test_noise_in_the_graph_is_the_same_in_every_run() -> None:
    model = build(
        """(float[n, 4] x) => (float[n, 5] y) {
            a = MatMul (x, w)
            r = RandomNormalLike (a)
            y = Add (a, r)
        }""",
        w=[4, 5],
    )
    found = onnxinit.diagnose(model, threads=1, probes=32, samples=3)
    w = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    check(found.input, [w.T] * 3, 32)


def test_a_recurrent_layer_is_measured_on_its_product() -> None:
    model = build(
        """(float[7, n, 4] x) => (float[7, 1, n, 5] y) {
            y, h, c = LSTM <hidden_size = 5> (x, w, r)
        }""",
        w=[1, 20, 4],
        r=[1, 20, 5],
    )
    x = normal(7, 3, 4)
    (h,) = onnxinit.diagnose(model, data={"x": x}, threads=1).layers
    w = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    assert h.std == pytest.approx((x @ w[0].T).std(), rel=1e-4)
    assert "product" in h.note
    assert h.gradient is not None


def test_of_a_recurrent_layer_the_result_that_is_used_is_perturbed() -> None:
    model = build(
        """(float[7, n, 4] x) => (float[1, n, 3] y) {
            all, last = GRU <hidden_size = 5> (x, w, r)
            y = MatMul (last, v)
        }""",
        w=[1, 15, 4],
        r=[1, 15, 5],
        v=[5, 3],
    )
    found = layers(onnxinit.diagnose(model, data={"x": normal(7, 3, 4)}, threads=1, probes=64))
    v = numpy_helper.to_array(model.graph.initializer[2]).astype(np.float64)
    check(found["w"].gradient, [v.T] * 3, 64)


def test_two_uses_of_a_weight_are_two_layers() -> None:
    model = build(
        "(float[n, 6] x) => (float[n, 6] y) { a = MatMul (x, w)\n r = Relu (a)\n y = MatMul (r, w) }", w=[6, 6]
    )
    x = normal(20, 6)
    found = onnxinit.diagnose(model, data={"x": x}, threads=1)
    values = run(model, {"x": x}, ["a"])
    assert [h.std for h in found.layers] == pytest.approx([values["a"].std(), values["y"].std()], rel=1e-5)


def test_a_model_without_layers_is_unknown() -> None:
    found = onnxinit.diagnose(build("(float[n, 6] x) => (float[n, 6] y) { y = Relu (x) }"), threads=1)
    assert (found.verdict, found.layers, found.troubles) == ("unknown", (), ())
    assert square(found.input) == pytest.approx(0.5, abs=0.25)


# ---------------------------------------------------------------- before and after


def test_reinit_looks_before_and_after() -> None:
    model = mlp(drawn(*DEEP, 10, var=0.4), "Tanh")
    result = onnxinit.reinit(model, scheme="orthogonal", diagnose=True, threads=1)
    assert isinstance(result.before, Diagnosis)
    assert result.after is not None
    assert (result.before.verdict, result.after.verdict) == ("vanishing", "healthy")
    again = onnxinit.diagnose(result.model, threads=1)
    assert again.layers == result.after.layers
    json.dumps(result.after.to_json(), allow_nan=False)


def test_a_generator_is_enough_for_before_and_after() -> None:
    feeds = ({"x": normal(5, 12, seed=n)} for n in range(2))
    model = mlp(drawn(12, 9, 4), "Relu")
    result = onnxinit.reinit(model, scheme="he", diagnose=True, data=feeds, threads=1)
    assert isinstance(result.before, Diagnosis)
    assert result.after is not None
    assert (result.before.samples, result.after.samples) == (10, 10)


def test_too_few_probes() -> None:
    with pytest.raises(DataError, match="--probes is 1: give 2 or more"):
        onnxinit.diagnose(mlp(drawn(4, 3)), probes=1)


def test_a_model_without_float_outputs_ends_at_its_last_layer() -> None:
    model = build(
        """(float[n, 9] x) => (int64[n, 1] best) {
            a = MatMul (x, w1)
            b = MatMul (a, w2)
            best = ArgMax <axis = 1> (b)
        }""",
        w1=[9, 7],
        w2=[7, 5],
    )
    found = onnxinit.diagnose(model, threads=1, probes=64, samples=3)
    w1, w2 = (numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer)
    check(found.input, [(w1 @ w2).T] * 3, 64)
    assert any("no float output" in note for note in found.notes)


def test_outputs_whose_shape_follows_from_the_values_are_named() -> None:
    model = build(
        """(float[n, 9] x) => (float[n, 5] y, float[k] some) {
            y = MatMul (x, w)
            near = Abs (y)
            few = Less (near, bound)
            flat = Reshape (few, all)
            some = Compress (y, flat)
        }""",
        w=[9, 5],
        bound=np.array(1, np.float32),
        all=np.array([-1], np.int64),
    )
    found = onnxinit.diagnose(model, threads=1, probes=64)
    assert any("no gradient of 'some', whose shape follows from the values" in note for note in found.notes)
    w = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    check(found.input, [w.T] * 8, 64)
