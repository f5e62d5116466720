from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import onnxinit as package
from onnxinit.schemes import SCHEMES

Run = Callable[..., Any]
ROOT = Path(__file__).parent.parent.parent
REAL = ROOT.parent / "shared" / "real"


def test_inspect_shows_what_reinit_would_do(onnxinit: Run, lstm: Path) -> None:
    done = onnxinit("inspect", lstm, "--scheme", "he", "--rule", "tags.bias=keep")
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    planned = onnxinit("reinit", lstm, "--dry-run", "--scheme", "he", "--rule", "tags.bias=keep").out.splitlines()
    assert set(planned[2:7]) <= set(lines)
    assert any(line.split() == ["tags.bias", "bias", "12", "kept"] for line in lines)
    assert "     1  kept by the rule 'tags.bias=keep' (tags.bias)" in lines
    summary = " ".join(done.out.rpartition("\n\n")[2].split())
    assert summary == f"{lstm}: IR version 8, ai.onnx 17; 6 weights of 22,828 parameters, 1 other tensor"


def test_inspect_as_json(onnxinit: Run, lstm: Path) -> None:
    done = onnxinit("inspect", lstm, "--json", "--scheme", "xavier")
    assert (done.status, done.err) == (0, "")
    assert json.loads(done.out) == package.inspect(lstm, scheme="xavier").to_json()


def test_schemes_lists_them_all(onnxinit: Run) -> None:
    done = onnxinit("schemes")
    assert (done.status, done.err) == (0, "")
    text = " ".join(done.out.split())
    for scheme in SCHEMES.values():
        for part in (scheme.name, *scheme.aliases, *(p.name for p in scheme.parameters)):
            assert part in text
        for sentence in (scheme.summary, scheme.formula, scheme.source):
            assert " ".join(sentence.split()) in text
    assert "    nonzeros=15  an integer, at least 0." in done.out
    assert all(len(line) <= 100 and line == line.rstrip() for line in done.out.splitlines())


def test_schemes_as_json(onnxinit: Run) -> None:
    data = json.loads(onnxinit("schemes", "--json").out)
    assert data["format"] == "onnxinit.schemes/1"
    assert [s["name"] for s in data["schemes"]] == list(SCHEMES)
    sparse = next(s for s in data["schemes"] if s["name"] == "sparse")
    assert list(sparse) == ["name", "aliases", "summary", "formula", "source", "parameters", "gain", "exact"]
    assert [p | {"help": ""} for p in sparse["parameters"]][1] == {
        "name": "sparsity", "kind": "number", "default": None, "choices": [], "least": 0, "most": 1, "help": "",
    }  # fmt: skip
    he = next(s for s in data["schemes"] if s["name"] == "he")
    assert he["aliases"]["kaiming_uniform"] == {"distribution": "uniform"}
    assert he["gain"] is True


@pytest.mark.skipif(not REAL.exists(), reason="no models beside the repository")
@pytest.mark.parametrize("width", ["80", "200"])
def test_tables_of_real_models_hold_every_id(onnxinit: Run, monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    monkeypatch.setenv("COLUMNS", width)
    for model in [*REAL.glob("*.onnx"), *(ROOT / "models").glob("*.onnx")]:
        done = onnxinit("reinit", model, "--dry-run")
        assert (done.status, done.err) == (0, "")
        assert all(len(line) <= int(width) for line in done.out.splitlines())
        weights = package.inspect(model).weights
        if len(weights) <= 40:
            assert all(w.id in done.out for w in weights)
        assert len(done.out.splitlines()) < 2 * 40 + 60
