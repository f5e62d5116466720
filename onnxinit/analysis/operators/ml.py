"""Operators of `ai.onnx.ml` and their kin that hold numbers in attributes, which are no tensors.

What training learns stands for further inputs of the operator (`held.OPERANDS`). Other lists of floats that were fitted
are listed with what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnxinit.analysis.held import OPERANDS, Attributes
from onnxinit.analysis.operators.table import ML, Key, Reading, Site, matrix, row, vector
from onnxinit.analysis.view import Node

_HANDED = "{attribute} of {op} that the call of a function hands over, which this version does not rewrite"
_UNFIT = "{attribute} of {op}, whose number does not fit the other attributes"
_TREE = "part of {op}, whose trees are grown, not drawn"
_SUPPORT = "part of {op}, which holds the examples that it was fitted to"
_PREPARED = "{attribute} of {op}, which prepares the input and was fitted to data, not trained"
_TERMS = "weights of the terms that {op} counts"
_FILL = "the {attribute} that {op} fills a tensor with at run time"

_TREE_ATTRIBUTES = (
    *("nodes_values", "nodes_values_as_tensor", "nodes_hitrates", "nodes_hitrates_as_tensor", "nodes_splits"),
    *("membership_values", "leaf_weights", "target_weights", "target_weights_as_tensor", "class_weights"),
    *("class_weights_as_tensor", "base_values", "base_values_as_tensor"),
)
_SUPPORT_ATTRIBUTES = ("support_vectors", "coefficients", "rho", "prob_a", "prob_b")

ATTRIBUTES: Mapping[Key, Mapping[str, str]] = {
    **{
        (ML, op): dict.fromkeys(_TREE_ATTRIBUTES, _TREE)
        for op in ("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor")
    },
    **{(ML, op): dict.fromkeys(_SUPPORT_ATTRIBUTES, _SUPPORT) for op in ("SVMClassifier", "SVMRegressor")},
    (ML, "Scaler"): dict.fromkeys(("offset", "scale"), _PREPARED),
    (ML, "Imputer"): {"imputed_value_floats": _PREPARED},
    ("", "TfIdfVectorizer"): {"weights": _TERMS},
    ("", "ConstantOfShape"): {"value": _FILL},
}


# ---------------------------------------------------------------- linear models

_LINEAR = {1: "weight (M, C), the attribute coefficients", 2: "bias (M), the attribute intercepts"}


def _regressor(attributes: Attributes) -> Mapping[str, tuple[int, ...]]:
    """A row for each target, of which there is one if it does not say."""
    return _rows(attributes, int(attributes["targets"].i) if "targets" in attributes else 1)


def _classifier(attributes: Attributes) -> Mapping[str, tuple[int, ...]]:
    """A row for each intercept (one can serve two classes), or where there are none for each label."""
    labels = [attributes[n] for n in ("classlabels_ints", "classlabels_strings") if n in attributes]
    intercepts = len(attributes["intercepts"].floats) if "intercepts" in attributes else 0
    return _rows(attributes, intercepts or max((len(a.ints) + len(a.strings) for a in labels), default=1))


def _rows(attributes: Attributes, rows: int) -> Mapping[str, tuple[int, ...]]:
    n, m = (len(attributes[a].floats) if a in attributes else 0 for a in ("coefficients", "intercepts"))
    fits = n > 0 and rows > 0 and n % rows == 0
    return {"coefficients": (rows, n // rows) if fits else (), "intercepts": (rows,) if fits and m == rows else ()}


OPERANDS.update({(ML, "LinearClassifier"): _classifier, (ML, "LinearRegressor"): _regressor})


@row("LinearClassifier", "LinearRegressor", domain=ML, holds=_LINEAR)
def linear(site: Site) -> Reading | None:
    """f(x W^T + b): W (M, C) of M targets or classes and C features; the last output has the scores."""
    if site.at == 2:
        return vector("bias", site, layer=1)
    if site.at != 1 or len(site.shape) != 2:
        return None
    node = site.node
    return Reading("weight", matrix(site.shape, transposed=True), output=node.outputs[-1], source=node.input(0))


# ---------------------------------------------------------------- what is kept


def reason_of_attribute(domain: str, op: str, attribute: str) -> str:
    """Why a tensor or a list that an operator holds in an attribute is kept."""
    known = ATTRIBUTES.get((domain, op), {}).get(attribute)
    if known is not None:
        return known.format(attribute=attribute, op=op)
    return f"attribute {attribute} of {op}, which is no tensor of the graph"


def held_in_attributes(node: Node) -> Iterator[tuple[str, int, str]]:
    """The lists of floats that an operator holds in attributes.

    Yields:
        The attribute's name, how many floats it holds, and why they are kept.
    """
    for name in ATTRIBUTES.get((node.domain, node.op), {}):
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.floats:
            yield name, len(attribute.floats), reason_of_attribute(node.domain, node.op, name)
    shapes = OPERANDS[node.domain, node.op](node.attributes) if (node.domain, node.op) in OPERANDS else {}
    for name, value in zip(shapes, node.inputs[len(node.inputs) - len(shapes) :], strict=True):
        attribute = node.attributes.get(name)
        if value is None and attribute is not None and attribute.floats:
            reason = _HANDED if shapes[name] else _UNFIT
            yield name, len(attribute.floats), reason.format(attribute=name, op=node.op)
