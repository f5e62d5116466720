"""A plan from elsewhere, fitted to a model."""

from __future__ import annotations

import math
from dataclasses import replace

from onnxinit.analysis.weight import PARAMETER_ROLES, Analysis, Weight
from onnxinit.errors import SchemeError
from onnxinit.plan.advice import advise
from onnxinit.plan.blocks import label, sampled
from onnxinit.plan.make import entry_of
from onnxinit.plan.plan import Entry, Left, Plan, Vector
from onnxinit.plan.refit import REFIT, follows, held_to_old_scales, with_fitted
from onnxinit.sampling import STREAM


def fit_plan(plan: Plan, analysis: Analysis) -> Plan:
    """The plan for a model: every entry with its weight, in file order; weights that the plan does not name are kept.

    Args:
        plan: The plan, perhaps made for another file of the same model.
        analysis: The model that it is for.

    Raises:
        SchemeError: The plan names a weight that the model lacks or that has another shape there, a gain does not fit
            its weight, or the random streams are of a version that this package does not draw.
    """
    if plan.stream != STREAM:
        raise SchemeError(
            f"the plan is for random streams of version {plan.stream} and this package draws version {STREAM}: "
            "use the version of onnxinit that made the plan"
        )
    named = {e.id: e for e in plan.entries}
    for entry in plan.entries:
        if entry.id not in analysis.by_id:
            raise SchemeError(f"the plan names '{entry.id}', which the model lacks: make a plan for this model")
    reasons = {k.id: k.reason for k in plan.kept}
    left = {w.id: Left(w.id, reasons.get(w.id, "the plan does not name it")) for w in analysis.weights}
    fitted = {w.id for w in analysis.weights if follows(w) and _is_refit(w, named.get(w.id))}
    made = {
        w.id: _fit(named[w.id], w, analysis) if w.id in named else left[w.id]
        for w in analysis.weights
        if w.id not in fitted
    }
    planned = {ident: _checked(named[ident], analysis.by_id[ident]) for ident in fitted & named.keys()}
    aside = [_fit_aside(named[w.id], w, analysis) for w in analysis.aside if w.id in named]
    measured = {analysis.by_id[e.id].path for e in aside}
    lines = with_fitted(analysis, made, {ident: left[ident] for ident in fitted - named.keys()}, planned, measured)
    entries = (*(line for line in lines if isinstance(line, Entry)), *aside)
    others = (Left(k.id, k.reason) for k in analysis.kept if k.path not in measured)
    kept = (*(line for line in lines if isinstance(line, Left)), *others)
    warnings = tuple(advise(entries, kept, held_to_old_scales(analysis, entries)))
    return replace(plan, entries=entries, kept=kept, warnings=warnings)


def _fit_aside(entry: Entry, weight: Weight, analysis: Analysis) -> Entry:
    """An entry of a scale or zero point of activations, which holds what it gets."""
    if entry.measured is None:
        raise SchemeError(f"the plan draws {label(weight)}, which gets values that were measured, or stays")
    return _fit(entry, weight, analysis)


def _checked(entry: Entry, weight: Weight) -> Entry:
    """An entry of a scale or zero point."""
    if isinstance(entry.gain, Vector) or not (math.isfinite(entry.gain) and entry.gain > 0):
        raise SchemeError(f"the plan's gain of {label(weight)} must be one number above 0, finite")
    return entry


def _is_refit(weight: Weight, entry: Entry | None) -> bool:
    """Whether a tensor that can follow from weights does in a plan."""
    return weight.role in PARAMETER_ROLES or entry is None or entry.scheme.name == REFIT


def _fit(entry: Entry, weight: Weight, analysis: Analysis) -> Entry:
    if entry.shape != weight.shape:
        raise SchemeError(
            f"the plan has '{entry.id}' with the shape {list(entry.shape)}, where the model has {label(weight)}: "
            "make a plan for this model"
        )
    owner = sampled(entry, analysis)
    if entry.turned and owner is weight:
        raise SchemeError(
            f"the plan has '{entry.id}' hold '{entry.draws_as}' transposed, which does not fit {label(weight)}: make a "
            "plan for this model"
        )
    vector = entry.gain if isinstance(entry.gain, Vector) else None
    if vector and not vector.fits(owner.shape if owner.quantised is None else owner.quantised.shape):
        raise SchemeError(
            f"the plan's gain of '{entry.id}' has {len(vector.values)} values for axis {vector.axis}, "
            f"which does not fit {label(weight)}"
        )
    gains = entry.gain.values if isinstance(entry.gain, Vector) else (entry.gain,)
    if not all(math.isfinite(g) and g >= 0 for g in gains):
        raise SchemeError(f"the plan's gain of '{entry.id}' must be finite and at least 0")
    values = weight.size if weight.quantised is None else math.prod(weight.quantised.shape)
    if entry.measured is not None and entry.measured.values.size != values:
        raise SchemeError(
            f"the plan has {entry.measured.values.size} measured values of '{entry.id}', which do not fit "
            f"{label(weight)}: make a plan for this model"
        )
    if entry.measured is None and entry.scheme.planned:
        raise SchemeError(f"the plan's scheme of '{entry.id}' is {entry.scheme}: a plan names what draws it")
    made = entry_of(owner, entry.scheme, entry.why, entry.gain, entry.draws_as, entry.measured)
    return replace(made, id=weight.id, role=weight.role, shape=weight.shape, turned=entry.turned)
