"""Add, Mul, Concat and Where: a learned tensor, or a constant?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from graphs import Given, analysed, build, roles, weights

LAYERS: dict[str, Given] = {"w": (8, 8), "u": (8, 8)}


def role(text: str, name: str = "b", **tensors: Given) -> str:
    """The role of a tensor in a graph around the layers w and u, "" where it is kept."""
    return roles(build(f"(float[n,t,8] x) => (y) {{ {text} }}", check=False, **LAYERS, **tensors))[name]


def reason(text: str, name: str = "b", **tensors: Given) -> str:
    """Why a tensor is kept."""
    found = analysed(build(f"(float[n,t,8] x) => (y) {{ {text} }}", check=False, **LAYERS, **tensors))
    return next(k.reason for k in found.kept if k.id == name)


def pattern(*shape: int) -> np.ndarray:
    """Zeros and minus infinity, as in a causal mask."""
    return np.triu(np.full(shape, -np.inf, np.float32), 1)


# ---------------------------------------------------------------- Add

BIASES: list[tuple[str, Given]] = [
    ("h = MatMul(x, w) y = Add(h, b)", (8,)),
    ("h = MatMul(x, w) y = Add(b, h)", (1, 1, 8)),
    ("h = MatMul(x, w) y = Sub(h, b)", (8,)),
    ("h = MatMul(x, w) y = Sum(h, b)", (8,)),
    ("h = MatMul(x, w) c = Cast<to = 10>(h) d = Cast<to = 1>(c) y = Add(d, b)", (8,)),
    ("h = MatMul(x, w) s = Constant<value = float {0.5}>() c = Mul(h, s) y = Add(c, b)", (8,)),
    ("c = Cast<to = 1>(b) h = MatMul(x, w) y = Add(h, c)", (8,)),
    ("a = Constant<value = int64[1] {0}>() c = Unsqueeze(b, a) h = MatMul(x, w) y = Add(h, c)", (8,)),
    ("s = Constant<value = int64[2] {1, 8}>() c = Reshape(b, s) h = MatMul(x, w) y = Add(h, c)", (8,)),
    ("t = Transpose(w) h = MatMul(x, t) d = Dropout(h) y = Add(d, b)", (8,)),
]


@pytest.mark.parametrize(("text", "shape"), BIASES)
def test_a_vector_added_behind_a_layer_is_its_bias(text: str, shape: Given) -> None:
    assert role(text, b=shape) == "bias"


def test_the_bias_of_a_layer_of_one_output() -> None:
    found = weights(build("(float[n,8] x) => (y) { h = MatMul(x, w) y = Add(h, b) }", check=False, w=(8, 1), b=(1,)))
    assert (found["b"].role, found["b"].fan_in) == ("bias", 8)


def test_the_biases_of_a_batch_of_layers() -> None:
    found = weights(
        build("(float[3,n,4] x) => (y) { h = MatMul(x, w) y = Add(h, b) }", check=False, w=(3, 4, 5), b=(3, 1, 5))
    )
    assert (found["b"].role, found["b"].fan_in) == ("bias", 4)


def test_the_bias_of_a_convolution_that_stands_alone() -> None:
    found = weights(
        build("(float[n,3,9,9] x) => (y) { h = Conv(x, w) y = Add(h, b) }", check=False, w=(6, 3, 3, 3), b=(6, 1, 1))
    )
    assert (found["b"].role, found["b"].fan_in) == ("bias", 27)


@pytest.mark.parametrize("shape", [(1, 16, 8), (16, 8)])
def test_a_table_added_to_a_sequence_is_positional(shape: Given) -> None:
    assert role("h = MatMul(x, w) r = Relu(h) y = Add(r, b)", b=shape) == "positional"


def test_a_table_added_to_a_projection_is_no_bias() -> None:
    """As in vision transformers: the patches are projected, flattened, turned, and a table is added."""
    model = build(
        """(float[n,3,8,8] x) => (y) { h = Conv<strides = [4, 4]>(x, w, v) s = Constant<value = int64[3] {0, 6, -1}>()
        r = Reshape(h, s) t = Transpose<perm = [0, 2, 1]>(r) y = Add(t, b) }""",
        check=False,
        w=(6, 3, 4, 4),
        v=(6,),
        b=(1, 4, 6),
    )
    assert roles(model)["b"] == "positional"


@pytest.mark.parametrize("given", [np.float32(0.5), np.array([2.0], np.float32), np.array([[[1e-5]]], np.float32)])
def test_a_number_added_is_a_constant(given: np.ndarray) -> None:
    text = "h = MatMul(x, w) r = Relu(h) y = Add(r, b)"
    assert role(text, b=np.asarray(given)) == ""
    assert reason(text, b=np.asarray(given)) == "a scalar constant"


def test_a_mask_before_a_softmax_is_a_constant() -> None:
    text = "h = MatMul(x, w) t = Transpose<perm = [0, 2, 1]>(h) q = MatMul(h, t) m = Add(q, b) y = Softmax(m)"
    assert role(text, b=pattern(5, 5)) == ""
    assert "mask" in reason(text, b=pattern(5, 5))


def test_a_learned_bias_before_a_softmax_is_positional() -> None:
    """As in windowed transformers: a table of its own per head is added to the scores."""
    text = "h = MatMul(x, w) t = Transpose<perm = [0, 2, 1]>(h) q = MatMul(h, t) m = Add(q, b) y = Softmax(m)"
    assert role(text, b=(5, 5)) == "positional"


def test_a_mask_elsewhere_is_a_constant() -> None:
    assert role("h = MatMul(x, w) r = Relu(h) y = Add(r, b)", b=np.tril(np.ones((8, 8), np.float32))) == ""


def test_the_mean_that_a_picture_gets_back_is_a_constant() -> None:
    """As in super-resolution: the last convolution has a bias, and the data's mean is added to what it makes."""

    def found(*bias: str) -> dict[str, str]:
        text = f"(float[1,4,9,9] x) => (y) {{ h = Conv({', '.join(('x', 'w', *bias))}) y = Add(h, m) }}"
        return roles(build(text, check=False, w=(3, 4, 3, 3), m=(1, 3, 1, 1), **{name: (3,) for name in bias}))

    assert found("b") == {"w": "weight", "b": "bias", "m": ""}
    assert found() == {"w": "weight", "m": "bias"}


def test_the_shift_of_a_picture_is_a_constant() -> None:
    text = "c = Sub(x, b) d = Div(c, s) y = MatMul(d, w)"
    given: dict[str, Given] = {
        "b": np.linspace(0.4, 0.5, 8).astype(np.float32),
        "s": np.linspace(0.2, 0.3, 8).astype(np.float32),
    }
    assert "shift" in reason(text, "b", **given)
    assert role(text, "s", **given) == ""


# ---------------------------------------------------------------- Mul

SCALED = "h = MatMul(x, w) r = Tanh(h) s = MatMul(r, u) m = Mul(s, b) y = Add(x, m)"


@pytest.mark.parametrize(
    ("here", "there"), [("Mul(s, b)", "Mul(s, b)"), ("Mul(s, b)", "Mul(b, s)"), ("Add(x, m)", "Add(m, x)")]
)
def test_a_vector_before_a_residual_sum_is_a_layer_scale(here: str, there: str) -> None:
    assert role(SCALED.replace(here, there), b=(8,)) == "layer_scale"


def test_a_layer_scale_that_starts_small_everywhere_is_one_all_the_same() -> None:
    assert role(SCALED, b=np.full(8, 1e-5, np.float32)) == "layer_scale"


def test_a_layer_scale_of_channels() -> None:
    model = build(
        """(float[n,6,9,9] x) => (y) { h = Conv<pads = [1, 1, 1, 1]>(x, w) r = Relu(h) m = Mul(r, b) y = Add(m, x) }""",
        check=False,
        w=(6, 6, 3, 3),
        b=(6, 1, 1),
    )
    assert roles(model)["b"] == "layer_scale"


@pytest.mark.parametrize("given", [0.125, 2.0, 0.17677669, 1.702, 1 / 3, math.inf, -math.inf, math.nan])
def test_a_number_that_was_written_down_is_a_constant(given: float) -> None:
    """1/8, 2, 1/sqrt(32), ...: scales of attention and of activations."""
    value = np.array(given, np.float32)
    assert role("h = MatMul(x, w) m = Mul(h, b) y = MatMul(m, u)", b=value) == ""
    assert role(SCALED, b=value) == ""


def test_the_gain_of_a_residual_branch() -> None:
    assert role(SCALED, b=np.array([0.0], np.float32)) == "layer_scale"
    assert role(SCALED, b=np.array([0.8312795], np.float32)) == "layer_scale"


def test_a_zero_that_an_exporter_wrote_is_no_gain() -> None:
    """As baddbmm with beta = 0: its first operand, times zero, is added."""
    text = "zero = Constant<value = float {0.0}>() h = MatMul(x, w) z = MatMul(x, u) m = Mul(z, zero) y = Add(h, m)"
    assert set(weights(build(f"(float[n,t,8] x) => (y) {{ {text} }}", check=False, **LAYERS))) == set(LAYERS)


def test_rotary_tables_are_constants() -> None:
    text = """h = MatMul(x, w) a, c = Split<axis = -1>(h) n = Neg(c) r = Concat<axis = -1>(n, a) p = Mul(h, b)
        q = Mul(r, sin) s = Add(p, q) y = MatMul(s, u)"""
    angle = np.outer(np.arange(16), 10000.0 ** (-np.arange(8) / 8))
    tables = {"b": np.cos(angle).astype(np.float32), "sin": np.sin(angle).astype(np.float32)}
    assert reason(text, "b", **tables) == reason(text, "sin", **tables) == "a rotary table"


def test_frequencies_of_sine_and_cosine_are_constants() -> None:
    text = "h = MatMul(x, w) m = Mul(h, b) s = Sin(m) c = Cos(m) j = Concat<axis = -1>(s, c) y = Relu(j)"
    assert reason(text, b=(8,)) == "a frequency of sine and cosine"


def test_the_frequency_of_a_periodic_activation_is_learned() -> None:
    """That of Snake, x + sin(a x)^2 / b."""
    text = "h = MatMul(x, w) m = Mul(h, b) s = Sin(m) q = Mul(s, s) y = Add(h, q)"
    assert role(text, b=(8,)) == "other"
    assert role(text, b=np.ones(8, np.float32)) == "other"


def test_a_temperature_that_is_stored_as_its_logarithm_is_learned() -> None:
    """CLIP's; other numbers of the file stand in Constant nodes."""
    text = "two = Constant<value = float {2.0}>() c = Mul(x, two) e = Exp(b) h = MatMul(c, w) y = Mul(h, e)"
    model = build(
        f"(float[n,t,8] x) => (y) {{ {text} }}", check=False, w=(8, 8), b=np.array(np.log(1 / 0.07), np.float32)
    )
    (found,) = [w for w in weights(model).values() if w.name == "b"]
    assert (found.role, found.default) == ("other", None)


def test_a_mask_that_multiplies_is_a_constant() -> None:
    assert role("h = MatMul(x, w) y = Mul(h, b)", b=np.tril(np.ones((8, 8), np.float32))) == ""


def test_a_learned_factor_elsewhere_is_other() -> None:
    assert role("h = MatMul(x, w) r = Tanh(h) m = Mul(r, b) y = MatMul(m, u)", b=(8,)) == "other"


def test_a_product_that_is_summed_up_is_a_layer() -> None:
    found = weights(
        build(
            """(float[n,t,8] x) => (y) { h = MatMul(x, w) r = Tanh(h) m = Mul(r, b)
            a = Constant<value = int64[1] {-1}>() y = ReduceSum(m, a) }""",
            check=False,
            w=(8, 8),
            b=(8,),
        )
    )
    assert (found["b"].role, found["b"].fan_in) == ("weight", 8)


# ---------------------------------------------------------------- Concat, Where


def test_a_class_token_is_a_token() -> None:
    text = """h = MatMul(x, w) s = Shape(h) i = Constant<value = int64[1] {0}>() n = Gather(s, i)
        k = Constant<value = int64[2] {1, 8}>() d = Concat<axis = 0>(n, k) c = Expand(b, d)
        y = Concat<axis = 1>(c, h)"""
    assert role(text, b=(1, 1, 8)) == "token"


@pytest.mark.parametrize("given", [np.zeros((1, 1, 8), np.float32), np.array([[[0.0]]], np.float32)])
def test_padding_that_is_joined_is_a_constant(given: np.ndarray) -> None:
    assert reason("h = MatMul(x, w) y = Concat<axis = 1>(h, b)", b=given) == "padding joined to a signal"


def test_a_mask_token_is_a_token() -> None:
    model = build(
        "(float[n,t,8] x, bool[n,t,1] hide) => (y) { h = MatMul(x, w) y = Where(hide, b, h) }",
        check=False,
        w=(8, 8),
        b=(8,),
    )
    assert roles(model)["b"] == "token"


def test_a_fill_value_is_a_constant() -> None:
    model = build(
        "(float[n,t,8] x, bool[n,t,8] hide) => (y) { h = MatMul(x, w) y = Where(hide, b, h) }",
        check=False,
        w=(8, 8),
        b=np.array(-1e9, np.float32),
    )
    (kept,) = analysed(model).kept
    assert kept.reason == "a fill value"


# ---------------------------------------------------------------- arithmetic that makes a weight


def test_a_standardised_kernel_is_a_weight_and_its_gain_is_other() -> None:
    model = build(
        """(float[n,3,9,9] x) => (y) { m = ReduceMean<axes = [1, 2, 3]>(w) c = Sub(w, m) q = Mul(c, c)
        v = ReduceMean<axes = [1, 2, 3]>(q) e = Add(v, eps) r = Sqrt(e) k = Div(c, r) g = Mul(k, b) y = Conv(x, g) }""",
        check=False,
        w=(6, 3, 3, 3),
        b=(6, 1, 1, 1),
        eps=np.array(1e-5, np.float32),
    )
    found = analysed(model)
    assert {w.id: w.role for w in found.weights} == {"w": "weight", "b": "other"}
    assert (found.by_id["w"].fan_in, found.by_id["w"].fan_out) == (27, 54)
    assert [k.id for k in found.kept] == ["eps"]


def test_a_masked_kernel_is_a_weight_and_its_mask_a_constant() -> None:
    model = build(
        "(float[n,8] x) => (y) { m = Mul(w, b) t = Transpose(m) y = MatMul(x, t) }",
        check=False,
        w=(6, 8),
        b=np.tril(np.ones((6, 8), np.float32)),
    )
    assert roles(model) == {"w": "weight", "b": ""}
    assert (weights(model)["w"].fan_in, weights(model)["w"].fan_out) == (21 / 6, 21 / 8)


# ---------------------------------------------------------------- several learned numbers


def test_weights_of_a_fusion_are_learned() -> None:
    """Fast normalised fusion (EfficientDet): each number, made positive and divided by their sum, weighs a signal."""
    text = """h = MatMul(x, w) g = MatMul(x, u) p = Relu(b) s = ReduceSum(p) e = Constant<value = float {0.0001}>()
        a = Add(s, e) n = Div(p, a) i = Constant<value = int64 {0}>() j = Constant<value = int64 {1}>()
        k = Gather<axis = 0>(n, i) l = Gather<axis = 0>(n, j) c = Mul(h, k) d = Mul(g, l) y = Add(c, d)"""
    for start in (np.array([0.31, 0.84], np.float32), np.ones(2, np.float32)):
        assert role(text, b=start) == "other"


def test_a_threshold_for_every_channel_is_learned() -> None:
    assert role("h = MatMul(x, w) y = Max(h, b)", b=(8,)) == "other"
    assert role("h = MatMul(x, w) y = Max(h, b)", b=np.zeros(8, np.float32)) == ""
    assert role("h = MatMul(x, w) y = Min(h, b)", b=np.array(6, np.float32)) == ""


def test_zeros_that_a_gate_forgets_are_a_first_state() -> None:
    text = "h = MatMul(x, w) f = Sigmoid(h) c = Mul(f, b) k = MatMul(x, u) y = Add(c, k)"
    assert role(text, b=np.zeros((1, 8), np.float32)) == ""
    assert role("h = MatMul(x, w) c = Mul(h, b) y = Add(c, x)", b=np.zeros(8, np.float32)) == "layer_scale"


def test_what_is_summed_up_to_a_kernel_is_learned() -> None:
    """The modes of a diagonal state space: their sum is the kernel of a convolution."""
    model = build(
        """(float[1,3,16] x) => (y) { e = Exp(a) m = Mul(e, times) k = Exp(m) c = Mul(k, b) f = ReduceSum(c, one)
        g = Unsqueeze(f, one) y = Conv<group = 3>(x, g) }""",
        check=False, a=(3, 4, 1), b=(3, 4, 1), times=-np.arange(6, dtype=np.float32), one=np.array([1]),
    )  # fmt: skip
    assert roles(model) == {"a": "other", "b": "other", "times": "", "one": ""}


def test_a_number_that_scales_a_table_is_learned() -> None:
    text = "two = Constant<value = float {2.0}>() h = MatMul(x, w) n = Mul(b, t) a = Add(h, n) y = Mul(a, two)"
    for given, expected in ((0.7134212, "other"), (0.5, "")):
        assert role(text, b=np.array([given], np.float32), t=(1, 16, 8)) == expected


# ---------------------------------------------------------------- products with tables that somebody wrote down


def test_zeros_and_ones_that_sum_up_or_pick_places_are_no_weights() -> None:
    text = "(float[n,8] x) => (float[n,8] y) { y = MatMul(x, w) }"
    eye = np.eye(8, dtype=np.float32)
    for table in (np.triu(np.ones((8, 8), np.float32)), eye[::-1].copy(), eye[:, [0, 0, 1, 1, 2, 2, 3, 3]]):
        assert roles(build(text, w=table)) == {"w": ""}
    for kernel in (eye, np.ones((8, 8), np.float32), np.zeros((8, 8), np.float32), np.sign(table - 0.5)):
        assert roles(build(text, w=kernel)) == {"w": "weight"}
