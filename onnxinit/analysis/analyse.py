"""The analysis of a model file: every tensor, what it is, or why it is kept."""

from __future__ import annotations

import contextlib
import gc
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnxinit import plugins
from onnxinit.analysis.arithmetic import RATES
from onnxinit.analysis.assembly import Assembly, Told
from onnxinit.analysis.composed import Compositions, Tensor, compositions
from onnxinit.analysis.constants import Constants
from onnxinit.analysis.flow import FLOATS, LAYERS, Flow
from onnxinit.analysis.keeping import in_constant, stored_aside
from onnxinit.analysis.low_rank import NOTE, is_outer
from onnxinit.analysis.norms import find_norms
from onnxinit.analysis.operators import DOMAINS, NARROW, SCALE, WIDE, Operators, Reading, Site
from onnxinit.analysis.quantisation import Codes, Quantisation
from onnxinit.analysis.recurrence import find_cells
from onnxinit.analysis.required import check_required
from onnxinit.analysis.shapes import fill_shapes
from onnxinit.analysis.statics import evaluate
from onnxinit.analysis.surroundings import Surroundings
from onnxinit.analysis.trail import Trail
from onnxinit.analysis.view import GraphView, Node, Value
from onnxinit.analysis.walker import Found, Read, Walker
from onnxinit.analysis.weight import Analysis
from onnxinit.errors import ModelError
from onnxinit.model import LISTS, ModelFile, StoredTensor


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
        view = GraphView(file.proto, file.gone)
        if any(node.domain not in DOMAINS for node in view.nodes):
            plugins.load_plugins(plugins.OPERATORS)
        fill_shapes(view)
        read = Reader(file)
        constants = Constants(read)
        norms = find_norms(view, constants)
        walker = Walker(view, norms, Flow(view), read, operators)
        tensors = _with_starts(_name_cells(view, _read_all(file, view, walker, read)), walker)
        made = _composed(tensors, read)
        tensors = _with_followers(tensors, made)
        assembly = Assembly(file, tensors, Surroundings(view, constants, norms), made)
        found = assembly.analysis(view.nodes, walker, constants, normed=bool(norms), tie_equal=tie_equal)
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
_RUN = 1 << 18  # elements


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

    def runs(self, path: str) -> Iterator[npt.NDArray[np.generic]]:
        """The elements of a tensor, run by run; none where its data is missing or it is very large."""
        stored = self._file.tensors.get(path)
        if stored is None or stored.nbytes > _MOST_READ or not self._file.has_data(path):
            return
        in_runs = stored.storage in ("raw_data", "external")
        count = math.prod(stored.dims)
        for at in range(0, count, _RUN if in_runs else max(1, count)):
            with contextlib.suppress(ModelError):
                yield self._file.array(path, (at, min(_RUN, count - at)) if in_runs else None)


def _read_all(file: ModelFile, view: GraphView, walker: Walker, read: Reader) -> dict[str, Told]:
    values: dict[str, list[Value]] = {}
    for value in view.values:
        if value.tensor:
            values.setdefault(value.tensor, []).append(value)
    tensors: dict[str, Told] = {}
    quantisation = Quantisation(walker, read.runs)
    for path, stored in file.tensors.items():
        held = tuple(values.get(path, ()))
        if stored.storage in LISTS and not held and not in_constant(file.proto, path):
            continue  # a setting, or listed with what its operator holds
        if held and held[0].where == "attribute":
            stored = replace(stored, dims=tuple(n or 0 for n in held[0].shape or ()))
        if not held:
            tensors[path] = Told(stored, held, reason=stored_aside(file.proto, path))
        elif 0 in stored.dims:
            tensors[path] = Told(stored, held, reason="has no elements")
        elif held[0].where == "sparse" and stored.data_type not in FLOATS:
            tensors[path] = Told(stored, held, reason="stored sparse, of a type that is not drawn")
        elif stored.data_type in FLOATS:
            found = [f for value in held for f in walker.readings(value)]
            found.sort(key=lambda f: f.site.node.index)
            tensors[path] = Told(stored, held, tuple(found), paired=quantisation.pair(stored, held, found))
        else:
            codes = quantisation.read(stored, held) if stored.data_type in NARROW | WIDE else Codes()
            reason = "" if codes.found else codes.reason or _of_integers(stored)
            tensors[path] = Told(stored, held, codes.found, reason, codes.quantised)
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


def _name_cells(view: GraphView, tensors: dict[str, Told]) -> dict[str, Told]:
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


def _with_starts(tensors: Mapping[str, Told], walker: Walker) -> dict[str, Told]:
    """The tensors, with what some start as: the outer factors of low-rank updates at zero, rates of decay at -1."""
    found: dict[str, Told] = {}
    for path, tensor in tensors.items():
        uses = [(f.site, f.verdict) for f in tensor.found if isinstance(f.verdict, Reading)]
        if any(reading.role == "weight" and is_outer(site, reading, walker.flow) for site, reading in uses):
            tensor = replace(tensor, found=tuple(Found(s, replace(r, default=0.0, note=NOTE)) for s, r in uses))
        elif any(reading.note == RATES for _, reading in uses):
            start = _decaying(path, tensor, uses[0][0], walker.read)
            tensor = replace(tensor, found=tuple(Found(s, replace(r, default=start)) for s, r in uses))
        found[path] = tensor
    return found


def _decaying(path: str, tensor: Told, site: Site, read: Read) -> float:
    """The value of a tensor that makes the rate -1 of it: 0 where the graph takes -exp(a), else -1 itself or 1."""
    operand = site.node.input(site.at)

    def rate(start: float) -> npt.NDArray[np.float64] | None:
        held = np.full(tensor.shape, start)
        return evaluate(operand, lambda p: held if p == path else read(p)) if operand is not None else None

    if (made := rate(0.0)) is not None and np.allclose(np.abs(made), 1.0):
        return 0.0
    return next((s for s in (-1.0, 1.0) if (made := rate(s)) is not None and np.allclose(made, -1.0)), -1.0)


def _composed(tensors: Mapping[str, Told], read: Reader) -> Compositions:
    """What the graph makes of its weights; of those that are quantised or stored sparse it is not looked at."""
    floats: dict[str, Tensor] = {}
    for path, tensor in tensors.items():
        if tensor.stored.data_type not in FLOATS or tensor.sparse:
            continue
        decided = tensor.reading()
        reading = decided[1] if decided is not None else None
        role, default = (reading.role, reading.default) if reading is not None else ("", None)
        floats[path] = Tensor(tensor.stored.dims, role, default, tensor.found)
    return compositions(floats, read)


def _as_follower(tensor: Told) -> Iterator[Found]:
    """The uses of a tensor that follows from weights; those of one that no reading tells of are as they stand."""
    sites = [f.site for f in tensor.found]
    sites = sites or [Site(n, i, Trail.of(tensor.stored.dims)) for v in tensor.values for n, i in v.uses]
    yield from (Found(site, Reading("other")) for site in sites)


def _with_followers(tensors: Mapping[str, Told], made: Compositions) -> dict[str, Told]:
    """The tensors, those that follow from weights read as such, also where they alone would be constants."""
    return {
        path: tensor
        if path not in made.recipes or tensor.reading() is not None
        else replace(tensor, found=tuple(_as_follower(tensor)))
        for path, tensor in tensors.items()
    }
