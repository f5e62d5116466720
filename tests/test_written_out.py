"""Codes that plain arithmetic makes real values of, as exporters write weight-only quantisation: Cast, Sub, Mul."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxinit

Array = npt.NDArray[Any]
STD = 0.1
# By form: the graph after `c = Cast(w)`, the stored shape, those of scales and zero points, and whether x comes last.
FORMS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...] | None]] = {
    "one scale": ("d = Mul(c, s) y = MatMul(x, d)", (24, 30), (), None),
    "a scale for each output": ("d = Mul(c, s) y = MatMul(x, d)", (24, 30), (30,), None),
    "a scale for each input": ("d = Mul(s, c) y = MatMul(x, d)", (24, 30), (24, 1), None),
    "zero points": ("e = Sub(c, z) d = Mul(e, s) y = MatMul(x, d)", (24, 30), (30,), (30,)),
    "one zero point": ("e = Sub(c, z) d = Mul(e, s) y = MatMul(x, d)", (24, 30), (), ()),
    "transposed": ("d = Mul(c, s) t = Transpose(d) y = MatMul(x, t)", (30, 24), (30, 1), None),
    "in blocks": (
        "b = Reshape(c, split) d = Mul(b, s) f = Reshape(d, joint) t = Transpose(f) y = MatMul(x, t)",
        (30, 24), (30, 4, 1), None,
    ),
    "in blocks, with zero points": (
        "b = Reshape(c, split) e = Sub(b, z) d = Mul(e, s) f = Reshape(d, joint) t = Transpose(f) y = MatMul(x, t)",
        (30, 24), (30, 4, 1), (30, 4, 1),
    ),
    "behind the product": ("h = MatMul(x, c) y = Mul(h, s)", (24, 30), (30,), None),
    "one behind the product": ("t = Transpose(c) h = MatMul(x, t) y = Mul(h, s)", (30, 24), (), None),
}  # fmt: skip


def build(form: str, kind: int) -> onnx.ModelProto:
    text, shape, scales, zeros = FORMS[form]
    head = '<ir_version: 10, opset_import: ["": 21]> g (float[m,24] x) => (float[m,30] y)'
    model = onnx.parser.parse_model(f"{head} {{ c = Cast<to = 1>(w) {text} }}")
    rng = np.random.default_rng(0)
    held = rng.integers(1, 7, shape)
    model.graph.initializer.extend(
        [
            helper.make_tensor("w", kind, shape, held.reshape(-1).tolist()),
            numpy_helper.from_array(rng.uniform(1, 2, scales).astype(np.float32), "s"),
            numpy_helper.from_array(np.array([30, 4, 6]), "split"),
            numpy_helper.from_array(np.array([30, 24]), "joint"),
        ]
    )
    if zeros is not None:
        model.graph.initializer.append(numpy_helper.from_array(rng.integers(1, 7, zeros).astype(np.float32), "z"))
    return model


def run(model: onnx.ModelProto, x: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    return np.asarray(y, np.float64)


def real_values(shape: tuple[int, ...]) -> Array:
    """What is drawn for a float weight 'w' of the same shape."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[m,{shape[0]}] x) => (float[m,{shape[1]}] y) '
        "{ y = MatMul(x, w) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), "w"))
    new = onnxinit.reinit(model, scheme=f"normal:std={STD}", seed=2).model
    assert new is not None
    return numpy_helper.to_array(new.graph.initializer[0])


def arrays(model: onnx.ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("kind", ["INT8", "UINT8", "INT4", "FLOAT8E4M3FN"])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_multiplied_by_is_what_was_drawn(form: str, kind: str) -> None:
    pointed = FORMS[form][3] is not None
    if kind == "UINT8" and not pointed:
        pytest.skip("without zero points it holds no negative values")
    if kind == "FLOAT8E4M3FN" and pointed:
        pytest.skip("codes that are floats have none")
    result = onnxinit.reinit(build(form, int(getattr(TensorProto, kind))), scheme=f"normal:std={STD}", seed=2)
    assert result.model is not None
    onnx.checker.check_model(result.model)
    expected = {"w": "weight", "s": "quant_scale"} | ({"z": "quant_zero_point"} if pointed else {})
    assert {w.id: w.role for w in result.weights} == expected
    said = run(result.model, np.eye(24, dtype=np.float32))
    shape, scale = FORMS[form][1], arrays(result.model)["s"]
    said = said if shape == (24, 30) else said.T
    off = np.abs(said - real_values(shape))
    if kind.startswith("FLOAT"):
        assert (off <= np.abs(real_values(shape)) * 2.0**-4 * 1.001 + scale.max() * 2.0**-10).all()
    else:
        assert off.max() <= scale.max() * (1.01 if pointed else 0.505)
    assert scale.size == 1 or len(np.unique(scale)) == scale.size
    (weight,) = [w for w in result.weights if w.id == "w"]
    assert (weight.fan_in, weight.fan_out) == (24, 30)


@pytest.mark.parametrize("form", ["a scale for each output", "behind the product"])
def test_their_layers_are_scaled(form: str) -> None:
    x = np.random.default_rng(0).standard_normal((256, 24)).astype(np.float32)
    result = onnxinit.reinit(build(form, TensorProto.INT8), scheme="lsuv:base=he", data={"x": x})
    assert result.model is not None and result.signal is not None
    assert [f.status for f in result.signal.layers] == ["set"]
    assert run(result.model, x).std() == pytest.approx(1, abs=0.01)


def test_without_a_scale_they_are_kept() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[m,24] x) => (float[m,30] y) '
        "{ c = Cast<to = 1>(w) y = MatMul(x, c) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((24, 30), np.int8), "w"))
    assert not onnxinit.inspect(model).weights
