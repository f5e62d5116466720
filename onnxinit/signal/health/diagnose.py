"""A network looked at as it stands: the signal at every layer on data, the gradient from some layers to the outputs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnxinit.analysis import analyse
from onnxinit.analysis.operators import Operators
from onnxinit.errors import DataError
from onnxinit.model import ModelFile
from onnxinit.plan import SIGNAL_ROLES, Plan
from onnxinit.sampling import STREAM
from onnxinit.signal.data.inputs import model_inputs
from onnxinit.signal.data.kept_feeds import KeptFeeds
from onnxinit.signal.data.options import DataOptions
from onnxinit.signal.health.activity import Site, dead_share, find_site, output_of, tails
from onnxinit.signal.health.diagnosis import Diagnosis, LayerHealth
from onnxinit.signal.health.gradients import Cut, Gradients
from onnxinit.signal.health.verdicts import judged, relate
from onnxinit.signal.run.engine import Engine, Feed, StepError
from onnxinit.signal.run.layers import Layer, leaves
from onnxinit.signal.run.outputs import matrix_of
from onnxinit.signal.run.program import Program
from onnxinit.signal.run.running import PLAIN, Running
from onnxinit.signal.run.statistics import Moments, moments_of
from onnxinit.signal.run.supply import Supply
from onnxinit.signal.run.walk import Walk, needs

Floats = npt.NDArray[np.floating[Any]]

SYNTHETIC_SAMPLES = 32  # so that a unit that is zero on all of them hardly is so by chance
_MOVES = frozenset({"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_HALF = 65504.0  # the largest float16


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a network is told.

    Attributes:
        data: What it is fed.
        probes: Perturbations a Jacobian, at least 2.
        layers: From how many layers the gradient is measured, evenly spaced in the order of execution; 0 for none.
        seed: Root seed of synthetic feeds and perturbations.
        running: How pieces of the network are run.
        operators: Operators that a user describes.
    """

    data: DataOptions = field(default_factory=DataOptions)
    probes: int = 8
    layers: int = 12
    seed: int = 0
    running: Running = PLAIN
    operators: Operators = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, number, least in (("probes", self.probes, 2), ("gradient-layers", self.layers, 0)):
            if number < least:
                raise DataError(f"--{name} is {number}: give {least} or more")


def look_at(file: ModelFile, told: Look) -> Diagnosis:
    """Diagnose a network with the weights that its file holds.

    Args:
        file: The model, whose external data has to be there.
        told: The data, and how to look.

    Raises:
        ModelError: Values of the file are missing.
        DataError: The data does not fit the model.
    """
    started = time.perf_counter()
    analysis = analyse(file, told.operators)
    data = told.data
    made_up = data.data is None and data.samples is None
    feeds = (replace(data, samples=SYNTHETIC_SAMPLES) if made_up else data).open(model_inputs(file.proto), told.seed)
    supply = Supply(Plan(told.seed, STREAM, ()), analysis, file)
    kept = KeptFeeds(feeds)
    walk, survey = _walk(supply, kept, told.running)
    if made_up and walk.closed:  # a branch that some noise takes and some does not: one batch takes one
        kept = KeptFeeds(list(itertools.islice(kept, 1)))
        walk, survey = _walk(supply, kept, told.running)
    batches = list(itertools.islice(kept, told.probes))
    outputs, notes = _ends(file, survey.cuts)
    gradients = Gradients(walk.engine, outputs, batches, told.probes, told.seed)
    first, start = _start(supply, walk.program, batches, survey.cuts)
    cuts = {cut.key: cut for cut in (*first, *_spaced(survey.cuts, told.layers))}
    found = gradients.measure(list(cuts.values()))
    lost = [f"no gradient from {start}: no float output follows from it"] if first and first[0].key not in found else []
    layers = relate([replace(h, gradient=found.get(c.key)) for h, c in zip(survey.found, survey.cuts, strict=True)])
    return Diagnosis(
        feeds.source,
        kept.samples,
        tuple(layers),
        found.get(first[0].key) if first else None,
        start,
        judged(layers),
        tuple(walk.missed.items()),
        (*feeds.notes, *notes, *gradients.notes, *lost),
        time.perf_counter() - started,
    )


def _walk(supply: Supply, feeds: Iterable[Feed], running: Running) -> tuple[Walk, _Survey]:
    """Look at all layers."""
    weights = [w for w in supply.analysis.weights if w.role in SIGNAL_ROLES]
    walk = Walk(supply, feeds, weights, running, asks=_asks)
    survey = _Survey(walk)
    walk.run(survey.visit)
    return walk, survey


def _asks(program: Program, layer: Layer) -> list[str]:
    """What a look at a layer takes: its output, and its activation."""
    if layer.inside:
        return needs(program, layer)
    site = find_site(program, layer)
    return [output_of(program, layer), *([site.step.inputs[0], site.step.outputs[0]] if site else ())]


def _spaced(cuts: Sequence[Cut], most: int) -> list[Cut]:
    """As many as allowed, evenly spaced, the first and the last among them."""
    if len(cuts) <= most:
        return list(cuts)
    return [cuts[i] for i in sorted({round(x) for x in np.linspace(0, len(cuts) - 1, most)})]


def _ends(file: ModelFile, layers: Sequence[Cut]) -> tuple[list[str], list[str]]:
    """The model's float outputs, or where it has none the last layer's, and what to say of that."""
    found = [o.name for o in file.proto.graph.output if o.type.tensor_type.elem_type in _FLOATS]
    if found or not layers:
        return found, []
    return list(layers[-1].names), ["the model has no float output: gradients go to the output of the last layer"]


def _start(supply: Supply, program: Program, batches: Sequence[Feed], layers: Sequence[Cut]) -> tuple[list[Cut], str]:
    """Where the signal starts: float inputs that vary, else looked up embeddings, else the first layer's output.

    Returns:
        One cut, none where the network has no layer, and what it is called.
    """
    inputs = [name for name in program.inputs if any(_varies(feed[name]) for feed in batches)]
    if inputs:
        return [Cut("input", tuple(inputs))], f"the input{'s' * (len(inputs) > 1)} {_listed(inputs)}"
    looked_up = [
        _real(program, step.outputs[0])
        for step in program.steps
        if step.op == "Gather"
        and program.moving.isdisjoint(step.inputs[:1])
        and step.inputs[1] in program.moving
        and any((w := supply.weight(path)) and w.role == "embedding" for path in leaves(program, step.inputs[0]))
    ]
    if looked_up:
        return [Cut("input", tuple(looked_up))], f"the embedded ids {_listed(looked_up)}"
    return list(layers[:1]), "the output of the first layer" if layers else ""


def _varies(x: Any) -> bool:
    return bool(x.dtype.kind == "f" and x.size and x.min() < x.max())


def _real(program: Program, name: str) -> str:
    """What codes that were looked up become; the name itself where they are no codes."""
    at = name
    while len(readers := program.readers.get(at, [])) == 1 and readers[0].op in _MOVES | {"DequantizeLinear"}:
        at = readers[0].outputs[0]
        if readers[0].op == "DequantizeLinear":
            return at
    return name


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


class _Survey:
    """Looks at the signal of one layer after another.

    Attributes:
        found: What was seen.
        cuts: For each, the values that the gradient is measured from.
    """

    def __init__(self, walk: Walk):
        self._walk = walk
        self.found: list[LayerHealth] = []
        self.cuts: list[Cut] = []

    def visit(self, layer: Layer) -> None:
        """Look at a layer."""
        seen = self._inside(layer) if layer.inside else self._plain(layer)
        if layer.joined:
            others = ", ".join(w.id for w in layer.joined)
            seen = replace(seen, note=f"one product with {others}{'; ' * bool(seen.note)}{seen.note}")
        self.found.append(seen)
        name = self._output(layer)
        self.cuts.append(Cut(f"{layer.weight.id}\0{name}", (name,)))

    def _output(self, layer: Layer) -> str:
        """What a layer hands on: of an operator with several results the first that is used."""
        program = self._walk.program
        if not layer.inside:
            return output_of(program, layer)
        results = [name for name in layer.step.outputs if name]
        return next((n for n in results if n in program.readers or n in program.outputs), results[0])

    def _plain(self, layer: Layer) -> LayerHealth:
        engine, program = self._walk.engine, self._walk.program
        name = output_of(program, layer)
        engine.compute([name])
        std, mean, odd = _measured(engine.values(name), layer)
        site = find_site(program, layer)
        if site is not None:
            try:
                engine.compute([site.step.inputs[0], site.step.outputs[0]])
            except StepError:
                site = None
        shown, axis = (site.step.outputs[0], site.channels) if site else (name, layer.channels)
        dead = dead_share(engine.values(shown), axis) if shown in program.moving else None
        saturated = _saturated(engine, site) if site else None
        return self._health(layer, std, mean, odd, dead, saturated, site.step.op if site else "", "")

    def _inside(self, layer: Layer) -> LayerHealth:
        """A product within an operator is run on its own; what the operator adds to it stays unknown."""
        engine, step = self._walk.engine, layer.step
        engine.compute([step.inputs[0], step.inputs[layer.at]])
        stacked = np.concatenate(list(matrix_of(layer, engine)), axis=-1)
        std, mean, odd = _measured(engine.product(step.inputs[0], stacked), layer)
        what = "the product of its input and this weight, without bias and state"
        return self._health(layer, std, mean, odd, None, None, "", f"measured on {what}")

    def _health(
        self,
        layer: Layer,
        std: float | None,
        mean: float | None,
        odd: float,
        dead: float | None,
        saturated: float | None,
        activation: str,
        note: str,
    ) -> LayerHealth:
        step = layer.step
        return LayerHealth(
            layer.weight.id, step.op, step.node.name, std, mean, dead, saturated, odd, activation, note=note
        )


def _measured(batches: Iterable[Floats], layer: Layer) -> tuple[float | None, float | None, float]:
    """Std and mean of all values, None where they are not finite, and the share of those that are not."""
    total: Moments | None = None
    odd = count = 0
    half = layer.weight.dtype == "float16"
    for y in batches:
        some = moments_of(y)
        total = some if total is None else total + some
        count += y.size
        if not np.isfinite(some.squares):
            odd += y.size - int(np.isfinite(y).sum())
        if half:
            with np.errstate(invalid="ignore"):
                odd += int((np.abs(y) > _HALF).sum()) - int(np.isinf(y).sum())
    if total is None or not np.isfinite(total.squares):
        return None, None, odd / max(count, 1)
    return total.std, float(total.mean), odd / max(count, 1)


def _saturated(engine: Engine, site: Site) -> float | None:
    """The share of the values that enter a bounded activation where it is flat; None for others."""
    bounds: tuple[float, float] | None = None
    over = count = 0
    for z in engine.values(site.step.inputs[0]):
        if not count:
            bounds = tails(engine, site.step, z.dtype)
        if bounds is None:
            return None
        over += int((z < bounds[0]).sum()) + int((z > bounds[1]).sum())
        count += z.size
    return over / count if count else None
