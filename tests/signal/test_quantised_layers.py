"""LSUV of quantised layers: what the written codes and scales give, run whole in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import build
from oracle import normal, run

import onnxinit

X = "q = QuantizeLinear (x, sx, zx)"
SCALES: dict[str, Any] = {
    "sx": np.asarray(0.04, np.float32),
    "zx": np.asarray(3, np.int8),
    "sy": np.asarray(0.05, np.float32),
    "zy": np.asarray(0, np.int8),
}
ROUNDING = 2e-3  # rounding to steps of 0.05 adds 0.05^2 / 12 to a variance of 1; int8 weights move a std by less


def codes(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(-100, 100, shape).astype(np.int8)


def made(text: str, feed: dict[str, Any], **tensors: Any) -> tuple[onnxinit.Result, Any]:
    result = onnxinit.reinit(build(text, **tensors), scheme="lsuv:base=he", data=feed, batch_size=64)
    assert result.model is not None and result.signal is not None
    assert {(f.id, f.status) for f in result.signal.layers} == {("w", "set")}
    return result, run(result.model, feed)["y"]


@pytest.mark.parametrize("channels", [False, True])
def test_qlinear_conv(channels: bool) -> None:
    text = f"""(float[n, 4, 9, 9] x) => (float[n, 6, 7, 7] y) {{
        {X}
        c = QLinearConv (q, sx, zx, w, sw, zw, sy, zy, b)
        y = DequantizeLinear (c, sy, zy)
    }}"""
    per = (6,) if channels else ()
    tensors = SCALES | {"w": codes(6, 4, 3, 3), "sw": np.full(per, 0.01, np.float32), "zw": np.zeros(per, np.int8)}
    _, y = made(text, {"x": normal(8, 4, 9, 9)}, **tensors, b=np.zeros(6, np.int32))
    assert y.std() == pytest.approx(1, abs=ROUNDING)


def test_qlinear_matmul() -> None:
    text = f"""(float[n, 24] x) => (float[n, 10] y) {{
        {X}
        c = QLinearMatMul (q, sx, zx, w, sw, zw, sy, zy)
        y = DequantizeLinear (c, sy, zy)
    }}"""
    tensors = SCALES | {"w": codes(24, 10), "sw": np.asarray(0.01, np.float32), "zw": np.asarray(0, np.int8)}
    _, y = made(text, {"x": normal(64, 24)}, **tensors)
    assert y.std() == pytest.approx(1, abs=5 * ROUNDING)


def test_qgemm_without_a_quantised_output() -> None:
    text = f"""(float[n, 24] x) => (float[n, 10] y) {{
        {X}
        y = com.microsoft.QGemm (q, sx, zx, w, sw, zw, b)
    }}"""
    tensors = SCALES | {"w": codes(24, 10), "sw": np.asarray(0.01, np.float32), "zw": np.asarray(0, np.int8)}
    _, y = made(text, {"x": normal(64, 24)}, **tensors, b=np.zeros(10, np.int32))
    assert y.std() == pytest.approx(1, abs=ROUNDING)


def test_quantise_pairs() -> None:
    text = f"""(float[n, 24] x) => (float[n, 10] y) {{
        {X}
        d = DequantizeLinear (q, sx, zx)
        v = DequantizeLinear <axis = 1> (w, sw, zw)
        y = MatMul (d, v)
    }}"""
    tensors = SCALES | {"w": codes(24, 10), "sw": np.full(10, 0.01, np.float32), "zw": np.zeros(10, np.int8)}
    _, y = made(text, {"x": normal(64, 24)}, **tensors)
    assert y.std() == pytest.approx(1, abs=ROUNDING)


def test_an_integer_product_is_measured_with_its_scale() -> None:
    text = """(float[n, 24] x) => (float[n, 10] y) {
        q, sx, zx = DynamicQuantizeLinear (x)
        p = MatMulInteger (q, w, zx, zw)
        f = Cast <to = 1> (p)
        s = Mul (sx, sw)
        y = Mul (f, s)
    }"""
    tensors = {"w": codes(24, 10), "sw": np.asarray(0.01, np.float32), "zw": np.asarray(0, np.int8)}
    _, y = made(text, {"x": normal(64, 24)}, **tensors)
    assert y.std() == pytest.approx(1, abs=ROUNDING)


def test_dynamic_quantise_matmul() -> None:
    text = """(float[n, 24] x) => (float[n, 10] y) {
        y = com.microsoft.DynamicQuantizeMatMul (x, w, sw, zw)
    }"""
    tensors = {"w": codes(24, 10), "sw": np.asarray(0.01, np.float32), "zw": np.asarray(0, np.int8)}
    _, y = made(text, {"x": normal(64, 24)}, **tensors)
    assert y.std() == pytest.approx(1, abs=5 * ROUNDING)
