"""A model file: wire scanner, skeleton, where each tensor's bytes lie, writer."""

from onnxinit.model.draft import draft
from onnxinit.model.file import ModelFile
from onnxinit.model.materialise import Generated, materialised
from onnxinit.model.prune import unused_initializers, without
from onnxinit.model.stream import Chunk, Fresh
from onnxinit.model.tensor import LISTS, StoredTensor
from onnxinit.model.writer import build, write

__all__ = [
    "LISTS",
    "Chunk",
    "Fresh",
    "Generated",
    "ModelFile",
    "StoredTensor",
    "build",
    "draft",
    "materialised",
    "unused_initializers",
    "without",
    "write",
]
