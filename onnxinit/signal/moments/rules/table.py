"""The table of rules: how an operator's results follow from its operands, by moments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from onnxinit.analysis.operators import Key
from onnxinit.analysis.view import Node
from onnxinit.signal.moments.moments import Moments

if TYPE_CHECKING:
    from onnxinit.signal.moments.carry import Sweep

Known = Moments | None
Rule = Callable[["Sweep", Node], "Known | Sequence[Known]"]

RULES: dict[Key, Rule] = {}


def rule(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Put a function into the table for the operators named.

    It gets the sweep and the node, and gives the moments of the first result, or those of all of them; None for what
    is not known.
    """

    def put(function: Rule) -> Rule:
        for op in ops:
            RULES[domain, op] = function
        return function

    return put
