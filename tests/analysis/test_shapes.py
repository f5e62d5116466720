"""Shapes that exporters leave to arithmetic in the graph, against what ONNX's reference implementation computes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from graphs import Array, Given, build, value, view_of
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from onnxinit.analysis.extents import broadcast
from onnxinit.analysis.shapes import elements, fill_shapes
from onnxinit.analysis.view import GraphView, Value


def filled(model: onnx.ModelProto) -> GraphView:
    view = view_of(model)
    fill_shapes(view)
    return view


def computed(model: onnx.ModelProto, feed: dict[str, Array]) -> dict[str, Array]:
    """Every value of the main graph, by name."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    del whole.graph.output[:]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return dict(zip(names, ReferenceEvaluator(whole).run(names, feed), strict=True))


def assert_agrees(held: Value, truth: Array) -> None:
    """What is known of a value is right."""
    if held.shape is not None:
        assert len(held.shape) == truth.ndim, held
        assert all(n in (None, m) for n, m in zip(held.shape, truth.shape, strict=True)), (
            held,
            held.shape,
            truth.shape,
        )
    if held.elements is not None:
        same = zip(held.elements, truth.ravel().tolist(), strict=True)
        assert all(n is None or n == m or abs(m) > 2**53 for n, m in same), (held, held.elements, truth)


def check(model: onnx.ModelProto, **feed: Array) -> GraphView:
    view = filled(model)
    for name, truth in computed(model, feed).items():
        assert_agrees(value(view, name), truth)
    return view


def floats(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# ---------------------------------------------------------------- shapes of one operator

MOVING = [
    "y = Transpose<perm = [2, 0, 1]>(x)",
    "y = Transpose(x)",
    "a = Constant<value = int64[1] {-2}>() y = Unsqueeze(x, a)",
    "a = Constant<value = int64[2] {0, 4}>() h = Unsqueeze(x, a) y = Squeeze(h, a)",
    "a = Constant<value = int64[1] {0}>() h = Unsqueeze(x, a) y = Squeeze(h)",
    "s = Constant<value = int64[2] {4, -1}>() y = Reshape(x, s)",
    "s = Constant<value = int64[3] {0, -1, 2}>() y = Reshape(x, s)",
    "s = Constant<value = int64[4] {5, 1, 1, 1}>() y = Expand(x, s)",
    "s = Constant<value = int64[2] {1, 6}>() y = Expand(x, s)",
    "y = Concat<axis = -1>(x, x, x)",
    "a, y = Split<axis = 2>(x)",
    "s = Constant<value = int64[2] {1, 5}>() a, y = Split<axis = -1>(x, s)",
    "b = Constant<value = int64[1] {1}>() e = Constant<value = int64[1] {9223372036854775807}>() y = Slice(x, b, e)",
    "b = Constant<value = int64[2] {-3, 4}>() e = Constant<value = int64[2] {5, 0}>()"
    " a = Constant<value = int64[2] {1, -1}>() s = Constant<value = int64[2] {2, -1}>() y = Slice(x, b, e, a, s)",
    "b = Constant<value = int64[1] {-1}>() e = Constant<value = int64[1] {-9223372036854775807}>()"
    " a = Constant<value = int64[1] {2}>() s = Constant<value = int64[1] {-1}>() y = Slice(x, b, e, a, s)",
    "i = Constant<value = int64 {1}>() y = Gather<axis = 1>(x, i)",
    "i = Constant<value = int64[2,2] {0, 1, 1, 0}>() y = Gather<axis = -1>(x, i)",
    "y = ReduceMean<axes = [-1], keepdims = 0>(x)",
    "y = ReduceMean<axes = [0, 2]>(x)",
    "a = Constant<value = int64[1] {1}>() y = ReduceSum(x, a)",
    "y = ReduceMax<keepdims = 0>(x)",
    "h = Transpose<perm = [0, 2, 1]>(x) y = MatMul(x, h)",
    "w = Constant<value = float[6,1] {1, 2, 3, 4, 5, 6}>() y = MatMul(x, w)",
    "w = Constant<value = float[6] {1, 2, 3, 4, 5, 6}>() y = MatMul(x, w)",
    "w = Constant<value = float[3] {1, 2, 3}>() y = MatMul(w, x)",
    "b = Constant<value = float[4,1,1,1] {1, 2, 3, 4}>() y = Add(x, b)",
    "y = Relu(x)",
    "s = Shape(x) y = Identity(s)",
    "y = Flatten<axis = 2>(x)",
    "y = Flatten(x)",
    "y = CumSum(x, one)",
    "y = Trilu(x)",
    "y = TopK<axis = 1>(x, two)",
    "y = Tile(x, s123)",
    "y = ConstantOfShape(s123)",
    "y = GatherND(x, pairs)",
    "y = GatherND<batch_dims = 1>(x, fours)",
    'y = Einsum<equation = "abc,dbc->da">(x, x)',
    'y = Einsum<equation = "abc,dbc">(x, x)',
    "h = Unsqueeze(x, zeros) y = GlobalAveragePool(h)",
    "z = Less(x, x) y = And(z, z)",
    "i = Cast<to = 7>(x) y = Mod(i, two)",
    "y = DynamicQuantizeLinear(x)",
    "y, yh = GRU<hidden_size = 5>(x, gw, gr)",
    "yh, y = GRU<hidden_size = 5>(x, gw, gr)",
    'y, yh, yc = LSTM<hidden_size = 5, direction = "bidirectional">(x, lw, lr)',
    'yh, yz, y = LSTM<hidden_size = 5, direction = "bidirectional">(x, lw, lr)',
]

GIVEN: dict[str, Given] = {
    "one": np.array(1), "two": np.array([2]), "zeros": np.array([0]), "s123": np.array([1, 2, 3]),
    "pairs": np.array([[0, 1], [3, 2]]), "fours": np.array([[0], [1], [2], [0]]),
    "gw": (1, 15, 6), "gr": (1, 15, 5), "lw": (2, 20, 6), "lr": (2, 20, 5),
}  # fmt: skip


@pytest.mark.parametrize("body", MOVING)
def test_the_shape_of_one_operator_is_known(body: str) -> None:
    view = check(build(f"(float[4,3,6] x) => (y) {{ {body} }}", check=False, **GIVEN), x=floats(4, 3, 6))
    y = value(view, "y")
    assert y.shape is not None
    assert None not in y.shape


@pytest.mark.parametrize("body", MOVING)
def test_an_unknown_length_is_never_guessed_wrong(body: str) -> None:
    model = build(f"(float[n,3,6] x) => (y) {{ {body} }}", check=False, **GIVEN)
    check(model, x=floats(4, 3, 6))


@pytest.mark.parametrize("body", MOVING)
def test_an_unknown_rank_does_no_harm(body: str) -> None:
    model = build(f"(float x) => (y) {{ {body} }}", check=False, **GIVEN)
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    model.graph.input[0].type.tensor_type.ClearField("shape")
    check(model, x=floats(4, 3, 6))


def test_gemm_and_conv() -> None:
    view = check(
        build(
            "(float[5,4] x, float[2,4,9] z) => (float[3,5] y, float[2,6,7] c)"
            " { y = Gemm<transA = 1, transB = 1>(w, x) c = Conv(z, k) }",
            w=(4, 3),
            k=(6, 4, 3),
        ),
        x=floats(5, 4),
        z=floats(2, 4, 9),
    )
    assert value(view, "y").shape == (3, 5)
    assert value(view, "c").shape is not None
    assert value(view, "c").shape[:2] == (2, 6)  # type: ignore[index]


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("y = MaxPool<kernel_shape = [3, 3]>(x)", (2, 8, 4, 7)),
        ("y = MaxPool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>(x)", (2, 8, 3, 5)),
        ("y = MaxPool<kernel_shape = [1, 2], strides = [4, 5], pads = [0, 1, 1, 1], ceil_mode = 1>(x)", (2, 8, 2, 2)),
        ("y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], dilations = [2, 3]>(x)", (2, 8, 1, 2)),
        ("y = AveragePool<kernel_shape = [3, 3], pads = [1, 0, 1, 2]>(x)", (2, 8, 6, 9)),
        ('y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER">(x)', (2, 8, 3, 5)),
        ("y = Conv<strides = [2, 3], pads = [1, 1, 0, 1], dilations = [1, 2]>(x, k)", (2, 4, 3, 3)),
        ('y = Conv<strides = [2, 2], auto_pad = "VALID">(x, k)', (2, 4, 2, 4)),
        ("y = GlobalMaxPool(x)", (2, 8, 1, 1)),
        ("y = ConvTranspose(x, w)", (2, 3, 7, 10)),
        (
            "y = ConvTranspose<strides=[2, 3], pads=[1, 0, 0, 1], output_padding=[1, 0], dilations=[2, 1]>(x, w)",
            (2, 3, 13, 25),
        ),
        ('y = ConvTranspose<strides = [2, 2], auto_pad = "SAME_LOWER">(x, w)', (2, 3, 12, 18)),
        ("y = ConvTranspose<strides = [2, 2], output_shape = [12, 19]>(x, w)", (2, 3, 12, 19)),
        ("p = Constant<value = int64[8] {0, 0, 1, 1, 0, 0, 1, 2}>() y = Pad(x, p)", (2, 8, 8, 12)),
        ("y = DepthToSpace<blocksize = 2>(x)", (2, 2, 12, 18)),
        ("y = SpaceToDepth<blocksize = 3>(x)", (2, 72, 2, 3)),
    ],
)
def test_pictures_keep_what_counts(body: str, shape: tuple[int | None, ...]) -> None:
    """Batch and channels, and how large a picture is after a window, as ONNX Runtime makes it."""
    model = build(f"(float[2,8,6,9] x) => (y) {{ {body} }}", check=False, w=(8, 3, 2, 2), k=(4, 8, 3, 2))
    view = check(model, x=floats(2, 8, 6, 9))
    assert value(view, "y").shape == shape


def test_a_negative_length_is_not_known() -> None:
    model = build("(float[n,4] x) => (float[n,4] y) { h = Relu(x) y = Relu(h) }")
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, [1, -3]))
    assert value(view_of(model), "h").shape == (1, None)


# ---------------------------------------------------------------- arithmetic of unfolded exports

HEADS = """s = Shape(x)
    zero = Constant<value = int64 {0}>() one = Constant<value = int64 {1}>() two = Constant<value = int64 {2}>()
    four = Constant<value = int64 {4}>() at = Constant<value = int64[1] {0}>()
    n = Gather<axis = 0>(s, zero) t = Gather<axis = 0>(s, one) d = Gather<axis = 0>(s, two)
    per = Div(d, four) wide = Cast<to = 7>(per)
    n1 = Unsqueeze(n, at) t1 = Unsqueeze(t, at) h1 = Unsqueeze(four, at) p1 = Unsqueeze(wide, at)
    dims = Concat<axis = 0>(n1, t1, h1, p1)
    y = Reshape(x, dims)"""


def test_heads_are_counted_by_arithmetic() -> None:
    view = check(build(f"(float[n,t,24] x) => (y) {{ {HEADS} }}", check=False), x=floats(2, 5, 24))
    assert value(view, "dims").elements == (None, None, 4, 6)
    assert value(view, "y").shape == (None, None, 4, 6)
    assert elements(value(view, "dims")) is None
    assert elements(value(view, "per")) == [6]


@pytest.mark.parametrize(
    ("slice", "shape"),
    [
        ("e = Gather(s, zero) y = Slice(x, zero, e, one)", (None, None, 6)),
        ("e = Gather(s, zero) y = Slice(x, e, far, two)", (None, 4, None)),
        ("e = Gather(s, both) y = Slice(x, twice, e, pair)", (None, 4, None)),
        ("e = Gather(s, pair) y = Slice(x, twice, e, pair)", (None, 4, 6)),
        ("a = Gather(s, zero) y = Slice(x, zero, one, a)", (None, None, None)),
    ],
)
def test_an_open_range_leaves_the_other_axes_as_they_are(slice: str, shape: tuple[int | None, ...]) -> None:
    ones = " ".join(
        f"{name} = Constant<value = int64[{len(held)}] {{{', '.join(map(str, held))}}}>()"
        for name, held in {
            "zero": [0], "one": [1], "two": [2], "far": [99], "both": [2, 0], "twice": [0, 0], "pair": [1, 2],
        }.items()
    )  # fmt: skip
    view = check(build(f"(float[n,4,6] x) => (y) {{ s = Shape(x) {ones} {slice} }}", check=False), x=floats(2, 4, 6))
    assert value(view, "y").shape == shape


def test_a_minus_one_takes_what_is_left_though_the_batch_is_unknown() -> None:
    body = """s = Shape(x) z = Constant<value = int64[1] {0}>() n = Gather(s, z) m = Constant<value = int64[1] {-1}>()
        k = Constant<value = int64[1] {8}>() dims = Concat<axis = 0>(n, m, k) y = Reshape(x, dims)"""
    view = check(build(f"(float[n,4,6] x) => (y) {{ {body} }}", check=False), x=floats(5, 4, 6))
    assert value(view, "y").shape == (None, 3, 8)


def test_a_minus_one_for_the_batch_stays_unknown() -> None:
    body = "dims = Constant<value = int64[3] {-1, 12, 2}>() y = Reshape(x, dims)"
    view = check(build(f"(float[n,4,6] x) => (y) {{ {body} }}", check=False), x=floats(5, 4, 6))
    shape = value(view, "y").shape
    assert shape is not None
    assert shape[0] is None
    assert shape[1:] == (12, 2)


ARITHMETIC = [
    "v = Add(s, k)", "v = Sub(k, s)", "v = Mul(s, s)", "v = Div(s, k)", "v = Neg(s)", "v = Max(s, k)", "v = Min(s, k)",
    "v = Mod(s, k)", "e = Equal(s, k) v = Where(e, k, s)", "i = Constant<value = int64[2] {2, 0}>() v = Gather(s, i)",
    "i = Constant<value = int64 {-1}>() v = Gather(s, i)", "v = ReduceProd<keepdims = 0>(s)", "v = Size(x)",
    "b = Constant<value = int64[1] {1}>() e = Constant<value = int64[1] {3}>() v = Slice(s, b, e)",
    "b = Constant<value = int64[1] {-1}>() e = Constant<value = int64[1] {-9223372036854775807}>()"
    " a = Constant<value = int64[1] {0}>() p = Constant<value = int64[1] {-1}>() v = Slice(s, b, e, a, p)",
    "n = Constant<value = int64[1] {3}>() v = ConstantOfShape<value = int64[1] {7}>(n)",
    "n = Constant<value = int64[1] {3}>() f = ConstantOfShape(n) v = Cast<to = 7>(f)",
    "a = Constant<value_int = 1>() e = Constant<value_int = 9>() p = Constant<value_int = 3>() v = Range(a, e, p)",
    "v = Shape<start = 1, end = -1>(x)", "v = Shape<start = -2>(x)",
    "f = Cast<to = 1>(s) g = Sqrt(f) v = Cast<to = 7>(g)",
    "f = Cast<to = 1>(s) h = Mul(f, half) g = Floor(h) v = Cast<to = 7>(g)",
    "f = Cast<to = 1>(s) h = Mul(f, half) g = Ceil(h) v = Cast<to = 7>(g)", "v = Concat<axis = 0>(s, k, s)",
    "m = Constant<value = int64[2] {3, 1}>() w = Reshape(s, m) v = Squeeze(w)",
    "m = Constant<value = int64[2] {2, 3}>() v = Expand(s, m)",
]  # fmt: skip


@pytest.mark.parametrize("body", ARITHMETIC)
@pytest.mark.parametrize("first", ["n", "7"])
def test_small_integers_are_worked_out_element_by_element(body: str, first: str) -> None:
    model = build(
        f"(float[{first},4,6] x) => (v) {{ s = Shape(x) k = Constant<value = int64[3] {{5, 4, -2}}>() {body} }}",
        check=False,
        half=np.array(0.5, np.float32),
    )
    held = value(check(model, x=floats(7, 4, 6)), "v")
    if first == "7" and "Sqrt" not in body and "half" not in body:
        assert elements(held) is not None


def test_shapes_are_known_in_functions_and_subgraphs() -> None:
    functions = """<domain: "local", opset_import: ["": 17]> Heads (a) => (b) {
        k = Constant<value = int64[4] {0, 0, 4, -1}>() h = Reshape(a, k) b = Transpose<perm = [0, 2, 1, 3]>(h) }"""
    view = filled(
        build(
            "(float[n,t,24] x, bool c) => (y) { h = local.Heads(x) y = If(c) <"
            " then_branch = a () => (p) { p = Relu(h) }, else_branch = b () => (q) { q = Transpose(h) } > }",
            functions=functions,
            check=False,
        )
    )
    assert value(view, "h", "function:local::Heads").shape == (None, None, 4, 6)
    assert value(view, "p", "If1.then_branch").shape == (None, 4, None, 6)
    assert value(view, "q", "If1.else_branch").shape == (6, None, 4, None)


def test_a_step_of_a_scan_has_one_axis_less_and_a_stack_one_more() -> None:
    view = filled(
        build(
            "(float[5,n,4] x, float[n,4] h0) => (last, all) { last, all = Scan<num_scan_inputs = 1, body = b"
            " (float[n,4] h, xt) => (h2, out) { h2 = Add(h, xt) out = Relu(h2) }>(h0, x) }",
            check=False,
        )
    )
    assert value(view, "xt", "Scan0.body").shape == (None, 4)
    assert value(view, "all").shape == (None, None, 4)


# ---------------------------------------------------------------- broadcasting, and what cannot be read


@given(st.data())
def test_broadcasting_is_that_of_numpy(data: st.DataObject) -> None:
    full = data.draw(st.lists(st.integers(1, 4), max_size=4))
    shapes = []
    for _ in range(data.draw(st.integers(1, 3))):
        own = [data.draw(st.sampled_from([n, 1])) for n in full]
        shapes.append(tuple(own[data.draw(st.integers(0, len(own))) :]))
    truth = np.broadcast_shapes(*shapes)
    assert broadcast(shapes) == truth
    blurred = [tuple(data.draw(st.sampled_from([n, None])) for n in s) for s in shapes]
    assert all(n is None or n == m or n > 1 for n, m in zip(broadcast(blurred), truth, strict=True))


def test_values_that_are_not_in_the_file_are_not_known() -> None:
    model = build("(float[n,4,6] x) => (y) { y = Reshape(x, k) }", check=False)
    k = onnx.helper.make_tensor("k", onnx.TensorProto.INT64, [2], np.array([0, 24]).tobytes(), raw=True)
    k.ClearField("raw_data")
    k.data_location = onnx.TensorProto.EXTERNAL
    k.external_data.add(key="location", value="elsewhere.bin")
    model.graph.initializer.append(k)
    view = filled(model)
    assert value(view, "k").elements is None
    assert value(view, "y").shape is None


@pytest.mark.parametrize(
    "body",
    [
        "k = Constant<value = int64[1] {5}>() y = Gather(s, k)",
        "k = Constant<value = int64 {0}>() h = Constant<value = int64 {3}>() y = Div(h, k)",
        "k = Constant<value = int64[1] {7}>() y = Unsqueeze(x, k)",
        "k = Constant<value = int64[2] {5, 5}>() y = Reshape(s, k)",
        "k = Constant<value = int64[1] {9}>() y = Squeeze(x, k)",
        "y = Transpose<perm = [4, 1, 0]>(x)",
        "y = Concat<axis = 9>(x, x)",
        "k = Constant<value = int64[2] {0, 0}>() y = Reshape(x, k)",
        "k = Constant<value = int64[3] {0, 0, -1}>() y = Reshape(e, k)",
        "k = Constant<value = int64[1] {-5}>() y = ConstantOfShape(k)",
        "k = Constant<value = int64[1] {99999999999}>() y = ConstantOfShape(k)",
        "y = Concat(x)",
        "y = Split<axis = 1, split = [1]>(x)",
        "y = Gather(x)",
        "y = Slice(x)",
        "y = Range(s)",
        "y = MatMul(x)",
        "y = Reshape(x)",
    ],
)
def test_a_graph_that_cannot_be_is_not_known_but_no_error(body: str) -> None:
    filled(build(f"(float[n,4,6] x, float[0,4,0] e) => (y) {{ s = Shape(x) {body} }}", check=False))


def test_pads_in_the_order_of_another_framework() -> None:
    """(last axis first, begin and end side by side), filled up with zeros, turned into all begins, all ends."""
    text = """(float[2,5,7] x) => (y) {
        given = Constant<value = int64[4] {1, 2, 3, 4}>() more = Constant<value = int64[1] {2}>()
        rest = ConstantOfShape<value = int64[1] {0}>(more) all = Concat<axis = 0>(given, rest)
        pairs = Constant<value = int64[2] {-1, 2}>() flat = Constant<value = int64[1] {-1}>()
        last = Constant<value = int64[1] {-1}>() first = Constant<value = int64[1] {-9223372036854775807}>()
        axis = Constant<value = int64[1] {0}>()
        p = Reshape(all, pairs) q = Slice(p, last, first, axis, last) r = Transpose<perm = [1, 0]>(q)
        s = Reshape(r, flat) pads = Cast<to = 7>(s) y = Pad(x, pads) }"""
    view = check(build(text, check=False), x=floats(2, 5, 7))
    assert value(view, "pads").elements == (0, 3, 1, 0, 4, 2)
    assert value(view, "y").shape == (2, 12, 10)
