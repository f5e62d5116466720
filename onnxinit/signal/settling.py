"""Pending entries to what they mean: a plan into a plan, by the passes that look at the signal."""

from __future__ import annotations

import time
from dataclasses import replace

from onnxinit.analysis import Analysis
from onnxinit.model import ModelFile
from onnxinit.plan import REFIT, SIGNAL_ROLES, STARTS_SO, Donors, Entry, Plan, base_entry, fit_plan, sampled
from onnxinit.schemes import Spec
from onnxinit.signal.data.feeds import Feeds
from onnxinit.signal.data.inputs import model_inputs
from onnxinit.signal.data.kept_feeds import KeptFeeds
from onnxinit.signal.moments import by_moments, input_moments
from onnxinit.signal.passes.findings import Signal
from onnxinit.signal.passes.lsuv import Swept, lsuv
from onnxinit.signal.passes.ranges import measure_ranges
from onnxinit.signal.run.supply import Supply
from onnxinit.signal.told import Calibration


def settle(
    plan: Plan,
    analysis: Analysis,
    file: ModelFile,
    told: Calibration,
    donors: Donors | None = None,
    *,
    dry: bool = False,
) -> tuple[Plan, Signal | None]:
    """Let the passes say what pending entries mean: first those that follow from the graph, then those that run it.

    Args:
        plan: The plan.
        analysis: What the tensors are.
        file: The model.
        told: The data and how it is run.
        donors: The models that entries are taken from.
        dry: Whether to run nothing, so that what has to be measured stays pending.

    Returns:
        A plan without pending entries, and what was found by running; None where nothing was run.

    Raises:
        DataError: The data does not fit the model.
        SchemeError: A base cannot draw a weight.
    """
    plan = by_moments(
        plan,
        analysis,
        input_mean=told.input_mean,
        input_var=told.input_var,
        inputs=lambda: {} if told.data.data is None else input_moments(_open(plan, file, told)),
        recalibrated=bool(told.recalibrate),
        loose=bool(told.activations),
    )
    if dry or not told.wanted(plan):
        return plan, None
    started = time.perf_counter()
    asked = {e.id: e.scheme for e in plan.entries if e.pending}
    if told.calibrate:
        drawn = [e for e in plan.entries if sampled(e, analysis).role in SIGNAL_ROLES and not e.pending]
        drawn = [e for e in drawn if e.scheme.name != REFIT and e.why != STARTS_SO]
        asked |= {e.id: Spec.of("lsuv") for e in drawn if e.role in SIGNAL_ROLES}
    based = replace(plan, entries=tuple(_based(e, analysis) for e in plan.entries))
    feeds = _open(plan, file, told)
    kept = KeptFeeds(feeds)
    recalibrate = told.recalibrate if told.recalibrate is not None else bool(asked)
    swept = Swept(based, (), ())
    if asked or recalibrate:
        swept = lsuv(Supply(based, analysis, file, donors), asked, kept, told.running, recalibrate=recalibrate)
    settled, ranges, notes = fit_plan(swept.plan, analysis), tuple[str, ...](), tuple[str, ...]()
    if told.activations:
        settled, ranges, notes = measure_ranges(Supply(settled, analysis, file, donors), kept, told.running)
    settled = replace(settled, warnings=tuple(dict.fromkeys((*plan.warnings, *settled.warnings))))
    signal = Signal(
        feeds.source,
        kept.samples,
        swept.findings,
        swept.norms,
        (*feeds.notes, *swept.notes, *notes),
        time.perf_counter() - started,
        ranges,
    )
    return settled, signal


def _open(plan: Plan, file: ModelFile, told: Calibration) -> Feeds:
    return told.data.open(model_inputs(file.proto), plan.seed)


def _based(entry: Entry, analysis: Analysis) -> Entry:
    """The entry with the base's scheme in the place of a pending one."""
    return base_entry(entry, analysis) if entry.pending else entry
