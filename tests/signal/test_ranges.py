"""Scales of quantised activations, measured on data: the quantised network answers as the real one, to a few steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import runs
from graphs import build
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import onnxinit
from onnxinit.errors import SchemeError
from onnxinit.plan import Plan

Array = npt.NDArray[Any]


def run(model: onnx.ModelProto, **feed: Array) -> Array:
    (y,) = runs.run(model, optimised=False, **feed)
    return np.asarray(y, np.float64)


def tensors(model: onnx.ModelProto | None) -> dict[str, Array]:
    assert model is not None
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def real(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network without the rounding of its activations, by hand: what makes codes of signals hands them on."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    held = tensors(wide)
    made = {n.output[0]: n for n in wide.graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in held}
    codes = set(made)
    nodes = []
    for node in wide.graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0] in made:
            zero = held[node.input[2]] if len(node.input) > 2 else np.zeros((), np.uint8)
            relu = zero.dtype.kind in "iu" and zero == np.iinfo(zero.dtype).min and node.input[0] != "x"
            node = helper.make_node("Relu" if relu else "Identity", [node.input[0]], node.output)
        elif node.op_type == "DequantizeLinear" and node.input[0] in codes:
            node = helper.make_node("Identity", [node.input[0]], node.output)
        elif node.op_type in ("MaxPool", "Reshape", "Concat", "Transpose") and node.input[0] in codes:
            codes |= set(node.output)
        nodes.append(node)
    del wide.graph.node[:]
    wide.graph.node.extend(nodes)
    return wide


RNG = np.random.default_rng(0)
X = RNG.normal(1, 3, (64, 20)).astype(np.float32)


def codes(*shape: int, kind: type[np.generic] = np.int8) -> Array:
    return np.random.default_rng(shape).integers(-100, 100, shape).astype(kind)


def pair(name: str, source: str, out: str, zero: bool = True) -> str:
    z = f", z{name}" if zero else ""
    return f"q{name} = QuantizeLinear({source}, s{name}{z}) {out} = DequantizeLinear(q{name}, s{name}{z})"


def points(*names: str, kind: type[np.generic] = np.uint8, at: int = 100, scale: float = 0.001) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for name in names:
        held |= {f"s{name}": np.array(scale, np.float32), f"z{name}": np.array(at, kind)}
    return held


WEIGHT: dict[str, Any] = {"w": codes(20, 30), "sw": np.array(0.1, np.float32), "zw": np.array(0, np.int8)}
ONE_LAYER = f"""(float[n,20] x) => (float[n,30] y) {{
    {pair("x", "x", "d")} v = DequantizeLinear(w, sw, zw) h = MatMul(d, v) {pair("y", "h", "y")}
}}"""


@pytest.mark.parametrize(
    ("kind", "at"),
    [(np.uint8, 100), (np.uint8, 128), (np.int8, 0), (np.int8, 7), (np.int16, 0), (np.uint16, 30000)],
)
def test_scales_follow_the_data_by_the_rule_of_their_type(kind: type[np.generic], at: int) -> None:
    model = build(ONE_LAYER, opset=21, **WEIGHT, **points("x", "y", kind=kind, at=at))
    result = onnxinit.reinit(model, scheme="he", data={"x": X})
    held = tensors(result.model)
    assert result.signal is not None and result.signal.ranges == ("sx", "sy") and not result.signal.layers
    info = np.iinfo(kind)
    middle = (info.max + info.min + 1) // 2
    low, high = float(X.min()), float(X.max())
    if at == middle:
        expected, zero = max(-low, high) / (info.max - middle), middle
    else:
        expected = (high - low) / (info.max - info.min)
        zero = round(info.min - low / expected)
    assert held["sx"] == pytest.approx(expected, rel=1e-6)
    assert held["zx"] == zero
    roles = {w.id: w.role for w in result.weights}
    assert roles["sx"] == "quant_scale" and ("zx" in roles) == (at != middle)
    assert result.model is not None
    off = run(result.model, x=X) - run(real(result.model), x=X)
    inputs = np.abs(tensors(result.model)["w"].astype(float) * held["sw"]).sum(axis=0).max() * held["sx"] / 2
    assert np.abs(off).max() <= inputs + held["sy"]


class Feeds(CalibrationDataReader):
    """Three random inputs that are not those of the test."""

    def __init__(self) -> None:
        self._feeds = iter([{"x": RNG.standard_normal((1, 4, 10, 10)).astype(np.float32) / 50} for _ in range(3)])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


NETWORK = """(float[1,4,10,10] x) => (float[1,12] y) {
    h = Conv<kernel_shape = [3,3]>(x, conv, conv_bias) r = Relu(h) p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(r)
    g = Conv<kernel_shape = [3,3], pads = [1,1,1,1]>(p, second, second_bias) a = Add(g, p) c = Concat<axis = 1>(a, p)
    f = Flatten(c) y = Gemm(f, dense, dense_bias)
}"""
SHAPES = {
    "conv": (8, 4, 3, 3), "conv_bias": (8,), "second": (8, 8, 3, 3), "second_bias": (8,), "dense": (256, 12),
    "dense_bias": (12,),
}  # fmt: skip


def quantised(folder: Path, form: QuantFormat, **options: Any) -> onnx.ModelProto:
    """What the quantiser of ONNX Runtime makes of a network, on data that is fifty times smaller."""
    held: dict[str, Any] = {
        k: np.random.default_rng(1).normal(0, 0.05, s).astype(np.float32) for k, s in SHAPES.items()
    }
    onnx.save(build(NETWORK, **held), folder / "float.onnx")
    quantize_static(folder / "float.onnx", folder / "q.onnx", Feeds(), quant_format=form, **options)
    return onnx.load(folder / "q.onnx")


PHOTOS = np.random.default_rng(7).standard_normal((12, 4, 10, 10)).astype(np.float32)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("activations", [QuantType.QUInt8, QuantType.QInt8], ids=str)
@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator], ids=str)
def test_a_whole_network_answers_as_its_real_one(
    form: QuantFormat, activations: QuantType, per_channel: bool, tmp_path: Path
) -> None:
    """Residual sums, pools and joins among its codes; without the data its values would be cut off at a fiftieth."""
    old = quantised(tmp_path, form, activation_type=activations, weight_type=QuantType.QInt8, per_channel=per_channel)
    rules = ["role:bias=normal:std=0.2"]
    result = onnxinit.reinit(old, scheme="he", rules=rules, data={"x": PHOTOS}, batch_size=1)
    new, before = result.model, onnxinit.reinit(old, scheme="he", rules=rules).model
    assert new is not None and before is not None and result.signal is not None
    onnx.checker.check_model(new)
    wanted = float_answers(tmp_path, new)
    said = np.concatenate([run(new, x=x[None]) for x in PHOTOS])
    stale = np.concatenate([run(before, x=x[None]) for x in PHOTOS])
    assert np.abs(said - wanted).max() < 0.06 * wanted.std()
    assert np.abs(stale - wanted).std() > 0.5 * wanted.std()
    held, paths = tensors(new), {w.id for w in result.weights}
    assert "x_scale" in paths and "x_zero_point" in paths
    if form == QuantFormat.QDQ:
        bias = held["conv_bias_quantized_scale"]
        np.testing.assert_allclose(bias, held["x_scale"] * held["conv_scale"], rtol=1e-6)


def float_answers(folder: Path, new: onnx.ModelProto) -> Array:
    """The float network with the real values that the new model holds; its dequantised weights come from the file."""
    float_model = onnx.load(folder / "float.onnx")
    held = tensors(new)
    for t in float_model.graph.initializer:
        code = held.get(f"{t.name}_quantized")
        if code is None:
            values = held[t.name]
        else:
            bias = t.name.endswith("bias")
            scale = held.get(f"{t.name}_quantized_scale" if bias else f"{t.name}_scale")
            if scale is None or (bias and f"{t.name}_quantized_scale" not in held):  # in units of the two before
                kernel = t.name.removesuffix("_bias")
                source = next(n.input[1] for n in new.graph.node if f"{t.name}_quantized" in n.input)
                scale = held[source] * held[f"{kernel}_scale"]
            zero = 0 if bias else held[f"{t.name}_zero_point"].astype(np.float64)
            along = (-1, *[1] * (code.ndim - 1)) if code.ndim == 4 else (-1,)
            spread = [
                np.asarray(v, np.float64).reshape(along) if np.size(v) > 1 else np.float64(np.max(v))
                for v in (scale, zero)
            ]
            values = (code.astype(np.float64) - spread[1]) * spread[0]
        t.CopyFrom(numpy_helper.from_array(np.asarray(values, np.float32), t.name))
    return np.concatenate([run(float_model, x=x[None]) for x in PHOTOS])


def test_a_plan_repeats_it_without_the_data(tmp_path: Path) -> None:
    old = quantised(tmp_path, QuantFormat.QDQ)
    result = onnxinit.reinit(old, scheme="lsuv", data={"x": PHOTOS}, batch_size=1, metadata=False)
    plan = Plan.from_json(json.loads(json.dumps(result.plan.to_json())))
    again = onnxinit.reinit(old, plan=plan, metadata=False)
    assert result.model is not None and again.model is not None
    assert again.model.SerializeToString() == result.model.SerializeToString()
    assert again.signal is None
    wrong = json.loads(json.dumps(result.plan.to_json()))
    (entry,) = [e for e in wrong["entries"] if e["id"] == "x_scale"]
    del entry["measured"]
    entry["scheme"] = "he"
    with pytest.raises(SchemeError, match="gets values that were measured, or stays"):
        onnxinit.reinit(old, plan=Plan.from_json(wrong))


def test_layers_are_scaled_as_if_nothing_was_cut_off(tmp_path: Path) -> None:
    old = quantised(tmp_path, QuantFormat.QDQ)
    result = onnxinit.reinit(old, scheme="lsuv", data={"x": PHOTOS}, batch_size=1)
    assert result.signal is not None and result.model is not None
    assert all(f.status == "set" for f in result.signal.layers)
    said = np.concatenate([run(result.model, x=x[None]) for x in PHOTOS])
    assert said.std() == pytest.approx(1, abs=0.05)


def test_activations_stay_without_data_and_on_request() -> None:
    model = build(ONE_LAYER, opset=21, **WEIGHT, **points("x", "y"))
    fed: dict[str, Any] = {"data": {"x": X}}
    for options in ({}, fed | {"recalibrate_activations": False}, fed | {"keep_scales": True}):
        result = onnxinit.reinit(model, scheme="he", **options)
        held = tensors(result.model)
        assert (held["sx"], held["zx"]) == (np.float32(0.001), 100)
    made_up = onnxinit.reinit(model, scheme="he", recalibrate_activations=True)
    assert tensors(made_up.model)["sx"] > 0.01
    assert made_up.plan.arguments["recalibrate_activations"] is True
    with pytest.raises(SchemeError, match="--keep-scales leaves what --recalibrate-activations measures"):
        onnxinit.reinit(model, keep_scales=True, recalibrate_activations=True)


def notes(text: str, **held: Any) -> str:
    result = onnxinit.reinit(build(text, opset=21, **held), scheme="he", data={"x": X})
    assert result.signal is not None
    assert not {"sx", "zx"} & {w.id for w in result.weights}
    return "; ".join(result.signal.notes)


def test_what_stays_is_told_with_its_reason() -> None:
    kernel = "v = DequantizeLinear(w, sw, zw)"
    handed = f"(float[n,20] x) => (float[n,30] y, uint8[n,20] qx) {{ {pair('x', 'x', 'd')} {kernel} y = MatMul(d, v) }}"
    assert "sx stays as it was: its codes are handed out by the model" in notes(handed, **WEIGHT, **points("x"))
    other = f"""(float[n,20] x) => (float[n,30] y) {{ qx = QuantizeLinear(x, sx, zx) d = DequantizeLinear(qx, so, zx)
        {kernel} y = MatMul(d, v) }}"""
    said = notes(other, **WEIGHT, **points("x"), so=np.array(0.5, np.float32))
    assert "read with another scale than they are made with" in said
    both = f"""(float[n,20] x) => (float[n,30] y) {{ {pair("x", "x", "d")} v = DequantizeLinear(w, sx, zx)
        y = MatMul(d, v) }}"""
    said = notes(both, w=codes(20, 30), **points("x", kind=np.int8, at=0))
    assert "its scale is that of other codes too" in said or "that of a weight too" in said
    body = "k2 = Identity(k) " + pair("x", "s", "d") + " o = MatMul(d, v)"
    loop = f"""(float[n,20] x) => (float[n,20] y) {{ {kernel} m = Constant<value = int64 {{2}}>()
        c = Constant<value = bool {{1}}>() y = Loop(m, c, x) <
            body = g (int64 i, bool k, float[n,20] s) => (bool k2, float[n,20] o) {{ {body} }} > }}"""
    assert "made inside a loop or a branch" in notes(loop, **WEIGHT | {"w": codes(20, 20)}, **points("x"))
    used = f"(float[n,20] x) => (float[n,30] y) {{ {pair('x', 'x', 'd')} {kernel} h = MatMul(d, v) y = Mul(h, sx) }}"
    assert "its scale is used elsewhere" in notes(used, **WEIGHT, **points("x"))


def test_a_bias_that_stays_holds_the_scale_of_its_input() -> None:
    text = f"""(float[n,20] x) => (float[n,30] y) {{ {pair("x", "x", "d")} v = DequantizeLinear(w, sw, zw)
        c = DequantizeLinear(b, sb) y = Gemm(d, v, c) }}"""
    held: dict[str, Any] = {"b": np.full(30, 5, np.int32), "sb": np.array(1e-4, np.float32)}
    model = build(text, opset=21, **WEIGHT, **points("x", scale=1e-3), **held)
    moved = onnxinit.reinit(model, scheme="he", data={"x": X}, rules="b=normal:std=0.1")
    new = tensors(moved.model)
    assert new["sb"] == pytest.approx(new["sx"] * new["sw"], rel=1e-6)
    assert (new["b"] * new["sb"].astype(float)).std() == pytest.approx(0.1, rel=0.4)
    stays = onnxinit.reinit(model, scheme="he", data={"x": X}, exclude=["b"])
    assert tensors(stays.model)["sx"] == np.float32(1e-3) and tensors(stays.model)["sb"] == np.float32(1e-4)
    assert stays.signal is not None
    assert any("part of the scale of a bias that stays" in note for note in stays.signal.notes)


def test_a_quantiser_that_stands_for_a_relu_stays_one() -> None:
    """Quantisers take ReLUs out where codes begin at zero: the range ends there whatever the data."""
    held = WEIGHT | points("x", at=100) | points("y", at=0, scale=0.2)
    new = tensors(onnxinit.reinit(build(ONE_LAYER, opset=21, **held), scheme="he", data={"x": X}).model)
    assert new["zy"] == 0
    h = X.astype(np.float64) @ (new["w"].astype(np.float64) * new["sw"])
    assert new["sy"] == pytest.approx(h.max() / 255, rel=1e-3)
    assert h.min() < -1
    held |= points("y", at=0, scale=6 / 255)
    capped = tensors(onnxinit.reinit(build(ONE_LAYER, opset=21, **held), scheme="he", data={"x": X}).model)
    assert capped["sy"] == pytest.approx(6 / 255, rel=1e-6) and h.max() > 6


def test_zero_points_that_many_share_stay() -> None:
    text = ONE_LAYER.replace("zy", "zx")
    held: dict[str, Any] = points("x", at=10, kind=np.int8) | {"sy": np.array(1, np.float32)}
    new = tensors(onnxinit.reinit(build(text, opset=21, **WEIGHT, **held), scheme="he", data={"x": X}).model)
    assert new["zx"] == 10
    assert new["sx"] == pytest.approx(max(X.max() / 117, -X.min() / 138), rel=1e-6)


def test_activations_of_8_bit_floats() -> None:
    zero = helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, (), [0.0])
    text = ONE_LAYER.replace("zx", "z").replace("zy", "z")
    model = build(text, opset=21, **WEIGHT, sx=np.array(1e-5, np.float32), sy=np.array(1e-5, np.float32), check=False)
    model.graph.initializer.append(zero)
    result = onnxinit.reinit(model, scheme="he", data={"x": X})
    assert tensors(result.model)["sx"] == pytest.approx(np.abs(X).max() / 448, rel=1e-6)
    assert result.model is not None
    y = run(result.model, x=X)
    wanted = run(real(result.model), x=X)
    assert np.abs(y - wanted).std() < 0.06 * wanted.std()


def test_moments_are_those_without_stale_ranges() -> None:
    """Analytic gains go by what the network will do with the ranges that are measured after them."""
    model = build(
        f"""(float[n,20] x) => (float[n,30] y) {{ {pair("x", "x", "d")} v = DequantizeLinear(w, sw, zw) h = MatMul(d, v)
        {pair("y", "h", "g")} u = DequantizeLinear(t, st, zw) y = MatMul(g, u) }}""",
        opset=21,
        **WEIGHT,
        **points("x", "y"),
        t=codes(30, 30),
        st=np.array(0.1, np.float32),
    )
    x = np.random.default_rng(3).standard_normal((256, 20)).astype(np.float32)
    new = onnxinit.reinit(model, scheme="analytic", data={"x": x}, input_mean=0.0, input_var=1.0).model
    assert new is not None
    assert run(new, x=x).std() == pytest.approx(1, rel=0.15)
    stale = onnxinit.reinit(model, scheme="analytic", input_mean=0.0, input_var=1.0)
    assert max(e.gain for e in stale.plan.entries if isinstance(e.gain, float)) > 5
