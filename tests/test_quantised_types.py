"""Forms that ONNX Runtime has no kernel for on a processor, read as their documentation says; and small float types."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import runs
from onnx import TensorProto, helper, numpy_helper

import onnxinit
from onnxinit.errors import ModelError
from onnxinit.model import ModelFile
from onnxinit.report.written import measure

Array = npt.NDArray[Any]
STD = 0.1
E4M3, E5M2 = TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2
EIGHT = {
    "FLOAT8E4M3FN": (448.0, 3, 2.0**-6),
    "FLOAT8E4M3FNUZ": (240.0, 3, 2.0**-7),
    "FLOAT8E5M2": (57344.0, 2, 2.0**-14),
    "FLOAT8E5M2FNUZ": (57344.0, 2, 2.0**-15),
}


def model_of(text: str, *tensors: onnx.TensorProto, opset: int = 21) -> onnx.ModelProto:
    head = f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]> g '
    model = onnx.parser.parse_model(head + text)
    model.graph.initializer.extend(tensors)
    return model


def alike(name: str, kind: int, shape: tuple[int, ...], fill: float = 1) -> onnx.TensorProto:
    return helper.make_tensor(name, kind, shape, np.full(shape, fill).reshape(-1).tolist())


def tensors(model: onnx.ModelProto | None) -> dict[str, Array]:
    assert model is not None
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def real_values(shape: tuple[int, ...], scheme: str) -> Array:
    """What the scheme draws for a float weight 'w' in the same stored order."""
    count = int(np.prod(shape))
    model = model_of(f"(float[1,{count}] x) => (float[1,1] y) {{ y = MatMul(x, w) }}", alike("w", 1, (count, 1)))
    return tensors(onnxinit.reinit(model, scheme=scheme).model)["w"].reshape(shape)


def run(model: onnx.ModelProto, **feed: Array) -> Array:
    (y,) = runs.run(model, optimised=False, **feed)
    return np.asarray(y)


def bit_stream(raw: Array, bits: int) -> Array:
    """Codes from rows of bytes, the lowest bit first: one number at a time, as the documentation has it."""
    rows = raw.reshape(-1, raw.shape[-1])
    out = np.zeros((len(rows), raw.shape[-1] * 8 // bits), np.int64)
    for i, row in enumerate(rows):
        number = int.from_bytes(row.tobytes(), "little")
        for j in range(out.shape[1]):
            out[i, j] = number >> (bits * j) & ((1 << bits) - 1)
    return out.reshape(*raw.shape[:-1], -1)


# ---------------------------------------------------------------- packed weights


def nbits(codes: Array, scales: Array, bits: int) -> Array:
    """MatMulNBits without zero points: (N, blocks, size)."""
    return (bit_stream(codes, bits) - (1 << bits - 1)) * scales.astype(np.float64)[..., None]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_matmul_of_any_number_of_bits(bits: int) -> None:
    model = model_of(
        f"(float[m,64] x) => (float[m,30] y) {{ y = com.microsoft.MatMulNBits<K = 64, N = 30, bits = {bits},"
        " block_size = 32>(x, w, s) }",
        alike("w", TensorProto.UINT8, (30, 2, 4 * bits)),
        alike("s", TensorProto.FLOAT, (30, 2)),
    )
    held = tensors(onnxinit.reinit(model, scheme=f"normal:std={STD}").model)
    made, real = nbits(held["w"], held["s"], bits), real_values((30, 2, 32), f"normal:std={STD}")
    if bits > 2:
        assert np.abs((made - real) / held["s"][..., None]).max() <= 0.5001
    else:  # three codes keep the variance, and not the largest values
        assert made.std() == pytest.approx(real.std(), rel=0.05)
        assert len(np.unique(bit_stream(held["w"], bits))) == 3


def fused(op: str, attributes: str, operands: str, weights: str, n: int = 30) -> onnx.ModelProto:
    """A fused operator with several packed weights of four bits, each with a scale named after it."""
    held = [t for w in weights for t in (alike(w, 2, (n, 2, 16)), alike(f"s{w}", TensorProto.FLOAT, (n, 2)))]
    node = f"com.microsoft.{op}<K = 64, bits = 4, block_size = 32, {attributes}>({operands})"
    return model_of(f"(float[m,64] x) => (y) {{ y = {node} }}", *held)


def test_the_two_products_of_a_gated_unit() -> None:
    model = fused("MatMulNBitsMlp", 'N = 30, activation = "silu"', "x,,g,a,sa,c,b,sb", "ab")
    model.graph.initializer.extend([alike("g", 1, (64,)), alike("c", 1, (30,))])
    result = onnxinit.reinit(model, scheme=f"normal:std={STD}")
    held = tensors(result.model)
    found = {w.id: w for w in result.weights}
    assert {i: w.role for i, w in found.items()} == {
        "a": "weight", "b": "weight", "sa": "quant_scale", "sb": "quant_scale", "g": "norm_scale", "c": "bias"
    }  # fmt: skip
    assert [found[w].downstream[0].name for w in "ab"] == ["silu", "linear"]
    assert [(found[w].fan_in, found[w].fan_out) for w in "ab"] == [(64, 30)] * 2
    for w in "ab":
        assert nbits(held[w], held[f"s{w}"], 4).std() == pytest.approx(STD, rel=0.02 + 5 / np.sqrt(2 * 30 * 64))
    assert not np.array_equal(held["a"], held["b"])


def test_queries_keys_and_values_of_one_operator() -> None:
    model = fused("MatMulNBitsQkv", "Nq = 30, Nkv = 30", "x,,g,a,sa,,b,sb,,c,sc", "abc")
    model.graph.initializer.append(alike("g", 1, (64,)))
    result = onnxinit.reinit(model, scheme=f"normal:std={STD}")
    held = tensors(result.model)
    assert {w.id for w in result.weights if w.role == "weight"} == {"a", "b", "c"}
    for w in "abc":
        assert nbits(held[w], held[f"s{w}"], 4).std() == pytest.approx(STD, rel=0.02 + 5 / np.sqrt(2 * 30 * 64))


def test_adapters_start_as_nothing() -> None:
    model = fused("MatMulNBitsQLoRA", "N = 30, lora_bits = 4, lora_block_size = 32", "x,w,sw,a,sa,b,sb", "w")
    model.graph.initializer.extend(
        [
            *(alike("a", 2, (20, 2, 16)), alike("sa", 1, (20, 2))),
            *(alike("b", 2, (30, 1, 16)), alike("sb", 1, (30, 1))),
        ]
    )
    result = onnxinit.reinit(model, scheme="lecun")
    held = tensors(result.model)
    found = {w.id: w for w in result.weights}
    assert [(found[w].fan_in, found[w].fan_out) for w in "wab"] == [(64, 30), (64, 20), (20, 30)]
    assert nbits(held["a"], held["sa"], 4).std() == pytest.approx(1 / 8, rel=0.02 + 5 / np.sqrt(2 * 20 * 64))
    assert not nbits(held["b"], held["sb"], 4).any()
    other = tensors(onnxinit.reinit(model, scheme="lecun", rules="b=normal:std=0.1").model)
    assert nbits(other["b"], other["sb"], 4).std() == pytest.approx(0.1, rel=0.1)


def test_weights_of_8_bit_floats() -> None:
    model = model_of(
        "(float16[m,90] x) => (float16[m,40] y) { y = com.microsoft.MatMulBlockQuantizedFp8Weight<block_size = 32>"
        "(x, w, s,, b) }",
        *(alike("w", E4M3, (40, 90)), alike("s", 1, (40, 3)), alike("b", TensorProto.FLOAT16, (40,))),
    )
    result = onnxinit.reinit(model, scheme=f"normal:std={STD}")
    held = tensors(result.model)
    assert {w.id: w.role for w in result.weights} == {"w": "weight", "s": "quant_scale", "b": "bias"}
    real = held["w"].astype(np.float64) * np.repeat(held["s"], 32, axis=1)[:, :90]
    assert real.std() == pytest.approx(STD, rel=0.02 + 5 / np.sqrt(2 * real.size))
    assert len(np.unique(held["s"])) == held["s"].size


def test_square_blocks_of_8_bit_experts() -> None:
    text = (
        '(float[n,48] x, float[n,3] r) => (y) { y = com.microsoft.QMoE<k = 1, quant_type = "fp8", block_size = 32>'
        "(x, r, w, s,, v, t) }"
    )
    model = model_of(
        text,
        *(alike("w", E4M3, (3, 40, 48)), alike("s", 1, (3, 2, 2)), alike("v", E4M3, (3, 48, 40))),
        alike("t", 1, (3, 2, 2)),
    )
    held = tensors(onnxinit.reinit(model, scheme=f"normal:std={STD}").model)
    real = held["w"].astype(np.float64) * np.repeat(np.repeat(held["s"], 32, 1), 32, 2)[:, :40, :48]
    assert real.std() == pytest.approx(STD, rel=0.02 + 5 / np.sqrt(2 * real.size))


@pytest.mark.parametrize(
    ("node", "why"),
    [
        ("MatMulNBits<K = 32, N = 30, bits = 4, block_size = 32, weight_prepacked = 1>(x, w, s)", "one processor"),
        ("MatMulNBits<K = 32, N = 30, bits = 4, block_size = 32>(x, w, s, z, g)", "kernels do not agree"),
        ("MatMulNBits<K = 32, N = 30, bits = 4, block_size = 32>(x, w, s,, n)", "which of its values share a scale"),
        ('QMoE<k = 1, quant_type = "nvfp4">(x, x, w, s,, w, s)', "of which there are two for a value"),
        ("QMoE<k = 1, weights_prepacked = 1>(x, x, w, s,, w, s)", "one processor"),
        ("MatMulFpQ4<blk_quant_type = 0>(x, w, n)", "in a format of its own"),
        ("MatMulBlockQuantizedFp4Weight(x, w, z, s)", "scaled again and held as bytes"),
    ],
)
def test_what_cannot_be_drawn_says_why(node: str, why: str) -> None:
    model = model_of(
        f"(float[m,32] x, int32[32] n) => (y) {{ y = com.microsoft.{node} }}",
        *(alike("w", 2, (30, 1, 16)), alike("s", 1, (30, 1)), alike("z", 2, (30, 1)), alike("g", 6, (32,), 0)),
    )
    result = onnxinit.inspect(model)
    assert not result.weights
    assert why in {k.id: k.reason for k in result.kept}["w"]


# ---------------------------------------------------------------- small floats


@pytest.mark.parametrize("kind", EIGHT)
def test_8_bit_floats_as_they_are(kind: str) -> None:
    """A weight that is cast is drawn as any float, and rounded once."""
    number, (largest, fraction, least) = int(getattr(TensorProto, kind)), EIGHT[kind]
    text = "(float[m,60] x) => (float[m,50] y) { k = Cast<to = 1>(w) y = MatMul(x, k) }"
    model = model_of(text, alike("w", number, (60, 50)))
    new = onnxinit.reinit(model, scheme="he").model
    assert new is not None
    said = run(new, x=np.eye(60, dtype=np.float32)).astype(np.float64)
    real = real_values((60, 50), f"normal:std={np.sqrt(2 / 60)}").astype(np.float64)
    step = np.maximum(2.0 ** (np.floor(np.log2(np.abs(real))) - fraction), least / 2**fraction)
    assert (np.abs(said - real) <= step / 2 * 1.0001).all()
    with pytest.raises(
        ModelError, match=rf"'w' \(MatMul, {kind.lower()}\[60, 50\]\) cannot hold .* ends at {largest:g}"
    ):
        onnxinit.reinit(model, scheme="constant:value=60000000")
    most = onnxinit.reinit(model, scheme=f"constant:value={largest}").model
    assert most is not None and (run(most, x=np.eye(60, dtype=np.float32)) == largest).all()


@pytest.mark.parametrize(("kind", "largest"), [("FLOAT16", 65504), ("BFLOAT16", 3.3895e38)])
def test_a_magnitude_that_a_type_cannot_hold_is_refused_with_a_way_out(kind: str, largest: float) -> None:
    model = model_of(
        f"({kind.lower()}[m,60] x) => ({kind.lower()}[m,50] y) {{ y = MatMul(x, w) }}",
        alike("w", int(getattr(TensorProto, kind)), (60, 50)),
    )
    with pytest.raises(ModelError, match=r"cannot hold the .*: give it a smaller scale by a --rule, or keep it"):
        onnxinit.reinit(model, scheme=f"constant:value={1.01 * largest}" if largest < 1e6 else "constant:value=3.4e38")
    assert onnxinit.reinit(model, scheme=f"constant:value={largest}").model is not None


@pytest.mark.parametrize("scales", ["FLOAT", "FLOAT16", "BFLOAT16", "FLOAT8E8M0"])
@pytest.mark.parametrize("kind", ["INT8", "FLOAT4E2M1", *EIGHT])
def test_codes_and_scales_of_any_type(kind: str, scales: str) -> None:
    """In blocks of 32 as the MX formats have them; powers of two are rounded up, so that nothing is cut off."""
    model = model_of(
        "(float[m,96] x) => (float[m,50] y) { w2 = DequantizeLinear<axis = 0, block_size = 32, output_dtype = 1>(w, s)"
        " y = MatMul(x, w2) }",
        alike("w", int(getattr(TensorProto, kind)), (96, 50)),
        alike("s", int(getattr(TensorProto, scales)), (3, 50), 2),
        opset=24,
    )
    model.ir_version = 12
    result = onnxinit.reinit(model, scheme=f"normal:std={STD}")
    assert {w.id: w.role for w in result.weights} == {"w": "weight", "s": "quant_scale"}
    held = tensors(result.model)
    scale = np.repeat(held["s"].astype(np.float64), 32, axis=0)
    codes = held["w"].astype(np.float64)
    real = real_values((96, 50), f"normal:std={STD}").astype(np.float64)
    largest, fraction, least = {"INT8": (127.0, 0, 1.0), "FLOAT4E2M1": (6.0, 1, 1.0), **EIGHT}[kind]
    exponent = np.floor(np.log2(np.maximum(np.abs(real / scale), 1e-30)))
    step = np.ones_like(real) if kind == "INT8" else np.maximum(2.0 ** (exponent - fraction), least / 2**fraction)
    near_end = np.abs(real) / scale > largest * 0.99  # a scale that was rounded down cuts off as much as that
    assert (np.abs(codes - real / scale)[~near_end] <= step[~near_end] / 2 * 1.0001).all()
    assert np.abs(codes).max() <= largest
    use = np.abs(real).reshape(3, 32, 50).max(axis=1) / held["s"].astype(np.float64)
    assert (use <= largest * 1.005).all()
    is_least = (scales == "FLOAT16") & (held["s"].astype(np.float64) == 2.0**-14)  # below, a scale loses digits
    assert (is_least | (use >= largest * (0.4999 if scales == "FLOAT8E8M0" else 0.995))).all()
    if scales == "FLOAT8E8M0":
        assert (np.log2(held["s"].astype(np.float64)) % 1 == 0).all()


@pytest.mark.parametrize("kind", ["INT2", "UINT4", "FLOAT4E2M1", "FLOAT8E5M2", "INT16"])
@pytest.mark.parametrize("raw", [False, True])
def test_reports_measure_what_stands_in_the_file(kind: str, raw: bool, tmp_path: Path) -> None:
    number, points = int(getattr(TensorProto, kind)), kind == "UINT4"
    z, held = (", z", [alike("z", number, (), 7)]) if points else ("", [])
    stored = alike("w", number, (61, 50))
    if raw:
        stored = numpy_helper.from_array(numpy_helper.to_array(stored), "w")
        stored.data_type = number
    text = f"(float[m,61] x) => (float[m,50] y) {{ d = DequantizeLinear(w, s{z}) y = MatMul(x, d) }}"
    model = model_of(text, stored, alike("s", 1, ()), *held, opset=25)
    model.ir_version = 13
    onnx.save(model, tmp_path / "m.onnx")
    result = onnxinit.reinit(tmp_path / "m.onnx", tmp_path / "n.onnx", scheme=f"normal:std={STD}")
    (found,) = [w for w in measure(ModelFile.open(tmp_path / "n.onnx"), result.plan, result.weights) if w.id == "w"]
    (written,) = [t for t in onnx.load(tmp_path / "n.onnx").graph.initializer if t.name == "w"]
    values, scale = numpy_helper.to_array(written).astype(np.float64), tensors(onnx.load(tmp_path / "n.onnx"))
    zero = scale["z"].astype(np.float64) if points else 0.0
    assert found.std == pytest.approx(((values - zero) * scale["s"]).std(), rel=1e-6)
    assert found.std_asked == pytest.approx(STD)
    whole = numpy_helper.from_array(numpy_helper.to_array(written), "w")
    assert found.sha256 == hashlib.sha256(whole.raw_data).hexdigest()


# ---------------------------------------------------------------- subnormal numbers

LEAST = {"FLOAT": 2.0**-126, "DOUBLE": 2.0**-1022, "FLOAT16": 2.0**-14, "BFLOAT16": 2.0**-126} | {
    name: least for name, (_, _, least) in EIGHT.items()
}


def tiny(kind: str) -> tuple[onnx.ModelProto, float]:
    """A model of a weight, and a std of which about half of the values are subnormal."""
    text = "(float[m,60] x) => (float[m,50] y) { k = Cast<to = 1>(w) y = MatMul(x, k) }"
    return model_of(text, alike("w", int(getattr(TensorProto, kind)), (60, 50))), 1.5 * LEAST[kind]


@pytest.mark.parametrize("kind", LEAST)
def test_subnormal_numbers_are_counted_and_flushed(kind: str) -> None:
    model, std = tiny(kind)
    result = onnxinit.reinit(model, scheme=f"normal:std={std}")
    held = tensors(result.model)["w"].astype(np.float64)
    few = (held != 0) & (np.abs(held) < LEAST[kind])
    assert 500 < few.sum() < 2500
    assert result.warnings[-1].startswith(
        f"{few.sum()} values are subnormal in {kind.lower()}, in w: such numbers have"
    )
    flushed = onnxinit.reinit(model, scheme=f"normal:std={std}", flush_subnormals=True)
    now = tensors(flushed.model)["w"].astype(np.float64)
    np.testing.assert_array_equal(now, np.where(few, 0.0, held))
    assert np.isfinite(now).all()
    if "UZ" not in kind:
        assert (np.signbit(now) == np.signbit(held)).all()
    assert flushed.warnings[-1].endswith("in w: zeros stand in their place")
    assert flushed.plan.arguments["flush_subnormals"] is True
    again = onnxinit.reinit(model, plan=type(flushed.plan).from_json(flushed.plan.to_json()))
    np.testing.assert_array_equal(tensors(again.model)["w"].astype(np.float64), now)
    assert flushed.plan.digest() != result.plan.digest()


def test_normal_numbers_are_not_spoken_of() -> None:
    model, _ = tiny("FLOAT")
    assert onnxinit.reinit(model, scheme="he", flush_subnormals=True).warnings == ()


# ---------------------------------------------------------------- scales that stay


def pair(scale: float, points: bool = False) -> onnx.ModelProto:
    z, held = (", z", [alike("z", 3, (), 5)]) if points else ("", [])
    text = f"(float[m,60] x) => (float[m,50] y) {{ d = DequantizeLinear(w, s{z}) y = MatMul(x, d) }}"
    return model_of(text, alike("w", TensorProto.INT8, (60, 50)), alike("s", 1, (), scale), *held)


Told = Callable[[tuple[str, ...]], bool]


@pytest.mark.parametrize("points", [False, True])
@pytest.mark.parametrize(
    ("std", "told"),
    [
        (0.2, lambda warnings: len(warnings) == 1),  # six deviations fit
        (3.0, lambda warnings: "cuts off up to" in warnings[-1]),
        (0.001, lambda warnings: "become zero" in warnings[-1]),
    ],
)
def test_scales_stay_on_request(std: float, told: Told, points: bool) -> None:
    model = pair(0.01, points)
    result = onnxinit.reinit(model, scheme=f"normal:std={std}", keep_scales=True)
    old, held = tensors(model), tensors(result.model)
    assert all(np.array_equal(old[n], held[n]) for n in old if n != "w")
    zero = old.get("z", np.zeros(1)).astype(np.float64)
    real = (held["w"].astype(np.float64) - zero) * np.float64(np.float32(0.01))
    drawn = real_values((60, 50), f"normal:std={std}").astype(np.float64)
    low, high = (-128 - zero) * np.float64(np.float32(0.01)), (127 - zero) * np.float64(np.float32(0.01))
    np.testing.assert_allclose(real, np.clip(drawn, low, high), atol=0.00501)
    assert told(result.warnings)
    assert result.plan.arguments["keep_scales"] is True
    assert {k.id: k.reason for k in result.kept}["s"] == "kept by --keep-scales"
    again = onnxinit.reinit(model, plan=type(result.plan).from_json(result.plan.to_json()))
    assert np.array_equal(tensors(again.model)["w"], held["w"])


def test_what_is_drawn_again_counts_once() -> None:
    """The scale of a weight norm follows from the values drawn, which are then drawn twice."""
    model = model_of(
        "(float16[m,60] x) => (float16[m,50] y) { n = ReduceL2<axes = [0]>(v) u = Div(v, n) w = Mul(g, u)"
        " y = MatMul(x, w) }",
        alike("v", 10, (60, 50)),
        numpy_helper.from_array(np.random.default_rng(0).normal(1, 0.1, (1, 50)).astype(np.float16), "g"),
        opset=13,
    )
    result = onnxinit.reinit(model, scheme="normal:std=1e-4")
    held = tensors(result.model)
    assert {e.id: str(e.scheme) for e in result.plan.entries}["g"] == "refit"
    few = sum(
        int(((np.abs(a) < 2.0**-14) & (a != 0)).sum()) for a in (held["v"].astype(float), held["g"].astype(float))
    )
    assert result.warnings[-1].startswith(f"{few} values are subnormal in float16, in ")
