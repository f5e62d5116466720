"""Pieces of a graph that compute a pointwise function of one value: grown forwards, found backwards, named.

The region of a value x holds every value that is a pointwise function of x alone, numbers aside. What leaves the
region is an exit. On the way from x to an exit, the dominators (the values that every path passes) are the only
places where one function ends and another may begin: in x * sigmoid(x) the sigmoid dominates nothing, so that the
product is what gets a name.
"""

from __future__ import annotations

import heapq
from collections.abc import Container
from dataclasses import dataclass

from onnxinit.analysis.activations import PRELU_SLOPE, activation, by_name, distance, named
from onnxinit.analysis.constants import Constants
from onnxinit.analysis.pointwise import GRID, Expression, Expressions, is_pointwise, leaky_relu
from onnxinit.analysis.view import Node, Value
from onnxinit.analysis.weight import LINEAR, Activation

MOST = 96  # nodes of a region; no activation is written with so many
ASIDE = frozenset({"Shape", "Size"})  # what reads no values
_FIRST_ONLY = frozenset({"Dropout", "CastLike", "Identity", "Cast"})
_OPTIONAL = frozenset({"Clip", "FastGelu"})  # operators with inputs that may be left out

Use = tuple[Node, int]


@dataclass(frozen=True, slots=True)
class Exit:
    """Where a region is left.

    Attributes:
        activation: The function of the region's origin; `LINEAR` where it is affine.
        value: The value that is used outside, or handed out by the model.
        uses: Its uses outside.
    """

    activation: Activation
    value: Value
    uses: tuple[Use, ...]


class Region:
    """The pointwise functions of one value.

    Args:
        origin: That value.
        table: Makes the expressions.
        constants: Small static values.
        barred: Identities of nodes that no region enters, such as those of norms.
        slopes: Whether Mul by a learned vector counts as Mul by the slope that a parametric ReLU starts from.
    """

    def __init__(
        self,
        origin: Value,
        table: Expressions,
        constants: Constants,
        *,
        barred: Container[int] = (),
        slopes: bool = False,
    ):
        self.origin = origin
        self.functions: dict[int, Expression] = {id(origin): table.x}
        self.values: list[Value] = [origin]
        self.nodes: set[int] = set()
        self.sloped: set[int] = set()
        self._table, self._constants, self._barred, self._slopes = table, constants, barred, slopes
        self._dominator: dict[int, Value] = {}
        self._depth: dict[int, int] = {id(origin): 0}
        self._grow()

    def _grow(self) -> None:
        waiting: list[tuple[int, int, Node]] = []
        self._await(waiting, self.origin)
        seen: set[int] = set()
        while waiting and len(self.nodes) < MOST:
            _, key, node = heapq.heappop(waiting)
            if key in seen:
                continue
            seen.add(key)
            operands = self._operands(node)
            out = node.outputs[0] if node.outputs else None
            if operands is None or out is None or id(out) in self.functions:
                continue
            self.nodes.add(key)
            self._enter(out, node, operands)
            self._await(waiting, out)

    def _await(self, waiting: list[tuple[int, int, Node]], value: Value) -> None:
        for node, _ in value.uses:
            if is_pointwise(node) and id(node) not in self._barred:
                heapq.heappush(waiting, (node.index, id(node), node))

    def _operands(self, node: Node) -> tuple[Expression | float | None, ...] | None:
        """What a node is applied to, None where that is not the origin and numbers alone."""
        if node.inputs[:1] == [None]:
            return None
        operands: list[Expression | float | None] = []
        for i, value in enumerate(node.inputs[:1] if node.op in _FIRST_ONLY else node.inputs):
            if value is None and node.op not in _OPTIONAL:
                return None  # a function whose call leaves out what this node needs
            if value is None:
                operands.append(None)
            elif id(value) in self.functions:
                operands.append(self.functions[id(value)])
            elif node.op == "PRelu" and i == 1 and value.static:
                operands.append(PRELU_SLOPE)
            else:
                number = self._constants.scalar(value)
                if number is None and self._slopes and node.op == "Mul" and value.static:
                    number = PRELU_SLOPE
                    self.sloped.add(id(node))
                if number is None:
                    return None
                operands.append(number)
        return tuple(operands) if any(isinstance(o, Expression) for o in operands) else None

    def _enter(self, out: Value, node: Node, operands: tuple[Expression | float | None, ...]) -> None:
        self.functions[id(out)] = self._table.make(node, operands)
        self.values.append(out)
        inside = [v for v in node.inputs if v is not None and id(v) in self._depth]
        if node.op in _FIRST_ONLY:
            inside = inside[:1]
        meet = inside[0]
        for other in inside[1:]:
            while meet is not other:
                if self._depth[id(meet)] >= self._depth[id(other)]:
                    meet = self._dominator[id(meet)]
                else:
                    other = self._dominator[id(other)]
        self._dominator[id(out)] = meet
        self._depth[id(out)] = self._depth[id(meet)] + 1
        if any(id(v.producer) in self.sloped for v in inside if v.producer is not None):
            self.sloped.add(id(node))

    def outside(self, value: Value) -> tuple[Use, ...]:
        """The uses of a value beyond the region."""
        return tuple(
            (n, i)
            for n, i in value.uses
            if id(n) not in self.nodes and n.op not in ASIDE and not (n.op == "CastLike" and i == 1)
        )

    def is_prelu(self, value: Value) -> bool:
        """Whether a value is x above zero and a learned slope (or minus one) times x below."""
        if id(value.producer) not in self.sloped:
            return False
        y = self.functions[id(value)].on_grid
        return any(distance(y, leaky_relu(GRID, s)) < 1e-9 for s in (PRELU_SLOPE, -PRELU_SLOPE))

    def chain(self, value: Value) -> list[Value]:
        """The dominators of a value, from the origin to itself."""
        way = [value]
        while way[-1] is not self.origin:
            way.append(self._dominator[id(way[-1])])
        return way[::-1]


class Functions:
    """Names what follows a value and what made it.

    Args:
        constants: Small static values.
        barred: Identities of nodes that no region enters.
    """

    def __init__(self, constants: Constants, barred: Container[int] = ()):
        self._constants = constants
        self._barred = barred
        self._table = Expressions()
        self._regions: dict[int, Region] = {}
        self._following: dict[int, list[Exit]] = {}

    def region(self, origin: Value) -> Region:
        """The region of a value, grown once."""
        if id(origin) not in self._regions:
            self._regions[id(origin)] = Region(origin, self._table, self._constants, barred=self._barred)
        return self._regions[id(origin)]

    # ------------------------------------------------------------ forwards

    def following(self, value: Value) -> list[Exit]:
        """The functions that are applied to a value, one for each exit of its region, in topological order.

        A value that is used as it is has itself as an exit, with `LINEAR`. Values of which nothing is used are none.
        """
        if id(value) not in self._following:
            self._following[id(value)] = self._exits(value)
        return self._following[id(value)]

    def _exits(self, value: Value) -> list[Exit]:
        region = self.region(value)
        sloped = self._parametric(region)
        if sloped is not None:
            return sloped
        exits: list[Exit] = []
        for end in region.values:
            uses = region.outside(end)
            f = region.functions[id(end)]
            varies = f.on_grid.dtype.kind == "f" and (f.affine is None or f.affine[0] != 0.0)
            if varies and (uses or end.is_output):
                exits.append(Exit(self._name(region, end), end, uses))
        return exits

    def _name(self, region: Region, end: Value) -> Activation:
        f = region.functions[id(end)]
        if f.affine is not None:
            return LINEAR
        chain = region.chain(end)
        for origin in chain:
            if region.functions[id(origin)].affine is None:
                break
            found = [n for v in chain[chain.index(origin) + 1 :] if (n := self._named(origin, v)) is not None]
            if found:  # the longest that has a name: ReLU6 may be written as a ReLU and a minimum
                return activation(found[-1][0], f, found[-1][1])
        return activation("other", f)

    def _named(self, origin: Value, value: Value) -> tuple[str, float | None] | None:
        """The name of the function that takes one value to another, None where it is affine or has none."""
        f = self._between(origin, value)
        return named(f) if f is not None and f.affine is None else None

    def _parametric(self, region: Region) -> list[Exit] | None:
        """The exits where a parametric ReLU is written out, as relu(x) - slope * relu(-x) and the like."""
        bent = any(f.affine is None for f in region.functions.values())
        if not bent or not any(self._by_vector(use) for v in region.values for use in region.outside(v)):
            return None
        wide = Region(region.origin, self._table, self._constants, barred=self._barred, slopes=True)
        exits: list[Exit] = []
        for end in wide.values:
            uses = wide.outside(end)
            if not uses and not end.is_output:
                continue
            if any(wide.is_prelu(value) for value in wide.chain(end)[1:]):
                exits.append(Exit(by_name("PRelu"), end, uses))
            else:
                if id(end) not in region.functions:
                    return None
                exits.append(Exit(self._name(region, end), end, uses))
        return exits if any(e.activation.name == "prelu" for e in exits) else None

    @staticmethod
    def _by_vector(use: Use) -> bool:
        node, at = use
        other = node.input(1 - at) if node.op == "Mul" and at < 2 else None
        return other is not None and other.static

    # ------------------------------------------------------------ backwards

    def making(self, value: Value) -> tuple[Activation, Value] | None:
        """The function that ends in a value, and the value that it is applied to; None where there is none."""
        if value.producer is None or not is_pointwise(value.producer):
            return None
        sources = self._sources(value)
        bent = [s for s in sources if (f := self._between(s, value)) is not None and f.affine is None]
        if not bent:
            return None
        for source in bent[::-1]:
            region = self.region(source)
            for end in region.chain(value)[:0:-1]:
                if (g := self._between(end, value)) is None or g.affine is None:
                    break
                if (found := self._named(source, end)) is not None:
                    return activation(found[0], region.functions[id(value)], found[1]), source
        for source in bent:  # a function of a named one, such as the square of a ReLU
            outer = self._name(self.region(source), value)
            if outer.name != "other":
                return outer, source
        return self._name(self.region(bent[0]), value), bent[0]

    def _between(self, source: Value, value: Value) -> Expression | None:
        """The function that takes one value to another."""
        return self.region(source).functions.get(id(value))

    def _sources(self, value: Value) -> list[Value]:
        """The values that alone decide a value through pointwise operators, nearest first."""
        front = {id(value): value}
        found: list[Value] = []
        for _ in range(MOST):
            latest = max(front.values(), key=lambda v: v.producer.index if v.producer is not None else -1)
            if len(front) == 1 and latest is not value:
                found.append(latest)
            node = latest.producer
            if node is None or latest.index > 0 or not is_pointwise(node):
                break
            inputs = node.inputs[:1] if node.op in _FIRST_ONLY or node.op == "PRelu" else node.inputs
            before = [v for v in inputs if v is not None and self._constants.scalar(v) is None]
            if not before or any(v.static for v in before):
                break
            del front[id(latest)]
            front.update((id(v), v) for v in before)
        return found[:8]
