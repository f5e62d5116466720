"""Rates of change that are the same in all layers, so that training moves no layer much faster than another.

A layer's rate of change is r = sqrt(mean dW^2 / mean W^2), dW the gradient of <g, f> with respect to its weight for a
standard normal g: what a step of gradient descent changes in units of what is there. No gradient is needed for it. For
J = df/dW, the outputs f on all samples together,

    E_g |dW|^2 = E_g |J^T g|^2 = |J|_F^2 = E_V |J V|^2,    V standard normal, of the shape of W,

and J V is the change of the outputs in the direction V, so that

    r^2 = mean dW^2 / mean W^2 = E |f(W + eps V) - f(W)|^2 / (|eps V|^2 mean W^2).

V x is what is injected into the layer's pre-activation, at all places where the weight is used, and it is propagated to
the outputs; that holds for shared weights and for convolutions, whose gradient is a sum over places, without further
ado. The estimate takes |J V|^2 / |V|^2 for |J|_F^2 / n, n values of the weight, and four V that stay the same from
round to round.

In a chain of layers without biases whose functions are positively homogeneous (ReLU, pooling, linear), scales s_l of
the weights multiply f by S = prod s_l, J_l by S / s_l and r_l by S / s_l^2. So s_l = sqrt(r_l / t), t the geometric
mean of the r_l, gives S = 1 and all r_l = t at once: the paper's step. In any graph, log r changes by M log s, where
M_lk = (the share of l's effect that passes k, or of k's that passes l) - 2 [l = k]. The step solves M log s = log t -
log r (least squares, the shortest), with shares of 1 where one layer follows the other and 0 where none does; that is
the paper's where all are in a chain. What a step then did corrects M (Broyden 1965: the least change that explains it).
After at most ten rounds, or when every r_l is within 1 % of t, the best is taken; t is multiplied by (std f / std f as
it was before)^(1/L), which leads the outputs back. A step after which the outputs are not finite is halved.

Drawn biases are scaled with their weight, and with what comes into their layer. Running statistics are measured anew
each time; batch norms are looked at with these, as in inference.

The published code stops when the logarithms of r_l and t have a ratio within 1 % of 1, which says nothing where t is
near 1, and leads the outputs to the std 1, which here they have only where that was asked for.

Source: Kraehenbuehl, Doersch, Donahue, Darrell: Data-dependent Initializations of Convolutional Neural Networks, ICLR
2016, arXiv:1511.06856, section 3.2, and its code (`calibrateGradientRatio`), which is for chains. Broyden: A class of
methods for solving nonlinear simultaneous equations, Mathematics of Computation 19, 1965.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from onnxinit.analysis import Weight
from onnxinit.plan import Entry, Plan
from onnxinit.sampling import stream, weight_key
from onnxinit.signal.health.gradients import behind
from onnxinit.signal.run.engine import Engine, Feed, StepError
from onnxinit.signal.run.layers import Layer, bias_weight
from onnxinit.signal.run.outputs import Output
from onnxinit.signal.run.program import Program, Step
from onnxinit.signal.run.running import Running
from onnxinit.signal.run.sessions import Sessions
from onnxinit.signal.run.supply import Drawn, Supply, times
from onnxinit.signal.run.walk import Walk, needs

Floats = npt.NDArray[np.floating[Any]]
Numbers = npt.NDArray[np.float64]

ROUNDS = 10
PROBES = 4
_NEAR = 0.01  # of the logarithm of a rate over its target
_EPS = 1e-2  # of the root mean square of a weight
_LAST = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})  # belong to the loss


@dataclass(frozen=True, slots=True)
class Balanced:
    """What balancing made.

    Attributes:
        plan: The plan with the scales, and the running statistics that fit them.
        outputs: Std and mean of the outputs of every weight's layers, in the order of execution, by the weight's id.
        note: What a reader should know.
    """

    plan: Plan
    outputs: Mapping[str, list[tuple[float, float]]]
    note: str


@dataclass(slots=True)
class _State:
    """A network at some scales.

    Attributes:
        walk: A walk through it that is over.
        outputs: As in `Balanced`.
        inputs: Mean |x| of what comes into every layer, by the weight's id.
        steps: The steps of every weight's layers.
    """

    walk: Walk
    outputs: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    inputs: dict[str, float] = field(default_factory=dict)
    steps: dict[str, set[Step]] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        return self.walk.supply.plan


class Balance:
    """Scales weights so that their layers have the same rate of change.

    Args:
        supply: The weights as a sweep has scaled them.
        unmeasured: The entries of running statistics before they were measured, which are measured anew.
        scaled: The weights that are scaled, whose layers are linear in them.
        looked: All weights whose layers' outputs are told.
        feeds: The data; iterated over several times.
        running: How pieces of the network are run.
    """

    def __init__(
        self,
        supply: Supply,
        unmeasured: Sequence[Entry],
        scaled: Sequence[Weight],
        looked: Sequence[Weight],
        feeds: Iterable[Feed],
        running: Running,
    ):
        self._supply, self._feeds, self._running = supply, feeds, running
        self._unmeasured = {e.id: e for e in unmeasured}
        self._scaled, self._looked = scaled, looked
        self._sessions: Sessions | None = None

    def run(self) -> Balanced:
        """Go round until the rates are the same."""
        best = self._pass(self._supply.plan, {}, {})
        first = self._rates(best)
        if isinstance(first, str):
            return Balanced(best.plan, best.outputs, f"rates of change are not balanced: {first}")
        effect, found, length, rounds = self._effect(best), first, 1.0, 0
        while np.abs(off := found.off(first.level)).max() >= _NEAR and rounds < ROUNDS:
            rounds += 1
            step = length * np.linalg.lstsq(effect, off, rcond=None)[0]
            tried = self._pass(best.plan, dict(zip(found.each, np.exp(step), strict=True)), best.inputs)
            then = self._rates(tried)
            if isinstance(then, str):
                length /= 2
                continue
            change = then.logs - found.logs
            effect = effect + np.outer(change - effect @ step, step) / (step @ step)
            if np.linalg.norm(then.off(first.level)) < np.linalg.norm(off):
                best, found = tried, then
        count = "1 round" if rounds == 1 else f"{rounds} rounds"
        apart = f"the largest is {found.apart:.3g} times the least, and had been {first.apart:.3g} times"
        note = f"rates of change of {len(first.each)} layers balanced in {count}: {apart}"
        return Balanced(best.plan, best.outputs, note)

    def _rates(self, state: _State) -> Rates | str:
        return rates(state.walk, state.plan, self._scaled, self._feeds)

    def _effect(self, state: _State) -> Numbers:
        """M, with shares of 1 between layers that follow one another."""
        places = [state.steps[w.id] for w in self._scaled]
        after = [behind(state.walk.program, [n for step in steps for n in step.outputs]) for steps in places]
        follows = np.asarray([[not own.isdisjoint(steps) for steps in places] for own in after])
        same = np.eye(len(places))
        ones = np.maximum(np.maximum(follows, follows.T), same)
        effect: Numbers = ones.astype(np.float64) - 2 * same
        return effect

    def _pass(self, plan: Plan, scales: Mapping[str, float], inputs: Mapping[str, float]) -> _State:
        """Scale weights, and their biases by what comes into the layer now and before; measure on the way."""
        entries = tuple(self._unmeasured.get(e.id, e) for e in plan.entries)
        before = self._supply
        supply = Supply(replace(plan, entries=entries), before.analysis, before.file, before.donors)
        walk = Walk(
            supply,
            self._feeds,
            self._looked,
            self._running,
            recalibrate=bool(self._unmeasured),
            asks=_with_inputs,
            sessions=self._sessions,
        )
        self._sessions = walk.engine.sessions
        state = _State(walk)

        def visit(layer: Layer) -> None:
            if layer.inside:
                return
            ident = layer.weight.id
            state.steps.setdefault(ident, set()).add(layer.step)
            if ident not in state.inputs:
                state.inputs[ident] = size = _size(layer, walk)
                fed = size / inputs[ident] if size and inputs.get(ident) else 1.0
                _scale(layer, walk, scales.get(ident, 1.0), fed)
            walk.engine.compute([layer.output])
            output = Output(layer, walk.engine, False, bare=False)
            for weight in (layer.weight, *layer.joined):
                state.outputs.setdefault(weight.id, []).append((output.std, output.mean))

        walk.run(visit)
        return state


def _scale(layer: Layer, walk: Walk, scale: float, fed: float) -> None:
    """Scale a weight, and the bias of its layer with what comes in."""
    bias = bias_weight(walk.program, layer.bias) if layer.bias else ""
    for path, factor in ((layer.weight.path, scale), (bias, scale * fed)):
        entry = walk.supply.entry(path) if path else None
        if entry is not None and factor != 1 and (path != bias or walk.supply.array(path).any()):
            std = None if entry.std is None else entry.std * factor
            walk.supply.set(replace(entry, gain=times(entry.gain, factor), std=std))


def _with_inputs(program: Program, layer: Layer) -> list[str]:
    return list(dict.fromkeys([*needs(program, layer), *layer.step.inputs]))


def _size(layer: Layer, walk: Walk) -> float:
    """Mean |x| of what a layer multiplies with its weight."""
    total, count = 0.0, 0
    names = [n for i, n in enumerate(layer.step.inputs) if i != layer.at and n in walk.program.moving]
    walk.engine.compute(names[:1])
    for x in walk.engine.values(names[0]) if names else ():
        total += float(np.abs(x).sum(dtype=np.float64))
        count += x.size
    return total / max(1, count)


# ---------------------------------------------------------------- rates


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of change.

    Attributes:
        each: r, by the weight's id.
        level: The std of the outputs.
    """

    each: Mapping[str, float]
    level: float

    @property
    def logs(self) -> Numbers:
        """Their logarithms."""
        return np.asarray(list(map(math.log, self.each.values())))

    def off(self, level: float) -> Numbers:
        """By how much their logarithms lie below that of their target, for outputs of the std `level`."""
        apart: Numbers = self.logs.mean() + math.log(self.level / level) / len(self.each) - self.logs
        return apart

    @property
    def apart(self) -> float:
        """The largest over the least."""
        return max(self.each.values()) / min(self.each.values())


def rates(
    walk: Walk, plan: Plan, weights: Sequence[Weight], feeds: Iterable[Feed], probes: int = PROBES
) -> Rates | str:
    """The rates of change of weights, or why there are none.

    Args:
        walk: A walk that is over: its program has the branches that the data takes laid open.
        plan: What every weight is.
        weights: Weights.
        feeds: The data.
        probes: How many directions are looked along.
    """
    held = {w.id: [n for n, path in walk.program.stored.items() if path == w.path] for w in weights}
    supply = Drawn(plan, walk.supply.analysis, walk.supply.file, walk.supply.donors)
    engine = Engine(walk.program, supply, feeds, sessions=walk.engine.sessions)
    arrays = {w.id: cast(Floats, supply.array(w.path)) for w in weights}
    names = _ends(walk.program)

    def outputs(changed: Mapping[str, Floats]) -> Iterator[Numbers]:
        """The outputs, batch by batch, flat; all weights are handed in, so that one session serves."""
        run = engine.fork(feeds)
        for ident, array in {**arrays, **changed}.items():
            for name in held[ident]:
                run.hold(name, [array for _ in feeds])
        run.expect(names)
        run.compute(names)
        for together in zip(*(run.values(name) for name in names), strict=True):
            yield np.concatenate([np.zeros(0), *(y.reshape(-1) for y in together if y.dtype.kind == "f")])

    def rate(weight: Weight) -> float:
        w = arrays[weight.id]
        square, squares = float(np.square(w, dtype=np.float64).mean()), list[float]()
        for probe in range(probes):
            v = np.empty(w.shape, w.dtype)
            stream(weight_key(plan.seed, f"rate\0{weight.id}"), probe).normal(v)
            moved: Floats = w + v * w.dtype.type(_EPS * math.sqrt(square))
            change = math.fsum(_length(a, b) for a, b in zip(outputs({weight.id: moved}), plain, strict=True))
            squares.append(change / _length(moved, w))
        return math.sqrt(math.fsum(squares) / probes / square)

    try:
        with np.errstate(invalid="ignore", over="ignore"):
            plain = list(outputs({}))
            whole = np.concatenate(plain)
            level = float(whole.std()) if whole.size else 0.0
            if not 0 < level < math.inf:
                return "the outputs are constant or not finite"
            each = {weight.id: rate(weight) for weight in weights}
    except StepError as e:
        return f"{e.step.label} cannot be run: {e.reason}"
    flat = next((i for i, r in each.items() if not 0 < r < math.inf), None)
    return Rates(each, level) if flat is None else f"the outputs do not change with '{flat}', or without bounds"


def _length(a: Floats, b: Floats) -> float:
    """|a - b|^2."""
    return float(np.square(a.astype(np.float64) - b).sum())


def _ends(program: Program) -> list[str]:
    """The outputs that the data moves, before a softmax or sigmoid that makes them."""
    moving = [n for n in program.outputs if n in program.moving]
    makers = [program.makers.get(n) for n in moving]
    return list(dict.fromkeys(s.inputs[0] if s and s.op in _LAST else n for n, s in zip(moving, makers, strict=True)))
