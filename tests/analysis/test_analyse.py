"""The analysis of whole models: nothing is silent, and what is shared or tied is said to be."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from disguises import copy
from gallery import EVERY, MODELS, model_of
from graphs import analysed, build, roles, tensor, weights
from onnx import TensorProto, helper, numpy_helper

from onnxinit.analysis.analyse import analyse
from onnxinit.analysis.weight import ROLES, Analysis, Use
from onnxinit.errors import ModelError
from onnxinit.model import ModelFile

# ---------------------------------------------------------------- nothing is silent


def assert_complete(file: ModelFile, found: Analysis) -> None:
    told = [*found.weights, *found.kept]
    assert sorted(t.path for t in told if t.path) == sorted(file.tensors)
    assert len({t.id for t in told}) == len(told)
    order = list(file.tensors)
    assert [order.index(w.path) for w in found.weights] == sorted(order.index(w.path) for w in found.weights)
    assert all(k.reason for k in found.kept)
    for w in found.weights:
        assert w.role in ROLES
        assert w.shape == file.tensors[w.path].dims
        assert w.upstream or w.downstream or w.role not in ("weight", "bias")
        if w.layout is not None:
            covered = np.zeros(w.shape, int)
            for p in w.layout.parts:
                covered[tuple(slice(a, a + n) for a, n in zip(p.start, p.shape, strict=True))] += 1
                assert p.blocks * math.prod(p.block_shape) == math.prod(p.shape)
            assert (covered == 1).all()
        if w.role in ("weight", "input_weight", "recurrent_weight", "embedding"):
            assert w.layout is not None
            assert w.fan_in
            assert w.fan_out


@pytest.mark.parametrize("name", EVERY)
def test_every_tensor_is_a_weight_or_kept_with_a_reason(name: str) -> None:
    file = ModelFile.of(model_of(name))
    assert_complete(file, analyse(file))


def test_the_roles_of_the_sample_models() -> None:
    found = {name: Counter(w.role for w in analysed(onnx.load(path)).weights) for name, path in MODELS.items()}
    assert found["mlp_tanh30"] == {"weight": 30, "bias": 30}
    assert found["resnet_bn"]["weight"] == 9
    assert found["resnet_bn"]["running_mean"] == found["resnet_bn"]["norm_scale"] == 8
    assert found["bilstm_tagger"]["recurrent_weight"] == found["bilstm_tagger"]["input_weight"] == 1
    assert found["transformer"]["embedding"] >= 1
    assert found["transformer"]["norm_scale"] == found["transformer"]["norm_shift"] == 5


def test_ids_are_unique_and_say_the_scope() -> None:
    """Two branches and the main graph use one name for three tensors."""
    model = build(
        """(float[n,2] x, bool c) => (float[n,2] y) { h = MatMul(x, w) y = If(c) <
        then_branch = t () => (float[n,2] a) <float[2,2] v = {1,2,3,4}> { a = MatMul(h, v) },
        else_branch = e () => (float[n,2] b) <float[2,2] v = {5,6,7,8}> { b = MatMul(h, v) } > }""",
        w=(2, 2),
    )
    found = analysed(model)
    assert {w.id: (w.name, w.scope) for w in found.weights} == {
        "w": ("w", ""),
        "If1.then_branch/v": ("v", "If1.then_branch"),
        "If1.else_branch/v": ("v", "If1.else_branch"),
    }


def test_equal_ids_are_numbered() -> None:
    """Two nodes of one name, each with a branch of its own tensor."""
    model = build(
        """(float[n,2] x, bool c) => (float[n,2] y) { h = If(c) <
        then_branch = t () => (float[n,2] a) <float[2,2] v = {1,2,3,4}> { a = MatMul(x, v) },
        else_branch = e () => (float[n,2] b) { b = Relu(x) } > y = If(c) <
        then_branch = t () => (float[n,2] p) <float[2,2] v = {1,2,3,4}> { p = MatMul(h, v) },
        else_branch = e () => (float[n,2] q) { q = Relu(h) } > }"""
    )
    for node in model.graph.node:
        node.name = "same"
    assert [w.id for w in analysed(model).weights] == ["same.then_branch/v", "same.then_branch/v#2"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_the_element_types_of_weights(dtype: str) -> None:
    kind = {"float32": "float", "float64": "double"}.get(dtype, dtype)
    w = tensor("w", (4, 3))
    held = helper.make_tensor("w", TensorProto.DataType.Value(kind.upper()), [4, 3], numpy_helper.to_array(w).ravel())
    model = build(f"({kind}[n,4] x) => ({kind}[n,3] y) {{ y = MatMul(x, w) }}", check=False)
    model.graph.initializer.append(held)
    (found,) = analysed(model).weights
    assert (found.dtype, found.role, found.size) == (kind, "weight", 12)


# ---------------------------------------------------------------- what is kept, and why


def kept(model: onnx.ModelProto) -> dict[str, str]:
    return {k.id: k.reason for k in analysed(model).kept}


def test_why_tensors_are_kept() -> None:
    model = build(
        """(float[n,4] x) => (float[n,4] y, float[4] out) { h = MatMul(x, w) r = Reshape(h, shape) a = Mul(r, two)
        y = Add(a, empty) }""",
        check=False,
        w=(4, 4),
        empty=(0, 4),
        shape=np.array([-1, 4]),
        two=np.array(2, np.float32),
        unused=(3, 3),
        out=(4,),
    )
    said = kept(model)
    assert said["two"] == "a scalar constant"
    assert said["unused"] == "nothing uses it"
    assert said["out"] == "handed out by the model as it is"
    assert said["shape"].startswith("int64:")
    assert said["empty"] == "has no elements"
    assert set(said) == {"shape", "two", "empty", "unused", "out"}


def test_tensors_outside_the_graph_that_runs_are_kept() -> None:
    model = build(
        "(float[n,4] x) => (float[n,4] y) { y = MatMul(x, w) }",
        functions="""<domain: "local", opset_import: ["": 17]> Unused (a) => (b) {
        k = Constant<value = float[2] {1, 2}>() b = Mul(a, k) }""",
        w=(4, 4),
    )
    step = model.training_info.add()
    step.algorithm.name = "step"
    step.algorithm.initializer.append(tensor("momentum", (4, 4)))
    found = analysed(model)
    assert [w.id for w in found.weights] == ["w"]
    assert len(found.kept) == 2
    assert all(k.reason for k in found.kept)


def test_an_empty_model_has_nothing() -> None:
    assert analysed(build("(float[n] x) => (float[n] y) { y = Relu(x) }")) == Analysis((), ())


BROKEN = [
    "h = Conv<group = 0>(x, w)",
    "h = Conv<group = 7>(x, w)",
    "h = ConvTranspose<group = 0>(x, w)",
    "h = ConvTranspose<strides = [0, 0]>(x, w)",
    "t = Transpose<perm = [0, 0, 9, 1]>(w) h = Conv(x, t)",
    "p = Conv(x, w) h = Transpose<perm = [4, 0, 9, 1]>(p)",
    "a = Constant<value = int64[2] {0, 1}>() e = Constant<value = int64[1] {2}>() t = Slice(w, a, e) h = Conv(x, t)",
    "a = Constant<value = int64[1] {0}>() b = Constant<value = int64[1] {8}>() t = Slice(w, a, a, b) h = Conv(x, t)",
    "a = Constant<value = int64[2] {1, 1}>() t = Unsqueeze(w, a) h = Conv(x, t)",
    "t = Concat<axis = 9>(w, w) h = Conv(x, t)",
    "t, u = Split<axis = 9>(w) h = Conv(x, t)",
    "p = Conv(x, w) t, h = Split<axis = -9>(p)",
    "i = Constant<value = int64 {1}>() t = Gather<axis = 9>(w, i) h = Conv(x, t)",
    "i = Constant<value = int64 {99}>() t = Gather(w, i) h = Conv(x, t)",
    "t = Split(one) h = Add(x, t)",
    "t = Concat<axis = 0>(one, one) h = Add(x, t)",
    "h = MatMul(x, one)",
    "h = Gemm(x, one)",
    'h = Einsum<equation = "ab,bc">(x, w)',
    'h = Einsum<equation = "nonsense">(x, w)',
    "h = LSTM<hidden_size = 3>(x, w, one)",
    "h = Gather(one, x)",
    "h = BatchNormalization(x, one, one, w, w)",
    "p = ReduceMean<axes = [9]>(x) d = Sub(x, p) q = Mul(d, d) v = ReduceMean<axes = [9]>(q) h = Mul(v, one)",
    "h = Conv(x, empty)",
    "h = Add(x, empty)",
    "h = local.Sum(x)",
    "h = local.Sum(x, w, w, w)",
]


@pytest.mark.parametrize("body", BROKEN)
def test_operands_that_do_not_fit_are_no_fault(body: str) -> None:
    """Whether a runtime takes it is not for the analysis to say; every tensor has an entry all the same."""
    model = build(
        f"(float[n,3,9,9] x) => (y) {{ {body} y = Relu(h) }}",
        functions="""<domain: "local", opset_import: ["": 17]> Sum (a, b) => (c) { c = Add(a, b) }""",
        check=False,
        w=(6, 3, 3, 3),
        one=np.array(1.5, np.float32),
        empty=(0, 3, 3, 3),
    )
    file = ModelFile.of(model)
    assert_complete(file, analyse(file))


def test_an_input_that_an_operator_requires_is_missed_by_name() -> None:
    model = build("(float[n,3,9] x) => (y) { h = Conv(x, , b) y = Relu(h) }", check=False, b=(6,))
    model.graph.node[0].name = "first"
    with pytest.raises(ModelError, match=r"node 'first' \(Conv\) lacks its input 'W'; export the model again"):
        analysed(model)


def test_an_input_is_missed_in_branches_and_functions_too() -> None:
    branch = build(
        """(float[n] x, bool c) => (y) { y = If(c) < then_branch = t () => (p) { p = Add(x) },
        else_branch = e () => (q) { q = Relu(x) } > }""",
        check=False,
    )
    function = build(
        "(float[n] x) => (y) { y = local.F(x) }",
        functions="""<domain: "local", opset_import: ["": 17]> F (a) => (b) { b = Add(a) }""",
        check=False,
    )
    for model in (branch, function):
        with pytest.raises(ModelError, match=r"\(Add\) lacks its input 'B'"):
            analysed(model)


# ---------------------------------------------------------------- shared and tied


def test_a_layer_used_three_times_is_one_weight() -> None:
    model = build(
        "(float[n,4] x) => (float[n,4] y) { a = MatMul(x, w) b = Relu(a) c = MatMul(b, w) d = Tanh(c)"
        " y = MatMul(d, w) }",
        w=(4, 4),
    )
    w = weights(model)["w"]
    assert len(w.uses) == 3
    assert w.tied_to == ()
    assert [f.name for f in w.downstream] == ["relu", "tanh"]
    assert [f.name for f in w.upstream] == ["relu", "tanh"]


def test_the_weights_of_a_function_called_twice_are_one() -> None:
    model = build(
        "(float[n,2] x) => (float[n,2] y) { h = local.F(x) y = local.F(h) }",
        functions="""<domain: "local", opset_import: ["": 17]> F (a) => (b) {
        w = Constant<value = float[2,2] {1, 2, 3, 4}>() h = MatMul(a, w) b = Relu(h) }""",
    )
    (w,) = analysed(model).weights
    assert (w.id, w.where, w.role, len(w.uses)) == ("function:local::F/w", "constant", "weight", 2)
    assert w.path == "functions[0].node[0].attribute[0].t"


def test_tied_encoder_and_decoder() -> None:
    """An autoencoder whose decoder is the encoder turned: the encoder's reading decides."""
    model = build(
        "(float[n,8] x) => (float[n,8] y) { h = MatMul(x, w) r = Relu(h) t = Transpose(w) y = MatMul(r, t) }", w=(8, 3)
    )
    w = weights(model)["w"]
    assert (w.fan_in, w.fan_out) == (8, 3)
    assert w.uses == (Use("MatMul", "", 1), Use("MatMul", "", 1, ("Transpose",)))


def external(path: Path, *named: tuple[str, int]) -> onnx.ModelProto:
    """Two layers whose weights lie in one file at the offsets given."""
    model = build("(float[n,4] x) => (float[n,4] y) { h = MatMul(x, v) r = Relu(h) y = MatMul(r, w) }", check=False)
    for name, offset in named:
        t = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4, 4], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "weights.bin"), ("offset", str(offset)), ("length", "64")):
            t.external_data.add(key=key, value=value)
        model.graph.initializer.append(t)
    onnx.save(model, path)
    return model


def test_two_tensors_of_one_place_are_tied(tmp_path: Path) -> None:
    external(tmp_path / "m.onnx", ("v", 0), ("w", 0))
    v, w = analyse(ModelFile.open(tmp_path / "m.onnx")).weights
    assert (v.tied_to, v.shares) == (("w",), "")
    assert (w.tied_to, w.shares) == (("v",), "v")


def test_two_tensors_of_two_places_are_not(tmp_path: Path) -> None:
    external(tmp_path / "m.onnx", ("v", 0), ("w", 64))
    assert [(w.tied_to, w.shares) for w in analyse(ModelFile.open(tmp_path / "m.onnx")).weights] == [((), "")] * 2


@pytest.mark.parametrize("name", EVERY)
def test_data_that_is_not_there_changes_nothing_about_weights(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model_of(name), path, save_as_external_data=True, location="m.bin", size_threshold=2048)
    with_data = analyse(ModelFile.open(path))
    (tmp_path / "m.bin").unlink(missing_ok=True)
    without = analyse(ModelFile.open(path))
    assert {ident: without.by_id[ident] for ident in with_data.by_id} == with_data.by_id


def test_small_external_shapes_do_no_harm(tmp_path: Path) -> None:
    """All tensors external, those that say shapes too."""
    model, path = model_of("transformer"), tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    (tmp_path / "m.bin").unlink()
    file = ModelFile.open(path)
    assert_complete(file, analyse(file))


def test_kernels_that_are_made_at_run_time_are_listed() -> None:
    model = build(
        "(float[n,4] x) => (float[n,3] y) {"
        " w = ConstantOfShape<value = float[1] {0.02}>(s) h = MatMul(x, w) r = RandomNormal<shape = [5, 3]>()"
        " z = MatMul(h, r) noise = RandomNormalLike(z) u = RandomUniform<shape = [3]>() a = Add(z, noise)"
        " y = Mul(a, u) }",
        s=np.array([4, 5]),
    )
    made = {k.id: (k.shape, k.dtype, k.reason) for k in analysed(model).kept if "run time by" in k.reason}
    why = "made at run time by {}, so that the file holds no values to replace"
    assert made == {
        "w": ((4, 5), "float", why.format("ConstantOfShape")),
        "r": ((5, 3), "float", why.format("RandomNormal")),
    }


def test_pads_that_are_put_together_with_nothing_are_no_kernels() -> None:
    """As torch writes a padding: the pads given, filled up with as many zeros as are missing, which may be none."""
    model = build(
        "(float[2,3] x) => (float[m,k] y) { z = ConstantOfShape<value = int64[1] {0}>(none) c = Concat<axis = 0>(p, z)"
        " r = Reshape(c, pairs) t = Transpose(r) f = Reshape(t, flat) w = Pad(x, f) y = MatMul(w, k) }",
        none=np.array([0]), p=np.array([1, 0, 0, 2]), pairs=np.array([2, 2]), flat=np.array([-1]), k=(5, 4),
    )  # fmt: skip
    assert {name for name, role in roles(model).items() if role} == {"k"}


# ---------------------------------------------------------------- the whole network


def test_a_network_without_norms_is_said_to_be_so() -> None:
    assert analysed(model_of("mlp_tanh30")).normless
    assert not analysed(model_of("resnet_bn")).normless
    assert not analysed(model_of("norms, gates, residual")).normless
    assert not analysed(build("(float[n] x) => (float[n] y) { y = Relu(x) }")).normless


def test_the_depth_for_layer_scales_is_their_number() -> None:
    assert analysed(model_of("norms, gates, residual")).depth == 1


@pytest.mark.parametrize("name", EVERY)
def test_the_model_is_left_as_it_is(name: str) -> None:
    file = ModelFile.of(model_of(name))
    before = copy(file.proto)
    analyse(file)
    assert file.proto == before
