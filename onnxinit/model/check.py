"""Whether the graphs of a model hang together: every name defined once and before it is needed, no circles.

Nodes need not be sorted (ONNX Runtime sorts them); training graphs are not looked at (nobody runs them here).
Source of the rules: https://onnx.ai/onnx/repo-docs/IR.html, and what ONNX Runtime refuses to load.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import onnx

from onnxinit.errors import ModelError

_FunctionKey = tuple[str, str, str]
_Key = TypeVar("_Key", bound=Hashable)


def check_graphs(model: onnx.ModelProto, name: str) -> None:
    """Check the main graph, its subgraphs and the functions, in time linear in their size.

    Args:
        model: The model, with or without its tensors' values.
        name: What to call it in a message.

    Raises:
        ModelError: A name is defined twice in a graph, an input or output is defined nowhere, nodes wait for each other
            in a circle, or a function calls itself.
    """
    check = _Check(name)
    check.closed(check.scope(model.graph, "the main graph"), "the main graph")
    functions = {_key(f.domain, f.name, f): f for f in model.functions}
    calls: dict[_FunctionKey, list[_FunctionKey]] = {}
    for key, function in functions.items():
        where = f"function {function.name!r}"
        check.text([function.name, *function.input, *function.output], where)
        check.unique(function.input, f"inputs of {where}")
        free = check.body(function.node, function.input, function.output, where)
        check.closed(free, where)
        calls[key] = [call for call in _calls(function.node) if call in functions]
    circle = _circle(calls)
    if circle:
        raise ModelError(f"{name}: function {circle[1]!r} calls itself; a function of ONNX must not")


def _key(domain: str, name: str, message: onnx.FunctionProto | onnx.NodeProto) -> _FunctionKey:
    return ("" if domain == "ai.onnx" else domain, name, getattr(message, "overload", ""))


def _calls(nodes: Sequence[onnx.NodeProto]) -> Iterator[_FunctionKey]:
    for node in nodes:
        yield _key(node.domain, node.op_type, node)
        for attribute in node.attribute:
            for graph in _graphs(attribute):
                yield from _calls(graph.node)


def _graphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return [*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs]


def _label(node: onnx.NodeProto) -> str:
    """What to call a node: operator and name, or its first output where it has none."""
    return f"{node.op_type} {(node.name or ''.join(node.output[:1]))!r}"


def _circle(needs: Mapping[_Key, Iterable[_Key]]) -> _Key | None:
    """Something that needs itself through others, None where nothing does (Kahn 1962).

    Args:
        needs: What each needs; all of it keys of the mapping.
    """
    waiting = {key: len(set(before)) for key, before in needs.items()}
    followers: dict[_Key, list[_Key]] = {}
    for key, before in needs.items():
        for other in set(before):
            followers.setdefault(other, []).append(key)
    ready = [key for key, count in waiting.items() if count == 0]
    while ready:
        key = ready.pop()
        del waiting[key]
        for follower in followers.get(key, ()):
            waiting[follower] -= 1
            if waiting[follower] == 0:
                ready.append(follower)
    if not waiting:
        return None
    # What is left needs something that is left: walking back ends in a circle.
    key, seen = next(iter(waiting)), set[_Key]()
    while key not in seen:
        seen.add(key)
        key = next(other for other in needs[key] if other in waiting)
    return key


class _Check:
    def __init__(self, name: str) -> None:
        self.name = name

    def scope(self, graph: onnx.GraphProto, where: str) -> dict[str, str]:
        """Check a graph and return the names it takes from outside, each with the node that takes it."""
        stored = [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]
        inputs = [value.name for value in graph.input]
        outputs = [value.name for value in graph.output]
        self.text([*stored, *inputs, *outputs], where)
        self.unique(stored, f"initializers of {where}")
        self.unique(inputs, f"inputs of {where}")
        return self.body(graph.node, {*inputs, *stored}, outputs, where)

    def body(
        self, nodes: Sequence[onnx.NodeProto], given: Iterable[str], outputs: Iterable[str], where: str
    ) -> dict[str, str]:
        """Check the nodes of a graph or function and return the names it takes from outside."""
        producer: dict[str, int] = dict.fromkeys(given, -1)
        needs: list[list[str]] = []
        for i, node in enumerate(nodes):
            used, made = list(node.input), list(node.output)
            self.text([node.name, node.op_type, node.domain, *used, *made], where)
            for out in made:
                if out:
                    if out in producer:
                        raise ModelError(f"{self.name}: {out!r} is defined twice in {where}; rename one of them")
                    producer[out] = i
            for attribute in node.attribute:
                if attribute.HasField("g") or attribute.graphs:
                    for graph in _graphs(attribute):
                        used += self.scope(graph, f"{attribute.name!r} of {_label(node)}")
            needs.append(used)
        free = {
            used: _label(nodes[i]) for i, names in enumerate(needs) for used in names if used and used not in producer
        }
        free.update((out, "the output list") for out in outputs if out and out not in producer)
        self.acyclic(nodes, needs, producer, where)
        return free

    def text(self, names: Sequence[str], where: str) -> None:
        """Refuse names that are not text: protobuf gives the bytes of what is not UTF-8."""
        try:
            "".join(names)
        except TypeError as error:
            raise ModelError(f"{self.name}: a name in {where} is not UTF-8 text; export the model again") from error

    def unique(self, names: Sequence[str], what: str) -> None:
        """Refuse a name that is there twice."""
        if len(set(names)) == len(names):
            return
        seen: set[str] = set()
        for name in names:
            if name and name in seen:
                raise ModelError(f"{self.name}: {name!r} is there twice among the {what}; rename one of them")
            seen.add(name)

    def acyclic(
        self, nodes: Sequence[onnx.NodeProto], needs: list[list[str]], producer: Mapping[str, int], where: str
    ) -> None:
        """Refuse nodes that wait for each other (Kahn 1962)."""
        if all(producer.get(name, -1) < i for i, names in enumerate(needs) for name in names):
            return  # sorted already
        circle = _circle({i: [p for x in names if (p := producer.get(x, -1)) >= 0] for i, names in enumerate(needs)})
        if circle is not None:
            raise ModelError(f"{self.name}: {where} runs in a circle through {_label(nodes[circle])}; break it up")

    def closed(self, free: Mapping[str, str], where: str) -> None:
        """Refuse names from outside where there is no outside."""
        if not free:
            return
        missing, user = next(iter(free.items()))
        raise ModelError(f"{self.name}: {missing!r}, used by {user}, is defined nowhere in {where}")
