"""Data through the model: calibration feeds."""

from onnxinit.signal.feeds import DataOptions, Feeds, open_feeds, parse_dims
from onnxinit.signal.images import ImageOptions
from onnxinit.signal.inputs import Input, model_inputs

__all__ = ["DataOptions", "Feeds", "ImageOptions", "Input", "model_inputs", "open_feeds", "parse_dims"]
