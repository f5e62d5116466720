"""The operator table: which inputs of an operator training learns, and what their axes mean.

A row is a function of a `Site` that answers with a `Reading`, or None where the operand is no weight. To teach the
walker a new operator, add a row to the module of its family (and, where it only moves elements, to `views`), or name it
in `weightless`.
"""

from onnxinit.analysis.operators import attention as _attention
from onnxinit.analysis.operators import experts as _experts
from onnxinit.analysis.operators import layers as _layers
from onnxinit.analysis.operators import microsoft as _microsoft
from onnxinit.analysis.operators import ml as _ml
from onnxinit.analysis.operators import packings as _packings
from onnxinit.analysis.operators import quantised as _quantised
from onnxinit.analysis.operators import recurrent as _recurrent
from onnxinit.analysis.operators import standard as _standard
from onnxinit.analysis.operators.attention import packed
from onnxinit.analysis.operators.custom import load_operators
from onnxinit.analysis.operators.ml import ATTRIBUTES, held_in_attributes, reason_of_attribute
from onnxinit.analysis.operators.packings import FORMS, Form, UnknownFormError
from onnxinit.analysis.operators.quantised import FACTORS, PARAMETERS
from onnxinit.analysis.operators.reasons import DOMAINS, NARROW, WIDE, kept, quantised, reason, turned_by
from onnxinit.analysis.operators.table import (
    HOLDS,
    KEEPS,
    MICROSOFT,
    ML,
    NHWC,
    OPERATORS,
    SCALE,
    STATE,
    ZERO_POINT,
    Key,
    Operators,
    Reading,
    Row,
    Site,
    out_value,
    row,
    vectors,
)
from onnxinit.analysis.operators.weightless import NO_WEIGHTS

# Importing a family enters its rows.
FAMILIES = (_layers, _recurrent, _standard, _attention, _experts, _microsoft, _ml, _quantised, _packings)

__all__ = [
    "ATTRIBUTES",
    "DOMAINS",
    "FACTORS",
    "FAMILIES",
    "FORMS",
    "HOLDS",
    "KEEPS",
    "MICROSOFT",
    "ML",
    "NARROW",
    "NHWC",
    "NO_WEIGHTS",
    "OPERATORS",
    "PARAMETERS",
    "SCALE",
    "STATE",
    "WIDE",
    "ZERO_POINT",
    "Form",
    "Key",
    "Operators",
    "Reading",
    "Row",
    "Site",
    "UnknownFormError",
    "held_in_attributes",
    "kept",
    "load_operators",
    "out_value",
    "packed",
    "quantised",
    "reason",
    "reason_of_attribute",
    "row",
    "turned_by",
    "vectors",
]
