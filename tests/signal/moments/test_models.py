"""Whole models: predictions against ONNX Runtime, every operator's rule, and time that grows with the graph."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from drawn import Feed, measured, planned
from onnx import TensorProto, helper, numpy_helper

from onnxinit.analysis import analyse
from onnxinit.analysis.operators import HOLDS
from onnxinit.model import ModelFile
from onnxinit.plan import make_plan
from onnxinit.schemes import parse_spec
from onnxinit.signal.moments import analytic, predict
from onnxinit.signal.moments.rules import RULES

MODELS = Path(__file__).parents[3] / "models"
SHAPES = {"image": (4, 3, 32, 32), "features": (16, 32)}


def sized(name: str) -> onnx.ModelProto:
    """A sample model, told the lengths that it is fed with."""
    model = onnx.load(str(MODELS / f"{name}.onnx"))
    for info in model.graph.input:
        shape = (4, 17) if info.name == "tokens" else SHAPES.get(info.name, ())
        for d, n in zip(info.type.tensor_type.shape.dim, shape, strict=False):
            if not d.dim_value:
                d.dim_value = n
    return model


def feed(model: onnx.ModelProto) -> Feed:
    shapes = {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in model.graph.input}

    def made(rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {
            n: rng.integers(0, 256, s) if n == "tokens" else rng.standard_normal(s).astype(np.float32)
            for n, s in shapes.items()
        }

    return made


@pytest.mark.parametrize("name", ["resnet_bn", "mlp_tanh30", "unet_depthwise", "bilstm_tagger", "transformer"])
def test_the_sample_models(name: str) -> None:
    """Nine layers in ten within 10 % and the error of the measurement."""
    model = sized(name)
    plan, made = planned(model)
    assert made.unreached == ()
    assert made.without_rule == ()
    assert [p.std for p in made.layers] == pytest.approx([1.0] * len(made.layers))
    found = measured(model, plan, made, feed(model), 16)
    close = [found[p.id].agrees(p.std, 0.2) for p in made.layers if p.id in found]
    assert sum(close) >= 0.9 * len(close)


def test_other_schemes_are_predicted_too() -> None:
    """An untamed network: every layer of he in a tanh network shrinks, and by how much."""
    model = sized("mlp_tanh30")
    analysis = analyse(ModelFile.of(model))
    plan = make_plan(analysis, scheme="xavier")
    made = predict(plan, analysis)
    assert made.layers[0].std > made.layers[-1].std
    found = measured(model, plan, made, feed(model), 16)
    assert all(found[p.id].agrees(p.std, 0.2) for p in made.layers)


def test_the_analysis_tells_where_weights_are_used() -> None:
    analysis = analyse(ModelFile.of(sized("transformer")))
    assert analysis.graph is not None
    for weight in analysis.weights:
        sites = analysis.graph.sites[weight.id]
        assert [(s.node.op, s.at) for s in sites][:1] == [(weight.uses[0].op, weight.uses[0].input)]
    assert "graph=" not in repr(analysis)
    assert analysis == analyse(ModelFile.of(sized("transformer")))


def test_every_operator_with_a_layer_has_a_rule() -> None:
    """Those that hold weights of layers; what is left passes moments on and is named."""
    left = {
        f"{domain}.{op}".lstrip(".")
        for (domain, op), held in HOLDS.items()
        if any(h.startswith(("weight", "input_weight", "embedding", "norm_scale")) for h in held.values())
        and (domain, op) not in RULES
    }
    assert left <= {
        "com.microsoft." + op
        for op in (
            *(
                "DecoderAttention",
                "MoE",
                "RouterGateUpProj",
                "MoEGroupRouter",
                "GatedAdd",
                "Mamba2Verify",
                "RMSNormRotary",
            ),
            *("HyperConnectionLowRankMix", "WordConvEmbedding", "GatedRelativePositionBias", "EngramGate"),
            *(
                "DynamicSparseAttention",
                "SparseAttentionIndexer",
                "PackedSparseAttentionIndexer",
                "SparsePagedAttention",
            ),
            *("MatMulNBitsMlp", "MatMulNBitsQkv", "MatMulNBitsQLoRA", "QOrderedLayerNormalization", "QMoE"),
            "MatMulBlockQuantizedFp8Weight",
        )
    }


def chain(blocks: int, width: int = 8) -> onnx.ModelProto:
    """Residual blocks with a norm and a GELU, as exporters write them."""
    nodes, tensors, at = [], [numpy_helper.from_array(np.float32(2**0.5), "root2")], "x"
    tensors.append(numpy_helper.from_array(np.float32(1.0), "one"))
    for i in range(blocks):
        steps = [
            ("ReduceMean", [at], "m"), ("Sub", [at, f"m{i}"], "d"), ("Mul", [f"d{i}", f"d{i}"], "q"),
            ("ReduceMean", [f"q{i}"], "v"), ("Sqrt", [f"v{i}"], "s"), ("Div", [f"d{i}", f"s{i}"], "n"),
            ("MatMul", [f"n{i}", f"w{i}"], "h"), ("Div", [f"h{i}", "root2"], "e0"), ("Erf", [f"e0{i}"], "e1"),
            ("Add", [f"e1{i}", "one"], "e2"), ("Mul", [f"h{i}", f"e2{i}"], "g"), ("Add", [at, f"g{i}"], "y"),
        ]  # fmt: skip
        for op, inputs, out in steps:
            axes = {"axes": [-1]} if op == "ReduceMean" else {}
            nodes.append(helper.make_node(op, inputs, [f"{out}{i}"], **axes))
        tensors.append(helper.make_tensor(f"w{i}", 1, [width, width], bytes(4 * width * width), raw=True))
        at = f"y{i}"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, width]) for n in ("x", at)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_time_grows_with_the_graph() -> None:
    took: list[float] = []
    for blocks in (60, 240):
        analysis = analyse(ModelFile.of(chain(blocks)))
        plan = make_plan(analysis, scheme="analytic")
        runs = []
        for _ in range(3):
            start = time.process_time()
            analytic(plan, analysis)
            runs.append(time.process_time() - start)
        took.append(min(runs))
    assert took[1] < 10 * took[0]  # four times the nodes


def test_the_scheme_is_in_the_table() -> None:
    spec = parse_spec("analytic:base=xavier,target_std=0.5")
    assert spec.pending
    assert spec.values == {"base": "xavier", "target_std": 0.5}
    assert math.isclose(float(str(parse_spec("analytic").values["target_std"])), 1.0)
