"""`onnxinit diagnose` and `reinit --diagnose` as a user meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from graphs import build

MODELS = Path(__file__).parent.parent.parent / "models"
Cli = Callable[..., Any]


def test_a_table_and_a_verdict(onnxinit: Cli) -> None:
    done = onnxinit("diagnose", MODELS / "mlp_tanh30.onnx", "--threads", 1)
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].split() == ["layer", "op", "std", "mean", "dead", "saturated", "gradient", "vs", "last"]
    assert sum(line.startswith("layers.") for line in lines) == 30
    assert "measured on 32 samples of synthetic data" in lines
    assert any(line.startswith("verdict: vanishing: on its way back the gradient is below 0.001 of") for line in lines)


def test_one_document(onnxinit: Cli) -> None:
    done = onnxinit("diagnose", MODELS / "transformer.onnx", "--json", "--threads", 1, "--gradient-layers", 3)
    said = json.loads(done.out, parse_constant=pytest.fail)
    assert list(said) == ["format", "data", "verdict", "troubles", "input", "layers", "missed", "notes", "seconds"]
    assert (said["format"], said["verdict"]) == ("onnxinit.diagnosis/1", "healthy")
    assert said["data"] == {"source": "synthetic", "samples": 32}
    assert said["input"]["from"].startswith("the embedded ids")
    assert [h["gradient"] is not None for h in said["layers"]] == [True, False, False, False, True, False, False, True]
    g = said["layers"][0]["gradient"]
    assert g["backward"] == pytest.approx(g["mean_square"] * g["size"] / g["outputs"])
    ids = [h["id"] for h in said["layers"]]
    assert ids[:2] == ["blocks.0.attention.qkv.weight", "blocks.0.attention.out.weight"]


def test_data_and_probes(onnxinit: Cli, tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 32)).astype(np.float32))
    path = MODELS / "mlp_tanh30.onnx"
    done = onnxinit(
        "diagnose", path, "--data", tmp_path / "x.npy", "--samples", 9, "--probes", 3, "--gradient-layers", 0
    )
    assert "measured on 9 samples of" in done.out
    assert "x.npy" in done.out
    done = onnxinit("diagnose", path, "--data", tmp_path / "no.npy")
    assert (done.status, done.out) == (1, "")
    assert onnxinit("diagnose", path, "--probes", 1).status == 2


def test_before_and_after(onnxinit: Cli, tmp_path: Path) -> None:
    out, report = tmp_path / "o.onnx", tmp_path / "r.json"
    args = ("reinit", MODELS / "mlp_tanh30.onnx", "-o", out, "--scheme", "lsuv", "--threads", 1)
    done = onnxinit(*args, "--diagnose", "--report", report)
    assert done.status == 0
    assert "before: vanishing: " in done.out
    assert "after: healthy" in done.out.splitlines()
    (row,) = [line for line in done.out.splitlines() if line.startswith("layers.1.weight") and " -> " in line]
    assert row.split()[2] == "->"
    said = json.loads(report.read_text())["diagnosis"]
    assert (said["before"]["verdict"], said["after"]["verdict"]) == ("vanishing", "healthy")
    assert said["after"]["layers"][0]["std"] == pytest.approx(float(row.split()[3]), rel=0.01)
    done = onnxinit(*args, "--force", "--json")
    assert "diagnosis" not in json.loads(done.out)


def test_old_weights_that_are_not_there(onnxinit: Cli, tmp_path: Path) -> None:
    model = build("(float[n, 20] x) => (float[n, 30] y) { y = MatMul (x, w) }", w=[20, 30])
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="gone.bin", size_threshold=0)
    (tmp_path / "gone.bin").unlink()
    done = onnxinit("diagnose", path)
    assert (done.status, done.out) == (1, "")
    assert "its external data 'gone.bin' is missing" in done.err
    done = onnxinit("reinit", path, "-o", tmp_path / "fresh.onnx", "--diagnose")
    assert done.status == 0
    assert "diagnosis of the fresh weights alone:" in done.out
    assert "verdict: healthy" in done.out.splitlines()


def test_a_dry_run_looks_at_what_is_there(onnxinit: Cli) -> None:
    done = onnxinit("reinit", MODELS / "mlp_tanh30.onnx", "--diagnose", "--dry-run", "--threads", 1)
    assert "verdict: vanishing" in done.out
