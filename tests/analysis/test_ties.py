"""Weights of equal values: which are found, and which are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from graphs import build
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from onnxinit.analysis import Analysis, analyse
from onnxinit.errors import ModelError
from onnxinit.model import ModelFile

Array = npt.NDArray[Any]

TWO = "(float[n,{0}] x, float[n,{1}] z) => (float[n,{2}] y, float[n,{3}] u) {{ y = MatMul(x, v) u = MatMul(z, w) }}"


def tied(model: onnx.ModelProto) -> Analysis:
    return analyse(ModelFile.of(model), tie_equal=True)


def two(v: Array, w: Array) -> onnx.ModelProto:
    """Two layers side by side."""
    return build(TWO.format(v.shape[0], w.shape[0], v.shape[1], w.shape[1]), v=v, w=w)


def shares(found: Analysis) -> dict[str, tuple[str, bool]]:
    return {w.id: (w.shares, w.turned) for w in found.weights if w.shares}


def random(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_equal_weights_share_their_values() -> None:
    v = random(4, 6)
    found = tied(two(v, v.copy()))
    assert shares(found) == {"w": ("v", False)}
    assert [w.tied_to for w in found.weights] == [("w",), ("v",)]
    assert not shares(analyse(ModelFile.of(two(v, v.copy()))))


def test_transposed_weights_share_their_values() -> None:
    assert shares(tied(two(random(4, 6), np.ascontiguousarray(random(4, 6).T)))) == {"w": ("v", True)}
    square = random(5, 5)
    assert shares(tied(two(square, np.ascontiguousarray(square.T)))) == {"w": ("v", True)}
    symmetric = square + square.T
    assert shares(tied(two(symmetric, np.ascontiguousarray(symmetric.T)))) == {"w": ("v", False)}


@pytest.mark.parametrize("shape", [(3, 100_003), (700, 900)])
def test_every_element_counts_in_tensors_of_many_chunks(shape: tuple[int, int]) -> None:
    v = random(*shape)
    assert shares(tied(two(v, np.ascontiguousarray(v.T)))) == {"w": ("v", True)}
    for at in ((0, 1), (shape[0] // 2, shape[1] // 2), (shape[0] - 1, shape[1] - 2)):
        w = v.copy()
        w[at] = np.nextafter(w[at], np.float32(9))
        assert not shares(tied(two(v, w)))
        assert not shares(tied(two(v, np.ascontiguousarray(w.T))))
    swapped = v.copy()
    swapped[[0, 1], 1] = swapped[[1, 0], 1]
    assert not shares(tied(two(v, swapped)))


def test_the_highest_role_comes_first() -> None:
    e = random(9, 4)
    text = "(float[n,4] x, int64[n] i) => (float[n,9] y, float[n,4] r) { y = MatMul(x, w) r = Gather(e, i) }"
    found = tied(build(text, check=False, w=np.ascontiguousarray(e.T), e=e))
    assert [w.id for w in found.weights] == ["w", "e"]
    assert shares(found) == {"w": ("e", True)}
    assert (found.by_id["e"].tied_to, found.by_id["w"].tied_to) == (("w",), ("e",))


def test_a_third_in_the_order_of_the_second() -> None:
    e = random(9, 4)
    text = "(float[n,4] x, int64[n] i) => (y, z, r) { y = MatMul(x, v) z = MatMul(x, w) r = Gather(e, i) }"
    turned = np.ascontiguousarray(e.T)
    assert shares(tied(build(text, check=False, v=turned, w=turned, e=e))) == {"v": ("e", True), "w": ("e", True)}


def test_vectors_and_kernels() -> None:
    text = "(float[1,2,8,8] x) => (y) { a = Conv(x, v, b) y = Conv(a, w, c) }"
    kernel, bias = random(2, 2, 3, 3), random(2)
    assert shares(tied(build(text, check=False, v=kernel, w=kernel, b=bias, c=bias))) == {
        "w": ("v", False),
        "c": ("b", False),
    }
    assert not shares(
        tied(build(text, check=False, v=kernel, w=kernel.transpose(1, 0, 2, 3).copy(), b=bias, c=bias[::-1].copy()))
    )


def test_what_has_one_value_throughout_is_not_tied() -> None:
    text = "(float[1,2,8,8] x) => (y) { a = Conv(x, v, b) y = Conv(a, w, c) }"
    zero, one = np.zeros(2, np.float32), np.ones((2, 2, 3, 3), np.float32)
    assert not shares(tied(build(text, check=False, v=one, w=one, b=zero, c=zero)))
    assert not shares(tied(two(np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32))))
    assert not shares(tied(two(random(1, 1), random(1, 1))))


def test_other_types_and_shapes_are_others() -> None:
    v = random(4, 6)
    assert not shares(tied(two(v, v.reshape(6, 4))))
    model = build(
        "(float[n,4] x, double[n,4] z) => (y, u) { y = MatMul(x, v) u = MatMul(z, w) }",
        check=False,
        v=v,
        w=v.astype(np.float64),
    )
    assert not shares(tied(model))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("typed", [False, True])
def test_every_type_and_field(dtype: npt.DTypeLike, typed: bool) -> None:
    v = random(5, 7).astype(dtype)
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = build(TWO.format(5, 7, 7, 5), v=v, w=np.ascontiguousarray(v.T))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = kind
    if typed:
        for t, values in zip(model.graph.initializer, (v, v.T), strict=True):
            t.ClearField("raw_data")
            if kind == TensorProto.DOUBLE:
                t.double_data.extend(values.reshape(-1))
            else:
                t.int32_data.extend(np.ascontiguousarray(values).reshape(-1).view(np.uint16).tolist())
    assert shares(tied(model)) == {"w": ("v", True)}


@given(
    v=st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(st.sampled_from([0.5, 1.0]), min_size=3, max_size=3), min_size=n, max_size=n)
    ),
    w=st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(st.sampled_from([0.5, 1.0]), min_size=3, max_size=3), min_size=n, max_size=n)
    ),
    turn=st.booleans(),
)
def test_tied_are_those_that_numpy_finds_equal(v: list[list[float]], w: list[list[float]], turn: bool) -> None:
    a = np.asarray(v, np.float32)
    b = np.ascontiguousarray(np.asarray(w, np.float32).T if turn else np.asarray(w, np.float32))
    same, across = a.shape == b.shape and bool((a == b).all()), a.shape == b.T.shape and bool((a == b.T).all())
    varied = a.min() < a.max()
    expected = {"w": ("v", not same)} if varied and (same or across) else {}
    assert shares(tied(two(a, b))) == expected


def stored(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    return path


def test_external_data_is_read(tmp_path: Path) -> None:
    v = random(40, 60)
    path = stored(two(v, np.ascontiguousarray(v.T)), tmp_path)
    assert shares(analyse(ModelFile.open(path), tie_equal=True)) == {"w": ("v", True)}


def test_external_data_that_is_missing(tmp_path: Path) -> None:
    path = stored(two(random(40, 60), random(60, 40)), tmp_path)
    (tmp_path / "m.bin").unlink()
    with pytest.raises(ModelError, match=r"'v'.* has no values, which tying equal weights compares: put the external"):
        analyse(ModelFile.open(path), tie_equal=True)
    unlike = stored(two(random(40, 60), random(30, 60)), tmp_path)  # of which none can be equal
    (tmp_path / "m.bin").unlink()
    assert not shares(analyse(ModelFile.open(unlike), tie_equal=True))


def test_one_place_and_equal_values_together(tmp_path: Path) -> None:
    """Two tensors of one place of a file, and a third with the same values."""
    v = random(4, 4)
    text = "(float[n,4] x) => (y, z, u) { y = MatMul(x, v) z = MatMul(x, w) u = MatMul(x, k) }"
    path = stored(build(text, check=False, v=v, w=v + 1, k=v), tmp_path)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[1].CopyFrom(model.graph.initializer[0])
    model.graph.initializer[1].name = "w"
    path.write_bytes(model.SerializeToString())
    found = analyse(ModelFile.open(path), tie_equal=True)
    assert shares(found) == {"w": ("v", False), "k": ("v", False)}
