"""Quantised models on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

MODELS = Path(__file__).parent.parent.parent / "models"
Run = Callable[..., Any]


@pytest.fixture
def cnn(tmp_path: Path) -> Path:
    path = tmp_path / "cnn.onnx"
    path.write_bytes((MODELS / "cnn_int8.onnx").read_bytes())
    return path


def scales(path: Path) -> dict[str, float]:
    held = onnx.load(path).graph.initializer
    return {t.name: float(numpy_helper.to_array(t).max()) for t in held if t.name.endswith("_scale")}


def test_scales_stay_on_request(onnxinit: Run, cnn: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out.onnx", tmp_path / "report.json"
    done = onnxinit("reinit", cnn, "-o", out, "--scheme", "normal:std=3", "--keep-scales", "--report", report)
    assert done.status == 0
    assert scales(out) == scales(cnn)
    assert "kept by --keep-scales" in done.out
    assert "cuts off up to" in " ".join(done.out.split())
    told = json.loads(report.read_text())
    assert told["plan"]["arguments"]["keep_scales"] is True
    assert any("cuts off up to" in warning for warning in told["warnings"])
    assert onnxinit("inspect", cnn, "--keep-scales").status == 0
    again = onnxinit("reinit", cnn, "--plan", report, "--keep-scales", "--force")
    assert (again.status, "a plan is given, which says it all: leave out keep_scales" in again.err) == (1, True)


def test_activations_follow_the_data(onnxinit: Run, cnn: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(0, 5, (16, 1, 28, 28)).astype(np.float32))
    given = ["reinit", cnn, "--data", tmp_path / "x.npy", "--force", "--quiet"]
    fresh, stale = tmp_path / "fresh.onnx", tmp_path / "stale.onnx"
    done = onnxinit(*[a for a in given if a != "--quiet"], "-o", fresh)
    assert re.search(r"measured on 16 samples of .*: \d+ scales of activations set", " ".join(done.out.split()))
    assert onnxinit(*given, "-o", stale, "--no-recalibrate-activations").status == 0
    assert scales(fresh)["image_scale"] > 2 * scales(cnn)["image_scale"]
    assert scales(stale)["image_scale"] == scales(cnn)["image_scale"]
    said = " ".join(onnxinit("reinit", cnn, "--dry-run").out.split())
    assert re.search(r"\d+ scales of quantised activations stay as calibrated for the old weights, image_scale, ", said)
    assert "as calibrated" not in done.out
    wrong = onnxinit(*given, "-o", stale, "--recalibrate-activations", "--keep-scales")
    assert (wrong.status, "give one of them" in wrong.err) == (1, True)


def test_subnormal_numbers_are_told_and_flushed(onnxinit: Run, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float16[n,60] x) => (float16[n,50] y) { y = MatMul(x, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((60, 50), np.float16), "w"))
    onnx.save(model, tmp_path / "m.onnx")
    done = onnxinit("reinit", tmp_path / "m.onnx", "--scheme", "normal:std=1e-4")
    assert done.status == 0 and "values are subnormal in float16, in w" in " ".join(done.out.split())
    done = onnxinit("reinit", tmp_path / "m.onnx", "--scheme", "normal:std=1e-4", "--force", "--flush-subnormals")
    assert done.status == 0
    values = numpy_helper.to_array(onnx.load(tmp_path / "m.reinit.onnx").graph.initializer[0]).astype(np.float64)
    assert (values == 0).sum() > 500 and np.abs(values[values != 0]).min() >= 2.0**-14
