"""Operators of `ai.onnx.ml` and their kin that hold numbers in attributes, which are no tensors.

Nothing rewrites an attribute's list of floats yet. Those that training or fitting found are listed with what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnxinit.analysis.operators.table import ML, Key
from onnxinit.analysis.view import Node

_LINEAR = "{attribute} of {op} are held in an attribute, which this version does not rewrite"
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
    (ML, "LinearClassifier"): dict.fromkeys(("coefficients", "intercepts"), _LINEAR),
    (ML, "LinearRegressor"): dict.fromkeys(("coefficients", "intercepts"), _LINEAR),
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
