"""Layers: their fans and blocks against the connections that running them shows, and their biases."""

from __future__ import annotations

import numpy as np
import pytest
from connections import assert_counts
from graphs import build, roles, weights
from hypothesis import given, settings
from hypothesis import strategies as st

Shapes = dict[str, tuple[int, ...]]

# ---------------------------------------------------------------- layers, by their connections

# A graph with a signal of one batch, linear in its weights; the window is small and without padding, so that the
# value in the middle sees every tap.
LINEAR: list[tuple[str, str, Shapes]] = [
    ("conv 1d", "(float[1,4,5] x) => (float[1,6,3] y) { y = Conv(x, w) }", {"w": (6, 4, 3)}),
    ("conv 1d, groups", "(float[1,4,5] x) => (float[1,6,3] y) { y = Conv<group = 2>(x, w) }", {"w": (6, 2, 3)}),
    ("conv 2d", "(float[1,2,3,5] x) => (float[1,3,2,3] y) { y = Conv(x, w) }", {"w": (3, 2, 2, 3)}),
    ("conv 3d", "(float[1,2,3,2,3] x) => (float[1,2,2,2,2] y) { y = Conv(x, w) }", {"w": (2, 2, 2, 1, 2)}),
    ("depthwise", "(float[1,4,5] x) => (float[1,4,3] y) { y = Conv<group = 4>(x, w) }", {"w": (4, 1, 3)}),
    ("depthwise twice", "(float[1,3,5] x) => (float[1,6,3] y) { y = Conv<group = 3>(x, w) }", {"w": (6, 1, 3)}),
    ("dilated", "(float[1,2,9] x) => (float[1,2,5] y) { y = Conv<dilations = [2]>(x, w) }", {"w": (2, 2, 3)}),
    ("pointwise", "(float[1,4,1] x) => (float[1,6,1] y) { y = Conv(x, w) }", {"w": (6, 4, 1)}),
    ("transposed conv", "(float[1,4,5] x) => (float[1,3,7] y) { y = ConvTranspose(x, w) }", {"w": (4, 3, 3)}),
    (
        "transposed conv, groups",
        "(float[1,4,5] x) => (float[1,6,7] y) { y = ConvTranspose<group = 2>(x, w) }",
        {"w": (4, 3, 3)},
    ),
    ("transposed conv 2d", "(float[1,2,3,3] x) => (float[1,3,4,4] y) { y = ConvTranspose(x, w) }", {"w": (2, 3, 2, 2)}),
    ("gemm", "(float[2,4] x) => (float[2,3] y) { y = Gemm(x, w) }", {"w": (4, 3)}),
    ("gemm, b turned", "(float[2,4] x) => (float[2,3] y) { y = Gemm<transB = 1>(x, w) }", {"w": (3, 4)}),
    ("gemm, a turned", "(float[4,2] x) => (float[2,3] y) { y = Gemm<transA = 1>(x, w) }", {"w": (4, 3)}),
    ("gemm, both turned", "(float[4,2] x) => (float[2,3] y) { y = Gemm<transA = 1, transB = 1>(x, w) }", {"w": (3, 4)}),
    ("gemm from the left", "(float[4,2] x) => (float[3,2] y) { y = Gemm(w, x) }", {"w": (3, 4)}),
    ("gemm from the left, turned", "(float[4,2] x) => (float[3,2] y) { y = Gemm<transA = 1>(w, x) }", {"w": (4, 3)}),
    (
        "gemm, scaled",
        "(float[2,4] x) => (float[2,3] y) { y = Gemm<alpha: float = 0.5, beta: float = 2.0>(x, w) }",
        {"w": (4, 3)},
    ),
    ("matmul", "(float[2,4] x) => (float[2,3] y) { y = MatMul(x, w) }", {"w": (4, 3)}),
    ("matmul of a sequence", "(float[2,3,4] x) => (float[2,3,5] y) { y = MatMul(x, w) }", {"w": (4, 5)}),
    ("matmul from the left", "(float[2,4,3] x) => (float[2,5,3] y) { y = MatMul(w, x) }", {"w": (5, 4)}),
    ("matmul, batched", "(float[3,2,4] x) => (float[3,2,5] y) { y = MatMul(x, w) }", {"w": (3, 4, 5)}),
    ("matmul, batched, from the left", "(float[3,4,2] x) => (float[3,5,2] y) { y = MatMul(w, x) }", {"w": (3, 5, 4)}),
    ("matmul, two batches", "(float[2,2,1,3] x) => (float[2,2,1,2] y) { y = MatMul(x, w) }", {"w": (2, 2, 3, 2)}),
    ("matmul with a vector", "(float[3,4] x) => (float[3] y) { y = MatMul(x, w) }", {"w": (4,)}),
    ("einsum", '(float[2,4] x) => (float[2,3] y) { y = Einsum<equation = "bi,io->bo">(x, w) }', {"w": (4, 3)}),
    ("einsum, implicit", '(float[2,4] x) => (float[2,3] y) { y = Einsum<equation = "bi, io">(x, w) }', {"w": (4, 3)}),
    ("einsum, turned", '(float[2,4] x) => (float[2,3] y) { y = Einsum<equation = "oi,bi->bo">(w, x) }', {"w": (3, 4)}),
    (
        "einsum to heads",
        '(float[2,4] x) => (float[2,3,2] y) { y = Einsum<equation = "ti,hid->thd">(x, w) }',
        {"w": (3, 4, 2)},
    ),
    (
        "einsum from heads",
        '(float[2,3,2] x) => (float[2,4] y) { y = Einsum<equation = "thd,hdo->to">(x, w) }',
        {"w": (3, 2, 4)},
    ),
    (
        "einsum by head",
        '(float[2,3,2] x) => (float[2,3,4] y) { y = Einsum<equation = "thd,hdo->tho">(x, w) }',
        {"w": (3, 2, 4)},
    ),
    (
        "fused matmul",
        "(float[2,4] x) => (float[2,3] y) { y = com.microsoft.FusedMatMul<transB = 1, alpha: float = 0.1>(x, w) }",
        {"w": (3, 4)},
    ),
    (
        "fused gemm",
        '(float[2,4] x) => (float[2,3] y) { y = com.microsoft.FusedGemm<transB = 1, activation = "Relu">(x, w) }',
        {"w": (3, 4)},
    ),
    (
        "fused conv",
        '(float[1,4,5] x) => (float[1,6,3] y) { y = com.microsoft.FusedConv<group = 2, activation = "Relu">(x, w) }',
        {"w": (6, 2, 3)},
    ),
]

# The same through what stands between a tensor and its use.
THROUGH: list[tuple[str, str, Shapes]] = [
    ("turned", "(float[2,4] x) => (float[2,3] y) { t = Transpose(w) y = MatMul(x, t) }", {"w": (3, 4)}),
    (
        "through two turns and an identity",
        "(float[2,4] x) => (float[2,3] y) { a = Transpose(w) b = Identity(a) c = Transpose(b) y = MatMul(x, c) }",
        {"w": (4, 3)},
    ),
    (
        "heads joined",
        "(float[2,4] x) => (float[2,6] y) { s = Constant<value = int64[2] {6, 4}>() t = Reshape(w, s)"
        " y = Gemm<transB = 1>(x, t) }",
        {"w": (3, 2, 4)},
    ),
    (
        "heads turned and joined",
        "(float[2,4] x) => (float[2,6] y) { t = Transpose<perm = [2, 0, 1]>(w) s = Constant<value = int64[2] {4, -1}>()"
        " u = Reshape(t, s) y = MatMul(x, u) }",
        {"w": (3, 2, 4)},
    ),
    (
        "flattened kernel",
        "(float[1,12] x) => (float[1,2] y) { t = Flatten<axis = 1>(w) y = Gemm<transB = 1>(x, t) }",
        {"w": (2, 3, 4)},
    ),
    (
        "a matrix as a kernel of one",
        "(float[1,4,1] x) => (float[1,3,1] y) { a = Constant<value = int64[1] {-1}>() t = Unsqueeze(w, a)"
        " y = Conv(x, t) }",
        {"w": (3, 4)},
    ),
    (
        "squeezed",
        "(float[2,4] x) => (float[2,3] y) { a = Constant<value = int64[1] {0}>() t = Squeeze(w, a) y = MatMul(x, t) }",
        {"w": (1, 4, 3)},
    ),
    (
        "two slices to two products",
        "(float[2,4] x) => (float[2,5] y) { z = Constant<value = int64[1] {0}>() k = Constant<value = int64[1] {2}>()"
        " e = Constant<value = int64[1] {5}>() a = Constant<value = int64[1] {1}>() p = Slice(w, z, k, a)"
        " q = Slice(w, k, e, a) s = MatMul(x, p) t = MatMul(x, q) y = Concat<axis = 1>(s, t) }",
        {"w": (4, 5)},
    ),
    (
        "three pieces of one split",
        "(float[2,4] x) => (float[2,6] y) { a, b, c = Split<axis = 0>(w) p = Gemm<transB = 1>(x, a)"
        " q = Gemm<transB = 1>(x, b) r = Gemm<transB = 1>(x, c) y = Concat<axis = 1>(p, q, r) }",
        {"w": (6, 4)},
    ),
    (
        "indexed out of a stack",
        "(float[2,3] x) => (float[2,4] y) { i = Constant<value = int64 {0}>() j = Constant<value = int64 {1}>()"
        " a = Gather(w, i) b = Gather(w, j) p = MatMul(x, a) q = MatMul(x, b) y = Concat<axis = 1>(p, q) }",
        {"w": (2, 3, 2)},
    ),
    (
        "joined side by side",
        "(float[2,4] x) => (float[2,5] y) { t = Concat<axis = 1>(w, v) y = MatMul(x, t) }",
        {"w": (4, 2), "v": (4, 3)},
    ),
    (
        "joined along the contracted axis",
        "(float[2,6] x) => (float[2,3] y) { t = Concat<axis = 0>(w, v) y = MatMul(x, t) }",
        {"w": (4, 3), "v": (2, 3)},
    ),
    (
        "two joined and turned",
        "(float[2,4] x) => (float[2,5] y) { t = Concat<axis = 0>(w, v) u = Transpose(t) y = MatMul(x, u) }",
        {"w": (2, 4), "v": (3, 4)},
    ),
    (
        "halved and doubled",
        "(float[2,4] x) => (float[2,3] y) { h = Cast<to = 10>(w) t = Cast<to = 1>(h) y = MatMul(x, t) }",
        {"w": (4, 3)},
    ),
    (
        "shared by a batch",
        "(float[2,3,4] x) => (float[2,3,5] y) { s = Constant<value = int64[3] {2, 4, 5}>() t = Expand(w, s)"
        " y = MatMul(x, t) }",
        {"w": (4, 5)},
    ),
]


@pytest.mark.parametrize(("text", "shapes"), [c[1:] for c in LINEAR], ids=[c[0] for c in LINEAR])
def test_fans_and_blocks_are_those_of_the_connections(text: str, shapes: Shapes) -> None:
    model = build(text, **shapes)
    assert_counts(model, list(shapes))
    assert all(w.role == "weight" for w in weights(model).values())


@pytest.mark.parametrize(("text", "shapes"), [c[1:] for c in THROUGH], ids=[c[0] for c in THROUGH])
def test_views_between_a_tensor_and_its_use_are_seen_through(text: str, shapes: Shapes) -> None:
    model = build(text, **shapes)
    assert_counts(model, list(shapes))
    assert all(w.role == "weight" for w in weights(model).values())


@settings(max_examples=25)
@given(st.data())
def test_any_grouped_convolution(data: st.DataObject) -> None:
    g, per_in, per_out = (data.draw(st.integers(1, 3)) for _ in range(3))
    kernel = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    transposed = data.draw(st.booleans())
    strides = data.draw(st.lists(st.integers(1, 2), min_size=len(kernel), max_size=len(kernel)))
    c, m = g * per_in, g * per_out
    shape = (c, per_out, *kernel) if transposed else (m, per_in, *kernel)
    op = "ConvTranspose" if transposed else "Conv"
    dims = ",".join(["1", str(c), *("7" for _ in kernel)])
    out = ",".join("abcde"[: len(kernel) + 2])
    text = f"(float[{dims}] x) => (float[{out}] y) {{ y = {op}<group = {g}, strides = {strides}>(x, w, b) }}"
    found = weights(build(text, w=shape, b=(m,)))
    taps = np.prod(kernel)
    assert found["w"].fan_in == pytest.approx(per_in * taps / (np.prod(strides) if transposed else 1))
    assert found["w"].fan_out == per_out * taps
    assert (found["w"].groups, found["w"].blocks) == (g, g)
    assert found["w"].layout is not None
    assert found["w"].layout.parts[0].block_shape == (per_out, per_in, *(k for k in kernel if k > 1))
    assert (found["b"].role, found["b"].fan_in) == ("bias", found["w"].fan_in)


def test_a_strided_transposed_convolution_is_reached_by_some_of_its_taps() -> None:
    """4 taps at stride 3: an output sees one tap or two of them, 4/3 on average."""
    w = weights(build("(float[1,5,9] x) => (float[1,2,28] y) { y = ConvTranspose<strides = [3]>(x, w) }", w=(5, 2, 4)))[
        "w"
    ]
    assert (w.fan_in, w.fan_out) == (pytest.approx(5 * 4 / 3), 8)


@pytest.mark.parametrize("bias", [2, 3])
def test_deformable_convolution(bias: int) -> None:
    text = "(float[1,4,5,5] x, float[1,18,3,3] o) => (float[1,6,3,3] y) { y = DeformConv<group = 2>(x, w, o, b) }"
    found = weights(build(text, opset=19, w=(6, 2, 3, 3), b=(6,)))
    assert (found["w"].role, found["w"].fan_in, found["w"].fan_out, found["w"].groups) == ("weight", 18, 27, 2)
    assert (found["b"].role, found["b"].fan_in) == ("bias", 18)


# ---------------------------------------------------------------- biases


@pytest.mark.parametrize(
    ("text", "shapes", "fan_in"),
    [
        ("(float[2,4] x) => (float[2,3] y) { y = Gemm(x, w, b) }", {"w": (4, 3), "b": (3,)}, 4),
        ("(float[2,4] x) => (float[2,3] y) { y = Gemm(x, w, b) }", {"w": (4, 3), "b": (1, 3)}, 4),
        ("(float[4,2] x) => (float[3,2] y) { y = Gemm(w, x, b) }", {"w": (3, 4), "b": (3, 1)}, 4),
        ("(float[1,4,5] x) => (float[1,6,3] y) { y = Conv<group = 2>(x, w, b) }", {"w": (6, 2, 3), "b": (6,)}, 6),
        ("(float[n,t,4] x) => (float[n,t,3] y) { h = MatMul(x, w) y = Add(h, b) }", {"w": (4, 3), "b": (3,)}, 4),
        ("(float[n,t,4] x) => (float[n,t,3] y) { h = MatMul(x, w) y = Add(b, h) }", {"w": (4, 3), "b": (3,)}, 4),
        (
            "(float[n,4] x) => (float[n,3,2] y) { h = MatMul(x, w) s = Constant<value = int64[3] {-1, 3, 2}>()"
            " r = Reshape(h, s) y = Add(r, b) }",
            {"w": (4, 6), "b": (3, 2)},
            4,
        ),
        (
            '(float[n,4] x) => (float[n,3,2] y) { h = Einsum<equation = "ti,ihd->thd">(x, w) y = Add(h, b) }',
            {"w": (4, 3, 2), "b": (3, 2)},
            4,
        ),
        (
            "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w) y = com.microsoft.BiasGelu(h, b) }",
            {"w": (4, 3), "b": (3,)},
            None,
        ),
        (
            "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w) y = com.microsoft.FastGelu(h, b) }",
            {"w": (4, 3), "b": (3,)},
            None,
        ),
    ],
)  # fmt: skip
def test_the_bias_of_a_layer(text: str, shapes: Shapes, fan_in: int | None) -> None:
    found = weights(build(text, **shapes))
    assert found["b"].role == "bias"
    assert found["b"].layout is None
    if fan_in is not None:
        assert found["b"].fan_in == fan_in


def test_a_filter_that_is_the_same_for_every_channel_is_a_constant() -> None:
    """That of a network that smooths before it subsamples; flat kernels may be what a training starts from."""
    smooth = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16

    def found(given: np.ndarray) -> str:
        text = "(float[1,4,9,9] x) => (y) { h = Conv(x, w) y = Conv<group = 4, strides = [2, 2]>(h, b) }"
        return roles(build(text, check=False, w=(4, 4, 3, 3), b=given))["b"]

    assert found(np.tile(smooth, (4, 1, 1, 1))) == ""
    assert found(np.full((4, 1, 3, 3), 0.1, np.float32)) == "weight"
    assert found(np.random.default_rng(0).standard_normal((4, 1, 3, 3)).astype(np.float32)) == "weight"


# ---------------------------------------------------------------- kernels that a signal makes


@pytest.mark.parametrize("samples", [1, 2])
def test_a_kernel_that_is_scaled_for_every_sample(samples: int) -> None:
    """StyleGAN 2: the samples of a batch are the groups of one convolution, which is no grouped one for that."""
    model = build(
        f"""(float[{samples},4,9,9] x, float[{samples},5] z) => (y) {{ s = Gemm(z, a, b) t = Reshape(s, style)
        k = Mul(w, t) f = Reshape(k, kernel) g = Reshape(x, groups) y = Conv<group = {samples}>(g, f) }}""",
        check=False, w=(1, 6, 4, 3, 3), a=(5, 4), b=(4,), style=np.array([samples, 1, 4, 1, 1]),
        kernel=np.array([samples * 6, 4, 3, 3]), groups=np.array([1, samples * 4, 9, 9]),
    )  # fmt: skip
    w = weights(model)["w"]
    assert (w.role, w.fan_in, w.fan_out, w.groups, w.blocks) == ("weight", 36, 54, 1, 1)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_kernels_that_a_router_mixes(op: str, samples: int) -> None:
    """CondConv: each of the kernels is one of the convolution's, and so is each bias."""
    model = build(
        f"""(float[{samples},4,9,9] x, float[{samples},5] z) => (y) {{ r = MatMul(z, a) p = Softmax(r) k = {op}(p, w)
        c = {op}(p, b) f = Reshape(k, kernel) d = Reshape(c, flat) g = Reshape(x, groups)
        y = Conv<group = {samples}>(g, f, d) }}""",
        check=False, w=(3, 6 * 4 * 3 * 3), a=(5, 3), b=(3, 6), flat=np.array([-1]),
        kernel=np.array([samples * 6, 4, 3, 3]), groups=np.array([1, samples * 4, 9, 9]),
    )  # fmt: skip
    found = weights(model)
    w = found["w"]
    assert (w.role, w.fan_in, w.fan_out, w.groups, w.blocks) == ("weight", 36, 54, 1, 3)
    assert {n: found[n].role for n in "ab"} == {"a": "weight", "b": "bias"}


def test_a_pair_of_factors_that_is_added_to_a_kernel() -> None:
    """Low-rank adapters that a graph merges at run time: none of them is data."""
    text = "(float[n,12] x) => (y) { d = MatMul(b, a) m = Add(w, d) t = Transpose(m) h = MatMul(x, t) y = Add(h, c) }"
    found = weights(build(text, check=False, w=(6, 12), a=(2, 12), b=(6, 2), c=(6,)))
    assert {n: w.role for n, w in found.items()} == {"w": "weight", "a": "weight", "b": "weight", "c": "bias"}
    assert (found["w"].fan_in, found["w"].fan_out) == (12, 6)
