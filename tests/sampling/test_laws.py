"""The laws against scipy, and how values lie in streams."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from onnxinit.errors import SchemeError
from onnxinit.sampling import Stream, laws, stream, weight_key
from onnxinit.sampling.quantiles import Quantiles32, Quantiles64

DTYPES = [np.float32, np.float64]
N = 1 << 21
INTERVALS = [(-2, 2), (-1, 3), (0.25, 0.5), (-np.inf, 1), (3, 4), (-6.5, -5), (4, np.inf), (-8, 8)]


def fresh(name: str = "laws") -> Stream:
    return stream(weight_key(0, name))


def draw(law: Callable[[Stream, np.ndarray], None], dtype: type, size: int = N) -> np.ndarray:
    out = np.empty(size, dtype)
    law(fresh(), out)
    return out


def check_law(x: np.ndarray, law: stats.rv_continuous, cells: int = 4096) -> None:
    """KS distance, chi-square over cells of equal probability, and the first two moments at five standard errors."""
    x = np.sort(x.astype(np.float64))
    assert stats.kstest(x, law.cdf).pvalue > 1e-6
    counts = np.diff(np.concatenate([[0], np.searchsorted(x, law.ppf(np.arange(1, cells) / cells)), [len(x)]]))
    assert abs(stats.chisquare(counts).statistic - cells + 1) < 5.5 * np.sqrt(2 * cells)
    assert abs(x.mean() - law.mean()) < 5 * law.std() / np.sqrt(len(x))
    kurtosis = float(law.stats(moments="k")) + 3
    assert abs(x.var() / law.var() - 1) < 5 * np.sqrt((kurtosis - 1) / len(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("low, high", [(0, 1), (-0.3, 0.3), (2, 5)])
def test_uniform(dtype: type, low: float, high: float) -> None:
    x = draw(lambda s, out: s.uniform(out, low, high), dtype)
    assert x.min() >= dtype(low) and x.max() <= dtype(high)
    check_law(x, stats.uniform(low, high - low))


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal(dtype: type) -> None:
    x = draw(lambda s, out: s.normal(out), dtype)
    check_law(x, stats.norm)
    for moment, expected, error in ((3, 0, 15), (4, 3, 96)):
        assert abs((x.astype(np.float64) ** moment).mean() - expected) < 5 * np.sqrt(error / N)
    for edge in (3, 3.5, 4, 4.5):
        beyond = N * special.ndtr(-edge)
        for side in (x, -x):
            assert abs((side > edge).sum() - beyond) < 5 * np.sqrt(beyond) + 1
    lag = (x[1:].astype(np.float64) * x[:-1]).mean()
    assert abs(lag) < 5 / np.sqrt(N)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("low, high", INTERVALS)
def test_truncated_normal(dtype: type, low: float, high: float) -> None:
    x = draw(lambda s, out: s.truncated_normal(out, low, high), dtype, N // 8)
    assert x.min() >= low and x.max() <= high
    check_law(x, stats.truncnorm(low, high), cells=256)


def test_the_wanted_accuracy_of_the_quantiles() -> None:
    random = np.random.default_rng(0)
    for shift in range(0, 28, 4):  # from the middle to where a word of 32 bits is one step of the tail
        words = (random.integers(-(2**31), 2**31, 20000, np.int64) >> shift).astype(np.int32)
        words = words[(words > 40) | (words < -40)]
        exact = special.ndtri((np.abs(words + 0.5)) / 2**32) * -np.sign(words)
        out = np.empty(len(words), np.float32)
        Quantiles32(len(words))(words, out)
        large = np.abs(words) > 4096
        assert np.abs(out - exact)[large].max(initial=0) < 1e-6
        assert np.abs(out - exact).max() < 1e-3
    for shift in range(0, 60, 4):
        words = random.integers(-(2**63), 2**63, 20000, np.int64) >> shift | 1
        exact = special.ndtri(np.abs(words.astype(np.float64)) / 2.0**64) * -np.sign(words)
        out = np.empty(len(words))
        Quantiles64(len(words))(words, out)
        assert np.abs(out - exact).max() < 1e-11


@pytest.mark.parametrize("make, dtype", [(Quantiles32, np.int32), (Quantiles64, np.int64)])
def test_the_ends_of_the_words(make: type, dtype: type) -> None:
    ends = np.iinfo(dtype)
    words = np.array([0, 1, -1, ends.max, ends.min, ends.max - 1, ends.min + 1], dtype)
    out = np.empty(len(words), f"f{words.itemsize}")
    make(len(words))(words, out)
    last = special.ndtri(2.0 ** -(8 * words.itemsize))
    assert out[0] > 6 and out[1] > 6 and out[2] < -6 and np.abs(out[:3]).max() < 0.2 - last
    assert np.abs(out[3:]).max() < 1e-7


def test_float64_values_have_53_bits() -> None:
    uniform = draw(lambda s, out: s.uniform(out, -1, 1), np.float64)
    normal = draw(lambda s, out: s.normal(out), np.float64)
    fine = np.floor(normal * 2.0**50).astype(np.int64)  # the last bits themselves are those of the interpolation
    for x, last in ((uniform, uniform.view(np.int64) & 15), (normal, fine & 15)):
        assert len(np.unique(x)) == len(x)
        assert stats.chisquare(np.bincount(last, minlength=16)).pvalue > 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=st.lists(st.integers(0, 40), max_size=3), block=st.sampled_from([64, 256, 1 << 15]))
def test_any_shape_and_blocks_that_do_not_show(dtype: type, shape: list[int], block: int) -> None:
    out = np.empty(shape, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laws, "BLOCK", block)
        fresh().normal(out)
    longer = np.empty(out.size + 1000, dtype)
    fresh().normal(longer)
    assert np.array_equal(out.ravel(), longer[: out.size])


def test_calls_go_on_where_the_last_one_ended() -> None:
    s = fresh()
    first, second = np.empty(100, np.float32), np.empty(101, np.float32)
    s.normal(first)
    s.normal(second)
    whole = np.empty(201, np.float32)
    fresh().normal(whole)
    assert np.array_equal(np.concatenate([first, second]), whole)


@given(st.integers(1, 2**31))
def test_below_stays_below(bound: int) -> None:
    x = fresh().below(np.full((3, 5), bound))
    assert x.shape == (3, 5) and x.min() >= 0 and x.max() < bound


def test_below_is_even() -> None:
    assert stats.chisquare(np.bincount(fresh().below(np.full(N, 1000)), minlength=1000)).pvalue > 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("low, high", [(20, 21), (1, 1), (-7, -6.99), (0, 1e-12)])
def test_an_interval_that_holds_nothing(dtype: type, low: float, high: float) -> None:
    message = rf"the interval from {low:g} to {high:g} standard deviations holds next to nothing .* widen low and high"
    with pytest.raises(SchemeError, match=message):
        fresh().truncated_normal(np.empty(3, dtype), low, high)


def test_out_must_be_contiguous() -> None:
    with pytest.raises(ValueError, match="C-contiguous"):
        fresh().normal(np.empty((4, 7), np.float32)[:, ::2])
