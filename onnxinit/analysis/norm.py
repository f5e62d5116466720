"""One normalisation, and the few questions that finding one asks again and again."""

from __future__ import annotations

from dataclasses import dataclass

from onnxinit.analysis.constants import Constants
from onnxinit.analysis.view import Node, Value

Role = tuple[str, "float | None"]
Place = tuple[Node, int]

CASTS = frozenset({"Cast", "CastLike", "Identity"})
ASIDE = frozenset({"Shape", "Size"})
_MOST = 64


@dataclass(frozen=True, slots=True)
class Norm:
    """One normalisation.

    Attributes:
        source: The value that is normalised.
        output: The result, after scale and shift.
        roles: Static operands that its operator does not hold itself: their (node, input), role, and the default where
            it is not the role's own (0 for a scale used as 1 + w).
        readers: Identities of its nodes that read the source.
        batch: Whether its statistics are static.
    """

    source: Value
    output: Value
    roles: tuple[tuple[Place, Role], ...] = ()
    readers: frozenset[int] = frozenset()
    batch: bool = False


def bare(value: Value) -> Value:
    """A value before its casts."""
    while value.producer is not None and value.producer.op in CASTS:
        before = value.producer.input(0)
        if before is None:
            break
        value = before
    return value


def nothing_else(value: Value) -> Place | None:
    """The one use of a value, None where it has another or the model hands it out."""
    uses = [(n, i) for n, i in value.uses if n.op not in ASIDE and not (n.op == "CastLike" and i == 1)]
    return uses[0] if len(uses) == 1 and not value.is_output else None


def between(source: Value, end: Value) -> list[Node]:
    """The nodes that make one value of another."""
    found: dict[int, Node] = {}
    waiting = [end]
    while waiting and len(found) < _MOST:
        value = waiting.pop()
        node = value.producer
        if value is source or node is None or id(node) in found:
            continue
        found[id(node)] = node
        waiting.extend(v for v in node.inputs if v is not None and not v.static)
    return list(found.values())


def readers(source: Value, end: Value) -> frozenset[int]:
    """The nodes between two values that read the first, by identity."""
    return frozenset(id(n) for n in between(source, end) if any(v is source for v in n.inputs))


class Learned:
    """Whether a static operand is learned: it varies, along one axis or along those that are normalised.

    Args:
        constants: Small static values.
        axes: How many axes the norm goes over; of an operator its `axis`, negative.
    """

    def __init__(self, constants: Constants, axes: int = 1):
        self.constants = constants
        self._axes = max(1, abs(axes))

    def __call__(self, value: Value, heads: int = 0) -> bool:
        """Whether the value can be a scale or a shift, of `heads` more axes that are normalised apart."""
        if not value.static:
            return False
        if value.shape is None:
            return self.constants.scalar(value) is None
        return 1 <= sum(n != 1 for n in value.shape) <= self._axes + heads

    def default(self, place: Place) -> float | None:
        """0 for a scale that is used as 1 + w, else None."""
        node, at = place
        value = node.input(at)
        maker = bare(value).producer if value is not None else None
        if maker is None or maker.op != "Add":
            return None
        return 0.0 if any(self.constants.scalar(v) == 1.0 for v in maker.inputs) else None
