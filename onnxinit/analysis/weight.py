"""What the analysis says of a model: weights with their layouts and activations, and what is kept, and why.

A stored tensor maps to *blocks* of the canonical shape (out, in, *kernel), one independent matrix each:

    Conv   (M, C/g, k...)     g blocks of (M/g, C/g, k...)
    Gemm   (K, N)             1 block  of (N, K), transposed
    LSTM W (dirs, 4h, i)      4*dirs blocks of (h, i)

`Layout` says how, as a factorisation of the stored axes and an order of the factors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from onnxinit.model import Generated

if TYPE_CHECKING:
    from onnxinit.analysis.graph import Graph

Where = Literal["initializer", "constant", "sparse", "generated", "attribute"]
Kind = Literal["block", "out", "in", "kernel"]

ROLES = (
    "weight",
    "bias",
    "input_weight",
    "recurrent_weight",
    "peephole",
    "norm_scale",
    "norm_shift",
    "running_mean",
    "running_var",
    "embedding",
    "positional",
    "token",
    "prelu_slope",
    "layer_scale",
    "other",
    "quant_scale",
    "quant_zero_point",
)

# Of several roles that the uses of one tensor give it, the first here is the tensor's.
PRIORITY = (
    "embedding", "recurrent_weight", "input_weight", "weight", "peephole", "positional", "token", "norm_scale",
    "norm_shift", "running_mean", "running_var", "prelu_slope", "bias", "layer_scale", "other",
)  # fmt: skip

FAN_ROLES = frozenset({"weight", "input_weight", "recurrent_weight", "embedding"})
PARAMETER_ROLES = frozenset({"quant_scale", "quant_zero_point"})  # fitted to the quantised weights, not drawn


@dataclass(frozen=True, slots=True)
class Activation:
    """A pointwise function (or softmax, glu) beside a layer.

    Attributes:
        name: One of the design's activation names; `linear` where there is none, `other` where none fits.
        slope: The negative slope of a leaky or parametric ReLU, else None.
        mean: E[f(z)] for z ~ N(0, 1); None where f is not pointwise.
        second: E[f(z)^2]; the exact forward gain is 1/sqrt(second).
        derivative: E[f'(z)^2]; the exact backward gain is 1/sqrt(derivative).
        bounded: Whether its values have bounds, however large the signal.
    """

    name: str
    slope: float | None = None
    mean: float | None = None
    second: float | None = None
    derivative: float | None = None
    bounded: bool = False


LINEAR = Activation("linear", mean=0.0, second=1.0, derivative=1.0)


@dataclass(frozen=True)
class Part:
    """A range of the stored tensor whose blocks have one shape and one fan.

    Attributes:
        start: First index of the part on every stored axis.
        shape: Extent of the part on every stored axis.
        factors: Sizes that every stored axis splits into, outermost first; their product is the part's extent there.
        kinds: What each factor is, in the nesting of `factors`.
        fan_in: Input values that reach one output value, per block.
        fan_out: Output values that one input value reaches, per block.
        names: Names of the blocks in canonical order where the operator names them ("Wb.f", "q"), else empty.
    """

    start: tuple[int, ...]
    shape: tuple[int, ...]
    factors: tuple[tuple[int, ...], ...]
    kinds: tuple[tuple[Kind, ...], ...]
    fan_in: float | None = None
    fan_out: float | None = None
    names: tuple[str, ...] = ()

    @cached_property
    def _flat(self) -> tuple[tuple[int, Kind], ...]:
        return tuple(
            (n, k) for ns, ks in zip(self.factors, self.kinds, strict=True) for n, k in zip(ns, ks, strict=True)
        )

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The factors in canonical order: blocks, outs, ins, kernel, each in stored order."""
        rank = ("block", "out", "in", "kernel")
        return tuple(sorted(range(len(self._flat)), key=lambda i: rank.index(self._flat[i][1])))

    def _size(self, kind: Kind) -> int:
        return math.prod(n for n, k in self._flat if k == kind)

    @property
    def blocks(self) -> int:
        """How many independent matrices the part holds."""
        return self._size("block")

    @property
    def block_shape(self) -> tuple[int, ...]:
        """The canonical shape of one block: (out, in, *kernel)."""
        return (self._size("out"), self._size("in"), *(n for n, k in self._flat if k == "kernel"))

    def to_canonical(self, stored: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Take the part's values out of the stored tensor, as (blocks, out, in, *kernel)."""
        window = stored[tuple(slice(a, a + n) for a, n in zip(self.start, self.shape, strict=True))]
        fine = np.transpose(window.reshape([n for n, _ in self._flat]), self.order)
        return fine.reshape(self.blocks, *self.block_shape)

    def from_canonical(self, blocks: npt.NDArray[np.generic], stored: npt.NDArray[np.generic]) -> None:
        """Put (blocks, out, in, *kernel) into its place in the stored tensor."""
        sizes = [n for n, _ in self._flat]
        back = [0] * len(self.order)
        for to, at in enumerate(self.order):
            back[at] = to
        fine = blocks.reshape([sizes[i] for i in self.order]).transpose(back)
        stored[tuple(slice(a, a + n) for a, n in zip(self.start, self.shape, strict=True))] = fine.reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a stored tensor maps to canonical blocks: parts that tile it, most often one.

    Attributes:
        parts: The parts. Together they cover the stored tensor once; parts of unlike fans differ along one axis only.
    """

    parts: tuple[Part, ...]

    @property
    def blocks(self) -> int:
        """How many independent matrices the tensor holds."""
        return sum(p.blocks for p in self.parts)


@dataclass(frozen=True, slots=True)
class Use:
    """One (node, input index) that consumes a weight, through the views named in `via`."""

    op: str
    node: str
    input: int
    via: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quantised:
    """How the stored codes of a tensor stand for real values: scale * (code - zero point).

    Attributes:
        scale: Path of the tensor of scales; "" for a bias whose operator multiplies the `factors` itself.
        zero_point: Path of the tensor of zero points; "" where there is none.
        zero: The zero point where the codes are symmetric around it; None where `zero_point` says.
        grain: Along each axis of `shape`, how many neighbours share a scale: all of them per tensor, one per channel.
            One number for several axes counts along the stored order.
        low: The least code, of `levels` the least of them.
        high: The largest, likewise.
        bits: Bits of a code.
        shape: Shape of the real values: the stored one, unless several codes are packed into one element.
        factors: Paths of the two scales whose product is that of a bias (its layer's input's, and its weight's).
        levels: What the codes 0, 1 ... stand for, times the scale, where they are no numbers themselves.
        high_first: Whether of two codes in a byte the first is the high half.
        zero_rows: Rows of whole bytes that zero points are packed in as codes are; 0 where each is an element.
        columns: The number of the scale of every value of a row, where blocks are not made of neighbours.
        headroom: How many times larger the scale was than one that uses all codes.
    """

    scale: str
    zero_point: str
    zero: float | None
    grain: tuple[int, ...]
    low: float
    high: float
    bits: int
    shape: tuple[int, ...]
    factors: tuple[str, ...] = ()
    levels: tuple[float, ...] = ()
    high_first: bool = False
    zero_rows: int = 0
    columns: tuple[int, ...] = ()
    headroom: float = 1.0

    @property
    def axes(self) -> tuple[int, ...]:
        """The lengths that `grain` divides: `shape`, or their product where it counts along the stored order."""
        return self.shape if len(self.grain) == len(self.shape) else (math.prod(self.shape),)

    @property
    def grid(self) -> tuple[int, ...]:
        """Along each of the `axes`, how many scales there are; the tensor of scales holds them in this order."""
        return tuple(-(-n // g) if g else 1 for n, g in zip(self.axes, self.grain, strict=True))


@dataclass(frozen=True, slots=True)
class Factor:
    """What the graph multiplies a stored weight by before its layer does.

    Attributes:
        axis: The stored axis that it differs along, None where it is one number.
        values: The number, or one for each index.
    """

    axis: int | None
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which elements of a dense tensor a sparse one holds.

    Attributes:
        path: The tensor of indices.
        count: How many they are.
    """

    path: str
    count: int


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor that training learns.

    Attributes:
        id: Unique in the file: scope, "/", name; the name alone in the main graph.
        name: The tensor's name in its graph, for a Constant node the name of its output.
        scope: "" for the main graph, else the path of subgraphs, or the function.
        where: What stores it.
        role: One of `ROLES`.
        shape: The stored shape.
        dtype: The stored element type by its ONNX name, lower case ("float", "float16", "bfloat16", "double").
        path: Where its bytes lie in the file (`model.StoredTensor.path`).
        layout: How the stored tensor maps to canonical blocks; None for roles without matrices.
        fan_in: Mean over the parts, weighted by their size; None for roles without fans.
        fan_out: Likewise.
        groups: Convolution groups.
        upstream: The functions that made the layer's input; `linear` where there is none.
        downstream: The functions applied to the layer's output.
        uses: Where it is consumed; the first is the deciding use.
        tied_to: Ids of weights that must stay equal to this one: the first of them names all others, those name it.
        shares: Id of the weight whose stored bytes these are (two initializers that point to one place of an external
            file), or whose values it is to share; what is written is drawn as that weight. "" for a tensor of its own.
        turned: Whether it holds the values of the weight that it shares transposed.
        depth: Number of weight layers before this one on the longest way from an input (`levels.with_levels`).
        height: Number of weight layers after its use on the longest way on, least over the uses: 0 for the last ones.
        place: Number of its deciding node in a topological order.
        default: The value that a role with a constant default gets here where it is not the role's own (a norm scale
            used as 1 + w gets 0), else None.
        note: What a reader should know, shown by `inspect`; "" mostly.
        quantised: How its codes stand for real values, where it is quantised; layout, fans and the standard deviation
            asked for are those of the real values.
        factor: What the graph multiplies it by on the way to its layer; None for nothing.
        live: The share of its elements that a mask in the graph or a sparse pattern leaves.
        pattern: Which of its elements a sparse weight holds, where shape and layout are those of the dense tensor;
            None for a weight that holds all.
        follows: Ids of the weights that it has to follow, with which it makes one (the scale of a weight norm).
        whole: Whether the graph normalises it and what follows it gives it its size back.
        effective: The root mean square of what the layer multiplies by, where that is known and the same for whatever
            is drawn, as behind a spectral norm; else None.
        paired: The codes that the graph makes of its values and turns back, where it rounds them so.
    """

    id: str
    name: str
    scope: str
    where: Where
    role: str
    shape: tuple[int, ...]
    dtype: str
    path: str
    layout: Layout | None
    fan_in: float | None
    fan_out: float | None
    groups: int
    upstream: tuple[Activation, ...]
    downstream: tuple[Activation, ...]
    uses: tuple[Use, ...]
    tied_to: tuple[str, ...] = ()
    shares: str = ""
    turned: bool = False
    depth: int = 0
    height: int = 0
    place: int = 0
    default: float | None = None
    note: str = ""
    quantised: Quantised | None = None
    factor: Factor | None = None
    live: float = 1.0
    pattern: Pattern | None = None
    follows: tuple[str, ...] = ()
    whole: bool = False
    effective: float | None = None
    paired: Quantised | None = None

    @property
    def codes(self) -> Quantised | None:
        """The codes that its scale is fitted to, stored or made by the graph."""
        return self.quantised or self.paired

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def stored(self) -> int:
        """Number of elements that the file holds."""
        return self.size if self.pattern is None else self.pattern.count

    @property
    def blocks(self) -> int:
        """Number of independent matrices, 1 for a tensor without a layout."""
        return self.layout.blocks if self.layout else 1


@dataclass(frozen=True, slots=True)
class Kept:
    """A tensor that is not rewritten, and the reason."""

    id: str
    name: str
    scope: str
    shape: tuple[int, ...]
    dtype: str
    reason: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """A weight that the graph makes at run time: as it would be stored, and as it is kept while it is not."""

    stored: Generated
    kept: Kept


@dataclass(frozen=True, slots=True)
class Analysis:
    """Every tensor of a file: the weights, in file order, and the kept ones with their reasons.

    Attributes:
        weights: What training learns.
        kept: Everything else that is stored as a tensor.
        normless: Whether the network has weight layers but no normalisation anywhere (batch norm folded away, say).
        depth: Number of residual or layer blocks, for depth rules.
        generated: The weights among the kept that the graph makes at run time.
        aside: The scales and zero points among the kept, of activations mostly, which a pass over data may measure.
        folded: Whether there are no norms and every convolution has a bias, as where batch norms were folded into them.
        graph: The graph that it is of, for what carries signals through it; None for an analysis made by hand.
    """

    weights: tuple[Weight, ...]
    kept: tuple[Kept, ...]
    normless: bool = False
    depth: int = 0
    generated: tuple[Made, ...] = ()
    aside: tuple[Weight, ...] = ()
    folded: bool = False
    graph: Graph | None = field(default=None, compare=False, repr=False)
    by_id: dict[str, Weight] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        self.by_id.update((w.id, w) for w in (*self.aside, *self.weights))
