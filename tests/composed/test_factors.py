"""Weights that the graph multiplies by factors or masks: the effective weight has the moments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from composing import KERNELS, Array, assert_normal, build, entry, fresh, run, stored, weight
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxinit

# ---------------------------------------------------------------- factors

FACTORS: dict[str, tuple[str, Callable[[tuple[int, ...]], Any]]] = {
    "number": ("k = Mul (v, f)", lambda shape: np.float32(0.037)),
    "turned": ("k = Mul (f, v)", lambda shape: np.float32(7.5)),
    "divisor": ("k = Div (v, f)", lambda shape: np.float32(12.0)),
    "computed": ("r = Sqrt (f) k = Div (v, r)", lambda shape: np.float32(40.0)),
    "twice": ("p = Mul (v, f) k = Mul (p, f)", lambda shape: np.float32(0.1)),
    "minus": ("p = Neg (v) k = Mul (p, f)", lambda shape: np.float32(0.1)),
    "first axis": ("k = Mul (v, f)", lambda shape: ramp(shape, 0)),
    "second axis": ("k = Mul (v, f)", lambda shape: ramp(shape, 1)),
    "divisors": ("k = Div (v, f)", lambda shape: ramp(shape, 0)),
    "spread out": ("s = Shape (v) e = Expand (f, s) k = Mul (v, e)", lambda shape: ramp(shape, 0)),
}  # fmt: skip


def ramp(shape: tuple[int, ...], axis: int) -> Array:
    """Numbers from 0.1 to 3 along an axis."""
    along = np.linspace(0.1, 3.0, shape[axis], dtype=np.float32)
    return along.reshape([-1 if i == axis else 1 for i in range(len(shape))])


@given(
    st.sampled_from(sorted(KERNELS)),
    st.sampled_from(sorted(FACTORS)),
    st.sampled_from(["he", "lecun", "orthogonal"]),
)
@settings(max_examples=60, deadline=None)
def test_a_factor_of_a_weight_is_divided_out(kernel: str, factor: str, scheme: str) -> None:
    """StyleGAN's equalised learning rate, a scale folded by an optimiser: the effective weight has the moments."""
    made, of = FACTORS[factor]
    text, shape, _ = KERNELS[kernel]
    new, result = fresh(build(text.format(k=made), v=shape, f=of(shape)), scheme)
    plain, asked = fresh(build(text.format(k="k = Identity (v)"), v=shape), scheme)
    (effective,) = run(new, "k")
    np.testing.assert_allclose(np.abs(effective), np.abs(stored(plain, "v")), rtol=2e-5, atol=1e-7)
    larger = stored(new, "v") / stored(plain, "v")
    assert entry(result).std == pytest.approx(entry(asked).std * math.sqrt((larger**2).mean()), rel=1e-4)
    assert effective.std() == pytest.approx(entry(asked).std, rel=5 / math.sqrt(2 * effective.size))
    assert "f" in {k.id for k in result.kept}


def test_factors_along_two_axes_leave_the_std_of_the_whole() -> None:
    text = "(float[n,200] x) => (float[n,100] y) { k = Mul (v, f) y = Gemm <transB = 1> (x, k) }"
    factor = (ramp((100, 200), 0) * ramp((100, 200), 1)).astype(np.float32)
    new, _ = fresh(build(text, v=(100, 200), f=factor))
    effective = run(new, "k")[0]  # a mixture of normal values: its fourth moment is E[f^4] / E[f^2]^2 times as large
    tail = 3 * (factor.astype(float) ** 4).mean() / (factor.astype(float) ** 2).mean() ** 2
    assert effective.std() == pytest.approx(math.sqrt(2 / 200), rel=5 * math.sqrt((tail - 1) / 4 / effective.size))


def test_a_learned_scale_counts_as_the_one_that_it_starts_as() -> None:
    text = "(float[n,40] x) => (float[n,64] y) { p = Mul (v, g) k = Mul (p, f) y = Gemm <transB = 1> (x, k) }"
    new, result = fresh(build(text, v=(64, 40), g=(64, 1), f=np.float32(0.5)))
    assert (stored(new, "g") == 1).all()
    assert_normal(run(new, "k")[0], math.sqrt(2 / 40))
    assert entry(result).std == pytest.approx(2 * math.sqrt(2 / 40))


def test_projections_that_are_scaled_apart() -> None:
    """A query whose kernel is scaled before it is joined to those of key and value."""
    text = """(float[n,64] x) => (float[n,96] y) { q, k, w = Split <axis = 1> (v, sizes) s = Mul (q, f)
        all = Concat <axis = 1> (s, k, w) y = MatMul (x, all) }"""
    new, _ = fresh(build(text, v=(64, 96), f=np.float32(0.125), sizes=np.array([32, 32, 32])), "lecun")
    for part in np.split(run(new, "all")[0], 3, axis=1):
        assert_normal(part, 1 / 8)
    assert stored(new, "v")[:, :32].std() == pytest.approx(1.0, rel=5 / math.sqrt(4096))


@pytest.mark.parametrize("scheme", ["lsuv", "lsuv:per_channel=true", "analytic", "auto"])
@pytest.mark.parametrize("factor", ["number", "first axis", "second axis"])
def test_passes_over_the_signal_see_the_factor(scheme: str, factor: str) -> None:
    made, of = FACTORS[factor]
    text = "(float[n,40] x) => (float[n,64] y) {{ {k} h = Gemm <transB = 1> (x, k) y = Relu (h) }}"
    x = np.random.default_rng(0).normal(0, 1, (512, 40)).astype(np.float32)
    model = build(text.format(k=made), v=(64, 40), f=of((64, 40)))
    new, result = fresh(model, scheme, **({"data": {"x": x}} if "lsuv" in scheme else {}))
    (h,) = run(new, "h", x=x)
    spread = h.std(axis=0).mean() if "channel" in scheme and factor != "second axis" else h.std()
    assert spread == pytest.approx(1.0, rel=1e-4 if "lsuv" in scheme else 0.1)
    again = onnxinit.reinit(model, plan=result.plan).model
    assert again is not None and again.graph == new.graph


# ---------------------------------------------------------------- masks

MASKS = {
    "product": ("k = Mul (v, mask)", np.float32),
    "turned": ("t = Transpose (v) u = Transpose (mask) w = Mul (u, t) k = Transpose (w)", np.float32),
    "choice": ("k = Where (mask, v, zero)", np.bool_),
    "cast": ("f = Cast <to = 1> (mask) k = Mul (v, f)", np.int8),
    "compared": ("b = Greater (mask, zero) k = Where (b, v, zero)", np.float32),
}


@given(st.sampled_from(sorted(MASKS)), st.sampled_from(["he", "xavier", "orthogonal"]), st.floats(0.1, 0.9))
@settings(max_examples=30, deadline=None)
def test_a_mask_is_kept_and_its_live_inputs_count(mask: str, scheme: str, share: float) -> None:
    made, kind = MASKS[mask]
    live = np.random.default_rng(7).uniform(size=(200, 100)) < share
    text = f"(float[n,100] x) => (float[n,200] y) {{ {made} y = Gemm <transB = 1> (x, k) }}"
    new, result = fresh(build(text, v=(200, 100), mask=live.astype(kind), zero=np.float32(0)), scheme)
    assert (stored(new, "mask") == live).all()
    drawn, found = stored(new, "v"), weight(result)
    assert (found.fan_in, found.fan_out) == (pytest.approx(100 * live.mean()), pytest.approx(200 * live.mean()))
    (effective,) = run(new, "k")
    assert (effective[~live] == 0).all() and (effective[live] == drawn[live]).all()
    power = (effective**2).sum(axis=1).mean()  # of one output's inputs
    asked = {"he": 2.0, "xavier": 2 * 100 / 300, "orthogonal": 100 / 200}[scheme]
    assert power == pytest.approx(asked, rel=5 * math.sqrt(2 / live.sum()))
    assert drawn.std() == pytest.approx(entry(result).std, rel=5 / math.sqrt(2 * drawn.size))


def test_masks_of_convolutions_and_factors_together() -> None:
    live = np.ones((30, 16, 5, 5), np.float32)
    live[:, :, 2, 2:] = live[:, :, 3:] = 0  # the places after the one that is predicted
    text = "(float[n,16,9,9] x) => (float[n,30,5,5] y) { m = Mul (v, mask) k = Mul (m, f) y = Conv (x, k) }"
    new, result = fresh(build(text, v=(30, 16, 5, 5), mask=live, f=np.float32(0.2)))
    assert weight(result).fan_in == 16 * 12
    effective = run(new, "k")[0]
    assert_normal(effective[live == 1], math.sqrt(2 / (16 * 12)))
    assert (effective[live == 0] == 0).all()
    assert entry(result).std == pytest.approx(5 * math.sqrt(2 / (16 * 12)))


def test_a_mask_whose_values_are_missing_is_not_counted(tmp_path: Any) -> None:
    text = "(float[n,100] x) => (float[n,200] y) { k = Mul (v, mask) y = Gemm <transB = 1> (x, k) }"
    model = build(text, v=(200, 100), mask=(np.random.default_rng(0).uniform(size=(200, 100)) < 0.5).astype(np.float32))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    found = {w.id: w for w in onnxinit.inspect(tmp_path / "m.onnx").weights}
    assert found["v"].fan_in == 100


def test_a_kernel_that_a_signal_modulates_is_scaled_before() -> None:
    """As in StyleGAN2: a constant makes up for the learning rate, then a style scales every input."""
    text = """(float[1,16,9,9] x, float[1,1,16,1,1] style) => (float[1,24,7,7] y) { k = Mul (v, f) m = Mul (k, style)
        r = Reshape (m, dims) y = Conv (x, r) }"""
    new, result = fresh(build(text, v=(1, 24, 16, 3, 3), f=np.float32(1 / 12), dims=np.array([24, 16, 3, 3])))
    assert weight(result).fan_in == 144
    assert_normal(run(new, "k")[0], math.sqrt(2 / 144))


def test_experts_that_are_scaled_before_one_is_picked() -> None:
    text = """(float[n,16] x, int64[n] e) => (float[n,1,32] y) { k = Mul (v, f) w = Gather <axis = 0> (k, e)
        u = Unsqueeze (x, one) h = MatMul (u, w) y = Relu (h) }"""
    new, _ = fresh(build(text, v=(40, 16, 32), f=ramp((40, 16, 32), 0), one=np.array([1])))
    for expert in run(new, "k")[0]:
        assert_normal(expert, math.sqrt(2 / 16))


@pytest.mark.parametrize("scheme", ["shuffle", "match", "normal:std=0.02", "constant:value=0.5", "zeros"])
def test_schemes_of_other_kinds(scheme: str) -> None:
    """Values of a tensor are taken as they are; what a scheme states is of the effective weight."""
    text = "(float[n,40] x) => (float[n,64] y) { k = Mul (v, f) y = Gemm <transB = 1> (x, k) }"
    model = build(text, v=(64, 40), f=np.float32(0.5))
    new, _ = fresh(model, scheme)
    old, drawn, effective = stored(model, "v"), stored(new, "v"), run(new, "k")[0]
    if scheme == "shuffle":
        assert sorted(drawn.flat) == sorted(old.flat)
    elif scheme == "match":
        assert drawn.std() == pytest.approx(old.std(), rel=5 / math.sqrt(2 * old.size))
    elif scheme.startswith("normal"):
        assert_normal(effective, 0.02)
    else:
        assert (effective == {"constant:value=0.5": 0.5, "zeros": 0.0}[scheme]).all()
