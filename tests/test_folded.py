"""Networks whose batch norms were folded into their convolutions are seen, and told of where the scheme is not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import build, tensor

import onnxinit
from onnxinit.cli.main import run

BEGINNING = (
    "every convolution has a bias and there is no norm, as where batch norms were folded away: nothing corrects "
)


def chain(layers: int, step: str = "c{i} = Conv<pads = [1, 1, 1, 1]>(r{j}, w{i}, b{i})") -> onnx.ModelProto:
    """Convolutions with a ReLU behind each, from 4 channels to 4."""
    lines = [f"{step.format(i=i, j=i - 1)} r{i} = Relu(c{i})" for i in range(1, layers + 1)]
    text = f"(float[n,4,8,8] x) => (float[n,4,8,8] y) {{ r0 = Identity(x) {' '.join(lines)} y = Identity(r{layers}) }}"
    model = build(text, check=False)
    for name in dict.fromkeys(re.findall(r"\b[bw]\d+\b", text)):
        model.graph.initializer.append(tensor(name, (4, 4, 3, 3) if name[0] == "w" else (4,)))
    return model


def warned(model: onnx.ModelProto, **asked: object) -> list[str]:
    """What a dry run says of folding."""
    said = onnxinit.reinit(model, dry_run=True, **asked).warnings  # type: ignore[arg-type]
    return [w for w in said if w.startswith(BEGINNING)]


@pytest.mark.parametrize("scheme", ["he", "xavier", "orthogonal", "normal:std=0.02", "variance_scaling"])
def test_a_scheme_that_looks_at_the_weight_alone_is_warned_of(scheme: str) -> None:
    name = scheme.partition(":")[0]
    (warning,) = warned(chain(12), scheme=scheme)
    assert warning == f"{BEGINNING}what {name} makes of the variance over 12 layers; auto, analytic and lsuv keep it"


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"scheme": "auto"},
        {"scheme": "analytic"},
        {"scheme": "lsuv"},
        {"scheme": "pca"},
        {"scheme": "he", "calibrate": True},
        {"scheme": "xavier:gain=1.7"},
        {"scheme": "sparse"},  # which takes a steady std there
        {"scheme": "shuffle"},
        {"scheme": "match"},
        {"scheme": "zeros"},
        {"scheme": "he", "include": "w1?"},  # three layers of twelve
        {"scheme": "he", "cascade": 4},
    ],
    ids=str,
)
def test_one_that_makes_up_for_it_is_not(asked: dict[str, object]) -> None:
    assert not warned(chain(12), **asked)


def test_a_rule_counts() -> None:
    assert not warned(chain(12), scheme="he", rules="op:Conv=auto")
    assert warned(chain(12), rules="op:Conv=he")


def test_what_is_not_deep_is_no_matter() -> None:
    assert not warned(chain(9), scheme="he")
    assert warned(chain(10), scheme="he")


def test_a_bias_in_an_addition_and_quantised_kernels_count() -> None:
    added = "k{i} = Conv<pads = [1, 1, 1, 1]>(r{j}, w{i}) c{i} = Add(k{i}, b{i})"
    model = chain(12, added)
    for t in model.graph.initializer:
        if t.name.startswith("b"):
            t.dims[:] = [1, 4, 1, 1]
    assert warned(model, scheme="he")


@pytest.mark.parametrize(
    "step",
    [
        "c{i} = Conv<pads = [1, 1, 1, 1]>(r{j}, w{i})",  # without biases: nothing was folded into them
        "k{i} = Conv<pads = [1, 1, 1, 1]>(r{j}, w{i}, b{i}) c{i} = LpNormalization<axis = 1>(k{i})",
        "v{i} = Tanh(w{i}) c{i} = Conv<pads = [1, 1, 1, 1]>(r{j}, v{i}, b{i})",  # a kernel that the graph makes
    ],
)
def test_networks_that_were_not_folded(step: str) -> None:
    assert not warned(chain(12, step), scheme="he")


def test_norms_and_other_layers_are_no_folded_networks() -> None:
    root = Path(__file__).parent.parent / "models"
    assert not warned(onnx.load(root / "mlp_tanh30.onnx"), scheme="he")  # deep, without norms, and without convolutions
    assert not warned(onnx.load(root / "resnet_bn.onnx"), scheme="he")
    assert not warned(onnx.load(root / "transformer.onnx"), scheme="he")


def test_both_commands_say_it_in_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, report, out = tmp_path / "m.onnx", tmp_path / "r.json", tmp_path / "o.onnx"
    onnx.save(chain(12), path)
    for command in (["inspect", str(path)], ["reinit", str(path), "--dry-run"]):
        assert run([*command, "--scheme", "he"]) == 0
        assert BEGINNING[:40] in " ".join(capsys.readouterr().out.split())
        assert run(command) == 0
        assert BEGINNING[:40] not in " ".join(capsys.readouterr().out.split())
    assert run(["inspect", str(path), "--scheme", "he", "--json"]) == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert warning.startswith(BEGINNING)
    assert run(["reinit", str(path), "-o", str(out), "--scheme", "he", "--report", str(report)]) == 0
    assert warning in json.loads(report.read_text())["plan"]["warnings"]


def test_a_plan_that_was_settled_is_not_warned_of(tmp_path: Path) -> None:
    model = chain(12)
    x = np.random.default_rng(0).standard_normal((8, 4, 8, 8)).astype(np.float32)
    plan = onnxinit.reinit(model, scheme="lsuv:base=he", data={"x": x}).plan
    assert not warned(model, plan=plan)
