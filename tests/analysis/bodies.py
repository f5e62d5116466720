"""Graphs around one layer, written as their bodies alone; `{0.5}` stands for a stored number."""

from __future__ import annotations

import re

import onnx
from graphs import Given, build, value

from onnxinit.analysis.constants import Constants
from onnxinit.analysis.norms import Norms, find_norms
from onnxinit.analysis.surroundings import Surroundings
from onnxinit.analysis.view import GraphView, Value

_NUMBER = re.compile(r"\{(-?[\d.e+-]+)\}")


def model_of(
    body: str,
    opset: int = 20,
    signature: str = "(float[2,8] x) => (float[m,n] y)",
    check: bool = True,
    **tensors: Given,
) -> onnx.ModelProto:
    """A model with that body; every number becomes a Constant node."""
    numbers: list[str] = []

    def constant(found: re.Match[str]) -> str:
        numbers.append(f"number{len(numbers)} = Constant <value = float {{{found.group(1)}}}> ()")
        return f"number{len(numbers) - 1}"

    text = _NUMBER.sub(constant, body)
    return build(f"{signature} {{ {chr(10).join([*numbers, text])} }}", opset, check=check, **tensors)


def view_of(body: str, opset: int = 20, check: bool = True, **more: Given | str) -> GraphView:
    """The view of `model_of`, with the shapes that ONNX infers."""
    model = model_of(body, opset, check=check, **more)  # type: ignore[arg-type]
    return GraphView(onnx.shape_inference.infer_shapes(model, data_prop=True))


class Around:
    """The surroundings of the values of a graph, by name."""

    def __init__(self, view: GraphView):
        self.view = view
        self.constants = Constants()
        self.norms: Norms = find_norms(view, self.constants)
        self.surroundings = Surroundings(view, self.constants, self.norms)

    def __call__(self, name: str) -> Value:
        return value(self.view, name)

    def down(self, name: str) -> list[str]:
        return [a.name for a in self.surroundings.downstream(self(name))]

    def up(self, name: str) -> list[str]:
        return [a.name for a in self.surroundings.upstream(self(name))]

    def roles(self) -> dict[str, tuple[str, float | None]]:
        """The role of every static operand of a written-out norm, by its name."""
        found: dict[str, tuple[str, float | None]] = {}
        for node in self.view.nodes:
            for at, operand in enumerate(node.inputs):
                role = self.norms.role(node, at)
                if operand is not None and role is not None:
                    found[operand.name] = role
        return found
