"""Scales and zero points of quantised activations, measured on calibration data.

The network runs without rounding its activations, so that no range depends on another; each is then the least and the
largest value that the data takes there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxinit.plan import Entry, Measured, Plan, entry_of, fit_plan, moves_codes
from onnxinit.schemes import Spec
from onnxinit.signal.run.engine import Engine, Feed, StepError
from onnxinit.signal.run.program import Program
from onnxinit.signal.run.ranges import Range, find_ranges, loosen
from onnxinit.signal.run.running import Running
from onnxinit.signal.run.supply import Supply
from onnxinit.values import parameters, symmetric

_SHOWN = 3
_BIAS = "which is part of the scale of a bias that stays"


def measure_ranges(
    supply: Supply, feeds: Iterable[Feed], running: Running
) -> tuple[Plan, tuple[str, ...], tuple[str, ...]]:
    """Give quantised activations the range that the data takes.

    Args:
        supply: The weights, whose layers are settled.
        feeds: The calibration data; iterated over several times.
        running: How pieces of the network are run.

    Returns:
        The plan with the scales and zero points, the ids of the scales that were measured, and what a reader should
        know of the others.
    """
    analysis, plan = supply.analysis, supply.plan
    program = Program.of(supply.file, [w.path for w in analysis.weights if w.quantised is not None])
    ranges = find_ranges(program, analysis, supply.file)
    left = dict(ranges.left)
    loosen(program, ranges.found)
    ends = _measured(program, ranges.found, supply, feeds, running, left)
    while True:
        entries = [entry for one, (low, high) in ends.items() for entry in _entries(one, low, high)]
        fitted = fit_plan(replace(plan, entries=(*plan.entries, *entries)), analysis)
        held = [one for one in ends if _holds_back(one, fitted, supply)]
        if not held:
            break
        for one in held:
            del ends[one]
            left.update((w.id, _BIAS) for w in one.scales)
    return fitted, tuple(w.id for one in ends for w in one.scales), tuple(_notes(left))


def _measured(
    program: Program,
    ranges: Sequence[Range],
    supply: Supply,
    feeds: Iterable[Feed],
    running: Running,
    left: dict[str, str],
) -> dict[Range, tuple[float, float]]:
    """The least and the largest value of each range; what cannot be run is left."""
    engine = Engine(program, supply, feeds, threads=running.threads, provider=running.provider, spill=running.spill)
    sources = {step.inputs[0]: one for one in ranges for step in one.makers}
    place = {name: maker.place if (maker := program.makers.get(name)) else -1 for name in sources}
    ends = {one: (0.0, 0.0) for one in ranges}
    engine.expect(sources)
    try:
        for name in sorted(sources, key=place.__getitem__):
            one = sources[name]
            try:
                engine.compute([name])
                for values in engine.values(name):
                    low, high = ends.get(one, (0.0, 0.0))
                    ends[one] = min(low, float(np.min(values, initial=0))), max(high, float(np.max(values, initial=0)))
            except StepError as e:
                left.update((w.id, f"behind {e.step.label}, which cannot be run: {e.reason}") for w in one.scales)
            engine.give_up(name)
    finally:
        engine.clear()
    for one, both in list(ends.items()):
        if not np.isfinite(both).all():
            left.update((w.id, "whose values are not finite") for w in one.scales)
    return {one: both for one, both in ends.items() if not any(w.id in left for w in one.scales)}


def _entries(one: Range, low: float, high: float) -> Iterator[Entry]:
    """The entries of the scales and zero points of a range."""
    low = 0.0 if one.clips else low
    high = high if one.cap is None else min(high, one.cap)
    codes = symmetric(one.ends, one.zero) if one.centred else one.ends
    stays = None if one.zeros else np.full(1, one.zero)
    scale, zero = parameters(np.full(1, low), np.full(1, high), codes, stays, one.scales[0].dtype)
    for weights, value in ((one.scales, scale), (one.zeros, zero)):
        for weight in weights:
            held = np.full(weight.size, value[0], np.float64 if weight.dtype == "double" else np.float32)
            yield entry_of(
                weight, Spec.of("measured"), "the range of an activation on the data", 1.0, measured=Measured.of(held)
            )


def _holds_back(one: Range, plan: Plan, supply: Supply) -> bool:
    """Whether a bias that is in units of the scale does not follow it."""
    drawn = {e.id: e for e in plan.entries}
    paths = {w.path for w in one.scales}
    for weight in supply.analysis.weights:
        codes = weight.quantised
        if codes is None or paths.isdisjoint(codes.factors):
            continue
        entry, own = drawn.get(weight.id), supply.weight(codes.scale)
        if entry is None or moves_codes(entry) or (codes.scale and (own is None or own.id not in drawn)):
            return True
    return False


def _notes(left: Mapping[str, str]) -> Iterator[str]:
    """What keeps its scale, by reason."""
    reasons: dict[str, list[str]] = {}
    for ident, why in left.items():
        reasons.setdefault(why, []).append(ident)
    for why, ids in reasons.items():
        more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
        yield f"{', '.join(ids[:_SHOWN])}{more} stays as it was: {why}"
