"""Small graphs for the tests of the analysis, and the questions that they ask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
from onnx import numpy_helper

from onnxinit.analysis.analyse import analyse
from onnxinit.analysis.view import GraphView, Node, Value
from onnxinit.analysis.weight import Analysis, Weight
from onnxinit.model import ModelFile

Array = npt.NDArray[np.generic]
Given = Array | Sequence[int]

MICROSOFT = "com.microsoft"


def tensor(name: str, given: Given, dtype: npt.DTypeLike = np.float32) -> onnx.TensorProto:
    """A tensor: an array as it is, or a shape filled with distinct values."""
    if not isinstance(given, np.ndarray):
        seed = int.from_bytes(repr((name, tuple(given))).encode(), "little") % 2**32
        given = np.random.default_rng(seed).standard_normal(tuple(given)).astype(dtype)
    return numpy_helper.from_array(given, name)


def build(text: str, opset: int = 17, functions: str = "", check: bool = True, **tensors: Given) -> onnx.ModelProto:
    """A model from its main graph in ONNX's text form, with initializers as arrays or as shapes."""
    head = f'<ir_version: 10, opset_import: ["": {opset}, "{MICROSOFT}": 1, "local": 1]>\n'
    if "=>" not in text:
        raise ValueError("give inputs and outputs: (float[n,4] x) => (float[n,3] y) { ... }")
    model = onnx.parser.parse_model(f"{head} g {text}\n{functions}")
    model.graph.initializer.extend(tensor(name, given) for name, given in tensors.items())
    if check:
        onnx.checker.check_model(model)
    return model


def view_of(model: onnx.ModelProto) -> GraphView:
    return GraphView(model)


def value(view: GraphView, name: str, scope: str = "") -> Value:
    """The one value of a name in a scope."""
    (found,) = [v for v in view.values if (v.name, v.scope) == (name, scope)]
    return found


def nodes(view: GraphView, op: str) -> list[Node]:
    return [n for n in view.nodes if n.op == op]


def arange(shape: Sequence[int]) -> npt.NDArray[np.int64]:
    """An index tensor: every element is its own place."""
    return np.arange(int(np.prod(shape)), dtype=np.int64).reshape(tuple(shape))


def analysed(model: onnx.ModelProto) -> Analysis:
    return analyse(ModelFile.of(model))


def weights(model: onnx.ModelProto) -> dict[str, Weight]:
    return {w.id: w for w in analysed(model).weights}


def roles(model: onnx.ModelProto) -> dict[str, str]:
    """The role of every weight, "" for what is kept as it is."""
    found = analysed(model)
    return {k.id: "" for k in found.kept} | {w.id: w.role for w in found.weights}


def kinds(weight: Weight) -> list[tuple[tuple[int, str], ...]]:
    """The factors of every stored axis, for a weight of one part; factors of one are left out."""
    assert weight.layout is not None
    (part,) = weight.layout.parts
    assert part.shape == weight.shape
    pairs = (zip(ns, ks, strict=True) for ns, ks in zip(part.factors, part.kinds, strict=True))
    return [tuple((n, k) for n, k in axis if n != 1) for axis in pairs]
