"""Data through the model: calibration data, pieces run in ONNX Runtime, LSUV and other passes from a plan to a plan."""

from onnxinit.signal.diagnose import Look, look_at
from onnxinit.signal.diagnosis import Diagnosis, Gradient, LayerHealth, Trouble
from onnxinit.signal.feeds import DataOptions, Feeds, open_feeds, parse_dims
from onnxinit.signal.findings import Finding, Signal
from onnxinit.signal.images import ImageOptions
from onnxinit.signal.inputs import Input, model_inputs
from onnxinit.signal.settle import Calibration, settle
from onnxinit.signal.walk import Running

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
