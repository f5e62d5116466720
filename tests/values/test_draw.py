from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from handmade import RELU, analysis, conv, gemm, lstm, part, weight
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from onnxinit.analysis.weight import Analysis, Part, Weight
from onnxinit.errors import ModelError, SchemeError
from onnxinit.plan import Plan, Vector, fit_plan, make_plan
from onnxinit.sampling import CHUNK, Stream
from onnxinit.schemes import Block, table
from onnxinit.values import Values, fresh

DTYPES = {"float": np.float32, "double": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def array(values: Values, shuffled: bool = False) -> npt.NDArray[Any]:
    """All chunks, in any order, in a tensor of the stored type."""
    raw = bytearray(values.nbytes)
    chunks = list(values.chunks())
    assert [c.offset for c in chunks] == [sum(c.nbytes for c in chunks[:i]) for i in range(len(chunks))]
    assert sum(c.nbytes for c in chunks) == values.nbytes
    if shuffled:
        random.Random(1).shuffle(chunks)
    for chunk in chunks:
        drawn = bytes(memoryview(chunk.draw()))  # type: ignore[arg-type]
        assert len(drawn) == chunk.nbytes
        raw[chunk.offset : chunk.offset + chunk.nbytes] = drawn
    return np.frombuffer(bytes(raw), DTYPES[values.weight.dtype]).reshape(values.weight.shape)


def drawn(model: Analysis, plan: Plan | None = None, **options: Any) -> dict[str, npt.NDArray[Any]]:
    values = fresh(plan or make_plan(model, **options), model)
    return {w.id: array(values[w.path]) for w in model.weights}


def one(w: Weight, scheme: str, **options: Any) -> npt.NDArray[Any]:
    return drawn(analysis(w), rules=[f"*={scheme}"], **options)[w.id]


def blocks(w: Weight, stored: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The canonical matrices (out, in * kernel) of a stored tensor."""
    assert w.layout is not None
    found = [b for p in w.layout.parts for b in p.to_canonical(stored)]
    return [b.reshape(len(b), -1).astype(np.float64) for b in found]


def test_values_are_by_the_path_of_the_tensor() -> None:
    model = analysis(conv("a"), conv("b"))
    assert list(fresh(make_plan(model, exclude="b"), model)) == ["path of a"]


SCHEMES = ["he", "xavier", "orthogonal", "sparse:nonzeros=3", "identity", "normalized:exact=true", "uniform", "zeros"]


@pytest.mark.parametrize("spec", SCHEMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bytes_in_any_order_and_selection(spec: str, dtype: str) -> None:
    weights = [replace(w, dtype=dtype) for w in (conv("a", 64, 1100, (5,)), gemm("b", 30, 20), *lstm("l"))]
    whole = fresh(make_plan(analysis(*weights), scheme=spec, seed=5), analysis(*weights))
    for w in weights:
        alone = fresh(make_plan(analysis(w), scheme=spec, seed=5), analysis(w))[w.path]
        assert array(alone, shuffled=True).tobytes() == array(whole[w.path]).tobytes()


def test_seeds_and_ids_make_the_difference() -> None:
    model = analysis(gemm("a"), gemm("b"))
    first, again, other = drawn(model), drawn(model), drawn(model, seed=1)
    assert first["a"].tobytes() == again["a"].tobytes()
    assert not np.any(first["a"] == first["b"])
    assert not np.any(first["a"] == other["a"])


@pytest.mark.parametrize(
    ("scheme", "law"),
    [
        ("he", stats.norm(0, math.sqrt(2 / 100))),
        ("lecun:gain=3", stats.norm(0, 0.3)),
        ("xavier", stats.uniform(-math.sqrt(6 / 5100), 2 * math.sqrt(6 / 5100))),
        ("truncated_normal:mean=1,std=2,low=-1,high=3", stats.truncnorm(-1, 3, 1, 2)),
        ("variance_scaling:scale=4", stats.truncnorm(-2, 2, 0, 0.2 / 0.87962566103423978)),
        ("uniform:low=2,high=5", stats.uniform(2, 3)),
    ],
)
def test_independent_values_have_the_law_that_is_asked_for(scheme: str, law: Any) -> None:
    w = gemm("w", 100, 5000, downstream=(RELU,))  # two chunks
    values = one(w, scheme).astype(np.float64).ravel()
    assert stats.kstest(values, law.cdf).pvalue > 1e-6
    entry = make_plan(analysis(w), rules=[f"w={scheme}"]).entries[0]
    assert entry.std == pytest.approx(law.std())


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_rounded_once(dtype: str) -> None:
    w = gemm("w", 100, 100)
    fine = one(replace(w, dtype="double" if dtype == "double" else "float"), "he", seed=3)
    stored = one(replace(w, dtype=dtype), "he", seed=3)
    assert stored.tobytes() == fine.astype(DTYPES[dtype]).tobytes()


def test_double_has_bits_that_float_has_not() -> None:
    values = one(replace(gemm("w", 100, 100), dtype="double"), "normal")
    assert np.mean(values == values.astype(np.float32)) < 1e-3


gained = st.floats(0.125, 8)


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    st.integers(0, 2),
    st.data(),
    st.sampled_from(["normal:mean=1", "uniform", "truncated_normal", "constant:value=2", "orthogonal", "sparse"]),
    st.sampled_from(["float", "double"]),
)
def test_a_vector_of_gains_multiplies_along_its_axis(
    shape: tuple[int, int, int], axis: int, data: st.DataObject, scheme: str, dtype: str
) -> None:
    out, inn, kernel = shape
    w = replace(conv("w", out, inn, (kernel,)), dtype=dtype)
    gains = tuple(data.draw(st.lists(gained, min_size=shape[axis], max_size=shape[axis])))
    plain = make_plan(analysis(w), rules=[f"w={scheme}"])
    plain = replace(plain, entries=(replace(plain.entries[0], gain=1.0),))
    vector = replace(plain, entries=(replace(plain.entries[0], gain=Vector(axis, gains)),))
    along = np.array(gains, DTYPES[dtype]).reshape([-1 if i == axis else 1 for i in range(3)])
    expected = drawn(analysis(w), plain)["w"] * along
    np.testing.assert_allclose(drawn(analysis(w), fit_plan(vector, analysis(w)))["w"], expected, rtol=1e-6)


def halves(axis: int, shape: tuple[int, ...], *fans: float) -> list[Part]:
    """A tensor cut in two along an axis, each half with fans of its own."""
    cut = shape[axis] // 2
    sizes = [cut, shape[axis] - cut]
    return [
        part(
            [[sizes[half] if i == axis else n] for i, n in enumerate(shape)],
            [["out"], ["in"], *([["kernel"]] * (len(shape) - 2))],
            fans[half],
            1.0,
            start=[half * cut if i == axis else 0 for i in range(len(shape))],
        )
        for half in range(2)
    ]


@pytest.mark.parametrize("scheme", ["lecun", "lecun_uniform", "variance_scaling", "lecun:gain=2"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("vector", [False, True])
def test_parts_of_unlike_fans_get_their_own_std(scheme: str, axis: int, vector: bool) -> None:
    shape = (500, 1000)
    w = weight("w", "weight", shape, parts=halves(axis, shape, 4.0, 400.0))
    model = analysis(w)
    plan = make_plan(model, scheme=scheme)
    gain = plan.entries[0].gain
    assert isinstance(gain, float)
    if vector:  # along the other axis
        gains = (gain,) * shape[1 - axis]
        plan = fit_plan(replace(plan, entries=(replace(plan.entries[0], gain=Vector(1 - axis, gains)),)), model)
    values = drawn(model, plan)["w"].astype(np.float64)
    for values_of_part, fan in zip(np.array_split(values, 2, axis), (4, 400), strict=True):
        std = gain * math.sqrt(1 / fan)
        assert values_of_part.std() == pytest.approx(std, rel=5 / math.sqrt(values_of_part.size))
        assert abs(values_of_part.mean()) < 5 * std / math.sqrt(values_of_part.size)
    assert plan.entries[0].std == pytest.approx(values.std(), rel=5 / math.sqrt(values.size))


def test_a_uniform_bias_over_parts() -> None:
    shape = (4, 3)
    values = one(weight("w", "bias", shape, parts=halves(0, shape, 4.0, 100.0)), "bias_uniform")
    assert np.abs(values[:2]).max() > 0.1 > np.abs(values[2:]).max()


MATRICES = [
    gemm("Gemm", 12, 7),
    weight("Gemm with transB", "weight", (7, 12), "Gemm", [part([[7], [12]], [["out"], ["in"]], 12, 7)]),
    conv("Conv", 8, 3, (3, 3)),
    weight(
        "grouped Conv", "weight", (8, 3, 3), "Conv", [part([[4, 2], [3], [3]], [["block", "out"], ["in"], ["kernel"]])]
    ),
    weight(
        "grouped ConvTranspose",
        "weight",
        (8, 3, 3),
        "ConvTranspose",
        [part([[4, 2], [3], [3]], [["block", "in"], ["out"], ["kernel"]])],
    ),
    weight("fused QKV", "weight", (6, 3, 6), "MatMul", [part([[6], [3], [6]], [["in"], ["block"], ["out"]])]),
    weight("experts", "weight", (5, 6, 4), "MatMul", [part([[5], [6], [4]], [["block"], ["in"], ["out"]])]),
    weight("fused columns", "weight", (6, 18), "MatMul", [part([[6], [3, 6]], [["in"], ["block", "out"]])]),
    weight("two parts", "weight", (10, 8), "MatMul", halves(0, (10, 8), 8, 8)),
    *lstm("lstm")[:2],
]


@pytest.mark.parametrize("w", MATRICES, ids=lambda w: w.id)
@pytest.mark.parametrize("dtype", ["float", "double", "float16"])
def test_orthogonal_per_block(w: Weight, dtype: str) -> None:
    w = replace(w, dtype=dtype)
    found = blocks(w, one(w, "orthogonal:gain=2"))
    assert len(found) == w.blocks
    for matrix in found:
        small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        np.testing.assert_allclose(small @ small.T, 4 * np.eye(len(small)), atol=1e-5 if dtype != "float16" else 1e-2)
    if len(found) > 1:
        assert not np.allclose(found[0], found[1], atol=0.1)


@pytest.mark.parametrize("w", MATRICES, ids=lambda w: w.id)
def test_other_structured_schemes_per_block(w: Weight) -> None:
    for matrix in blocks(w, one(w, "normalized:exact=true,gain=3")):
        np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 3, rtol=1e-6)
    for matrix in blocks(w, one(w, "sparse:nonzeros=2")):
        assert (np.count_nonzero(matrix, axis=1) == 2).all()
    for matrix in blocks(w, one(w, "identity")):
        assert (
            matrix.sum()
            == np.count_nonzero(matrix)
            == min(matrix.shape[0], matrix.shape[1] // math.prod(w.shape[2:] if "Conv" in w.id else ()))
        )


@pytest.mark.parametrize("w", MATRICES, ids=lambda w: w.id)
@pytest.mark.parametrize(
    "scheme",
    [
        "orthogonal:gain=3",
        "delta_orthogonal",
        "identity:gain=2",
        "sparse:nonzeros=3",
        "sparse:sparsity=0.5,std=4",
        "normalized",
        "normalized:exact=true,gain=0.5",
    ],
)
def test_the_std_that_structured_schemes_are_asked_for(w: Weight, scheme: str) -> None:
    plan = make_plan(analysis(w), rules=[f"*={scheme}"])
    values = drawn(analysis(w), plan)[w.id].astype(np.float64)
    std = plan.entries[0].std
    assert std is not None
    nonzero = np.count_nonzero(values)
    # The sum of squares is exact for most; the mean, and the sparse normal values, are a sample's.
    assert values.std() == pytest.approx(std, rel=1e-5 if "identity" in scheme else 5 / math.sqrt(nonzero))


def test_forget_gates() -> None:
    [_, _, b] = lstm("lstm", hidden=6)
    values = one(b, "forget_bias")
    expected = np.zeros((2, 8, 6))
    expected[:, 2] = 1  # i, o, f, c of the input half
    np.testing.assert_array_equal(values, expected.reshape(2, 48))
    assert make_plan(analysis(b)).entries[0].std == pytest.approx(values.std())


def test_many_small_blocks_are_drawn_together() -> None:
    n = 3 * (CHUNK // 99)  # blocks of 99 values
    w = weight("w", "weight", (n, 1, 99), "Conv", [part([[n, 1], [1], [99]], [["block", "out"], ["in"], ["kernel"]])])
    model = analysis(w)
    values = fresh(make_plan(model, scheme="identity"), model)[w.path]
    assert len(list(values.chunks())) == 3
    np.testing.assert_array_equal(array(values)[:, 0], np.eye(99)[np.full(n, 49)])


def test_weights_that_share_their_bytes_get_the_same() -> None:
    a = gemm("a", 8, 4, tied_to=("b",))
    b = weight("b", "weight", (4, 8), parts=[part([[4], [8]], [["in"], ["out"]])], shares="a", tied_to=("a",))
    found = drawn(analysis(b, a), scheme="orthogonal")
    assert found["a"].tobytes() == found["b"].tobytes()
    [matrix] = blocks(a, found["a"])
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(4), atol=1e-5)


def test_empty_tensors_have_no_chunks() -> None:
    w = gemm("w", 0, 4)
    for scheme in ("he", "orthogonal"):
        assert list(fresh(make_plan(analysis(w), scheme=scheme), analysis(w))[w.path].chunks()) == []


def test_a_scalar() -> None:
    assert one(weight("w", "bias", ()), "constant:value=3") == 3
    assert one(weight("w", "layer_scale", (1,)), "normal:mean=8,std=0") == 8


@pytest.mark.parametrize(
    ("dtype", "value", "largest"),
    [("float16", "70000", "65504"), ("bfloat16", "3.4e38", "3.38953e+38"), ("float", "1e39", "3.40282e+38")],
)
def test_what_a_type_cannot_hold_is_refused(dtype: str, value: str, largest: str) -> None:
    w = conv("w", 2, 2, (1,), dtype=dtype)
    with pytest.raises(ModelError) as raised:
        one(w, f"constant:value={value}")
    assert str(raised.value).startswith(f"the weight 'w' (Conv, {dtype}[2, 2, 1]) cannot hold the ")
    assert str(raised.value).endswith(
        f"its type ends at {largest}: give it a smaller scale by a --rule, or keep it with --exclude"
    )


def test_the_largest_value_of_a_type_is_held() -> None:
    assert one(conv("w", dtype="float16"), "constant:value=65519").max() == np.float16(65504)
    assert np.isfinite(float(one(conv("w", dtype="bfloat16"), "constant:value=3.3895e38").max()))


def test_a_type_that_is_not_drawn() -> None:
    w = conv("w", dtype="float6e2m3")
    with pytest.raises(ModelError) as raised:
        one(w, "he")
    assert str(raised.value) == (
        "the weight 'w' (Conv, float6e2m3[8, 4, 3, 3]) is not drawn: keep it with --exclude, or convert it to "
        "float, double, float16, bfloat16, float8e4m3fn, float8e4m3fnuz, float8e5m2, float8e5m2fnuz"
    )


@pytest.mark.usefixtures("own_table")
def test_a_block_that_a_scheme_cannot_draw() -> None:
    @table.scheme("test_draw_picky")
    def picky(block: Block, stream: Stream) -> npt.NDArray[np.floating]:
        """Draws nothing."""
        raise SchemeError("not this one: take another")

    with pytest.raises(SchemeError) as raised:
        one(conv("w", 2, 2, ()), "test_draw_picky")
    assert str(raised.value) == (
        "the weight 'w' (Conv, float[2, 2]) cannot be drawn by test_draw_picky: not this one: take another"
    )


def test_parts_of_unlike_fans_along_two_axes() -> None:
    quarters = [
        part([[2], [3]], [["out"], ["in"]], fan, 1.0, start=(2 * i, 3 * j))
        for i, j, fan in [(0, 0, 4), (0, 1, 9), (1, 0, 9), (1, 1, 4)]
    ]
    w = weight("w", "weight", (4, 6), parts=quarters)
    with pytest.raises(SchemeError, match=r"^its parts have unlike fans along two axes: give it a scheme without fans"):
        one(w, "lecun")
