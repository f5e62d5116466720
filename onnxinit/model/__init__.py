"""A model file: wire scanner, skeleton, where each tensor's bytes lie, writer."""

from onnxinit.model.file import ModelFile
from onnxinit.model.tensor import StoredTensor

__all__ = ["ModelFile", "StoredTensor"]
