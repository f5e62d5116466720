"""Quantised models, made by ONNX Runtime's quantisers or by hand, drawn anew, and what ONNX Runtime makes of them."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as Missing
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

import onnxinit
from onnxinit.errors import SchemeError
from onnxinit.model import ModelFile
from onnxinit.plan import Plan
from onnxinit.report.written import measure

Array = npt.NDArray[Any]
MODELS = Path(__file__).parent.parent / "models"

NETWORK = """<ir_version: 8, opset_import: ["": 17]>
g (float[1,8,12,12] x) => (float[1,30] y) {
  h = Conv<kernel_shape = [3,3]>(x, conv, conv_bias) r = Relu(h) f = Flatten(r) m = MatMul(f, dense)
  y = Add(m, dense_bias)
}"""


def network() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(NETWORK)
    shapes = {"conv": (40, 8, 3, 3), "conv_bias": (40,), "dense": (4000, 30), "dense_bias": (30,)}
    for name, shape in shapes.items():
        values = rng.normal(0.003, 0.01, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


class Feeds(CalibrationDataReader):
    """Three random inputs."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self._feeds: Iterator[dict[str, Array]] = iter(
            [{"x": rng.standard_normal((1, 8, 12, 12), np.float32)} for _ in range(3)]
        )

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def session_of(model: onnx.ModelProto, *, as_written: bool = False) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, **feed: Array) -> Array:
    (result,) = session_of(model).run(None, feed)
    return np.asarray(result)


def arrays(model: onnx.ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def dequantised(model: onnx.ModelProto, name: str) -> Array:
    """What ONNX Runtime makes of a tensor that a DequantizeLinear reads."""
    (node,) = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == name]
    held = [t for t in model.graph.initializer if t.name in node.input]
    scale = next(t for t in held if t.name == node.input[1])
    out = helper.make_tensor_value_info("out", scale.data_type, None)
    alone = helper.make_node("DequantizeLinear", node.input, ["out"], domain=node.domain)
    alone.attribute.extend(node.attribute)
    graph = helper.make_graph([alone], "g", [], [out], held)
    (values,) = session_of(
        helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version), as_written=True
    ).run(None, {})
    return np.asarray(values, np.float64)


def assert_std(values: Array, asked: float | None) -> None:
    """Within 2 % for the rounding to codes, and 5 standard errors."""
    assert asked is not None
    assert values.std() == pytest.approx(asked, rel=0.02 + 5 / np.sqrt(2 * values.size))
    assert abs(values.mean()) < 5 * asked / np.sqrt(values.size) + 0.02 * asked


def drawn(model: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, onnxinit.Result]:
    result = onnxinit.reinit(model, **{"scheme": "he", "seed": 3, **options})
    assert result.model is not None
    onnx.checker.check_model(result.model)
    return result.model, result


def entries(result: onnxinit.Result) -> dict[str, Any]:
    return {e.id: e for e in result.plan.entries}


def static(folder: Path, form: QuantFormat, **options: Any) -> onnx.ModelProto:
    onnx.save(network(), folder / "float.onnx")
    quantize_static(folder / "float.onnx", folder / "q.onnx", Feeds(), quant_format=form, **options)
    return onnx.load(folder / "q.onnx")


def needs(old: onnx.ModelProto, **feed: Array) -> None:
    """Skip where this release of ONNX Runtime does not run the model as it was."""
    try:
        run(old, **feed)
    except (Missing, RuntimeException) as error:
        pytest.skip(f"ONNX Runtime: {error}"[:200])


FEED = np.random.default_rng(5).standard_normal((1, 8, 12, 12), np.float32)


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8, QuantType.QInt16], ids=str)
@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator], ids=str)
def test_models_of_quantize_static(form: QuantFormat, per_channel: bool, kind: QuantType, tmp_path: Path) -> None:
    if kind == QuantType.QInt16 and form == QuantFormat.QOperator:
        pytest.skip("no operators for it")
    wide = kind == QuantType.QInt16
    activations = QuantType.QInt16 if wide else QuantType.QUInt8
    old = static(tmp_path, form, per_channel=per_channel, weight_type=kind, activation_type=activations)
    new, result = drawn(old)
    roles = {w.id: w.role for w in result.weights}
    kernels = {w.id: w for w in result.weights if w.role == "weight"}
    assert sorted(w.shape for w in kernels.values()) == [(40, 8, 3, 3), (4000, 30)]
    assert sorted((w.fan_in, w.fan_out) for w in kernels.values()) == [(72, 360), (4000, 30)]
    values = arrays(new)
    for ident, weight in kernels.items():
        scale = values[ident.replace("_quantized", "_scale")].astype(np.float64)
        zero = values[ident.replace("_quantized", "_zero_point")].astype(np.float64)
        along = (-1, 1, 1, 1) if len(weight.shape) == 4 else (1, -1)
        real = (values[ident].astype(np.float64) - zero.reshape(along)) * scale.reshape(along)
        assert_std(real, entries(result)[ident].std)
        if form == QuantFormat.QDQ:
            np.testing.assert_allclose(dequantised(new, ident), real, rtol=1e-5, atol=1e-9)
        assert roles[ident.replace("_quantized", "_scale")] == "quant_scale"
        codes = np.abs(values[ident].astype(np.int64) - zero.reshape(along).astype(np.int64))
        assert codes.max() >= 127  # the range is used
    needs(old, x=FEED)
    assert np.isfinite(run(new, x=FEED)).all()
    old_values = arrays(old)
    moved = {w.id for w in result.weights}
    assert all(np.array_equal(values[name], old_values[name]) for name in values.keys() - moved)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8], ids=str)
def test_a_range_of_seven_bits_stays_one(kind: QuantType, per_channel: bool, symmetric: bool, tmp_path: Path) -> None:
    """Kernels that add products in 16 bits need it; the plan says so, also where the codes are not there."""
    options: dict[str, Any] = {"extra_options": {"WeightSymmetric": symmetric}, "activation_type": QuantType.QUInt8}
    old = static(tmp_path, QuantFormat.QDQ, per_channel=per_channel, weight_type=kind, reduce_range=True, **options)
    new, result = drawn(old)
    before, held = arrays(old), arrays(new)
    for name in ("conv_quantized", "dense_quantized"):
        codes, zero = held[name].astype(int), held[name.replace("_quantized", "_zero_point")].astype(int)
        assert_std(dequantised(new, name), entries(result)[name].std)
        least, most = (-64, 64) if kind == QuantType.QInt8 else (0, 128)
        assert least <= codes.min() and codes.max() <= most
        assert max(most - codes.max(), codes.min() - least) <= 64 and min(most - codes.max(), codes.min() - least) <= 1
        if symmetric:
            assert set(zero.flat) == set(before[name.replace("_quantized", "_zero_point")].astype(int).flat)
    plan = Plan.from_json(json.loads(json.dumps(result.plan.to_json())))
    full = onnx.ModelProto()
    full.CopyFrom(old)
    for t in full.graph.initializer:  # as if nothing told the habit
        if t.name.endswith("conv_quantized"):
            t.CopyFrom(numpy_helper.from_array(np.full(t.dims, 127, before[t.name].dtype), t.name))
    again = onnxinit.reinit(full, plan=plan).model
    assert again is not None
    np.testing.assert_array_equal(arrays(again)["conv_quantized"], held["conv_quantized"])


def test_a_qdq_model_answers_as_its_real_values_do(tmp_path: Path) -> None:
    """With biases too: their scale is the product of those of the layer's input and its kernel."""
    old = static(tmp_path, QuantFormat.QDQ, per_channel=True)
    new, result = drawn(old, rules=["role:bias=normal:std=0.2"])
    values = arrays(new)
    np.testing.assert_allclose(values["conv_bias_quantized_scale"], values["x_scale"] * values["conv_scale"], rtol=1e-6)
    assert_std(dequantised(new, "conv_bias_quantized"), entries(result)["conv_bias_quantized"].std)
    took_over = all(n.op_type != "Relu" for n in new.graph.node)  # the quantiser clips at zero, which is gone below
    real = onnx.parser.parse_model(NETWORK.replace("Relu", "Identity") if took_over else NETWORK)
    dense_bias = dequantised(new, "dense_bias_quantized") if "dense_bias_quantized" in values else values["dense_bias"]
    held = {"conv": dequantised(new, "conv_quantized"), "conv_bias": dequantised(new, "conv_bias_quantized"),
            "dense": dequantised(new, "dense_quantized"), "dense_bias": dense_bias}  # fmt: skip
    real.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in held.items())
    wide = onnx.ModelProto()
    wide.CopyFrom(new)
    del wide.graph.node[:]
    wide.graph.node.extend(n for n in new.graph.node if n.op_type != "QuantizeLinear")
    fed = {n.output[0]: n.input[0] for n in new.graph.node if n.op_type == "QuantizeLinear"}
    kept = []
    for node in wide.graph.node:  # take the quantisers of activations out
        if node.op_type == "DequantizeLinear" and node.input[0] in fed:
            node = helper.make_node("Identity", [fed[node.input[0]]], node.output)
        kept.append(node)
    del wide.graph.node[:]
    wide.graph.node.extend(kept)
    (said,) = session_of(wide, as_written=True).run(None, {"x": FEED})  # optimised, it would multiply integers
    np.testing.assert_allclose(said, run(real, x=FEED), rtol=1e-4, atol=1e-4)


def test_models_of_quantize_dynamic(tmp_path: Path) -> None:
    """An input of ones and zeros is quantised without loss, so that the layer hands out the weight itself."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[n,60] x) => (float[n,80] y) { y = MatMul(x, w) }"""
    )
    model.graph.initializer.append(
        numpy_helper.from_array(np.random.default_rng(0).normal(0, 9, (60, 80)).astype(np.float32), "w")
    )
    onnx.save(model, tmp_path / "float.onnx")
    for per_channel, kind in itertools.product((False, True), (QuantType.QInt8, QuantType.QUInt8)):
        quantize_dynamic(tmp_path / "float.onnx", tmp_path / "q.onnx", per_channel=per_channel, weight_type=kind)
        new, result = drawn(onnx.load(tmp_path / "q.onnx"))
        roles = {w.id: w.role for w in result.weights}
        assert roles["w_scale"] == "quant_scale"
        assert roles["w_quantized"] == "weight"
        assert_std(run(new, x=np.eye(60, dtype=np.float32)), entries(result)["w_quantized"].std)


def by_hand(text: str, opset: int = 21, **tensors: Array | onnx.TensorProto) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]> g {text}')
    model.graph.initializer.extend(
        t if isinstance(t, onnx.TensorProto) else numpy_helper.from_array(t, name) for name, t in tensors.items()
    )
    return model


@pytest.mark.parametrize("scales", [np.float32, np.float16])
@pytest.mark.parametrize("bits, centred", [(4, True), (4, False), (8, True), (8, False)])
@pytest.mark.parametrize("blocks", [3, 4])
def test_matmul_of_packed_bits(bits: int, centred: bool, blocks: int, scales: type[np.floating]) -> None:
    """The identity times it is the weight; blocks of one row have a scale and a zero point each."""
    n, k = 50, 32 * blocks
    name = "float" if scales is np.float32 else "float16"
    rng = np.random.default_rng(0)
    tensors = {
        "w": rng.integers(0, 256, (n, blocks, 32 * bits // 8)).astype(np.uint8),
        "s": rng.uniform(1, 2, (n, blocks)).astype(scales),
    }
    if not centred:
        tensors["z"] = rng.integers(0, 256, (n, -(-blocks * bits // 8))).astype(np.uint8)
    model = by_hand(
        f"({name}[m,{k}] x) => ({name}[m,{n}] y) {{ y = com.microsoft.MatMulNBits"
        f"<K = {k}, N = {n}, bits = {bits}, block_size = 32>(x, w, s{'' if centred else ', z'}) }}",
        **tensors,
    )
    new, result = drawn(model, scheme="normal:std=0.1")
    (weight,) = [w for w in result.weights if w.role == "weight"]
    assert (weight.fan_in, weight.fan_out) == (k, n)
    assert {w.id for w in result.weights} == set(tensors)
    real = run(new, x=np.eye(k, dtype=scales)).astype(np.float64)
    assert_std(real, 0.1)


def codes(kind: int, shape: tuple[int, ...], name: str = "q", fill: int = 1) -> onnx.TensorProto:
    """A tensor of a type of codes, all the same."""
    return helper.make_tensor(name, kind, shape, np.full(shape, fill).reshape(-1).tolist())


FORMS = {
    "one scale": ("", (), (90, 50), None),
    "axis 0": ("<axis = 0>", (90,), (90, 50), None),
    "axis 1": ("<axis = 1>", (50,), (90, 50), None),
    "axis -1": ("<axis = -1>", (50,), (90, 50), None),
    "blocks along 0": ("<axis = 0, block_size = 16>", (6, 50), (90, 50), None),
    "blocks along 1": ("<axis = 1, block_size = 25>", (90, 2), (90, 50), None),
    "transposed after": ("<axis = 0>", (50,), (50, 90), "after"),
    "transposed before": ("<axis = 1>", (50,), (50, 90), "before"),
}


@pytest.mark.parametrize("kind", ["INT8", "UINT8", "INT4", "UINT4", "INT16", "UINT16", "FLOAT8E4M3FN", "FLOAT8E5M2"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_dequantize_linear(form: str, kind: str) -> None:
    attributes, scales, shape, turned = FORMS[form]
    number = int(getattr(TensorProto, kind))
    before, stored = ("t = Transpose(q)", "t") if turned == "before" else ("", "q")
    after = "w = Transpose(d)" if turned == "after" else "w = Identity(d)"
    model = by_hand(
        f"(float[m,90] x) => (float[m,50] y) {{ {before} d = DequantizeLinear{attributes}({stored}, s, z)"
        f" {after} y = MatMul(x, w) }}",
        q=codes(number, shape),
        s=np.full(scales, 7.0, np.float32),
        z=codes(number, scales, "z", fill=0 if "FLOAT" in kind else 1),
    )
    new, result = drawn(model)
    assert {w.id: w.role for w in result.weights if w.id != "z"} == {"q": "weight", "s": "quant_scale"}
    (weight,) = [w for w in result.weights if w.id == "q"]
    assert (weight.fan_in, weight.fan_out) == (90, 50)
    (real,) = session_of(new, as_written=True).run(None, {"x": np.eye(90, dtype=np.float32)})
    assert_std(np.asarray(real, np.float64), np.sqrt(2 / 90))
    fitted = arrays(new)["s"].reshape(-1)
    assert len(set(fitted)) == fitted.size  # each scale is its own channel's or block's


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "double"])
def test_scales_of_other_types(kind: str) -> None:
    """The codes are made with the scale as it is rounded to its type."""
    number = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16, "double": TensorProto.DOUBLE}[kind]
    model = by_hand(
        f"({kind}[m,90] x) => ({kind}[m,50] y) {{ w = DequantizeLinear<axis = 1>(q, s) y = MatMul(x, w) }}",
        opset=23,
        q=codes(TensorProto.INT8, (90, 50)),
        s=helper.make_tensor("s", number, (50,), [7.0] * 50),
    )
    if kind == "double":  # beyond the specification, and yet read
        result = onnxinit.reinit(model, scheme="he")
        assert result.model is not None
        new = result.model
    else:
        new, _ = drawn(model)
    held = arrays(new)
    real = held["q"].astype(np.float64) * held["s"].astype(np.float64)
    assert_std(real, np.sqrt(2 / 90))
    assert np.abs(held["q"].astype(int)).max(axis=0).min() == 127


def test_without_a_zero_point_unsigned_codes_hold_no_negative_values() -> None:
    text = "(float[m,9] x) => (float[m,5] y) { w = DequantizeLinear(q, s) y = MatMul(x, w) }"
    model = by_hand(text, q=codes(TensorProto.UINT8, (9, 5)), s=np.array(1, np.float32))
    result = onnxinit.reinit(model)
    assert not result.weights
    assert {k.id: k.reason for k in result.kept}["q"] == (
        "a quantised weight of MatMul, whose values this version does not draw: it is unsigned and has no zero point, "
        "so that it holds no negative values"
    )


@pytest.mark.parametrize(
    "node, z",
    [
        ("DequantizeLinear(q, s, z)", np.ones((), np.int8)),  # of another type
        ("DequantizeLinear<axis = 7>(q, t)", np.ones((), np.uint8)),
        ("DequantizeLinear<axis = 0, block_size = 4>(q, t)", np.ones((), np.uint8)),
        ("DequantizeLinear(q, z, z)", np.ones((), np.uint8)),
    ],
)
def test_what_does_not_fit_is_kept(node: str, z: Array) -> None:
    text = f"(float[m,9] x) => (float[m,5] y) {{ w = {node} y = MatMul(x, w) }}"
    scales = {"s": np.array(1, np.float32), "t": np.ones(3, np.float32)}
    result = onnxinit.inspect(by_hand(text, q=codes(TensorProto.UINT8, (9, 5)), z=z, **scales))
    assert not result.weights
    assert {k.id: k.reason for k in result.kept}["q"].startswith("a quantised weight of MatMul")


TWO = """(float[m,60] x) => (float[m,40] y) { a = DequantizeLinear(p, s) b = DequantizeLinear(q, %s)
h = MatMul(x, a) %s y = MatMul(h, b) }"""


def two(second: str = "t", between: str = "", **more: Array) -> onnx.ModelProto:
    return by_hand(
        TWO % (second, between),
        p=codes(TensorProto.INT8, (60, 60), "p"),
        q=codes(TensorProto.INT8, (60, 40)),
        s=np.array(0.01, np.float32),
        **({} if second == "s" else {"t": np.array(0.02, np.float32)}),
        **more,
    )


def test_a_scale_of_two_weights_is_the_larger_ones() -> None:
    new, result = drawn(two("s"), rules=["p=normal:std=0.1", "q=normal:std=0.3"])
    assert entries(result)["s"].why == "refit to p, q"
    held = arrays(new)
    assert held["s"] == pytest.approx(4 * 0.3 / 127, rel=0.3)
    assert (np.abs(held["p"].astype(int)).max(), np.abs(held["q"].astype(int)).max()) == (
        pytest.approx(43, abs=12),
        127,
    )
    assert_std(held["p"] * np.float64(held["s"]), 0.1)
    assert_std(held["q"] * np.float64(held["s"]), 0.3)


def test_a_scale_of_a_kept_weight_stays() -> None:
    new, result = drawn(two("s"), exclude=["p"], scheme="normal:std=0.3")
    assert [w.id for w in result.weights] == ["q"]
    held = arrays(new)
    assert held["s"] == np.float32(0.01)
    assert (held["p"] == 1).all()
    real = held["q"] * 0.01
    assert real.std() == pytest.approx(0.3, rel=0.05)  # four deviations fit into the old range
    assert result.warnings[-1] == (
        "1 quantised weight is drawn within the range of scales that stay, which cuts off what lies beyond it: q"
    )


@pytest.mark.parametrize("keep", [{"rules": ["role:quant_scale=keep"]}, {"exclude": ["role:quant_*"]}])
def test_scales_are_kept_on_request(keep: dict[str, list[str]]) -> None:
    new, result = drawn(two(), **keep)
    assert [w.id for w in result.weights] == ["p", "q"]
    old, held = arrays(two()), arrays(new)
    assert (held["s"], held["t"]) == (old["s"], old["t"])
    real = held["p"] * 0.01
    assert real.std() == pytest.approx(entries(result)["p"].std, rel=0.06)
    wide = onnxinit.reinit(two(), rules=["role:quant_scale=keep", "p=normal:std=9"]).model
    assert wide is not None
    assert set(np.unique(arrays(wide)["p"])) <= {*range(-128, 128)}
    assert arrays(wide)["p"].min() == -128 and arrays(wide)["p"].max() == 127


def test_weights_follow_no_rule_of_their_scales() -> None:
    _, result = drawn(two(), rules=["*=normal:std=0.1"])
    assert {e.id: str(e.scheme) for e in result.plan.entries} == {
        "p": "normal:std=0.1", "q": "normal:std=0.1", "s": "refit", "t": "refit"
    }  # fmt: skip


def test_a_scale_of_activations_too_stays() -> None:
    """Its range is not the weight's to change."""
    model = two(between="c = QuantizeLinear(h, t, z) d = DequantizeLinear(c, t, z) e = Relu(d)", z=np.array(0, np.int8))
    model.graph.node[-1].input[0] = "e"
    result = onnxinit.reinit(model, scheme="he")
    assert {e.id for e in result.plan.entries} == {"p", "q", "s"}
    assert {k.id: k.reason for k in result.kept}["t"] == "a scale of quantised values"
    assert result.warnings[-1].startswith("1 quantised weight is drawn within the range of scales that stay")


def test_zeros_have_a_scale() -> None:
    new, _ = drawn(two(), scheme="zeros")
    held = arrays(new)
    assert not held["p"].any() and held["s"] == 1
    assert not run(new, x=np.ones((2, 60), np.float32)).any()


LOOK_UP = "(int64[2,3] i) => (float[2,3,32] y) { e = Gather(w, i) y = DequantizeLinear(e, s, z) }"


def test_a_table_that_is_looked_up_in_keeps_its_range() -> None:
    model = by_hand(
        LOOK_UP, w=codes(TensorProto.UINT8, (500, 32), "w"), s=np.array(0.02, np.float32), z=np.array(117, np.uint8)
    )
    new, result = drawn(model)
    assert [(w.id, w.role) for w in result.weights] == [("w", "embedding")]
    table = (arrays(new)["w"].astype(np.float64) - 117) * np.float32(0.02)
    assert_std(table, np.sqrt(1 / 32))
    index = np.array([[1, 7, 400], [0, 0, 499]])
    np.testing.assert_allclose(run(new, i=index), table[index], rtol=1e-6)


def test_products_of_integers_have_their_scale_behind_them() -> None:
    """ConvInteger with a scale for each channel, in the product of two scales and as a factor of its own."""
    ways = ("f = Mul(a, s) y = Mul(c, f)", "f = Mul(c, a) y = Mul(f, s)", "f = Mul(s, a) y = Mul(f, c)")
    for behind in ways:
        model = by_hand(
            "(float[n,4,6,6] x) => (float[n,30,4,4] y) { u, a, b = DynamicQuantizeLinear(x) h = ConvInteger(u, q, b)"
            f" c = Cast<to = 1>(h) {behind} }}",
            q=codes(TensorProto.INT8, (30, 4, 3, 3)),
            s=np.full((30, 1, 1), 9, np.float32),
        )
        feed = np.random.default_rng(0).standard_normal((1, 4, 6, 6), np.float32)
        needs(model, x=feed)
        new, result = drawn(model)
        assert {w.id: w.role for w in result.weights} == {"q": "weight", "s": "quant_scale"}
        held = arrays(new)
        assert held["s"].shape == (30, 1, 1)
        assert len(np.unique(held["s"])) == 30
        assert_std(held["q"] * held["s"].astype(np.float64)[..., None], np.sqrt(2 / 36))
        assert np.isfinite(run(new, x=feed)).all()


@pytest.mark.parametrize("behind", ["f = Mul(sx, s) y = Mul(c, f)", "f = Mul(c, sx) y = Mul(f, s)"])
def test_products_of_integers_between_two_stored_scales(behind: str) -> None:
    """That of the input's quantiser is none of the weight's."""
    model = by_hand(
        "(float[n,60] x) => (float[n,30] y) { u = QuantizeLinear(x, sx, z) h = MatMulInteger(u, q, z)"
        f" c = Cast<to = 1>(h) {behind} }}",
        q=codes(TensorProto.INT8, (60, 30)),
        sx=np.array(1 / 127, np.float32),
        z=np.array(128, np.uint8),
        s=np.full(30, 9, np.float32),
    )
    new, result = drawn(model)
    assert {w.id: w.role for w in result.weights} == {"q": "weight", "s": "quant_scale"}
    assert_std(run(new, x=np.eye(60, dtype=np.float32)).astype(np.float64), np.sqrt(2 / 60))
    assert arrays(new)["sx"] == np.float32(1 / 127)


def test_the_bias_of_a_quantised_convolution_is_in_units_of_its_scales() -> None:
    one, zero = np.array(0.01, np.float32), np.array(128, np.uint8)
    model = by_hand(
        "(uint8[n,4,6,6] x) => (uint8[n,30,4,4] y) { y = QLinearConv(x, s, z, q, t, v, s, z, b) }",
        opset=17,
        s=one,
        z=zero,
        q=codes(TensorProto.INT8, (30, 4, 3, 3)),
        t=np.full(30, 3, np.float32),
        v=np.zeros(30, np.int8),
        b=np.ones(30, np.int32),
    )
    new, result = drawn(model, rules=["b=normal:std=0.5"])
    held = arrays(new)
    assert {w.id: w.role for w in result.weights} == {"q": "weight", "t": "quant_scale", "b": "bias"}
    real = held["b"] * (np.float64(held["s"]) * held["t"].astype(np.float64))
    assert real.std() == pytest.approx(0.5, rel=5 / np.sqrt(60))
    (bias,) = [w for w in result.weights if w.id == "b"]
    assert bias.fan_in == 36
    _, held_back = drawn(model, exclude=["b"])  # its codes would mean other values
    assert [w.id for w in held_back.weights] == ["q"]


def test_plans_rebuild_quantised_models_to_the_byte() -> None:
    _, result = drawn(two("s"), seed=5)
    plan = Plan.from_json(json.loads(json.dumps(result.plan.to_json())))
    again = onnxinit.reinit(two("s"), plan=plan, metadata=False, threads=1).model
    once = onnxinit.reinit(two("s"), scheme="he", seed=5, metadata=False, threads=2).model
    assert again is not None and once is not None
    assert again.SerializeToString() == once.SerializeToString()
    fewer = Plan(plan.seed, plan.stream, tuple(e for e in plan.entries if e.id != "s"))
    held = onnxinit.reinit(two("s"), plan=fewer).model
    assert held is not None
    assert arrays(held)["s"] == np.float32(0.01)


def test_the_report_measures_the_real_values(tmp_path: Path) -> None:
    onnx.save(
        by_hand(
            "(float[m,90] x) => (float[m,50] y) { w = DequantizeLinear<axis = 0, block_size = 30>(q, s) "
            "y = MatMul(x, w) }",
            q=codes(TensorProto.INT4, (90, 50)),
            s=np.ones((3, 50), np.float32),
        ),
        tmp_path / "m.onnx",
    )
    result = onnxinit.reinit(tmp_path / "m.onnx", tmp_path / "n.onnx", scheme="he")
    written = {w.id: w for w in measure(ModelFile.open(tmp_path / "n.onnx"), result.plan, result.weights)}
    assert written["q"].std == pytest.approx(np.sqrt(2 / 90), rel=0.02 + 5 / np.sqrt(9000))
    assert written["q"].std_asked == pytest.approx(np.sqrt(2 / 90))
    assert (written["s"].scheme, written["s"].std_asked) == ("refit", None)
    stored = next(t for t in onnx.load(tmp_path / "n.onnx").graph.initializer if t.name == "q").raw_data
    assert written["q"].sha256 == hashlib.sha256(stored).hexdigest()


@pytest.mark.parametrize("shape", [(7, 5), (3, 7, 5)])
def test_odd_blocks_of_four_bits(shape: tuple[int, ...]) -> None:
    """Structured schemes draw block by block, which need not end with a byte."""
    model = by_hand(
        f"(float[7,7] x) => (float[{','.join(map(str, shape))}] y) {{ w = DequantizeLinear(q, s) y = MatMul(x, w) }}",
        q=codes(TensorProto.INT4, shape),
        s=np.array(1, np.float32),
    )
    new, result = drawn(model, scheme="orthogonal")
    real = dequantised(new, "q").reshape(-1, 7, 5)
    for block in real:
        np.testing.assert_allclose(block.T @ block, np.eye(5), atol=0.35)
    assert len(result.weights) == 2


def test_refit_is_for_scales_alone() -> None:
    with pytest.raises(SchemeError, match=r"the weight 'p' \(MatMul, int8\[60, 60\]\) cannot be drawn by refit"):
        onnxinit.reinit(two(), scheme="refit")


def test_the_sample_model() -> None:
    """Every kernel and bias of the sample model is drawn, its activations keep their scales."""
    old = onnx.load(MODELS / "cnn_int8.onnx")
    new, result = drawn(old)
    for name in ("conv1", "conv2", "conv3"):
        assert_std(dequantised(new, f"{name}.weight_quantized"), entries(result)[f"{name}.weight_quantized"].std)
        assert not dequantised(new, f"{name}.bias_quantized").any()
    kept = {k.id for k in result.kept}
    assert {"image_scale", "conv1_scale", "relu_5"} & kept == {"image_scale", "conv1_scale"}
    assert np.isfinite(run(new, image=np.zeros([1, 1, 28, 28], np.float32))).all()


BIASED = {
    "Conv": ("(float[n,4,6,6] x) => (float[n,30,4,4] y)", (30, 4, 3, 3), 0, "y = Conv(d, k, c)"),
    "ConvTranspose": ("(float[n,4,6,6] x) => (float[n,30,8,8] y)", (4, 30, 3, 3), 1, "y = ConvTranspose(d, k, c)"),
    "Gemm": ("(float[n,60] x) => (float[n,30] y)", (60, 30), 1, "y = Gemm(d, k, c)"),
    "Gemm, transposed": ("(float[n,60] x) => (float[n,30] y)", (30, 60), 0, "y = Gemm<transB = 1>(d, k, c)"),
}


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("form", BIASED)
def test_biases_of_quantise_pairs_are_in_units_of_both_scales(form: str, channels: bool) -> None:
    """Whatever is drawn, the bias's scale is the product of those of input and kernel, and it means what was drawn."""
    head, shape, axis, layer = BIASED[form]
    scales = (30,) if channels else ()
    model = by_hand(
        f"{head} {{ q = QuantizeLinear(x, sx, z) d = DequantizeLinear(q, sx, z)"
        f" k = DequantizeLinear<axis = {axis}>(w, s) c = DequantizeLinear<axis = 0>(b, t) {layer} }}",
        sx=np.array(0.02, np.float32),
        z=np.array(3, np.int8),
        w=codes(TensorProto.INT8, shape, "w"),
        s=np.full(scales, 1e-3, np.float32),
        b=np.ones(30, np.int32),
        t=np.full(scales, 2e-5, np.float32),
    )
    new, result = drawn(model, rules=["b=normal:std=0.4"])
    held = arrays(new)
    assert {w.id: w.role for w in result.weights} == {
        "w": "weight", "s": "quant_scale", "b": "bias", "t": "quant_scale"
    }  # fmt: skip
    np.testing.assert_allclose(held["t"], np.float32(0.02) * held["s"], rtol=1e-6)
    layer = by_hand(
        "(float[n,60] x) => (float[n,30] y) { y = Gemm(x, w, b) }",
        w=np.ones((60, 30), np.float32),
        b=np.ones(30, np.float32),
    )
    alone = onnxinit.reinit(layer, rules=["b=normal:std=0.4"], seed=3).model
    assert alone is not None
    np.testing.assert_allclose(dequantised(new, "b"), arrays(alone)["b"], atol=0.5001 * float(held["t"].max()))


def test_the_bias_of_a_quantised_product() -> None:
    model = by_hand(
        "(uint8[n,60] x) => (float[n,30] y) { y = com.microsoft.QGemm(x, sx, z, w, s, v, b) }",
        opset=17,
        sx=np.array(0.02, np.float32),
        z=np.array(128, np.uint8),
        w=codes(TensorProto.INT8, (60, 30), "w"),
        s=np.full(30, 1e-3, np.float32),
        v=np.zeros(30, np.int8),
        b=np.ones(30, np.int32),
    )
    new, _ = drawn(model, rules=["b=normal:std=0.4"])
    held = arrays(new)
    said = run(new, x=np.full((1, 60), 128, np.uint8)).astype(np.float64)[0]  # codes of zero: the bias alone
    np.testing.assert_allclose(said, held["b"] * np.float64(np.float32(0.02)) * held["s"], rtol=1e-5)
    assert said.std() == pytest.approx(0.4, rel=5 / np.sqrt(60))
