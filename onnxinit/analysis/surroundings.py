"""What stands around a layer: the functions that made its input, and those that are applied to its output.

Both are walks from one value, through whatever leaves a signal what it is: biases, norms, dropout, reshapes, pooling,
casts, quantise pairs, the boundaries of subgraphs, and on the way down one residual Add. A walk ends at a named
function, at the next layer, or after `_MOST` values, so that the whole analysis stays linear in the graph.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace

from onnx import TensorProto

from onnxinit.analysis.activations import AFTER_BIAS, LOGSOFTMAX, NAMED, SOFTMAX, by_name, fused
from onnxinit.analysis.constants import Constants
from onnxinit.analysis.norm import bare
from onnxinit.analysis.norms import Norms, find_norms, is_number
from onnxinit.analysis.regions import Exit, Functions
from onnxinit.analysis.view import GraphView, Node, Value
from onnxinit.analysis.weight import LINEAR, Activation

_MOST = 256

_FIRST = (
    *("Identity", "Cast", "CastLike", "Dropout", "BiasDropout", "BiasAdd", "BitCast"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Slice", "Split", "SplitToSequence"),
    *("SequenceAt", "Gather", "GatherND", "GatherElements", "Pad", "Tile", "DepthToSpace", "SpaceToDepth", "Compress"),
    *("Resize", "Upsample", "MaxUnpool", "ReverseSequence", "RoiAlign", "MaxRoiPool", "GridSample", "Trilu", "LRN"),
    *("ImageScaler", "Crop", "DynamicSlice"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool", "NhwcMaxPool"),
    *("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "CumSum"),
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearAveragePool", "QLinearGlobalAveragePool"),
    *("ReorderInput", "ReorderOutput", "RemovePadding", "RestorePadding", "@Exit", "@Stack", "@Step"),
)
_ALL = ("Concat", "ConcatFromSequence", "SequenceConstruct", "SequenceInsert", "QLinearConcat", "@If", "@Carry")
_DATA: Mapping[str, tuple[int, ...] | None] = {
    **dict.fromkeys(_FIRST, (0,)),
    **dict.fromkeys(_ALL, None),
    "Where": (1, 2),
    "ScatterND": (0, 2),
    "ScatterElements": (0, 2),
}
_DOMAINS = frozenset({"", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"})
_SUMS = frozenset({"Add", "Sub", "Sum", "QLinearAdd"})
_PRODUCTS = frozenset({"Mul", "Div"})
_PIECES = frozenset({"Split", "Slice", "Gather", "SequenceAt"})
_MOVES = frozenset({"Cast", "CastLike", "Identity", "Reshape", "Expand", "Unsqueeze", "Squeeze"})
_GATED_UNITS: Mapping[str, str] = {"SwiGLU": "Swish"}  # f(first operand) times the second
_GATES = frozenset({"sigmoid", "hardsigmoid"})

# Inputs with the scale and the zero point of what a quantised operator makes.
_RESULT_SCALE: Mapping[str, tuple[int, int]] = {
    "QuantizeLinear": (1, 2),
    "QLinearConv": (6, 7),
    "QLinearMatMul": (6, 7),
    "QLinearAdd": (6, 7),
    "QGemm": (7, 8),
}
_LOWEST: Mapping[int, int] = {TensorProto.UINT8: 0, TensorProto.INT8: -128, TensorProto.UINT16: 0}


class Surroundings:
    """The activations around layers.

    Args:
        view: The graph.
        constants: Small static values, made anew where omitted.
        norms: Its normalisations, found anew where omitted.
    """

    def __init__(self, view: GraphView, constants: Constants | None = None, norms: Norms | None = None):
        self._constants = constants or Constants()
        self._norms = norms if norms is not None else find_norms(view, self._constants)
        self._functions = Functions(self._constants, frozenset(r for norm in self._norms for r in norm.readers))
        self._down: dict[int, tuple[Activation, ...]] = {}
        self._up: dict[int, tuple[Activation, ...]] = {}

    def downstream(self, value: Value) -> tuple[Activation, ...]:
        """The functions that are applied to a layer's output: distinct by name, `linear` alone where there is none."""
        if id(value) not in self._down:
            self._down[id(value)] = _distinct(_Down(self._constants, self._norms, self._functions).walk(value))
        return self._down[id(value)]

    def upstream(self, value: Value) -> tuple[Activation, ...]:
        """The functions that made a layer's input, likewise.

        A signal that a norm standardised after its activation has mean 0 and second moment 1 whatever the activation.
        """
        if id(value) not in self._up:
            self._up[id(value)] = _distinct(_Up(self._constants, self._norms, self._functions).walk(value))
        return self._up[id(value)]


def _distinct(found: list[Activation]) -> tuple[Activation, ...]:
    names: dict[str, Activation] = {}
    for activation in found:
        if activation.name != "linear":
            names.setdefault(activation.name, activation)
    return tuple(names.values()) or (LINEAR,)


class _Walk:
    """What both directions ask."""

    def __init__(self, constants: Constants, norms: Norms, functions: Functions):
        self._constants = constants
        self._norms = norms
        self._functions = functions
        self._found: list[Activation] = []

    @staticmethod
    def _hands_on(node: Node, at: int) -> bool:
        """Whether a node hands the signal at an input on."""
        if node.domain not in _DOMAINS or node.op not in _DATA:
            return False
        data = _DATA[node.op]
        return data is None or at in data

    def _is_factor(self, value: Value) -> bool:
        """Whether a signal stays what it is when multiplied by a value."""
        return value.static or is_number(value, self._constants) or _is_quantum(value)

    def _rectified(self, node: Node) -> Activation | None:
        """The ReLU or ReLU6 that a quantiser took over: its zero point is the lowest value of its type."""
        at = _RESULT_SCALE.get(node.op)
        zero = node.input(at[1]) if at is not None else None
        held = self._constants.constant(zero)
        if at is None or zero is None or held is None or held.size == 0:
            return None
        if zero.dtype not in _LOWEST or bool((held != _LOWEST[zero.dtype]).any()):
            return None
        scale = self._constants.scalar(node.input(at[0]))
        return by_name("Clip", 0.0, 6.0) if scale is not None and abs(255 * scale - 6) < 0.03 else by_name("Relu")


def _is_quantum(value: Value) -> bool:
    """Whether a value is the scale of values that are quantised at run time, at most times static scales."""
    for _ in range(4):
        node = value.producer
        if node is None:
            return False
        if node.op == "DynamicQuantizeLinear":
            return value.index == 1
        moving = [v for v in node.inputs if v is not None and not v.static]
        if node.op not in ("Mul", "Cast") or len(moving) != 1:
            return False
        value = moving[0]
    return False


class _Down(_Walk):
    """A walk along the uses of a layer's output."""

    def walk(self, value: Value) -> list[Activation]:
        """The functions met, `LINEAR` left out."""
        node = value.producer
        built_in = (fused(node) or self._rectified(node)) if node is not None else None
        if built_in is not None and built_in.name != "linear":
            return [built_in]
        self._waiting = deque([(value, False)])
        self._seen = {id(value)}
        while self._waiting and len(self._seen) < _MOST:
            at, added = self._waiting.popleft()
            for way_out in self._functions.following(at):
                if way_out.activation is LINEAR:
                    for user, i in way_out.uses:
                        self._step(user, i, way_out.value, added)
                elif (softmax := _softmax(way_out)) is not None:
                    self._found.append(softmax)
                elif not _is_statistic(way_out):
                    self._found.append(_glu(way_out, at) or way_out.activation)
        return self._found

    def _push(self, value: Value | None, added: bool) -> None:
        if value is not None and id(value) not in self._seen:
            self._seen.add(id(value))
            self._waiting.append((value, added))

    def _step(self, node: Node, at: int, value: Value, added: bool) -> None:
        """Through one node that reads the signal, or not."""
        out = node.outputs[0] if node.outputs else None
        norm = self._norms.reading(node, at)
        if norm is not None:
            joins = node.op.startswith("Skip")
            if node.op == "GroupNorm" and node.int_attribute("activation", 0):
                self._found.append(by_name("Swish"))
            elif not (joins and added):
                self._push(norm.output, added or joins)
        elif node.op in _GATED_UNITS:
            self._found.extend([by_name(_GATED_UNITS[node.op])] if at == 0 else [])
        elif (node.domain, node.op) in NAMED:
            self._found.extend([NAMED[node.domain, node.op]] if at == 0 else [])
        elif node.op in AFTER_BIAS and (activation := fused(node)) is not None:
            self._found.append(activation)
        elif node.op in ("QuantizeLinear", "QLinearAdd") and (rectified := self._rectified(node)) is not None:
            self._found.append(rectified)
        elif self._hands_on(node, at):
            for following in node.outputs if node.op == "Split" else [out]:
                self._push(following, added)
        elif node.op in _SUMS:
            self._sum(node, at, value, added)
        elif node.op in _PRODUCTS and not (node.op == "Div" and at == 1):
            other = node.input(1 - at)
            if other is not None and self._is_factor(other):
                self._push(out, added)

    def _sum(self, node: Node, at: int, value: Value, added: bool) -> None:
        others = [v for i, v in enumerate(node.inputs) if i != at and v is not None]
        out = node.outputs[0]
        if all(v.static or is_number(v, self._constants) for v in others) or _is_own_peak(node, value):
            self._push(out, added)
        elif not added:
            self._push(out, True)


def _is_own_peak(node: Node, value: Value) -> bool:
    """Whether a Sub takes the signal's own maximum off, as a written-out softmax does."""
    other = node.input(1) if node.op == "Sub" else None
    maker = _unmoved(other).producer if other is not None else None
    source = maker.input(0) if maker is not None and maker.op == "ReduceMax" else None
    return source is not None and _unmoved(source) is _unmoved(value)


def _unmoved(value: Value) -> Value:
    """A value before casts and reshapes."""
    for _ in range(8):
        node = value.producer
        before = node.input(0) if node is not None and node.op in _MOVES else None
        if before is None:
            break
        value = before
    return value


def _softmax(way_out: Exit) -> Activation | None:
    """A softmax that is written out: exp(x) divided by its sum, or the logarithm of the sum taken off."""
    end = way_out.value
    if end.producer is None or end.producer.op != "Exp":
        return None
    waiting = [out for node, _ in way_out.uses if node.op == "ReduceSum" and (out := node.outputs[0]) is not None]
    for _ in range(8):
        if not waiting:
            break
        total = waiting.pop()
        for user, at in total.uses:
            if user.op == "Div" and at == 1 and user.input(0) is end:
                return SOFTMAX
            if user.op == "Log":
                return LOGSOFTMAX
            if user.op in _MOVES and user.outputs[0] is not None:
                waiting.append(user.outputs[0])
    return None


def _is_statistic(way_out: Exit) -> bool:
    """Whether an unnamed function is only averaged: the square inside a variance, say."""
    return (
        way_out.activation.name == "other"
        and bool(way_out.uses)
        and all(n.op.startswith("Reduce") for n, _ in way_out.uses)
    )


def _glu(way_out: Exit, piece: Value) -> Activation | None:
    """A gated linear unit: the sigmoid of one half of a value times its other half."""
    gate = way_out.activation
    for node, at in way_out.uses if gate.name == "sigmoid" else ():
        other = node.input(1 - at) if node.op == "Mul" and at < 2 else None
        if other is not None and _are_pieces(piece, other):
            return _gated(gate, LINEAR, "glu")
    return None


def _are_pieces(a: Value, b: Value) -> bool:
    """Whether two values are different pieces of one."""
    a, b = bare(a), bare(b)
    p, q = a.producer, b.producer
    return (
        p is not None and q is not None and a is not b and p.op == q.op and p.op in _PIECES and p.input(0) is q.input(0)
    )


def _gated(gate: Activation, trunk: Activation, name: str) -> Activation:
    """The product of two functions of independent values: its moments are the products of theirs."""
    if gate.second is None or trunk.second is None or gate.mean is None or trunk.mean is None:
        return Activation(name, bounded=gate.bounded and trunk.bounded)
    slopes = None
    if gate.derivative is not None and trunk.derivative is not None:  # over both halves
        slopes = 0.5 * (gate.second * trunk.derivative + gate.derivative * trunk.second)
    bounded = gate.bounded and trunk.bounded
    return Activation(name, gate.slope, gate.mean * trunk.mean, gate.second * trunk.second, slopes, bounded)


class _Up(_Walk):
    """A walk back from a layer's input."""

    def walk(self, value: Value) -> list[Activation]:
        """The functions met, `LINEAR` left out."""
        waiting = deque([(value, False)])
        seen = {id(value)}
        while waiting and len(seen) < _MOST:
            at, normed = waiting.popleft()
            activation, before = self._look(at)
            if activation is not None:
                self._found.append(replace(activation, mean=0.0, second=1.0) if normed else activation)
                continue
            through = normed or self._norms.making(at) is not None
            for v in before:
                if id(v) not in seen:
                    seen.add(id(v))
                    waiting.append((v, through))
        return self._found

    def _look(self, value: Value, *, products: bool = True) -> tuple[Activation | None, list[Value]]:
        """The function that made a value, or where to look further."""
        norm = self._norms.making(value)
        if norm is not None:
            return None, [norm.source]
        made = self._functions.making(value)
        if made is not None:
            return made[0], []
        node = value.producer
        if node is None:
            return None, []
        if node.op in _GATED_UNITS:
            gate = by_name(_GATED_UNITS[node.op])
            return _gated(gate, LINEAR, gate.name), []
        if (node.domain, node.op) in NAMED:
            return NAMED[node.domain, node.op], []
        built_in = fused(node) or self._rectified(node) or _recurrent(node)
        if built_in is not None:
            return built_in, []
        inputs = [(i, v) for i, v in enumerate(node.inputs) if v is not None and not v.static]
        if node.op in _DATA:
            return None, [v for i, v in inputs if self._hands_on(node, i)]
        if node.op in _SUMS | _PRODUCTS:
            moving = [v for _, v in inputs if not self._is_factor(v)]
            if node.op == "Mul" and len(moving) == 2 and products:
                return self._product(*moving), []
            return None, moving if len(moving) == 1 else []
        return None, []

    def _product(self, a: Value, b: Value) -> Activation | None:
        """The product of two signals: by the name of the gate, or of what is gated where that has a name too."""
        p, q = self._near(a), self._near(b)
        if p is LINEAR and q is LINEAR:
            return None
        if p is LINEAR or (q.name in _GATES and p.name not in _GATES):
            p, q, a, b = q, p, b, a
        made = self._functions.making(a)
        halves = p.name == "sigmoid" and made is not None and _are_pieces(made[1], b)
        return _gated(p, q, q.name if q is not LINEAR else "glu" if halves else p.name)

    def _near(self, value: Value) -> Activation:
        """The function that made a value, seen through what hands it on."""
        for _ in range(8):
            activation, before = self._look(value, products=False)
            if activation is not None or len(before) != 1:
                return activation or LINEAR
            value = before[0]
        return LINEAR


def _recurrent(node: Node) -> Activation | None:
    """What a recurrent operator's output went through; of gated ones the moments are not known."""
    if node.op == "RNN":
        given = node.attributes.get("activations")
        return by_name(given.strings[0].decode() if given is not None and given.strings else "Tanh")
    return Activation("tanh", bounded=True) if node.op in ("LSTM", "GRU", "DynamicQuantizeLSTM") else None
