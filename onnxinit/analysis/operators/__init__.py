"""The operator table: which inputs of an operator training learns, and what their axes mean.

A row is a function of a `Site` that answers with a `Reading`, or None where the operand is no weight. To teach the
walker a new operator, add a row to the module of its family (and, where it only moves elements, to `views`).
"""

from onnxinit.analysis.operators import layers, microsoft, recurrent, standard
from onnxinit.analysis.operators.table import OPERATORS, Reading, Row, Site, out_value

__all__ = ["OPERATORS", "Reading", "Row", "Site", "layers", "microsoft", "out_value", "recurrent", "standard"]
