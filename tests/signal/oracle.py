"""The oracle of the tests of signals: a saved model, run whole in ONNX Runtime with inner values as outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

Array = npt.NDArray[np.generic]


def run(
    model: onnx.ModelProto, feed: Mapping[str, Array], names: Sequence[str] = ()
) -> dict[str, npt.NDArray[np.float64]]:
    """The outputs of a model and the inner values named, as float64."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {o.name for o in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = [o.name for o in copy.graph.output]
    return {n: np.asarray(v, np.float64) for n, v in zip(wanted, session.run(wanted, dict(feed)), strict=True)}


def normal(*shape: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> npt.NDArray[np.float32]:
    """Numbers that are no model's weights."""
    drawn = np.random.default_rng(seed).standard_normal(shape)
    return (shift + scale * drawn).astype(np.float32)
