"""Weights that are stored sparse: fresh values on the same pattern, or dense ones; written files are run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from graphs import build
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from runs import run

import onnxinit

Array = npt.NDArray[Any]
SHAPE = (60, 80)


def mask(share: float, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random(shape) < share


def sparse(name: str, where: Array, form: str = "places", dtype: npt.DTypeLike = np.float32) -> onnx.SparseTensorProto:
    """A sparse tensor with values wherever a mask is true, in either form of indices."""
    values = np.random.default_rng(1).standard_normal(int(where.sum())).astype(dtype)
    at = np.flatnonzero(where) if form == "places" else np.argwhere(where)
    tensors = numpy_helper.from_array(values, name), numpy_helper.from_array(at.astype(np.int64), "")
    return helper.make_sparse_tensor(*tensors, list(where.shape))


def layer(tensor: onnx.SparseTensorProto) -> onnx.ModelProto:
    text = f"(float[n,{tensor.dims[0]}] x) => (float[n,{tensor.dims[1]}] y) {{ h = MatMul (x, w) y = Relu (h) }}"
    model = build(text, check=False)
    model.graph.sparse_initializer.append(tensor)
    return model


def fresh(model: onnx.ModelProto, **asked: Any) -> onnx.ModelProto:
    made = onnxinit.reinit(model, **asked).model
    assert made is not None
    onnx.checker.check_model(made)
    return made


def dense_of(tensor: onnx.SparseTensorProto) -> Array:
    values, at = numpy_helper.to_array(tensor.values), numpy_helper.to_array(tensor.indices)
    out = np.zeros(tuple(tensor.dims), values.dtype)
    out[tuple(at.T) if at.ndim == 2 else np.unravel_index(at, out.shape)] = values
    return out


@pytest.mark.parametrize("form", ["places", "axes"])
@pytest.mark.parametrize("scheme", ["he", "xavier", "lecun", "normal:std=0.1"])
def test_the_pattern_stays_and_its_values_have_the_moments_of_the_fans_that_it_leaves(form: str, scheme: str) -> None:
    where = mask(0.25)
    before = layer(sparse("w", where, form))
    after = fresh(before, scheme=scheme)
    (old,), (new,) = before.graph.sparse_initializer, after.graph.sparse_initializer
    assert new.indices == old.indices
    assert not dense_of(new)[~where].any()
    share = float(where.mean())
    fan_in, fan_out = 60 * share, 80 * share
    stds = {"he": 2 / fan_in, "xavier": 2 / (fan_in + fan_out), "lecun": 1 / fan_in, "normal:std=0.1": 0.01}
    values = numpy_helper.to_array(new.values)
    assert values.std() == pytest.approx(math.sqrt(stds[scheme]), rel=5 / math.sqrt(2 * values.size))
    x = np.random.default_rng(2).standard_normal((9, 60)).astype(np.float32)
    assert run(after, x=x)[0] == pytest.approx(np.maximum(x @ dense_of(new), 0), abs=1e-4)


def test_inspect_tells_the_dense_shape_and_the_fans_that_are_left() -> None:
    where = mask(0.25)
    (found,) = onnxinit.inspect(layer(sparse("w", where))).weights
    share = float(where.mean())
    assert (found.where, found.shape, found.role) == ("sparse", SHAPE, "weight")
    assert (found.fan_in, found.fan_out) == pytest.approx((60 * share, 80 * share))
    kept = onnxinit.inspect(layer(sparse("w", where))).kept
    assert [k.reason for k in kept] == ["the pattern of a sparse tensor"]


@given(st.integers(0, 2**20), st.sampled_from([0.02, 0.3, 1.0]), st.booleans(), st.sampled_from(["float32", "float64"]))
def test_the_values_are_those_of_the_dense_tensor_at_their_places(
    seed: int, share: float, axes: bool, dtype: str
) -> None:
    """Whatever the pattern: what a dense weight of the same name gets there, but for what the fans make of the std."""
    where = mask(share, (64, 96), seed)
    where[3, 5] = True
    tensor = sparse("w", where, "axes" if axes else "places", dtype)
    kind = "double" if dtype == "float64" else "float"
    model = build(f"({kind}[n,64] x) => ({kind}[n,96] y) {{ y = MatMul (x, w) }}", check=False)
    model.graph.sparse_initializer.append(tensor)
    picked = dense_of(fresh(model, scheme="normal:std=0.5").graph.sparse_initializer[0])
    dense = fresh(model, scheme="normal:std=0.5", densify=True).graph
    assert not dense.sparse_initializer
    assert (picked[where] == numpy_helper.to_array(dense.initializer[0])[where]).all()
    assert not picked[~where].any()


def test_a_pattern_in_no_order_is_read_all_the_same() -> None:
    tensor = sparse("w", mask(0.2))
    at = numpy_helper.to_array(tensor.indices)
    order = np.random.default_rng(5).permutation(len(at))
    mixed = helper.make_sparse_tensor(tensor.values, numpy_helper.from_array(at[order], ""), list(SHAPE))
    first = onnxinit.reinit(layer(tensor), scheme="he").model
    second = onnxinit.reinit(layer(mixed), scheme="he").model
    assert first is not None
    assert second is not None
    values = [numpy_helper.to_array(m.graph.sparse_initializer[0].values) for m in (first, second)]
    assert (values[0][order] == values[1]).all()


@pytest.mark.parametrize("place", [-1, 4800])
def test_a_place_outside_the_shape_is_an_error(place: int, tmp_path: Path) -> None:
    tensor = sparse("w", mask(0.2))
    at = numpy_helper.to_array(tensor.indices).copy()
    at[-1] = place
    onnx.save(
        layer(helper.make_sparse_tensor(tensor.values, numpy_helper.from_array(at, ""), list(SHAPE))),
        tmp_path / "m.onnx",
    )
    with pytest.raises(
        onnxinit.OnnxinitError, match=r"'w' \(MatMul, float\[60, 80\]\) has a sparse pattern with places"
    ):
        onnxinit.reinit(tmp_path / "m.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_dense_on_request() -> None:
    model = layer(sparse("w", mask(0.25)))
    result = onnxinit.reinit(model, scheme="he", densify=True)
    assert [(w.where, w.fan_in) for w in result.weights] == [("sparse", 60)]
    after = result.model
    assert after is not None
    onnx.checker.check_model(after)
    values = numpy_helper.to_array(after.graph.initializer[0])
    assert values.std() == pytest.approx(math.sqrt(2 / 60), rel=5 / math.sqrt(2 * 4800))
    assert len(fresh(model, densify=True, exclude="w").graph.sparse_initializer) == 1


def test_in_a_constant_node() -> None:
    where = mask(0.25)
    model = build("(float[n,60] x) => (float[n,80] y) { w = Constant () y = MatMul (x, w) }", check=False)
    model.graph.node[0].attribute.append(helper.make_attribute("sparse_value", sparse("", where)))
    onnx.checker.check_model(model)
    after = fresh(model, scheme="lecun")
    values = numpy_helper.to_array(after.graph.node[0].attribute[0].sparse_tensor.values)
    share = float(where.mean())
    assert values.std() == pytest.approx(math.sqrt(1 / (60 * share)), rel=5 / math.sqrt(2 * values.size))
    dense = fresh(model, scheme="lecun", densify=True)
    assert [n.op_type for n in dense.graph.node] == ["MatMul"]
    assert numpy_helper.to_array(dense.graph.initializer[0]).shape == SHAPE


@pytest.mark.parametrize("scheme", ["lsuv", "lsuv:base=orthogonal", "analytic", "zca", "orthogonal"])
def test_a_layer_keeps_unit_variance(scheme: str) -> None:
    """Schemes that look at signals see the zeros; for a whole matrix, which does not, the gain makes up for them."""
    where = mask(0.25)
    x = np.random.default_rng(2).standard_normal((4000, 60)).astype(np.float32)
    after = fresh(layer(sparse("w", where)), scheme=scheme, data={"x": x} if scheme != "analytic" else None)
    y = x @ dense_of(after.graph.sparse_initializer[0])
    expected = math.sqrt(60 / 80) if scheme == "orthogonal" else 1.0
    assert y.std() == pytest.approx(expected, rel=0.02 if scheme.startswith(("lsuv", "zca")) else 0.1)


def test_its_own_values_are_shuffled_among_themselves() -> None:
    before = layer(sparse("w", mask(0.25)))
    after = fresh(before, scheme="shuffle")
    old, new = (numpy_helper.to_array(m.graph.sparse_initializer[0].values) for m in (before, after))
    assert (np.sort(old) == np.sort(new)).all()
    assert (old != new).any()
