"""Low-rank updates of layers: the outer factor starts as zero."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from composing import assert_normal, build, fresh, run, stored, weight
from hypothesis import given, settings
from hypothesis import strategies as st

UPDATES = {
    "products": "a = MatMul (x, A) b = MatMul (a, B) c = Mul (b, s) l = MatMul (x, v) y = Add (l, c)",
    "bias": "l = MatMul (x, v) d = Add (l, bias) a = MatMul (x, A) b = MatMul (a, B) c = Mul (b, s) y = Add (d, c)",
    "scaled first": "l = MatMul (x, v) z = Mul (x, s) a = MatMul (z, A) b = MatMul (a, B) y = Add (b, l)",
    "scaled between": "l = MatMul (x, v) a = MatMul (x, A) c = Div (a, s) b = MatMul (c, B) y = Add (b, l)",
    "casts": """z = Cast <to = 1> (x) d = Dropout (z) a = MatMul (d, A) b = MatMul (a, B) c = Mul (b, s)
        l = MatMul (x, v) e = Cast <to = 1> (c) y = Add (l, e)""",
}


@pytest.mark.parametrize("update", UPDATES)
def test_the_outer_factor_of_a_low_rank_update_starts_as_zero(update: str) -> None:
    """Of LoRA: the layer starts as itself, and the inner factor as the scheme says."""
    text = f"(float[n,100] x) => (float[n,80] y) {{ {UPDATES[update]} }}"
    held: dict[str, Any] = {"v": (100, 80), "A": (100, 8), "B": (8, 80), "s": np.float32(2.0), "bias": (80,)}
    new, result = fresh(build(text, **held))
    assert (stored(new, "B") == 0).all()
    assert_normal(stored(new, "A"), math.sqrt(2 / 100))
    assert_normal(stored(new, "v"), math.sqrt(2 / 100))
    assert [weight(result, name).role for name in ("v", "A", "B")] == ["weight"] * 3
    assert "starts as zero" in weight(result, "B").note
    assert not [w for w in result.warnings if "same value" in w]
    new, _ = fresh(build(text, **held), rules=["B=he"])
    assert_normal(stored(new, "B"), math.sqrt(2 / 8))


@pytest.mark.parametrize(
    "text",
    [
        "l = MatMul (x, v) a = MatMul (x, A) r = Relu (a) b = MatMul (r, B) y = Add (l, b)",
        "t = Tanh (x) l = MatMul (t, v) a = MatMul (x, A) b = MatMul (a, B) y = Add (l, b)",
        "l = MatMul (x, v) a = MatMul (x, A) b = MatMul (a, B) c = Sigmoid (b) y = Mul (l, c)",
        "a = MatMul (x, A) b = MatMul (a, B) y = Add (x, b)",
        "l = MatMul (x, v) a = MatMul (x, wide) b = MatMul (a, back) y = Add (l, b)",
    ],
    ids=["a function between", "another input", "a gate", "no layer beside", "no low rank"],
)
def test_other_pairs_of_layers_are_drawn(text: str) -> None:
    held: dict[str, Any] = {"v": (100, 100), "A": (100, 8), "B": (8, 100), "wide": (100, 120), "back": (120, 100)}
    new, result = fresh(build(f"(float[n,100] x) => (float[n,100] y) {{ {text} }}", **held))
    drawn = {w.id for w in result.weights}
    for name in drawn:
        assert stored(new, name).std() > 0, name


def test_low_rank_updates_of_convolutions() -> None:
    text = """(float[n,32,9,9] x) => (float[n,40,7,7] y) { a = Conv (x, A) b = Conv (a, B) l = Conv (x, v)
        y = Add (l, b) }"""
    new, _ = fresh(build(text, v=(40, 32, 3, 3), A=(4, 32, 3, 3), B=(40, 4, 1, 1)))
    assert (stored(new, "B") == 0).all()
    assert_normal(stored(new, "A"), math.sqrt(2 / 288))


@given(st.booleans(), st.booleans(), st.booleans(), st.sampled_from(["", "Mul", "Div"]), st.booleans())
@settings(max_examples=32, deadline=None)
def test_updates_that_are_added_to_the_kernel(
    columns: bool, flip_a: bool, flip_b: bool, scale: str, turned: bool
) -> None:
    """W + s B A for kernels of both orders, and products of either form."""
    out, inner, rank = 80, 100, 8
    rows, cols = (inner, out) if columns else (out, inner)
    first, second = ("A", "B") if columns else ("B", "A")
    shapes: dict[str, Any] = {
        first: (rank, rows) if flip_a else (rows, rank),
        second: (cols, rank) if flip_b else (rank, cols),
    }
    product = f"p = Gemm <transA = {int(flip_a)}, transB = {int(flip_b)}> ({first}, {second})"
    if not flip_a and not flip_b:
        product = f"p = MatMul ({first}, {second})"
    scaled = f"{product} q = {scale} (p, s)" if scale else f"{product} q = Identity (p)"
    summed = "k = Add (q, v)" if turned else "k = Add (v, q)"
    layer = "y = MatMul (x, k)" if columns else "y = Gemm <transB = 1> (x, k)"
    text = f"(float[n,100] x) => (float[n,80] y) {{ {scaled} {summed} {layer} }}"
    new, result = fresh(build(text, v=(rows, cols), s=np.float32(0.25), **shapes))
    assert (stored(new, "B") == 0).all()
    assert (run(new, "k")[0] == stored(new, "v")).all()
    assert_normal(stored(new, "v"), math.sqrt(2 / inner))
    assert_normal(stored(new, "A"), math.sqrt(2 / inner))
    found = {w.id: (w.role, w.fan_in, w.fan_out) for w in result.weights}
    assert found == {"v": ("weight", 100, 80), "A": ("weight", 100, 8), "B": ("weight", 8, 80)}


def test_a_kernel_of_two_factors_is_two_layers() -> None:
    text = "(float[n,100] x) => (float[n,80] y) { k = MatMul (A, B) y = MatMul (x, k) }"
    new, result = fresh(build(text, A=(100, 8), B=(8, 80)), "lecun")
    assert_normal(stored(new, "A"), 1 / 10)
    assert_normal(stored(new, "B"), 1 / math.sqrt(8))
    assert {w.id: (w.fan_in, w.fan_out) for w in result.weights} == {"A": (100, 8), "B": (8, 80)}


def test_an_update_of_a_kernel_with_a_weight_norm() -> None:
    """As in DoRA: y = g (W + B A) / |W + B A| x."""
    text = """(float[n,100] x) => (float[n,80] y) { p = MatMul (B, A) w = Add (v, p) n = ReduceL2 <axes = [1]> (w)
        u = Div (w, n) k = Mul (u, g) y = Gemm <transB = 1> (x, k) }"""
    new, result = fresh(build(text, v=(80, 100), A=(8, 100), B=(80, 8), g=(80, 1)))
    assert (stored(new, "B") == 0).all()
    assert weight(result, "g").follows == ("v",)
    np.testing.assert_allclose(run(new, "k")[0], stored(new, "v"), rtol=1e-5, atol=1e-7)
    assert_normal(stored(new, "v"), math.sqrt(2 / 100))
