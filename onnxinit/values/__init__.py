"""A plan's entries to bytes, lazily and in any number of threads."""

from onnxinit.values.codes import pack, real_values
from onnxinit.values.draw import Values, fresh

__all__ = ["Values", "fresh", "pack", "real_values"]
