"""What each tensor of a model is: role, layout, fans, activations around it, or why it is kept."""

from onnxinit.analysis.analyse import analyse
from onnxinit.analysis.weight import (
    FAN_ROLES,
    LINEAR,
    ROLES,
    Activation,
    Analysis,
    Kept,
    Layout,
    Part,
    Use,
    Weight,
)

__all__ = [
    "FAN_ROLES",
    "LINEAR",
    "ROLES",
    "Activation",
    "Analysis",
    "Kept",
    "Layout",
    "Part",
    "Use",
    "Weight",
    "analyse",
]
