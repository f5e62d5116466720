"""The promises on the models at hand, and that the sweep sees a broken one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx.parser
import pytest
from onnx import ModelProto

import onnxinit
from tests.sweep.__main__ import main
from tests.sweep.promises import PROMISES, Checked, check_file, difference
from tests.sweep.workers import sweep

ROOT = Path(__file__).parent.parent.parent
FILES = [*sorted((ROOT / "models").glob("*.onnx")), *sorted((ROOT.parent / "shared" / "real").glob("*.onnx"))]
SAMPLE = ROOT / "models" / "bilstm_tagger.onnx"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_promise_is_kept(path: Path, tmp_path: Path) -> None:
    checked = check_file(path, tmp_path)
    assert (checked.broken, checked.refused) == ({}, "")
    assert set(checked.held) == set(PROMISES)
    assert checked.weights > 0


def test_a_refusal_is_one_where_nobody_takes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(b"no model")
    (tmp_path / "work").mkdir()
    checked = check_file(path, tmp_path / "work")
    assert "is not an ONNX model" in checked.refused
    assert checked.broken == {}


def test_a_refusal_of_a_good_file_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*given: object, **named: object) -> None:
        raise onnxinit.OnnxinitError("no")

    monkeypatch.setattr(onnxinit, "reinit", refuses)
    assert set(check_file(SAMPLE, tmp_path).broken) == {"accepted"}


def test_a_traceback_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxinit, "inspect", lambda path: [][0])
    broken = check_file(SAMPLE, tmp_path).broken
    assert list(broken) == ["answers"]
    assert "IndexError" in broken["answers"]


def _another_value(model: ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if len(t.raw_data) > 8)
    tensor.raw_data = tensor.raw_data[:-1] + bytes([tensor.raw_data[-1] ^ 1])


def _another_type(model: ModelProto) -> None:
    model.graph.initializer[0].data_type = onnx.TensorProto.INT32


CHANGES: dict[str, Callable[[ModelProto], object]] = {
    "a value": _another_value,
    "the type of a tensor": _another_type,
    "a tensor more": lambda m: m.graph.initializer.add(),
    "a name": lambda m: setattr(m.graph.node[0], "name", "other"),
    "the order of nodes": lambda m: m.graph.node.insert(0, m.graph.node.pop()),
    "metadata": lambda m: onnx.helper.set_model_props(m, {"onnxinit": "x", "other": "x"}),
    "a field that nobody knows": lambda m: m.MergeFromString(b"\xfa\x7f\x03abc"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_seen(change: str) -> None:
    old, new = onnx.load(str(SAMPLE)), onnx.load(str(SAMPLE))
    folders = (SAMPLE.parent, SAMPLE.parent)
    assert difference(old, new, [], folders) is None
    CHANGES[change](new)
    assert difference(old, new, [], folders) is not None


def test_values_may_differ_where_the_plan_says_so() -> None:
    old, new = onnx.load(str(SAMPLE)), onnx.load(str(SAMPLE))
    _another_value(new)
    at = next(i for i, t in enumerate(new.graph.initializer) if len(t.raw_data) > 8)
    weights = {w.path: w for w in onnxinit.inspect(SAMPLE).weights}
    folders = (SAMPLE.parent, SAMPLE.parent)
    assert difference(old, new, [weights[f"graph.initializer[{at}]"]], folders) is None
    others = [w for w in weights.values() if w.path != f"graph.initializer[{at}]"]
    assert difference(old, new, others, folders) is not None


MADE = """<ir_version: {}, opset_import: ["": 17, "local": 1]> g (float[2,4] x, bool c) => (float[2,4] y) {{
    s = Constant<value = int64[2] {{4, 4}}>() l = Constant<value_floats = [0.1, -0.7, 0.2, 0.9]>()
    w = RandomNormal<shape = [4, 4]>() h = MatMul(x, w) k = Add(h, l)
    r = Relu(k)
    i = If<then_branch = a () => (float[2,4] z) {{ v = ConstantOfShape(s) z = MatMul(r, v) }},
           else_branch = b () => (float[2,4] z) {{ z = Identity(r) }}>(c)
    y = local.Layer(i) }}
    <domain: "local", opset_import: ["": 17]> Layer (a) => (b) {{
    m = RandomUniform<shape = [4, 4]>() e = EyeLike(m) n = MatMul(a, m) o = MatMul(n, e)
    f = Constant<value_floats = [0.3, -0.4, 0.1, 0.8]>() b = Add(o, f) }}"""


@pytest.mark.parametrize("ir", [3, 8])
def test_nodes_that_made_weights_are_gone_and_nothing_else(ir: int, tmp_path: Path) -> None:
    path, out = tmp_path / "made.onnx", tmp_path / "fresh.onnx"
    onnx.save(onnx.parser.parse_model(MADE.format(ir)), str(path))
    result = onnxinit.reinit(path, out)
    assert sorted(w.name for w in result.weights) == ["e", "f", "l", "m", "v", "w"]
    old, new, folders = onnx.load(str(path)), onnx.load(str(out)), (tmp_path, tmp_path)
    assert difference(old, new, result.weights, folders) is None
    for change in ("a name", "a tensor more", "the order of nodes", "a field that nobody knows"):
        other = onnx.load(str(out))
        CHANGES[change](other)
        assert difference(old, other, result.weights, folders) is not None
    assert difference(old, new, [w for w in result.weights if w.name != "v"], folders) is not None


def _of_many_tempers(path: Path, work: Path) -> Checked:
    if path.stem == "crash":
        os.abort()
    if path.stem == "hang":
        time.sleep(60)
    return Checked(held=["answers"])


def test_a_crash_and_a_hang_cost_their_own_file_alone() -> None:
    files = [Path(name) for name in ("one", "crash", "two", "hang", "three")]
    found = dict(sweep(files, jobs=1, limit=2, check=_of_many_tempers))
    assert found[Path("crash")].broken == {"answers": "the process died, with exit status -6"}
    assert found[Path("hang")].broken == {"answers": "no answer within 2 seconds"}
    assert all(found[Path(name)].held == ["answers"] for name in ("one", "two", "three"))


def test_the_status_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.onnx").touch()
    arguments = [str(tmp_path), "--jobs", "1", str(tmp_path)]
    assert main(arguments, _of_many_tempers) == 0
    (tmp_path / "crash.onnx").touch()
    assert main(arguments, _of_many_tempers) == 1
    assert "BROKEN answers" in capsys.readouterr().out
