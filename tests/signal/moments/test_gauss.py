"""Quadrature: against closed forms and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxinit.signal.moments.gauss import concentration, is_positive, peak, project


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


@given(st.floats(-2, 2), st.floats(0.1, 3))
def test_rectified_normal(mean: float, std: float) -> None:
    t = mean / std
    above, density = 0.5 * math.erfc(-t / math.sqrt(2)), math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    first = mean * above + std * density
    second = (mean**2 + std**2) * above + mean * std * density
    found = project(relu, mean, std)
    assert found.mean == pytest.approx(first, abs=1e-4 * std)
    assert found.mean**2 + found.var == pytest.approx(second, rel=1e-3, abs=1e-5)
    assert found.slope == pytest.approx(std * above, abs=1e-4 * std)


@pytest.mark.parametrize("rho", [-0.9, -0.3, 0.0, 0.2, 0.5, 0.9, 1.0])
def test_correlation_after_a_rectifier(rho: float) -> None:
    """The arc-cosine kernel of order one (Cho and Saul 2009)."""
    angle = math.acos(rho)
    product = (math.sin(angle) + (math.pi - angle) * rho) / (2 * math.pi)
    expected = (product - 1 / (2 * math.pi)) / (0.5 - 1 / (2 * math.pi))
    assert project(relu, 0.0, 1.0).correlation(rho) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(("power", "mean", "var"), [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0)])
def test_powers(power: int, mean: float, var: float) -> None:
    found = project(lambda x: x**power, 0.0, 1.0)
    assert found.mean == pytest.approx(mean, abs=1e-9)
    assert found.var == pytest.approx(var, rel=1e-9)
    assert found.correlation(0.5) == pytest.approx({1: 0.5, 2: 0.25, 3: (9 * 0.5 + 6 * 0.125) / 15}[power], rel=1e-9)


def test_what_no_float_holds_counts_as_the_largest_or_nothing() -> None:
    assert math.isfinite(project(lambda x: np.exp(1000 * x), 0.0, 1.0).mean)
    assert project(np.sqrt, 0.0, 1.0).mean == pytest.approx(0.411, abs=1e-2)  # of what is above zero


def test_positive_functions() -> None:
    assert is_positive(relu, 0.0, 1.0)
    assert not is_positive(np.tanh, 0.0, 1.0)
    assert not is_positive(np.zeros_like, 0.0, 1.0)


@pytest.mark.parametrize(
    ("count", "mean", "var"),
    [(1, 0.0, 1.0), (2, 1 / math.sqrt(math.pi), 1 - 1 / math.pi), (3, 1.5 / math.sqrt(math.pi), 0.559467203)],
)
def test_the_largest_of_a_few(count: int, mean: float, var: float) -> None:
    found = peak(lambda x: x, 0.0, 1.0, 0.0, count)
    assert found[:2] == pytest.approx((mean, var), abs=2e-3)
    assert found[2] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.8, 1.0])
def test_the_larger_of_two_that_correlate(rho: float) -> None:
    first = 2.0 * math.sqrt((1 - rho) / math.pi)
    mean, var, shared = peak(lambda x: x, 1.0, 2.0, rho, 2)
    assert mean == pytest.approx(1.0 + first, abs=5e-3)
    assert var == pytest.approx(4.0 - first**2, abs=2e-2)
    assert shared == pytest.approx(4.0 * rho, abs=1e-6)


@pytest.mark.parametrize(("count", "var"), [(1, 1.0), (2, 1.0), (12, 1.0), (64, 0.3), (16, 9.0), (100, 25.0)])
def test_the_weights_of_a_softmax(count: int, var: float) -> None:
    rng = np.random.default_rng(0)
    g = math.sqrt(var) * rng.standard_normal((20000, count))
    p = np.exp(g - g.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    squares = (p * p).sum(axis=1)
    error = 5 * squares.std() / math.sqrt(len(squares))
    assert concentration(count, var) == pytest.approx(squares.mean(), abs=error + 1e-3)


def test_the_weights_of_a_causal_softmax() -> None:
    harmonic = sum(1 / n for n in range(1, 11)) / 10
    assert concentration(10, 0.0, causal=True) == pytest.approx(harmonic)
    assert concentration(10, 1.0, causal=True) == pytest.approx(np.mean([concentration(n, 1.0) for n in range(1, 11)]))


def test_weights_that_are_one_or_nothing() -> None:
    assert concentration(50, 400.0) == concentration(50, 1e12) > 0.85
