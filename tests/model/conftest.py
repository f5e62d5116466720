"""Fresh values for tests, and small models."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxinit.model import Chunk, ModelFile


@dataclass
class Values:
    """Given raw bytes as fresh values, in chunks that end anywhere and come in any order."""

    raw: bytes
    chunk: int = 7

    @property
    def nbytes(self) -> int:
        return len(self.raw)

    def chunks(self) -> Iterator[Chunk]:
        for at in reversed(range(0, len(self.raw), self.chunk)):
            piece = np.frombuffer(self.raw[at : at + self.chunk], np.uint8)
            yield Chunk(at, piece.nbytes, lambda piece=piece: piece)


@pytest.fixture
def values() -> Callable[..., Values]:
    """Fresh values of a tensor: bytes that are finite numbers in every float type, by the tensor's path."""

    def make(file: ModelFile, path: str, salt: int = 0) -> Values:
        tensor = file.tensors[path]
        of = str(tensor.identity if tensor.storage == "external" else path)
        rng = np.random.default_rng([salt, *of.encode()])
        return Values(rng.integers(0x30, 0x40, tensor.nbytes, np.uint8).tobytes())

    return make


@pytest.fixture
def mlp() -> onnx.ModelProto:
    """Two layers, weights above and below 1 KiB, integer shape in a Constant node."""
    rng = np.random.default_rng(0)
    w1, b1 = rng.standard_normal((20, 30), np.float32), rng.standard_normal(30, np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([-1, 30]))),
        helper.make_node("Reshape", ["r", "shape"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", 1, ["n", 20])],
        [helper.make_tensor_value_info("y", 1, ["n", 30])],
        [numpy_helper.from_array(w1, "w1"), numpy_helper.from_array(b1, "b1")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def mlp_path(mlp: onnx.ModelProto, tmp_path: Path) -> Path:
    path = tmp_path / "mlp.onnx"
    onnx.save(mlp, path)
    return path


@pytest.fixture
def external_path(mlp: onnx.ModelProto, tmp_path: Path) -> Path:
    """The same with all initializers in `weights.bin`."""
    path = tmp_path / "mlp.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(mlp)  # saving leaves the references in the model
    onnx.save(copy, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path
