"""Moments without data: mean and variance of every value by rule, and gains that make every layer's variance one."""

from onnxinit.signal.moments.analytic import Prediction, Predictions, analytic, by_moments, predict
from onnxinit.signal.moments.feeding import input_moments

__all__ = ["Prediction", "Predictions", "analytic", "by_moments", "input_moments", "predict"]
