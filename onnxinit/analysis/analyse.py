"""The analysis of a model file: every tensor, what it is, or why it is kept."""

from __future__ import annotations

import contextlib
import gc
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnxinit import plugins
from onnxinit.analysis.arithmetic import Constant
from onnxinit.analysis.constants import Constants
from onnxinit.analysis.flow import FLOATS, LAYERS, Flow
from onnxinit.analysis.folded import looks_folded
from onnxinit.analysis.generated import generated_weights
from onnxinit.analysis.graph import Graph
from onnxinit.analysis.keeping import attribute_lists, in_constant, stored_aside, unused_id
from onnxinit.analysis.levels import with_levels
from onnxinit.analysis.norms import find_norms
from onnxinit.analysis.operators import DOMAINS, NARROW, SCALE, WIDE, Operators, Reading
from onnxinit.analysis.quantisation import Codes, Quantisation
from onnxinit.analysis.recurrence import find_cells
from onnxinit.analysis.required import check_required
from onnxinit.analysis.shapes import fill_shapes
from onnxinit.analysis.shaping import layout_of, thinned
from onnxinit.analysis.sparse import pattern_of
from onnxinit.analysis.surroundings import Surroundings
from onnxinit.analysis.ties import tied
from onnxinit.analysis.view import GraphView, Node, Value
from onnxinit.analysis.walker import Found, Walker
from onnxinit.analysis.weight import (
    FAN_ROLES,
    LINEAR,
    PRIORITY,
    Activation,
    Analysis,
    Kept,
    Layout,
    Quantised,
    Use,
    Weight,
    Where,
)
from onnxinit.errors import ModelError
from onnxinit.model import LISTS, ModelFile, StoredTensor


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A stored tensor with its values in the view (several where a function is called several times)."""

    stored: StoredTensor
    values: tuple[Value, ...]
    found: tuple[Found, ...] = ()
    reason: str = ""  # why it is kept, for one that is not read as a weight could be
    quantised: Quantised | None = None
    fitted: tuple[str, tuple[Use, ...]] | None = None  # role and uses, for one that follows quantised weights

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the graph sees; that of what is stored for a tensor that the graph does not hold."""
        sparse = bool(self.values) and self.values[0].where == "sparse"
        return tuple(n or 0 for n in self.values[0].shape or ()) if sparse else self.stored.dims

    def reading(self) -> tuple[Found, Reading] | None:
        """The deciding use: the first in topological order of the highest role."""
        ranked = [(f, f.verdict) for f in self.found if isinstance(f.verdict, Reading)]
        return min(ranked, key=lambda fr: PRIORITY.index(fr[1].role)) if ranked else None

    def nodes(self) -> list[Node]:
        """The nodes that read it as a weight, the deciding one first."""
        decided = self.reading()
        read = [f.site.node for f in self.found if isinstance(f.verdict, Reading)]
        return [decided[0].site.node, *read] if decided is not None else []


def analyse(file: ModelFile, operators: Operators | None = None, *, tie_equal: bool = False) -> Analysis:
    """Say of every tensor of a model what it is.

    Args:
        file: The model; external data need not be there.
        operators: Rows of operators that a user describes, by domain and operator (`operators.load_operators`).
        tie_equal: Whether weights of equal values are tied, which reads them (`ties.tied`).

    Returns:
        The weights in file order and the kept tensors with their reasons.

    Raises:
        ModelError: The graph has a cycle, a function calls itself, a node lacks a required input, or a described
            operator does not fit its operands, or values that are to be compared are missing.
    """
    with _no_collection():
        check_required(file.proto)
        view = GraphView(file.proto)
        if any(node.domain not in DOMAINS for node in view.nodes):
            plugins.load_plugins(plugins.OPERATORS)
        fill_shapes(view)
        read = Reader(file)
        constants = Constants(read)
        norms = find_norms(view, constants)
        walker = Walker(view, norms, Flow(view), read, operators)
        tensors = _name_cells(view, _read_all(file, view, walker))
        assembly = _Assembly(file, tensors, Surroundings(view, constants, norms))
        found = assembly.analysis(view.nodes, walker, constants, bool(norms), tie_equal)
        return replace(found, graph=assembly.graph(view, constants, read))


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from walking a large graph, all of it alive, over and over: a third faster."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


_MOST_READ = 1 << 26  # bytes; a larger tensor is no mask and no table of constants that a look would tell


class Reader:
    """The values of stored tensors, for the few questions that topology leaves open."""

    def __init__(self, file: ModelFile):
        self._file = file

    def __call__(self, path: str) -> npt.NDArray[np.generic] | None:
        """The values of a tensor, None where its data is missing."""
        stored = self._file.tensors.get(path)
        if stored is None or stored.nbytes > _MOST_READ or not self._file.has_data(path):
            return None
        try:
            return self._file.array(path)
        except ModelError:
            return None


def _read_all(file: ModelFile, view: GraphView, walker: Walker) -> dict[str, _Tensor]:
    values: dict[str, list[Value]] = {}
    for value in view.values:
        if value.tensor:
            values.setdefault(value.tensor, []).append(value)
    tensors: dict[str, _Tensor] = {}
    quantisation = Quantisation(walker)
    for path, stored in file.tensors.items():
        held = tuple(values.get(path, ()))
        if stored.storage in LISTS and not held and not in_constant(file.proto, path):
            continue  # a setting, or listed with what its operator holds
        if held and held[0].where == "attribute":
            stored = replace(stored, dims=tuple(n or 0 for n in held[0].shape or ()))
        if not held:
            tensors[path] = _Tensor(stored, held, reason=stored_aside(file.proto, path))
        elif 0 in stored.dims:
            tensors[path] = _Tensor(stored, held, reason="has no elements")
        elif held[0].where == "sparse" and stored.data_type not in FLOATS:
            tensors[path] = _Tensor(stored, held, reason="stored sparse, of a type that is not drawn")
        elif stored.data_type in FLOATS:
            found = [f for value in held for f in walker.readings(value)]
            tensors[path] = _Tensor(stored, held, tuple(sorted(found, key=lambda f: f.site.node.index)))
        else:
            codes = quantisation.read(stored, held) if stored.data_type in NARROW | WIDE else Codes()
            reason = "" if codes.quantised else codes.reason or _of_integers(stored)
            tensors[path] = _Tensor(stored, held, codes.found, reason, codes.quantised)
    for path in quantisation.scales():
        tensors[path] = replace(tensors[path], found=(), reason=SCALE)
    places = Counter(stored.identity for stored in file.tensors.values())
    for path, fitted in quantisation.parameters(values).items():
        if places[file.tensors[path].identity] == 1:
            tensors[path] = replace(tensors[path], fitted=fitted)
    return tensors


def _of_integers(stored: StoredTensor) -> str:
    """Why a tensor of integers, or of a float type that weights are only stored in, is kept."""
    kind = TensorProto.DataType.Name(stored.data_type).lower()
    if stored.data_type in NARROW and math.prod(stored.dims) > 1:
        return f"{kind}: quantised values, which are not drawn"
    return f"{kind}: shapes, indices, flags and the like"


def _name_cells(view: GraphView, tensors: dict[str, _Tensor]) -> dict[str, _Tensor]:
    """Rename the weights of written-out recurrent cells."""
    uses: dict[str, list[Node]] = {}
    for path, tensor in tensors.items():
        nodes = [f.site.node for f in tensor.found if isinstance(f.verdict, Reading) and f.verdict.role == "weight"]
        nodes = [n for n in nodes if n.op in LAYERS]
        if nodes:
            uses[path] = nodes
    for path, role in find_cells(view, uses).items():
        tensor = tensors[path]
        found = tuple(
            replace(f, verdict=replace(f.verdict, role=role))
            if isinstance(f.verdict, Reading) and f.verdict.role == "weight"
            else f
            for f in tensor.found
        )
        tensors[path] = replace(tensor, found=found)
    return tensors


class _Assembly:
    """Puts weights and kept tensors together from the readings."""

    def __init__(self, file: ModelFile, tensors: dict[str, _Tensor], surroundings: Surroundings):
        self._file = file
        self._surroundings = surroundings
        self._tensors = tensors
        self._ids: dict[str, str] = {}
        self._layers: dict[int, Weight] = {}  # by the values that hold a layer's weight
        self._name_all()

    def _name_all(self) -> None:
        taken: set[str] = set()
        for path, tensor in self._tensors.items():
            name = tensor.values[0].name if tensor.values else tensor.stored.name or path
            scope = tensor.values[0].scope if tensor.values else ""
            self._ids[path] = unused_id(f"{scope}/{name}" if scope else name, taken)

    def analysis(
        self, nodes: Sequence[Node], walker: Walker, constants: Constants, normed: bool, tie_equal: bool
    ) -> Analysis:
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
        return Analysis(tuple(weights), tuple(kept), normless, depth, tuple(made), folded)

    def graph(self, view: GraphView, constants: Constants, read: Reader) -> Graph:
        """Where the weights meet the graph."""
        sites = {
            self._ids[path]: tuple(f.site for f in tensor.found if isinstance(f.verdict, Reading))
            for path, tensor in self._tensors.items()
        }
        return Graph(view, sites, self._ids, constants, read)

    def _where(self, path: str) -> Where:
        stored = self._file.replaced.get(path) or self._tensors[path].values[0].where
        kinds: tuple[Where, ...] = ("constant", "sparse", "generated", "attribute")
        return next((kind for kind in kinds if kind == stored), "initializer")

    def _fitted(self, path: str, tensor: _Tensor, role: str, uses: tuple[Use, ...]) -> Weight:
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

    def _weight(self, path: str, tensor: _Tensor, found: Found, reading: Reading) -> Weight:
        value, stored = tensor.values[0], tensor.stored
        same = [f for f in tensor.found if isinstance(f.verdict, Reading) and f.verdict.role == reading.role]
        layout = layout_of(tensor.quantised.shape if tensor.quantised else tensor.shape, same)
        live = stored.dims[0] / math.prod(tensor.shape) if value.where == "sparse" else 1.0
        layout = layout if reading.role == "embedding" else thinned(layout, live)
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
            note=reading.note,
            quantised=tensor.quantised,
            pattern=pattern_of(path) if value.where == "sparse" else "",
            live=live,
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

    def _kept(self, path: str, tensor: _Tensor) -> Kept:
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


def _reason(tensor: _Tensor, value: Value | None) -> str:
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
