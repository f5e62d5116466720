"""What auto_pad pads before an axis: against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from onnxinit.analysis.view import Node
from onnxinit.analysis.windows import leading


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize(("n", "k", "stride"), [(7, 3, 1), (8, 3, 2), (7, 4, 2), (9, 4, 3), (5, 5, 1)])
def test_what_is_padded_before_an_axis(auto: str, n: int, k: int, stride: int) -> None:
    """The first place gathers 0 ... k - 1 - before of a climbing signal by a kernel of ones."""
    given = {"strides": [stride], "auto_pad": auto} | ({"pads": [1, 0]} if auto == "NOTSET" else {})
    info = helper.make_tensor_value_info
    kernel = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, k], [1.0] * k)
    made = helper.make_node("Conv", ["x", "w"], ["y"], **given)
    graph = helper.make_graph([made], "g", [info("x", 1, [1, 1, n])], [info("y", 1, None)], [kernel])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    first = float(session.run(None, {"x": np.ones((1, 1, n), np.float32)})[0][0, 0, 0])
    node = Node("Conv", "", "", "", [], [], {a.name: a for a in made.attribute})
    ((step, dilation, before),) = leading(node, (n,), (k,))
    assert (step, dilation, k - before) == (stride, 1, first)
