"""The sweep: moments of every value, node after node in topological order, layers scaled as they are met."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnxinit.analysis import Graph
from onnxinit.analysis.pointwise import Expression, Expressions
from onnxinit.analysis.view import Node, Value
from onnxinit.signal.moments import gauss
from onnxinit.signal.moments.arrays import LENGTH, array_moments
from onnxinit.signal.moments.moments import Law, Moments, constant, fresh, normal, scaled
from onnxinit.signal.moments.rules import RULES
from onnxinit.signal.moments.rules.table import Known

_DEEPEST = 60  # operators of one function; a longer one goes on as a normal value
_TOLERANCE = 1e-6

_MISFITS = (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError)
_INTEGERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})

Leaf = Callable[[str], Known]


@dataclass(slots=True)
class Layer:
    """A weight whose layer's output is asked for.

    Attributes:
        target: The standard deviation that the output is to have; None for a weight whose gain is given.
        gain: What the weight as planned is multiplied by.
        outputs: Moments of the output at every use, the first first.
        note: Why the gain is not what was asked for, "" where it is.
        node: The first use.
        settled: Whether the gain is what it is to be.
    """

    target: float | None = None
    gain: float = 1.0
    outputs: list[Moments] = field(default_factory=list)
    note: str = ""
    node: Node | None = None
    settled: bool = False


class Sweep:
    """Carries moments through a graph.

    Args:
        graph: The graph.
        leaf: What a stored tensor will be by its id, at gain 1; None for one that stays as it is stored.
        blocks: The means of a stored tensor's blocks by its id, under their names.
        layers: By id the weights whose outputs are asked for; two ids of the same bytes have one layer.
        inputs: Mean and variance of an input.
        recalibrated: Whether batch norms normalise, since their statistics will be set from data.
        loose: Whether quantised activations cut nothing off, since their ranges will be set from data.
        composed: By id the weights whose effective weight, which the graph makes of them, has known moments, at gain 1,
            and whether it is proportional to the gain.
    """

    def __init__(
        self,
        graph: Graph,
        leaf: Leaf,
        blocks: Callable[[str], Mapping[str, float]],
        layers: Mapping[str, Layer],
        inputs: Callable[[Value], tuple[float, float]],
        *,
        recalibrated: bool = False,
        loose: bool = False,
        composed: Mapping[str, tuple[Moments, bool]] = MappingProxyType({}),
    ):
        self.graph = graph
        self.recalibrated = recalibrated
        self.loose = loose
        self._blocks = blocks
        self.layers = layers
        self.without_rule: Counter[str] = Counter()
        self._leaf = leaf
        self._inputs = inputs
        self._known: dict[int, Known] = {}
        self._drawn: set[int] = set()
        self._table = Expressions()
        self._projections: dict[tuple[int, float, float], gauss.Projection] = {}
        self._shared = len({id(layer) for layer in layers.values()}) < len(layers)
        self._values: dict[str, list[Value]] = {}
        for value in graph.view.values:
            if value.tensor:
                self._values.setdefault(graph.ids.get(value.tensor, ""), []).append(value)
        self._at: dict[tuple[int, int], list[str]] = {}
        for ident, sites in graph.sites.items():
            for site in sites if ident in layers else ():
                self._at.setdefault((id(site.node), site.at), []).append(ident)
        self._effective = {
            id(operand): (ident, *known)
            for ident, known in composed.items()
            for site in graph.sites.get(ident, ())
            if (operand := site.node.input(site.at)) is not None and site.trail.derived and operand.static
        }
        self._derived = {(id(s.node), s.at) for ident in layers for s in graph.sites.get(ident, ()) if s.trail.derived}

    def run(self) -> None:
        """Go through the whole graph."""
        for value in self.graph.view.values:
            if value.tensor:
                self._known[id(value)] = self._stored(value)
            elif value.producer is None and value.is_input:
                self._known[id(value)] = self._fed(value)
        for node in self.graph.view.nodes:
            self._step(node)

    # ------------------------------------------------------------ what rules ask

    def of(self, value: Value | None) -> Known:
        """The moments of a value, None where they are not known."""
        if value is None:
            return None
        if id(value) not in self._known:
            self._known[id(value)] = self._small(value)
        return self._known[id(value)]

    def input(self, node: Node, index: int = 0) -> Known:
        """The moments of an operand."""
        return self.of(node.input(index))

    def block_means(self, value: Value | None) -> Mapping[str, float]:
        """The means of the blocks of a stored tensor by their names, empty where they have none."""
        return self._blocks(self.graph.ids.get(value.tensor, "")) if value is not None and value.tensor else {}

    def stored(self, value: Value | None) -> npt.NDArray[np.generic] | None:
        """The elements of a value that is kept as it is stored, None where it is not known or not kept."""
        if value is None:
            return None
        if value.tensor and (self.graph.ids.get(value.tensor, "") in self.layers):
            return None
        held = self.graph.constants.constant(value)
        return held if held is not None or not value.tensor else self.graph.read(value.tensor)

    def dims(self, value: Value | None) -> tuple[int, ...]:
        """The shape of a value, unknown lengths counted as `LENGTH`; empty for an unknown rank."""
        if value is None or value.shape is None:
            m = self._known.get(id(value)) if value is not None else None
            return (LENGTH,) * len(m.rho) if m is not None else ()
        return tuple(LENGTH if n is None else n for n in value.shape)

    def function(self, f: Expression, law: Law, *, hidden: float = 0.0, reduced: int = 0) -> Moments:
        """f(x), x of a law.

        The law's own function is not applied: f is a function of the law's normal variable.
        """
        key = (id(f), law.mean, law.std)
        found = self._projections.get(key)
        if found is None:
            found = self._projections[key] = gauss.project(f, law.mean, law.std)
        var = found.var if math.isfinite(found.var) else 0.0
        if var <= 1e-24 * max(found.mean**2, 1e-30):
            return replace(constant(found.mean, len(law.rho), hidden), reduced=reduced)
        rho = tuple(r if r in (0.0, 1.0) else found.correlation(r) for r in law.rho)
        parts = {s: found.slope * a for s, a in law.parts.items()}
        rest = var - found.slope**2
        if rest > 1e-9 * var:
            parts[fresh()] = math.sqrt(rest)
        if law.depth >= _DEEPEST:
            return normal(found.mean, var, rho, parts, hidden=hidden, reduced=reduced)
        own = replace(law, f=f, depth=law.depth + 1)
        return Moments(found.mean, var, rho, parts, own, hidden, reduced)

    def apply(self, f: Expression, m: Moments) -> Moments:
        """F of a value."""
        if m.law is None:
            return replace(constant(float(gauss.values(f, np.array([m.mean]))[0]), len(m.rho)), hidden=m.hidden)
        made = self.function(self.compose(f, m.law.f), m.law, hidden=m.hidden, reduced=m.reduced)
        return replace(made, edge=m.edge, apart=m.apart)

    def compose(self, outer: Expression, inner: Expression) -> Expression:
        """outer(inner(x))."""
        if outer.node is None:
            return inner
        if inner.node is None:
            return outer
        operands = tuple(self.compose(o, inner) if isinstance(o, Expression) else o for o in outer.operands)
        return self._table.make(outer.node, operands)

    def expression(self, node: Node, operands: tuple[Expression | float | None, ...]) -> Expression:
        """A node applied to functions of one variable."""
        return self._table.make(node, operands)

    def asks(self, node: Node, at: int) -> bool:
        """Whether the weight of a layer whose output is asked for stands at an operand."""
        return (id(node), at) in self._at

    def layer(self, node: Node, at: int, compute: Callable[[Moments], Moments]) -> Known:
        """The output of a layer before its bias; a weight at this operand that waits for its gain gets it.

        Args:
            node: The layer.
            at: Where its weight is.
            compute: From the moments of that operand to those of the output.
        """
        operand = node.input(at)
        weight = self.of(operand)
        if weight is None:
            return None
        made = compute(weight)
        idents = self._at.get((id(node), at), [])
        waiting = [i for i in idents if self.layers[i].target is not None and not self.layers[i].settled]
        if waiting:
            made = self._settle(node, at, waiting, made, compute)
        for layer in {id(self.layers[i]): self.layers[i] for i in idents}.values():
            layer.node = layer.node or node
            layer.outputs.append(made)
        return made

    def _settle(
        self, node: Node, at: int, waiting: Sequence[str], made: Moments, compute: Callable[[Moments], Moments]
    ) -> Moments:
        target = self.layers[waiting[0]].target or 1.0
        for ident in waiting:
            self.layers[ident].settled = True
        if not made.var > 0.0 or not math.isfinite(made.var):
            for ident in waiting:
                self.layers[ident].note = "nothing reaches it, by the rules: the gain is that of its base"
            return made
        gain = target / made.std
        self._multiply(waiting, gain)
        operand = node.input(at)
        if operand is None or not operand.static:
            return scaled(made, gain)
        weight = self.of(operand)
        again = compute(weight) if weight is not None else made
        if abs(again.std / target - 1.0) > _TOLERANCE:
            if (id(node), at) in self._derived:
                note = "the graph normalises it, so that its gain does not matter"
                self._multiply(waiting, 1.0 / gain)
                for ident in waiting:
                    self.layers[ident].note = note
                return made
            return scaled(made, gain)
        return again

    def _multiply(self, idents: Sequence[str], gain: float) -> None:
        """Give weights a gain, and make anew what was made of them."""
        touched = {id(self.layers[ident]): self.layers[ident] for ident in idents}
        for layer in touched.values():
            layer.gain *= gain
        alike = [ident for ident, layer in self.layers.items() if id(layer) in touched] if self._shared else idents
        front = [v for ident in alike for v in self._values.get(ident, ())]
        for value in front:
            self._known[id(value)] = self._stored(value)
        nodes: dict[int, Node] = {}
        while front:
            value = front.pop()
            for node, _ in value.uses:
                if node.index in nodes or not any(v is not None and v.static for v in node.outputs):
                    continue
                nodes[node.index] = node
                front.extend(v for v in node.outputs if v is not None)
        for _, node in sorted(nodes.items()):
            self._step(node)

    # ------------------------------------------------------------ leaves

    def _stored(self, value: Value) -> Known:
        ident = self.graph.ids.get(value.tensor, "")
        m = self._leaf(ident)
        if m is not None:
            self._drawn.add(id(value))
            layer = self.layers.get(ident)
            if layer is not None and layer.gain != 1.0:
                m = scaled(m, layer.gain)
            rank = len(value.shape or ())
            if m.var == 0.0:
                return constant(m.mean, rank)
            return normal(m.mean, m.var, (0.0,) * rank)
        held = self._small(value)
        if held is not None:
            return held
        read = self.graph.read(value.tensor)
        return array_moments(read) if read is not None else None

    def _as_composed(self, value: Value, ident: str, known: Moments, moves: bool) -> Known:
        """A kernel whose moments are known, whatever nodes make it."""
        layer = self.layers.get(ident)
        own = scaled(known, layer.gain) if layer is not None and moves else known
        rank = len(value.shape or ())
        return normal(own.mean, own.var, own.rho if len(own.rho) == rank else (0.0,) * rank)

    def _fed(self, value: Value) -> Known:
        """An input: what is given for floats, ones for others (masks; an index is not looked at)."""
        rank = len(value.shape or ())
        if value.dtype not in (1, 10, 11, 16):
            return constant(1.0, rank)
        mean, var = self._inputs(value)
        return normal(mean, var, (0.0,) * rank)

    def _small(self, value: Value) -> Known:
        """A value that is known element by element."""
        folded = self.graph.constants.constant(value)
        if folded is not None:
            return array_moments(folded)
        whole = value.dtype in _INTEGERS or (
            not value.dtype and value.producer is not None and value.producer.op != "Div"
        )
        if not whole or value.elements is None or None in value.elements:
            return None
        held = np.array(value.elements, np.float64)
        return array_moments(held.reshape(self.dims(value)) if held.size == math.prod(self.dims(value)) else held)

    # ------------------------------------------------------------ nodes

    def _step(self, node: Node) -> None:
        if node.op == "Constant" and any(v is not None and v.tensor for v in node.outputs):
            return
        drawn = any(v is not None and id(v) in self._drawn for v in node.inputs)
        static = all(v is None or v.static for v in node.outputs)
        if static and not drawn and all(v is None or self._exact(v) for v in node.outputs):
            return
        try:
            made = RULES.get((node.domain, node.op), _pass_on)(self, node)
        except _MISFITS:  # operands and attributes that do not fit the operator: no runtime would take them
            made = _pass_on(self, node)
        results = made if isinstance(made, Sequence) else [made]
        for value, m in zip(node.outputs, results, strict=False):
            if value is not None:
                counted = (value.elements is not None or m is None) and not drawn
                self._known[id(value)] = (self._small(value) if counted else None) or _fitted(m, value)
                if id(value) in self._effective:
                    self._known[id(value)] = self._as_composed(value, *self._effective[id(value)])
                if static and drawn:
                    self._drawn.add(id(value))
        for value in node.outputs[len(results) :]:
            if value is not None:
                self._known.setdefault(id(value), None)

    def _exact(self, value: Value) -> bool:
        held = self._small(value)
        if held is not None:
            self._known[id(value)] = held
        return held is not None


def _pass_on(sweep: Sweep, node: Node) -> Known:
    """What an operator without a rule gets: the moments of its first operand that varies."""
    operands = [m for v in node.inputs if v is not None and not v.static and (m := sweep.of(v)) is not None]
    moving = [m for m in operands if m.var > 0.0]
    if moving:
        sweep.without_rule[f"{node.domain}.{node.op}" if node.domain else node.op] += 1
        return normal(moving[0].mean, moving[0].var)
    return None


def _fitted(m: Known, value: Value) -> Known:
    """With as many axes as the value has, where both are known."""
    if m is None or value.shape is None or len(m.rho) == len(value.shape):
        return m
    rank = len(value.shape)
    rho = (0.0,) * (rank - len(m.rho)) + m.rho[max(0, len(m.rho) - rank) :]
    return replace(m, rho=rho, law=replace(m.law, rho=rho) if m.law is not None else None)
