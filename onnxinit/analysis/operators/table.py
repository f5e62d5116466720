"""The table itself: what a row is asked, what it answers, and how it is entered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxinit.analysis.trail import Tile, Trail
from onnxinit.analysis.view import Node, Value
from onnxinit.analysis.weight import Activation

MICROSOFT = "com.microsoft"
NHWC = "com.ms.internal.nhwc"
ML = "ai.onnx.ml"

Key = tuple[str, str]  # domain and operator

# Reasons that many operands share.
ROTARY = "a rotary table"
STATE = "a first state of {op}"
SCALE = "a scale of quantised values"
ZERO_POINT = "a zero point of quantised values"


@dataclass(frozen=True, slots=True)
class Site:
    """One use of a tensor: a node, the input, and how the tensor stands in it.

    Attributes:
        node: The node.
        at: The input.
        trail: How the tensor stands there.
        fixed: The last value on the way that no feed decides, and how the tensor stands there, where that is not the
            operand itself: a kernel that is modulated by a signal.
    """

    node: Node
    at: int
    trail: Trail
    fixed: tuple[Value, Trail] | None = None

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
        cuts: Lengths that `out_axis` is cut into where the operator says so itself, each a matrix of its own.
        names: Names of the blocks, or of the `cuts`.
        layer: The operand that holds the layer's weight, for a bias.
        default: A default of its own.
        note: What a reader should know.
        before: The function that makes the layer's input within the operator, where no value shows it.
        after: The function that is applied to the layer's output within the operator, likewise.
    """

    role: str
    tiles: Sequence[Sequence[Tile]] | None = None
    groups: int = 1
    taps: float = 1.0
    output: Value | None = None
    source: Value | None = None
    fuses: int | None = None
    out_axis: int | None = None
    cuts: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    layer: Value | None = None
    default: float | None = None
    note: str = ""
    before: Activation | None = None
    after: Activation | None = None


Row = Callable[[Site], Reading | None]
Operators = Mapping[Key, Row]

OPERATORS: dict[Key, Row] = {}
HOLDS: dict[Key, Mapping[int, str]] = {}
KEEPS: dict[Key, Mapping[int, str]] = {}


def row(
    *ops: str, domain: str = "", holds: Mapping[int, str], keeps: Mapping[int, str] | None = None
) -> Callable[[Row], Row]:
    """Put a function into the table for the operators named.

    Args:
        ops: Operator types.
        domain: Their domain.
        holds: By input what it holds, a role and the layout: "weight (M, C/g, k...)".
        keeps: By input why a stored tensor there is no weight, where there is more to say than that.
    """

    def put(function: Row) -> Row:
        for op in ops:
            OPERATORS[domain, op] = function
            HOLDS[domain, op] = holds
        keep(*ops, domain=domain, inputs=keeps or {})
        return function

    return put


def keep(*ops: str, domain: str = "", inputs: Mapping[int, str]) -> None:
    """Say why stored tensors at inputs of some operators are no weights; "{op}" in a reason is the operator."""
    for op in ops:
        if inputs:
            KEEPS[domain, op] = {**KEEPS.get((domain, op), {}), **{i: r.format(op=op) for i, r in inputs.items()}}


def vectors(
    *ops: str,
    domain: str = "",
    holds: Mapping[int, str],
    keeps: Mapping[int, str] | None = None,
    starts: Mapping[int, float] | None = None,
) -> None:
    """Enter operators whose operands are learned vectors only, each with the role that `holds` begins with.

    Args:
        ops: Operator types.
        domain: Their domain.
        holds: As for `row`.
        keeps: As for `row`.
        starts: What an operand starts as where that is not its role's own.
    """

    @row(*ops, domain=domain, holds=holds, keeps=keeps)
    def read(site: Site) -> Reading | None:
        held = holds.get(site.at)
        if held is None:
            return None
        return replace(vector(role_of(held), site), default=(starts or {}).get(site.at))


def role_of(held: str) -> str:
    """The role that a description of what an input holds begins with."""
    return held.split()[0].rstrip(",")


def out_value(node: Node, index: int = 0) -> Value | None:
    """An output of a node, None where it is omitted."""
    return node.outputs[index] if index < len(node.outputs) else None


def behind(value: Value | None) -> Value | None:
    """The weight of the matrix product that makes a value at once, for a bias that a later operator adds."""
    node = value.producer if value is not None else None
    if node is None or (node.domain, node.op) not in OPERATORS:
        return None
    return next((v for v in node.inputs if v is not None and v.static and len(v.shape or ()) > 1), None)


def vector(role: str, site: Site, *, layer: int | None = None) -> Reading:
    """A learned vector beside a layer or a norm."""
    node = site.node
    weight = node.input(layer) if layer is not None else behind(node.input(0)) if role == "bias" else None
    return Reading(role, output=out_value(node), source=node.input(0), layer=weight)


def batch(n: int) -> list[Tile]:
    """The tiling of an axis that numbers independent matrices."""
    return [(n, "block")]


def matrix(shape: Sequence[int], transposed: bool = False) -> list[list[Tile]]:
    """The tiling of (..., in, out), or transposed of (..., out, in); leading axes are batches."""
    *batches, rows, columns = shape
    last: list[list[Tile]] = (
        [[(rows, "out")], [(columns, "in")]] if transposed else [[(rows, "in")], [(columns, "out")]]
    )
    return [*map(batch, batches), *last]
