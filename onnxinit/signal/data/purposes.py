"""What each input is for, as far as that decides which values it can be fed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from onnxinit.analysis.constants import Constants
from onnxinit.analysis.shapes import fill_shapes
from onnxinit.analysis.view import GraphView, Value
from onnxinit.signal.data.reach import Facts, follow

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_BYTES: dict[int, int] = {TensorProto.UINT8: 256, TensorProto.INT8: 128}


@dataclass(frozen=True, slots=True)
class Purpose:
    """What synthetic values an input takes.

    Attributes:
        kind: "normal" (standard normal), "below" (integers from 0), "positions" (0, 1, 2 ... along the last axis), or
            "all" (one number: ones for masks, zeros for states, the length of a sequence).
        number: The bound of integers and positions, or the number itself.
    """

    kind: str
    number: int = 0

    def __str__(self) -> str:
        words = {
            "normal": "standard normal",
            "below": f"integers below {self.number}",
            "positions": "positions",
        }
        return words.get(self.kind, f"all {self.number}")


def purposes(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Purpose]:
    """What each input of a model is for.

    Args:
        model: The model; values of its larger tensors need not be there.
        shapes: The inputs' shapes.

    Returns:
        By name of the input.
    """
    view = shaped(model, shapes)
    constants = Constants()
    inputs = [v for v in view.inputs if not v.scope]
    facts = {v.name: follow(v, constants) for v in inputs}
    return {v.name: _purpose(v, facts) for v in inputs}


def shaped(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> GraphView:
    """The graph with all the shapes that follow from those of its inputs."""
    view = GraphView(model)
    for value in view.inputs:
        if not value.scope and value.name in shapes:
            value.shape = shapes[value.name]
    fill_shapes(view)
    return view


def _purpose(value: Value, facts: Mapping[str, Facts]) -> Purpose:
    mine = facts[value.name]
    if value.dtype in _FLOATS:
        return _float(mine)
    if value.dtype == TensorProto.BOOL:
        return Purpose("all", _preferred(mine))
    if mine.below:
        bound = min(bound for bound, _ in mine.below)
        counts = "position" in mine.meets or _is_position(value, bound, facts)
        return Purpose("positions" if counts else "below", bound)
    if "angle" in mine.meets:
        return Purpose("positions")
    if mine.lengths:
        return Purpose("all", min(mine.lengths))
    if mine.prefers or "mask" in mine.meets or "gate" in mine.meets or "size" in mine.meets:
        return Purpose("all", _preferred(mine))
    return Purpose("below", _BYTES.get(value.dtype, 2))


def _float(mine: Facts) -> Purpose:
    if "signal" in mine.meets or "angle" in mine.meets or mine.below:
        return Purpose("normal")
    if mine.prefers or "mask" in mine.meets:
        return Purpose("all", _preferred(mine))
    return Purpose("all", 0) if mine.meets == {"state"} else Purpose("normal")


def _preferred(mine: Facts) -> int:
    """What a mask must be to let everything through; most masks are ones."""
    return 0 if mine.prefers.count(0) > mine.prefers.count(1) else 1


def _is_position(value: Value, bound: int, facts: Mapping[str, Facts]) -> bool:
    """Whether it picks rows that are added to those another input picks from a larger table, enough for its length."""
    length = value.shape[-1] if value.shape else None
    if length is None or not 1 < length <= bound:
        return False
    others = [
        out
        for name, f in facts.items()
        if name != value.name
        for rows, out in f.below
        if out is not None and rows > bound
    ]
    sums = {id(s) for out in others for s in _sums(out)}
    return any(id(s) in sums for _, out in facts[value.name].below if out is not None for s in _sums(out))


def _sums(value: Value) -> list[Value]:
    """What a value is a summand of, over up to three sums."""
    found: list[Value] = []
    level = [value]
    for _ in range(5):
        level = [
            out
            for v in level
            for node, _ in v.uses
            if node.op in ("Add", "Sum", "Mul", "Cast", "Reshape", "Identity")
            for out in node.outputs
            if out is not None
        ]
        found += level
    return found
