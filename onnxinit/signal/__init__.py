"""Data through the model: calibration data, the model run in pieces, passes from a plan to a plan, and its health.

Names are imported when they are used: a run that looks at no signal does not wait for those that do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxinit.signal.data.feeds import Feeds, open_feeds
    from onnxinit.signal.data.inputs import Input, model_inputs
    from onnxinit.signal.data.options import DataOptions, ImageOptions, parse_dims
    from onnxinit.signal.health.diagnose import Look, look_at
    from onnxinit.signal.health.diagnosis import Diagnosis, Gradient, LayerHealth, Trouble
    from onnxinit.signal.passes.findings import Finding, Signal
    from onnxinit.signal.run.running import Running
    from onnxinit.signal.settling import settle
    from onnxinit.signal.told import Calibration

_HOME = {
    "Calibration": "told",
    "DataOptions": "data.options",
    "Diagnosis": "health.diagnosis",
    "Feeds": "data.feeds",
    "Finding": "passes.findings",
    "Gradient": "health.diagnosis",
    "ImageOptions": "data.options",
    "Input": "data.inputs",
    "LayerHealth": "health.diagnosis",
    "Look": "health.diagnose",
    "Running": "run.running",
    "Signal": "passes.findings",
    "Trouble": "health.diagnosis",
    "look_at": "health.diagnose",
    "model_inputs": "data.inputs",
    "open_feeds": "data.feeds",
    "parse_dims": "data.options",
    "settle": "settling",
}

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


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'onnxinit.signal' has no attribute '{name}'")
    return getattr(importlib.import_module(f"onnxinit.signal.{_HOME[name]}"), name)
