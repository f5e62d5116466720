"""Where each weight stands in the network: how many weight layers lie before it, how many after it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from onnxinit.analysis.view import Node
from onnxinit.analysis.weight import FAN_ROLES, Weight


def with_levels(weights: Sequence[Weight], uses: Mapping[str, Sequence[Node]], nodes: Sequence[Node]) -> list[Weight]:
    """Fill in `depth`, `height` and `place`.

    A weight layer is a node that kernels are read at: an LSTM with W and R is one, and so is a fused attention. A
    kernel's depth counts the layers strictly before it; that of a bias, a norm and the like those before its node or
    at it, so that a bias within its layer's operator and one in an Add of its own come to the same depth. The height
    counts the layers strictly after a node in all cases.

    Args:
        weights: The weights.
        uses: By path, the nodes that read a weight, the deciding one first.
        nodes: All nodes in topological order.
    """
    layers = {n.index for w in weights if w.role in FAN_ROLES for n in uses.get(w.path, ())}
    before, after = _before(nodes, layers), _after(nodes, layers)
    out: list[Weight] = []
    for w in weights:
        read = uses.get(w.path)
        if not read:
            out.append(w)
            continue
        first = read[0].index
        own = w.role not in FAN_ROLES and first in layers
        out.append(replace(w, depth=before[first] + own, height=min(after[n.index] for n in read), place=first))
    return out


# The way back of a loop leads to a node of a lower number and does not count. A stored tensor that is worked out on the
# way to its layer (a kernel times its scale) belongs there: what is static does not pass a layer by entering it.


def _before(nodes: Sequence[Node], layers: Collection[int]) -> list[int]:
    before = [0] * len(nodes)
    for node in nodes:
        made = [v.producer.index for v in node.inputs if v is not None and v.producer is not None]
        before[node.index] = max((before[i] + (i in layers) for i in made if i < node.index), default=0)
    return before


def _after(nodes: Sequence[Node], layers: Collection[int]) -> list[int]:
    after = [0] * len(nodes)
    for node in reversed(nodes):
        read = [(u.index, v.static) for v in node.outputs if v is not None for u, _ in v.uses]
        after[node.index] = max(
            (after[i] + (i in layers and not static) for i, static in read if i > node.index), default=0
        )
    return after
