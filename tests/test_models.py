"""The sample models: valid, runnable, small, and the same again from their script."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

FOLDER = Path(__file__).parent.parent / "models"
FILES = [p for p in FOLDER.glob("*.onnx") if not p.name.endswith(".reinit.onnx")]  # what a reader may have made there
NAMES = ["resnet_bn", "mlp_tanh30", "unet_depthwise", "bilstm_tagger", "transformer", "cnn_int8"]
FEEDS = {
    "resnet_bn": {"image": (3, 3, 32, 32)},
    "mlp_tanh30": {"features": (3, 32)},
    "unet_depthwise": {"image": (3, 3, 32, 32)},
    "bilstm_tagger": {"tokens": (3, 17)},
    "transformer": {"tokens": (3, 17)},
    "cnn_int8": {"image": (3, 1, 28, 28)},
}
OUTPUTS = {
    "resnet_bn": (3, 10),
    "mlp_tanh30": (3, 10),
    "unet_depthwise": (3, 1, 32, 32),
    "bilstm_tagger": (3, 17, 12),
    "transformer": (3, 17, 256),
    "cnn_int8": (3, 10),
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build", FOLDER / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["build"] = module
    spec.loader.exec_module(module)
    return module


def test_every_builder_has_its_file_and_every_file_its_builder(script: ModuleType) -> None:
    assert sorted(script.BUILDERS) == sorted(NAMES) == sorted(p.stem for p in FILES)


def test_the_files_are_small() -> None:
    assert sum(p.stat().st_size for p in FILES) < 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_valid_and_runs_with_any_batch(name: str) -> None:
    onnx.checker.check_model(str(FOLDER / f"{name}.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(str(FOLDER / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feed = {
        at: rng.integers(0, 256, shape) if at == "tokens" else rng.standard_normal(shape, np.float32)
        for at, shape in FEEDS[name].items()
    }
    (result,) = session.run(None, feed)
    assert result.shape == OUTPUTS[name]
    assert np.isfinite(result).all()
    assert result.std() > 0


@pytest.mark.parametrize("name", [n for n in NAMES if n != "cnn_int8"])
def test_the_script_rebuilds_the_file(name: str, script: ModuleType) -> None:
    assert script.BUILDERS[name]() == onnx.load(str(FOLDER / f"{name}.onnx"))


def test_the_script_rebuilds_the_quantised_model_but_for_its_calibration(script: ModuleType) -> None:
    """The ranges are measured by running a model: their last bits, and the names around them, follow the runtime."""
    new, old = script.BUILDERS["cnn_int8"](), onnx.load(str(FOLDER / "cnn_int8.onnx"))
    assert sorted(n.op_type for n in new.graph.node) == sorted(n.op_type for n in old.graph.node)
    fresh = {t.name: numpy_helper.to_array(t) for t in new.graph.initializer}
    kernels = [t for t in old.graph.initializer if t.name.endswith("weight_quantized")]
    assert len(kernels) == 3
    for tensor in [*kernels, *(t for t in old.graph.initializer if t.name.startswith("fc."))]:
        np.testing.assert_array_equal(fresh[tensor.name], numpy_helper.to_array(tensor))
    for tensor in old.graph.initializer:
        if tensor.name.endswith("_scale") and tensor.name in fresh:
            np.testing.assert_allclose(fresh[tensor.name], numpy_helper.to_array(tensor), rtol=1e-3)
