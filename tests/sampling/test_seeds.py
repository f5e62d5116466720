"""A stream depends on the root seed, the weight's id and the chunk, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxinit.sampling import stream, weight_key


def words(seed: int, weight: str, chunk: int) -> list[int]:
    return stream(weight_key(seed, weight), chunk).words(4).tolist()


@given(st.integers(), st.text(st.characters(codec=None)), st.integers(0, 2**64 - 1))
def test_any_seed_id_and_chunk_make_a_stream(seed: int, weight: str, chunk: int) -> None:
    assert words(seed, weight, chunk) == words(seed, weight, chunk)


def test_every_part_of_the_seed_counts() -> None:
    settings = [
        (0, "a", 0),
        (1, "a", 0),
        (-1, "a", 0),
        (2**64, "a", 0),
        (0, "b", 0),
        (0, "a", 1),
        (0, "", 0),
        (0, "0", 0),
    ]
    settings += [(10, "a", 0), (1, "0\0a", 0), (1, "\0a", 0)]  # no text of an id stands for another seed
    assert len({tuple(words(*s)) for s in settings}) == len(settings)


def test_streams_are_not_correlated() -> None:
    drawn = np.empty((200, 1000))
    for row, values in enumerate(drawn):
        stream(weight_key(0, f"weight {row % 20}"), row // 20).normal(values)
    r = np.corrcoef(drawn)[np.triu_indices(200, 1)]
    assert abs(r).max() * np.sqrt(1000) < 5.5  # 19900 pairs
    assert np.sqrt((r**2).mean() * 1000) == pytest.approx(1, abs=5 / np.sqrt(2 * len(r)))


def test_no_global_random_state_is_touched() -> None:
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    stream(weight_key(0, "a")).normal(np.empty(1000))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
