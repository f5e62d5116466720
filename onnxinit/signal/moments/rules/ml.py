"""Linear models of `ai.onnx.ml`: a matrix product with a function of the scores at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxinit.analysis.activations import SOFTMAX, fused
from onnxinit.analysis.operators import ML
from onnxinit.analysis.view import Node
from onnxinit.signal.moments.rules.attention import softmax
from onnxinit.signal.moments.rules.linear import finished, product
from onnxinit.signal.moments.rules.table import Known, rule

if TYPE_CHECKING:
    from onnxinit.signal.moments.carry import Sweep


def _scores(sweep: Sweep, node: Node) -> Known:
    made = finished(sweep, node, product(sweep, node, (0, 1), (False, True)), 2)
    if made is None or fused(node) is not SOFTMAX:
        return made
    return softmax(made, -1, sweep.dims(node.input(1))[0])


@rule("LinearRegressor", domain=ML)
def linear_regressor(sweep: Sweep, node: Node) -> Known:
    """f(x W^T + b), the weights among the inputs, as the view has them."""
    return _scores(sweep, node)


@rule("LinearClassifier", domain=ML)
def linear_classifier(sweep: Sweep, node: Node) -> tuple[Known, Known]:
    """Labels, of which nothing is known, and the scores."""
    return None, _scores(sweep, node)
