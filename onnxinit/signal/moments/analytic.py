"""From a plan with analytic entries to one with their gains, and what any plan makes of the signal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxinit.analysis import PARAMETER_ROLES, Analysis, Weight
from onnxinit.analysis.activations import function_within
from onnxinit.analysis.flow import LAYERS
from onnxinit.analysis.operators.table import SCALE, ZERO_POINT
from onnxinit.analysis.recipes import Size
from onnxinit.analysis.view import Node, Value
from onnxinit.errors import SchemeError
from onnxinit.plan import (
    REFIT,
    SIGNAL_ROLES,
    Entry,
    Gain,
    Plan,
    Vector,
    asked_moments,
    asked_std,
    base_entry,
    block_means,
    sampled,
)
from onnxinit.signal.moments.arrays import array_moments
from onnxinit.signal.moments.carry import Layer, Sweep
from onnxinit.signal.moments.moments import Moments, constant, normal

NAME = "analytic"
_SHOWN = 3
_DIGITS = 9  # of a gain: quadrature is the same to some 1e-12 everywhere


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a layer's output is expected to be, before its bias.

    Attributes:
        id: The layer's weight.
        op: The operator of its first use.
        node: That node's name.
        output: The value that it makes, where the main graph names it and nothing but the layer is in it; else "".
        std: The standard deviation over the whole output.
        mean: The mean.
        later: The standard deviations at the weight's further uses.
        note: Why the gain is not what was asked for; "" where it is, or where it was given.
    """

    id: str
    op: str
    node: str
    output: str
    std: float
    mean: float
    later: tuple[float, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What is expected of a plan.

    Attributes:
        layers: The layers in execution order.
        unreached: Ids of the weights whose layers no rule reaches.
        without_rule: Operators that passed moments on for lack of a rule, each with the number of its nodes.
        loops: Whether there are loops, of which one iteration is followed.
    """

    layers: tuple[Prediction, ...]
    unreached: tuple[str, ...] = ()
    without_rule: tuple[tuple[str, int], ...] = ()
    loops: bool = False


def analytic(
    plan: Plan,
    analysis: Analysis,
    *,
    input_mean: float = 0.0,
    input_var: float = 1.0,
    inputs: Mapping[str, tuple[float, float]] | None = None,
    recalibrated: bool = False,
    loose: bool = False,
) -> tuple[Plan, Predictions]:
    """Settle the analytic entries of a plan: every layer's output gets variance target_std^2 in expectation.

    Formula: gain = target_std / std(y), y the output at gain 1, in topological order; rounded to 9 digits

    A weight with several uses is scaled for its first.

    Args:
        plan: The plan; entries of other schemes are as they are, and what they make of the signal counts.
        analysis: The model.
        input_mean: The mean of every float input.
        input_var: Its variance.
        inputs: Mean and variance by the name of an input, where they differ.
        recalibrated: Whether running statistics will be set from data, so that every batch norm normalises.
        loose: Whether ranges of quantised activations will be set from data, so that they cut nothing off.

    Returns:
        The plan without analytic entries, and what is expected of it.

    Raises:
        SchemeError: An input's variance is negative.
    """
    work = _Work(plan, analysis, recalibrated, loose)
    sweep = work.swept(input_mean, input_var, inputs or {})
    entries = tuple(work.settled(e) if work.waits(e) else e for e in plan.entries)
    return replace(plan, entries=entries), work.predictions(sweep)


def predict(
    plan: Plan,
    analysis: Analysis,
    *,
    input_mean: float = 0.0,
    input_var: float = 1.0,
    inputs: Mapping[str, tuple[float, float]] | None = None,
    recalibrated: bool = False,
) -> Predictions:
    """The standard deviation of every layer's output that a plan leads to, in expectation over its draws.

    Args:
        plan: The plan.
        analysis: The model.
        input_mean: As for `analytic`.
        input_var: Likewise.
        inputs: Likewise.
        recalibrated: Likewise.

    Raises:
        SchemeError: As `analytic`.
    """
    work = _Work(plan, analysis, recalibrated)
    return work.predictions(work.swept(input_mean, input_var, inputs or {}))


def by_moments(
    plan: Plan,
    analysis: Analysis,
    *,
    input_mean: float | None = None,
    input_var: float | None = None,
    inputs: Callable[[], Mapping[str, tuple[float, float]]] | None = None,
    recalibrated: bool = False,
    loose: bool = False,
) -> Plan:
    """A plan with its analytic entries settled, and warnings of what a reader should know of that.

    Args:
        plan: The plan, given back as it is where no entry is analytic.
        analysis: The model.
        input_mean: The mean of every float input, 0 if not given.
        input_var: Its variance, 1 if not given.
        inputs: Measures mean and variance of each input by name; asked where neither is given.
        recalibrated: As for `analytic`.
        loose: Likewise.

    Raises:
        SchemeError: As `analytic`.
    """
    if not any(_Work.waits(e) for e in plan.entries):
        return plan
    measured = inputs() if inputs is not None and input_mean is None and input_var is None else {}
    settled, made = analytic(
        plan,
        analysis,
        input_mean=0.0 if input_mean is None else input_mean,
        input_var=1.0 if input_var is None else input_var,
        inputs=measured,
        recalibrated=recalibrated,
        loose=loose,
    )
    waiting = {e.id for e in plan.entries if _Work.waits(e)}
    return replace(settled, warnings=(*plan.warnings, *_warnings(made, waiting)))


def _warnings(made: Predictions, waiting: Collection[str]) -> Iterator[str]:
    left = [i for i in made.unreached if i in waiting]
    if left:
        yield f"analytic: no rule reaches the layers of {_some(left)}, which keep the gain of their base"
    for note in dict.fromkeys(p.note for p in made.layers if p.note and p.id in waiting):
        yield f"analytic: {_some([p.id for p in made.layers if p.note == note])}: {note}"
    if made.without_rule:
        ops = ", ".join(f"{op} ({n})" for op, n in made.without_rule)
        yield f"analytic: there is no rule for {ops}; moments were passed on as they came"
    if made.loops and waiting:
        yield "analytic: of loops one iteration is followed, from their first states"


def _some(ids: Sequence[str]) -> str:
    more = len(ids) - _SHOWN
    return ", ".join(ids[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


class _Work:
    """A plan on its way through a graph."""

    def __init__(self, plan: Plan, analysis: Analysis, recalibrated: bool, loose: bool = False):
        self._plan, self._analysis, self._recalibrated, self._loose = plan, analysis, recalibrated, loose
        self._entries = {e.id: e for e in plan.entries}
        self._scales = {k.id for k in analysis.kept if k.reason in (SCALE, ZERO_POINT)}
        self._bases: dict[str, Entry] = {}
        self._layers: dict[str, Layer] = {}
        owners: dict[str, Layer] = {}
        for weight in analysis.weights:
            entry = self._entries.get(weight.id)
            if entry is not None and self.waits(entry):
                self._bases[weight.id] = base_entry(entry, analysis)
                target = dict(entry.scheme.values)["target_std"]
                layer = owners.setdefault(entry.draws_as, Layer(target=float(target or 1.0)))
                self._layers[weight.id] = layer
            elif weight.role in SIGNAL_ROLES:
                self._layers[weight.id] = Layer()

    @staticmethod
    def waits(entry: Entry) -> bool:
        """Whether an entry waits for this pass."""
        return entry.pending and entry.scheme.name == NAME

    def swept(self, mean: float, var: float, inputs: Mapping[str, tuple[float, float]]) -> Sweep:
        graph = self._analysis.graph
        assert graph is not None, "the analysis is made by hand: it has no graph to carry moments through"
        for name, moments in (("", (mean, var)), *inputs.items()):
            if not moments[1] >= 0.0:
                of = f" of the input '{name}'" if name else ""
                raise SchemeError(f"the variance {moments[1]}{of} is negative: give a number of at least 0")

        def fed(value: Value) -> tuple[float, float]:
            return inputs.get(value.name, (mean, var))

        sweep = Sweep(
            graph,
            self._leaf,
            self._blocks,
            self._layers,
            fed,
            recalibrated=self._recalibrated,
            loose=self._loose,
            composed=self._composed(),
        )
        sweep.run()
        return sweep

    def _composed(self) -> Mapping[str, tuple[Moments, bool]]:
        """The weights whose effective weight has moments that the rules do not see; whether its gain matters."""
        following = {
            ident
            for w in self._analysis.weights
            for ident in w.follows
            if (e := self._entries.get(w.id)) is not None and e.scheme.name == REFIT
        }
        found: dict[str, tuple[Moments, bool]] = {}
        for weight in self._analysis.weights:
            entry, factor = self._bases.get(weight.id, self._entries.get(weight.id)), weight.factor
            if weight.id in following and weight.effective is not None:
                found[weight.id] = normal(0.0, weight.effective**2), False
            elif weight.id in following and weight.whole and (known := self._leaf(weight.id)) is not None:
                found[weight.id] = normal(known.mean, known.var, self._correlations(weight)), True
            elif entry is not None and entry.measured is None and factor is not None and factor.axis is not None:
                gains = entry.gain.values if isinstance(entry.gain, Vector) else (entry.gain,) * len(factor.values)
                products = tuple(g * f for g, f in zip(gains, factor.values, strict=False))
                asked = asked_moments(weight, entry.scheme, Vector(factor.axis, products))
                if asked is not None:
                    found[weight.id] = normal(asked[0], weight.live * asked[1] ** 2), True
        return found

    def _correlations(self, weight: Weight) -> tuple[float, ...]:
        """Of the elements of an effective weight, along its axes."""
        recipes = self._analysis.graph.recipes.values() if self._analysis.graph is not None else ()
        return next((r.rho for r in recipes if isinstance(r, Size) and r.of == weight.path), ())

    def _leaf(self, ident: str) -> Moments | None:
        """What a stored tensor will be; None for one that stays as it is stored."""
        weight = self._analysis.by_id.get(ident)
        if weight is None:
            return constant(1.0) if ident in self._scales else None
        entry = self._entries.get(ident)
        if weight.role in PARAMETER_ROLES or (entry is not None and entry.scheme.name == REFIT):
            return constant(1.0)
        if entry is None:
            return normal(0.0, 1.0 / max(1.0, weight.fan_in or 1.0)) if weight.quantised is not None else None
        if entry.measured is not None:
            held = array_moments(entry.measured.values)
            gain = entry.gain if isinstance(entry.gain, float) else 1.0
            return normal(gain * held.mean, gain * gain * held.var)
        drawn = self._bases.get(ident, entry)
        asked = asked_moments(sampled(drawn, self._analysis), drawn.scheme, drawn.gain)
        if asked is None:
            return normal(0.0, 1.0 / max(1.0, weight.fan_in or 1.0))
        mean, var = asked[0], asked[1] ** 2
        if weight.pattern is not None:  # all that it does not name is zero
            mean, var = weight.live * mean, weight.live * (var + (1 - weight.live) * mean**2)
        return normal(mean, var)

    def _blocks(self, ident: str) -> Mapping[str, float]:
        """The means of a weight's blocks by name."""
        weight, entry = self._analysis.by_id.get(ident), self._entries.get(ident)
        if weight is None or entry is None or entry.measured is not None or entry.pending:
            return {}
        return block_means(sampled(entry, self._analysis), entry.scheme, entry.gain)

    def settled(self, entry: Entry) -> Entry:
        """An analytic entry with its gain."""
        layer, base = self._layers[entry.id], self._bases[entry.id]
        if not layer.outputs or layer.note:
            return replace(base, why=f"{entry.why}; {layer.note or 'no rule reaches its layer'}")
        gain = _rounded(base.gain, layer.gain)
        std = asked_std(sampled(entry, self._analysis), base.scheme, gain)
        return replace(base, gain=gain, std=std, why=entry.why)

    def predictions(self, sweep: Sweep) -> Predictions:
        found: list[tuple[int, Prediction]] = []
        missing: list[str] = []
        for ident, layer in self._layers.items():
            if not layer.outputs or layer.node is None:
                missing.append(ident)
                continue
            first, *rest = layer.outputs
            found.append(
                (
                    layer.node.index,
                    Prediction(
                        ident,
                        layer.node.op,
                        layer.node.name,
                        _output(layer.node),
                        first.std,
                        first.mean,
                        tuple(m.std for m in rest),
                        layer.note,
                    ),
                )
            )
        found.sort(key=lambda pair: pair[0])
        loops = any(n.op in ("@Carry", "@Step") for n in sweep.graph.view.nodes)
        return Predictions(tuple(p for _, p in found), tuple(missing), tuple(sorted(sweep.without_rule.items())), loops)


def _rounded(gain: Gain, factor: float) -> Gain:
    """A gain times a factor."""
    if isinstance(gain, Vector):
        return Vector(gain.axis, tuple(float(f"{x * factor:.{_DIGITS}g}") for x in gain.values))
    return float(f"{gain * factor:.{_DIGITS}g}")


def _output(node: Node) -> str:
    """The name of a layer's output, "" where it is inside a subgraph or function, or the operator does more."""
    value = node.outputs[0] if node.outputs else None
    plain = node.op in LAYERS and function_within(node) is None and "Integer" not in node.op
    return value.name if value is not None and plain and not value.scope else ""
