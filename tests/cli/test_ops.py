"""`--ops`: operators that a user describes, at the command line and from Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from graphs import build
from onnx import numpy_helper

import onnxinit as package
from onnxinit import plugins
from onnxinit.errors import SchemeError
from onnxinit.model import ModelFile
from onnxinit.plan import Plan

Run = Callable[..., Any]

WEIGHT = '[[operator]]\ndomain = "com.example"\nop = "Linear"\ninput = 1\nrole = "weight"\naxes = ["out", "in"]\n'
BIAS = '[[operator]]\ndomain = "com.example"\nop = "Linear"\ninput = 2\nrole = "bias"\n'
TEXT = "(float[n,400] x) => (y) { h = com.example.Linear(x, w, b) y = Relu(h) }"


@pytest.fixture
def custom(tmp_path: Path) -> Path:
    """A model with an operator that nobody knows."""
    path = tmp_path / "custom.onnx"
    onnx.save(build(TEXT, check=False, w=(300, 400), b=(300,)), path)
    return path


@pytest.fixture
def ops(tmp_path: Path) -> Path:
    path = tmp_path / "ops.toml"
    path.write_text(WEIGHT + BIAS, encoding="utf-8")
    return path


def arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def test_a_described_operator_is_drawn(onnxinit: Run, custom: Path, ops: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    without = onnxinit("reinit", custom, "-o", out, "--scheme", "he")
    assert without.status == 0
    assert "nothing to rewrite" in without.out
    done = onnxinit("reinit", custom, "-o", out, "--scheme", "he", "--ops", ops, "--force")
    assert (done.status, done.err) == (0, "")
    made = arrays(out)
    n = made["w"].size
    assert made["w"].std() == pytest.approx(np.sqrt(2 / 400), rel=5 / np.sqrt(2 * n))
    assert not made["b"].any()
    again = package.reinit(custom, tmp_path / "again.onnx", scheme="he", ops=str(ops))
    assert again.path is not None
    assert again.path.read_bytes() == out.read_bytes()


def test_inspect_shows_it(onnxinit: Run, custom: Path, ops: Path) -> None:
    found = json.loads(onnxinit("inspect", custom, "--ops", ops, "--json").out)
    assert [(w["id"], w["role"], w["fan_in"]) for w in found["weights"]] == [("w", "weight", 400), ("b", "bias", 400)]
    assert found == package.inspect(custom, ops=ops).to_json()
    assert [k.id for k in package.inspect(custom).kept] == ["w", "b"]


def test_several_files(onnxinit: Run, custom: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text(WEIGHT, encoding="utf-8")
    two.write_text(BIAS, encoding="utf-8")
    assert [w.id for w in package.inspect(custom, ops=[one, two]).weights] == ["w", "b"]
    assert [w.id for w in package.inspect(custom, ops=one).weights] == ["w"]
    done = onnxinit("inspect", custom, "--ops", one, "--ops", two, "--ops", two)
    assert (done.status, done.out) == (1, "")
    assert f"{two}, operator 1 describes input 2 of Linear again: remove one" in done.err


def test_a_plan_takes_the_operators_it_was_made_with(onnxinit: Run, custom: Path, ops: Path, tmp_path: Path) -> None:
    first, report = tmp_path / "first.onnx", tmp_path / "report.json"
    assert onnxinit("reinit", custom, "-o", first, "--ops", ops, "--seed", 3, "--report", report).status == 0
    assert Plan.load(report).arguments["ops"] == [str(ops)]
    second = tmp_path / "second.onnx"
    assert onnxinit("reinit", custom, "-o", second, "--plan", report).status == 0
    assert second.read_bytes() == first.read_bytes()
    moved = ops.rename(tmp_path / "moved.toml")
    third = tmp_path / "third.onnx"
    done = onnxinit("reinit", custom, "-o", third, "--plan", report)
    assert done.status == 1
    assert "ops.toml cannot be read: No such file or directory; the plan was made with them: give them by" in done.err
    assert not third.exists()
    assert onnxinit("reinit", custom, "-o", third, "--plan", report, "--ops", moved).status == 0
    assert third.read_bytes() == first.read_bytes()


def test_other_arguments_beside_a_plan_are_refused(custom: Path, ops: Path) -> None:
    plan = package.reinit(custom, dry_run=True, ops=ops).plan
    with pytest.raises(SchemeError, match=r"leave out scheme$"):
        package.reinit(custom, dry_run=True, plan=plan, scheme="he", ops=ops)


@pytest.mark.parametrize("command", ["reinit", "inspect", "diagnose"])
def test_what_is_wrong_with_a_file_is_said(onnxinit: Run, custom: Path, ops: Path, command: str) -> None:
    ops.write_text(WEIGHT.replace('"weight"', '"wieght"'), encoding="utf-8")
    done = onnxinit(command, custom, "--ops", ops)
    assert (done.status, done.out) == (1, "")
    assert done.err.count("\n") == 1
    assert f"{ops}, operator 1: there is no role 'wieght': did you mean 'weight'?" in done.err
    done = onnxinit(command, custom, "--ops", ops.with_name("none.toml"))
    assert (done.status, done.out) == (1, "")
    assert "none.toml cannot be read: No such file or directory" in done.err
    assert sorted(p.name for p in custom.parent.iterdir()) == ["custom.onnx", "ops.toml"]


def test_operators_that_the_model_lacks_are_warned_of(custom: Path, ops: Path) -> None:
    ops.write_text(WEIGHT.replace("Linear", "Linaer"), encoding="utf-8")
    (warning,) = package.reinit(custom, dry_run=True, ops=ops).warnings
    assert warning == "the model has none of the operators described: Linaer of domain 'com.example'"
    ops.write_text(WEIGHT + BIAS.replace("Linear", "Other"), encoding="utf-8")
    assert not package.reinit(custom, dry_run=True, scheme="he", ops=ops).warnings


def test_diagnose_looks_at_a_described_layer(tmp_path: Path) -> None:
    # The program's own table makes a layer of it, the description does not.
    model = build(
        "(float[32,8] x) => (float[32,8] y) { h = com.microsoft.FusedMatMul(x, w) y = Relu(h) }", check=False, w=(8, 8)
    )
    path, ops = tmp_path / "m.onnx", tmp_path / "ops.toml"
    onnx.save(model, path)
    text = '[[operator]]\ndomain = "com.microsoft"\nop = "FusedMatMul"\ninput = 1\nrole = "other"\n'
    ops.write_text(text, encoding="utf-8")
    assert [layer.id for layer in package.diagnose(path).layers] == ["w"]
    assert not package.diagnose(path, ops=ops).layers
    result = package.reinit(path, tmp_path / "out.onnx", ops=ops, diagnose=True)
    assert result.after is not None
    assert not result.after.layers


def test_a_donor_is_read_with_the_same_operators(custom: Path, ops: Path, tmp_path: Path) -> None:
    student = tmp_path / "student.onnx"
    onnx.save(build(TEXT.replace("400", "200"), check=False, w=(150, 200), b=(150,)), student)
    result = package.reinit(student, tmp_path / "out.onnx", scheme=f"donor:path={custom}", ops=ops)
    assert {e.scheme.name for e in result.plan.entries} == {"donor"}
    assert result.path is not None
    taken = [np.arange(n) * 2 for n in (150, 200)]
    np.testing.assert_array_equal(arrays(result.path)["w"], arrays(custom)["w"][np.ix_(*taken)])


def test_a_package_enters_operators(
    custom: Path, ops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, onnxinit: Run
) -> None:
    from onnxinit.analysis.operators import HOLDS, OPERATORS

    (tmp_path / "example_operators.py").write_text(
        "from onnxinit.analysis.operators import vectors\n"
        "vectors('Linear', domain='com.example', holds={2: 'norm_shift (N)'})\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "entry_points", lambda group: [EntryPoint("one", "example_operators", group)])
    plugins.load_plugins.cache_clear()
    try:
        found = json.loads(onnxinit("inspect", custom, "--json").out)
        assert [(w["id"], w["role"]) for w in found["weights"]] == [("b", "norm_shift")]
        both = package.inspect(custom, ops=ops)  # a description comes before what a package enters
        assert [(w.id, w.role) for w in both.weights] == [("w", "weight"), ("b", "bias")]
    finally:
        plugins.load_plugins.cache_clear()
        OPERATORS.pop(("com.example", "Linear"), None)
        HOLDS.pop(("com.example", "Linear"), None)


def test_a_model_in_memory(custom: Path, ops: Path) -> None:
    result = package.reinit(onnx.load(custom), scheme="he", ops=[str(ops)])
    assert result.model is not None
    assert [e.id for e in result.plan.entries] == ["w", "b"]
    assert ModelFile.of(result.model).array("graph.initializer[0]").std() == pytest.approx(np.sqrt(2 / 400), rel=0.02)
