"""A plan's entries to bytes, lazily and in any number of threads."""

from onnxinit.values.codes import NARROW, pack, parameters, real_values, symmetric
from onnxinit.values.draw import Values, fresh
from onnxinit.values.following import decoded, drawn
from onnxinit.values.tally import Tally

__all__ = [
    "NARROW",
    "Tally",
    "Values",
    "decoded",
    "drawn",
    "fresh",
    "pack",
    "parameters",
    "real_values",
    "symmetric",
]
