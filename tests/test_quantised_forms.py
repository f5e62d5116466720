"""Every form in which quantised weights are stored: what ONNX Runtime reads is what the scheme drew, to the last step.

The oracle is a model of the same weight in float32: the same seed and id draw the same real values there. A value may
be half a step off where its code is rounded, and one step where a zero point is rounded too.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, RuntimeException
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as Missing

import onnxinit

Array = npt.NDArray[Any]
MICROSOFT = "com.microsoft"
STD = 0.1


@dataclass(frozen=True)
class Case:
    """A model of one weight, and how it hands the weight out.

    Attributes:
        model: The model.
        feeds: What it is fed.
        shape: The real shape of the weight, as its values are drawn.
        hands_out: From the output the values, in the order of that shape.
        step: The coarsest distance of two neighbouring codes, in units of a scale.
        centred: Whether there is no zero point to be rounded.
        bits: Bits of a code.
    """

    model: onnx.ModelProto
    feeds: dict[str, Array]
    shape: tuple[int, ...]
    transposed: bool = False
    step: float = 1.0
    centred: bool = True
    bits: int = 8


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def model_of(
    node: onnx.NodeProto | list[onnx.NodeProto], inputs: dict[str, tuple[int, list[Any]]], *tensors: onnx.TensorProto
) -> onnx.ModelProto:
    nodes = node if isinstance(node, list) else [node]
    kind = next((t.data_type for t in tensors if t.name in ("s", "float_w")), TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info("y", kind, None)],
        list(tensors),
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    if any(t.data_type in (TensorProto.INT2, TensorProto.UINT2) for t in tensors):
        opsets[0].version = 25
    return helper.make_model(graph, opset_imports=opsets, ir_version=13 if opsets[0].version > 21 else 10)


def tensor(name: str, kind: int, shape: tuple[int, ...], fill: float = 1) -> onnx.TensorProto:
    return helper.make_tensor(name, kind, shape, np.full(shape, fill).reshape(-1).tolist())


def real_values(shape: tuple[int, ...], **options: Any) -> Array:
    """What the scheme draws for a float weight of the same name and order of values."""
    flat = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    count = int(np.prod(shape))
    model = model_of(
        flat, {"x": (TensorProto.FLOAT, [1, count])}, numpy_helper.from_array(np.ones((count, 1), np.float32), "w")
    )
    new = onnxinit.reinit(model, **options).model
    assert new is not None
    return numpy_helper.to_array(new.graph.initializer[0]).reshape(shape)


def check(case: Case) -> None:
    result = onnxinit.reinit(case.model, rules=f"w=normal:std={STD}", seed=3)
    assert result.model is not None
    assert result.warnings == ()
    assert [e.std for e in result.plan.entries if e.id == "w"] == [pytest.approx(STD)]
    try:
        (said,) = session(result.model).run(None, case.feeds)
    except (Missing, Fail, InvalidGraph, RuntimeException) as error:
        try:
            session(case.model).run(None, case.feeds)
        except (Missing, Fail, InvalidGraph, RuntimeException):
            pytest.skip(f"ONNX Runtime has no kernel: {error}"[:200])
        raise
    said = np.asarray(said, np.float64)
    held = (said.T if case.transposed else said).reshape(case.shape)
    real = real_values(case.shape, scheme=f"normal:std={STD}", seed=3)
    (scale,) = [t for t in result.model.graph.initializer if t.name == "s"]
    steps = numpy_helper.to_array(scale).astype(np.float64)
    sampling, off = 5 / np.sqrt(2 * held.size), np.abs(held - real)
    if case.bits == 2 and "z" not in {w.id for w in result.weights}:
        # Three codes keep the variance and not the largest values; of few values with one scale there is little of it.
        if held.size >= 16 * steps.size:
            assert abs(held.std() / real.std() - 1) < 0.05 + sampling
        off = off[np.abs(real) < 1.5 * steps.min()]
        assert off.max(initial=0) <= 0.505 * steps.max() + 1e-6
        return
    assert off.max() <= steps.max() * case.step * (0.505 if case.centred else 1.01) + 1e-6
    rounding = float(np.sqrt((off**2).mean()))
    assert abs(held.std() - STD) <= rounding + sampling * STD
    assert rounding > 0


SIGNED = {2: TensorProto.INT2, 4: TensorProto.INT4, 8: TensorProto.INT8, 16: TensorProto.INT16}
UNSIGNED = {2: TensorProto.UINT2, 4: TensorProto.UINT4, 8: TensorProto.UINT8, 16: TensorProto.UINT16}


@st.composite
def pairs(draw: st.DrawFn) -> Case:
    """DequantizeLinear of a matrix: any type, one scale, one for each channel, or for blocks."""
    bits = draw(st.sampled_from([2, 4, 8, 16]))
    signed, pointed = draw(st.booleans()), draw(st.booleans())
    kind = (SIGNED if signed else UNSIGNED)[bits]
    rows, columns = draw(st.integers(3, 40)), draw(st.integers(3, 40))
    axis, grain = draw(st.integers(-2, 1)), draw(st.sampled_from(["tensor", "axis", "block"]))
    shape, size = (rows, columns), draw(st.integers(2, 9))
    scales: tuple[int, ...] = ()
    attributes: dict[str, Any] = {}
    if grain == "axis":
        scales, attributes = (shape[axis],), {"axis": axis}
    elif grain == "block":
        attributes = {"axis": axis, "block_size": size}
        scales = tuple(-(-n // size) if i == axis % 2 else n for i, n in enumerate(shape))
    tensors = [tensor("w", kind, shape), tensor("s", TensorProto.FLOAT, scales)]
    names = ["w", "s"]
    if pointed or not signed:
        middle = 0 if signed else 1 << bits - 1
        tensors.append(tensor("z", kind, scales, middle if draw(st.booleans()) else middle + 1))
        names.append("z")
    nodes = [
        helper.make_node("DequantizeLinear", names, ["d"], **attributes),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    feed = np.eye(rows, dtype=np.float32)
    model = model_of(nodes, {"x": (TensorProto.FLOAT, [rows, rows])}, *tensors)
    return Case(model, {"x": feed}, shape, centred=len(names) == 2, bits=bits)


def packed_zeros(rows: tuple[int, ...], count: int, bits: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.full((*rows, -(-count * bits // 8)), 0x53, np.uint8), "z")


@st.composite
def products(draw: st.DrawFn) -> Case:
    """MatMulNBits with packed, float or no zero points, its last block filled up or not, its columns in any order."""
    bits, block = draw(st.sampled_from([2, 4, 8])), draw(st.sampled_from([16, 32]))
    n, blocks = draw(st.integers(1, 20)), draw(st.integers(1, 5))
    zeros = draw(st.sampled_from(["", "packed", "float"] if bits < 8 else ["", "packed"]))
    half = draw(st.booleans())
    k = block * blocks
    floats = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    tensors = [
        tensor("w", TensorProto.UINT8, (n, blocks, block * bits // 8), 7),
        tensor("s", floats, (n, blocks)),
    ]
    names = ["x", "w", "s"]
    if zeros:
        tensors.append(packed_zeros((n,), blocks, bits) if zeros == "packed" else tensor("z", floats, (n, blocks), 2.5))
        names.append("z")
    if not half and bits == 4 and zeros != "packed" and draw(st.booleans()):
        order = draw(st.permutations([i // block for i in range(k)]))
        tensors.append(numpy_helper.from_array(np.array(order, np.int32), "g"))
        names += ["", "g"][len(names) - 3 :]
    node = helper.make_node("MatMulNBits", names, ["y"], domain=MICROSOFT, K=k, N=n, bits=bits, block_size=block)
    feed = np.eye(k, dtype=np.float16 if half else np.float32)
    model = model_of(node, {"x": (floats, [k, k])}, *tensors)
    return Case(model, {"x": feed}, (n, k), transposed=True, centred=not zeros, bits=bits)


@st.composite
def blocks_of_bnb(draw: st.DrawFn) -> Case:
    """MatMulBnb4: FP4 and NF4 in blocks along the whole matrix."""
    kind, block = draw(st.sampled_from([0, 1])), draw(st.sampled_from([16, 32, 64]))
    n, k = draw(st.integers(1, 20)), draw(st.integers(4, 40))
    tensors = [
        tensor("w", TensorProto.UINT8, (-(-n * k // 2),)),
        tensor("s", TensorProto.FLOAT, (-(-n * k // block),)),
    ]
    node = helper.make_node(
        "MatMulBnb4", ["x", "w", "s"], ["y"], domain=MICROSOFT, K=k, N=n, block_size=block, quant_type=kind
    )
    model = model_of(node, {"x": (TensorProto.FLOAT, [k, k])}, *tensors)
    return Case(model, {"x": np.eye(k, dtype=np.float32)}, (n, k), transposed=True, step=(1 / 3, 0.304)[kind])


@st.composite
def tables(draw: st.DrawFn) -> Case:
    """GatherBlockQuantized of packed bytes and of small types."""
    kind = draw(st.sampled_from([2, 4, 8, TensorProto.INT4]))
    rows, size = draw(st.integers(2, 20)), draw(st.sampled_from([16, 32]))
    blocks = draw(st.integers(1, 3))
    shape, scales = (rows, size * blocks), (rows, blocks)
    pointed = draw(st.booleans())
    attributes: dict[str, Any] = {"block_size": size, "gather_axis": 0, "quantize_axis": 1}
    if kind == TensorProto.INT4:
        tensors = [tensor("w", kind, shape), tensor("s", TensorProto.FLOAT, scales)]
        tensors += [tensor("z", kind, scales, 1)] * pointed
    else:
        attributes["bits"] = kind
        stored = (rows, shape[1] * kind // 8)
        held = np.random.default_rng(0).integers(0, 256, stored).astype(np.uint8)  # all alike, it would be computed
        tensors = [numpy_helper.from_array(held, "w"), tensor("s", TensorProto.FLOAT, scales)]
        tensors += [packed_zeros((rows,), blocks, kind)] * pointed
    names = ["w", "i", "s", *(["z"] * pointed)]
    node = helper.make_node("GatherBlockQuantized", names, ["y"], domain=MICROSOFT, **attributes)
    feed = np.arange(rows, dtype=np.int64)
    model = model_of(node, {"i": (TensorProto.INT64, [rows])}, *tensors)
    return Case(model, {"i": feed}, shape, centred=not pointed, bits=attributes.get("bits", 4))


@settings(max_examples=60)
@given(st.one_of(pairs(), products(), blocks_of_bnb(), tables()))
def test_what_is_read_is_what_was_drawn(case: Case) -> None:
    check(case)


@pytest.mark.skipif(onnxruntime.__version__.startswith("1.23."), reason="ONNX Runtime 1.23 has another QMoE")
@pytest.mark.parametrize("bits, block, pointed", list(itertools.product((2, 4), (0, 16), (False, True))))
def test_stacks_of_experts(bits: int, block: int, pointed: bool) -> None:
    """QMoE with the identity as one layer hands the other out, expert by expert."""
    experts, d, n = 3, 48, 48
    codes = np.zeros((experts, d, n), np.uint8) + (1 << bits - 1)
    codes[:, np.arange(d), np.arange(n)] += 1
    stream = np.unpackbits(codes[..., None], axis=-1, bitorder="little")[..., :bits]
    identity = np.packbits(stream.reshape(experts, d, -1), axis=-1, bitorder="little")
    grid = (experts, d, n // block) if block else (experts, d)
    tensors = [
        tensor("w", TensorProto.UINT8, identity.shape, 9),
        tensor("s", TensorProto.FLOAT, grid),
        numpy_helper.from_array(identity, "one"),
        tensor("unit", TensorProto.FLOAT, grid),
    ]
    names = ["x", "r", "w", "s", "", "one", "unit"]
    if pointed:
        rows, count = ((experts, n), n // block) if block else ((experts,), n)
        tensors.append(packed_zeros(rows, count, bits))
        names += ["", "", "", "", "z"]
    attributes: dict[str, Any] = {
        "expert_weight_bits": bits,
        "k": 1,
        "activation_type": "identity",
        "normalize_routing_weights": 1,
    }
    attributes |= {"block_size": block} if block else {}
    node = helper.make_node("QMoE", names, ["y"], domain=MICROSOFT, **attributes)
    x = np.tile(np.eye(d, dtype=np.float32), (experts, 1))
    routes = np.repeat(9 * np.eye(experts, dtype=np.float32), d, axis=0)
    feeds = {"x": x, "r": routes}
    model = model_of(node, {k: (TensorProto.FLOAT, list(v.shape)) for k, v in feeds.items()}, *tensors)
    result = onnxinit.reinit(model, scheme=f"normal:std={STD}", seed=3, exclude=["one"])
    assert result.model is not None
    try:
        (said,) = session(result.model).run(None, feeds)
    except (Missing, Fail, RuntimeException) as error:
        pytest.skip(f"ONNX Runtime has no kernel: {error}"[:200])
    held = np.asarray(said).reshape(experts, d, n).transpose(0, 2, 1)
    real = real_values((experts, n, d), scheme=f"normal:std={STD}", seed=3)
    step = float(numpy_helper.to_array(next(t for t in result.model.graph.initializer if t.name == "s")).max())
    if bits == 2 and not pointed:
        assert held.std() == pytest.approx(real.std(), rel=0.05)
    else:
        assert np.abs(held - real).max() <= step * (1.01 if pointed else 0.505)
    assert {w.role for w in result.weights if w.id in ("s", "z")} == {"quant_scale", "quant_zero_point"} - (
        set() if pointed else {"quant_zero_point"}
    )
