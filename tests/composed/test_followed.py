"""Weights that stand behind look-ups, equations, joins and the like."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from composing import assert_normal, build, entry, fresh, run, stored, weight
from hypothesis import given, settings
from hypothesis import strategies as st


def test_norms_that_multiply_by_one_plus_w() -> None:
    text = """(float[n,t,32] x) => (float[n,t,16] y) { q = Mul (x, x) m = ReduceMean <axes = [-1]> (q) e = Add (m, eps)
        s = Sqrt (e) d = Div (x, s) o = Add (g, one) k = Mul (d, o) y = MatMul (k, v) }"""
    new, result = fresh(build(text, v=(32, 16), g=(32,), one=np.float32(1), eps=np.float32(1e-6)))
    assert weight(result, "g").role == "norm_scale"
    assert (stored(new, "g") == 0).all() and (run(new, "o", x=np.ones((1, 1, 32), np.float32))[0] == 1).all()


def test_an_encoder_that_is_tied_to_its_decoder() -> None:
    text = "(float[n,100] x) => (float[n,100] y) { h = MatMul (x, v) r = Relu (h) t = Transpose (v) y = MatMul (r, t) }"
    new, result = fresh(build(text, v=(100, 40)))
    assert [w.id for w in result.weights] == ["v"]
    assert_normal(run(new, "t")[0], math.sqrt(2 / 100))  # its first use decides


def test_relative_position_tables() -> None:
    text = """(float[n,4,9,8] q, float[n,4,8,9] k) => (float[n,4,9,9] y) { s = MatMul (q, k) g = Gather (table, index)
        r = Reshape (g, dims) t = Transpose <perm = [2, 0, 1]> (r) z = Unsqueeze (t, first) a = Add (s, z)
        y = Softmax (a) }"""
    index = np.random.default_rng(0).integers(0, 25, 81)
    new, result = fresh(build(text, table=(25, 4), index=index, dims=np.array([9, 9, 4]), first=np.array([0])), "lecun")
    assert weight(result, "table").role == "positional"
    assert np.abs(stored(new, "table")).max() <= 0.04  # cut at two sigma of 0.02
    assert stored(new, "table").std() == pytest.approx(entry(result, "table").std, rel=5 / math.sqrt(2 * 100))


@pytest.mark.parametrize(
    "text",
    [
        """(float[n,16] x, int64[n] e) => (float[n,1,32] y) { w = Gather <axis = 0> (v, e) u = Unsqueeze (x, one)
        h = MatMul (u, w) y = Relu (h) }""",
        """(float[n,16] x) => (float[n,2,1,32] y) { l = MatMul (x, router) p = Softmax (l) s, e = TopK (p, two)
        w = Gather <axis = 0> (v, e) u = Unsqueeze (x, both) h = MatMul (u, w) y = Relu (h) }""",
        '(float[n,16] x) => (float[n,40,32] y) { h = Einsum <equation = "nd,edh->neh"> (x, v) y = Relu (h) }',
        "(float[40,n,16] x) => (float[40,n,32] y) { h = MatMul (x, v) y = Relu (h) }",
    ],
    ids=["an index", "the largest", "all of them", "heads"],
)
def test_stacks_of_experts_and_heads(text: str) -> None:
    numbers: dict[str, Any] = {"one": np.array([1]), "both": np.array([1, 2]), "two": np.array([2]), "router": (16, 40)}
    new, result = fresh(build(text, v=(40, 16, 32), **numbers))
    assert (weight(result).role, weight(result).fan_in) == ("weight", 16)
    for expert in stored(new, "v"):
        assert_normal(expert, math.sqrt(2 / 16))


@given(st.permutations("io"), st.sampled_from(["", "n", "nt"]), st.booleans(), st.booleans())
@settings(max_examples=24, deadline=None)
def test_any_equation(axes: list[str], batch: str, turned: bool, heads: bool) -> None:
    """Axes of input, output and heads in any order, with any axes of the signal before."""
    sizes = {"i": 60, "o": 40, "h": 3, "n": 2, "t": 4}
    own = "".join(axes) + ("h" if heads else "")
    signal, made = batch + ("h" if heads else "") + "i", batch + ("h" if heads else "") + "o"
    terms = f"{own},{signal}" if turned else f"{signal},{own}"
    operands = "v, x" if turned else "x, v"
    dims, out = (",".join(str(sizes[c]) for c in term) for term in (signal, made))
    text = f"""(float[{dims}] x) => (float[{out}] y)
        {{ h = Einsum <equation = "{terms}->{made}"> ({operands}) y = Relu (h) }}"""
    new, result = fresh(build(text, v=tuple(sizes[c] for c in own)))
    assert (weight(result).fan_in, weight(result).fan_out) == (60, 40)
    assert weight(result).blocks == (3 if heads else 1)
    assert_normal(stored(new, "v"), math.sqrt(2 / 60))


def test_a_bilinear_form_sums_over_both_inputs() -> None:
    text = """(float[n,16] x, float[n,12] z) => (float[n,20] y) { y = Einsum <equation = "ni,oij,nj->no"> (x, v, z) }"""
    new, result = fresh(build(text, v=(20, 16, 12)), "lecun")
    assert weight(result).fan_in == 16 * 12
    x, z = (np.random.default_rng(i).standard_normal((4000, n)).astype(np.float32) for i, n in ((0, 16), (1, 12)))
    (y,) = run(new, "y", x=x, z=z)
    assert y.std() == pytest.approx(1.0, rel=5 / math.sqrt(2 * 20 * 192) + 0.03)


def test_convolutions_written_as_products_of_patches() -> None:
    text = """(float[n,3,8,8] x) => (float[n,4,64] y) { r = Reshape (x, cut)
        t = Transpose <perm = [0, 2, 4, 1, 3, 5]> (r) p = Reshape (t, rows) h = MatMul (p, v) y = Relu (h) }"""
    new, result = fresh(build(text, v=(48, 64), cut=np.array([-1, 3, 2, 4, 2, 4]), rows=np.array([-1, 4, 48])))
    assert (weight(result).fan_in, weight(result).fan_out) == (48, 64)
    assert_normal(stored(new, "v"), math.sqrt(2 / 48))


def test_bags_of_embeddings() -> None:
    text = """(int64[n,5] i) => (float[n,8] y) { e = Gather (v, i) m = ReduceMean <axes = [1], keepdims = 0> (e)
        y = MatMul (m, w) }"""
    new, result = fresh(build(text, v=(300, 32), w=(32, 8)))
    assert weight(result).role == "embedding"
    assert_normal(stored(new, "v"), 1 / math.sqrt(32))


@pytest.mark.parametrize("shape", [(32,), (1,)])
def test_gates_of_a_branch(shape: tuple[int, ...]) -> None:
    text = """(float[n,t,32] x) => (float[n,t,32] y) { h = MatMul (x, v) a = Tanh (g) b = Mul (h, a) y = Add (x, b) }"""
    new, result = fresh(build(text, v=(32, 32), g=shape))
    assert weight(result, "g").role == "layer_scale"
    assert (np.abs(stored(new, "g")) <= 0.1 + 1e-6).all()
    assert_normal(stored(new, "v"), math.sqrt(2 / 32))


SELECTIVE = """(float[n,64] x, float[n,64,16] state) => (float[n,64] y) {{ d = MatMul (x, dt) e = Add (d, dt_bias)
    s = Softplus (e) u = Unsqueeze (s, last) {rate} p = Mul (u, a) keep = Exp (p) old = Mul (state, keep)
    b = MatMul (x, v) c = Unsqueeze (b, second) f = Mul (u, c) new = Add (old, f) r = ReduceSum (new, last)
    z = Squeeze (r, last) y = Mul (z, x) }}"""


@pytest.mark.parametrize(
    ("rate", "start"),
    [("q = Exp (A) a = Neg (q)", 0.0), ("a = Identity (A)", -1.0), ("a = Neg (A)", 1.0)],
    ids=["as a logarithm", "folded", "its negative"],
)
def test_a_state_that_decays_decays_with_fresh_weights(rate: str, start: float) -> None:
    """Of a selective state space: exp(softplus(dt) A) has to be below one."""
    held: dict[str, Any] = {"dt": (64, 64), "dt_bias": (64,), "A": (64, 16), "v": (64, 16)}
    model = build(SELECTIVE.format(rate=rate).replace("= Squeeze (r, last)", "= Reshape (r, flat)"), **held,
                  last=np.array([-1]), second=np.array([1]), flat=np.array([-1, 64]))  # fmt: skip
    new, result = fresh(model)
    assert weight(result, "A").role == "other" and (stored(new, "A") == start).all()
    (keep,) = run(new, "keep", x=np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32),
                  state=np.zeros((50, 64, 16), np.float32))  # fmt: skip
    assert 0 < keep.min() and keep.max() < 1


def test_projections_that_are_joined_and_slices_of_a_larger_table() -> None:
    text = """(float[n,64] x) => (float[n,40] y) { w = Concat <axis = 1> (q, k, v) h = MatMul (x, w)
        a, b, c = Split <axis = 1> (h, sizes) s = Mul (a, b) d = Add (s, c) t = Slice (table, from, to, axis)
        y = MatMul (d, t) }"""
    numbers: dict[str, Any] = {"from": np.array([50]), "to": np.array([90]), "axis": np.array([1])}
    sizes = np.array([48, 48, 48])
    new, result = fresh(
        build(text, q=(64, 48), k=(64, 48), v=(64, 48), table=(48, 90), sizes=sizes, **numbers), "lecun"
    )
    for name in "qkv":
        assert weight(result, name).fan_in == 64
        assert_normal(stored(new, name), 1 / 8)
    assert_normal(run(new, "t")[0], 1 / math.sqrt(48))
