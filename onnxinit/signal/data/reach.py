"""What becomes of an input in the graph, as far as it says which values the input can take.

The input is followed through operators that move elements, and through arithmetic with known numbers: beside each value
stands what it would be if the input were 0 and if it were 1. What it meets in the end is noted as `Facts`.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto

from onnxinit.analysis.constants import Constants
from onnxinit.analysis.pointwise import POINTWISE
from onnxinit.analysis.view import Node, Value

HUGE = 1e3  # a number that a softmax is told to forget a place with is larger
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})

# What moves elements, with the inputs that it moves; None for all of them.
_MOVES: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(
        (
            "Identity", "Cast", "CastLike", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Flatten", "Expand", "Tile",
            "Slice", "Split", "Pad", "Gather", "GatherElements", "GatherND", "Dropout", "Compress", "ReverseSequence",
            "Trilu", "ReduceMax", "ReduceMin", "TopK", "@Step", "Optional", "OptionalGetElement",
        ),
        (0,),
    ),
    **dict.fromkeys(("Concat", "@If", "@Exit", "@Carry", "@Stack"), None),
}  # fmt: skip
_COMPARES = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"})
_LOGIC = frozenset({"Not", "And", "Or", "Xor"})
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Clip", "Min", "Max"})

# An index into a table: (domain, operator, input) -> (input of the table, its axis; None for the attribute "axis").
_INDICES: dict[tuple[str, str, int], tuple[int, int | None]] = {
    ("", "Gather", 1): (0, None),
    ("", "GatherElements", 1): (0, None),
    ("", "ScatterElements", 1): (0, None),
    ("com.microsoft", "EmbedLayerNormalization", 0): (2, 0),
    ("com.microsoft", "EmbedLayerNormalization", 1): (4, 0),
    ("com.microsoft", "GatherBlockQuantized", 1): (0, 0),
}
_POSITIONS: dict[tuple[str, str, int], tuple[int, int]] = {
    ("", "RotaryEmbedding", 3): (1, 0),
    ("com.microsoft", "RotaryEmbedding", 1): (2, 0),
}
# A length, with the input and the axis that it is the length of, and what is taken off it.
_LENGTHS: dict[tuple[str, str, int], tuple[int, int, int]] = {
    **{("", op, 4): (0, 0, 0) for op in ("RNN", "GRU", "LSTM")},
    ("com.microsoft", "GroupQueryAttention", 5): (0, 1, 1),
    ("com.microsoft", "GroupQueryAttention", 6): (0, 1, 0),
}
_ADDED_MASKS = frozenset(
    {
        ("", "Attention", 3),
        ("com.microsoft", "Attention", 5),
        ("com.microsoft", "MultiHeadAttention", 5),
        ("com.microsoft", "GroupQueryAttention", 10),
    }
)
_KEY_MASKS = frozenset(
    {
        ("com.microsoft", "Attention", 3),
        ("com.microsoft", "MultiHeadAttention", 4),
        ("com.microsoft", "EmbedLayerNormalization", 7),
    }
)
_STATES = frozenset({("", op, k) for op in ("RNN", "GRU", "LSTM") for k in (5, 6)})
_COUNTS = frozenset({"ReduceSum", "ReduceMean", "CumSum", "ReduceProd", "NonZero"})
_SIZES = frozenset({("Reshape", 1), ("Expand", 1), ("Tile", 1), ("ConstantOfShape", 0), ("Range", 1), ("TopK", 1)})

Pair = tuple[float, float]
"""What a value is if the input is 0, and if it is 1; NaN where that is not known."""

Pairs = dict[int, Pair]
_UNKNOWN: Pair = (math.nan, math.nan)
_BETWEEN = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Max", "Min", "Clip"})
_SOFTMAX = frozenset({"Softmax", "LogSoftmax"})
_ANGLES = frozenset({"Sin", "Cos"})


@dataclass(slots=True)
class Facts:
    """What an input meets.

    Attributes:
        below: Bounds for it as an index, each with the value that is looked up.
        lengths: Lengths that it can be.
        prefers: Values, 0 or 1, that a mask must have to let everything through.
        meets: Other things: "mask" (compared, counted, a condition), "gate" (multiplied with a signal), "state" (of a
            recurrent operator), "angle" (under a sine), "size" (a shape or a count), "position", "signal" (all else).
    """

    below: list[tuple[int, Value | None]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    prefers: list[int] = field(default_factory=list)
    meets: set[str] = field(default_factory=set)


def follow(start: Value, constants: Constants) -> Facts:
    """All that a value meets, each node once and after those that feed it."""
    facts = Facts()
    pairs: Pairs = {id(start): (0.0, 1.0)}
    todo = {node.index: node for node, _ in start.uses}
    heap = sorted(todo)
    while heap:
        node = todo[heapq.heappop(heap)]
        for at, value in enumerate(node.inputs):
            if value is None or id(value) not in pairs:
                continue
            for out, pair in _use(node, at, value, pairs, facts, constants):
                if out is None or id(out) in pairs:
                    continue
                pairs[id(out)] = pair
                for user, _ in out.uses:
                    if user.index not in todo:
                        todo[user.index] = user
                        heapq.heappush(heap, user.index)
    return facts


def _use(
    node: Node, at: int, value: Value, pairs: Pairs, facts: Facts, constants: Constants
) -> list[tuple[Value | None, Pair]]:
    """Note what one use says; where the value goes on, and as what."""
    key, pair = (node.domain, node.op, at), pairs[id(value)]
    if key in _INDICES:
        table, axis = _INDICES[key]
        _note_index(node, table, node.int_attribute("axis", 0) if axis is None else axis, pair, facts)
    elif key in _POSITIONS:
        facts.meets.add("position")
        _note_index(node, *_POSITIONS[key], pair, facts)
    elif key in _LENGTHS:
        _note_length(node, *_LENGTHS[key], facts)
    elif key in _KEY_MASKS and value.shape is not None and len(value.shape) == 1:
        _note_length(node, 0, 1, 0, facts)
    elif key in _KEY_MASKS or key in _ADDED_MASKS:
        is_bool = value.dtype == TensorProto.BOOL or key in _KEY_MASKS
        facts.prefers.append(1 if is_bool else 0)
    elif key in _STATES:
        facts.meets.add("state")
    elif node.domain == "":
        if node.op in _COMPARES | _LOGIC | _ARITHMETIC:
            return _pointwise(node, at, pairs, facts, constants)
        if node.op == "Where":
            return _where(node, at, pairs, facts, constants)
        return _standard(node, at, pair, facts, constants)
    else:
        facts.meets.add("signal")
    return []


def _standard(node: Node, at: int, pair: Pair, facts: Facts, constants: Constants) -> list[tuple[Value | None, Pair]]:
    op = node.op
    if op in ("Shape", "Size"):
        return []
    if op in _MOVES:
        moved = _MOVES[op]
        if moved is not None and at not in moved:
            facts.meets.add("size")
            return []
        return [(v, pair) for v in node.outputs]
    if op in ("GatherND", "ScatterND", "OneHot", "ReverseSequence"):
        return _other_indices(node, at, pair, facts, constants)
    if op in _COUNTS:
        facts.meets.add("mask")
        return []
    if (op, at) in _SIZES or op in ("Loop", "If"):
        facts.meets.add("mask" if op == "If" else "size")
        return []
    if op in ("Sin", "Cos"):
        facts.meets.add("angle")
        return []
    facts.meets.add("angle" if op in ("MatMul", "Einsum") and _reaches(node, _ANGLES) else "signal")
    return []


def _where(node: Node, at: int, pairs: Pairs, facts: Facts, constants: Constants) -> list[tuple[Value | None, Pair]]:
    """One branch or the other where the input decides it, else the one that it comes in by."""
    condition, *branches = (pairs.get(id(v)) for v in node.inputs)
    if at == 0:
        _note_condition(node, pairs[id(node.inputs[0])], facts, constants)
    if condition is None:
        return [(v, pairs[id(node.inputs[at])]) for v in node.outputs]
    if not any(branches):
        return []  # a signal where the mask lets it through
    known = [
        p or ((n, n) if (n := constants.scalar(v)) is not None else _UNKNOWN)
        for p, v in zip(branches, node.inputs[1:], strict=True)
    ]
    first, second = (known[0 if c else 1][k] if not math.isnan(c) else math.nan for k, c in enumerate(condition))
    return [(v, (first, second)) for v in node.outputs]


def _pointwise(
    node: Node, at: int, pairs: Pairs, facts: Facts, constants: Constants
) -> list[tuple[Value | None, Pair]]:
    """Arithmetic: with numbers the value goes on, with a signal it is a mask, or a signal itself."""
    pair = pairs[id(node.inputs[at])]
    if node.op in _COMPARES or node.op in _LOGIC:
        facts.meets.add("mask")
    operands = [None if v is None else pairs.get(id(v)) or constants.scalar(v) for v in node.inputs]
    if all(n is not None or v is None for n, v in zip(operands, node.inputs, strict=True)):
        after = _evaluate(node, operands)
        small, large = sorted((0, 1), key=lambda k: abs(after[k]))
        if node.op in ("Mul", "Div", "Sub", "Add") and abs(after[large]) >= HUGE > abs(after[small]) * HUGE:
            facts.prefers.append(small)
            return []
        return [(v, after) for v in node.outputs]
    if node.op in _COMPARES:
        _note_compared(node, at, facts)
        return []
    if node.op in _LOGIC:
        return [(v, pair) for v in node.outputs]
    if node.op == "Mul":
        facts.meets.add("angle" if _reaches(node, _ANGLES) else "gate")
        return []
    if node.op in ("Add", "Sub") and _reaches(node, _SOFTMAX):
        facts.prefers.append(1 if abs(pair[0]) > abs(pair[1]) else 0)
        return []
    facts.meets.add("signal")
    if node.op != "Add" or len(node.inputs) != 2:
        return []
    shift = constants.constant(node.inputs[1 - at])  # a number for each place, such as where a field's rows begin
    most = float(np.asarray(shift, np.float64).max()) if shift is not None and shift.size else math.nan
    return [(v, (pair[0] + most, pair[1] + most)) for v in node.outputs]


def _evaluate(node: Node, operands: list[Pair | float | None]) -> Pair:
    given = [np.asarray(x) if isinstance(x, tuple) else x for x in operands]
    with np.errstate(all="ignore"):
        result = np.asarray(POINTWISE[node.domain, node.op](node, given), np.float64)
    return float(result.flat[0]), float(result.flat[-1])


def _note_index(node: Node, table: int, axis: int, pair: Pair, facts: Facts) -> None:
    """A bound on x from a x + b < rows."""
    shape = held.shape if (held := node.input(table)) is not None else None
    rows = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
    _note_bound(rows, pair, facts, node.outputs[0] if node.outputs else None)


def _note_bound(rows: int | None, pair: Pair, facts: Facts, out: Value | None) -> None:
    slope, bound = pair[1] - pair[0], 1
    if rows is not None and slope > 0:
        bound = max(1, int((rows - 1 - pair[0]) // slope) + 1)
    facts.below.append((bound, out))


def _other_indices(
    node: Node, at: int, pair: Pair, facts: Facts, constants: Constants
) -> list[tuple[Value | None, Pair]]:
    data = node.input(0)
    shape = data.shape if data is not None else None
    if node.op == "OneHot" and at == 0:
        depth = constants.scalar(node.input(1))
        _note_bound(int(depth) if depth is not None else None, pair, facts, None)
    elif node.op == "ReverseSequence" and at == 1:
        _note_length(node, 0, node.int_attribute("time_axis", 0), 0, facts)
    elif at == 1 and shape is not None:
        index = node.inputs[1].shape if node.inputs[1] is not None else None
        depth = index[-1] if index else None
        first = node.int_attribute("batch_dims", 0)
        used = shape[first : first + depth] if depth is not None else shape
        _note_bound(
            min((n for n in used if n is not None), default=None) if None not in used else None, pair, facts, None
        )
    else:
        facts.meets.add("signal")
    return []


def _note_length(node: Node, at: int, axis: int, less: int, facts: Facts) -> None:
    shape = held.shape if (held := node.input(at)) is not None else None
    n = shape[axis] if shape is not None and axis < len(shape) else None
    facts.lengths.append(n - less if n is not None else 1)


def _note_compared(node: Node, at: int, facts: Facts) -> None:
    """Compared with 0, 1, 2 ...: a length, of the axis that these run along."""
    other = node.inputs[1 - at]
    origin = other
    for _ in range(8):
        before = origin.producer if origin is not None else None
        if before is None or before.op not in _MOVES or not before.inputs:
            break
        origin = before.inputs[0]
    counts = origin is not None and origin.producer is not None and origin.producer.op == "Range"
    if counts and other is not None and other.shape is not None and node.op != "Equal":
        facts.lengths.append(max((n for n in other.shape if n is not None), default=1))


def _note_condition(node: Node, pair: Pair, facts: Facts, constants: Constants) -> None:
    """A Where lets everything through if it never takes the branch of a huge negative number."""
    facts.meets.add("mask")
    for branch, wanted in ((1, 0.0), (2, 1.0)):
        number = constants.scalar(node.input(branch))
        if number is not None and number < -HUGE:
            facts.prefers += [k for k in (0, 1) if pair[k] == wanted and pair[1 - k] != wanted]


def _reaches(node: Node, ends: frozenset[str]) -> bool:
    """Whether what a node makes becomes, element by element, the argument of one of some operators."""
    todo, seen = [v for v in node.outputs if v is not None], 0
    while todo and seen < 16:
        value = todo.pop(0)
        seen += 1
        for user, at in value.uses:
            if user.op in ends:
                return True
            moved = _MOVES.get(user.op, ())
            if user.domain == "" and (user.op in _BETWEEN or moved is None or at in moved):
                todo += [v for v in user.outputs if v is not None]
    return False
