"""`--prune-unused`: initializers that nothing uses, in any graph, are left out on request."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from graphs import build
from onnx import TensorProto, helper, numpy_helper

import onnxinit
from onnxinit.cli.main import run
from onnxinit.model import ModelFile, unused_initializers

TEXT = "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w) y = Add(h, b) }"


def info(name: str, kind: int = TensorProto.FLOAT, shape: tuple[int | str, ...] = ()) -> onnx.ValueInfoProto:
    made: onnx.ValueInfoProto = helper.make_tensor_value_info(name, kind, shape)
    return made


def littered() -> onnx.ModelProto:
    """Unused tensors between used ones: small, large, of integers, sparse, with a value_info of its own."""
    model = build(TEXT, u=(5,), w=(4, 3), v=(30, 20), b=(3,), i=np.arange(4))
    model.graph.value_info.extend([info("v", shape=(30, 20)), info("h", shape=("n", 3))])
    values, indices = numpy_helper.from_array(np.ones(2, np.float32), "s"), numpy_helper.from_array(np.array([0, 3]))
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=indices, dims=[9]))
    return model


def names(model: onnx.ModelProto) -> list[str]:
    return [t.name for t in model.graph.initializer] + [s.values.name for s in model.graph.sparse_initializer]


def ran(model: onnx.ModelProto | Path) -> npt.NDArray[Any]:
    given = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    found: npt.NDArray[Any] = onnxruntime.InferenceSession(given).run(None, {"x": np.ones((2, 4), np.float32)})[0]
    return found


def test_they_are_kept_and_listed_without_the_option() -> None:
    result = onnxinit.reinit(littered(), scheme="he")
    assert result.model is not None
    assert names(result.model) == ["u", "w", "v", "b", "i", "s"]
    listed = {k.id: k.reason for k in result.kept}
    assert {listed[n] for n in ("u", "v", "i", "s")} == {"nothing uses it"}
    assert not result.plan.removed


def test_they_are_left_out_with_it(tmp_path: Path) -> None:
    model = littered()
    result = onnxinit.reinit(model, scheme="he", prune_unused=True)
    assert result.model is not None
    assert names(result.model) == ["w", "b"]
    assert [v.name for v in result.model.graph.value_info] == ["h"]
    assert [e.id for e in result.plan.entries] == ["w", "b"]
    assert not result.kept
    assert set(result.plan.removed) >= {"u", "v", "i", "s"}
    plain = onnxinit.reinit(model, scheme="he").model
    assert plain is not None
    np.testing.assert_array_equal(ran(result.model), ran(plain))
    expected = onnx.ModelProto()
    expected.CopyFrom(plain)
    for i in (4, 2, 0):
        del expected.graph.initializer[i]
    del expected.graph.sparse_initializer[:]
    del expected.graph.value_info[0]
    assert result.model.graph == expected.graph
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(model, path)
    onnxinit.reinit(path, out, scheme="he", prune_unused=True)
    assert onnx.load(out).graph == expected.graph
    onnx.checker.check_model(out)
    assert onnxinit.inspect(path, prune_unused=True).plan.removed == result.plan.removed


def test_the_command_says_so_and_a_plan_repeats_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out, report = tmp_path / "m.onnx", tmp_path / "out.onnx", tmp_path / "r.json"
    onnx.save(littered(), path)
    assert run(["reinit", str(path), "-o", str(out), "--prune-unused", "--report", str(report)]) == 0
    text = capsys.readouterr().out
    assert "left out: " in text
    assert "nothing uses it (u, " in text
    data = json.loads(report.read_text())
    assert {"u", "v", "i", "s"} <= set(data["plan"]["removed"])
    made = ModelFile.open(out)
    assert {w["id"]: w["std"] for w in data["written"]}["w"] == pytest.approx(made.array("graph.initializer[0]").std())
    again = tmp_path / "again.onnx"
    assert run(["reinit", str(path), "-o", str(again), "--plan", str(report)]) == 0
    assert again.read_bytes() == out.read_bytes()


def test_the_passes_keep_the_list(tmp_path: Path) -> None:
    for scheme in ("lsuv", "analytic"):
        result = onnxinit.reinit(littered(), scheme=scheme, prune_unused=True)
        assert "v" in result.plan.removed
        assert result.model is not None
        assert names(result.model) == ["w", "b"]


def test_inputs_of_the_same_name_go_too() -> None:
    """In IR 3 every initializer is an input as well; an unused one that stayed would have to be fed."""
    model = build(TEXT, w=(4, 3), u=(5,), b=(3,), check=False)
    model.ir_version = 3
    for name, shape in (("w", (4, 3)), ("u", (5,)), ("b", (3,))):
        model.graph.input.append(info(name, shape=shape))
    onnx.checker.check_model(model)
    result = onnxinit.reinit(model, scheme="he", prune_unused=True)
    assert result.model is not None
    assert [i.name for i in result.model.graph.input] == ["x", "w", "b"]
    onnx.checker.check_model(result.model)
    assert ran(result.model).shape == (2, 3)


def subgraphs() -> onnx.ModelProto:
    """Tensors that only subgraphs use, or hand out, or hold unused."""
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["p"])], "then", [], [info("p", shape=(2, 3))],
        [helper.make_tensor("idle", TensorProto.FLOAT, [2], [1.0, 2.0])],
    )  # fmt: skip
    stored = helper.make_tensor("k", TensorProto.FLOAT, [2, 3], [1.0] * 6)
    other = helper.make_graph([], "other", [], [info("k", shape=(2, 3))], [stored])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    held = [
        helper.make_tensor("w", TensorProto.FLOAT, [4, 3], np.arange(12.0)),
        helper.make_tensor("c", TensorProto.BOOL, [], [True]),
        helper.make_tensor("idle", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("out", TensorProto.FLOAT, [1], [1.0]),
    ]
    graph = helper.make_graph(
        [branch], "g", [info("x", shape=(2, 4))], [info("y", shape=(2, 3)), info("out", shape=(1,))], held
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_subgraphs_count_and_are_pruned() -> None:
    model = subgraphs()
    assert set(unused_initializers(model)) == {
        "graph.initializer[2]", "graph.node[0].attribute[1].g.initializer[0]"
        if model.graph.node[0].attribute[0].name == "else_branch" else "graph.node[0].attribute[0].g.initializer[0]",
    }  # fmt: skip
    result = onnxinit.reinit(model, prune_unused=True)
    assert result.model is not None
    assert names(result.model) == ["w", "c", "out"]
    inner = {a.name: [t.name for t in a.g.initializer] for a in result.model.graph.node[0].attribute}
    assert inner == {"then_branch": [], "else_branch": ["k"]}
    assert len(result.plan.removed) == 2
    assert ran(result.model).shape == (2, 3)


def test_what_annotations_and_training_name_stays() -> None:
    model = littered()
    annotation = model.graph.quantization_annotation.add(tensor_name="w")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="u")
    training = model.training_info.add()
    training.update_binding.add(key="v", value="next")
    training.algorithm.node.add(op_type="Identity", input=["i"], output=["next"])
    assert list(unused_initializers(model)) == ["graph.sparse_initializer[0]"]


def test_a_body_s_input_of_the_same_name_stays() -> None:
    model = subgraphs()
    branch = model.graph.node[0].attribute[0].g
    branch.input.append(info("idle"))
    branch.initializer.append(helper.make_tensor("idle", TensorProto.FLOAT, [1], [1.0]))
    place = f"graph.node[0].attribute[0].g.initializer[{len(branch.initializer) - 1}]"
    assert place not in unused_initializers(model)


@pytest.fixture
def external(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(littered(), path, save_as_external_data=True, location="m.bin", size_threshold=0)
    return path


def test_external_data_is_not_copied(external: Path, tmp_path: Path) -> None:
    out, pruned = tmp_path / "out.onnx", tmp_path / "pruned.onnx"
    onnxinit.reinit(external, out, scheme="he")
    onnxinit.reinit(external, pruned, scheme="he", prune_unused=True)
    assert (tmp_path / "out.onnx.data").stat().st_size >= 30 * 20 * 4
    assert (tmp_path / "pruned.onnx.data").stat().st_size < 30 * 20 * 4
    np.testing.assert_array_equal(ran(pruned), ran(out))


def test_unused_data_need_not_be_there(external: Path, tmp_path: Path) -> None:
    (tmp_path / "m.bin").unlink()
    with pytest.raises(onnxinit.ModelError, match=r"'u'.*, which is kept: its external data 'm\.bin' is missing"):
        onnxinit.reinit(external, tmp_path / "out.onnx", scheme="he")
    onnxinit.reinit(external, tmp_path / "out.onnx", scheme="he", prune_unused=True)
    assert ran(tmp_path / "out.onnx").shape == (2, 3)


def test_the_data_of_what_is_left_out_is_not_overwritten(tmp_path: Path) -> None:
    """A file that holds nothing but unused data, under the name that the output's data would get."""
    path = tmp_path / "m.onnx"
    model = littered()
    onnx.save(model, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    (tmp_path / "out.onnx.data").write_bytes(b"\0" * 2400)
    loose = onnx.load(path, load_external_data=False)
    for entry in loose.graph.initializer[2].external_data:
        entry.value = {"location": "out.onnx.data", "offset": "0"}.get(entry.key, entry.value)
    path.write_bytes(loose.SerializeToString())
    with pytest.raises(onnxinit.ModelError, match="holds data of the input"):
        onnxinit.reinit(path, tmp_path / "out.onnx", scheme="he", prune_unused=True, force=True)
    assert (tmp_path / "out.onnx.data").read_bytes() == b"\0" * 2400


def test_in_place(external: Path, tmp_path: Path) -> None:
    expected = tmp_path / "out.onnx"
    onnxinit.reinit(external, expected, scheme="he", prune_unused=True)
    onnxinit.reinit(external, in_place=True, scheme="he", prune_unused=True)
    np.testing.assert_array_equal(ran(external), ran(expected))
    assert names(onnx.load(external)) == ["w", "b"]


def test_what_generated_weights_leave_behind_goes_too() -> None:
    model = build(
        "(float[n,40] x) => (float[n,30] y) { w = ConstantOfShape(s) y = MatMul(x, w) }", s=np.array([40, 30])
    )
    result = onnxinit.reinit(model, scheme="he", prune_unused=True)
    assert [(w.id, w.where) for w in result.weights] == [("w", "generated")]
    assert result.plan.removed == ("s",)
    assert result.model is not None
    assert names(result.model) == ["w"]
    kept = onnxinit.reinit(model, scheme="he", prune_unused=True, exclude="w")
    assert not kept.plan.removed
    assert kept.model is not None
    assert names(kept.model) == ["s"]


@pytest.mark.parametrize("build_model", [littered, subgraphs])
def test_nothing_is_unused_afterwards(build_model: Callable[[], onnx.ModelProto]) -> None:
    made = onnxinit.reinit(build_model(), prune_unused=True).model
    assert made is not None
    assert not unused_initializers(made)
    assert onnxinit.reinit(made, prune_unused=True).plan.removed == ()
