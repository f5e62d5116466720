"""What a reader should know of a plan before using its result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from onnxinit.analysis.weight import Analysis, Weight
from onnxinit.plan.defaults import AUTO, SIGNAL_ROLES, STARTS_SO
from onnxinit.plan.donors import NO_DONOR
from onnxinit.plan.plan import Entry, Left, Plan, Vector
from onnxinit.plan.steady import DEEP, STEADY

INSTEAD = "; orthogonal in place of delta_orthogonal, since it has fewer outputs than inputs"
KEPT_POSITIVE = "; shuffle in its place, since a variance is never negative"

_KERNELS = frozenset({"weight", "input_weight", "recurrent_weight", "embedding"})
_SHOWN = 3


def advise(entries: Sequence[Entry], kept: Iterable[Left], held: Iterable[str]) -> Iterator[str]:
    """The warnings of a plan, each one line with the count and the first few ids.

    Args:
        entries: What is rewritten.
        kept: What is not.
        held: Ids of quantised weights whose scales stay.
    """
    alike = [e.id for e in entries if e.role in _KERNELS and _alike(e) and e.why != STARTS_SO]
    if alike:
        yield (
            f"{_count(alike)} the same value everywhere, so that training cannot tell the units apart: {_some(alike)}; "
            "take a random scheme, or zeros for the last layer of a branch alone"
        )
    replaced = [e.id for e in entries if e.why.endswith(INSTEAD)]
    if replaced:
        yield (
            f"{_count(replaced)} fewer outputs than inputs and cannot be delta_orthogonal, so orthogonal draws them: "
            f"{_some(replaced)}"
        )
    alone = [e.id for e in entries if e.why.startswith(NO_DONOR)]
    if alone:
        yield f"{_count(alone)} no donor, and a scheme draws in its place: {_some(alone)}"
    steady = [e.id for e in entries if e.why.endswith(STEADY)]
    if steady:
        yield (
            f"{_count(steady)} the std that keeps the variance in place of sparse's 1, which grows through many layers "
            f"without norms: {_some(steady)}; sparse:std=1 is the published one"
        )
    other = [e.id for e in entries if e.role == "other" and e.scheme.name != "refit"]
    if other:
        yield f"{_count(other)} a purpose that the graph does not tell: {_some(other)}; --exclude role:other keeps them"
    narrow = list(held)
    if narrow:
        weights = "weight is" if len(narrow) == 1 else "weights are"
        yield (
            f"{len(narrow)} quantised {weights} drawn within the range of scales that stay, which cuts off what lies "
            f"beyond it: {_some(narrow)}"
        )
    quantised = [
        left.id for left in kept if left.reason.startswith("a quantised ") or "quantised values, which" in left.reason
    ]
    if quantised:
        tensors = "tensor holds" if len(quantised) == 1 else "tensors hold"
        yield f"{len(quantised)} {tensors} quantised values and stay as training made them: {_some(quantised)}"


def on_folded(plan: Plan, analysis: Analysis) -> Iterator[str]:
    """The warning that a deep network whose batch norms were folded away gets a scheme that does not make up for them.

    Schemes that look at the whole network do: lsuv, analytic and what is learned from data, auto by the analytic gains;
    so does a gain that is not the scheme's own. What is taken from old values has their moments.

    Args:
        plan: The plan before any pass settles what is pending.
        analysis: The model.
    """
    if not analysis.folded:
        return
    blind = [(e, analysis.by_id[e.id]) for e in plan.entries if e.role in SIGNAL_ROLES]
    blind = [(e, w) for e, w in blind if _blind(e, w)]
    deep = len({w.depth for _, w in blind})
    if deep >= DEEP:
        names = ", ".join(dict.fromkeys(e.scheme.name for e, _ in blind))
        yield (
            "every convolution has a bias and there is no norm, as where batch norms were folded away: nothing "
            f"corrects what {names} makes of the variance over {deep} layers; auto, analytic and lsuv keep it"
        )


def _blind(entry: Entry, weight: Weight) -> bool:
    """Whether an entry is drawn by the weight alone, whatever the network."""
    known = entry.pending or entry.measured is not None or entry.scheme.scheme.origin or not entry.std
    if known or entry.why.startswith(AUTO) or entry.why.endswith(STEADY) or isinstance(entry.gain, Vector):
        return False
    return math.isclose(entry.gain, entry.scheme.paper_gain(weight.downstream), rel_tol=1e-9)


def stale(plan: Plan, analysis: Analysis) -> Iterator[str]:
    """A warning of quantised activations whose ranges are those of the old weights, unless they stay by request.

    Args:
        plan: What is written.
        analysis: What the tensors are.
    """
    written = {e.id for e in plan.entries}
    of_weights = {w.codes.scale for w in analysis.weights if w.codes is not None}
    asked = plan.arguments.get("keep_scales") or plan.arguments.get("recalibrate_activations") is False
    ids = [w.id for w in analysis.aside if w.role == "quant_scale" and w.id not in written and w.path not in of_weights]
    if ids and not asked and any(e.role in _KERNELS for e in plan.entries):
        scales = "scale of quantised activations stays" if len(ids) == 1 else "scales of quantised activations stay"
        yield f"{len(ids)} {scales} as calibrated for the old weights, {_some(ids)}: --data measures the new ranges"


def _alike(entry: Entry) -> bool:
    return entry.scheme.scheme.symmetric or entry.std == 0 or entry.gain == 0


def _count(ids: Sequence[str]) -> str:
    return "1 weight has" if len(ids) == 1 else f"{len(ids)} weights have"


def _some(ids: Sequence[str]) -> str:
    more = len(ids) - _SHOWN
    return ", ".join(ids[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
