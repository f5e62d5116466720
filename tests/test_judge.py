"""The corpus of models whose every tensor is known, where it lies beside the repository."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
JUDGE = SHARED / "judge" / "judge.py"

pytestmark = pytest.mark.skipif(not JUDGE.exists(), reason="no corpus beside the repository")

# One per way to store a weight and per family of operators; the whole corpus takes the judge some minutes.
SAMPLE = [
    "autoencoder_ts13",
    "smallcnn_ts13_training",
    "smallcnn_constnodes_ts14",
    "mlp_functions_inside_ts15",
    "if_conv_ts14",
    "lstmcell_loop_body_ts17",
    "lstm2bi_ts15",
    "grouped_conv_dyn18",
    "dw_convtranspose_ts17",
    "keras_cnn_ts13",
    "mobilenetv2_fp16_ts15",
    "gpt2_dyn18",
    "bert_mlm_ortopt_ts14",
]


def judge(what: str, folder: str, tmp_path: Path, *options: str) -> dict[str, Any]:
    """The scores and the misses."""
    out = tmp_path / "judged.json"
    tool = f"{sys.executable} -m onnxinit"
    command = [sys.executable, str(JUDGE), what, str(SHARED / folder), "--cmd", tool, "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    judged: dict[str, Any] = json.loads(out.read_text())
    return judged


def test_the_corpus_is_understood(tmp_path: Path) -> None:
    least = {"found": 98, "roles": 97, "fans": 97, "activations": 95, "constants": 99.8}
    judged = judge("inspect", "corpus", tmp_path)
    below = {key: judged["scores"][key] for key, least in least.items() if judged["scores"][key]["percent"] < least}
    assert not below, judged["misses"]


@pytest.mark.parametrize("model", SAMPLE)
def test_a_model_of_the_corpus_is_rewritten_and_nothing_else(model: str, tmp_path: Path) -> None:
    judged = judge("reinit", "corpus", tmp_path, "--only", model)
    assert {"written", "valid", "finite", "graph", "fresh", "same bytes", "input kept"} <= set(judged["scores"])
    assert judged["misses"] == []


def test_models_from_the_wild_keep_every_promise(tmp_path: Path) -> None:
    judged = judge("real", "real", tmp_path, "--schemes", "he,xavier,orthogonal,sparse,auto")
    assert {"inspected", "listed", "written", "valid", "loads", "fresh", "untouched"} <= set(judged["scores"])
    assert judged["misses"] == []
