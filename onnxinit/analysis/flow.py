"""Questions about where a signal comes from and where it goes, each answered by a short bounded walk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from onnx import TensorProto

from onnxinit.analysis.einsum import read_equation
from onnxinit.analysis.pointwise import cast_target
from onnxinit.analysis.shapes import elements
from onnxinit.analysis.view import GraphView, Node, Value

_REACH = 12

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})

# Operators that hand their first input on, in another arrangement or precision.
MOVES = frozenset(
    {
        "Identity", "Cast", "CastLike", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand",
        "Slice", "Split", "SplitToSequence", "SequenceAt", "Gather", "QuantizeLinear", "DequantizeLinear", "@If",
        "@Exit", "@Stack", "@Step",
    }
)  # fmt: skip

_ARRANGES = MOVES | {"Pad", "Concat"}
_SUMS = frozenset({"Add", "Sum"})
_SCALINGS = frozenset({"Mul", "Div"})
_PRODUCTS = frozenset({"MatMul", "Einsum", "FusedMatMul"})

_INTEGER_PRODUCTS = frozenset({"MatMulInteger", "ConvInteger"})
LAYERS = frozenset(
    {
        "MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "FusedMatMul", "FusedGemm", "FusedConv", "MatMulNBits",
        "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "TransposeMatMul", "NhwcConv", "QLinearConv", "QLinearMatMul",
        "DeformConv", "NhwcFusedConv", "FusedMatMulActivation", "GemmFastGelu", "GemmFloat8", "SparseToDenseMatMul",
        "ConvTransposeWithDynamicPads", "CausalConvWithState", "MatMulBnb4", *_INTEGER_PRODUCTS,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Origin:
    """The layer that a signal comes from.

    Attributes:
        node: The layer.
        weight: Its static operand.
        source: Its other operand.
        width: Number of outputs; 0 where unknown.
        spread: Whether the outputs of the layer span several axes (Einsum, or a Reshape on the way).
        biased: Whether a bias was added on the way or stands in the layer.
        cut: Whether one piece of its output was taken on the way: a step of a sequence, a block of a projection.
    """

    node: Node
    weight: Value
    source: Value | None
    width: int
    spread: bool
    biased: bool
    cut: bool = False


class Flow:
    """Answers about signals, memoised where walks could meet.

    Args:
        view: The graph.
    """

    def __init__(self, view: GraphView):
        self.view = view
        self._float_fed = self._mark_float_fed()
        self._fed = self._mark_fed()
        self.keeps_numbers_in_nodes = any(v.in_node for v in view.values)

    def _mark_float_fed(self) -> set[int]:
        """The values that carry a float signal of the feed or a look-up by it, not just positions and shapes."""
        fed = {id(v) for v in self.view.inputs if v.dtype in FLOATS}
        for node in self.view.nodes:
            if node.op in ("Shape", "Size"):
                continue
            looked_up = node.op == "Gather" and (v := node.input(0)) is not None and v.static and _holds_floats(v)
            if looked_up or any(v is not None and id(v) in fed for v in node.inputs):
                fed.update(id(v) for v in node.outputs if v is not None)
        return fed

    def _mark_fed(self) -> set[int]:
        """The values that follow from the feed's values, not just from its shapes."""
        fed = {id(v) for v in self.view.inputs}
        for node in self.view.nodes:
            if node.op not in ("Shape", "Size") and any(v is not None and id(v) in fed for v in node.inputs):
                fed.update(id(v) for v in node.outputs if v is not None)
        return fed

    def follows_feed(self, value: Value) -> bool:
        """Whether a value follows from what the feed holds, not just from its shape."""
        return id(value) in self._fed

    def carries_signal(self, value: Value) -> bool:
        """Whether a value follows from float inputs or embeddings, not from positions and shapes alone."""
        return id(value) in self._float_fed

    # ------------------------------------------------------------ backwards

    def layer_behind(self, value: Value) -> Origin | None:
        """The linear layer that makes a signal, seen through moves, scalar factors and a bias."""
        biased = spread = cut = False
        for _ in range(_REACH):
            node = value.producer
            if node is None:
                return None
            if node.op in LAYERS:
                origin = self._origin(node, spread, biased)
                return replace(origin, cut=cut) if origin is not None else None
            before = self._before(node)
            if before is None:
                return None
            biased |= node.op in ("Add", "Sub")
            spread |= node.op == "Reshape"
            maker = before.producer.op if before.producer is not None else ""
            cut |= node.op == "SequenceAt" or (node.op == "Squeeze" and maker in ("Slice", "Split"))
            value = before
        return None

    def scores_words(self, origin: Origin) -> bool:
        """Whether a layer has an output for every row of a table that is looked up, as the decoder of an embedding."""
        shape = origin.weight.shape
        return (shape if shape is None or shape[0] == origin.width else shape[::-1]) in self._tables

    @cached_property
    def _tables(self) -> set[tuple[int | None, ...] | None]:
        """The shapes of the tables that are looked up."""
        tables = (node.input(0) for node in self.view.nodes if node.op == "Gather")
        return {v.shape for v in tables if v is not None and v.static and v.shape is not None}

    @staticmethod
    def _before(node: Node) -> Value | None:
        first = node.input(0)
        if node.op in MOVES:
            return first
        if node.op in ("Add", "Sub", "Mul", "Div") and len(node.inputs) == 2:
            moving = [v for v in node.inputs if v is not None and not v.static]
            moving = moving or [v for v in node.inputs if v is not None and not v.tensor and v.producer is not None]
            if len(moving) == 1:
                return moving[0]
            for v in moving:  # the scale of an integer product is worked out at run time
                p = v.producer
                p = p.inputs[0].producer if p is not None and p.op == "Cast" and p.inputs[0] is not None else p
                if node.op == "Mul" and p is not None and p.op in _INTEGER_PRODUCTS:
                    return v
        return None

    @staticmethod
    def _origin(node: Node, spread: bool, biased: bool) -> Origin | None:
        static = [v for v in node.inputs if v is not None and _is_held(v) and v.shape is not None and len(v.shape) > 1]
        if not static:
            return None
        weight = static[0] if len(static) == 1 or node.op not in ("MatMul", "Gemm") else static[1]
        moving = [v for v in node.inputs if v is not None and not _is_held(v)]
        return Origin(
            node,
            weight,
            moving[0] if moving else None,
            layer_width(node, weight),
            spread or node.op == "Einsum",
            biased or (("Conv" in node.op or "Gemm" in node.op) and node.input(2) is not None),
        )

    def is_raw_input(self, value: Value) -> bool:
        """Whether a signal is the feed itself, at most cast, moved and shifted or scaled by constants."""
        for _ in range(_REACH):
            if value.is_input:
                return True
            before = self._before(value.producer) if value.producer is not None else None
            if before is None:
                return False
            value = before
        return False

    # ------------------------------------------------------------ forwards

    def _after(self, value: Value, through: frozenset[str], *, joins: bool = True) -> Iterator[Node]:
        """The nodes that a signal reaches first, seen through the operators named; `joins`: sums of signals too."""
        seen = {id(value)}
        front = [value]
        for _ in range(_REACH):
            following: list[Value] = []
            for v in front:
                for node, _ in v.uses:
                    if node.op in ("Shape", "Size"):
                        continue
                    if node.op not in through or not (joins or _is_alone(node)):
                        yield node
                        continue
                    for out in node.outputs:
                        if out is not None and id(out) not in seen:
                            seen.add(id(out))
                            following.append(out)
            front = following
            if len(seen) > 64:
                return

    def reaches_softmax(self, value: Value) -> bool:
        """Whether a signal is an attention score: next comes a softmax."""
        through = MOVES | {"Add", "Where", "Mul", "Div", "Sub", "Clip", "Max", "ScatterND"}
        first = list(self._after(value, through - {"Gather", "Split", "SplitToSequence"}))
        return any(n.op in ("Softmax", "LogSoftmax") for n in first)

    def only_periodic(self, value: Value, functions: tuple[str, ...] = ("Sin", "Cos")) -> bool:
        """Whether nothing but sines and cosines read a signal."""
        through = (MOVES | {"Concat", "Mul", "Div", "Add", "Neg"}) - {"Split"}
        first = list(self._after(value, through, joins=False))
        return bool(first) and all(n.op in functions for n in first)

    def feeds_sine_and_cosine(self, value: Value) -> bool:
        """Whether a signal goes to both sines and cosines, as fixed Fourier features do, and to nothing else."""
        through = (MOVES | {"Concat", "Mul", "Div"}) - {"Split"}
        return {n.op for n in self._after(value, through)} == {"Sin", "Cos"}

    def feeds_exponent(self, value: Value) -> bool:
        """Whether nothing but an exponential function reads a signal."""
        first = list(self._after(value, MOVES | {"Neg"}))
        return bool(first) and all(n.op == "Exp" for n in first)

    @staticmethod
    def ends(value: Value) -> bool:
        """Whether a value is handed out, at most moved before."""
        for _ in range(_REACH):
            users = [n for n, _ in value.uses if n.op not in ("Shape", "Size")]
            if value.is_output or len(users) != 1 or users[0].op not in MOVES or users[0].outputs[0] is None:
                break
            value = users[0].outputs[0]
        return value.is_output

    def joins_residual(self, value: Value) -> bool:
        """Whether a signal is added to another signal next."""
        for node in self._after(value, MOVES | {"Mul", "Div"}):
            if node.op in ("Add", "Sum") and sum(v is not None and not v.static for v in node.inputs) > 1:
                return True
            if node.op.startswith("Skip"):
                return True
        return False

    def meets_positions(self, node: Node, at: int) -> bool:
        """Whether a product of a signal with a table gives scores or values by position, as relative positions do.

        q R is added to q k on the way to a softmax, and p R to p v, where p comes from one: the sum of two products of
        one signal, the other with a second signal.

        Args:
            node: The product.
            at: Where the table is.
        """
        source, out = node.input(1 - at), node.outputs[0]
        if source is None or out is None or source.static:
            return False
        source = self._bare(source)
        front = [out]
        for _ in range(2 * _REACH):  # distances become places by paddings and slices
            users = [(n, i, v) for v in front for n, i in v.uses if n.op in _SUMS | _SCALINGS | _ARRANGES]
            for user, i, _ in users:
                for other in user.inputs[:i] + user.inputs[i + 1 :] if user.op in _SUMS else ():
                    if other is not None and self._is_product(other, source, 1 - at, user):
                        return True
            front = [v for n, i, _ in users if i == 0 or n.op not in _ARRANGES for v in n.outputs if v is not None]
        return False

    def _is_product(self, value: Value, of: Value, at: int, joined: Node) -> bool:
        """Whether a value is, or sums up, a product of a signal (at that side) with another, and a softmax is near."""
        waiting = [value]
        for _ in range(_REACH):
            node = self._bare(waiting.pop()).producer if waiting else None
            operands = [v for v in node.inputs if v is not None and not v.static] if node is not None else []
            if node is None or len(operands) != 2:
                continue
            if node.op in _SUMS:
                waiting.extend(operands)
            elif node.op in _PRODUCTS and self._bare(operands[at]) is of:
                makers = [self._bare(v).producer for v in operands]
                out = joined.outputs[0]
                scores = out is not None and self.reaches_softmax(out)
                return scores or any(m is not None and m.op == "Softmax" for m in makers)
        return False

    def _bare(self, value: Value) -> Value:
        """A signal before moves, paddings, and static factors and shifts."""
        for _ in range(_REACH):
            node = value.producer
            if node is None or node.op == "Gather":
                break
            before = node.input(0) if node.op == "Pad" else self._before(node)
            if before is None:
                break
            value = before
        return value

    def summed_axes(self, value: Value) -> list[int] | None:
        """The axes that nothing but sums over them read, as of a product that is summed up: a contraction."""
        users = [n for n, _ in value.uses if n.op not in ("Shape", "Size")]
        if len(users) != 1 or users[0].op != "ReduceSum" or value.shape is None:
            return None
        given = users[0].ints_attribute("axes")
        if given is None:
            given = elements(v) if (v := users[0].input(1)) is not None else None
        return [a % len(value.shape) for a in given] if given else None

    def slope_default(self, node: Node, at: int, slope: float) -> float | None:
        """What a vector starts as that is the slope of a PReLU written out: Relu(x) + w * Relu(-x), or with a minus.

        Args:
            node: A Mul by the vector.
            at: Its input.
            slope: The slope that a PReLU starts with.

        Returns:
            The slope, negative where the graph adds what it should take away; None where this is no PReLU.
        """
        halved, out = node.input(1 - at), node.outputs[0]
        half = halved.producer if halved is not None else None
        source = self._half_of(half) if half is not None else None
        if node.op != "Mul" or source is None or out is None or len(out.uses) != 1:
            return None
        join, place = out.uses[0]
        other = join.input(1 - place)
        if join.op not in ("Add", "Sub") or other is None or other.producer is None:
            return None
        if other.producer.op not in ("Relu", "Max", "Clip") or other.producer.input(0) is not source[0]:
            return None
        return -slope if source[1] == (join.op == "Add") else slope

    @staticmethod
    def _half_of(node: Node) -> tuple[Value, bool] | None:
        """The x of Relu(-x), with True, or of Min(x, 0), with False: that half comes without its sign, or with it."""
        before = node.input(0)
        if node.op == "Relu" and before is not None and before.producer is not None and before.producer.op == "Neg":
            x = before.producer.input(0)
            return (x, True) if x is not None else None
        return (before, False) if node.op == "Min" and before is not None else None

    def is_rotary(self, node: Node, at: int) -> bool:
        """Whether a table multiplies a signal that is then added to another product of its kind, as rotary ones are."""
        out = node.outputs[0]
        table = node.input(at)
        if node.op != "Mul" or out is None or table is None or table.shape is None:
            return False
        if sum(n != 1 for n in table.shape) < 2:
            return False
        for follower, _ in out.uses:
            if follower.op not in ("Add", "Sub"):
                continue
            for other in follower.inputs:
                p = other.producer if other is not None and other is not out else None
                if (
                    p is not None
                    and p.op == "Mul"
                    and any(v is not None and self._is_table(v, table) for v in p.inputs)
                ):
                    return True
        return False

    @staticmethod
    def _is_table(value: Value, like: Value) -> bool:
        return value.static and value is not like and value.shape is not None and value.shape == like.shape


def _is_alone(node: Node) -> bool:
    """Whether a node adds no signal to another."""
    return node.op not in ("Add", "Sub") or sum(v is not None and not v.static for v in node.inputs) < 2


def _is_held(value: Value) -> bool:
    """Whether a value is stored or follows from what is stored, in a loop from a step of it."""
    for _ in range(_REACH):
        node = value.producer
        before = node.input(0) if node is not None and node.op in MOVES else None
        if value.static or before is None:
            break
        value = before
    return value.static


def _holds_floats(value: Value) -> bool:
    """Whether a stored value holds floats, as it is or once its codes are turned into them."""
    for _ in range(_REACH):
        node = value.producer
        if value.dtype or node is None:
            break
        scale = node.input(1) if node.op == "DequantizeLinear" else None
        before = scale or (node.input(0) if node.op in MOVES else None)
        if node.op in ("Cast", "CastLike") or before is None:
            return node.op == "Cast" and cast_target(node) in FLOATS
        value = before
    return value.dtype in FLOATS


def layer_width(node: Node, weight: Value) -> int:
    """Number of outputs of a layer, 0 where unknown."""
    shape = weight.shape
    if node.op == "MatMulBnb4":
        return node.int_attribute("N" if node.int_attribute("transB", 1) else "K", 0)
    if shape is None or None in shape:
        return 0
    dims = [n for n in shape if n is not None]
    if len(dims) < 2 and node.op != "Einsum":
        return 0
    if "ConvTranspose" in node.op:
        return dims[1] * node.int_attribute("group", 1)
    if "Conv" in node.op or node.op == "MatMulNBits":
        return dims[0]
    if node.op == "Einsum":
        terms, result = read_equation(node)
        at = node.inputs.index(weight)
        if at >= len(terms):
            return 0
        others = {c for i, t in enumerate(terms) if i != at for c in t}
        return math.prod(n for c, n in zip(terms[at], dims, strict=False) if c in result and c not in others - {"."})
    right = node.inputs[0] is not weight
    flipped = bool(node.int_attribute("transB" if right else "transA", 0))
    return dims[-1 if right != flipped else -2]
