"""Models whose graph composes a weight, drawn anew, and what ONNX Runtime makes of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import onnxinit

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
    tensors = {i.name: i.type.tensor_type for i in model.graph.input}
    kinds = {name: helper.tensor_dtype_to_np_dtype(t.elem_type) for name, t in tensors.items()}
    needed = {name: np.zeros([d.dim_value or 2 for d in t.shape.dim], kinds[name]) for name, t in tensors.items()}
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


NUMBERS: dict[str, Any] = {"two": np.float32(2), "half": np.float32(0.5), "eps": np.float32(1e-12)}
KERNELS = {
    "Gemm": ("(float[n,40] x) => (float[n,64] y) {{ {k} y = Gemm <transB = 1> (x, k) }}", (64, 40), 40),
    "MatMul": ("(float[n,64] x) => (float[n,40] y) {{ {k} y = MatMul (x, k) }}", (64, 40), 64),
    "turned": ("(float[n,40] x) => (float[n,64] y) {{ {k} t = Transpose (k) y = MatMul (x, t) }}", (64, 40), 40),
    "Conv": ("(float[n,12,9,9] x) => (float[n,20,7,7] y) {{ {k} y = Conv (x, k) }}", (20, 12, 3, 3), 108),
    "groups": ("(float[n,24,9,9] x) => (float[n,20,7,7] y) {{ {k} y = Conv <group = 2> (x, k) }}", (20, 12, 3, 3), 108),
    "upwards": ("(float[n,20,9,9] x) => (float[n,12,11,11] y) {{ {k} y = ConvTranspose (x, k) }}", (20, 12, 3, 3), 180),
}
