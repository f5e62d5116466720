"""LSUV: layer after layer in the order of execution, the output is measured on data and the weight scaled.

A layer y = W x + b is linear in W. Its step is run once without b; with a scale s of W the variance is
s^2 Var y + 2 s Cov(y, b) + Var b, whose positive root for the target is exact, and s y + b is what the layer would
give: no step runs twice. Only where the output is not linear in the stored weight (a kernel standardised in the graph)
the layer is run again until its variance is within `tol`.

A weight's first use decides its scale. What later uses then get is measured and told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxinit.analysis import Weight
from onnxinit.plan import Entry, Gain, Measured, Plan, Vector, entry_of, sampled
from onnxinit.schemes import Spec
from onnxinit.signal.passes.balance import Balance
from onnxinit.signal.passes.findings import Finding, Status
from onnxinit.signal.passes.learned import LEARNED, learn
from onnxinit.signal.run.engine import Feed
from onnxinit.signal.run.layers import RECURRENT, Layer, bias_weight
from onnxinit.signal.run.outputs import Output, matrix_of
from onnxinit.signal.run.program import Program
from onnxinit.signal.run.running import PLAIN, Running
from onnxinit.signal.run.statistics import gate_moments
from onnxinit.signal.run.supply import Supply, folded, times
from onnxinit.signal.run.walk import Walk, needs

Floats = npt.NDArray[np.floating[Any]]
Numbers = npt.NDArray[np.float64]

_FAR = 1e3  # how far from 1 the std of an output may be guessed before its weight is scaled beforehand


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep made.

    Attributes:
        plan: The plan with the gains and what was measured.
        findings: Layer by layer, in the order of execution; then the weights whose layers were not reached.
        norms: Ids of running statistics that were measured.
        notes: What a reader should know of the whole.
    """

    plan: Plan
    findings: tuple[Finding, ...]
    norms: tuple[str, ...]
    notes: tuple[str, ...] = ()


def lsuv(
    supply: Supply,
    asked: Mapping[str, Spec],
    feeds: Iterable[Feed],
    running: Running = PLAIN,
    *,
    recalibrate: bool = True,
) -> Swept:
    """Scale weights so that the outputs of their layers have the std that is asked for.

    Args:
        supply: The weights as their bases draw them.
        asked: By id the spec that a weight gets: LSUV, or what learns its values from data before they are scaled.
        feeds: The calibration data; iterated over several times.
        running: How pieces of the network are run.
        recalibrate: Whether the running statistics of batch norms are measured on the way.
    """
    start = supply.plan
    factors: dict[str, float] = {}
    most = max((int(s.values.get("max_iter") or 1) for s in asked.values()), default=1)
    for left in reversed(range(most)):
        sweep = _Sweep(
            Supply(start, supply.analysis, supply.file, supply.donors), asked, feeds, running, recalibrate, factors
        )
        sweep.run()
        off = sweep.off_mean()
        if not off or not left:
            break
        factors = {ident: factors.get(ident, 1.0) * step for ident, step in off.items()} | {
            ident: factor for ident, factor in factors.items() if ident not in off
        }
    swept = Swept(sweep.supply.plan, tuple(sweep.findings), tuple(sweep.walk.norms))
    if any(s.values["balance"] for s in sweep.asked.values()):
        swept = _balanced(swept, sweep, start, feeds, running)
    entries = (folded(e, sampled(e, supply.analysis)) for e in swept.plan.entries)
    return replace(swept, plan=replace(swept.plan, entries=tuple(entries)))


def _balanced(swept: Swept, sweep: _Sweep, start: Plan, feeds: Iterable[Feed], running: Running) -> Swept:
    """Scale weights once more, to the same rates of change; what their layers give is measured anew."""
    supply = sweep.supply
    weights = [supply.analysis.by_id[i] for i in sweep.linear if sweep.asked[i].values["balance"]]
    if len(weights) < 2:
        few = "rates of change are not balanced: fewer than two layers are linear in a real weight of their own"
        return replace(swept, notes=(few,))
    unmeasured = [e for e in start.entries if e.id in swept.norms]
    found = dict.fromkeys(f.id for f in swept.findings if f.status != "missed")
    looked = [supply.analysis.by_id[i] for i in found]
    done = Balance(supply, unmeasured, weights, looked, feeds, running).run()
    findings: list[Finding] = []
    for f in swept.findings:
        std, mean = done.outputs[f.id].pop(0) if done.outputs.get(f.id) else (None, None)
        findings.append(replace(f, after=std, mean=mean))
    return Swept(done.plan, tuple(findings), swept.norms, (done.note,))


class _Sweep:
    """One walk; `factors` multiply the targets of weights whose several uses get a mean."""

    def __init__(
        self,
        supply: Supply,
        asked: Mapping[str, Spec],
        feeds: Iterable[Feed],
        running: Running,
        recalibrate: bool,
        factors: Mapping[str, float],
    ):
        self.supply = supply
        self._learned = {i: s for i, s in asked.items() if s.name in LEARNED}
        self.asked = {i: _scaling(s) for i, s in asked.items()}
        self.findings: list[Finding] = []
        weights = [w for w in supply.analysis.weights if w.id in asked]
        self.walk = Walk(supply, feeds, weights, running, recalibrate=recalibrate, asks=self._needs)
        self._factors = factors
        self._set: set[str] = set()
        self._notes: dict[str, str] = {}
        self.linear: list[str] = []  # weights whose layers are linear in them, and have what was asked for

    def run(self) -> None:
        """Walk; what was not reached comes last."""
        self.walk.run(self._visit)
        self.findings += [Finding(i, status="missed", note=reason) for i, reason in self.walk.missed.items()]

    def off_mean(self) -> dict[str, float]:
        """By id of a weight whose uses get a mean: the factor that its mean is off by, where it is beyond `tol`."""
        stds: dict[str, list[float]] = {}
        for f in self.findings:
            if self.asked[f.id].values["shared"] == "mean" and f.fine and f.after:
                stds.setdefault(f.id, []).append(f.after)
        off = {i: self._number(i, "target_std") / math.exp(sum(map(math.log, s)) / len(s)) for i, s in stds.items()}
        return {i: f for i, f in off.items() if len(stds[i]) > 1 and abs(f**-2 - 1) > self._number(i, "tol")}

    def _number(self, ident: str, name: str) -> float:
        return float(self.asked[ident].values[name] or 0.0)

    def _target(self, ident: str) -> float:
        return self._number(ident, "target_std") * self._factors.get(ident, 1.0)

    def _flag(self, layer: Layer, name: str) -> bool:
        return bool(self.asked[layer.weight.id].values[name])

    def _needs(self, program: Program, layer: Layer) -> list[str]:
        """What is asked for at a layer: its inputs too where filters are learned from them."""
        asked = needs(program, layer)
        return list(dict.fromkeys([*asked, *layer.step.inputs])) if layer.weight.id in self._learned else asked

    # ------------------------------------------------------------ one layer

    def _visit(self, layer: Layer) -> None:
        entry = self.supply.entry(layer.weight.path)
        if entry is None:
            return
        if entry.draws_as in self._set:
            self._look(layer, "later use", "its first use decided the scale")
            return
        entry = self._near_one(layer, self._learn(layer, entry))
        if layer.inside:
            self._inside(layer, entry)
        elif layer.exact:
            self._exact(layer, entry)
        else:
            self._iterate(layer, entry)
        joined = (self.supply.entry(weight.path) for weight in layer.joined)
        self._set.update(e.draws_as for e in (entry, *joined) if e is not None)

    def _learn(self, layer: Layer, entry: Entry) -> Entry:
        """The entry with the values that the layer's input asks for, where they are to be learned."""
        spec = self._learned.get(layer.weight.id)
        if spec is None:
            return entry
        if entry.turned:
            self._notes[layer.weight.id] = f"its base stands: it holds '{entry.draws_as}' transposed"
            return entry
        entry, self._notes[layer.weight.id] = learn(layer, entry, spec, self.walk.engine, self.supply)
        self.supply.set(entry)
        return entry

    def _near_one(self, layer: Layer, entry: Entry) -> Entry:
        """The entry scaled to give outputs near 1, where it would give such as no float holds."""
        guess = (entry.std or 0.0) * math.sqrt(layer.weight.fan_in or 1.0)
        return entry if not guess or 1 / _FAR < guess < _FAR else self._scale(layer, entry, 1 / guess)

    def _exact(self, layer: Layer, entry: Entry) -> None:
        engine = self.walk.engine
        if layer.bias:
            engine.compute([layer.bias])
        engine.compute([layer.output, layer.bias], {layer.step: layer.bare} if layer.bare is not None else None)
        each = self._flag(layer, "per_channel") and layer.channels is not None and not entry.turned
        axis = _gain_axis(layer.weight) if each else None
        axis = axis if axis is None or _goes_with(entry.gain, axis, layer.weight.shape[axis]) else None
        output = Output(layer, engine, axis is not None, for_norm=self.walk.feeds_norm(layer))
        target = self._target(layer.weight.id)
        scale, note = output.scale_for(target), ""
        status: Status = "set"
        if self._flag(layer, "per_channel") and axis is None and _units(layer.weight) > 1:
            note = "its channels do not lie along one axis of the weight, so it is scaled as a whole"
        if scale is None:
            scale, (status, note) = np.ones(()), output.fault(target)
        elif (scale == 0).any():
            scale, note = np.where(scale == 0, 1.0, scale), "some channels are dead"
        shift = self._shift(layer, output, scale) if self._flag(layer, "center") and status == "set" else None
        if isinstance(shift, str):
            note, shift = shift, None
        self._scale(layer, entry, _factor(scale, axis))
        if status == "set" and not layer.joined and layer.weight.quantised is None and not layer.weight.whole:
            self.linear.append(layer.weight.id)
        output.apply(scale, shift)
        self.walk.know(layer, output.channels(scale, shift))
        after, mean = output.moments(scale, shift)
        self._found(layer, status, output.std, after, mean, 1, note)

    def _scale(self, layer: Layer, entry: Entry, factor: Gain) -> Entry:
        """Settle the gain of a weight, and of those that are joined to one operand with it; the entry as it is then."""
        scaled = replace(entry, gain=times(entry.gain, factor), std=None)
        self.supply.set(scaled)
        for other in (self.supply.entry(weight.path) for weight in layer.joined):
            if other is not None:
                self.supply.set(replace(other, gain=times(other.gain, factor), std=None))
        return scaled

    def _shift(self, layer: Layer, output: Output, scale: Numbers) -> Numbers | str:
        """The bias that centres a layer's output, which the plan gets; or why there is none."""
        path = bias_weight(self.walk.program, layer.bias) if layer.bias else ""
        entry = self.supply.entry(path) if path else None
        if entry is None:
            return "no bias is drawn that could centre it"
        weight = self.supply.analysis.by_id[entry.id]
        shift = output.centre(scale)
        if shift.size not in (1, weight.size):
            shift = np.asarray(shift.mean())
        values = np.broadcast_to(shift.reshape(-1) if shift.ndim else shift, (weight.size,)) / output.beta
        dtype = np.float64 if weight.dtype == "double" else np.float32
        measured = Measured.of(values.astype(dtype))
        self.supply.set(entry_of(weight, Spec.of("measured"), "centres its layer on the data", 1.0, measured=measured))
        return shift

    def _iterate(self, layer: Layer, entry: Entry) -> None:
        """Run a layer again and again, which is not linear in its weight."""
        engine, target = self.walk.engine, self._target(layer.weight.id)
        remade = layer.remade(self.walk.program)
        made = {n for step in remade for n in step.outputs}
        engine.compute([n for step in remade for n in step.inputs if n and n not in made])
        tol, most = self._number(layer.weight.id, "tol"), int(self._number(layer.weight.id, "max_iter"))
        total, stds = 1.0, list[float]()
        while True:
            engine.again(remade, [layer.output])
            stds.append(Output(layer, engine, False).std)
            near = abs((stds[-1] / target) ** 2 - 1) <= tol
            if near or len(stds) == most or not 0 < stds[-1] < math.inf or _stuck(stds):
                break
            entry = self._scale(layer, entry, target / stds[-1])
            total *= target / stds[-1]
        engine.finish([step for step in remade if step.place >= layer.step.place], [])
        note = ""
        if not near and _stuck(stds):
            note = "scaling its weight does not change its output: the graph normalises it"
            self._scale(layer, entry, 1 / total)
        dead = not near and stds[-1] == 0
        status: Status = "set" if near else "dead" if dead else "not converged"
        self._found(layer, status, stds[0], stds[-1], None, len(stds), note)

    def _inside(self, layer: Layer, entry: Entry) -> None:
        """Measure a product within an operator on its own: X W^T per gate of a recurrent one, X W of an attention."""
        engine, weight = self.walk.engine, layer.weight
        x, operand = layer.step.inputs[0], layer.step.inputs[layer.at]
        engine.compute([x, operand])
        matrix = matrix_of(layer, engine)
        gates = matrix.shape[0] * RECURRENT.get(layer.step.key, 1) if layer.step.key in RECURRENT else 1
        stacked = np.concatenate(list(matrix), axis=-1)
        stds = _gate_stds(engine.product(x, stacked), gates)
        target = self._target(weight.id)
        whole = math.sqrt(float((stds**2).mean()))
        axis = 1 if len(layer.chain) == 1 and layer.step.op in ("LSTM", "GRU", "RNN") else None
        axis = axis if _goes_with(entry.gain, 1, weight.shape[1] * len(matrix)) else None
        note = "" if axis is not None or gates == 1 else "its gates are scaled together"
        live = (stds > 0) & np.isfinite(stds)
        if not live.all():
            self._found(layer, "dead", whole, whole, None, 1, "its input is constant")
            return
        scale = np.repeat(target / stds, weight.shape[1] * len(matrix) // gates) if axis else np.asarray(target / whole)
        self._scale(layer, entry, _factor(scale, axis))
        self._found(layer, "set", whole, target, None, 1, note)

    def _look(self, layer: Layer, status: Status, note: str) -> None:
        """Measure what a layer gives as it is."""
        if layer.inside:
            self._found(layer, status, None, None, None, 0, note)
            return
        self.walk.engine.compute([layer.output])
        output = Output(layer, self.walk.engine, False, bare=False)
        self._found(layer, status, output.std, output.std, output.mean, 1, note)

    def _found(
        self,
        layer: Layer,
        status: Status,
        before: float | None,
        after: float | None,
        mean: float | None,
        runs: int,
        note: str,
    ) -> None:
        step = layer.step
        note = "; ".join(n for n in (self._notes.pop(layer.weight.id, ""), note) if n)
        for weight in (layer.weight, *layer.joined):
            self.findings.append(Finding(weight.id, step.op, step.node.name, status, before, after, mean, runs, note))


def _scaling(spec: Spec) -> Spec:
    """How LSUV scales what a scheme gives."""
    known = Spec.of("lsuv").values
    return spec if spec.name == "lsuv" else Spec.of("lsuv", {k: v for k, v in spec.values.items() if k in known})


def _stuck(stds: list[float]) -> bool:
    """Whether the last scaling changed nothing."""
    return len(stds) > 1 and abs(stds[-1] / stds[-2] - 1) < 1e-3


def _factor(scale: Numbers, axis: int | None) -> Gain:
    if axis is None or scale.ndim == 0:
        return float(scale)
    return Vector(axis, tuple(map(float, scale)))


def _gain_axis(weight: Weight) -> int | None:
    """The stored axis that a weight's units run along, None where they run along several or share it with inputs."""
    if weight.layout is None or len(weight.layout.parts) != 1:
        return None
    part = weight.layout.parts[0]
    kinds = [{k for n, k in zip(ns, ks, strict=True) if n > 1} for ns, ks in zip(part.factors, part.kinds, strict=True)]
    axes = [i for i, k in enumerate(kinds) if k & {"out", "block"}]
    return axes[0] if len(axes) == 1 and kinds[axes[0]] <= {"out", "block"} else None


def _goes_with(gain: Gain, axis: int, count: int) -> bool:
    """Whether a gain has a product with a vector of so many numbers along an axis."""
    return not isinstance(gain, Vector) or (gain.axis == axis and len(gain.values) == count)


def _units(weight: Weight) -> int:
    """How many units a weight has."""
    return sum(part.blocks * part.block_shape[0] for part in (weight.layout.parts if weight.layout else ()))


def _gate_stds(batches: Iterable[Floats], gates: int) -> Numbers:
    """The std of every gate of a product whose last axis runs along the gates."""
    total = None
    for y in batches:
        some = gate_moments(y, gates)
        total = some if total is None else total + some
    assert total is not None
    return np.sqrt(total.variance)
