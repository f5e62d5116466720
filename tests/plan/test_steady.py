"""Sparse layers in a deep network without norms keep the variance; elsewhere they are as published."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from handmade import GELU, RELU, TANH, analysis, conv, gemm, part, weight
from onnx import TensorProto, helper

import onnxinit
from onnxinit.analysis.weight import LINEAR, Activation, Weight
from onnxinit.plan import Plan, make_plan

MODELS = Path(__file__).parent.parent.parent / "models"
NOTE = "sparse:std=1 is the published one"


def layers(count: int, *upstream: Activation) -> list[Weight]:
    return [conv(f"w{i}", upstream=upstream) for i in range(count)]


def stds(plan: Plan) -> set[object]:
    """What is asked for of the non-zero values."""
    return {e.scheme.values["std"] for e in plan.entries if e.scheme.name == "sparse"}


@pytest.mark.parametrize(
    ("spec", "upstream", "std"),
    [
        ("sparse", (RELU,), math.sqrt(2 / 15)),
        ("sparse", (LINEAR,), math.sqrt(1 / 15)),
        ("sparse", (GELU,), 1.533530 / math.sqrt(15)),
        ("sparse", (RELU, TANH), math.sqrt((2 + 1 / 0.394294) / 2 / 15)),
        ("sparse", (Activation("other"),), math.sqrt(1 / 15)),
        ("sparse:nonzeros=4", (RELU,), math.sqrt(2 / 4)),
        ("sparse:nonzeros=100", (RELU,), math.sqrt(2 / 36)),
        ("sparse:sparsity=0.75", (RELU,), math.sqrt(2 / 9)),
    ],
)
def test_deep_without_norms_and_bounds(spec: str, upstream: tuple[Activation, ...], std: float) -> None:
    plan = make_plan(analysis(*layers(10, *upstream), normless=True), scheme=spec)
    assert stds(plan).pop() == pytest.approx(std, rel=1e-5)
    assert len({str(e.scheme) for e in plan.entries}) == 1
    assert all("keeps the variance" in e.why for e in plan.entries)
    assert [w for w in plan.warnings if NOTE in w] == [
        "10 weights have the std that keeps the variance in place of sparse's 1, which grows through many layers "
        f"without norms: w0, w1, w2 and 7 more; {NOTE}"
    ]


def test_an_output_of_a_strided_transposed_kernel_hears_a_part_of_a_unit() -> None:
    whole = part([[4], [8], [4], [4]], [["in"], ["out"], ["kernel"], ["kernel"]], 4 * 16 / 4, 8 * 16)
    kernels = [weight(f"w{i}", "weight", (4, 8, 4, 4), "ConvTranspose", [whole], upstream=(RELU,)) for i in range(10)]
    plan = make_plan(analysis(*kernels, normless=True), scheme="sparse")
    assert stds(plan).pop() == pytest.approx(math.sqrt(2 / (15 / 4)))


@pytest.mark.parametrize(
    ("spec", "weights", "normless"),
    [
        ("sparse", layers(10, RELU), False),
        ("sparse", layers(9, RELU), True),
        ("sparse", [*layers(9, RELU), gemm("t", upstream=(TANH,))], True),
        ("sparse", layers(30, TANH), True),
        ("sparse:std=1", layers(30, RELU), True),
        ("sparse:sparsity=1", layers(30, RELU), True),
    ],
)
def test_as_published(spec: str, weights: list[Weight], normless: bool) -> None:
    plan = make_plan(analysis(*weights, normless=normless), scheme=spec)
    assert {str(e.scheme) for e in plan.entries} == {spec}
    assert not any(NOTE in w for w in plan.warnings)


@pytest.mark.parametrize("model", ["mlp_tanh30", "resnet_bn", "bilstm_tagger"])
def test_units_that_saturate_and_norms_are_as_published(model: str) -> None:
    """Thirty layers of tanh are what Martens drew for; batch norm, or two layers, are no danger."""
    assert stds(onnxinit.reinit(MODELS / f"{model}.onnx", scheme="sparse", dry_run=True).plan) == {None}


def rectified(depth: int, width: int) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", width]) for n in ("x", f"h{depth}"))
    nodes = [
        node
        for i in range(depth)
        for node in (
            helper.make_node("Relu", [f"h{i}" if i else "x"], [f"a{i}"]),
            helper.make_node("MatMul", [f"a{i}", f"w{i}"], [f"h{i + 1}"]),
        )
    ]
    stored = [helper.make_tensor(f"w{i}", TensorProto.FLOAT, [width, width], np.zeros(width**2)) for i in range(depth)]
    graph = helper.make_graph(nodes, "g", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_forty_rectified_layers_keep_the_signal() -> None:
    """Chance takes the power a few times down or up; a std that is off by 1.41 takes it 2^40 times."""
    model = onnxinit.reinit(rectified(40, 256), scheme="sparse").model
    assert model is not None
    x = np.random.default_rng(0).standard_normal((64, 256), np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"x": x})
    assert 1e-3 < float(np.square(out).mean()) < 1e3


def test_a_plan_repeats_it_and_says_so_again() -> None:
    model = rectified(12, 16)
    first = onnxinit.reinit(model, scheme="sparse")
    again = onnxinit.reinit(model, plan=Plan.from_json(first.plan.to_json()))
    assert first.model is not None
    assert first.model == again.model
    assert first.warnings == again.warnings
    assert any(NOTE in w for w in first.warnings)


def test_the_published_std_by_either_name() -> None:
    model = rectified(3, 16)
    one, named = (onnxinit.reinit(model, scheme=s, metadata=False).model for s in ("sparse", "sparse:std=1"))
    assert one is not None
    assert one == named
