"""Weights that the graph composes: what the layer multiplies by, run by ONNX Runtime, has the moments that are asked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import onnxinit
from onnxinit.plan import Plan

Array = npt.NDArray[Any]


def build(text: str, functions: str = "", opset: int = 17, **tensors: Any) -> onnx.ModelProto:
    """A model from the text of its graph, with initializers as arrays, or as shapes of what training left."""
    head = f'<ir_version: 10, opset_import: ["": {opset}, "local": 1]>'
    model = onnx.parser.parse_model(f"{head} g {text} {functions}")
    for i, (name, held) in enumerate(tensors.items()):
        old = np.random.default_rng(i).normal(0.3, 0.7, held) if isinstance(held, tuple) else held
        kept = old.dtype if not isinstance(held, tuple) else np.dtype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(old, kept), name))
    onnx.checker.check_model(model)
    return model


def fresh(model: onnx.ModelProto, scheme: str = "he", **options: Any) -> tuple[onnx.ModelProto, onnxinit.Result]:
    result = onnxinit.reinit(model, scheme=scheme, seed=5, **options)
    assert result.model is not None
    onnx.checker.check_model(result.model)
    return result.model, result


def run(model: onnx.ModelProto, *names: str, **feed: Array) -> list[Array]:
    """Values of the graph by name, as ONNX Runtime makes them."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.output[:]
    wide.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(wide.SerializeToString(), options, providers=["CPUExecutionProvider"])
    needed = {i.name: np.zeros([d.dim_value or 2 for d in i.type.tensor_type.shape.dim], np.float32)
              for i in model.graph.input}  # fmt: skip
    return [np.asarray(v, np.float64) for v in session.run(list(names), needed | feed)]


def stored(model: onnx.ModelProto, name: str) -> Array:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name)).astype(np.float64)


def weight(result: onnxinit.Result, name: str = "v") -> Any:
    return next(w for w in result.weights if w.id == name)


def entry(result: onnxinit.Result, name: str = "v") -> Any:
    return next(e for e in result.plan.entries if e.id == name)


def assert_normal(values: Array, std: float) -> None:
    """Mean 0 and the std, within five standard errors of so many normal values."""
    assert values.std() == pytest.approx(std, rel=5 / math.sqrt(2 * values.size))
    assert abs(values.mean()) < 5 * std / math.sqrt(values.size)


# ---------------------------------------------------------------- weight norm

SPREADS = {
    "ReduceL2": "n = ReduceL2 <axes = [{a}]> (v)",
    "sum of squares": "s = ReduceSumSquare <axes = [{a}]> (v) n = Sqrt (s)",
    "product": "q = Mul (v, v) s = ReduceSum (q, axes) n = Sqrt (s)",
    "powers": "q = Pow (v, two) s = ReduceSum (q, axes) n = Pow (s, half)",
    "eps": "q = Mul (v, v) s = ReduceSum (q, axes) e = Add (s, eps) n = Sqrt (e)",
    "clip": "m = ReduceL2 <axes = [{a}]> (v) n = Clip (m, eps)",
    "max": "m = ReduceL2 <axes = [{a}]> (v) n = Max (m, eps)",
}
MEETINGS = {
    "unit first": "u = Div (v, n) k = Mul (u, g)",
    "turned": "u = Div (v, n) k = Mul (g, u)",
    "ratio first": "r = Div (g, n) k = Mul (v, r)",
    "inverse": "r = Reciprocal (n) u = Mul (v, r) k = Mul (u, g)",
    "scaled first": "p = Mul (v, g) k = Div (p, n)",
    "spread out": "w = Shape (v) z = Expand (n, w) u = Div (v, z) k = Mul (u, g)",
}
NUMBERS = {"two": np.float32(2), "half": np.float32(0.5), "eps": np.float32(1e-12)}
KERNELS = {
    "Gemm": ("(float[n,40] x) => (float[n,64] y) {{ {k} y = Gemm <transB = 1> (x, k) }}", (64, 40), 40),
    "MatMul": ("(float[n,64] x) => (float[n,40] y) {{ {k} y = MatMul (x, k) }}", (64, 40), 64),
    "turned": ("(float[n,40] x) => (float[n,64] y) {{ {k} t = Transpose (k) y = MatMul (x, t) }}", (64, 40), 40),
    "Conv": ("(float[n,12,9,9] x) => (float[n,20,7,7] y) {{ {k} y = Conv (x, k) }}", (20, 12, 3, 3), 108),
    "groups": ("(float[n,24,9,9] x) => (float[n,20,7,7] y) {{ {k} y = Conv <group = 2> (x, k) }}", (20, 12, 3, 3), 108),
    "upwards": ("(float[n,20,9,9] x) => (float[n,12,11,11] y) {{ {k} y = ConvTranspose (x, k) }}", (20, 12, 3, 3), 180),
}


def normed(kernel: str, spread: str, meeting: str, kept: tuple[int, ...]) -> tuple[onnx.ModelProto, int]:
    """A layer with a weight norm that has one scale for each index on the axes that are kept."""
    text, shape, fan = KERNELS[kernel]
    axes = [i for i in range(len(shape)) if i not in kept]
    made = f"{SPREADS[spread]} {MEETINGS[meeting]}".format(a=", ".join(map(str, axes)))
    scales = tuple(n if i in kept else 1 for i, n in enumerate(shape))
    return build(text.format(k=made), v=shape, g=scales, axes=np.array(axes), **NUMBERS), fan


@given(st.sampled_from(sorted(KERNELS)), st.sampled_from(sorted(SPREADS)), st.sampled_from(sorted(MEETINGS)), st.data())
@settings(max_examples=40, deadline=None)
def test_the_scale_of_a_weight_norm_follows_its_weight(
    kernel: str, spread: str, meeting: str, data: st.DataObject
) -> None:
    """However it is written, and whichever axes it keeps: the layer multiplies by what the scheme drew."""
    rank = len(KERNELS[kernel][1])
    kept = data.draw(st.sets(st.integers(0, rank - 1), max_size=rank - 1))
    model, fan = normed(kernel, spread, meeting, tuple(sorted(kept)))
    new, result = fresh(model)
    (effective,) = run(new, "k")
    np.testing.assert_allclose(effective, stored(new, "v"), rtol=1e-5, atol=1e-7)
    assert_normal(effective, math.sqrt(2 / fan))
    assert (weight(result).role, weight(result).fan_in) == ("weight", fan)
    assert (weight(result, "g").role, weight(result, "g").follows) == ("other", ("v",))
    assert str(entry(result, "g").scheme) == "refit" and entry(result, "g").exact == "1e-6"
