"""What each tensor of a model is: role, layout, fans, activations around it, or why it is kept."""

from onnxinit.analysis.analyse import analyse
from onnxinit.analysis.forms import CODES, zero_points
from onnxinit.analysis.graph import Graph
from onnxinit.analysis.packing import packed, unpacked
from onnxinit.analysis.sparse import dense, pattern_of, positions
from onnxinit.analysis.storing import with_stored, without_unused
from onnxinit.analysis.weight import (
    FAN_ROLES,
    LINEAR,
    PARAMETER_ROLES,
    ROLES,
    Activation,
    Analysis,
    Kept,
    Layout,
    Part,
    Pattern,
    Quantised,
    Use,
    Weight,
)

__all__ = [
    "CODES",
    "FAN_ROLES",
    "LINEAR",
    "PARAMETER_ROLES",
    "ROLES",
    "Activation",
    "Analysis",
    "Graph",
    "Kept",
    "Layout",
    "Part",
    "Pattern",
    "Quantised",
    "Use",
    "Weight",
    "analyse",
    "dense",
    "packed",
    "pattern_of",
    "positions",
    "unpacked",
    "with_stored",
    "without_unused",
    "zero_points",
]
