from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from onnxinit.cli.main import run

MODELS = Path(__file__).parent.parent.parent / "models"


class Done(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def onnxinit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """The command line, run in this process."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def call(*args: object) -> Done:
        capsys.readouterr()
        status = run([str(a) for a in args])
        return Done(status, *capsys.readouterr())

    return call


@pytest.fixture
def lstm(tmp_path: Path) -> Path:
    """A model in a folder of its own."""
    path = tmp_path / "lstm.onnx"
    path.write_bytes((MODELS / "bilstm_tagger.onnx").read_bytes())
    return path
