"""The arithmetic of moments: against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.helper import make_attribute

from onnxinit.analysis.view import Node
from onnxinit.signal.moments.arrays import array_moments
from onnxinit.signal.moments.moments import (
    MOST_PARTS,
    Moments,
    add,
    average,
    centre,
    constant,
    covariance,
    joint,
    mix,
    multiply,
    normal,
    scaled,
)
from onnxinit.signal.moments.rules.linear import contract
from onnxinit.signal.moments.rules.shapes import aligned, regrouped
from onnxinit.signal.moments.rules.windows import edge_of, gathered, met, spread, taps

means = st.floats(-3, 3)
variances = st.floats(0.1, 4)


@given(means, variances, means, variances)
def test_independent_values(m: float, v: float, n: float, w: float) -> None:
    a, b = normal(m, v, (0.2,)), normal(n, w, (0.4,))
    both = add(a, b)
    assert (both.mean, both.var) == pytest.approx((m + n, v + w))
    assert both.rho == pytest.approx(((0.2 * v + 0.4 * w) / (v + w),))
    product = multiply(a, b)
    assert (product.mean, product.second) == pytest.approx((m * n, (m * m + v) * (n * n + w)))


@given(means, variances)
def test_a_value_and_itself(m: float, v: float) -> None:
    a = normal(m, v, (0.5,))
    twice = add(a, a)
    assert (twice.mean, twice.var, twice.rho) == (pytest.approx(2 * m), pytest.approx(4 * v), pytest.approx((0.5,)))
    assert add(a, a, -1.0).var == pytest.approx(0.0, abs=1e-9)
    square = multiply(a, a)
    assert (square.mean, square.var) == pytest.approx((m * m + v, 2 * v * v + 4 * m * m * v))


def test_branches_of_one_value_share_what_they_share() -> None:
    x, a, b = (normal(0.0, v, (0.0,)) for v in (1.0, 2.0, 3.0))
    left, right = add(x, a), add(scaled(x, -2.0), b)
    assert covariance(left, right) == pytest.approx(-2.0)
    assert add(left, right).var == pytest.approx(1.0 + 2.0 + 3.0)  # (1 - 2)^2 of x
    assert add(scaled(left, 2.0, 5.0), left).var == pytest.approx(9 * 3.0)


def test_a_long_sum_keeps_its_variance_and_its_largest_sources() -> None:
    parts = [normal(0.0, 1.0, (0.0,)) for _ in range(3 * MOST_PARTS)]
    total = normal(0.0, 25.0, (0.0,))
    first = total
    for p in parts:
        total = add(total, p)
    assert total.var == pytest.approx(25.0 + 3 * MOST_PARTS)
    assert len(total.parts) <= MOST_PARTS + 1
    assert covariance(total, first) == pytest.approx(25.0)


@given(st.integers(1, 50), st.floats(0, 1))
def test_means_of_correlated_elements(n: int, rho: float) -> None:
    mean = average(normal(1.0, 2.0, (rho, 0.0)), 0, n)
    assert mean.mean == 1.0
    assert mean.var == pytest.approx(2.0 * (1 / n + (1 - 1 / n) * rho))


def test_elements_that_sum_up_to_a_constant_have_no_mean_to_vary() -> None:
    assert average(normal(0.1, 1.0, (-1 / 9,)), 0, 10).var == pytest.approx(0.0, abs=1e-12)


@given(st.floats(0, 0.9), st.integers(2, 40))
def test_what_is_shared_goes_with_the_mean(rho: float, n: int) -> None:
    left = centre(normal(3.0, 2.0, (rho, 0.0)), [0], n)
    assert left.mean == 0.0
    assert left.var == pytest.approx(2.0 * (1 - rho) * (1 - 1 / n))
    assert average(left, 0, n).var == pytest.approx(0.0, abs=1e-9)


def test_mixtures() -> None:
    a, b = normal(0.0, 1.0, (0.0, 0.5)), normal(2.0, 3.0, (0.0, 0.5))
    mixed = mix([(1.0, a), (3.0, b)], 0)
    assert mixed.mean == pytest.approx(1.5)
    assert mixed.second == pytest.approx((1.0 + 3 * 7.0) / 4)
    assert mix([(1.0, constant(1.0, 1)), (1.0, constant(-1.0, 1))]).var == pytest.approx(1.0)


def test_two_axes() -> None:
    assert joint(0.3, 0.7) == 0.3
    assert joint(0.5, -0.1) == -0.05
    assert joint(-0.1, -0.1) == -0.1


def test_a_layer_of_random_weights_has_the_second_moment_of_its_input() -> None:
    """Var y = K Var[w] E[x^2]; what the places share is C = mean^2 + rho var."""
    x, w = normal(0.5, 1.5, (0.2, 0.0)), normal(0.0, 0.1, (0.0, 0.0))
    y = contract(x, w, 30.0, (0.0, 0.0), [(0.2, None), (None, 0.0)])
    assert (y.mean, y.var) == pytest.approx((0.0, 30 * 0.1 * 1.75))
    assert y.rho == pytest.approx(((0.25 + 0.3) / 1.75, 0.0))


@given(st.floats(-0.9, 0.9), st.floats(0, 1), st.integers(1, 12))
def test_a_layer_of_equal_weights_is_a_sum(mean: float, rho: float, n: int) -> None:
    x = normal(mean, 1.0, (rho,))
    y = contract(x, constant(0.5, 1), float(n), (rho, 1.0), [])
    same = scaled(average(x, 0, n), 0.5 * n)
    assert (y.mean, y.var) == pytest.approx((same.mean, same.var), abs=1e-9)


@given(
    st.integers(1, 12), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 4), st.integers(1, 9)
)
def test_taps_that_meet_the_signal(n: int, k: int, stride: int, dilation: int, before: int, out: int) -> None:
    met = sum(0 <= i * stride + j * dilation - before < n for i in range(out) for j in range(k))
    assert taps(n, k, out, stride, dilation, before) == pytest.approx(met / out)


def test_correlations_after_a_reshape() -> None:
    assert regrouped((0.1, 0.2, 0.0), (2, 6, 8), (2, 6, 4, 2)) == (0.1, 0.2, 0.0, 0.0)
    assert regrouped((0.1, 0.2, 0.0), (2, 6, 8), (12, 8)) == (0.1, 0.0)
    assert regrouped((0.3, 0.2), (2, 6), (2, 2, 3)) == (0.3, 0.2, 0.2)
    assert regrouped((0.3,), (4,), (1, 4, 1)) == (1.0, 0.3, 1.0)


def test_broadcast_values_repeat() -> None:
    x = normal(0.0, 1.0, (0.4, 0.2))
    assert aligned(x, (3, 1), (5, 3, 4)).rho == (1.0, 0.4, 1.0)
    assert aligned(x, (3, 4), (3, 4)) is x


def test_moments_of_known_values() -> None:
    rng = np.random.default_rng(0)
    shared = np.sqrt(0.3) * rng.standard_normal((1, 400)) + np.sqrt(0.7) * rng.standard_normal((300, 400))
    found = array_moments(shared + 2.0)
    assert found.mean == pytest.approx(shared.mean() + 2.0)
    assert found.var == pytest.approx(shared.var())
    assert found.rho[0] == pytest.approx(0.3, abs=5 * 0.3 * math.sqrt(2 / 400))
    assert found.rho[1] == pytest.approx(0.0, abs=0.01)


def test_a_mask_hides() -> None:
    for value in (-np.inf, -1e9, -100.0):
        found = array_moments(np.triu(np.full((8, 8), value), 1))
        assert (found.hidden, found.mean, found.var) == (pytest.approx(28 / 64), 0.0, 0.0)
    assert array_moments(np.array([0.0, -100.0, -20.0])).hidden == 0.0
    assert isinstance(array_moments(np.zeros((0, 3))), Moments)


def test_the_ends_of_a_picture() -> None:
    """Two padded kernels of three taps on five places: those in the middle are gathered three times, and then again."""
    once = met(np.ones(5), 3, 5, 1, 1, 1)
    assert once.tolist() == [2.0, 3.0, 3.0, 3.0, 2.0]
    assert met(once / once.mean(), 3, 5, 1, 1, 1).mean() == pytest.approx(np.mean(once**2) / once.mean())
    assert spread(np.ones(3), 4, 6, 2, 1, 1).tolist() == [1.0, 2.0, 2.0, 2.0, 2.0, 1.0]
    node = Node("Conv", "", "", "", [], [], {"pads": make_attribute("pads", [1, 1])})
    x = normal(0.0, 1.0, (0.0, 0.0, 0.0))
    (count,), edge, (alike,) = gathered(x, node, [2], [5], [3])
    assert count == pytest.approx(13 / 5)
    assert alike == pytest.approx((4 * 3 + 5 * 4 + 4 * 3) / (4 * 13))
    assert edge_of(replace(x, edge=edge), 2, 5) == pytest.approx(once / once.mean())


def test_weights_that_sum_up_to_zero_at_the_ends() -> None:
    """Of w0 + w1 + w2 = 0 one place meets w0 + w1 = -w2, another w1 + w2 = -w0: they correlate by -1/2 as any w."""
    weights = normal(0.0, 1.0, (-0.5,))
    found = contract(constant(1.0, 1), weights, 2.0, (1.0, -0.5), [(1.0, None)], {0: 0.5})
    assert (found.var, found.rho) == (pytest.approx(1.0), pytest.approx((-0.5,)))
