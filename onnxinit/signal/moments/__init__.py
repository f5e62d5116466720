"""Moments without data: mean and variance of every value by rule, and gains that make every layer's variance one."""

from onnxinit.signal.moments.analytic import Prediction, Predictions, analytic, predict

__all__ = ["Prediction", "Predictions", "analytic", "predict"]
