"""A plan's entries to bytes, lazily and in any number of threads."""

from onnxinit.values.codes import pack, real_values
from onnxinit.values.draw import Values, fresh
from onnxinit.values.following import decoded, drawn

__all__ = ["Values", "decoded", "drawn", "fresh", "pack", "real_values"]
