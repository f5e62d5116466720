"""The table itself: what a row is asked, what it answers, and how it is entered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from onnxinit.analysis.trail import Tile, Trail
from onnxinit.analysis.view import Node, Value

MICROSOFT = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Site:
    """One use of a tensor: a node, the input, and how the tensor stands in it."""

    node: Node
    at: int
    trail: Trail

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the operand."""
        return self.trail.shape

    def operand_shape(self, index: int) -> tuple[int | None, ...] | None:
        """The shape of another operand as far as it is known."""
        value = self.node.input(index)
        return value.shape if value is not None else None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a use says of the tensor.

    Attributes:
        role: One of the roles.
        tiles: For every axis of the operand the (size, kind) it splits into; None for a role without matrices.
        groups: Convolution groups.
        taps: Divisor of fan_in: a strided transposed convolution reaches an output with every stride-th tap only.
        output: The layer's output value, for the downstream activation.
        source: The layer's input value, for the upstream activation.
        fuses: The axis of `output` that the outputs of the layer run along, where it may be a fused projection.
        out_axis: The operand's axis that makes `fuses`.
        names: Names of the blocks.
        layer: The operand that holds the layer's weight, for a bias.
        default: A default of its own.
        note: What a reader should know.
    """

    role: str
    tiles: Sequence[Sequence[Tile]] | None = None
    groups: int = 1
    taps: float = 1.0
    output: Value | None = None
    source: Value | None = None
    fuses: int | None = None
    out_axis: int | None = None
    names: tuple[str, ...] = ()
    layer: Value | None = None
    default: float | None = None
    note: str = ""
    fan_in: float | None = field(default=None)


Row = Callable[[Site], Reading | None]

OPERATORS: dict[tuple[str, str], Row] = {}


def row(*ops: str, domain: str = "") -> Callable[[Row], Row]:
    """Put a function into the table for the operators named."""

    def put(function: Row) -> Row:
        OPERATORS.update({(domain, op): function for op in ops})
        return function

    return put


def out_value(node: Node, index: int = 0) -> Value | None:
    """An output of a node, None where it is omitted."""
    return node.outputs[index] if index < len(node.outputs) else None


def vector(role: str, site: Site, *, layer: int | None = None, default: float | None = None) -> Reading:
    """A learned vector beside a layer or a norm."""
    node = site.node
    return Reading(
        role,
        output=out_value(node),
        source=node.input(0),
        layer=node.input(layer) if layer is not None else None,
        default=default,
    )


def batch(n: int) -> list[Tile]:
    """The tiling of an axis that numbers independent matrices."""
    return [(n, "block")]
