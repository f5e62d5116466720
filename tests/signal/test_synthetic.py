"""Feeds that are made up: every model runs with them, and each input gets what its use in the graph asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

from onnxinit.errors import DataError
from onnxinit.signal import model_inputs, open_feeds

Array = npt.NDArray[Any]


def build(text: str, opset: int = 17, **tensors: Array | tuple[int, ...]) -> onnx.ModelProto:
    """A model from its text form; a shape stands for a tensor of standard normal values."""
    head = f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>\n g '
    model = onnx.parser.parse_model(head + text)
    for name, given in tensors.items():
        if isinstance(given, tuple):
            given = np.random.default_rng(0).standard_normal(given).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(given, name))
    return model


def fed(model: onnx.ModelProto, **options: Any) -> dict[str, Array]:
    """The first feed, which has been run."""
    feeds = open_feeds(None, model_inputs(model), **options)
    assert feeds.synthetic
    assert feeds.source == "synthetic"
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    first: dict[str, Array] = {}
    for feed in feeds:
        for out in session.run(None, feed):
            assert out.dtype.kind != "f" or np.isfinite(out).all()
        first = first or feed
    return first


def only(values: Array) -> Any:
    """The one value that an array holds."""
    assert values.size
    (value,) = np.unique(values)
    return value


# ---------------------------------------------------------------- values


def test_floats_are_standard_normal_and_follow_the_seed() -> None:
    model = build("(float[N,100] x) => (y) { y = Relu(x) }")
    feed, again, other = (fed(model, seed=s, dims={"N": 400})["x"] for s in (0, 0, 1))
    assert abs(feed.mean()) < 5 / 200
    assert abs(feed.var() - 1) < 5 * np.sqrt(2) / 200
    np.testing.assert_array_equal(feed, again)
    assert (feed != other).mean() > 0.99
    (a, b) = open_feeds(None, model_inputs(model), batch_size=4, samples=8)
    assert a["x"].shape == b["x"].shape == (4, 100)
    assert (a["x"] != b["x"]).mean() > 0.99


IDS = {
    "one table": ("t = Gather(big, x) y = ReduceSum<keepdims=0>(t)", 50),
    "the smaller of two": ("a = Gather(big, x) b = Gather(small, x) y = Concat<axis=-1>(a, b)", 7),
    "cast and reshaped": (
        "s = Constant<value = int64[1] {-1}>() f = Reshape(x, s) i = Cast<to=6>(f) y = Gather(small, i)",
        7,
    ),
    "after an offset": ("o = Constant<value = int64 {2}>() i = Add(x, o) y = Gather(small, i)", 5),
    "an offset for each field": (
        "o = Constant<value = int64[4] {0, 10, 20, 40}>() i = Add(x, o) y = Gather(big, i)",
        10,
    ),
    "negative ones wrapped": (
        "z = Constant<value = int64 {0}>() n = Constant<value = int64 {7}>() m = Less(x, z) w = Add(x, n) "
        "i = Where(m, w, x) y = Gather(small, i)",
        7,
    ),
    "negative ones wrapped by arithmetic": (
        "z = Constant<value = int64 {0}>() n = Constant<value = int64 {7}>() m = Less(x, z) w = Add(x, n) "
        "k = Not(m) a = Cast<to=7>(m) b = Cast<to=7>(k) p = Mul(a, w) q = Mul(b, x) i = Add(p, q) y = Gather(small, i)",
        7,
    ),
    "one hot": (
        "d = Constant<value = int64 {9}>() v = Constant<value = float[2] {0.0, 1.0}>() y = OneHot(x, d, v)",
        9,
    ),
    "compared with padding too": (
        "p = Constant<value = int64 {1}>() m = Equal(x, p) f = Cast<to=1>(m) t = Gather(small, x) y = ReduceSum(f)",
        7,
    ),
}


@pytest.mark.parametrize("form", IDS)
def test_ids_lie_below_the_smallest_table_that_they_index(form: str) -> None:
    body, bound = IDS[form]
    x = fed(build(f"(int64[N,4] x) => (y) {{ {body} }}", big=(50, 3), small=(7, 3)), dims={"N": 500})["x"]
    assert (x.min(), x.max()) == (0, bound - 1)


@pytest.mark.parametrize("op", ["Add(a, b)", "Sum(b, a)"])
def test_positions_count_and_types_are_drawn(op: str) -> None:
    model = build(
        f"(int64[N,L] tokens, int64[N,L] p, int64[N,L] kind) => (y) {{ "
        f"a = Gather(words, tokens) b = Gather(places, p) c = Gather(kinds, kind) h = {op} y = Add(h, c) }}",
        words=(300, 4),
        places=(40, 4),
        kinds=(2, 4),
    )
    feed = fed(model)
    np.testing.assert_array_equal(feed["p"], np.tile(np.arange(16), (8, 1)))
    assert set(np.unique(feed["kind"])) == {0, 1}
    assert feed["tokens"].max() > 200


MASKS = {
    "one minus": ("f = Cast<to=1>(m) n = Sub(one, f) h = Mul(n, low) s = Add(x, h) y = Softmax(s)", 1),
    "minus one": ("f = Cast<to=1>(m) n = Sub(f, one) k = Neg(low) h = Mul(n, k) s = Add(x, h) y = Softmax(s)", 1),
    "compared with zero, filled": ("c = Equal(m, zero) s = Where(c, low, x) y = Softmax(s)", 1),
    "true where filled": ("c = Cast<to=9>(m) s = Where(c, low, x) y = Softmax(s)", 0),
    "true where kept": ("c = Cast<to=9>(m) s = Where(c, x, low) y = Softmax(s)", 1),
    "not, then filled": ("c = Cast<to=9>(m) d = Not(c) s = Where(d, low, x) y = Softmax(s)", 1),
    "scaled to be added": ("f = Cast<to=1>(m) h = Mul(f, low) s = Add(x, h) y = Softmax(s)", 0),
    "a mean over what counts": ("f = Cast<to=1>(m) h = Mul(x, f) a = ReduceSum(h) b = ReduceSum(f) y = Div(a, b)", 1),
    "places counted": ("p = CumSum(m, axis) q = Sub(p, first) e = Gather(table, q) s = ReduceSum(e) y = Add(x, s)", 1),
}


@pytest.mark.parametrize("form", MASKS)
@pytest.mark.parametrize("kind", ["int64", "int32", "bool", "float"])
def test_masks_let_everything_through(form: str, kind: str) -> None:
    body, wanted = MASKS[form]
    if kind == "bool":
        body = body.replace("(m,", "(i,").replace("(m)", "(i)")
        body = "i = Cast<to=7>(m) " + body
    zero = np.zeros((), {"int64": np.int64, "int32": np.int32, "bool": np.int64, "float": np.float32}[kind])
    if (kind, form) in (("float", "places counted"), ("float", "a mean over what counts")):
        pytest.skip("floats are no index, and a float that is multiplied alone may be a signal")
    model = build(
        f"({kind}[N,6] m, float[N,6] x) => (y) {{ {body} }}",
        one=np.ones((), np.float32),
        low=np.float32(-1e9).reshape(()),
        zero=zero,
        axis=np.ones((), np.int64),
        first=np.ones((), np.int32 if kind == "int32" else np.int64),
        table=(6, 2),
    )
    assert only(fed(model)["m"]) == wanted


def test_an_added_mask_is_zero_and_a_residual_is_not() -> None:
    mask = build("(float[N,1,L,L] m, float[N,2,L,L] x) => (y) { s = Add(x, m) y = Softmax(s) }")
    assert only(fed(mask)["m"]) == 0
    both = build("(float[N,6] x) => (y) { h = MatMul(x, w) s = Add(h, x) y = Softmax(s) }", w=(6, 6))
    assert fed(both)["x"].std() > 0.5


def test_lengths_are_those_of_the_sequence_and_states_zero() -> None:
    model = build(
        "(float[T,N,5] x, int32[N] n, float[1,N,3] h) => (y) { y = GRU<hidden_size=3>(x, w, r, , n, h) }",
        w=(1, 9, 5),
        r=(1, 9, 3),
    )
    feed = fed(model, dims={"T": 11, "N": 4})
    assert only(feed["n"]) == 11
    assert only(feed["h"]) == 0
    assert feed["h"].shape == (1, 4, 3)
    text = (
        "(float[N,T,5] x, int64[N] n) => (y) { s = Shape(x) t = Gather(s, one) r = Range(zero, t, one) "
        "a = Unsqueeze(n, axis) m = Less(r, a) f = Cast<to=1>(m) g = Unsqueeze(f, last) y = Mul(x, g) }"
    )
    ints = {"zero": 0, "one": 1}
    scalars = {k: np.array(v, np.int64) for k, v in ints.items()}
    model = build(text, axis=np.array([1]), last=np.array([2]), **scalars)
    assert only(fed(model, dims={"T": 13})["n"]) == 13


def test_rotary_positions_count() -> None:
    model = build(
        "(int64[N,L] p, float[N,L,4] x) => (y) { f = Cast<to=1>(p) u = Unsqueeze(f, axis) a = Mul(u, w) c = Cos(a) "
        "y = Mul(x, c) }",
        axis=np.array([2]),
        w=(4,),
    )
    np.testing.assert_array_equal(fed(model)["p"][0], np.arange(16))


def test_bytes_use_their_range_and_text_cannot_be_made_up() -> None:
    model = build("(uint8[N,64] x) => (y) { f = Cast<to=1>(x) y = MatMul(f, w) }", w=(64, 2))
    x = fed(model, batch_size=100)["x"]
    assert (x.min(), x.max()) == (0, 255)
    with pytest.raises(DataError, match=r"^input 'x' \(string \[N\]\) takes string values, which cannot be made up: "):
        open_feeds(None, model_inputs(build("(string[N] x) => (y) { y = Identity(x) }")))


def test_half_precision() -> None:
    assert fed(build("(float16[N,64] x) => (y) { y = Relu(x) }"))["x"].dtype == np.float16
    (feed,) = open_feeds(None, model_inputs(build("(bfloat16[N,64] x) => (y) { y = Identity(x) }")))
    assert feed["x"].dtype.name == "bfloat16"


@pytest.mark.parametrize(("size", "samples", "lengths"), [(None, 20, [8, 8, 4]), (4, 3, [3]), (5, None, [5])])
def test_as_many_samples_as_asked_for(size: int | None, samples: int | None, lengths: list[int]) -> None:
    model = build("(float[N,4] x, float k) => (y) { y = Mul(x, k) }")
    feeds = open_feeds(None, model_inputs(model), batch_size=size, samples=samples)
    assert [len(f["x"]) for f in feeds] == lengths
    fixed = open_feeds(None, model_inputs(build("(float[3,4] x) => (y) { y = Relu(x) }")), samples=7)
    assert [len(f["x"]) for f in fixed] == [3, 3, 3]


# ---------------------------------------------------------------- lengths

LENGTHS = {
    "defaults": ("(float[N,L] x) => (y) { y = Relu(x) }", {}, (8, 16)),
    "a picture": ("(float[N,C,H,W] x) => (y) { y = Relu(x) }", {}, (8, 3, 32, 32)),
    "contracted": ("(float[N,F] x) => (y) { y = MatMul(x, w) }", {"w": (37, 2)}, (8, 37)),
    "Gemm": ("(float[N,F] x) => (y) { y = Gemm<transB=1>(x, w) }", {"w": (2, 37)}, (8, 37)),
    "transposed": (
        "(float[N,A,B] x) => (y) { t = Transpose<perm=[0,2,1]>(x) y = MatMul(t, w) }",
        {"w": (9, 2)},
        (8, 9, 16),
    ),
    "channels": ("(float[N,C,H,W] x) => (y) { y = Conv<group=2>(x, w) }", {"w": (4, 5, 3, 3)}, (8, 10, 32, 32)),
    "channels last": (
        "(float[N,H,W,C] x) => (y) { t = Transpose<perm=[0,3,1,2]>(x) y = Conv(t, w) }",
        {"w": (4, 3, 3, 3)},
        (8, 32, 32, 3),
    ),
    "added": ("(float[N,L,D] x) => (y) { y = Add(x, w) }", {"w": (1, 21, 6)}, (8, 21, 6)),
    "normalised": ("(float[N,L,D] x) => (y) { y = LayerNormalization(x, w) }", {"w": (12,)}, (8, 16, 12)),
    "recurrent": (
        "(float[T,N,F] x) => (y) { y = GRU<hidden_size=3>(x, w, r) }",
        {"w": (1, 9, 5), "r": (1, 9, 3)},
        (8, 16, 5),
    ),
    "flattened": ("(float[N,3,H,W] x) => (y) { f = Flatten(x) y = MatMul(f, w) }", {"w": (1200, 2)}, (8, 3, 20, 20)),
    "flattened after windows": (
        "(float[N,1,H,W] x) => (y) { c = Conv<strides=[2,2]>(x, k) f = Flatten(c) y = MatMul(f, w) }",
        {"k": (2, 1, 3, 3), "w": (2 * 111 * 111, 2)},
        (8, 1, 224, 224),
    ),
    "a window that needs room": (
        "(float[N,1,L] x) => (y) { y = Conv(x, k) }",
        {"k": (1, 1, 400)},
        (8, 1, 1024),
    ),
    "a batch of one baked in": (
        "(float[N,L,6] x) => (y) { h = Reshape(x, s) y = Add(h, w) }",
        {"s": np.array([1, -1, 6]), "w": (1, 16, 6)},
        (1, 16, 6),
    ),
    "a shape that is baked in": (
        "(float[N,L,6] x) => (y) { y = Reshape(x, s) }",
        {"s": np.array([1, 11, 2, 3])},
        (1, 11, 6),
    ),
    "nothing known": ("(float x) => (y) { y = Relu(x) }", {}, ()),
}


@pytest.mark.parametrize("form", LENGTHS)
def test_free_lengths_are_what_the_graph_asks_for(form: str) -> None:
    text, tensors, shape = LENGTHS[form]
    assert fed(build(text, **tensors))["x"].shape == shape


def test_one_name_is_one_length_and_those_given_hold() -> None:
    model = build(
        "(float[N,L,4] a, float[N,M,4] b, float[L,M] c) => (y) { t = Transpose<perm=[0,2,1]>(b) "
        "s = MatMul(a, t) y = Add(s, c) }"
    )
    feed = fed(model, dims={"L": 5, "M": 9})
    assert [v.shape for v in feed.values()] == [(8, 5, 4), (8, 9, 4), (5, 9)]
    with pytest.raises(DataError, match=r"^no input of the model has a dimension named 'K': it has L, M, N$"):
        open_feeds(None, model_inputs(model), dims={"K": 5})


def test_unnamed_lengths_that_meet_are_equal() -> None:
    model = build("(float[A,B,4] a, float[C,D,4] b) => (y) { y = Add(a, b) }")
    for given in model.graph.input:
        for dim in given.type.tensor_type.shape.dim[:2]:
            dim.ClearField("dim_param")
    feed = fed(model)
    assert feed["a"].shape == feed["b"].shape == (8, 16, 4)


CACHE = (
    '(float[N,L,8] x, float[N,2,P,4] k, float[N,2,P,4] v, int64[N,"P + L"] mask) => (y, k2, v2) {{ '
    "q0 = MatMul(x, wq) q1 = Reshape(q0, heads) q = Transpose<perm=[0,2,1,3]>(q1) "
    "k0 = MatMul(x, wk) k1 = Reshape(k0, heads) kn = Transpose<perm=[0,2,1,3]>(k1) "
    "v0 = MatMul(x, wv) v1 = Reshape(v0, heads) vn = Transpose<perm=[0,2,1,3]>(v1) "
    "k2 = Concat<axis=2>(k, kn) v2 = Concat<axis={axis}>(v, vn) "
    "kt = Transpose<perm=[0,1,3,2]>(k2) s = MatMul(q, kt) "
    "m0 = Cast<to=1>(mask) m1 = Sub(one, m0) m2 = Mul(m1, low) m = Unsqueeze(m2, axes) "
    "t = Add(s, m) p = Softmax(t) y = MatMul(p, v2) }}"
)


@pytest.mark.parametrize("axis", [2, -2])
def test_a_past_is_of_length_zero(axis: int) -> None:
    model = build(
        CACHE.format(axis=axis),
        wq=(8, 8),
        wk=(8, 8),
        wv=(8, 8),
        heads=np.array([0, 0, 2, 4]),
        axes=np.array([1, 2]),
        one=np.ones((), np.float32),
        low=np.float32(-1e9).reshape(()),
    )
    model.graph.input[3].type.tensor_type.shape.dim[1].dim_param = "P + L"
    feed = fed(model, dims={"L": 6})
    assert {k: a.shape for k, a in feed.items()} == {
        "x": (8, 6, 8),
        "k": (8, 2, 0, 4),
        "v": (8, 2, 0, 4),
        "mask": (8, 6),
    }
    assert only(feed["mask"]) == 1


def test_what_is_joined_and_not_handed_out_is_no_past() -> None:
    model = build("(float[N,L,4] x, float[N,M,4] z) => (y) { c = Concat<axis=1>(x, z) y = ReduceSum<keepdims=0>(c) }")
    assert {a.shape for a in fed(model).values()} == {(8, 16, 4)}


def test_a_past_that_a_window_slides_over_is_not_of_length_zero() -> None:
    model = build(
        "(float[N,2,1] x, float[N,2,P] past) => (y, next) { c = Concat<axis=2>(past, x) y = Conv(c, w) "
        "next = Slice(c, one, many, two) }",
        w=(3, 2, 5),
        one=np.array([1]),
        many=np.array([1 << 40]),
        two=np.array([2]),
    )
    assert fed(model)["past"].shape == (8, 2, 16)


def test_fused_attention_with_a_cache() -> None:
    model = build(
        "(float[N,L,16] q, float[N,2,P,8] k, float[N,2,P,8] v, int32[N] n, int32 total) => (y, k2, v2) { "
        "y, k2, v2 = com.microsoft.GroupQueryAttention<num_heads=2, kv_num_heads=2>(q, q, q, k, v, n, total) }"
    )
    feed = fed(model, dims={"L": 6})
    assert feed["k"].shape == feed["v"].shape == (8, 2, 0, 8)
    assert (only(feed["n"]), only(feed["total"])) == (5, 6)
