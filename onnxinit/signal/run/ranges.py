"""The quantised activations of a program: which of their scales can be measured, and the program without rounding.

A QuantizeLinear of a signal, and every DequantizeLinear that its codes come to through what only moves them, have one
range. Activations that share a scale, or whose codes meet, share it too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnxinit.analysis import CODES, Analysis, Weight
from onnxinit.errors import ModelError
from onnxinit.model import ModelFile
from onnxinit.signal.run.program import Program, Step

_QUANTISE, _TURN = "QuantizeLinear", "DequantizeLinear"
_MOVES = frozenset(
    {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Concat", "MaxPool"}
    | {"Gather", "Expand", "Tile", "DepthToSpace", "SpaceToDepth"}
)
_ASIDE = frozenset({"Shape", "Size"})
_FUSED = 6.0  # where the range of a ReLU6 ends that a quantiser took the place of
_NEAR = 1e-3


@dataclass(eq=False)
class Range:
    """Activations with one range.

    Attributes:
        scales: Their scales.
        zeros: Their zero points that can move with them, none where these stay.
        makers: The steps that make codes.
        readers: The steps that make real values of them.
        ends: The least and the largest code.
        zero: The zero point that they have.
        centred: Whether the codes lie around zero, the same number on either side.
        clips: Whether the codes begin at zero, so that the quantiser stands for a ReLU as well.
        cap: The largest value that they stand for whatever the data, as a ReLU6 has it; None mostly.
    """

    scales: list[Weight] = field(default_factory=list)
    zeros: list[Weight] = field(default_factory=list)
    makers: list[Step] = field(default_factory=list)
    readers: list[Step] = field(default_factory=list)
    ends: tuple[float, float] = (0.0, 255.0)
    zero: float = 0.0
    centred: bool = False
    clips: bool = False
    cap: float | None = None


@dataclass(eq=False)
class Ranges:
    """The ranges of a program.

    Attributes:
        found: Those that can be measured.
        left: By id of a scale, why its range cannot be.
    """

    found: list[Range]
    left: dict[str, str]


def find_ranges(program: Program, analysis: Analysis, file: ModelFile) -> Ranges:
    """The ranges of the quantised activations of a program."""
    return _Finder(program, analysis, file).find()


def loosen(program: Program, ranges: Sequence[Range]) -> None:
    """Let quantised activations pass as the real numbers that they are made of, where their ranges can be measured."""
    instead: dict[Step, Step] = {}
    for one in ranges:
        for step in one.makers:
            instead[step] = _loose(program, step, one)
        for step in one.readers:
            instead[step] = Step.of(helper.make_node("Identity", [step.inputs[0]], [step.outputs[0]]))
    program.exchange(instead)


def _loose(program: Program, step: Step, one: Range) -> Step:
    source, result = step.inputs[0], step.outputs[0]
    if not one.clips:
        return Step.of(helper.make_node("Identity", [source], [result]))
    if one.cap is None:
        return Step.of(helper.make_node("Relu", [source], [result]))
    bounds = {f"{result}/{i}": bound for i, bound in enumerate((0.0, one.cap))}
    program.fixed.update((n, numpy_helper.from_array(np.asarray(b, np.float32), n)) for n, b in bounds.items())
    return Step.of(helper.make_node("Clip", [source, *bounds], [result]))


class _Finder:
    def __init__(self, program: Program, analysis: Analysis, file: ModelFile):
        self._program, self._file = program, file
        self._aside = {w.path: w for w in analysis.aside}
        self._root: dict[str, str] = {}  # by path of a scale, another one that it must agree with
        self._faults: dict[str, str] = {}
        self._codes: dict[str, str] = {}  # by name of codes that quantisers make, the path of a scale
        self._joints: list[tuple[Step, str]] = []

    def find(self) -> Ranges:
        program = self._program
        quantisers = [s for s in program.steps if s.op == _QUANTISE and s.inputs[0] in program.moving]
        made = [(s, path) for s in quantisers if (path := self._scale(s))]
        self._root = {path: path for _, path in made}
        for step, path in made:
            self._follow(step, path)
        for step, path in self._joints:
            if not self._codes.keys() >= {*step.inputs}:
                self._faults[path] = f"{step.label} joins its codes with others"
        groups: dict[str, Range] = {}
        for step in program.steps:
            if step.op in (_QUANTISE, _TURN) and (path := self._scale(step)) in self._root:
                one = groups.setdefault(self._find(path), Range())
                (one.makers if step.op == _QUANTISE else one.readers).append(step)
        found: list[Range] = []
        left: dict[str, str] = {}
        for root, one in groups.items():
            paths = [p for p in self._root if self._find(p) == root]
            fault = next((self._faults[p] for p in paths if p in self._faults), "") or self._complete(one, paths)
            if not fault:
                found.append(one)
            left.update((self._aside[p].id, fault) for p in paths if fault and p in self._aside)
        for one in found:
            middles = [abs(r.zero - sum(r.ends) / 2) <= 0.5 for r in found if r.ends == one.ends]
            one.centred = all(middles)  # one alone may have its zero in the middle by chance
            one.zeros = [] if one.centred else one.zeros
        reached = {w.id for one in found for w in one.scales} | left.keys()
        for weight in self._aside.values():
            if weight.id not in reached and any(use.op == _QUANTISE for use in weight.uses):
                left[weight.id] = "what it is for is made inside a loop or a branch, or of no input"
        return Ranges(found, left)

    def _find(self, path: str) -> str:
        while self._root[path] != path:
            path = self._root[path]
        return path

    def _scale(self, step: Step) -> str:
        """The path of the scale of a quantiser, "" where it is none that is stored."""
        return self._program.stored.get(step.inputs[1], "") if len(step.inputs) > 1 else ""

    def _zero(self, step: Step) -> str:
        return self._program.stored.get(step.inputs[2], "") if len(step.inputs) > 2 else ""

    def _follow(self, maker: Step, path: str) -> None:
        """Follow codes to where they become real values."""
        todo = [maker.outputs[0]]
        while todo:
            name = todo.pop()
            if name in self._codes:
                self._root[self._find(self._codes[name])] = self._find(path)
                continue
            self._codes[name] = path
            if name in self._program.outputs:
                self._faults[path] = "its codes are handed out by the model"
            for step in self._program.readers.get(name, ()):
                if step.op == _TURN and step.inputs[0] == name:
                    other = self._scale(step)
                    if not other:
                        self._faults[path] = f"{step.label} reads its codes with a scale that is worked out"
                        continue
                    self._root.setdefault(other, other)
                    self._root[self._find(other)] = self._find(path)
                elif step.op in _MOVES and step.key[0] == "":
                    todo += [n for n in step.outputs if n]
                    if step.op == "Concat":
                        self._joints.append((step, path))
                elif step.op not in _ASIDE:
                    self._faults[path] = f"{step.label} computes with its codes"

    def _complete(self, one: Range, paths: Sequence[str]) -> str:
        """Fill in what a range is; why it cannot be measured, "" where it can."""
        steps, program = {*one.makers, *one.readers}, self._program
        if any(p not in self._aside or self._aside[p].size != 1 for p in paths):
            return "its scale is that of a weight too, or one for each channel"
        others = any(s.inputs[0] not in self._codes for s in one.readers)
        if others or any(s.inputs[0] not in program.moving for s in one.makers):
            return "its scale is that of other codes too"
        if any(s not in steps or s.inputs.index(n) != 1 for n, s in self._read_by(paths)):
            return "its scale is used elsewhere"
        zeros = {self._zero(s) for s in steps}
        named = {self._file.tensors[z].data_type for z in zeros if z}
        kinds = named or {_unnamed(s) for s in one.makers}
        if len(kinds) != 1 or not kinds <= CODES.keys() or any(z and z not in self._aside for z in zeros):
            return "its zero points are not alike, or not stored"
        one.ends = CODES[next(iter(kinds))][:2]
        try:
            points = [self._number(z) if z else 0.0 for z in zeros]
            scales = [self._number(p) for p in paths]
        except ModelError:
            return "its values are not in the file"
        if len(set(points)) > 1 or len(set(scales)) > 1:
            return "its codes are read with another scale than they are made with"
        one.zero = points[0]
        if one.zero >= one.ends[1]:
            return "its codes hold no positive values"
        one.clips = one.zero == one.ends[0] and any(s.inputs[0] not in program.inputs for s in one.makers)
        top = (one.ends[1] - one.zero) * scales[0]
        one.cap = _FUSED if one.clips and math.isclose(top, _FUSED, rel_tol=_NEAR) else None
        one.scales = [self._aside[p] for p in paths]
        shared = any(s not in steps or s.inputs.index(n) != 2 for n, s in self._read_by([z for z in zeros if z]))
        if not (shared or one.clips or "" in zeros):
            one.zeros = [self._aside[z] for z in zeros]
        return ""

    def _read_by(self, paths: Sequence[str]) -> Iterator[tuple[str, Step]]:
        names = [n for n, path in self._program.stored.items() if path in paths]
        return ((n, step) for n in names for step in self._program.readers.get(n, ()))

    def _number(self, path: str) -> float:
        return float(self._file.array(path).reshape(-1)[0])


def _unnamed(step: Step) -> int:
    """The element type of the codes of a quantiser without a zero point."""
    return next((a.i for a in step.node.attribute if a.name == "output_dtype" and a.i), int(TensorProto.UINT8))
