"""One matrix for several consumers: queries, keys and values, the halves of a gated unit, the gates of a cell."""

from __future__ import annotations

import onnx
import pytest
from connections import assert_counts
from graphs import build, kinds, weights
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

HEADS, WIDTH, D = 2, 3, 6  # heads of three, six together

INDEX = " ".join(f"i{k} = Constant<value = int64 {{{k}}}>()" for k in (0, 1, 2, 6))
LIST = " ".join(f"l{k} = Constant<value = int64[1] {{{k}}}>()" for k in (0, 1, 2, 3, 6, 9, 12, 18))


def shape(name: str, *dims: int) -> str:
    return f"{name} = Constant<value = int64[{len(dims)}] {{{', '.join(map(str, dims))}}}>()"


def three(text: str, layer: str = "h = MatMul(x, w)", n: str = "2") -> str:
    return f"(float[{n},2,4] x) => (q, k, v) {{ {INDEX} {LIST} {layer} {text} }}"


# Ways to cut an output of 18 = (3, heads, width) into three.
OUTER = {
    "split": "q, k, v = Split<axis = -1>(h)",
    "split with lengths": f"{shape('s', 6, 6, 6)} q, k, v = Split<axis = 2>(h, s)",
    "slices": "q = Slice(h, l0, l6, l2) k = Slice(h, l6, l12, l2) v = Slice(h, l12, l18, l2)",
    "reshape, transpose, index": (
        f"{shape('s', 0, 0, 3, HEADS, WIDTH)} r = Reshape(h, s) t = Transpose<perm = [2, 0, 3, 1, 4]>(r)"
        " q = Gather(t, i0) k = Gather(t, i1) v = Gather(t, i2)"
    ),
    "reshape, transpose, split, squeeze": (
        f"{shape('s', 0, 0, 3, -1)} r = Reshape(h, s) t = Transpose<perm = [2, 0, 1, 3]>(r)"
        " a, b, c = Split<axis = 0>(t) q = Squeeze(a, l0) k = Squeeze(b, l0) v = Squeeze(c, l0)"
    ),
    "index of an inner axis": (
        f"{shape('s', 0, 0, 3, -1)} r = Reshape(h, s) q = Gather<axis = 2>(r, i0) k = Gather<axis = 2>(r, i1)"
        " v = Gather<axis = 2>(r, i2)"
    ),
    "behind a cast, a scale and an identity": (
        "f = Cast<to = 11>(h) c = Constant<value = double {0.5}>() g = Mul(f, c) e = Cast<to = 1>(g) d = Identity(e)"
        " q, k, v = Split<axis = -1>(d)"
    ),
    "a sequence": (
        "s = SplitToSequence<axis = 2>(h, i6) q = SequenceAt(s, i0) k = SequenceAt(s, i1) v = SequenceAt(s, i2)"
    ),
    "with some use of the shape": "z = Shape(h) y = Gather(z, i0) q, k, v = Split<axis = -1>(h)",
}  # fmt: skip

# Ways to cut it as (heads, 3, width): every head has its own three.
INNER = {
    "reshape and split": f"{shape('s', 0, 0, HEADS, 9)} r = Reshape(h, s) q, k, v = Split<axis = -1>(r)",
    "reshape and slices": (
        f"{shape('s', 0, 0, HEADS, 9)} r = Reshape(h, s) q = Slice(r, l0, l3, l3) k = Slice(r, l3, l6, l3)"
        " v = Slice(r, l6, l9, l3)"
    ),
    "reshape, transpose and split": (
        f"{shape('s', 0, 0, HEADS, 9)} r = Reshape(h, s) t = Transpose<perm = [0, 2, 1, 3]>(r)"
        " q, k, v = Split<axis = 3>(t)"
    ),
    "reshape and index": (
        f"{shape('s', 0, 0, HEADS, 3, WIDTH)} r = Reshape(h, s) q = Gather<axis = 3>(r, i0)"
        " k = Gather<axis = 3>(r, i1) v = Gather<axis = 3>(r, i2)"
    ),
}


@pytest.mark.parametrize("text", OUTER.values(), ids=OUTER)
@pytest.mark.parametrize("n", ["2", "n"])
def test_three_blocks_one_after_another(text: str, n: str) -> None:
    model = build(three(text, n=n), w=(4, 18), check=False)
    assert_counts(model, ["w"], cut=True)
    assert kinds(weights(model)["w"]) == [((4, "in"),), ((3, "block"), (6, "out"))]


@pytest.mark.parametrize("text", INNER.values(), ids=INNER)
@pytest.mark.parametrize("n", ["2", "n"])
def test_three_blocks_in_every_head(text: str, n: str) -> None:
    model = build(three(text, n=n), w=(4, 18), check=False)
    assert_counts(model, ["w"], cut=True)
    assert kinds(weights(model)["w"]) == [((4, "in"),), ((2, "out"), (3, "block"), (3, "out"))]


@given(st.data())
def test_a_cut_is_found_through_any_order_of_axes(data: st.DataObject) -> None:
    """The outputs are numbered (outer, blocks, inner); the axes are reordered, then an index or a range takes one."""
    outer, count, inner = (data.draw(st.integers(low, 4)) for low in (1, 2, 1))
    order = data.draw(st.permutations(range(5)))
    open_batch = data.draw(st.booleans())
    at = order.index(3)
    cut = data.draw(st.sampled_from(["index", "split"]))
    pieces = [f"y{k}" for k in range(count)]
    if cut == "index":
        ways = " ".join(
            f"k{k} = Constant<value = int64 {{{k}}}>() {y} = Gather<axis = {at}>(t, k{k})" for k, y in enumerate(pieces)
        )
    else:
        ways = f"{', '.join(pieces)} = Split<axis = {at}>(t)"
    dims = shape("s", 0, 0, outer, count, inner)
    model = build(
        f"(float[{'n' if open_batch else 2},2,4] x) => ({', '.join(pieces)}) {{ h = MatMul(x, w) {dims}"
        f" r = Reshape(h, s) t = Transpose<perm = {list(order)}>(r) {ways} }}",
        w=(4, outer * count * inner),
        check=False,
    )
    wanted = [(outer, "out"), (count, "block"), (inner, "out")]
    assert kinds(weights(model)["w"])[1] == tuple(f for f in wanted if f[0] > 1)


@pytest.mark.parametrize(
    ("layer", "dims", "stored"),
    [
        ("t = Transpose(w) h = MatMul(x, t)", (18, 4), [((3, "block"), (6, "out")), ((4, "in"),)]),
        (
            f"{shape('flat', -1, 4)} {shape('back', 2, -1, 18)} f = Reshape(x, flat) g = Gemm<transB = 1>(f, w)"
            " h = Reshape(g, back)",
            (18, 4),
            [((3, "block"), (6, "out")), ((4, "in"),)],
        ),
        (
            f"{shape('flat', -1, 4)} z = Shape(x) two = Slice(z, l0, l2) {shape('wide', 18)}"
            " back = Concat<axis = 0>(two, wide) f = Reshape(x, flat) g = Gemm(f, w) h = Reshape(g, back)",
            (4, 18),
            [((4, "in"),), ((3, "block"), (6, "out"))],
        ),
        (
            f"{shape('joined', 18, 4)} j = Reshape(w, joined) t = Transpose(j) h = MatMul(x, t)",
            (3, 2, 3, 4),
            [((3, "block"),), ((2, "out"),), ((3, "out"),), ((4, "in"),)],
        ),
        (
            "t = Transpose<perm = [0, 2, 1]>(x) m = MatMul(w, t) h = Transpose<perm = [0, 2, 1]>(m)",
            (18, 4),
            [((3, "block"), (6, "out")), ((4, "in"),)],
        ),
        (
            "t = Transpose<perm = [0, 2, 1]>(x) u = Unsqueeze(w, l2) m = Conv(t, u) h = Transpose<perm = [0, 2, 1]>(m)",
            (18, 4),
            [((3, "block"), (6, "out")), ((4, "in"),)],
        ),
    ],
    ids=["turned", "gemm", "gemm, shapes by arithmetic", "joined heads", "from the left", "convolution"],
)
def test_the_cut_goes_back_to_the_stored_axes(layer: str, dims: tuple[int, ...], stored: object) -> None:
    model = build(three(OUTER["split"], layer), w=dims, check=False)
    assert_counts(model, ["w"], cut=True)
    assert kinds(weights(model)["w"]) == stored


def test_the_bias_on_the_way_hides_no_cut() -> None:
    found = weights(build(three(OUTER["split"], "m = MatMul(x, w) h = Add(b, m)"), w=(4, 18), b=(18,), check=False))
    assert found["w"].blocks == 3
    assert (found["b"].role, found["b"].fan_in) == ("bias", 4)


def test_channels_of_a_convolution() -> None:
    model = build(
        "(float[2,4,3] x) => (q, k, v) { h = Conv(x, w) q, k, v = Split<axis = 1>(h) }", w=(18, 4, 1), check=False
    )
    assert_counts(model, ["w"], cut=True)
    assert weights(model)["w"].blocks == 3


def test_two_pieces_of_four_index_a_cut_into_four() -> None:
    """One gate of four is not used; the others say how wide it is."""
    text = f"{shape('s', 0, 0, 3, 6)} r = Reshape(h, s) q = Gather<axis = 2>(r, i0) k = Gather<axis = 2>(r, i2)"
    model = build(f"(float[2,2,4] x) => (q, k) {{ {INDEX} h = MatMul(x, w) {text} }}", w=(4, 18), check=False)
    assert weights(model)["w"].blocks == 3


@pytest.mark.parametrize(
    ("gate", "names"),
    [
        ("s = Sigmoid(b) y = Mul(a, s)", ("glu",)),
        ("s = Sigmoid(b) c = Mul(b, s) y = Mul(a, c)", ("silu",)),
    ],
)
def test_the_halves_of_a_gated_unit_are_blocks(gate: str, names: tuple[str, ...]) -> None:
    w = weights(
        build(
            f"(float[n,t,4] x) => (float[n,t,5] y) {{ h = MatMul(x, w) a, b = Split<axis = -1>(h) {gate} }}", w=(4, 10)
        )
    )["w"]
    assert kinds(w) == [((4, "in"),), ((2, "block"), (5, "out"))]
    assert (w.fan_in, w.fan_out) == (4, 5)
    assert tuple(f.name for f in w.downstream) == names


def test_a_cut_whose_heads_are_put_together_with_the_samples() -> None:
    """As in ViTDet: (3, samples, heads, places, width) becomes (3, samples * heads, places, width)."""
    heads = f"{shape('s', 2, 6, 3, 2, 2)} {shape('m', 3, 4, 6, 2)} r = Reshape(h, s)"
    text = "t = Transpose<perm = [2, 0, 3, 1, 4]>(r) f = Reshape(t, m) q, k, v = Split<axis = 0>(f) a = Mul(q, k)"
    model = build(
        f"(float[2,6,4] x) => (y) {{ h = MatMul(x, w) {heads} {text} y = Add(a, v) }}", w=(4, 12), check=False
    )
    assert kinds(weights(model)["w"]) == [((4, "in"),), ((3, "block"), (4, "out"))]


# ---------------------------------------------------------------- what is no cut

WHOLE = [((4, "in"),), ((12, "out"),)]


@pytest.mark.parametrize(
    "text",
    [
        "y = Relu(h)",
        f"{shape('s', 8, 2, 2)} a, b, c = Split<axis = -1>(h, s) p = Relu(a) q = Add(b, c) y = Concat<axis = -1>(p, q)",
        "a, b = Split<axis = -1>(h) p = Neg(b) y = Concat<axis = -1>(p, a)",
        "a, b = Split<axis = 0>(h) y = Add(a, b)",
        "a, b = Split<axis = -1>(h) p = Tanh(a) q = Add(p, b) r = Relu(h) s = ReduceSum<keepdims = 1>(r) y = Add(q, s)",
        "y = Slice(h, l0, l6, l2)",
        f"{shape('s', 0, 0, 2, 6)} r = Reshape(h, s) y = Transpose<perm = [0, 2, 1, 3]>(r)",
        "y = MatMul(h, u)",
    ],
    ids=[
        "used whole", "unequal", "turned halves", "another axis", "used whole as well", "one piece only", "heads",
        "another layer",
    ],
)  # fmt: skip
def test_an_output_that_is_not_taken_apart_is_one_block(text: str) -> None:
    model = build(f"(float[2,2,4] x) => (y) {{ {LIST} h = MatMul(x, w) {text} }}", w=(4, 12), u=(12, 3), check=False)
    w = weights(model)["w"]
    assert kinds(w) == WHOLE
    assert w.fan_out == 12


def test_channels_that_are_joined_again_behind_a_pooling_are_one_block() -> None:
    """As in the blocks of Res2Net that halve the picture: the last piece is only pooled."""
    model = build(
        """(float[2,4,9] x) => (y) { h = Conv(x, w) a, b = Split<axis = 1>(h) c = Conv(a, v) d = AveragePool
        <kernel_shape = [3], strides = [1]>(b) y = Concat<axis = 1>(c, d) }""",
        w=(12, 4, 1), v=(6, 6, 3), check=False,
    )  # fmt: skip
    assert weights(model)["w"].fan_out == 12


def test_channels_that_kernels_of_several_sizes_share_are_one_block() -> None:
    """As in MixNet: the groups of channels go through kernels of their own and are joined again."""
    model = build(
        """(float[2,4,9] x) => (y) { h = Conv(x, w) a, b = Split<axis = 1>(h) c = Conv<group = 6>(a, u)
        d = Conv<group = 6, pads = [1, 1]>(b, v) y = Concat<axis = 1>(c, d) }""",
        w=(12, 4, 1), u=(6, 1, 1), v=(6, 1, 3), check=False,
    )  # fmt: skip
    assert weights(model)["w"].fan_out == 12


def test_pieces_that_are_rejoined_behind_a_rotation_are_one_block() -> None:
    """Rotary positions turn halves of the queries about one another; that makes no two matrices of them."""
    rotate = """a, b = Split<axis = -1>(h) n = Neg(b) r = Concat<axis = -1>(n, a) p = Mul(h, cos) q = Mul(r, sin)
        y = Add(p, q)"""
    model = build(
        f"(float[n,t,4] x) => (float[n,t,12] y) {{ h = MatMul(x, w) {rotate} }}",
        w=(4, 12),
        cos=(1, 8, 12),
        sin=(1, 8, 12),
    )
    assert kinds(weights(model)["w"]) == WHOLE


def test_an_output_that_the_file_says_has_no_axes() -> None:
    nothing = helper.make_tensor_value_info("p", onnx.TensorProto.FLOAT, [])
    branch = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["p"])], "b", [], [nothing])
    model = build("(float[n,4] x, bool c) => (y) { z = Relu(x) y = Identity(z) }", check=False, w=(4, 3))
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))
    assert weights(model)["w"].blocks == 1
