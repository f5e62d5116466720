"""Weights and kept tensors put together from what their uses say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx import TensorProto

from onnxinit.analysis.arithmetic import Constant
from onnxinit.analysis.composed import FOLLOWS, Composition, Compositions, masked
from onnxinit.analysis.constants import Constants
from onnxinit.analysis.folded import looks_folded
from onnxinit.analysis.generated import generated_weights
from onnxinit.analysis.graph import Graph
from onnxinit.analysis.keeping import attribute_lists, unused_id
from onnxinit.analysis.levels import with_levels
from onnxinit.analysis.operators import SCALE, ZERO_POINT, Reading
from onnxinit.analysis.shaping import layout_of, thinned
from onnxinit.analysis.sparse import pattern_of
from onnxinit.analysis.surroundings import Surroundings
from onnxinit.analysis.ties import tied
from onnxinit.analysis.view import GraphView, Node, Value
from onnxinit.analysis.walker import Found, Read, Walker
from onnxinit.analysis.weight import (
    FAN_ROLES,
    LINEAR,
    PRIORITY,
    Activation,
    Analysis,
    Kept,
    Layout,
    Pattern,
    Quantised,
    Use,
    Weight,
    Where,
)
from onnxinit.model import ModelFile, StoredTensor

_ASIDE = {SCALE: "quant_scale", ZERO_POINT: "quant_zero_point"}  # kept for a reason, and what it is


@dataclass(frozen=True, slots=True)
class Told:
    """A stored tensor with its values in the view (several where a function is called several times)."""

    stored: StoredTensor
    values: tuple[Value, ...]
    found: tuple[Found, ...] = ()
    reason: str = ""  # why it is kept, for one that is not read as a weight could be
    quantised: Quantised | None = None
    paired: Quantised | None = None
    fitted: tuple[str, tuple[Use, ...]] | None = None  # role and uses, for one that follows quantised weights

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the graph sees; that of what is stored for a tensor that the graph does not hold."""
        return tuple(n or 0 for n in self.values[0].shape or ()) if self.sparse else self.stored.dims

    @property
    def sparse(self) -> bool:
        """Whether it is stored sparse."""
        return bool(self.values) and self.values[0].where == "sparse"

    def reading(self) -> tuple[Found, Reading] | None:
        """The deciding use: the first in topological order of the highest role."""
        ranked = [(f, f.verdict) for f in self.found if isinstance(f.verdict, Reading)]
        return min(ranked, key=lambda fr: PRIORITY.index(fr[1].role)) if ranked else None

    def nodes(self) -> list[Node]:
        """The nodes that read it as a weight, the deciding one first."""
        decided = self.reading()
        read = [f.site.node for f in self.found if isinstance(f.verdict, Reading)]
        return [decided[0].site.node, *read] if decided is not None else []


class Assembly:
    """Puts weights and kept tensors together from the readings."""

    def __init__(self, file: ModelFile, tensors: Mapping[str, Told], surroundings: Surroundings, made: Compositions):
        self._file = file
        self._made = made
        self._surroundings = surroundings
        self._tensors = tensors
        self._ids: dict[str, str] = {}
        self._layers: dict[int, Weight] = {}  # by the values that hold a layer's weight
        self._name_all()

    def _name_all(self) -> None:
        taken: set[str] = set()
        for path, tensor in self._tensors.items():
            name = (tensor.values[0].name if tensor.values else tensor.stored.name) or path
            scope = tensor.values[0].scope if tensor.values else ""
            self._ids[path] = unused_id(f"{scope}/{name}" if scope else name, taken)

    def analysis(
        self, nodes: Sequence[Node], walker: Walker, constants: Constants, *, normed: bool, tie_equal: bool
    ) -> Analysis:
        """All tensors, the weights in file order."""
        weights: list[Weight] = []
        kept: list[Kept] = []
        for path, tensor in self._tensors.items():
            decided = tensor.reading()
            if tensor.fitted is not None:
                weights.append(self._fitted(path, tensor, *tensor.fitted))
            elif decided is None:
                kept.append(self._kept(path, tensor))
            else:
                weights.append(self._weight(path, tensor, *decided))
        weights = [self._beside_its_layer(w) for w in weights]
        weights = with_levels(weights, {w.path: self._tensors[w.path].nodes() for w in weights}, nodes)
        weights = tied(weights, self._file, equal=tie_equal)
        order = {p: i for i, p in enumerate(self._tensors)}
        weights.sort(key=lambda w: order[w.path])
        taken = set(self._ids.values())
        made = list(generated_weights(nodes, walker, constants, taken))
        kept.extend(m.kept for m in made)
        kept.extend(attribute_lists(nodes, taken))
        normless = not normed and any(w.role == "weight" for w in weights)
        depth = sum(w.role == "layer_scale" for w in weights)
        folded = normless and looks_folded(nodes)
        aside = tuple(self._aside(kept))
        return Analysis(tuple(weights), tuple(kept), normless, depth, tuple(made), aside, folded)

    def _aside(self, kept: Iterable[Kept]) -> Iterator[Weight]:
        """What is kept as scales and zero points, each with its role."""
        for path, role in ((k.path, _ASIDE.get(k.reason)) for k in kept):
            if role is not None and path in self._tensors:
                uses = (use for value in self._tensors[path].values for use in value.uses)
                yield self._fitted(path, self._tensors[path], role, tuple(Use(n.op, n.name, at) for n, at in uses))

    def graph(self, view: GraphView, constants: Constants, read: Read) -> Graph:
        """Where the weights meet the graph."""
        sites = {
            self._ids[path]: tuple(f.site for f in tensor.found if isinstance(f.verdict, Reading))
            for path, tensor in self._tensors.items()
        }
        return Graph(view, sites, self._ids, constants, read, self._made.recipes)

    def _where(self, path: str) -> Where:
        stored = self._file.replaced.get(path) or self._tensors[path].values[0].where
        kinds: tuple[Where, ...] = ("constant", "sparse", "generated", "attribute")
        return next((kind for kind in kinds if kind == stored), "initializer")

    def _fitted(self, path: str, tensor: Told, role: str, uses: tuple[Use, ...]) -> Weight:
        """A tensor of scales or zero points that follows the quantised weights."""
        value, stored = tensor.values[0], tensor.stored
        return Weight(
            id=self._ids[path],
            name=value.name,
            scope=value.scope,
            where=self._where(path),
            role=role,
            shape=stored.dims,
            dtype=TensorProto.DataType.Name(stored.data_type).lower(),
            path=path,
            layout=None,
            fan_in=None,
            fan_out=None,
            groups=1,
            upstream=(LINEAR,),
            downstream=(LINEAR,),
            uses=uses,
        )

    def _weight(self, path: str, tensor: Told, found: Found, reading: Reading) -> Weight:
        value, stored = tensor.values[0], tensor.stored
        same = [f for f in tensor.found if isinstance(f.verdict, Reading) and f.verdict.role == reading.role]
        composed, recipe = self._made.of.get(path, Composition()), self._made.recipes.get(path)
        layout = masked(layout_of(tensor.quantised.shape if tensor.quantised else tensor.shape, same), composed.live)
        share = stored.dims[0] / math.prod(tensor.shape) if tensor.sparse else 1.0
        layout = layout if reading.role == "embedding" else thinned(layout, share)
        fan_in, fan_out = _mean_fans(layout)
        uses = tuple(
            Use(f.site.node.op, f.site.node.name, f.site.at, f.site.trail.via)
            for f in [found, *(f for f in tensor.found if f is not found and isinstance(f.verdict, Reading))]
        )
        weight = Weight(
            id=self._ids[path],
            name=value.name,
            scope=value.scope,
            where=self._where(path),
            role=reading.role,
            shape=tensor.shape,
            dtype=TensorProto.DataType.Name(stored.data_type).lower(),
            path=path,
            layout=layout,
            fan_in=fan_in,
            fan_out=fan_out,
            groups=reading.groups,
            upstream=self._around(same, upstream=True),
            downstream=self._around(same, upstream=False),
            uses=uses,
            default=reading.default,
            note=composed.note or (FOLLOWS[type(recipe)] if recipe is not None else reading.note),
            quantised=tensor.quantised,
            paired=tensor.paired,
            factor=composed.factor,
            live=share if composed.live is None else share * float(composed.live.mean()),
            pattern=Pattern(pattern_of(path), stored.dims[0]) if tensor.sparse else None,
            follows=(self._ids[recipe.of],) if recipe is not None else (),
            whole=composed.whole,
            effective=composed.effective,
        )
        if reading.role in FAN_ROLES and reading.layer is None:
            operands = [f.site.node.input(f.site.at) for f in same]
            for v in [*operands, *tensor.values, *(o for t in tensor.values for o in _first_results(t))]:
                self._layers[id(v)] = weight
        return weight

    def _around(self, found: Iterable[Found], *, upstream: bool) -> tuple[Activation, ...]:
        names: dict[str, Activation] = {}
        for f in found:
            reading = f.verdict
            assert isinstance(reading, Reading)
            within = reading.before if upstream else reading.after
            value = reading.source if upstream else reading.output
            if within is not None:
                names.setdefault(within.name, within)
            elif value is not None:
                look = self._surroundings.upstream if upstream else self._surroundings.downstream
                for activation in look(value):
                    names.setdefault(activation.name, activation)
        if len(names) > 1:
            names.pop("linear", None)
        return tuple(names.values()) or (LINEAR,)

    def _beside_its_layer(self, weight: Weight) -> Weight:
        """A bias carries the fan_in of its layer, which bias schemes ask for; a copy of a kernel, all of it."""
        reading = self._tensors[weight.path].reading()
        layer = self._layers.get(id(reading[1].layer)) if reading is not None else None
        if layer is None:
            return weight
        if weight.role == "bias":
            return replace(weight, fan_in=layer.fan_in)
        if weight.layout is None:
            return weight
        parts = tuple(replace(p, fan_in=layer.fan_in, fan_out=layer.fan_out) for p in weight.layout.parts)
        return replace(
            weight,
            layout=Layout(parts),
            fan_in=layer.fan_in,
            fan_out=layer.fan_out,
            groups=layer.groups,
            upstream=layer.upstream,
            downstream=layer.downstream,
        )

    def _kept(self, path: str, tensor: Told) -> Kept:
        stored = tensor.stored
        value = tensor.values[0] if tensor.values else None
        return Kept(
            id=self._ids[path],
            name=value.name if value is not None else stored.name,
            scope=value.scope if value is not None else "",
            shape=tensor.shape,
            dtype=TensorProto.DataType.Name(stored.data_type).lower(),
            reason=_reason(tensor, value),
            path=path,
        )


def _first_results(value: Value) -> list[Value]:
    """What is made of a stored tensor at once, by a view or by arithmetic."""
    return [o for node, _ in value.uses for o in node.outputs if o is not None and o.static]


def _reason(tensor: Told, value: Value | None) -> str:
    """Why a tensor is kept, in words that many tensors share."""
    if tensor.values and not any(v.uses or v.is_output for v in tensor.values):
        return "nothing uses it"
    if tensor.reason or value is None:
        return tensor.reason
    constants = [f.verdict.reason for f in tensor.found if isinstance(f.verdict, Constant)]
    if constants:
        return constants[0]
    if value.uses:
        return "only its shape, or what is counted up from it, is used"
    return "handed out by the model as it is"


def _mean_fans(layout: Layout | None) -> tuple[float | None, float | None]:
    """Fans over the parts, weighted by their number of elements."""
    if layout is None or any(p.fan_in is None or p.fan_out is None for p in layout.parts):
        return None, None
    sizes = [math.prod(p.shape) for p in layout.parts]
    total = sum(sizes) or 1
    fan_in = sum((p.fan_in or 0.0) * n for p, n in zip(layout.parts, sizes, strict=True)) / total
    fan_out = sum((p.fan_out or 0.0) * n for p, n in zip(layout.parts, sizes, strict=True)) / total
    return _tidy(fan_in), _tidy(fan_out)


def _tidy(fan: float) -> float:
    return round(fan) if abs(fan - round(fan)) < 1e-9 else fan
