from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from graphs import build, nodes, view_of
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from scipy import integrate, stats

from onnxinit.analysis import pointwise
from onnxinit.analysis.pointwise import POINTWISE, Array, Expressions, affine_fit, is_pointwise, moments

# E[f], 1/sqrt(E[f^2]), 1/sqrt(E[f'^2]) for z ~ N(0, 1), six decimals.
TABLE = {
    "relu": (lambda x: np.maximum(x, 0), 0.398942, 1.414214, 1.414214),
    "leaky .01": (lambda x: pointwise.leaky_relu(x, 0.01), 0.394953, 1.414143, 1.414143),
    "leaky .2": (lambda x: pointwise.leaky_relu(x, 0.2), 0.319154, 1.386750, 1.386750),
    "leaky .25": (lambda x: pointwise.leaky_relu(x, 0.25), 0.299207, 1.371989, 1.371989),
    "elu": (pointwise.elu, 0.160521, 1.245198, 1.223429),
    "selu": (pointwise.selu, 0.0, 1.0, 0.966026),
    "gelu": (pointwise.gelu, 0.282095, 1.533530, 1.481114),
    "gelu_tanh": (pointwise.gelu_tanh, 0.282039, 1.533581, 1.481168),
    "silu": (lambda x: x * pointwise.sigmoid(x), 0.206621, 1.676532, 1.623320),
    "mish": (lambda x: x * np.tanh(pointwise.softplus(x)), 0.240404, 1.486848, 1.444755),
    "hardswish": (lambda x: x * pointwise.hardsigmoid(x, 1 / 6), 0.166217, 1.736657, 1.670076),
    "hardsigmoid": (pointwise.hardsigmoid, 0.5, 1.859834, 5.031341),
    "sigmoid": (pointwise.sigmoid, 0.5, 1.846229, 4.722646),
    "tanh": (np.tanh, 0.0, 1.592537, 1.467414),
    "softplus": (pointwise.softplus, 0.806059, 1.041867, 1.846229),
    "softsign": (lambda x: x / (1 + np.abs(x)), 0.0, 2.337533, 2.095781),
}


@pytest.mark.parametrize("name", TABLE)
def test_moments_are_those_of_the_literature(name: str) -> None:
    f, mean, forward, backward = TABLE[name]
    first, second, derivative = moments(f)
    assert first == pytest.approx(mean, abs=1e-6)
    assert 1 / math.sqrt(second) == pytest.approx(forward, abs=1e-6)
    assert 1 / math.sqrt(derivative) == pytest.approx(backward, abs=1e-6)


@given(st.floats(-3, 3), st.floats(-1, 1), st.floats(-2, 2))
def test_moments_of_a_function_with_a_kink_anywhere(kink: float, left: float, right: float) -> None:
    def f(x: Array) -> Array:
        return np.where(x > kink, right * (x - kink), left * (x - kink)) + 0.5

    first, second, derivative = moments(f)
    limits = {"points": [kink], "epsabs": 1e-10, "limit": 200}
    p = stats.norm.pdf
    assert first == pytest.approx(integrate.quad(lambda x: float(f(x)) * p(x), -10, 10, **limits)[0], abs=2e-5)
    assert second == pytest.approx(integrate.quad(lambda x: float(f(x)) ** 2 * p(x), -10, 10, **limits)[0], abs=5e-5)
    exact = left**2 * stats.norm.cdf(kink) + right**2 * stats.norm.sf(kink)
    assert derivative == pytest.approx(exact, abs=0.02 * (right - left) ** 2 + 1e-6)  # within one panel of the kink


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_affine_functions_are_told(a: float, b: float) -> None:
    x = pointwise.GRID
    fit = affine_fit(x, a * x + b)
    assert fit is not None and fit == pytest.approx((a, b), abs=1e-9)
    assert affine_fit(x, a * x + b + 0.01 * (x > 1)) is None


def test_a_function_that_is_no_number_somewhere_is_not_affine() -> None:
    with np.errstate(invalid="ignore"):
        assert affine_fit(pointwise.GRID, np.sqrt(pointwise.GRID)) is None


UNARY = [
    *("Relu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Shrink", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf"),
    *(
        "Softplus",
        "Softsign",
        "Mish",
        "Exp",
        "Abs",
        "Neg",
        "Reciprocal",
        "Sign",
        "Sin",
        "Cos",
        "Floor",
        "Ceil",
        "Round",
    ),
    *("LeakyRelu", "Identity", "Gelu", "Atan", "Asinh", "Sinh", "Cosh", "Tan"),
    *("LeakyRelu <alpha = 0.3>", "Elu <alpha = 0.5>", "Celu <alpha = 2.0>", "HardSigmoid <alpha = 0.3, beta = 0.4>"),
    *("ThresholdedRelu <alpha = 0.5>", "Shrink <lambd = 0.7, bias = 0.2>", 'Gelu <approximate = "tanh">'),
    *("Selu <alpha = 1.5, gamma = 1.1>", "Cast <to = 1>", "Cast <to = 7>", "Cast <to = 9>"),
]
BINARY = ["Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Mean", "PRelu", "Greater", "LessOrEqual", "Less", "Equal"]
X = np.linspace(-4.05, 4.05, 82, dtype=np.float32)


def reference(model: onnx.ModelProto, **feed: Array) -> Array:
    result: Array = ReferenceEvaluator(model).run(None, {k: v.astype(np.float32) for k, v in feed.items()})[0]
    return result


@pytest.mark.parametrize("call", UNARY)
def test_operators_of_one_input_agree_with_the_reference(call: str) -> None:
    model = build(f"(float[n] x) => (float[n] y) {{ y = {call} (x) }}", opset=22, check=False)
    (node,) = nodes(view_of(model), call.split()[0])
    assert is_pointwise(node)
    ours = POINTWISE["", node.op](node, [X.astype(np.float64)])
    np.testing.assert_allclose(ours, reference(model, x=X), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("op", BINARY)
def test_operators_of_two_inputs_agree_with_the_reference(op: str) -> None:
    model = build(f"(float[n] x, float[n] z) => (float[n] y) {{ y = {op} (x, z) }}", opset=22, check=False)
    (node,) = nodes(view_of(model), op)
    z = np.roll(X, 13) + np.float32(0.01)
    z[3] = X[3]
    ours = POINTWISE["", op](node, [X.astype(np.float64), z.astype(np.float64)])
    np.testing.assert_allclose(ours, reference(model, x=X, z=z), rtol=2e-5, atol=2e-6)


def test_clip_takes_bounds_as_inputs_and_as_attributes() -> None:
    by_input = build("(float[n] x, float low, float high) => (float[n] y) { y = Clip (x, low, high) }", check=False)
    by_attribute = build("(float[n] x) => (float[n] y) { y = Clip <min = -1.0, max = 2.0> (x) }", opset=6, check=False)
    for model, operands in ((by_input, [X, -1.0, 2.0]), (by_input, [X, None, 2.0]), (by_attribute, [X])):
        (node,) = nodes(view_of(model), "Clip")
        low = -np.inf if operands[1:2] == [None] else -1.0
        np.testing.assert_array_equal(POINTWISE["", "Clip"](node, operands), np.clip(X, low, 2.0))


def test_equal_expressions_are_one_and_others_are_not() -> None:
    view = view_of(
        build(
            "(float[n] x) => (float[n] y) { a = Elu (x) b = Elu (x) c = Elu <alpha = 2.0> (x) d = Relu (x) y = Sum "
            "(a, b, c, d) }"
        )
    )
    table = Expressions()
    a, b, c = (table.make(n, (table.x,)) for n in nodes(view, "Elu"))
    d = table.make(nodes(view, "Relu")[0], (table.x,))
    assert a is b and len({id(e) for e in (a, c, d)}) == 3
    total = table.make(nodes(view, "Sum")[0], (a, b, c, d))
    x = np.array([-1.0, 0.0, 2.0])
    np.testing.assert_allclose(total(x), pointwise.elu(x) * 2 + pointwise.elu(x, 2.0) + np.maximum(x, 0))


def test_a_gelu_with_a_bias_is_not_pointwise() -> None:
    model = build(
        "(float[n] x, float[n] b) => (float[n] y) { a = com.microsoft.FastGelu (x) c = com.microsoft.FastGelu (x, b) "
        "y = Add (a, c) }",
        check=False,
    )
    assert [is_pointwise(n) for n in nodes(view_of(model), "FastGelu")] == [True, False]


def test_infinite_moments_are_none() -> None:
    view = view_of(build("(float[n] x) => (float[n] y) { y = Log (x) }"))
    table = Expressions()
    assert table.make(view.nodes[0], (table.x,)).moments is None
