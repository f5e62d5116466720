"""Recurrent cells that an exporter wrote out: as the body of a Loop or Scan, or unrolled step by step.

A cell is h' = f(W x + R h). R is the layer whose input follows from its own output, a step before; W is a layer whose
output is summed with R's and whose input does not follow from it.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

from onnxinit.analysis.flow import FLOATS, LAYERS, MOVES
from onnxinit.analysis.view import GraphView, Node, Value

_REACH = 8
_SUM_THROUGH = (MOVES | {"Mul"}) - {"@Exit", "@Stack"}  # what the end of a loop is added to is no part of its body


def find_cells(view: GraphView, uses: Mapping[str, Sequence[Node]]) -> dict[str, str]:
    """Tell the input and the recurrent weights of cells that are written out.

    Args:
        view: The graph.
        uses: The layer nodes of every candidate weight, by its key, in topological order.

    Returns:
        "input_weight" or "recurrent_weight" by the keys of those that are.
    """
    layer_of = {id(n): key for key, nodes in uses.items() for n in nodes}
    carried = _after_carries(view)
    feeding_back = _before_carries(view) if carried else set()
    roles: dict[str, str] = {}
    for key, nodes in uses.items():
        in_loop = any(_source_in(n, carried) and id(n) in feeding_back for n in nodes)
        if not in_loop and not (len(nodes) > 1 and _reaches(nodes[0], nodes[1])):
            continue
        beside = [{layer_of[id(p)] for p in _summed_with(n) if id(p) in layer_of} - {key} for n in nodes]
        # Every step adds the same layer (the first may have been folded, its state being zero); a residual stream that
        # passes a shared layer again and again adds others.
        steps = 1 if in_loop else max(2, len(nodes) - 1)
        partners = {p for p, count in Counter(itertools.chain.from_iterable(beside)).items() if count >= steps}
        partners = {p for p in partners if not in_loop or not any(_source_in(n, carried) for n in uses[p])}
        partners = {p for p in partners if not _chained(uses[p])}
        if partners:
            roles[key] = "recurrent_weight"
            for p in partners:
                roles.setdefault(p, "input_weight")
    return roles


def _chained(nodes: Sequence[Node]) -> bool:
    return len(nodes) > 1 and _reaches(nodes[0], nodes[1])


def _source_in(node: Node, values: set[int]) -> bool:
    return any(v is not None and id(v) in values for v in node.inputs[:2])


def _after_carries(view: GraphView) -> set[int]:
    """The values that follow from a state of a loop, its counters aside."""
    marked: set[int] = set()
    for node in view.nodes:
        state = node.op == "@Carry" and (v := node.outputs[0]) is not None and v.dtype in FLOATS | {0}
        if state or any(v is not None and id(v) in marked for v in node.inputs):
            if node.op not in ("@Exit", "@Stack", "Shape"):
                marked.update(id(v) for v in node.outputs if v is not None)
    return marked


def _before_carries(view: GraphView) -> set[int]:
    """The nodes whose results go into the next state of a loop."""
    front = deque(v for n in view.nodes if n.op == "@Carry" and (v := n.input(1)) is not None)
    seen: set[int] = set()
    while front:
        node = front.popleft().producer
        if node is None or id(node) in seen or node.op == "@Carry":
            continue
        seen.add(id(node))
        front.extend(v for v in node.inputs if v is not None)
    return seen


def _reaches(first: Node, second: Node) -> bool:
    """Whether a later layer's input follows from an earlier one's output."""
    front = deque(first.outputs)
    seen: set[int] = set()
    while front:
        value = front.popleft()
        for node, _ in value.uses if value is not None else ():
            if node is second:
                return True
            if node.index < second.index and id(node) not in seen:
                seen.add(id(node))
                front.extend(node.outputs)
    return False


def _summed_with(node: Node) -> Iterable[Node]:
    """The layers whose outputs are added to this layer's, past biases, cuts and gates."""
    front: list[tuple[Value, int]] = [(v, 0) for v in node.outputs if v is not None]
    below = node.input(2) if node.op == "Gemm" else None
    found = _layers_behind(below) if below is not None and not below.static else []
    while front:
        value, depth = front.pop()
        for user, at in value.uses:
            if user.op == "Gemm" and at == 2:
                found.append(user)
            elif user.op in ("Add", "Sum"):
                others = [v for v in user.inputs if v is not None and v is not value]
                moving = [v for v in others if not v.static]
                for v in moving:
                    found.extend(_layers_behind(v))
                if moving:
                    continue
            elif user.op not in _SUM_THROUGH:
                continue
            if depth < _REACH:
                front.extend((v, depth + 1) for v in user.outputs if v is not None)
    return found


def _layers_behind(value: Value) -> list[Node]:
    found: list[Node] = []
    front = [(value, 0)]
    while front:
        v, depth = front.pop()
        node = v.producer
        if node is None or depth > _REACH:
            continue
        if node.op in LAYERS:
            found.append(node)
        elif node.op in MOVES and node.inputs[0] is not None:
            front.append((node.inputs[0], depth + 1))
        elif node.op in ("Add", "Sum"):
            front.extend((i, depth + 1) for i in node.inputs if i is not None and not i.static)
    return found
