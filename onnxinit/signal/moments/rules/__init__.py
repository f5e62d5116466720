"""How every operator's results follow from its operands, one row an operator, by families.

A rule is a function of the sweep and the node. To teach the sweep a new operator, add a row to the module of its
family; an operator without one passes the moments of its first operand on, and is named in the result.
"""

from onnxinit.signal.moments.rules import (
    arithmetic,
    attention,
    linear,
    makers,
    ml,
    moves,
    norms,
    pooling,
    quantised,
    recurrent,
    reductions,
)
from onnxinit.signal.moments.rules.table import RULES, Known, Rule, rule

FAMILIES = (arithmetic, attention, linear, makers, ml, moves, norms, pooling, quantised, recurrent, reductions)

__all__ = ["FAMILIES", "RULES", "Known", "Rule", "rule"]
