"""Float weights that the graph itself quantises and turns back, as training aware of quantisation exports them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import runs
from onnx import numpy_helper

import onnxinit

Array = npt.NDArray[Any]


def built(text: str, **tensors: Any) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> g {text}')
    model.graph.initializer.extend(numpy_helper.from_array(t, name) for name, t in tensors.items())
    return model


def run(model: onnx.ModelProto | None, **feed: Array) -> Array:
    assert model is not None
    (y,) = runs.run(model, optimised=False, **feed)
    return np.asarray(y, np.float64)


def held(model: onnx.ModelProto | None) -> dict[str, Array]:
    assert model is not None
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


GRAINS = {"tensor": ("", ()), "axis": ("<axis = 1>", (50,)), "block": ("<axis = 0, block_size = 32>", (3, 50))}


def pair(grain: str, dtype: str = "float", codes: type[np.generic] = np.int8, at: int = 0, **more: Any) -> Any:
    attributes, scales = GRAINS[grain]
    kind = {"float": np.float32, "float16": np.float16, "double": np.float64}[dtype]
    text = f"""({dtype}[m,90] x) => ({dtype}[m,50] y) {{ q = QuantizeLinear{attributes}(w, s, z)
        d = DequantizeLinear{attributes}(q, s, z) y = MatMul(x, d) }}"""
    tensors = {"w": np.ones((90, 50), kind), "s": np.full(scales, 1e-3, kind), "z": np.full(scales, at, codes)}
    return built(text, **tensors, **more)


@pytest.mark.parametrize("codes, at", [(np.int8, 0), (np.int8, 5), (np.uint8, 128), (np.uint8, 90), (np.int16, 0)])
@pytest.mark.parametrize("grain", GRAINS)
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_scales_follow_the_weights_that_the_graph_rounds(
    dtype: str, grain: str, codes: type[np.generic], at: int
) -> None:
    result = onnxinit.reinit(pair(grain, dtype, codes, at), scheme="normal:std=0.3", seed=4)
    roles = {w.id: w.role for w in result.weights}
    pointed = at not in (0, 128)
    assert roles == {"w": "weight", "s": "quant_scale"} | ({"z": "quant_zero_point"} if pointed else {})
    new = held(result.model)
    assert new["w"].dtype == (np.float16 if dtype == "float16" else np.float32)
    said = run(result.model, x=np.eye(90, dtype=new["w"].dtype))
    off = np.abs(said - new["w"].astype(np.float64))
    assert off.max() <= new["s"].astype(np.float64).max() * (1.02 if pointed or dtype == "float16" else 0.505)
    assert said.std() == pytest.approx(0.3, rel=0.01 + 5 / np.sqrt(2 * said.size))
    same = onnxinit.reinit(pair(grain, dtype, codes, at), scheme="normal:std=0.3", seed=4, keep_scales=True)
    assert np.array_equal(held(same.model)["w"], new["w"]) and {w.id for w in same.weights} == {"w"}
    assert "drawn within the range of scales that stay" in same.warnings[0]


def test_what_is_kept_keeps_its_scale() -> None:
    model = pair("axis")
    assert not {"s", "w"} & {w.id for w in onnxinit.reinit(model, exclude=["w"], allow_unmatched=True).weights}
    other = pair("tensor")
    other.graph.node[1].input[1] = "t"
    other.graph.initializer.append(numpy_helper.from_array(np.float32(1e-3), "t"))
    assert {w.id for w in onnxinit.reinit(other).weights} == {"w"}  # read with another scale than it is made with


def test_layers_of_rounded_weights_are_scaled() -> None:
    x = np.random.default_rng(0).normal(0, 1, (64, 90)).astype(np.float32)
    result = onnxinit.reinit(pair("axis"), scheme="lsuv:base=he", data={"x": x})
    assert result.signal is not None and [f.status for f in result.signal.layers] == ["set"]
    assert run(result.model, x=x).std() == pytest.approx(1, abs=2e-3)


def test_the_bias_beside_follows_both_scales() -> None:
    text = """(float[m,90] x) => (float[m,50] y) { p = QuantizeLinear(x, sx, z) e = DequantizeLinear(p, sx, z)
        q = QuantizeLinear<axis = 1>(w, s) d = DequantizeLinear<axis = 1>(q, s) c = DequantizeLinear<axis = 0>(b, t)
        y = Gemm(e, d, c) }"""
    model = built(
        text,
        sx=np.array(0.02, np.float32),
        z=np.array(0, np.int8),
        w=np.ones((90, 50), np.float32),
        s=np.full(50, 1e-3, np.float32),
        b=np.ones(50, np.int32),
        t=np.full(50, 2e-5, np.float32),
    )
    model.graph.node[2].attribute.append(onnx.helper.make_attribute("output_dtype", int(onnx.TensorProto.INT8)))
    result = onnxinit.reinit(model, scheme="he", rules="b=normal:std=0.3")
    new = held(result.model)
    np.testing.assert_allclose(new["t"], new["s"] * np.float32(0.02), rtol=1e-6)
    assert (new["b"] * new["t"].astype(np.float64)).std() == pytest.approx(0.3, rel=0.5)
    assert new["s"].max() > 1e-3
