import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxinit.signal.run.statistics import Moments, channel_moments, moments_of


def values(shape: tuple[int, ...], mean: float, std: float, seed: int = 0) -> np.ndarray:
    return (mean + std * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def exact(x: np.ndarray, axes: int | tuple[int, ...] | None) -> tuple[np.ndarray, np.ndarray]:
    wide = x.astype(np.longdouble)
    return wide.mean(axis=axes).astype(np.float64), wide.var(axis=axes).astype(np.float64)


def assert_same(found: Moments, x: np.ndarray, axes: int | tuple[int, ...] | None, digits: float = 1e-6) -> None:
    mean, variance = exact(x, axes)
    np.testing.assert_allclose(found.variance, variance, rtol=digits)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6, atol=1e-6 * float(np.sqrt(variance.max())))


# a mean of 30 or 1e4 std would leave nothing of a variance that is made from float32 squares
@pytest.mark.parametrize("mean", [0.0, 0.5, -3.9, 30.0, 1e4])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
@pytest.mark.parametrize("size", [1, 7, 1023, 1024, 5000, 300_001])
def test_of_all(mean: float, scale: float, size: int) -> None:
    x = values((size,), mean * scale, scale)
    assert_same(moments_of(x), x, None)
    assert moments_of(x).count == size


@pytest.mark.parametrize("mean", [0.0, 30.0, 1e4])
@pytest.mark.parametrize(
    ("shape", "axis"), [((8, 64, 64, 64), 1), ((3, 2048, 2, 2), 1), ((4, 128, 384), 2), ((32, 10), 1), ((9,), 0)]
)
def test_of_channels(shape: tuple[int, ...], axis: int, mean: float) -> None:
    x = values(shape, mean, 1.0)
    axes = tuple(i for i in range(len(shape)) if i != axis)
    found = channel_moments(x, axis)
    assert found.count == math.prod(shape) // shape[axis]
    assert_same(found, x, axes)


def test_a_channel_that_is_constant_is_exactly_so_and_spoils_no_other() -> None:
    x = values((8, 5, 40, 40), 0.3, 2.0)
    x[:, 2] = 0.1
    found = channel_moments(x, 1)
    assert found.variance[2] == 0
    assert_same(found, x, (0, 2, 3))


def test_channels_of_different_size() -> None:
    x = values((16, 4, 50), 0.2, 1.0) * np.array([1e-18, 1e-3, 1.0, 1e18], np.float32)[:, None]
    np.testing.assert_allclose(channel_moments(x, 1).variance, exact(x, (0, 2))[1], rtol=1e-6)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_every_shape_and_axis(shape: list[int], data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = values(tuple(shape), 1.0, 1.0, seed=sum(shape))
    found = channel_moments(x, axis)
    mean, variance = exact(x, tuple(i for i in range(len(shape)) if i != axis))
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-5, atol=1e-6)


def test_batches_add_up() -> None:
    x = values((6, 3000), 5.0, 1.0)
    x[3:] += 4
    total = moments_of(x[:1]) + moments_of(x[1:3]) + moments_of(x[3:])
    assert_same(total, x, None)
    assert total.std == pytest.approx(float(exact(x, None)[1]) ** 0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_shows(bad: float) -> None:
    x = values((4, 3, 1000), 0, 1)
    x[1, 1, 5] = bad
    assert not np.isfinite(moments_of(x).variance)
    assert np.isfinite(channel_moments(x, 1).variance).tolist() == [True, False, True]


def test_an_axis_counts_from_the_end_too() -> None:
    values = np.random.default_rng(5).standard_normal((6, 5, 4)).astype(np.float32)
    for axis in (-1, -2, -3):
        assert (channel_moments(values, axis).mean == channel_moments(values, axis + 3).mean).all()
