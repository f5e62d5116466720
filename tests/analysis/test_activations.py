"""Activations in every form that exporters write: named by what they compute, with exact moments, both ways."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from bodies import Around, model_of, view_of
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from onnxinit.analysis.activations import by_name, recognise
from onnxinit.analysis.constants import Constants
from onnxinit.analysis.pointwise import (
    GRID,
    Array,
    celu,
    elu,
    gelu,
    gelu_tanh,
    hardsigmoid,
    leaky_relu,
    moments,
    selu,
    sigmoid,
    softplus,
)
from onnxinit.analysis.regions import Functions

FORMULAS = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "clip": lambda x: np.clip(x, -1, 1),
    "leaky_relu": lambda x: leaky_relu(x, 0.1),
    "elu": elu,
    "selu": selu,
    "celu": lambda x: celu(x, 2.0),
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "silu": lambda x: x * sigmoid(x),
    "mish": lambda x: x * np.tanh(softplus(x)),
    "hardswish": lambda x: x * hardsigmoid(x, 1 / 6),
    "hardsigmoid": lambda x: hardsigmoid(x, 1 / 6),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "softplus": softplus,
    "softsign": lambda x: x / (1 + np.abs(x)),
}

FORMS = [
    ("relu", "y = Relu (h)"),
    ("relu", "y = Max (h, {0})"),
    ("relu", "y = Clip (h, {0})"),
    ("relu", "p = Greater (h, {0}) y = Where (p, h, {0})"),
    ("relu", "p = Greater (h, {0}) f = Cast <to = 1> (p) y = Mul (h, f)"),
    ("relu", "a = Abs (h) s = Add (h, a) y = Mul (s, {0.5})"),
    ("relu6", "y = Clip (h, {0}, {6})"),
    ("relu6", "r = Relu (h) y = Min (r, {6})"),
    ("relu6", "m = Max (h, {0}) y = Min ({6}, m)"),
    ("clip", "y = Clip (h, {-1}, {1})"),
    ("clip", "m = Max (h, {-1}) y = Min (m, {1})"),
    ("leaky_relu", "y = LeakyRelu <alpha = 0.1> (h)"),
    ("leaky_relu", "s = Mul (h, {0.1}) y = Max (h, s)"),
    ("leaky_relu", "p = GreaterOrEqual (h, {0}) s = Mul ({0.1}, h) y = Where (p, h, s)"),
    ("leaky_relu", "n = Neg (h) r = Relu (n) s = Mul (r, {-0.1}) q = Relu (h) y = Add (q, s)"),
    ("elu", "y = Elu (h)"),
    ("elu", "e = Exp (h) m = Sub (e, {1}) p = Greater (h, {0}) y = Where (p, h, m)"),
    ("elu", "n = Min (h, {0}) e = Exp (n) m = Sub (e, {1}) r = Relu (h) y = Add (m, r)"),
    ("selu", "y = Selu (h)"),
    ("selu", "e = Elu <alpha = 1.6732632> (h) y = Mul (e, {1.0507009})"),
    ("selu", "e = Exp (h) m = Sub (e, {1}) a = Mul (m, {1.7580993}) b = Mul (h, {1.0507009}) "
             "p = Greater (h, {0}) y = Where (p, b, a)"),
    ("celu", "y = Celu <alpha = 2.0> (h)"),
    ("celu", "d = Div (h, {2}) e = Elu (d) y = Mul (e, {2})"),
    ("gelu", "y = Gelu (h)"),
    ("gelu", "y = com.microsoft.Gelu (h)"),
    ("gelu", "d = Div (h, {1.4142135381698608}) e = Erf (d) a = Add (e, {1}) m = Mul (h, a) y = Mul (m, {0.5})"),
    ("gelu", "d = Mul (h, {0.70710677}) e = Erf (d) a = Add (e, {1}) c = Mul (h, {0.5}) y = Mul (c, a)"),
    ("gelu", "r = Sqrt ({2}) d = Div (h, r) e = Erf (d) a = Add ({1}, e) c = Mul ({0.5}, h) y = Mul (c, a)"),
    ("gelu_tanh", 'y = Gelu <approximate = "tanh"> (h)'),
    ("gelu_tanh", "y = com.microsoft.FastGelu (h)"),
    ("gelu_tanh", "p = Pow (h, {3}) q = Mul (p, {0.044715}) s = Add (h, q) t = Mul (s, {0.7978846}) u = Tanh (t) "
                  "v = Add (u, {1}) c = Mul (h, {0.5}) y = Mul (c, v)"),
    ("gelu_tanh", "s2 = Mul (h, h) q = Mul (s2, {0.035677408}) s = Add (q, {0.7978846}) t = Mul (h, s) u = Tanh (t) "
                  "a = Mul (u, {0.5}) v = Add (a, {0.5}) y = Mul (h, v)"),
    ("quick_gelu", "s = Mul (h, {1.702}) g = Sigmoid (s) y = Mul (h, g)"),
    ("quick_gelu", "y = com.microsoft.QuickGelu (h)"),
    ("silu", "g = Sigmoid (h) y = Mul (h, g)"),
    ("silu", "y = com.microsoft.QuickGelu <alpha = 1.0> (h)"),
    ("silu", "n = Neg (h) e = Exp (n) a = Add (e, {1}) y = Div (h, a)"),
    ("silu", "a = Identity (h) g = Sigmoid (a) b = Cast <to = 1> (g) y = Mul (b, h)"),
    ("mish", "y = Mish (h)"),
    ("mish", "s = Softplus (h) t = Tanh (s) y = Mul (h, t)"),
    ("mish", "e = Exp (h) a = Add (e, {1}) s = Log (a) t = Tanh (s) y = Mul (t, h)"),
    ("hardswish", "y = HardSwish (h)"),
    ("hardswish", "a = Add (h, {3}) c = Clip (a, {0}, {6}) m = Mul (h, c) y = Div (m, {6})"),
    ("hardswish", "a = Add (h, {3}) c = Clip (a, {0}, {6}) d = Div (c, {6}) y = Mul (h, d)"),
    ("hardswish", "g = HardSigmoid <alpha = 0.16666667> (h) y = Mul (h, g)"),
    ("hardswish", "a = Add (h, {3}) r = Relu (a) c = Min (r, {6}) d = Mul (c, {0.16666667}) y = Mul (d, h)"),
    ("hardsigmoid", "y = HardSigmoid <alpha = 0.16666667> (h)"),
    ("hardsigmoid", "a = Add (h, {3}) c = Clip (a, {0}, {6}) y = Div (c, {6})"),
    ("hardsigmoid", "s = Mul (h, {0.16666667}) a = Add (s, {0.5}) y = Clip (a, {0}, {1})"),
    ("sigmoid", "y = Sigmoid (h)"),
    ("sigmoid", "n = Neg (h) e = Exp (n) a = Add ({1}, e) y = Reciprocal (a)"),
    ("sigmoid", "n = Neg (h) e = Exp (n) a = Add ({1}, e) y = Div ({1}, a)"),
    ("sigmoid", "s = Mul (h, {0.5}) t = Tanh (s) m = Mul (t, {0.5}) y = Add (m, {0.5})"),
    ("tanh", "y = Tanh (h)"),
    ("tanh", "s = Mul (h, {2}) g = Sigmoid (s) m = Mul (g, {2}) y = Sub (m, {1})"),
    ("tanh", "e = Exp (h) n = Neg (h) f = Exp (n) p = Sub (e, f) q = Add (e, f) y = Div (p, q)"),
    ("softplus", "y = Softplus (h)"),
    ("softplus", "e = Exp (h) a = Add (e, {1}) y = Log (a)"),
    ("softplus", "a = Abs (h) n = Neg (a) e = Exp (n) p = Add (e, {1}) l = Log (p) r = Relu (h) y = Add (r, l)"),
    ("softsign", "y = Softsign (h)"),
    ("softsign", "a = Abs (h) p = Add (a, {1}) y = Div (h, p)"),
]  # fmt: skip


def layer(body: str) -> str:
    """A body around one layer whose output is h."""
    return f"h = MatMul (x, w) {body}"


def near(a: float | None, b: float, tolerance: float = 1e-5) -> bool:
    return a is not None and abs(a - b) <= tolerance


@pytest.mark.parametrize(("name", "body"), FORMS)
def test_every_form_is_named_by_what_it_computes(name: str, body: str) -> None:
    h = np.linspace(-8, 8, 16, dtype=np.float32).reshape(2, 8)
    model = model_of(layer(body), w=np.eye(8, dtype=np.float32))
    domain = "com.microsoft" if "com.microsoft" in body else ""
    if not domain:  # the form in this test is right
        (y,) = ReferenceEvaluator(model).run(None, {"x": h})
        np.testing.assert_allclose(y, FORMULAS[name](h.astype(np.float64)), atol=2e-5)
    around = Around(view_of(layer(body), w=(8, 8)))
    (down,) = around.surroundings.downstream(around("h"))
    (up,) = around.surroundings.upstream(around("y"))
    mean, second, derivative = moments(FORMULAS[name])
    for found in (down, up):
        assert found.name == name
        assert near(found.mean, mean) and near(found.second, second) and near(found.derivative, derivative, 1e-4)
    assert (down.slope is not None) == (name == "leaky_relu")


def rounded(x: float, dtype: type) -> float:
    return float(np.asarray(x, dtype))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    ("name", "f"),
    [
        ("gelu", lambda x, r: r(0.5) * x * (1 + np.vectorize(__import__("math").erf)(x * r(0.70710678)))),
        ("gelu_tanh", lambda x, r: gelu_tanh(x, r(0.7978845608), r(0.044715))),
        ("quick_gelu", lambda x, r: x * sigmoid(r(1.702) * x)),
        ("hardswish", lambda x, r: x * np.clip(x + 3, 0, 6) * r(1 / 6)),
        ("hardsigmoid", lambda x, r: np.clip(x + 3, 0, 6) * r(1 / 6)),
        ("selu", lambda x, r: selu(x, r(1.6732632), r(1.0507009))),
    ],
)
def test_constants_may_be_rounded_to_half_precision(name: str, f: object, dtype: type) -> None:
    values = f(GRID, lambda x: rounded(x, dtype))  # type: ignore[operator]
    assert recognise(values) == (name, None)


@given(st.floats(0.001, 0.9) | st.floats(1.1, 4))
def test_the_slope_of_a_leaky_relu_is_read_off(slope: float) -> None:
    found = recognise(leaky_relu(GRID, slope))
    assert found is not None and found[0] == "leaky_relu" and found[1] == pytest.approx(slope, rel=1e-9)


@given(st.floats(-10, 10), st.floats(0.1, 12))
def test_clip_with_any_bounds(low: float, width: float) -> None:
    found = recognise(np.clip(GRID, low, low + width))
    relu6 = abs(low) < 2e-3 and abs(low + width - 6) < 2e-2
    assert found is not None and (found[0] == "clip" or relu6)


@given(st.floats(0.05, 0.9), st.floats(0.2, 0.8))
def test_hardsigmoid_with_any_parameters(alpha: float, beta: float) -> None:
    assert recognise(hardsigmoid(GRID, alpha, beta)) == ("hardsigmoid", None)


@given(st.floats(0.1, 8).filter(lambda a: abs(a - 1) > 0.01))
def test_elu_and_celu_with_any_parameter(alpha: float) -> None:
    assert recognise(elu(GRID, alpha)) == ("elu", None)
    assert recognise(celu(GRID, alpha)) == ("celu", None)


def test_of_equal_functions_the_operator_decides() -> None:
    assert recognise(elu(GRID), "Celu") == ("celu", None)
    assert recognise(elu(GRID), "Elu") == ("elu", None)
    assert recognise(np.clip(GRID, 0, 1), "HardSigmoid") == ("hardsigmoid", None)


@pytest.mark.parametrize("f", [np.sin, np.abs, np.square, np.exp, lambda x: np.where(np.abs(x) > 0.5, x, 0.0)])
def test_what_no_name_fits_is_not_named(f: object) -> None:
    assert recognise(f(GRID)) is None  # type: ignore[operator]


def test_other_has_its_exact_moments() -> None:
    around = Around(view_of(layer("s = Sin (h) q = Mul (s, s) y = Add (q, h)"), w=(8, 8)))
    (found,) = around.surroundings.downstream(around("h"))
    expected = moments(lambda x: np.sin(x) ** 2 + x)
    assert found.name == "other" and (found.mean, found.second, found.derivative) == pytest.approx(expected)


PRELU = [
    "y = PRelu (h, a)",
    "r = Relu (h) n = Neg (h) m = Relu (n) o = Neg (m) s = Mul (a, o) y = Add (r, s)",
    "r = Relu (h) n = Neg (h) m = Relu (n) b = Neg (a) s = Mul (m, b) y = Add (r, s)",
    "t = Abs (h) d = Sub (h, t) e = Mul (a, d) s = Mul (e, {0.5}) r = Relu (h) y = Add (r, s)",
    "m = Min (h, {0}) s = Mul (a, m) r = Max (h, {0}) y = Add (r, s)",
    "p = Greater (h, {0}) s = Mul (a, h) y = Where (p, h, s)",
]


@pytest.mark.parametrize("body", PRELU)
def test_a_parametric_relu_starts_from_a_quarter(body: str) -> None:
    around = Around(view_of(layer(body), w=(8, 8), a=(8,)))
    (found,) = around.surroundings.downstream(around("h"))
    assert (found.name, found.slope) == ("prelu", 0.25)
    assert near(found.second, 0.5 * (1 + 0.25**2))


def test_a_prelu_with_one_slope_is_learned_too() -> None:
    around = Around(view_of(layer("y = PRelu (h, a)"), w=(8, 8), a=(1,)))
    assert around.down("h") == ["prelu"] and around.up("y") == ["prelu"]


def functions(body: str, **tensors: tuple[int, ...]) -> tuple[Around, Functions]:
    around = Around(view_of(layer(body), w=(8, 8), **tensors))
    return around, Functions(Constants())


def test_every_exit_of_a_region_has_its_function() -> None:
    around, found = functions("r = Relu (h) g = Sigmoid (h) s = Mul (g, {2}) y = Concat <axis = 1> (r, h, g, s)")
    exits = [(e.activation.name, e.value.name) for e in found.following(around("h"))]
    assert exits == [("linear", "h"), ("relu", "r"), ("sigmoid", "g"), ("sigmoid", "s")]


def test_a_factor_before_an_activation_is_seen_through() -> None:
    around, found = functions("s = Mul (h, {3}) y = Relu (s)")
    (way_out,) = found.following(around("h"))
    assert way_out.activation.name == "relu" and near(way_out.activation.second, 4.5)
    made = found.making(around("y"))
    assert made is not None and made[0].name == "relu"


def test_a_factor_after_an_activation_counts_in_its_moments() -> None:
    around, found = functions("g = Sigmoid (h) m = Mul (h, g) y = Mul (m, {1.7})")
    (way_out,) = found.following(around("h"))
    second = moments(FORMULAS["silu"])[1]
    assert way_out.activation.name == "silu" and near(way_out.activation.second, 1.7**2 * second)
    made = found.making(around("y"))
    assert (
        made is not None and made[0].name == "silu" and made[1] is around("h") and near(made[0].second, 2.89 * second)
    )


def test_a_sigmoid_that_gates_something_else_is_a_sigmoid() -> None:
    around, found = functions("g = Sigmoid (h) y = Mul (g, x)")
    assert [e.activation.name for e in found.following(around("h"))] == ["sigmoid"]


def test_the_first_of_two_functions_names_what_follows_and_the_last_what_made() -> None:
    around, found = functions("r = Relu (h) y = Tanh (r)")
    assert [e.activation.name for e in found.following(around("h"))] == ["relu"]
    made = found.making(around("y"))
    assert made is not None and made[0].name == "tanh"


def test_the_square_of_a_relu_is_a_relu_with_moments_of_its_own() -> None:
    around, found = functions("r = Relu (h) y = Pow (r, {2})")
    (way_out,) = found.following(around("h"))
    made = found.making(around("y"))
    assert made is not None
    for activation in (way_out.activation, made[0]):
        assert activation.name == "relu" and near(activation.second, 1.5)  # E[z^4] / 2


def test_values_that_nothing_uses_are_no_exits() -> None:
    around, found = functions("d = Tanh (h) s = Shape (h) y = Relu (h)")
    assert [e.activation.name for e in found.following(around("h"))] == ["relu"]


def test_a_signal_times_zero_is_no_function() -> None:
    around, found = functions("z = Mul (h, {0}) s = MatMul (z, w) r = Relu (h) y = Add (r, s)")
    assert [e.activation.name for e in found.following(around("h"))] == ["relu"]


@given(st.integers(1, 200))
def test_long_chains_end(length: int) -> None:
    steps = " ".join(f"a{i + 1} = Add (a{i}, {{1}})" for i in range(length))
    around, found = functions(f"a0 = Identity (h) {steps} y = Relu (a{length})")
    assert len(found.following(around("h"))) == 1
    found.making(around("y"))


def test_an_operator_by_its_name() -> None:
    assert by_name("LeakyRelu").slope == pytest.approx(0.01)
    assert by_name("LeakyRelu", 0.3).slope == pytest.approx(0.3)
    assert by_name("Clip", 0.0, 6.0).name == "relu6"
    assert by_name("HardSigmoid", 0.3, 0.4).name == "hardsigmoid"
    assert by_name("Identity").name == "linear"
    assert near(by_name("Relu").second, 0.5)


@pytest.mark.parametrize(
    ("operator", "bounded"),
    [
        *((op, True) for op in ("Sigmoid", "Tanh", "HardSigmoid", "Softsign", "Sin", "Atan", "Erf")),
        *((op, False) for op in ("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Softplus", "Gelu", "HardSwish", "Mish")),
        *((op, False) for op in ("Exp", "Sqrt", "Abs", "Identity")),
    ],
)
def test_whether_an_activation_has_bounds(operator: str, bounded: bool) -> None:
    assert by_name(operator).bounded == bounded
    assert by_name("Clip", 0.0, 6.0).bounded
    assert not by_name("Clip", 0.0).bounded


def test_the_grid_sees_every_bound_it_names() -> None:
    grid: Array = GRID
    assert grid[0] < -30 and grid[-1] > 30 and np.abs(np.diff(grid[np.abs(grid) < 3])).max() < 0.15
