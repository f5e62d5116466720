"""Schemes that take values from a tensor: permutations, matched laws, subsampled blocks."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from onnxinit.errors import SchemeError
from onnxinit.sampling import CHUNK, stream, weight_key
from onnxinit.schemes import Block, parse_spec, sources


@pytest.mark.parametrize("n", [0, 1, 2, 1000, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
def test_a_permutation_moves_every_value_once(n: int) -> None:
    values = np.arange(n)
    moved = sources.permuted(values, stream(weight_key(1, "w")))
    assert np.array_equal(np.sort(moved), values)
    assert n < 3 or not np.array_equal(moved, values)


@pytest.mark.parametrize("chunk", [CHUNK, 2], ids=["by keys", "by buckets"])
def test_all_permutations_are_as_likely(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK", chunk)
    key, draws = weight_key(2, "w"), 12_000
    found = Counter(tuple(sources.permuted(np.arange(4), stream(key, i)).tolist()) for i in range(draws))
    counts = [found[p] for p in itertools.permutations(range(4))]
    assert sum(counts) == draws
    assert stats.chisquare(counts).pvalue > 1e-6


def test_many_values_go_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK", 16)
    places = np.concatenate([sources.permuted(np.arange(100), stream(b"k", i)).argsort()[[0, 50]] for i in range(5000)])
    for first in (places[::2], places[1::2]):
        assert stats.chisquare(np.bincount(first, minlength=100)).pvalue > 1e-6
    together = np.bincount((places[::2] // 50) * 2 + places[1::2] // 50)  # two values do not know of each other
    assert stats.chisquare(together, 5000 * np.array([49, 50, 50, 49]) / 198).pvalue > 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matched_values_have_the_moments_and_the_zeros(dtype: type[np.floating]) -> None:
    n, mean, std = 200_000, 0.3, 0.05
    old = np.random.default_rng(3).normal(size=n).astype(dtype)
    old[::3] = 0
    block = Block((n,), dtype=np.dtype(dtype), moments=(mean, std))
    w = parse_spec("match").draw_from(block, stream(b"k"), old)
    assert w.dtype == dtype
    assert np.array_equal(w == 0, old == 0)
    values = w[w != 0].astype(np.float64)
    assert abs(values.mean() - mean) < 5 * std / values.size**0.5
    assert abs(values.std() - std) < 5 * std / (2 * values.size) ** 0.5
    assert stats.kstest(values, stats.norm(mean, std).cdf).pvalue > 1e-6


shapes = st.lists(st.integers(1, 6), min_size=1, max_size=3)


@given(st.data(), shapes)
def test_donors_are_subsampled_evenly(data: st.DataObject, shape: list[int]) -> None:
    there = [n + data.draw(st.integers(0, 7)) for n in shape]
    old = np.arange(np.prod(there)).reshape(there)
    w = parse_spec("donor:path=m.onnx").draw_from(Block(tuple(shape)), stream(b"k"), old)
    for place in np.ndindex(*shape):
        assert w[place] == old[tuple(i * t // s for i, t, s in zip(place, there, shape, strict=True))]


def test_smaller_donors_are_repeated() -> None:
    old = np.array([[1, 2, 3], [4, 5, 6]])
    w = parse_spec("donor:path=m.onnx,tile=true").draw_from(Block((5, 2)), stream(b"k"), old)
    assert w.tolist() == [[1, 2], [4, 5], [1, 2], [4, 5], [1, 2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("donor", "donor: it needs the model to take weights from: donor:path=FILE.onnx"),
        ("donor:path=m.onnx,fallback=hee", "donor: there is no scheme named 'hee'"),
        ("donor:path=m.onnx,gain=2", "the scheme 'donor' takes no gain"),
        ("shuffle:within=chunk", "shuffle: within must be one of tensor, block, not 'chunk'"),
    ],
)
def test_messages(text: str, message: str) -> None:
    with pytest.raises(SchemeError, match=f"^{message}"):
        parse_spec(text)
