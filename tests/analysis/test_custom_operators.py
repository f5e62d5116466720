"""Operators that a user describes in a file, or that another package enters."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import Given, build, kinds

from onnxinit import plugins
from onnxinit.analysis.analyse import analyse
from onnxinit.analysis.operators import HOLDS, KEEPS, OPERATORS, load_operators
from onnxinit.analysis.weight import Analysis
from onnxinit.errors import ModelError, SchemeError
from onnxinit.model import ModelFile

LINEAR = """
[[operator]]
domain = "com.example"
op = "Linear"
input = 1
role = "weight"
axes = ["out", "in"]

[[operator]]
domain = "com.example"
op = "Linear"
input = 2
role = "bias"
"""


@pytest.fixture
def described(tmp_path: Path) -> Path:
    return tmp_path / "ops.toml"


def analysed(model: onnx.ModelProto, path: Path, text: str) -> Analysis:
    path.write_text(text, encoding="utf-8")
    return analyse(ModelFile.of(model), operators=load_operators(path))


def one(axes: str, more: str = "", role: str = "weight") -> str:
    head = '[[operator]]\ndomain = "com.example"\nop = "Mixer"\ninput = 1\n'
    return f'{head}role = "{role}"\naxes = {axes}\n{more}'


def mixer(attributes: str = "", **tensors: Given) -> onnx.ModelProto:
    return build(
        f"(float[n,4] x) => (y) {{ h = com.example.Mixer{attributes}(x, w) y = Relu(h) }}", check=False, **tensors
    )


def test_a_described_layer_is_a_layer(described: Path) -> None:
    model = build(
        "(float[n,4] x) => (y) { t = Tanh(x) h = com.example.Linear(t, w, b) y = Relu(h) z = com.example.Other(b) }",
        check=False, w=(6, 4), b=(6,),
    )  # fmt: skip
    found = analysed(model, described, LINEAR)
    w, b = found.by_id["w"], found.by_id["b"]
    assert (w.role, w.fan_in, w.fan_out) == ("weight", 4, 6)
    assert ([a.name for a in w.upstream], [a.name for a in w.downstream]) == (["tanh"], ["relu"])
    assert b.role == "bias"
    assert not found.kept


def test_nothing_is_known_without_the_file() -> None:
    model = build("(float[n,4] x) => (y) { y = com.example.Linear(x, w) }", check=False, w=(6, 4))
    (kept,) = analyse(ModelFile.of(model)).kept
    assert kept.reason == "feeds Linear of domain 'com.example', which is not known"


@pytest.mark.parametrize(
    ("axes", "more", "attributes", "shape", "fans", "layout"),
    [
        ('["in", "out"]', "", "", (4, 6), (4, 6), [((4, "in"),), ((6, "out"),)]),
        ('["in", "3*out"]', "", "", (4, 12), (4, 4), [((4, "in"),), ((3, "block"), (4, "out"))]),
        ('["block", "out", "in"]', "", "", (3, 6, 4), (4, 6), [((3, "block"),), ((6, "out"),), ((4, "in"),)]),
        ('["out", "in", "kernel"]', "", "", (6, 4, 3), (12, 18), [((6, "out"),), ((4, "in"),), ((3, "kernel"),)]),
        (
            '["g*out", "in", "kernel"]', 'groups = "group"', "<group = 2>", (6, 4, 3), (12, 9),
            [((2, "block"), (3, "out")), ((4, "in"),), ((3, "kernel"),)],
        ),
        ('["g*out", "in"]', 'groups = "group"', "", (6, 4), (4, 6), [((6, "out"),), ((4, "in"),)]),
        ('["g*in", "out"]', 'groups = "g"', "<g = 2>", (8, 3), (4, 3), [((2, "block"), (4, "in")), ((3, "out"),)]),
    ],
)  # fmt: skip
def test_axes(
    described: Path,
    axes: str,
    more: str,
    attributes: str,
    shape: tuple[int, ...],
    fans: tuple[int, int],
    layout: list[tuple[tuple[int, str], ...]],
) -> None:
    w = analysed(mixer(attributes, w=shape), described, one(axes, more)).by_id["w"]
    assert (w.fan_in, w.fan_out) == fans
    assert kinds(w) == layout


def test_a_role_without_matrices_needs_no_axes(described: Path) -> None:
    text = one('["out"]', role="norm_scale").replace('axes = ["out"]\n', "")
    w = analysed(mixer(w=(4,)), described, text).by_id["w"]
    assert (w.role, w.layout, w.fan_in) == ("norm_scale", None, None)


def test_a_description_comes_before_the_table_and_beside_it(described: Path) -> None:
    model = build("(float[1,4,5] x) => (y) { y = Conv(x, w, b) }", w=(6, 4, 1), b=(6,), check=False)
    text = '[[operator]]\ndomain = "ai.onnx"\nop = "Conv"\ninput = 2\nrole = "norm_shift"\n'
    found = analysed(model, described, text)
    assert (found.by_id["b"].role, found.by_id["w"].role) == ("norm_shift", "weight")
    rotary = build(
        "(float[1,2,3,4] x) => (y) { y = RotaryEmbedding(x, c, s) }", opset=23, check=False, c=(3, 2), s=(3, 2)
    )
    learned = '[[operator]]\nop = "RotaryEmbedding"\ninput = 1\nrole = "positional"\n'
    found = analysed(rotary, described, learned)
    assert [w.id for w in found.weights] == ["c"]
    assert [k.reason for k in found.kept] == ["a rotary table"]


def test_a_described_operator_in_a_function_and_behind_a_turn(described: Path) -> None:
    functions = '<domain: "local", opset_import: ["": 17, "com.example": 1]> F (a, b) => (c) {'
    functions += " t = Transpose(b) c = com.example.Mixer(a, t) }"
    model = build("(float[n,4] x) => (y) { y = local.F(x, w) }", functions=functions, check=False, w=(4, 6))
    w = analysed(model, described, one('["out", "in"]')).by_id["w"]
    assert (w.fan_in, w.fan_out) == (4, 6)
    assert kinds(w) == [((4, "in"),), ((6, "out"),)]


# ---------------------------------------------------------------- what is wrong with it


NONE = "describes no operators: start each with a line [[operator]], and nothing else"
NO_AXIS = "is no axis: out, in, kernel or block, or such as 3*out or g*out"
TOGETHER = ', operator 1: groups = "attribute" and an axis "g*out" or "g*in" go together'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[operator]", "is not TOML: "),
        ("", NONE),
        ('version = 1\n[[operator]]\nop = "A"', NONE),
        ("[operator]\na = 1", NONE),
        ('[[operator]]\nop = "A"', ", operator 1 does not say input nor role"),
        (one('["out", "in"]') + '[[operator]]\nop = "A"\ninput = 0', ", operator 2 does not say role"),
        (one('["out", "in"]', 'axis = "out"'), ", operator 1 has no use for 'axis': did you mean 'axes'?"),
        (one('["out", "in"]', "zzz = 1"), ", operator 1 has no use for 'zzz': it takes domain, op, input, "),
        (one('"out"'), ", operator 1: axes = 'out' is not a list"),
        (one('["out"]').replace("input = 1", 'input = "1"'), ", operator 1: input = '1' is not a whole number"),
        (one('["out"]').replace("input = 1", "input = true"), ", operator 1: input = True is not a whole number"),
        (one('["out"]').replace("input = 1", "input = -1"), ", operator 1: input = -1 is not a whole number from 0 on"),
        (one('["out"]', role="wieght"), ", operator 1: there is no role 'wieght': did you mean 'weight'?"),
        (one('["out"]', role="quant_scale"), ", operator 1: there is no role 'quant_scale'"),
        (one("[]"), ', operator 1: a weight needs axes, such as axes = ["out", "in"]'),
        (one('["out", "inn"]'), f", operator 1: 'inn' {NO_AXIS}"),
        (one('["0*out", "in"]'), f", operator 1: '0*out' {NO_AXIS}"),
        (one("[1, 2]"), f", operator 1: 1 {NO_AXIS}"),
        (one('["g*out", "in"]'), TOGETHER),
        (one('["out", "in"]', 'groups = "group"'), TOGETHER),
        (one('["out", "in"]') + one('["in", "out"]'), ", operator 2 describes input 1 of Mixer again: remove one"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be(described: Path, text: str, message: str) -> None:
    described.write_text(text, encoding="utf-8")
    with pytest.raises(SchemeError) as e:
        load_operators(described)
    assert str(described) in str(e.value)
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match=r"the operators in .*nowhere\.toml cannot be read: No such file"):
        load_operators(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        ('["out", "in"]', (6, 4, 3), "gives 2 axes for 'w' of shape [6, 4, 3]: give one word for each axis"),
        ('["5*out", "in"]', (6, 4), "cuts an axis of 'w' of shape [6, 4] into 5 parts, which 6 is no multiple of"),
    ],
)
def test_a_description_that_does_not_fit(described: Path, axes: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ModelError) as e:
        analysed(mixer(w=shape), described, one(axes))
    assert message in str(e.value)
    assert f"{described}, operator 1" in str(e.value)


def test_groups_that_do_not_fit(described: Path) -> None:
    text = one('["g*out", "in"]', 'groups = "group"')
    for given, parts in (("<group = 4>", 4), ("<group = 0>", 0)):
        with pytest.raises(ModelError, match=f"into {parts} parts, which 6 is no multiple of"):
            analysed(mixer(given, w=(6, 4)), described, text)


# ---------------------------------------------------------------- other packages


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that enters an operator; whatever it enters is forgotten afterwards."""
    plugins.load_plugins.cache_clear()
    monkeypatch.setattr(plugins, "entry_points", lambda group: [EntryPoint("one", "acme_operators", group)])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "acme_operators", raising=False)
    before = [(table, dict(table)) for table in (OPERATORS, HOLDS, KEEPS)]
    yield tmp_path / "acme_operators.py"
    for table, rows in before:
        table.clear()
        table.update(rows)
    plugins.load_plugins.cache_clear()


def test_operators_of_other_packages(package: Path) -> None:
    package.write_text(
        "from onnxinit.analysis.operators import vectors\n"
        "vectors('Warp', domain='com.acme', holds={1: 'norm_scale (C)'})\n",
        encoding="utf-8",
    )
    model = build("(float[n,4] x) => (y) { y = com.acme.Warp(x, g) }", check=False, g=(4,))
    assert [w.role for w in analyse(ModelFile.of(model)).weights] == ["norm_scale"]
    usual = build("(float[n,4] x) => (y) { y = MatMul(x, w) }", w=(4, 2), check=False)
    assert len(analyse(ModelFile.of(usual)).weights) == 1


def test_a_package_that_cannot_be_loaded(package: Path) -> None:
    package.write_text("raise RuntimeError('no licence')\n", encoding="utf-8")
    model = build("(float[n,4] x) => (y) { y = com.acme.Warp(x, g) }", check=False, g=np.ones(4, np.float32))
    with pytest.raises(SchemeError) as e:
        analyse(ModelFile.of(model))
    assert str(e.value) == "the operators of 'acme_operators' cannot be loaded (RuntimeError: no licence)"
