"""How many layers lie before a weight, and how many after it."""

from __future__ import annotations

from functools import cache

import pytest
from graphs import analysed, build
from hypothesis import given
from hypothesis import strategies as st

LEVELS = {
    # A shortcut beside two layers, an auxiliary output, and a head.
    "branches": (
        """(float[n,4] x) => (float[n,4] aux, float[n,4] y) {
            a = MatMul(x, w0)  ab = Add(a, b0)
            c = MatMul(ab, w1)  d = MatMul(c, w2)  s = MatMul(ab, w3)
            e = Add(d, s)
            aux = MatMul(ab, w4)
            y = Gemm(e, w5, b5)
        }""",
        {f"w{i}": [4, 4] for i in range(6)} | {"b0": [4], "b5": [4]},
        {
            "w0": (0, 3),
            "b0": (1, 3),
            "w1": (1, 2),
            "w2": (2, 1),
            "w3": (1, 1),
            "w4": (1, 0),
            "w5": (3, 0),
            "b5": (4, 0),
        },
    ),
    # An embedding tied to the head: the height goes by the use nearest to the output, the depth by the deciding one.
    "tied": (
        """(int64[n] x) => (float[n,9] y) {
            e = Gather(table, x)  h = MatMul(e, w)  t = Transpose(table)  y = MatMul(h, t)
        }""",
        {"table": [9, 4], "w": [4, 4]},
        {"table": (0, 0), "w": (1, 1)},
    ),
    # The factor of a kernel, worked out among stored tensors, stands at the kernel's layer.
    "factor": (
        """(float[n,4] x) => (float[n,4] y) {
            k = Mul(v, g)  h = MatMul(x, k)  y = MatMul(h, w)
        }""",
        {"v": [4, 4], "g": [1, 4], "w": [4, 4]},
        {"v": (0, 1), "g": (0, 1), "w": (1, 0)},
    ),
}


@pytest.mark.parametrize("name", LEVELS)
def test_levels(name: str) -> None:
    text, tensors, levels = LEVELS[name]
    found = analysed(build(text, **tensors))
    assert {w.id: (w.depth, w.height) for w in found.weights} == levels


def test_a_loop_ends() -> None:
    text = """(float[2,4] x) => (float[2,4] y) {
        n = Constant<value = int64 {3}>()
        go = Constant<value = bool {1}>()
        h = MatMul(x, first)
        l = Loop<body = step (int64 i, bool more, float[2,4] s) => (bool again, float[2,4] t) {
            again = Identity(more)
            u = MatMul(s, inner)
            t = Tanh(u)
        }>(n, go, h)
        y = MatMul(l, last)
    }"""
    found = analysed(build(text, first=[4, 4], inner=[4, 4], last=[4, 4]))
    assert {w.name: (w.depth, w.height) for w in found.weights} == {"first": (0, 2), "inner": (1, 1), "last": (2, 0)}


@given(st.lists(st.sets(st.integers(0, 5), min_size=1, max_size=3), min_size=1, max_size=8))
def test_the_longest_way_counts(sources: list[set[int]]) -> None:
    """Layer i reads the sum of some values before it; the oracle walks all ways."""
    reads = [sorted({s % (i + 1) for s in source}) for i, source in enumerate(sources)]
    lines = []
    for i, source in enumerate(reads):
        lines.append(f"s{i} = Sum({', '.join(f'v{s}' for s in source)})  v{i + 1} = MatMul(s{i}, w{i})")
    ends = [i for i in range(1, len(reads) + 1) if not any(i in r for r in reads)]
    outputs = ", ".join(f"float[n,4] v{i}" for i in ends)
    model = build(
        f"(float[n,4] v0) => ({outputs}) {{ {' '.join(lines)} }}", **{f"w{i}": [4, 4] for i in range(len(reads))}
    )

    @cache
    def before(i: int) -> int:
        return max((1 + before(s - 1) for s in reads[i] if s), default=0)

    @cache
    def after(i: int) -> int:
        return max((1 + after(j) for j, r in enumerate(reads) if i + 1 in r), default=0)

    found = analysed(model).weights
    assert {w.id: (w.depth, w.height) for w in found} == {f"w{i}": (before(i), after(i)) for i in range(len(reads))}
