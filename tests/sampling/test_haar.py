"""Orthogonal matrices: orthonormal, and of Haar's law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from onnxinit.sampling import haar, stream, weight_key


def draw(rows: int, cols: int, chunk: int = 0, dtype: type = np.float32) -> np.ndarray:
    return haar(rows, cols, stream(weight_key(0, "haar"), chunk), dtype)


def error(q: np.ndarray) -> float:
    """The largest entry of Q'Q - I or QQ' - I, whichever is the smaller matrix."""
    wide = q.astype(np.float64) if q.shape[0] <= q.shape[1] else q.T.astype(np.float64)
    return float(np.abs(wide @ wide.T - np.eye(len(wide))).max(initial=0))


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-13)])
@given(rows=st.integers(0, 200), cols=st.integers(0, 200))
def test_rows_or_columns_are_orthonormal(dtype: type, tolerance: float, rows: int, cols: int) -> None:
    q = draw(rows, cols, dtype=dtype)
    assert q.shape == (rows, cols) and q.dtype == dtype
    assert error(q) < tolerance


@pytest.mark.parametrize("shape", [(1500, 1500), (3000, 500), (64, 9 * 512)])
def test_large_matrices_too(shape: tuple[int, int]) -> None:
    assert error(draw(*shape)) < 1e-5


def test_square_ones_have_haars_law() -> None:
    n, draws = 70, 1500  # two panels
    q = np.array([draw(n, n, i) for i in range(draws)], np.float64)
    trace = np.einsum("bii->b", q)
    assert abs(trace.mean()) < 5 / np.sqrt(draws)
    assert abs(trace.var() - 1) < 5 * np.sqrt(2 / draws)
    square = np.einsum("bij,bji->b", q, q)  # E tr Q^2 = 1, its variance is 2
    assert abs(square.mean() - 1) < 5 * np.sqrt(2 / draws)
    positive = (np.linalg.det(q) > 0).mean()
    assert abs(positive - 0.5) < 5 * np.sqrt(0.25 / draws)
    # Each entry squared is Beta(1/2, (n - 1)/2), wherever it stands: corners, panel edges, the last column.
    law = stats.beta(0.5, (n - 1) / 2)
    for i, j in ((0, 0), (0, n - 1), (n - 1, 0), (n - 1, n - 1), (63, 64), (64, 63)):
        assert stats.kstest(q[:, i, j] ** 2, law.cdf).pvalue > 1e-6
        assert abs((q[:, i, j] > 0).mean() - 0.5) < 5 * np.sqrt(0.25 / draws)
    # Entries of one column and of one row are uncorrelated.
    for a, b in ((q[:, 0, 0], q[:, 1, 0]), (q[:, 0, 0], q[:, 0, 1]), (q[:, 0, 0], q[:, 1, 1])):
        assert abs(n * (a * b).mean()) < 5 / np.sqrt(draws)


def test_eigenphases_are_spread_evenly() -> None:
    phases = np.concatenate([np.angle(np.linalg.eigvals(draw(40, 40, i, np.float64))) for i in range(200)])
    # One of a conjugate pair; real eigenvalues (+1 and -1) aside. Phases repel each other, so KS only gets smaller.
    assert stats.kstest(phases[(phases > 1e-9) & (phases < np.pi - 1e-9)] / np.pi, "uniform").pvalue > 1e-6


@pytest.mark.parametrize("shape", [(90, 20), (20, 90)])
def test_rectangular_ones_are_parts_of_square_ones(shape: tuple[int, int]) -> None:
    draws, n = 1500, max(shape)
    q = np.array([draw(*shape, i) for i in range(draws)], np.float64)
    law = stats.beta(0.5, (n - 1) / 2)
    for i, j in ((0, 0), (shape[0] - 1, shape[1] - 1), (0, shape[1] - 1), (shape[0] - 1, 0)):
        assert stats.kstest(q[:, i, j] ** 2, law.cdf).pvalue > 1e-6
        assert abs(np.sqrt(n) * q[:, i, j].mean()) < 5 / np.sqrt(draws)


def test_a_vector_and_a_number() -> None:
    assert {round(float(draw(1, 1, i)[0, 0]), 5) for i in range(20)} == {1.0, -1.0}
    assert np.linalg.norm(draw(1, 50)) == pytest.approx(1, abs=1e-6)
