"""Structured schemes, one block at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from onnxinit.errors import SchemeError
from onnxinit.sampling import stream, weight_key
from onnxinit.schemes import Block, parse_spec


def draw(spec: str, *shape: int, name: str = "", dtype: str = "float32", chunk: int = 0) -> np.ndarray:
    block = Block(shape, math.prod(shape[1:]), shape[0] * math.prod(shape[2:]), name, np.dtype(dtype))
    drawn = parse_spec(spec).draw(block, stream(weight_key(0, spec), chunk))
    assert drawn.shape == shape and drawn.dtype == dtype
    return drawn


shapes = st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.tuples(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 4)
)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-12)])
@given(shape=shapes)
def test_orthogonal_blocks(dtype: str, tolerance: float, shape: tuple[int, ...]) -> None:
    w = draw("orthogonal", *shape, dtype=dtype).reshape(shape[0], -1).astype(np.float64)
    wide = w if w.shape[0] <= w.shape[1] else w.T
    assert np.abs(wide @ wide.T - np.eye(len(wide))).max() < tolerance


@given(shape=shapes)
def test_delta_orthogonal_blocks(shape: tuple[int, ...]) -> None:
    out, inn, *kernel = shape
    if kernel and out < inn:
        message = f"needs at least as many outputs as inputs, and a block has {out} and {inn}: take orthogonal"
        with pytest.raises(SchemeError, match=message):
            draw("delta_orthogonal", *shape)
        return
    w = draw("delta_orthogonal", *shape).astype(np.float64)
    at = (..., *((k - 1) // 2 for k in kernel))
    centre = w[at].copy() if kernel else w
    if kernel:
        w[at] = 0
        assert not w.any()
    gram = centre.T @ centre if out >= inn else centre @ centre.T
    assert np.abs(gram - np.eye(len(gram))).max() < 1e-5


@given(shape=shapes)
def test_identity_hands_inputs_on(shape: tuple[int, ...]) -> None:
    w = draw("identity", *shape)
    assert w.sum() == min(shape[:2])
    for i in range(min(shape[:2])):
        at = (i, i, *(k // 2 for k in shape[2:]))
        assert w[at] == 1


@given(shape=shapes, nonzeros=st.integers(0, 30))
def test_sparse_units_have_their_number_of_weights(shape: tuple[int, ...], nonzeros: int) -> None:
    rows = draw(f"sparse:nonzeros={nonzeros}", *shape).reshape(shape[0], -1)
    assert ((rows != 0).sum(1) == min(nonzeros, rows.shape[1])).all()


@given(shape=shapes, sparsity=st.floats(0, 1))
def test_sparse_by_fraction(shape: tuple[int, ...], sparsity: float) -> None:
    rows = draw(f"sparse:sparsity={sparsity!r}", *shape).reshape(shape[0], -1)
    assert ((rows == 0).sum(1) == math.ceil(sparsity * rows.shape[1])).all()


@pytest.mark.parametrize("nonzeros", [15, 45])
def test_sparse_places_and_values_are_random(nonzeros: int) -> None:
    w = draw(f"sparse:nonzeros={nonzeros},std=0.5", 20000, 60)
    mask = w != 0
    # Places: each as often, and each pair as often (subsets are drawn without replacement).
    share = nonzeros / 60
    assert np.abs(mask.mean(0) - share).max() < 5 * math.sqrt(share * (1 - share) / 20000)
    both = (mask[:, :-1] & mask[:, 1:]).mean(0)
    expected = share * (nonzeros - 1) / 59
    assert np.abs(both - expected).max() < 5 * math.sqrt(expected * (1 - expected) / 20000)
    assert stats.kstest(w[mask], stats.norm(scale=0.5).cdf).pvalue > 1e-6
    assert abs(w[mask].std() / 0.5 - 1) < 5 / math.sqrt(2 * mask.sum())


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("float64", 1e-14)])
@given(shape=shapes)
def test_normalized_exactly(dtype: str, tolerance: float, shape: tuple[int, ...]) -> None:
    rows = draw("normalized:exact=true", *shape, dtype=dtype).reshape(shape[0], -1).astype(np.float64)
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < tolerance


def test_normalized_exactly_is_even_on_the_sphere() -> None:
    w = draw("normalized:exact=true", 20000, 5)
    for entry in w.T:
        assert stats.kstest(entry**2, stats.beta(0.5, 2).cdf).pvalue > 1e-6


@pytest.mark.parametrize("n", [1, 2, 7, 576])
def test_normalized_on_average(n: int) -> None:
    units = 20000
    spec = parse_spec("normalized")
    assert not spec.structured
    w = np.empty((units, n), np.float32)
    spec.distribution(Block((units, n))).sample(stream(weight_key(0, "n"), n), w)
    norms = np.linalg.norm(w.astype(np.float64), axis=1)
    assert abs(norms.mean() - 1) < 5 * norms.std() / math.sqrt(units)


@pytest.mark.parametrize("name, value", [("Wb.f", 1), ("Rb.f", 0), ("Wb.i", 0), ("", 0)])
def test_the_forget_gate(name: str, value: float) -> None:
    assert (draw("forget_bias", 8, name=name) == value).all()
    assert (draw("forget_bias:value=2", 8, name=name) == 2 * value).all()


@pytest.mark.parametrize("spec", ["orthogonal", "delta_orthogonal", "identity", "sparse", "normalized:exact=true"])
def test_a_vector_is_no_matrix(spec: str) -> None:
    with pytest.raises(
        SchemeError, match=r"a block of shape \(7,\) is no matrix: take an independent scheme such as zeros"
    ):
        draw(spec, 7)


@pytest.mark.parametrize("spec", ["orthogonal", "delta_orthogonal", "identity", "sparse", "normalized:exact=true"])
@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0), (0, 4, 3)])
def test_empty_blocks(spec: str, shape: tuple[int, ...]) -> None:
    if spec == "delta_orthogonal" and len(shape) > 2:
        return
    draw(spec, *shape)


def test_blocks_and_their_streams_differ() -> None:
    assert not np.array_equal(draw("orthogonal", 4, 4), draw("orthogonal", 4, 4, chunk=1))
