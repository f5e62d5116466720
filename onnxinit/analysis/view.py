"""A view of a model that the walker can walk: values with producers and uses, scopes dissolved.

Subgraphs and local functions are laid open, so that a walk never meets a boundary:

- A call of a local function is replaced by its nodes; a tensor stored in the function appears once per call.
- The output of an If is an `@If` node over the results of its branches.
- What an operator holds in an attribute and training learns is a further input of it (`held.OPERANDS`).
- A loop-carried value is a `@Carry` node over its first value and the one of the last iteration, or an `Identity` where
  no iteration changes it; what a Loop or Scan hands out is `@Exit` (last value) or `@Stack` (all of them);
  what a Scan or SequenceMap hands to one iteration is `@Step`.

Names of domains are normalised here, once: "ai.onnx" is "".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from onnxinit.analysis.held import as_tensor, operands, stored_constant
from onnxinit.errors import ModelError

MAX_NODES = 2_000_000  # an inlined model beyond this is a bomb of nested functions, not a network


@dataclass(eq=False, slots=True)
class Value:
    """One edge of the graph.

    Attributes:
        name: Its name in its graph.
        scope: "" for the main graph, else the path of subgraphs or the function.
        producer: The node that makes it; None for graph inputs and initializers.
        index: Which output of the producer it is.
        uses: The (node, input index) pairs that consume it.
        tensor: Path of the stored tensor that holds it ("" where none does).
        proto: That tensor in the skeleton; its payload is missing above 1 KiB. None for a sparse one.
        where: How it is stored: initializer, constant, sparse, attribute, or "" where it is not.
        shape: Dimensions as far as known (None for an unknown one); None for an unknown rank.
        dtype: ONNX element type, 0 where unknown.
        elements: The elements of a small integer value as far as known (None for an unknown one), in order.
        static: Whether it follows from stored tensors alone.
        is_input: Whether a feed can set it.
        is_output: Whether the main graph hands it out.
    """

    name: str
    scope: str
    producer: Node | None = None
    index: int = 0
    uses: list[tuple[Node, int]] = field(default_factory=list)
    tensor: str = ""
    proto: TensorProto | None = None
    where: str = ""
    shape: tuple[int | None, ...] | None = None
    dtype: int = 0
    elements: tuple[int | None, ...] | None = None
    static: bool = False
    is_input: bool = False
    is_output: bool = False

    @property
    def in_node(self) -> bool:
        """Whether a Constant holds it, as a tensor or as floats."""
        return self.where in ("constant", "attribute")

    def __repr__(self) -> str:
        return f"Value({self.scope}/{self.name})"


@dataclass(eq=False, slots=True)
class Node:
    """One node; `attributes` are its own with the references of a function resolved.

    Attributes:
        op: Operator type, `@...` for the boundary nodes of this module.
        domain: Normalised domain.
        name: Its name, "" where it has none.
        scope: Where it stands.
        inputs: Its input values, None for an omitted one.
        outputs: Its output values, None for an omitted one.
        attributes: By name.
        path: Its place in the file, "" for a boundary node.
        index: Place in a topological order of the whole view.
    """

    op: str
    domain: str
    name: str
    scope: str
    inputs: list[Value | None]
    outputs: list[Value | None]
    attributes: Mapping[str, AttributeProto]
    path: str = ""
    index: int = -1

    def __repr__(self) -> str:
        return f"Node({self.op} {self.scope}/{self.name})"

    def input(self, index: int) -> Value | None:
        """The value at an input, None where it is omitted."""
        return self.inputs[index] if index < len(self.inputs) else None

    def int_attribute(self, name: str, default: int) -> int:
        """An integer attribute."""
        a = self.attributes.get(name)
        return int(a.i) if a is not None else default

    def float_attribute(self, name: str, default: float) -> float:
        """A float attribute."""
        a = self.attributes.get(name)
        return float(a.f) if a is not None else default

    def ints_attribute(self, name: str) -> list[int] | None:
        """A list of integers, None where it is absent."""
        a = self.attributes.get(name)
        return [int(i) for i in a.ints] if a is not None else None

    def string_attribute(self, name: str, default: str = "") -> str:
        """A string attribute."""
        a = self.attributes.get(name)
        return a.s.decode("utf-8", "replace") if a is not None else default


def normal_domain(domain: str) -> str:
    """The one spelling of a domain."""
    return "" if domain == "ai.onnx" else domain


@dataclass(slots=True)
class _Scope:
    """Names that can be seen from a graph: its own, then those of the graphs around it."""

    name: str
    path: str
    parent: _Scope | None
    values: dict[str, Value] = field(default_factory=dict)
    references: Mapping[str, AttributeProto] = field(default_factory=dict)
    depth: int = 0
    omitted: frozenset[str] = frozenset()  # inputs that the call of a function leaves out

    def lookup(self, name: str) -> Value | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        return None

    def omits(self, name: str) -> bool:
        return name in self.omitted or (self.parent is not None and self.parent.omits(name))

    def define(self, name: str) -> Value:
        return self.values.setdefault(name, Value(name, self.name))


class GraphView:
    """The whole model, laid open.

    Attributes:
        nodes: Every node in a topological order.
        values: Every value.
        inputs: Values that a feed sets, or an operator beyond ONNX in a subgraph of its own.
        outputs: Values that the model hands out.
        opsets: Version by normalised domain.
    """

    def __init__(self, model: onnx.ModelProto, gone: Mapping[str, Sequence[int]] | None = None):
        """Lay a model open.

        Args:
            model: The model.
            gone: By the path of a graph the ordinals of nodes that it had (`ModelFile.gone`).
        """
        self._gone = gone or {}
        self.nodes: list[Node] = []
        self.values: list[Value] = []
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.opsets = {normal_domain(o.domain): int(o.version) for o in model.opset_import}
        self._functions = {
            (normal_domain(f.domain), f.name, getattr(f, "overload", "")): (i, f) for i, f in enumerate(model.functions)
        }
        top = _Scope("", "graph", None)
        self._graph(model.graph, top)
        self.inputs[:0] = [v for i in model.graph.input if not (v := top.values[i.name]).tensor]
        for value in self.inputs:
            value.is_input = True
        for info in model.graph.output:
            found = top.lookup(info.name)
            if found is not None:
                found.is_output = True
                self.outputs.append(found)
        self._sort()
        self._mark_static()

    # ------------------------------------------------------------ building

    def _graph(self, graph: GraphProto, scope: _Scope) -> None:
        for i, tensor in enumerate(graph.initializer):
            self._store(scope.define(tensor.name), f"{scope.path}.initializer[{i}]", tensor, "initializer")
        for i, sparse in enumerate(graph.sparse_initializer):
            value = scope.define(sparse.values.name)
            self._store(value, f"{scope.path}.sparse_initializer[{i}].values", sparse.values, "sparse")
            value.shape = tuple(sparse.dims)
        for info in graph.input:
            _set_type(scope.define(info.name), info.type)
        self._body(graph.node, scope)
        for infos in (graph.output, graph.value_info):
            for info in infos:
                if info.name in scope.values:  # else a value around this graph, which knows its own type
                    _set_type(scope.values[info.name], info.type)
        self.values.extend(scope.values.values())

    @staticmethod
    def _store(value: Value, path: str, tensor: TensorProto, where: str) -> None:
        value.tensor, value.proto, value.where = path, None if where == "sparse" else tensor, where
        value.shape, value.dtype = tuple(tensor.dims), int(tensor.data_type)

    def _body(self, nodes: Sequence[NodeProto], scope: _Scope) -> None:
        for proto in nodes:
            for name in proto.output:
                if name:
                    scope.define(name)
        gone = frozenset(self._gone.get(scope.path, ()))
        numbers = (n for n in count() if n not in gone)  # as the file had them that was given: they name the nameless
        for i, (proto, number) in enumerate(zip(nodes, numbers, strict=False)):
            self._node(proto, f"{scope.path}.node[{i}]", number, scope)

    def _node(self, proto: NodeProto, path: str, at: int, scope: _Scope) -> None:
        inputs = [self._read(name, proto, scope) for name in proto.input]
        outputs = [scope.values[name] if name else None for name in proto.output]
        attributes = {
            a.name: scope.references[a.ref_attr_name] if a.ref_attr_name else a
            for a in proto.attribute
            if not a.ref_attr_name or a.ref_attr_name in scope.references
        }
        domain = normal_domain(proto.domain)
        function = self._functions.get((domain, proto.op_type, getattr(proto, "overload", "")))
        if function is not None:
            self._call(function[0], function[1], inputs, outputs, attributes, scope)
            return
        node = Node(proto.op_type, domain, proto.name, scope.name, inputs, outputs, attributes, path)
        label = proto.name or f"{proto.op_type}{at}"
        bodies: dict[str, tuple[GraphProto, _Scope]] = {}
        for k, a in enumerate(proto.attribute):
            if a.type == AttributeProto.GRAPH:
                inner = _Scope(
                    f"{scope.name}/{label}.{a.name}" if scope.name else f"{label}.{a.name}",
                    f"{path}.attribute[{k}].g",
                    scope,
                    references=scope.references,
                    depth=scope.depth + 1,
                )
                self._graph(a.g, inner)
                bodies[a.name] = (a.g, inner)
        if domain == "" and proto.op_type == "Constant" and len(outputs) == 1 and outputs[0] is not None:
            self._constant(outputs[0], proto, attributes, path)
        if bodies and domain == "":
            node.outputs = []
            self._boundary(node, inputs, outputs, bodies)
        for graph, inner in bodies.values() if domain else ():  # a search or the like, which feeds them as it sees fit
            self.inputs.extend(v for i in graph.input if not (v := inner.values[i.name]).tensor)
        for held in operands(proto, domain, attributes):
            node.inputs.append(None if held is None else self._held(*held, node, path))
        self._add(node)

    def _read(self, name: str, proto: NodeProto, scope: _Scope) -> Value | None:
        if not name:
            return None
        value = scope.lookup(name)
        if value is None and scope.omits(name):
            return None
        if value is None:  # the file was checked; only a function body can still name something unknown
            raise ModelError(
                f"node {proto.name or proto.op_type!r} ({proto.op_type}) reads {name!r}, which nothing defines"
            )
        return value

    def _constant(self, value: Value, proto: NodeProto, attributes: Mapping[str, AttributeProto], path: str) -> None:
        stored = stored_constant(proto)
        if stored is not None:
            self._store(value, f"{path}.{stored[0]}", stored[1], "constant")
            return
        for k, a in enumerate(proto.attribute):
            if a.name == "sparse_value" and a.type == AttributeProto.SPARSE_TENSOR and not a.ref_attr_name:
                self._store(value, f"{path}.attribute[{k}].sparse_tensor.values", a.sparse_tensor.values, "sparse")
                value.shape = tuple(a.sparse_tensor.dims)
                return
        for a in attributes.values():  # integers, and what a function was handed
            tensor = as_tensor(a)
            if tensor is not None:
                value.proto, value.shape, value.dtype = tensor, tuple(tensor.dims), int(tensor.data_type)

    def _held(self, name: str, place: str, shape: tuple[int, ...], node: Node, path: str) -> Value:
        """The value of a weight that a node holds in an attribute."""
        value = Value(f"{node.name or node.op}.{name}", node.scope)
        self._store(value, f"{path}.{place}", TensorProto(data_type=TensorProto.FLOAT, dims=shape), "attribute")
        self.values.append(value)
        return value

    def _add(self, node: Node) -> None:
        if len(self.nodes) >= MAX_NODES:
            raise ModelError(f"the model has more than {MAX_NODES} nodes once its functions are laid open")
        self.nodes.append(node)
        for i, value in enumerate(node.inputs):
            if value is not None:
                value.uses.append((node, i))
        for i, value in enumerate(node.outputs):
            if value is not None:
                value.producer, value.index = node, i

    def _link(self, op: str, inputs: list[Value | None], output: Value | None, like: Node) -> None:
        if output is not None and any(v is not None for v in inputs):
            self._add(Node(op, "", like.name, like.scope, inputs, [output], like.attributes))

    def _call(
        self,
        number: int,
        function: onnx.FunctionProto,
        inputs: list[Value | None],
        outputs: list[Value | None],
        attributes: dict[str, AttributeProto],
        caller: _Scope,
    ) -> None:
        if caller.depth > 64:
            raise ModelError(f"function {function.name!r} of domain {function.domain!r} calls itself")
        given = {a.name: a for a in function.attribute_proto} | attributes
        scope = _Scope(
            f"function:{function.domain}::{function.name}",
            f"functions[{number}]",
            None,
            references=given,
            depth=caller.depth + 1,
        )
        given_values = dict(zip(function.input, inputs, strict=False))
        scope.values.update((name, value) for name, value in given_values.items() if value is not None)
        scope.omitted = frozenset(name for name in function.input if given_values.get(name) is None)
        bound = set(scope.values)
        self._body(function.node, scope)
        self.values.extend(v for k, v in scope.values.items() if k not in bound)
        like = Node(function.name, function.domain, "", caller.name, [], [], {})
        for name, value in zip(function.output, outputs, strict=False):
            self._link("Identity", [scope.lookup(name)], value, like)

    def _boundary(
        self,
        node: Node,
        inputs: list[Value | None],
        outputs: list[Value | None],
        bodies: Mapping[str, tuple[GraphProto, _Scope]],
    ) -> None:
        """Link the values inside a node's subgraphs to those around it."""
        if node.op == "If":
            results = [[s.lookup(o.name) for o in g.output] for g, s in bodies.values()]
            for i, out in enumerate(outputs):
                self._link("@If", [r[i] if i < len(r) else None for r in results], out, node)
            return
        body, scope = next(iter(bodies.values()))
        heads = [scope.values[i.name] for i in body.input]
        tails = [scope.lookup(o.name) for o in body.output]
        if node.op == "Loop":
            heads, tails, states = heads[2:], tails[1:], inputs[2:]
            node.inputs, steps = inputs[:2], list[Value | None]()
        elif node.op == "Scan":
            count = node.int_attribute("num_scan_inputs", 1)
            shift = 1 if self.opsets.get("", 9) < 9 else 0  # Scan-8 begins with sequence_lens
            node.inputs = inputs[:shift]
            states, steps = inputs[shift : len(inputs) - count], inputs[len(inputs) - count :]
        else:  # SequenceMap and the like: every input is stepped through or handed on
            states, steps = [], inputs
            node.inputs = []
        for value, head in zip(steps, heads[len(states) :], strict=False):
            self._link("@Step", [value], head, node)
        for k, (first, head) in enumerate(zip(states, heads, strict=False)):
            last = tails[k] if k < len(tails) else None
            if last is None or _through_identity(last) is head:
                self._link("Identity", [first], head, node)
            else:
                self._link("@Carry", [first, last], head, node)
        for k, out in enumerate(outputs):
            tail = tails[k] if k < len(tails) else None
            self._link("@Exit" if k < len(states) else "@Stack", [tail], out, node)

    # ------------------------------------------------------------ order

    def _sort(self) -> None:
        """Number the nodes topologically; the way back of a `@Carry` does not count."""
        waiting = {id(n): len({id(v) for v in self._before(n)}) for n in self.nodes}
        ready = deque(n for n in self.nodes if waiting[id(n)] == 0)
        done: list[Node] = []
        while ready:
            node = ready.popleft()
            node.index = len(done)
            done.append(node)
            for value in node.outputs:
                if value is None:
                    continue
                for user in {id(u): u for u, i in value.uses if not (u.op == "@Carry" and i == 1)}.values():
                    waiting[id(user)] -= 1
                    if waiting[id(user)] == 0:
                        ready.append(user)
        if len(done) != len(self.nodes):
            stuck = next(n for n in self.nodes if n.index < 0)
            raise ModelError(f"the graph has a cycle through node {stuck.name or stuck.op!r} ({stuck.op})")
        self.nodes = done

    @staticmethod
    def _before(node: Node) -> Iterator[Value]:
        for i, value in enumerate(node.inputs):
            if value is not None and value.producer is not None and not (node.op == "@Carry" and i == 1):
                yield value

    def _mark_static(self) -> None:
        for value in self.values:
            value.static = bool(value.tensor)
        for node in self.nodes:
            if node.op in ("@Carry", "@If", "@Step"):
                continue
            decide = node.inputs[:1] if node.op == "CastLike" else node.inputs  # of the other only the type counts
            fixed = all(v is None or v.static for v in decide)
            for made in node.outputs:
                if made is not None:
                    made.static = fixed


def _through_identity(value: Value) -> Value:
    while value.producer is not None and value.producer.op == "Identity":
        before = value.producer.input(0)
        if before is None:
            break
        value = before
    return value


def _set_type(value: Value, proto: onnx.TypeProto) -> None:
    if not proto.HasField("tensor_type"):
        return
    if not value.dtype:
        value.dtype = int(proto.tensor_type.elem_type)
    if value.shape is None and proto.tensor_type.HasField("shape"):
        dims = proto.tensor_type.shape.dim  # ONNX's inference writes negative lengths where a window does not fit
        value.shape = tuple(int(d.dim_value) if d.HasField("dim_value") and d.dim_value >= 0 else None for d in dims)
