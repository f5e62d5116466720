"""The layers of a program whose weights a pass scales: where each is used, and its output before the activation.

A layer is a step that is linear in an operand which follows from a weight. From the weight to that operand lead steps
among stored tensors (transposes, casts, quantise pairs; or the standardisation of a kernel, which is not linear unless
what follows from the weight gives it its size back).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto, numpy_helper

from onnxinit.analysis import Analysis, Weight
from onnxinit.signal.run.program import Program, Step

MICROSOFT = "com.microsoft"
BIAS = "bias"

# Steps whose result is the operand's values, moved or multiplied by what does not depend on it.
_VIEWS = frozenset(
    {"Identity", "Cast", "CastLike", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Slice"}
    | {"Split", "Concat", "Gather", "GatherElements", "GatherND", "Tile", "Pad", "Neg", "DequantizeLinear", "Mul"}
    | {"Div", "Trilu", "DepthToSpace", "SpaceToDepth"}
)
_ASIDE = frozenset({"Shape", "Size"})

# Operators that are linear in the operand at an index: the axis of its channels in the result, where there is one.
_CONV, _PRODUCT = {1: 1}, {0: -2, 1: -1}
LINEAR: Mapping[tuple[str, str], Mapping[int, int | None]] = {
    ("", "Conv"): _CONV,
    ("", "ConvTranspose"): _CONV,
    ("", "DeformConv"): _CONV,
    ("", "ConvInteger"): _CONV,
    (MICROSOFT, "ConvTransposeWithDynamicPads"): _CONV,
    ("", "Gemm"): _PRODUCT,
    ("", "MatMul"): _PRODUCT,
    ("", "MatMulInteger"): _PRODUCT,
    (MICROSOFT, "FusedMatMul"): _PRODUCT,
    (MICROSOFT, "TransposeMatMul"): _PRODUCT,
    (MICROSOFT, "MatMulNBits"): {1: -1, 2: -1},
    (MICROSOFT, "MatMulBnb4"): {1: -1, 2: -1},
    ("", "ReduceSum"): {0: None},  # of a product with a signal
    ("", "ReduceMean"): {0: None},
}
_EINSUM = ("", "Einsum")
_BIASES = {
    "Gemm": 2,
    "DeformConv": 3,
    "ConvTransposeWithDynamicPads": 3,
    "Conv": 2,
    "ConvTranspose": 2,
    "MatMulNBits": 5,
}
_INTEGER = frozenset({"MatMulInteger", "ConvInteger"})

# Operators with a matrix product inside, of their input 0 and the operand at an index, that is measured on its own.
RECURRENT = {("", "LSTM"): 4, ("", "GRU"): 3, ("", "RNN"): 1, (MICROSOFT, "DynamicQuantizeLSTM"): 4}
INSIDE = {**dict.fromkeys(RECURRENT, 1), (MICROSOFT, "Attention"): 1, (MICROSOFT, "QAttention"): 1}


@dataclass(eq=False)
class Layer:
    """One use of a weight.

    Attributes:
        weight: The weight.
        step: The step that is linear in the operand.
        at: The operand's index.
        output: The layer's output: the step's result, or what an integer product becomes with its scale.
        exact: Whether the output is linear in the weight too.
        chain: The steps from the weight to the output.
        bare: The step without its bias, None where it has none.
        bias: Name of a stored bias that the step or the next one adds, "" where there is none.
        later: Whether the next step adds it.
        channels: The output's axis that the units run along, None where it is not known.
        joined: Other weights that the operand is joined from, which are scaled with this one.
    """

    weight: Weight
    step: Step
    at: int
    output: str
    exact: bool = True
    chain: list[Step] = field(default_factory=list)
    bare: Step | None = None
    bias: str = ""
    later: bool = False
    channels: int | None = None
    joined: list[Weight] = field(default_factory=list)

    def remade(self, program: Program) -> list[Step]:
        """The steps that run anew when the weight changes: from it to the operand, and from there to the output."""
        after = self.chain[self.chain.index(self.step) :]
        made: list[Step] = []
        todo = [self.step.inputs[self.at]]
        while todo:
            step = program.makers.get(todo.pop())
            if step is None or step in made:
                continue
            if step in self.chain or program.moving.isdisjoint(step.outputs):
                made.append(step)
                todo += step.inputs
        return sorted({*made, *after}, key=lambda s: s.place)

    @property
    def inside(self) -> bool:
        """Whether the product is within an operator and has to be measured on its own."""
        return self.step.key in INSIDE


@dataclass(eq=False)
class Layers:
    """The layers of a program, and the weights that none was found for.

    Attributes:
        found: The layers, in the order of execution.
        missed: By id, why a weight has none.
    """

    found: list[Layer]
    missed: dict[str, str]


def find_layers(
    program: Program, analysis: Analysis, weights: Iterable[Weight], keeps_size: Callable[[Weight], bool]
) -> Layers:
    """Follow weights to their layers.

    Args:
        program: The steps.
        analysis: What the tensors are.
        weights: Those that are followed.
        keeps_size: Whether a weight that the graph normalises has its size all the same, so that its layer is linear in
            it.
    """
    names: dict[str, list[str]] = {}
    for name, path in (*program.stored.items(), *program.reals.items()):
        names.setdefault(path, []).append(name)
    inner = {path: step for step in program.steps for path in step.inner}
    tracer = _Tracer(program, analysis)
    found: list[Layer] = []
    missed: dict[str, str] = {}
    for weight in weights:
        layers, reasons = tracer.layers(weight, names.get(weight.path, ()), whole=keeps_size(weight))
        found += layers
        if not layers:
            body = inner.get(weight.path)
            missed[weight.id] = next(iter(reasons), f"inside the body of {body.label}" if body else "no step reads it")
    return Layers(sorted(_join(found), key=lambda layer: (layer.step.place, layer.at)), missed)


def _join(layers: Iterable[Layer]) -> list[Layer]:
    """Make one layer of those whose weights are joined to one operand (Q, K and V, the gates of a cell)."""
    apart: list[Layer] = []
    together: dict[tuple[Step, int], Layer] = {}
    for layer in layers:
        joint = next((step for step in layer.chain if step.op == "Concat"), None)
        if joint is None:
            apart.append(layer)
        elif (first := together.setdefault((layer.step, layer.at), layer)) is not layer:
            first.joined.append(layer.weight)
    for layer in together.values():
        joint = next(step for step in layer.chain if step.op == "Concat")
        layer.exact = layer.exact and len(layer.joined) + 1 >= len(joint.inputs)  # else a part of it stays
        layer.channels = None
    return apart + list(together.values())


class _Tracer:
    def __init__(self, program: Program, analysis: Analysis):
        self._program = program
        self._factors = self._find_factors({w.path for w in analysis.weights})
        self._roles = {w.path: w.role for w in analysis.weights}

    def layers(self, weight: Weight, names: Iterable[str], *, whole: bool) -> tuple[list[Layer], list[str]]:
        """The uses of a weight, and what it meets that is none."""
        found: dict[tuple[Step, int], Layer] = {}
        reasons: list[str] = []
        todo: list[tuple[str, bool, tuple[Step, ...]]] = [(name, True, ()) for name in names]
        seen: set[tuple[str, bool]] = set()
        while todo:
            name, exact, chain = todo.pop()
            if (name, exact) in seen:
                continue
            seen.add((name, exact))
            for step in self._program.readers.get(name, ()):
                for at in (i for i, n in enumerate(step.inputs) if n == name):
                    said = self._read(step, at, exact)
                    if said == "layer":
                        known = found.get((step, at))
                        layer = self._layer(weight, step, at, exact and (known is None or known.exact), chain)
                        found[step, at] = layer
                    elif said == "linear" or said == "other":
                        further = (*chain, step)
                        todo += [(out, exact and (whole or said == "linear"), further) for out in step.outputs if out]
                    elif said:
                        reasons.append(said)
        return list(found.values()), reasons

    def _read(self, step: Step, at: int, exact: bool) -> str:
        """What a use is: a layer, a linear or another step on the way, "" for one aside, or why it is none of these."""
        if step.has_bodies:
            return f"inside the body of {step.label}"
        moves = any(n in self._program.moving for n in step.outputs)
        if step.op in _ASIDE:
            return ""
        if step.key == _EINSUM or at in LINEAR.get(step.key, ()) or (at == 1 and step.key in INSIDE):
            many = len(step.node.input) if step.key == _EINSUM else 0 if step.op.startswith("Reduce") else 2
            others = [n for i, n in enumerate(step.node.input[:many]) if i != at]
            if moves or (others and self._factors.isdisjoint(others)):
                return "layer"  # a product with a signal, or with a table that the file holds
            return "linear"
        if step.op in _VIEWS and (at == 0 or step.op in ("Mul", "Concat")):
            return "linear"
        return f"used by {step.label}, whose output is not linear in it" if moves else "other"

    def _find_factors(self, paths: set[str]) -> set[str]:
        """The names of weights, of their views, and of products of these: factors of a weight, not a signal."""
        factors = {name for name, path in self._program.stored.items() if path in paths}
        for step in self._program.steps:
            read = [n for n in step.node.input if n]
            if step.op in _VIEWS and read and read[0] in factors:
                factors.update(step.outputs)
            elif (step.key == _EINSUM or step.key in LINEAR) and all(n in factors for n in read):
                factors.update(step.outputs)
        return factors

    def _layer(self, weight: Weight, step: Step, at: int, exact: bool, chain: tuple[Step, ...]) -> Layer:
        layer = Layer(weight, step, at, step.outputs[0], exact, [*chain, step])
        if step.key in INSIDE:
            return layer
        layer.channels = LINEAR[step.key][at] if step.key in LINEAR else None
        if step.op in _INTEGER or weight.quantised is not None:
            self._scale_up(layer)
        self._find_bias(layer)
        return layer

    def _scale_up(self, layer: Layer) -> None:
        """Move the output of a product of codes on to where it is multiplied with their scale."""
        scale = layer.weight.quantised.scale if layer.weight.quantised is not None else ""
        scales = {name for name, path in self._program.stored.items() if path == scale}
        todo = list(scales)
        while todo:
            for step in self._program.readers.get(todo.pop(), ()):
                if step.op in _VIEWS and step is not layer.step:
                    more = [n for n in step.outputs if n not in scales]
                    scales.update(more)
                    todo += more
        name, after = layer.output, list[Step]()
        for _ in range(4):
            readers = self._program.readers.get(name, ())
            if len(readers) != 1 or readers[0].op not in ("Cast", "Mul"):
                break
            name = readers[0].outputs[0]
            after.append(readers[0])
            if name in scales and readers[0].op == "Mul":
                layer.output = name
                layer.chain += after
                return
        if layer.step.op in _INTEGER:
            layer.chain += after
            layer.exact = False

    def _find_bias(self, layer: Layer) -> None:
        """The stored bias of a layer: an operand of its step, or what the next step adds."""
        step = layer.step
        at = _BIASES.get(step.op)
        name = step.inputs[at] if at is not None and at < len(step.node.input) else ""
        if name and name not in self._program.moving:
            layer.bare = self._without(step, at or 0, layer.weight.dtype)
            layer.bias = name
            return
        if name:
            layer.exact = False
            return
        readers = self._program.readers.get(layer.output, ())
        if len(readers) == 1 and readers[0].op == "Add":
            other = next((n for n in readers[0].inputs if n != layer.output), "")
            if other and other not in self._program.moving and self._is_bias(other):
                layer.bias, layer.later = other, True

    def _without(self, step: Step, at: int, dtype: str) -> Step:
        """The step without an operand: omitted, or zero where an old Gemm must have it."""
        node = NodeProto()
        node.CopyFrom(step.node)
        node.input[at] = ""
        if step.op == "Gemm":
            node.input[at] = f"zero/{dtype}"
            kind = np.float64 if dtype == "double" else np.float32
            self._program.fixed[node.input[at]] = numpy_helper.from_array(np.zeros(1, kind))
        while node.input and not node.input[-1]:
            node.input.pop()
        return Step(node, tuple(node.input), step.outputs, (), step.place)

    def _is_bias(self, name: str) -> bool:
        """Whether a value follows from stored biases alone."""
        paths = list(leaves(self._program, name))
        return bool(paths) and all(self._roles.get(p) == BIAS for p in paths)


def bias_weight(program: Program, name: str) -> str:
    """The path of the one stored tensor that a bias is, "" where it is made of several or not as it is stored."""
    while name not in program.stored and (step := program.makers.get(name)) is not None and step.op in _VIEWS:
        name = step.inputs[0]
    return program.stored.get(name, "")


def leaves(program: Program, name: str) -> Iterator[str]:
    """Paths of the float tensors that a value follows from."""
    if name in program.stored:
        yield program.stored[name]
    step = program.makers.get(name)
    for before in step.inputs[:1] if step is not None and step.op in _VIEWS else ():
        yield from leaves(program, before)
