"""Synthetic feeds for models at hand: those of the package, and the corpus where it lies beside the repository."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from onnxinit.model import ModelFile
from onnxinit.signal import model_inputs, open_feeds

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared"
MODELS = [*sorted((ROOT / "models").glob("*.onnx")), *sorted((SHARED / "real").glob("*.onnx"))]
TRUTHS = sorted((SHARED / "corpus").glob("*.truth.json"))


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_models_run(path: Path) -> None:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for feed in open_feeds(None, model_inputs(ModelFile.open(path).proto)):
        assert all(np.isfinite(out).all() for out in session.run(None, feed) if out.dtype.kind == "f")


@pytest.mark.skipif(not TRUTHS, reason="no corpus beside the repository")
def test_values_are_those_that_the_corpus_was_run_with() -> None:
    """Ids below the same bound, ones for the same masks; but for an adjacency matrix that is compared with zero."""
    wrong = []
    for path in TRUTHS:
        truth = json.loads(path.read_text())
        proto = ModelFile.open(path.with_name(path.name.replace(".truth.json", ".onnx"))).proto
        (feed,) = open_feeds(None, model_inputs(proto), samples=1, batch_size=1)
        for told in truth["inputs"]:
            x = feed[told["name"]]
            right = list(x.shape) == told["shape"]
            if told.get("ones"):
                right &= bool((x == 1).all())
            elif "low" in told:
                right &= bool((x >= told["low"]).all() and (x < told["high"]).all() and x.max() > told["high"] // 3)
            else:
                right &= x.dtype.kind == "f" and bool(np.unique(x).size > x.size / 2)
            if not right:
                wrong.append((truth["name"], told["name"]))
    assert wrong == [("gat_dense_dyn18", "adj")]
