"""The equation of an Einsum."""

from __future__ import annotations

from onnxinit.analysis.view import Node


def read_equation(node: Node) -> tuple[list[str], str]:
    """The letters of every operand, and those of the result.

    An equation without an arrow results in the letters that are there once, in alphabetical order, behind an ellipsis.
    """
    left, arrow, result = node.string_attribute("equation").replace(" ", "").partition("->")
    if not arrow:
        letters = sorted(c for c in set(left) - {",", "."} if left.count(c) == 1)
        result = ("..." if "." in left else "") + "".join(letters)
    return left.split(","), result
