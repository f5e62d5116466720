"""Models of ONNX Runtime's own operators for the tests: run them, and take their weights apart as the analysis says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from graphs import Array, Given, analysed

from onnxinit.analysis.weight import Weight

Shapes = dict[str, Given]
Floats = npt.NDArray[np.float32]


def run(model: onnx.ModelProto | Path, *, optimised: bool = True, **feed: Array) -> list[Array]:
    """What ONNX Runtime makes of a model, or of a file; node by node as it is written where it is not optimised."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def run_if_it_can(model: onnx.ModelProto, **feed: Array) -> list[Array]:
    """Skip the test where the release of ONNX Runtime lacks the operator."""
    try:
        return run(model, **feed)
    except Exception as e:
        if "NOT_IMPLEMENTED" not in str(e) and "only supports" not in str(e):
            raise
        pytest.skip("this ONNX Runtime has no kernel for it")


def stored(model: onnx.ModelProto, name: str) -> Array:
    return next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def blocks(model: onnx.ModelProto, weight: Weight) -> list[Array]:
    """The matrices (out, in, *kernel) of a weight, in order."""
    assert weight.layout is not None
    return [b for part in weight.layout.parts for b in part.to_canonical(stored(model, weight.name))]


def drawn(*shape: int) -> Floats:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def reasons(model: onnx.ModelProto) -> dict[str, str]:
    return {k.id: k.reason for k in analysed(model).kept}


def softmax(scores: Array) -> Array:
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))
