"""The model as a flat list of steps that can be run in pieces.

Made from the file's skeleton, so that no values are loaded: local functions are inlined, Constant nodes become stored
tensors, fused operators are split (`unfuse`), float16 and bfloat16 become float32, branches of an If are laid open when
it is known which one the data takes. A Loop or Scan stays one step.

A stored tensor keeps its path of the file, whatever its name here: the path is written into the message's doc string
before functions are inlined, and read off afterwards. Of floats that an attribute holds it is the attribute's.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from onnxinit.model import LISTS, ModelFile
from onnxinit.signal.run.unfuse import SPLITS, held_name

_HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype"})
_MARK = "onnxinit path "


@dataclass(eq=False)
class Step:
    """One node, in the names of the flat graph.

    Attributes:
        node: What runs.
        inputs: What it reads, "" for an omitted operand; then what its subgraphs read from outside.
        outputs: What it makes, "" for an omitted result.
        inner: Paths of the tensors that are stored in its subgraphs.
        place: Number in the order of execution.
    """

    node: NodeProto
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    place: int = -1

    @classmethod
    def of(cls, node: NodeProto) -> Step:
        """A step from its node."""
        outside, inner = list[str](), list[str]()
        for body in bodies(node):
            outside += [n for n in free_names(body) if n not in node.input and n not in outside]
            inner += [path for t in tensors_in(body) if (path := path_of(t))]
            inner += [path for a in lists_in(body) if (path := path_of(a))]
        return cls(node, (*node.input, *outside), tuple(node.output), tuple(inner))

    @property
    def op(self) -> str:
        """Its operator's type."""
        return self.node.op_type

    @property
    def key(self) -> tuple[str, str]:
        """Its operator: domain and type."""
        return ("" if self.node.domain == "ai.onnx" else self.node.domain, self.node.op_type)

    @cached_property
    def has_bodies(self) -> bool:
        """Whether it runs subgraphs."""
        return next(bodies(self.node), None) is not None

    @property
    def label(self) -> str:
        """What to call it in a message."""
        return f"{self.op} '{self.node.name}'" if self.node.name else f"the {self.op} that makes '{self.outputs[0]}'"

    @cached_property
    def signature(self) -> bytes:
        """Equal for steps that do the same with other operands."""
        bare = NodeProto(op_type=self.node.op_type, domain=self.node.domain, overload=self.node.overload)
        bare.attribute.extend(self.node.attribute)
        return bytes(bare.SerializeToString(deterministic=True))


@dataclass(eq=False)
class Program:
    """Steps in an order of execution, and what they read that no step makes.

    Attributes:
        steps: All steps, in order.
        inputs: Names that a feed gives.
        outputs: Names that the model hands out.
        stored: Path by name, of the stored tensors.
        fixed: Small tensors that no file path names (numbers in attributes), by name.
        reals: Path by name, of quantised weights that a split operator reads as the real values they stand for.
        shell: Versions, operator sets and functions of the model, without a graph.
        makers: The step that makes a name.
        readers: The steps that read a name.
        moving: Names whose values differ from feed to feed.
    """

    steps: list[Step]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    stored: dict[str, str]
    fixed: dict[str, TensorProto]
    reals: dict[str, str]
    shell: onnx.ModelProto
    makers: dict[str, Step] = field(default_factory=dict)
    readers: dict[str, list[Step]] = field(default_factory=dict)
    moving: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._arrange(self.steps)

    @classmethod
    def of(cls, file: ModelFile, quantised: Iterable[str] = ()) -> Program:
        """The program of a model.

        Args:
            file: The model; no values are read.
            quantised: Paths of quantised weights, whose fused operators are split.
        """
        model = onnx.ModelProto()
        model.CopyFrom(file.proto)
        for path, stored in file.tensors.items():
            if stored.storage in LISTS:
                _mark_floats(_at(model, path.rpartition(".")[0]), path)
            else:
                _at(model, path).doc_string = _MARK + path
        if any(t.data_type in _HALVES for t in tensors_in_model(model)) or _mentions_halves(model):
            widen(model)
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        graph = model.graph
        body = _Body({}, {}, {}, frozenset(quantised))
        steps = body.steps(graph)
        shell = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
        known = {*body.stored, *body.fixed}
        inputs = tuple(i.name for i in graph.input if i.name not in known)
        return cls(steps, inputs, tuple(o.name for o in graph.output), body.stored, body.fixed, body.reals, shell)

    def exchange(self, instead: Mapping[Step, Step]) -> None:
        """Put steps with the same results in the place of others."""
        self._arrange([instead.get(step, step) for step in self.steps])

    def take(self, step: Step, branch: GraphProto) -> list[Step]:
        """Put the steps of a branch in the place of its If, and give them.

        Args:
            step: The If.
            branch: The branch that runs.
        """
        prefix = f"{step.outputs[0]}/{branch.name}/"
        own = {t.name for t in branch.initializer} | {s.values.name for s in branch.sparse_initializer}
        own |= {name for node in branch.node for name in node.output if name}
        names = {name: prefix + name for name in own}
        inner = GraphProto()
        inner.CopyFrom(branch)
        rename(inner, names)
        body = _Body(self.stored, self.fixed, self.reals, frozenset())
        steps = body.steps(inner)
        for made, result in zip(step.outputs, inner.output, strict=False):
            if made:
                steps.append(Step.of(helper.make_node("Identity", [result.name], [made])))
        at = self.steps.index(step)
        self._arrange([*self.steps[:at], *steps, *self.steps[at + 1 :]])
        return steps

    def _arrange(self, steps: Sequence[Step]) -> None:
        self.steps = in_order(steps)
        self.makers = {name: s for s in self.steps for name in s.outputs if name}
        self.readers = {}
        self.moving = set(self.inputs)
        for place, s in enumerate(self.steps):
            s.place = place
            if s.op in RANDOM or not self.moving.isdisjoint(s.inputs):
                self.moving.update(n for n in s.outputs if n)
            for name in dict.fromkeys(s.inputs):
                self.readers.setdefault(name, []).append(s)


@dataclass(slots=True)
class _Body:
    """Reads the nodes and stored tensors of one graph."""

    stored: dict[str, str]
    fixed: dict[str, TensorProto]
    reals: dict[str, str]
    quantised: frozenset[str]

    def steps(self, graph: GraphProto) -> list[Step]:
        for t in graph.initializer:
            self._keep(t.name, t)
        for sparse in graph.sparse_initializer:
            self.stored[sparse.values.name] = path_of(sparse.values)
        nodes = [n for n in graph.node if not self._is_constant(n)]
        return [Step.of(part) for n in nodes for part in self._split(n)]

    def _keep(self, name: str, tensor: TensorProto) -> None:
        path = path_of(tensor)
        if path:
            self.stored[name] = path
        else:
            self.fixed[name] = tensor

    def _is_constant(self, node: NodeProto) -> bool:
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attribute) != 1:
            return False
        tensor = _constant(node.attribute[0])
        if tensor is None:
            return False
        self._keep(node.output[0], tensor)
        return True

    def _split(self, node: NodeProto) -> list[NodeProto]:
        for a in node.attribute:
            if a.floats and (path := path_of(a)):
                self.stored[held_name(node, a.name)] = path
                a.ClearField("doc_string")
        split = SPLITS.get((node.domain, node.op_type))
        return [node] if split is None else split(node, self._real) or [node]

    def _real(self, name: str) -> str:
        """The name of the real values of a quantised weight, "" where the name is of no such weight."""
        path = self.stored.get(name, "")
        if path not in self.quantised:
            return ""
        self.reals[f"{name}/real"] = path
        return f"{name}/real"


def in_order(steps: Sequence[Step]) -> list[Step]:
    """The steps so that each comes after those that make what it reads, otherwise in the order they are given in."""
    maker = {name: i for i, s in enumerate(steps) for name in s.outputs if name}
    before = [{maker[name] for name in s.inputs if name in maker} for s in steps]
    after: dict[int, list[int]] = {}
    for i, others in enumerate(before):
        for j in others:
            after.setdefault(j, []).append(i)
    waiting = [len(others) for others in before]
    ready = [i for i, n in enumerate(waiting) if n == 0]
    done: list[Step] = []
    while ready:
        i = heapq.heappop(ready)
        done.append(steps[i])
        for k in after.get(i, ()):
            waiting[k] -= 1
            if waiting[k] == 0:
                heapq.heappush(ready, k)
    return done


# ---------------------------------------------------------------- messages


def path_of(tensor: TensorProto | AttributeProto) -> str:
    """The path of a stored tensor of the file, "" for one that is none."""
    return tensor.doc_string.removeprefix(_MARK) if tensor.doc_string.startswith(_MARK) else ""


def _mark_floats(a: AttributeProto, path: str) -> None:
    """Write its path into an attribute that holds floats; that of a Constant becomes a tensor as others have it."""
    tensor = _constant(a)
    if a.name.startswith("value_") and tensor is not None:
        tensor.doc_string = _MARK + path
        a.CopyFrom(helper.make_attribute("value", tensor))
    else:
        a.doc_string = _MARK + path


def _at(model: onnx.ModelProto, path: str) -> Any:
    """The message at a path."""
    found: Any = model
    for part in path.split("."):
        name, _, index = part.partition("[")
        found = getattr(found, name)
        if index:
            found = found[int(index[:-1])]
    return found


def _constant(a: AttributeProto) -> TensorProto | None:
    """The value of a Constant node that is a tensor of numbers."""
    if a.type == AttributeProto.TENSOR:
        return a.t
    if a.type in (AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.FLOATS, AttributeProto.INTS):
        value = helper.get_attribute_value(a)
        kind = "f4" if a.type in (AttributeProto.FLOAT, AttributeProto.FLOATS) else "i8"
        return numpy_helper.from_array(np.asarray(value, kind))
    return None


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The subgraphs of a node."""
    for a in node.attribute:
        if a.type == AttributeProto.GRAPH:
            yield a.g
        yield from a.graphs


def tensors_in(graph: GraphProto) -> Iterator[TensorProto]:
    """Every tensor that a graph stores, at any depth."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from tensors_in_node(node)


def tensors_in_node(node: NodeProto) -> Iterator[TensorProto]:
    """Every tensor that a node stores, at any depth."""
    for a in node.attribute:
        if a.type == AttributeProto.TENSOR:
            yield a.t
        yield from a.tensors
    for body in bodies(node):
        yield from tensors_in(body)


def lists_in(graph: GraphProto) -> Iterator[AttributeProto]:
    """Every list of floats that an attribute holds, at any depth."""
    for node in graph.node:
        yield from (a for a in node.attribute if a.floats)
        for body in bodies(node):
            yield from lists_in(body)


def tensors_in_model(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor that a model stores."""
    yield from tensors_in(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from tensors_in_node(node)


def free_names(graph: GraphProto) -> list[str]:
    """What a subgraph reads from the graphs around it."""
    own = {t.name for t in graph.initializer} | {i.name for i in graph.input}
    own |= {s.values.name for s in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    read = [name for node in graph.node for name in node.input]
    read += [name for node in graph.node for body in bodies(node) for name in free_names(body)]
    read += [o.name for o in graph.output]
    return [name for name in dict.fromkeys(read) if name and name not in own]


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Give values of a graph other names, also where subgraphs read them."""
    for t in graph.initializer:
        t.name = names.get(t.name, t.name)
    for s in graph.sparse_initializer:
        s.values.name = names.get(s.values.name, s.values.name)
    for info in (*graph.input, *graph.output, *graph.value_info):
        info.name = names.get(info.name, info.name)
    for node in graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
        for body in bodies(node):
            hidden = {t.name for t in body.initializer} | {i.name for i in body.input}
            hidden |= {n for inner in body.node for n in inner.output}
            rename(body, {old: new for old, new in names.items() if old not in hidden})


# ---------------------------------------------------------------- half precision


def widen(model: onnx.ModelProto) -> None:
    """Make float32 of every float16 and bfloat16.

    ONNX Runtime has few kernels for them on a processor, and what is measured needs the digits. Values that are not in
    the skeleton are converted when they are read.
    """
    for tensor in tensors_in_model(model):
        _widen_tensor(tensor)
    for graph in (model.graph, *(b for n in _all_nodes(model) for b in bodies(n))):
        for info in (*graph.input, *graph.output, *graph.value_info):
            if info.type.tensor_type.elem_type in _HALVES:
                info.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in _all_nodes(model):
        for a in node.attribute:
            if a.name in _TYPE_ATTRIBUTES and a.type == AttributeProto.INT and a.i in _HALVES:
                a.i = TensorProto.FLOAT


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type not in _HALVES:
        return
    if tensor.raw_data or tensor.int32_data:
        mark, name = tensor.doc_string, tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("f4"), name))
        tensor.doc_string = mark
    tensor.data_type = TensorProto.FLOAT


def _mentions_halves(model: onnx.ModelProto) -> bool:
    return any(i.type.tensor_type.elem_type in _HALVES for i in model.graph.input) or any(
        a.name in _TYPE_ATTRIBUTES and a.i in _HALVES for n in _all_nodes(model) for a in n.attribute
    )


def _all_nodes(model: onnx.ModelProto) -> Iterator[NodeProto]:
    todo: list[Iterable[NodeProto]] = [model.graph.node, *(f.node for f in model.functions)]
    while todo:
        for node in todo.pop():
            yield node
            todo.extend(body.node for body in bodies(node))
