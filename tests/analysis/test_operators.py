"""The operator table: what each operand is, its fans and its blocks, against the connections that running it shows."""

from __future__ import annotations

import numpy as np
import pytest
from connections import assert_counts
from graphs import analysed, build, kinds, roles, weights
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


# ---------------------------------------------------------------- recurrent operators

GATES = {"LSTM": "iofc", "GRU": "zrh", "RNN": "h"}


@pytest.mark.parametrize("op", sorted(GATES))
@pytest.mark.parametrize("dirs", [1, 2])
def test_recurrent_operators_gate_by_gate(op: str, dirs: int) -> None:
    g, h, i = len(GATES[op]), 3, 5
    direction = "bidirectional" if dirs == 2 else "forward"
    names = ["w", "r", "b", "lens", "h0", *(["c0", "p"] if op == "LSTM" else [])]
    stored: Shapes = {"w": (dirs, g * h, i), "r": (dirs, g * h, h), "b": (dirs, 2 * g * h), "h0": (dirs, 1, h)}
    if op == "LSTM":
        stored |= {"c0": (dirs, 1, h), "p": (dirs, 3 * h)}
    found = analysed(
        build(
            f"(float[7,1,{i}] x, int32[1] lens) => (float[7,{dirs},1,{h}] y)"
            f' {{ y = {op}<hidden_size = {h}, direction = "{direction}">(x, {", ".join(names)}) }}',
            **stored,
        )
    )
    w, r, b = (found.by_id[n] for n in "wrb")
    assert (w.role, w.fan_in, w.fan_out) == ("input_weight", i, h)
    assert (r.role, r.fan_in, r.fan_out) == ("recurrent_weight", h, h)
    assert (b.role, b.fan_in) == ("bias", i)
    for weight, block in ((w, (h, i)), (r, (h, h)), (b, (h, 1))):
        assert weight.layout is not None
        (part,) = weight.layout.parts
        assert part.block_shape == block
    assert w.layout is not None
    assert r.layout is not None
    assert b.layout is not None
    assert w.layout.parts[0].names == r.layout.parts[0].names == tuple(GATES[op]) * dirs
    assert b.layout.parts[0].names == tuple(f"{half}.{x}" for half in ("Wb", "Rb") for x in GATES[op]) * dirs
    gate = np.zeros((dirs, g * h, i), int)
    gate[:, h * (g - 1) : h * g] = 1
    assert w.layout.parts[0].to_canonical(gate).reshape(dirs, g, -1).min(-1).tolist() == [[0] * (g - 1) + [1]] * dirs
    if op == "LSTM":
        p = found.by_id["p"]
        assert p.role == "peephole"
        assert p.blocks == 3 * dirs
    kept = {k.id: k.reason for k in found.kept}
    assert set(kept) == ({"h0", "c0"} if op == "LSTM" else {"h0"})
    assert all(op in reason for reason in kept.values())


def test_gates_that_the_graph_puts_together_keep_their_names() -> None:
    """Unfolded, as from a framework with gates in another order: f is joined in third place, in both directions."""
    order, names = "ifco", ("i", "f", "c", "o")
    body = []
    for d in "01":
        for kind, axis in (("w", 0), ("r", 0), ("bi", 0), ("bh", 0)):
            cuts = " ".join(f"{kind}{d}{x} = Slice({kind}{d}, k{j}, k{j + 1}, z)" for j, x in enumerate(order))
            joined = ", ".join(f"{kind}{d}{x}" for x in "iofc")
            body.append(f"{cuts} {kind}{d}j = Concat<axis = {axis}>({joined})")
        body.append(f"b{d}j = Concat<axis = 0>(bi{d}j, bh{d}j)")
    for kind in "wrb":
        both = [f"{kind}{d}u = Unsqueeze({kind}{d}j, z)" for d in "01"]
        body.append(f"{' '.join(both)} {kind} = Concat<axis = 0>({kind}0u, {kind}1u)")
    starts = " ".join(f"k{j} = Constant<value = int64[1] {{{3 * j}}}>()" for j in range(5))
    shapes: Shapes = {}
    for d in "01":
        shapes |= {f"w{d}": (12, 5), f"r{d}": (12, 3), f"bi{d}": (12,), f"bh{d}": (12,)}
    found = weights(
        build(
            f"(float[7,1,5] x) => (float[7,2,1,3] y) {{"
            f" z = Constant<value = int64[1] {{0}}>() {starts} {' '.join(body)}"
            ' y = LSTM<hidden_size = 3, direction = "bidirectional">(x, w, r, b) }',
            **shapes,
        )
    )
    for d in "01":
        for name, role, prefix in (
            ("w", "input_weight", ""),
            ("r", "recurrent_weight", ""),
            ("bi", "bias", "Wb."),
            ("bh", "bias", "Rb."),
        ):
            weight = found[f"{name}{d}"]
            assert weight.role == role
            assert weight.layout is not None
            assert tuple(n for p in weight.layout.parts for n in p.names) == tuple(prefix + x for x in names)
            assert weight.blocks == 4
    assert found["w1"].fan_in == 5


# ---------------------------------------------------------------- look-ups


def test_a_table_looked_up_by_the_feed_is_an_embedding() -> None:
    w = weights(build("(int64[n,t] ids) => (float[n,t,6] y) { y = Gather(w, ids) }", w=(50, 6)))["w"]
    assert (w.role, w.fan_in, w.fan_out) == ("embedding", 6, 50)
    assert kinds(w) == [((50, "out"),), ((6, "in"),)]


def test_a_table_that_is_stored_turned() -> None:
    w = weights(build("(int64[n,t] ids) => (float[6,n,t] y) { y = Gather<axis = 1>(w, ids) }", w=(6, 50)))["w"]
    assert (w.role, w.fan_in, w.fan_out) == ("embedding", 6, 50)
    assert kinds(w) == [((6, "in"),), ((50, "out"),)]


def test_gathers_of_shapes_and_by_constants_look_nothing_up() -> None:
    found = roles(
        build(
            "(float[n,t,4] x) => (float[n,4] y, int64 k) { s = Shape(x) one = Constant<value = int64 {1}>()"
            " k = Gather(s, one) h = Gather<axis = 1>(x, one) p = Gather(w, one) y = MatMul(h, p) }",
            w=(2, 4, 4),
        )
    )
    assert found == {"w": "weight", "one": ""}


def test_positions_counted_in_the_graph_look_up_a_position_table() -> None:
    found = roles(
        build(
            "(int64[n,t] ids) => (float[n,t,6] y) { zero = Constant<value_int = 0>() one = Constant<value_int = 1>()"
            " s = Shape(ids) t = Gather(s, one) at = Range(zero, t, one) p = Gather(pos, at) e = Gather(w, ids)"
            " y = Add(e, p) }",
            w=(50, 6),
            pos=(20, 6),
        )
    )
    assert (found["w"], found["pos"]) == ("embedding", "positional")


def test_a_table_read_twice_is_one_weight_with_two_uses() -> None:
    """A language model whose head is its embedding."""
    w = weights(
        build(
            "(int64[n,t] ids) => (float[n,t,50] y) { e = Gather(w, ids) h = Tanh(e)"
            " t = Transpose(w) y = MatMul(h, t) }",
            w=(50, 6),
        )
    )["w"]
    assert w.role == "embedding"
    assert [(u.op, u.input, u.via) for u in w.uses] == [("Gather", 0, ()), ("MatMul", 1, ("Transpose",))]
    assert (w.fan_in, w.fan_out) == (6, 50)


# ---------------------------------------------------------------- norms and slopes

NORMS = [
    (
        "y = BatchNormalization(h, a, b, c, d)", 17,
        {"a": "norm_scale", "b": "norm_shift", "c": "running_mean", "d": "running_var"},
    ),
    ("y = InstanceNormalization(h, a, b)", 17, {"a": "norm_scale", "b": "norm_shift"}),
    ("y = GroupNormalization<num_groups = 2>(h, a, b)", 21, {"a": "norm_scale", "b": "norm_shift"}),
    ("t = Transpose<perm = [0, 2, 1]>(h) y = LayerNormalization(t, a, b)", 17, {"a": "norm_scale", "b": "norm_shift"}),
    ("t = Transpose<perm = [0, 2, 1]>(h) y = LayerNormalization(t, a)", 17, {"a": "norm_scale"}),
    ("t = Transpose<perm = [0, 2, 1]>(h) y = RMSNormalization(t, a)", 23, {"a": "norm_scale"}),
    (
        "t = Transpose<perm = [0, 2, 1]>(h) y = com.microsoft.SimplifiedLayerNormalization(t, a)", 17,
        {"a": "norm_scale"},
    ),
    (
        "t = Transpose<perm = [0, 2, 1]>(h) y = com.microsoft.SkipLayerNormalization(t, t, a, b, c)", 17,
        {"a": "norm_scale", "b": "norm_shift", "c": "bias"},
    ),
    (
        "t = Transpose<perm = [0, 2, 1]>(h) y = com.microsoft.SkipSimplifiedLayerNormalization(t, t, a, b)", 17,
        {"a": "norm_scale", "b": "bias"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("body", "opset", "truth"), NORMS, ids=[n[0].split("(")[0].split()[-1] for n in NORMS])
def test_the_parts_of_a_norm(body: str, opset: int, truth: dict[str, str]) -> None:
    model = build(
        f"(float[n,3,9] x) => (y) {{ h = Conv(x, w) {body} }}",
        opset=opset,
        check=False,
        w=(6, 3, 3),
        **{name: (6,) for name in truth},
    )
    assert roles(model) == {"w": "weight", **truth}


def test_a_norm_without_a_scale_is_no_weight_but_a_norm_all_the_same() -> None:
    found = analysed(
        build(
            "(float[n,3,9] x) => (y) { h = Conv(x, w) y = InstanceNormalization(h, one, zero) }",
            check=False,
            w=(6, 3, 3),
            one=np.ones(6, np.float32),
            zero=np.zeros(6, np.float32),
        )
    )
    assert [w.id for w in found.weights] == ["w"]
    assert not found.normless


DECOMPOSED = """m = ReduceMean<axes = [-1]>(h) d = Sub(h, m) two = Constant<value_float = 2.0>() q = Pow(d, two)
    v = ReduceMean<axes = [-1]>(q) eps = Constant<value_float = 0.00001>() e = Add(v, eps) r = Sqrt(e) n = Div(d, r)"""


def test_a_norm_that_is_written_out() -> None:
    model = build(
        f"(float[n,t,4] x) => (float[n,t,6] y) {{ h = MatMul(x, w) {DECOMPOSED} s = Mul(n, g) y = Add(s, b) }}",
        w=(4, 6),
        g=(6,),
        b=(6,),
    )
    found = analysed(model)
    assert {w.id: w.role for w in found.weights} == {"w": "weight", "g": "norm_scale", "b": "norm_shift"}
    assert not found.normless


def test_a_scale_stored_as_what_is_added_to_one_starts_from_zero() -> None:
    model = build(
        """(float[n,t,4] x) => (float[n,t,6] y) { h = MatMul(x, w) two = Constant<value_float = 2.0>() q = Pow(h, two)
        v = ReduceMean<axes = [-1]>(q) eps = Constant<value_float = 0.000001>() e = Add(v, eps) r = Sqrt(e)
        n = Div(h, r) one = Constant<value_float = 1.0>() g1 = Add(g, one) y = Mul(n, g1) }""",
        w=(4, 6),
        g=(6,),
    )
    g = weights(model)["g"]
    assert (g.role, g.default) == ("norm_scale", 0.0)


def test_a_parametric_slope() -> None:
    found = weights(
        build("(float[n,3,9] x) => (y) { h = Conv(x, w) y = PRelu(h, a) }", check=False, w=(6, 3, 3), a=(6, 1))
    )
    assert found["a"].role == "prelu_slope"
    (f,) = found["w"].downstream
    assert (f.name, f.slope) == ("prelu", 0.25)


# ---------------------------------------------------------------- the optimiser's fused operators


def test_fused_attention_is_three_blocks() -> None:
    found = weights(
        build(
            "(float[n,t,8] x) => (y) { y = com.microsoft.Attention<num_heads = 2>(x, w, b) }",
            check=False,
            w=(8, 24),
            b=(24,),
        )
    )
    w, b = found["w"], found["b"]
    assert (w.role, w.fan_in, w.fan_out, w.blocks) == ("weight", 8, 8, 3)
    assert kinds(w) == [((8, "in"),), ((3, "block"), (8, "out"))]
    assert w.layout is not None
    assert w.layout.parts[0].names == ("q", "k", "v")
    assert (b.role, b.fan_in, b.blocks) == ("bias", 8, 3)


def test_fused_attention_with_values_of_another_width() -> None:
    w = weights(
        build(
            "(float[n,t,8] x) => (y) {"
            " y = com.microsoft.Attention<num_heads = 2, qkv_hidden_sizes = [8, 8, 12]>(x, w, b) }",
            check=False,
            w=(8, 28),
            b=(28,),
        )
    )["w"]
    assert (w.role, w.fan_in) == ("weight", 8)


def test_the_bias_of_fused_heads() -> None:
    b = weights(
        build("(float[n,t,8] x) => (y) { y = com.microsoft.MultiHeadAttention(x, x, x, b) }", check=False, b=(24,))
    )["b"]
    assert b.role == "bias"


def test_the_tables_of_fused_embeddings() -> None:
    body = "y, m = com.microsoft.EmbedLayerNormalization(ids, seg, words, places, kinds, g, b)"
    model = build(
        f"(int32[n,t] ids, int32[n,t] seg) => (y) {{ {body} }}",
        check=False, words=(50, 6), places=(20, 6), kinds=(2, 6), g=(6,), b=(6,),
    )  # fmt: skip
    assert roles(model) == {
        "words": "embedding", "places": "positional", "kinds": "embedding", "g": "norm_scale", "b": "norm_shift",
    }  # fmt: skip


@pytest.mark.parametrize("at", [0, 3, 4, 5])
def test_an_operand_of_an_unknown_operator_is_kept_with_its_reason(at: int) -> None:
    given = ", ".join("w" if i == at else "x" for i in range(6))
    (kept,) = analysed(build(f"(float[n,4] x) => (y) {{ y = com.example.Mixer({given}) }}", check=False, w=(4, 4))).kept
    assert kept.reason == "feeds Mixer of domain 'com.example', which is not known"
