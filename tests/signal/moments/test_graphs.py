"""Small graphs: what is predicted of every layer, against closed forms and against drawing the weights many times."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from drawn import Feed, expected, measured, normal, planned
from graphs import build

from onnxinit.signal.moments import Predictions

GELU_SECOND = 1.533530**-2


def stds(predictions: Predictions) -> dict[str, float]:
    return {p.id: p.std for p in predictions.layers}


def gains(model: onnx.ModelProto, scheme: str = "analytic") -> Mapping[str, float]:
    plan, _ = planned(model, scheme)
    return {e.id: e.gain for e in plan.entries if isinstance(e.gain, float) and e.role == "weight"}


def check(model: onnx.ModelProto, feed: Feed, draws: int = 40, bias: float = 0.0) -> Predictions:
    """Predict every layer, draw, and compare: within five standard errors, and `bias` more, of the variance."""
    plan, made = planned(model)
    assert not any(e.pending for e in plan.entries)
    found = measured(model, plan, made, feed, draws)
    assert found
    for p in made.layers:
        if p.id in found:
            assert found[p.id].agrees(p.std, bias), (p.id, p.std, found[p.id])
    return made


# ---------------------------------------------------------------- gains in closed form


@pytest.mark.parametrize(
    ("op", "second"), [("Relu", 0.5), ("Tanh", 0.394294), ("Gelu", GELU_SECOND), ("LeakyRelu", (1 + 0.01**2) / 2)]
)
def test_the_gain_is_that_of_the_upstream_function(op: str, second: float) -> None:
    text = f"(float[n,32] x) => (float[n,8] y) {{ h = MatMul(x, a) z = {op}(h) y = MatMul(z, b) }}"
    found = gains(build(text, 20, a=(32, 64), b=(64, 8)), "analytic:base=lecun")
    assert found["a"] == pytest.approx(1.0)
    assert found["b"] == pytest.approx(second**-0.5, rel=1e-5)


@pytest.mark.parametrize("base", ["he", "xavier", "orthogonal", "lecun", "uniform", "variance_scaling"])
def test_any_base_comes_to_the_same_variance(base: str) -> None:
    model = build("(float[16,32] x) => (float[16,8] y) { h = MatMul(x, a) z = Relu(h) y = MatMul(z, b) }", a=(32, 64), b=(64, 8))  # fmt: skip  # noqa: E501
    plan, made = planned(model, f"analytic:base={base},target_std=2")
    assert stds(made) == pytest.approx({"a": 2.0, "b": 2.0})
    found = measured(model, plan, made, normal(x=(16, 32)), 40)
    assert all(found[i].agrees(2.0) for i in ("a", "b"))


def test_input_moments() -> None:
    model = build("(float[n,32] x) => (float[n,8] y) { y = MatMul(x, a) }", a=(32, 8))
    assert stds(expected(model, "lecun", input_mean=2.0, input_var=5.0)) == pytest.approx({"a": 3.0})


def test_weights_that_are_not_random_count_too() -> None:
    model = build("(float[n,32] x) => (float[n,8] y) { y = MatMul(x, a) }", a=(32, 8))
    (found,) = expected(model, "constant:value=0.5", input_mean=1.0).layers
    assert (found.mean, found.std) == pytest.approx((16.0, 0.5 * math.sqrt(32)))


def test_padding_and_stride() -> None:
    """The ends of a 5 x 5 picture have 2 of 3 taps: (13/15)^2 of 9, with stride 2 (7/9)^2."""
    text = """(float[1,4,5,5] x) => (y) {
        a = Conv<pads = [1,1,1,1]>(x, k) y = Conv<pads = [1,1,1,1], strides = [2,2]>(x, j) }"""
    found = stds(expected(build(text, check=False, k=(8, 4, 3, 3), j=(8, 4, 3, 3)), "lecun"))
    assert found == pytest.approx({"k": 13 / 15, "j": 7 / 9})


def test_a_transposed_convolution_meets_a_part_of_its_taps() -> None:
    text = "(float[1,4,6,6] x) => (y) { y = ConvTranspose<strides = [2,2], pads = [1,1,1,1]>(x, k) }"
    check(build(text, check=False, k=(4, 8, 4, 4)), normal(x=(1, 4, 6, 6)))
    (found,) = expected(build(text, check=False, k=(4, 8, 4, 4)), "normal:std=1").layers
    assert found.std**2 == pytest.approx(4 * (6 * 4 - 2) ** 2 / 12**2)


# ---------------------------------------------------------------- branches


def test_a_branch_of_fresh_weights_is_uncorrelated_with_its_skip() -> None:
    text = "(float[n,64] x) => (float[n,8] y) { h = MatMul(x, a) s = Add(x, h) y = MatMul(s, b) }"
    found = gains(build(text, a=(64, 64), b=(64, 8)), "analytic:base=lecun")
    assert found["b"] == pytest.approx(2**-0.5)


def test_a_value_and_itself_have_twice_the_amplitude() -> None:
    text = "(float[n,64] x) => (float[n,8] y) { h = MatMul(x, a) t = Transpose<perm=[0,1]>(h) s = Add(h, t) y = MatMul(s, b) }"  # noqa: E501
    found = gains(build(text, a=(64, 64), b=(64, 8)), "analytic:base=lecun")
    assert found["b"] == pytest.approx(0.5)


def test_a_value_and_its_function() -> None:
    """x + relu(x) of a normal x: E = (4 + 1) / 2 of the variance; with another branch between them too."""
    text = "(float[n,64] x) => (float[n,8] y) { h = MatMul(x, a) r = Relu(h) s = Add(r, h) y = MatMul(s, b) }"
    assert gains(build(text, a=(64, 64), b=(64, 8)), "analytic:base=lecun")["b"] == pytest.approx(2.5**-0.5)
    text = """(float[n,64] x) => (float[n,8] y) {
        h = MatMul(x, a) g = MatMul(x, c) u = Add(h, g) r = Relu(h) s = Add(r, u) y = MatMul(s, b) }"""
    assert gains(build(text, a=(64, 64), b=(64, 8), c=(64, 64)), "analytic:base=lecun")["b"] == pytest.approx(3.5**-0.5)


def test_gates() -> None:
    """silu(a) * b of two projections."""
    text = """(float[8,64] x) => (float[8,64] y) {
        g = MatMul(x, a) s = Sigmoid(g) w = Mul(g, s) h = MatMul(x, b) m = Mul(w, h) y = MatMul(m, c) }"""
    found = check(build(text, a=(64, 96), b=(64, 96), c=(96, 64)), normal(x=(8, 64)))
    assert stds(found) == pytest.approx({"a": 1.0, "b": 1.0, "c": 1.0})


def test_the_first_use_decides() -> None:
    text = "(float[n,64] x) => (float[n,64] y) { h = MatMul(x, a) s = Relu(h) y = MatMul(s, a) }"
    _, made = planned(build(text, a=(64, 64)))
    assert (made.layers[0].std, made.layers[0].later) == (1.0, (pytest.approx(0.5**0.5),))


# ---------------------------------------------------------------- places


@pytest.mark.parametrize(
    "pool",
    [
        "GlobalAveragePool(r)",
        "MaxPool<kernel_shape = [2,2], strides = [2,2]>(r)",
        "AveragePool<kernel_shape = [3,3], strides = [2,2]>(r)",
        "GlobalMaxPool(r)",
    ],
)
def test_pools(pool: str) -> None:
    """After a rectifier; what one draw of the kernel shares is no noise that a mean takes away."""
    text = f"(float[4,8,9,9] x) => (y) {{ h = Conv(x, k) r = Relu(h) p = {pool} y = Conv(p, j) }}"
    check(build(text, check=False, k=(24, 8, 1, 1), j=(32, 24, 1, 1)), normal(x=(4, 8, 9, 9)), 100)


@pytest.mark.parametrize(
    "norm",
    [
        "LayerNormalization(r, g, b)",
        "Identity(r) z0 = ReduceMean<axes=[-1]>(r) z1 = Sub(r, z0) z2 = Mul(z1, z1) z3 = ReduceMean<axes=[-1]>(z2)"
        " z4 = Sqrt(z3) n = Div(z1, z4)",
        "Identity(r) z2 = Pow(r, two) z3 = ReduceMean<axes=[-1]>(z2) z4 = Sqrt(z3) n = Div(r, z4)",
        "LpNormalization(r)",
        "Softmax(r)",
    ],
)
def test_norms_along_the_features(norm: str) -> None:
    name = "n = " if "n = Div" not in norm else "m = "
    text = f"(float[6,5,32] x) => (y) {{ h = MatMul(x, a) r = Relu(h) {name}{norm} y = MatMul(n, c) }}"
    model = build(text, check=False, a=(32, 48), c=(48, 32), g=np.ones(48, np.float32), b=np.zeros(48, np.float32),
                  two=np.array(2.0, np.float32))  # fmt: skip
    check(model, normal(x=(6, 5, 32)), 60, bias=0.02)


@pytest.mark.parametrize(
    "norm", ["n = InstanceNormalization(r, g, b)", "n, m, s = BatchNormalization<training_mode = 1>(r, g, b, u, v)"]
)
def test_norms_along_places(norm: str) -> None:
    """What the places of a channel share, and its mean, go; what is left has variance one."""
    text = f"(float[4,8,9,9] x) => (y) {{ h = Conv(x, k) r = Relu(h) {norm} y = Conv(n, j) }}"
    ones, zeros = np.ones(24, np.float32), np.zeros(24, np.float32)
    model = build(text, check=False, k=(24, 8, 1, 1), j=(32, 24, 1, 1), g=ones, b=zeros, u=zeros, v=ones)
    check(model, normal(x=(4, 8, 9, 9)), 40)


def test_a_kernel_that_the_graph_normalises_keeps_its_gain() -> None:
    text = """(float[n,64] x) => (y) {
        q = Mul(w, w) m = ReduceMean<axes=[1], keepdims=1>(q) s = Sqrt(m) k = Div(w, s) t = Transpose<perm=[1,0]>(k)
        y = MatMul(x, t) }"""
    plan, made = planned(build(text, check=False, w=(32, 64)))
    assert "normalises" in made.layers[0].note
    assert made.layers[0].std == pytest.approx(8.0, rel=0.01)
    assert plan.entries[0].gain == pytest.approx(2**0.5)  # of the base


ATTENTION = """(float[6,12,32] x) => (y) {
    q = MatMul(x, a) k = MatMul(x, b) v = MatMul(x, c) t = Transpose<perm=[0,2,1]>(k)
    s = MatMul(q, t) u = Mul(s, scale) %s o = MatMul(p, v) y = MatMul(o, d) }"""


@pytest.mark.parametrize("scale", [32**-0.5, 0.5, 0.0])
@pytest.mark.parametrize("body", ["p = Softmax(u)", "w = Add(u, mask) p = Softmax(w)"])
def test_attention(scale: float, body: str) -> None:
    mask = np.triu(np.full((12, 12), -1e9, np.float32), 1)
    weights = {n: (32, 32) for n in "abcd"}
    model = build(ATTENTION % body, check=False, scale=np.array(scale, np.float32), mask=mask, **weights)  # type: ignore[arg-type]
    check(model, normal(x=(6, 12, 32)), 60, bias=0.06)


def test_looked_up_rows() -> None:
    text = "(int64[8,20] i) => (y) { e = Gather(table, i) m = ReduceMean<axes=[1], keepdims=0>(e) y = MatMul(m, a) }"
    model = build(text, check=False, table=(40, 24), a=(24, 16))
    check(model, lambda rng: {"i": rng.integers(0, 40, (8, 20))}, 100)


@pytest.mark.parametrize(
    "body",
    [
        "z = Concat<axis = 1>(h, r)",
        "p, q = Split<axis = 1, num_outputs = 2>(h) s = Sigmoid(q) z = Mul(p, s)",
        "c = Constant<value = int64[6] {0, 0, 1, 0, 0, 1}>() z = Pad(r, c)",
        "z = ReduceMean<axes = [0]>(r)",
        "e = ReduceMax<axes = [1]>(h) z = Mul(h, e)",
        "t = Transpose<perm = [0, 2, 1]>(r) z0 = MatMul(t, w) z = Transpose<perm = [0, 2, 1]>(z0)",
        "z = CumSum(h, one)",
        "z = LogSoftmax<axis = 1>(h)",
        "z = Hardmax<axis = 1>(h)",
        "z = ThresholdedRelu<alpha = 0.5>(h)",
        "g = Neg(h) m = Max(h, g) z = Min(m, r)",
        "f = Abs(h) f1 = Sqrt(f) z = Div(h, two)",
    ],
)
def test_other_operators(body: str) -> None:
    """A layer along the channels before and after."""
    text = f"(float[6,16,12] x) => (y) {{ h = Conv(x, k) r = Relu(h) {body} y = Conv(z, j) }}"
    if "num_outputs" in body:
        text = text.replace(", num_outputs = 2", "")
    channels = 64 if "Concat" in body else 16 if "Split" in body else 32
    constants = {"one": np.array(2, np.int64), "two": np.array(2.0, np.float32)}
    model = build(text, check=False, opset=17, k=(32, 16, 1), j=(24, channels, 1), w=(32, 32), **constants)  # type: ignore[arg-type]
    check(model, normal(x=(6, 16, 12)), 60, bias=0.04)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resized_pictures(mode: str) -> None:
    text = f"""(float[4,8,7,7] x) => (y) {{ h = Conv(x, k) s = Constant<value = float[4] {{1.0, 1.0, 2.0, 2.0}}>()
        z = Resize<mode = "{mode}">(h, e, s) y = Conv(z, j) }}"""
    model = build(text, check=False, k=(16, 8, 1, 1), j=(16, 16, 1, 1), e=np.zeros(0, np.float32))
    check(model, normal(x=(4, 8, 7, 7)), 60)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent_operators(op: str) -> None:
    """The input's part of the gates has unit variance, and what reads the states is right about them."""
    gates, hidden = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 24
    text = (
        f"(float[9,8,16] x) => (y) {{ h = {op}<hidden_size = {hidden}>(x, w, r) s = Squeeze(h, one) y = MatMul(s, a) }}"
    )
    model = build(text, check=False, w=(1, gates * hidden, 16), r=(1, gates * hidden, hidden), a=(hidden, 12),
                  one=np.array([1]))  # fmt: skip
    made = check(model, normal(x=(9, 8, 16)), 60, bias=0.08)
    assert stds(made) == pytest.approx({"w": 1.0, "a": 1.0})


def test_experts_of_an_einsum() -> None:
    text = """(float[6,32] x) => (y) {
        h = Einsum<equation = "bi,eij->bej">(x, a) y = Einsum<equation = "bej,ejk->bk">(h, b) }"""
    check(build(text, check=False, a=(4, 32, 24), b=(4, 24, 16)), normal(x=(6, 32)))


def test_quantise_pairs_are_transparent() -> None:
    text = """(float[16,32] x) => (y) {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) w = DequantizeLinear(c, s, z) y = MatMul(d, w) }"""
    model = build(text, check=False, c=np.arange(-64, 64, dtype=np.int8).reshape(32, 4).repeat(4, 1),
                  s=np.array(0.05, np.float32), z=np.array(0, np.int8))  # fmt: skip
    check(model, normal(x=(16, 32)), 40, bias=0.02)


# ---------------------------------------------------------------- what is said


def test_a_stored_range_cuts_off() -> None:
    """Codes of 8 bits in steps of 1/128, around 0: what leaves them is z cut off at -1 and 127/128."""
    text = """(float[n,64] x) => (float[n,8] y) <float step = {0.0078125}, int8 zero = {0}> {
        h = MatMul(x, a) q = QuantizeLinear(h, step, zero) d = DequantizeLinear(q, step, zero) y = MatMul(d, b) }"""
    found = gains(build(text, 20, a=(64, 64), b=(64, 8)), "analytic:base=lecun")
    z = np.linspace(-9.0, 9.0, 360_001)
    mass = np.exp(-0.5 * z * z) / np.exp(-0.5 * z * z).sum()
    assert found["b"] == pytest.approx(float(mass @ np.clip(z, -1.0, 127 / 128) ** 2) ** -0.5, rel=1e-3)


@pytest.mark.parametrize("step", [1, 2])
def test_the_mean_of_a_padded_picture(step: int) -> None:
    """Of ones: sum of w_j c_j / n^2, c_j the number of the n^2 places where the tap j meets the picture."""
    text = f"""(float[1,4,5,5] x) => (y) {{
        a = Conv<pads = [1,1,1,1], strides = [{step},{step}]>(x, k) g = GlobalAveragePool(a) y = Conv(g, j) }}"""
    found = stds(
        expected(build(text, check=False, k=(8, 4, 3, 3), j=(8, 8, 1, 1)), "lecun", input_mean=1.0, input_var=0.0)
    )
    tap, n = ([4, 5, 4], 5) if step == 1 else ([2, 3, 2], 3)
    assert found["j"] == pytest.approx(sum(c * c for c in tap) / (3 * n * n))


def test_the_mean_of_a_spread_picture() -> None:
    """A kernel of 2 with stride 2: an output shares its tap with a quarter of the others."""
    text = """(float[1,4,3,3] x) => (y) {
        a = ConvTranspose<strides = [2,2]>(x, k) g = GlobalAveragePool(a) y = Conv(g, j) }"""
    found = stds(
        expected(
            build(text, check=False, k=(4, 8, 2, 2), j=(8, 8, 1, 1)), "normal:std=0.5", input_mean=1.0, input_var=0.0
        )
    )
    assert found["j"] == pytest.approx(math.sqrt(8 * 0.25 * 4 * 0.25 / 4))


def test_operators_without_a_rule_are_named() -> None:
    text = "(float[n,32] x) => (y) { h = MatMul(x, a) z = local.Strange(h) y = MatMul(z, b) }"
    _, made = planned(build(text, check=False, a=(32, 64), b=(64, 8)))
    assert made.without_rule == (("local.Strange", 1),)
    assert stds(made) == pytest.approx({"a": 1.0, "b": 1.0})


def test_a_layer_that_nothing_reaches_keeps_its_base() -> None:
    text = "(float[n,32] x) => (y) { z = Mul(x, none) y = MatMul(z, a) }"
    plan, made = planned(build(text, check=False, a=(32, 8), none=np.zeros(1, np.float32)))
    assert "nothing reaches it" in made.layers[0].note
    assert "nothing reaches it" in plan.entries[0].why
    assert plan.entries[0].gain == pytest.approx(2**0.5)


def test_loops_are_told() -> None:
    body = (
        """(int64 i, bool c, float[2,8] h) => (bool o, float[2,8] n) { o = Identity(c) m = MatMul(h, w) n = Tanh(m) }"""
    )
    text = f"(float[2,8] x, int64 count, bool go) => (y) {{ y = Loop<body = b {body}>(count, go, x) }}"
    _, made = planned(build(text, check=False, w=(8, 8)))
    assert made.loops
    assert stds(made) == pytest.approx({"w": 1.0})


def test_a_plan_without_analytic_entries_is_as_it_was() -> None:
    model = build("(float[n,32] x) => (y) { y = MatMul(x, a) }", check=False, a=(32, 8))
    plan, made = planned(model, "he")
    assert plan.entries[0].gain == pytest.approx(2**0.5)
    assert stds(made) == pytest.approx({"a": 2**0.5})


def test_other_schemes_in_the_same_plan_count() -> None:
    text = "(float[n,32] x) => (y) { h = MatMul(x, a) y = MatMul(h, b) }"
    _, made = planned(build(text, check=False, a=(32, 64), b=(64, 8)), "analytic", ("a=normal:std=1",))
    assert stds(made) == pytest.approx({"a": 32**0.5, "b": 1.0})


def test_the_same_gains_again() -> None:
    text = "(float[n,9,16] x) => (y) { h = LSTM<hidden_size = 8>(x, w, r) y = MatMul(h, a) }"
    model = build(text, check=False, w=(1, 32, 16), r=(1, 32, 8), a=(8, 4))
    assert planned(model)[0] == planned(model)[0]
