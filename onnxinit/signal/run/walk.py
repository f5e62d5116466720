"""A walk through a network with data, layer after layer in the order of execution.

Who walks is called at every layer and decides what becomes of it; batch norms can be given the statistics of their
input on the way. An If is laid open when the walk comes to it, with the branch that the data takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from onnx import GraphProto

from onnxinit.analysis import Weight
from onnxinit.plan import Entry, Measured, entry_of
from onnxinit.schemes import Spec
from onnxinit.signal.run.engine import Engine, Feed, StepError
from onnxinit.signal.run.layers import Layer, find_layers
from onnxinit.signal.run.program import Program, Step, free_names, path_of, tensors_in
from onnxinit.signal.run.ranges import find_ranges, loosen
from onnxinit.signal.run.running import PLAIN, Running
from onnxinit.signal.run.sessions import Sessions
from onnxinit.signal.run.statistics import Moments, channel_moments
from onnxinit.signal.run.supply import Supply

_AT_MEAN, _AT_VARIANCE = 3, 4  # inputs of BatchNormalization


class Walk:
    """The walk.

    Args:
        supply: The weights.
        feeds: The data; iterated over several times.
        weights: Those whose layers are visited.
        running: How pieces are run.
        recalibrate: Whether batch norms whose running statistics are drawn get those of their input.
        asks: What will be asked for at a layer.
        sessions: Sessions to share with another walk through the same network.

    Attributes:
        engine: Runs the network.
        missed: By id, why the layer of a weight was not reached.
        norms: Ids of the running statistics that were measured.
        closed: Ifs whose batches take both branches.
    """

    def __init__(
        self,
        supply: Supply,
        feeds: Iterable[Feed],
        weights: Sequence[Weight],
        running: Running = PLAIN,
        *,
        recalibrate: bool = False,
        asks: Callable[[Program, Layer], list[str]] | None = None,
        sessions: Sessions | None = None,
    ):
        quantised = [w.path for w in supply.analysis.weights if w.quantised is not None]
        self.program = Program.of(supply.file, quantised)
        if running.loose:
            loosen(self.program, find_ranges(self.program, supply.analysis, supply.file).found)
        self.supply = supply
        self.engine = Engine(
            self.program,
            supply,
            feeds,
            sessions=sessions,
            threads=running.threads,
            provider=running.provider,
            spill=running.spill,
        )
        self.missed: dict[str, str] = {}
        self.norms: list[str] = []
        self.closed: set[Step] = set()
        self._weights = weights
        self._recalibrate = recalibrate
        self._asks = asks or needs
        self._over: set[object] = set()  # layers and steps that the walk is past
        self._broken: dict[Step, str] = {}
        self._untaken: dict[str, str] = {}
        self._known: dict[str, Moments] = {}

    def run(self, visit: Callable[[Layer], None]) -> None:
        """Visit every layer. Nothing is held afterwards, whatever happens.

        Args:
            visit: Gets a layer whose inputs can be computed; runs its step.
        """
        try:
            while self._round(visit):
                pass
        finally:
            self.engine.clear()

    def _round(self, visit: Callable[[Layer], None]) -> bool:
        """Walk to the next If or to the end; whether there is more."""
        found = find_layers(self.program, self.supply.analysis, self._weights, self.supply.keeps_size)
        self.missed = {**found.missed, **self._untaken}
        stops: list[tuple[Step, Layer | None]] = [(layer.step, layer) for layer in found.found]
        stops += [(step, None) for step in self.program.steps if self._is_norm(step)]
        stops = [
            (step, layer)
            for step, layer in stops
            if (layer and _key(layer)) not in self._over and step not in self._over
        ]
        wanted = [name for step, layer in stops for name in (*step.inputs, *((layer.output,) if layer else ()))]
        stops += [(step, None) for step in self._branches(wanted)]
        self.engine.expect([name for step, layer in stops for name in self._asked(step, layer)])
        for step, layer in sorted(stops, key=lambda s: (s[0].place, s[1] is not None)):
            try:
                self._check(step)
                if layer is not None:
                    self._over.add(_key(layer))
                    visit(layer)
                    self.missed.pop(layer.weight.id, None)
                elif step.op == "If":
                    self._enter(step)
                    return True
                else:
                    self._over.add(step)
                    self._measure(step)
            except StepError as e:
                self._broken[e.step] = e.reason
                if layer is not None:
                    self.missed[layer.weight.id] = f"behind {e.step.label}, which cannot be run: {e.reason}"
                self._over.add(step if layer is None else _key(layer))
            finally:
                for name in self._asked(step, layer):
                    self.engine.give_up(name)
        return False

    def _asked(self, step: Step, layer: Layer | None) -> list[str]:
        """What will be asked for at a stop."""
        if layer is not None:
            return self._asks(self.program, layer)
        return [step.inputs[0], *(step.outputs if step.op == "If" else ())]

    def _check(self, step: Step) -> None:
        """See that no step fails again that failed before."""
        if self._broken:
            for before in self.engine.ancestors(step.outputs):
                if before in self._broken:
                    raise StepError(before, self._broken[before])

    # ------------------------------------------------------------ branches

    def _branches(self, wanted: Iterable[str]) -> list[Step]:
        """The Ifs on the way to what is wanted, and those with weights of the walk inside."""
        inside = {w.path for w in self._weights}
        ifs = [s for s in self.program.steps if s.op == "If" and s not in self.closed and s not in self._over]
        if not ifs:
            return []
        needed = set(self.engine.ancestors(wanted))
        return [s for s in ifs if s in needed or inside & set(s.inner) or self._reads_weight(s, inside)]

    def _reads_weight(self, step: Step, paths: set[str]) -> bool:
        return any(self.program.stored.get(name) in paths for name in step.inputs)

    def _enter(self, step: Step) -> None:
        """Lay an If open with the branch that all batches take."""
        condition = step.inputs[0]
        self.engine.compute([condition])
        taken = {bool(np.asarray(value).reshape(-1)[0]) for value in self.engine.values(condition)}
        if len(taken) != 1:
            self.closed.add(step)
            held = [*step.inner, *(self.program.stored.get(name, "") for name in step.inputs)]
            self._leave(held, f"inside {step.label}, whose branches some batches take and others do not")
            return
        name = "then_branch" if taken.pop() else "else_branch"
        branches: dict[str, GraphProto] = {a.name: a.g for a in step.node.attribute}
        before = set(self.program.stored.values())
        others = [g for n, g in branches.items() if n != name]
        inside = {path_of(t) for g in others for t in tensors_in(g)} - before
        read = {self.program.stored.get(n, "") for g in others for n in free_names(g)}
        self.program.take(step, branches[name])
        unread = read - {self.program.stored.get(n, "") for s in self.program.steps for n in s.inputs}
        self._leave(inside | unread, f"inside the branch of {step.label} that the data does not take")

    def _leave(self, paths: Iterable[str], reason: str) -> None:
        held = set(paths)
        self._untaken.update((w.id, reason) for w in self._weights if w.path in held)

    # ------------------------------------------------------------ batch norms

    def _is_norm(self, step: Step) -> bool:
        return self._recalibrate and step.op == "BatchNormalization" and len(self._statistics(step)) == 2

    def _statistics(self, step: Step) -> list[Entry]:
        """The entries of the running mean and variance, where both are drawn."""
        paths = [self.program.stored.get(step.inputs[at], "") for at in (_AT_MEAN, _AT_VARIANCE)]
        entries = [self.supply.entry(path) for path in paths]
        return [e for e in entries if e is not None and e.measured is None]

    def feeds_norm(self, layer: Layer) -> bool:
        """Whether a layer's output, whose channels run along axis 1, is the input of a batch norm that is measured."""
        readers = self.program.readers.get(layer.output, ())
        return layer.channels == 1 and any(self._is_norm(s) and s.inputs[0] == layer.output for s in readers)

    def know(self, layer: Layer, moments: Moments | None) -> None:
        """Take the moments of every channel of a layer's output, for a batch norm that follows."""
        if moments is not None:
            self._known[layer.output] = moments

    def _measure(self, step: Step) -> None:
        """Give a batch norm the mean and the variance of every channel of its input."""
        name = step.inputs[0]
        self.engine.compute([name])
        total = self._known.pop(name, None)
        for values in self.engine.values(name) if total is None else ():
            some = channel_moments(values, 1)
            total = some if total is None else total + some
        entries = self._statistics(step)
        if total is None or not np.isfinite(total.squares).all():
            return
        for entry, values in zip(entries, (total.mean, total.variance), strict=True):
            weight = self.supply.analysis.by_id[entry.id]
            kept = values if weight.dtype == "double" else values.astype(np.float32)
            self.supply.set(
                entry_of(weight, Spec.of("measured"), "measured on the data", 1.0, measured=Measured.of(kept))
            )
            self.norms.append(entry.id)


def _key(layer: Layer) -> object:
    return layer.weight.id, layer.step, layer.at


def needs(program: Program, layer: Layer) -> list[str]:
    """What it takes to measure and scale a layer."""
    step = layer.step
    if layer.inside:
        return [step.inputs[0], step.inputs[layer.at]]
    if layer.exact:
        return [layer.output, *([layer.bias] if layer.bias else ())]
    return [layer.output, *step.inputs]
