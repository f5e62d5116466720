"""Data through the model: calibration data, pieces run in ONNX Runtime, LSUV and other passes from a plan to a plan."""

from onnxinit.signal.data.feeds import DataOptions, Feeds, open_feeds, parse_dims
from onnxinit.signal.data.images import ImageOptions
from onnxinit.signal.data.inputs import Input, model_inputs
from onnxinit.signal.health.diagnose import Look, look_at
from onnxinit.signal.health.diagnosis import Diagnosis, Gradient, LayerHealth, Trouble
from onnxinit.signal.passes.findings import Finding, Signal
from onnxinit.signal.run.walk import Running
from onnxinit.signal.settle import Calibration, settle

__all__ = [
    "Calibration",
    "DataOptions",
    "Diagnosis",
    "Feeds",
    "Finding",
    "Gradient",
    "ImageOptions",
    "Input",
    "LayerHealth",
    "Look",
    "Running",
    "Signal",
    "Trouble",
    "look_at",
    "model_inputs",
    "open_feeds",
    "parse_dims",
    "settle",
]
