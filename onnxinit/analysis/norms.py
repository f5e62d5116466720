"""Normalisations, as one operator or written out.

A norm divides a signal by its own spread, so a written-out one is found at the root of a second moment:

    spread: Sqrt(..) | Pow(.., +-1/2) of ReduceMean(a * a) + eps, or ReduceL2(x);  a = x or x - mean(x)
    core:   the Div or Mul where a (or x) meets the spread or its inverse, which may hold the scale already
    ends:   a Mul by a learned vector, an Add of one (or of shift - mean * inverse)

Batch norm at inference has no spread of its own: `batch_norms` reads it from static vectors.
A norm of a kernel (weight standardisation, weight norm) is no norm of a signal and is not listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnxinit.analysis.batch_norms import batch_norm
from onnxinit.analysis.constants import Constants
from onnxinit.analysis.norm import CASTS, Learned, Norm, Place, Role, bare, between, nothing_else, readers
from onnxinit.analysis.view import GraphView, Node, Value

_MOVES = CASTS | {"Reshape", "Expand", "Unsqueeze", "Squeeze", "Flatten"}
_REACH = 12

# Data inputs of the operators that normalise.
FUSED: Mapping[tuple[str, str], tuple[int, ...]] = {
    **{
        ("", op): (0,)
        for op in (
            *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"),
            *("RMSNormalization", "SimplifiedLayerNormalization", "MeanVarianceNormalization", "LpNormalization"),
        )
    },
    **{
        ("com.microsoft", op): (0,)
        for op in (
            *("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization", "GroupNorm"),
            *("BranchwiseRMSNorm", "GatedRMSNorm"),
        )
    },
    ("com.ms.internal.nhwc", "BatchNormalization"): (0,),
    ("com.ms.internal.nhwc", "InstanceNormalization"): (0,),
    ("com.microsoft", "SkipLayerNormalization"): (0, 1),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): (0, 1),
    ("com.microsoft", "SkipGroupNorm"): (0, 3),
}


class Norms:
    """The norms of a graph, by what they read and make."""

    def __init__(self) -> None:
        self._all: list[Norm] = []
        self._by_output: dict[int, Norm] = {}
        self._by_reader: dict[int, Norm] = {}
        self._roles: dict[tuple[int, int], Role] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Norm]:
        return iter(self._all)

    def add(self, norm: Norm) -> None:
        """Enter a norm."""
        self._all.append(norm)
        self._by_output[id(norm.output)] = norm
        for reader in norm.readers:
            self._by_reader[reader] = norm
        for (node, at), role in norm.roles:
            self._roles[id(node), at] = role

    def role(self, node: Node, at: int) -> Role | None:
        """The role of the static operand at (node, input) of a written-out norm, and its default where not the role's.

        Nodes inside the making of static statistics, such as Add(running_var, eps), answer too. What an operator such
        as LayerNormalization holds itself is not here: its own inputs say it.
        """
        return self._roles.get((id(node), at))

    def making(self, value: Value) -> Norm | None:
        """The norm whose output a value is."""
        return self._by_output.get(id(value))

    def reading(self, node: Node, at: int) -> Norm | None:
        """The norm that a node belongs to as a reader of its source at that input."""
        norm = self._by_reader.get(id(node))
        data = FUSED.get((node.domain, node.op))
        return None if norm is None or (data is not None and at not in data) else norm


def find_norms(view: GraphView, constants: Constants | None = None) -> Norms:
    """Find every normalisation of a signal.

    Args:
        view: The graph; shapes, where known, tell a learned vector from a scalar.
        constants: Small static values, made anew where omitted.
    """
    constants = constants or Constants()
    norms = Norms()
    for node in view.nodes:
        norm = None
        if (node.domain, node.op) in FUSED:
            norm = _fused(node, constants)
        elif node.op in ("Sqrt", "Pow", "ReduceL2"):
            norm = _written_out(node, constants)
        if norm is not None and norms.making(norm.output) is None:
            norms.add(norm)
    taken = {id(n) for norm in norms for (n, _), _ in norm.roles}
    for node in view.nodes:
        if node.op in ("Mul", "Div", "Sub") and id(node) not in taken:
            norm = batch_norm(node, constants)
            if norm is not None:
                norms.add(norm)
                taken.update(id(n) for n in between(norm.source, norm.output))
    return norms


# ---------------------------------------------------------------- operators


def _fused(node: Node, constants: Constants) -> Norm | None:
    source, out = node.input(0), node.outputs[0] if node.outputs else None
    if source is None or out is None or source.static:
        return None
    if not (_inside_group_norm(node, out) or _neutral(node, constants)):
        return Norm(source, out, readers=frozenset({id(node)}))
    ends = _Ends(Learned(constants, node.int_attribute("axis", -1)), out)
    return Norm(source, ends.output, tuple(ends.roles.items()), frozenset({id(node)}))


def _inside_group_norm(node: Node, out: Value) -> bool:
    """Whether an InstanceNormalization stands between two reshapes: its own scale is neutral then."""
    source = node.input(0)
    before = source.producer if source is not None else None
    between = before is not None and before.op == "Reshape" and any(user.op == "Reshape" for user, _ in out.uses)
    return node.op == "InstanceNormalization" and between


def _neutral(node: Node, constants: Constants) -> bool:
    """Whether an operator's own scale is absent or known to be one everywhere."""
    if node.op in ("MeanVarianceNormalization", "LpNormalization"):
        return True
    held = constants.constant(node.input(1)) if node.op != "BatchNormalization" else None
    return held is not None and bool((held == 1).all())


# ---------------------------------------------------------------- written out


def _written_out(root: Node, constants: Constants) -> Norm | None:
    """The norm around a root of a second moment."""
    out = root.outputs[0] if root.outputs else None
    if out is None or out.static or (root.op == "Pow" and abs(constants.scalar(root.input(1)) or 0.0) != 0.5):
        return None
    found = _moment(root, constants)
    if found is None or found[0].static:
        return None
    source, axes = found
    learned = Learned(constants, axes)
    core = _Core(learned, source)
    core.follow(out)
    if core.output is None:
        return None
    ends = _Ends(learned, core.output, core)
    return Norm(source, ends.output, tuple(ends.roles.items()), readers(source, ends.output))


def _moment(root: Node, constants: Constants) -> tuple[Value, int] | None:
    """What a root is the spread of, and over how many axes; None where it is no spread."""
    value = root.input(0)
    if root.op == "ReduceL2":
        return (bare(value), _axes(root, constants)) if value is not None else None
    for _ in range(_REACH):
        node = value.producer if value is not None else None
        if node is None:
            return None
        first = node.input(0)
        if node.op in ("ReduceMean", "ReduceSum", "GlobalAveragePool"):
            base = _squared(first, constants)
            return (_uncentred(base), _axes(node, constants)) if base is not None else None
        if node.op == "ReduceSumSquare":
            return (_uncentred(first), _axes(node, constants)) if first is not None else None
        if node.op in _MOVES or node.op == "Relu":
            value = first
        elif node.op in ("Add", "Max", "Min", "Clip", "Mul", "Div"):
            value = _only_moving(node, constants)
        elif node.op == "Sub" and _squared(node.input(1), constants) is not None:  # E[x^2] - E[x]^2
            value = first
        else:
            return None
    return None


def _axes(node: Node, constants: Constants) -> int:
    """Over how many axes a reduction goes; many where it does not say."""
    given = node.ints_attribute("axes")
    if given is not None:
        return len(given)
    held = constants.constant(node.input(1))
    return held.size if held is not None else 8


def _only_moving(node: Node, constants: Constants) -> Value | None:
    """The one operand that is not a number."""
    rest = [v for v in node.inputs if v is not None and not is_number(v, constants)]
    return rest[0] if len(rest) == 1 else None


def is_number(value: Value, constants: Constants) -> bool:
    """Whether a value is a single number, known or not (the length of an axis, say)."""
    return value.shape in ((), (1,)) or constants.scalar(value) is not None


def _squared(value: Value | None, constants: Constants) -> Value | None:
    """Which value a value is the square of."""
    node = bare(value).producer if value is not None else None
    if node is None or len(node.inputs) != 2:
        return None
    a, b = node.inputs
    if a is None or b is None:
        return None
    if node.op == "Pow" and constants.scalar(b) == 2:
        return a
    return a if node.op == "Mul" and bare(a) is bare(b) else None


def _uncentred(value: Value) -> Value:
    """X, of x or x - mean(x)."""
    value = bare(value)
    node = value.producer
    if node is None or node.op != "Sub":
        return value
    first, second = node.input(0), node.input(1)
    if first is None or second is None or second.static:
        return value
    for _ in range(_REACH):
        maker = second.producer if second is not None else None
        if maker is None:
            break
        second = maker.input(0)
        if maker.op in ("ReduceMean", "ReduceSum", "GlobalAveragePool") and second is not None:
            return bare(first) if bare(second) is bare(first) else value
        if maker.op not in _MOVES | {"Mul", "Div"}:
            break
    return value


class _Core:
    """The way from a spread to the node where the signal meets it.

    Attributes:
        output: What that node makes, None where there is none.
        scale: Where a learned scale was folded into the inverse of the spread.
        offsets: By identity: values to be added or subtracted after the core, with the place of the learned shift.
    """

    def __init__(self, learned: Learned, source: Value):
        self.output: Value | None = None
        self.scale: Place | None = None
        self.offsets: dict[int, Place | None] = {}
        self._learned, self._source = learned, source

    def follow(self, spread: Value) -> None:
        waiting, seen = [spread], {id(spread)}
        while waiting and len(seen) < 32:
            value = waiting.pop(0)
            for node, at in value.uses:
                out = node.outputs[0] if node.outputs else None
                if out is not None and id(out) not in seen and self._step(node, at, out):
                    seen.add(id(out))
                    waiting.append(out)

    def _step(self, node: Node, at: int, out: Value) -> bool:
        """Whether what a node makes is still the spread or its inverse."""
        if (node.op in _MOVES and at == 0) or node.op in ("Reciprocal", "Sqrt"):
            return True
        if node.op not in ("Add", "Max", "Min", "Clip", "Pow", "Mul", "Div") or len(node.inputs) < 2:
            return False
        others = [v for i, v in enumerate(node.inputs) if i != at and v is not None]
        if all(is_number(v, self._learned.constants) for v in others):
            return True
        if node.op not in ("Mul", "Div"):
            return False
        other = others[0]
        if node.op == "Div" and at == 0 and self._is_mean(other, node.inputs[0]):  # of a response, by their mean
            return True
        if node.op == "Mul" and other.static:
            if self.scale is None and self._learned(other):
                self.scale = node, 1 - at
                return True
            return False
        if self._is_signal(other) and not (node.op == "Div" and at == 0):
            self.output = self.output or out
        elif node.op == "Mul":
            self._offset(out)
        return False

    def _is_mean(self, value: Value, of: Value | None) -> bool:
        """Whether a value is the mean of another, at most with an epsilon."""
        node = value.producer
        if node is not None and node.op in ("Add", "Max", "Clip"):
            before = _only_moving(node, self._learned.constants)
            node = before.producer if before is not None else None
        return node is not None and node.op == "ReduceMean" and of is not None and node.inputs[0] is of

    def _is_signal(self, value: Value) -> bool:
        return bare(value) is self._source or _uncentred(value) is self._source

    def _offset(self, shifted: Value) -> None:
        """Mean times inverse: what the shift is taken together with."""
        self.offsets[id(shifted)] = None
        for node, at in shifted.uses:
            out = node.outputs[0] if node.outputs else None
            if out is None:
                continue
            other = node.input(1 - at) if node.op in ("Sub", "Add") else None
            if node.op == "Neg":
                self._offset(out)
            elif other is not None and other.static:
                self.offsets[id(out)] = node, 1 - at


class _Ends:
    """The scale and shift after a core.

    Attributes:
        output: The last value of the norm.
        roles: What the static operands are.
    """

    def __init__(self, learned: Learned, value: Value, core: _Core | None = None):
        self.output = value
        self.roles: dict[Place, Role] = {}
        self._learned = learned
        self._offsets = core.offsets if core is not None else {}
        self._scaled = core is not None and core.scale is not None
        if core is not None and core.scale is not None:
            self.roles[core.scale] = "norm_scale", learned.default(core.scale)
        for _ in range(_REACH):
            following = self._step(value)
            if following is None:
                break
            value = following

    def _step(self, value: Value) -> Value | None:
        """The value after the next node of the norm, None at its end."""
        use = nothing_else(value)
        out = use[0].outputs[0] if use is not None and use[0].outputs else None
        if use is None or out is None:
            return None
        node, at = use
        if node.op in CASTS or node.op == "Reshape":
            return out if at == 0 else None
        other = node.input(1 - at) if node.op in ("Mul", "Add", "Sub") else None
        if other is None:
            return None
        if node.op == "Mul" and self._learned.constants.scalar(other) is not None:
            return out
        if node.op == "Mul" and not self._scaled and self._learned(other, heads=1):
            self._scaled = True
            self.roles[node, 1 - at] = "norm_scale", self._learned.default((node, 1 - at))
            self.output = out
            return out
        if node.op != "Mul" and id(other) in self._offsets:
            place = self._offsets[id(other)]
            self.output = out
            if place is None:
                return out
            self.roles[place] = "norm_shift", None
        elif node.op != "Mul" and not (node.op == "Sub" and at == 1) and self._learned(other):
            self.roles[node, 1 - at] = "norm_shift", None
            self.output = out
        return None
