"""Pending entries to what they mean: a plan into a plan, by the passes that look at the signal."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from onnxinit.analysis import Analysis
from onnxinit.model import ModelFile
from onnxinit.plan import SIGNAL_ROLES, Donors, Entry, Plan, base_entry, fit_plan
from onnxinit.schemes import Spec
from onnxinit.signal.data.feeds import DataOptions
from onnxinit.signal.data.inputs import model_inputs
from onnxinit.signal.data.kept_feeds import KeptFeeds
from onnxinit.signal.passes.findings import Signal
from onnxinit.signal.passes.lsuv import lsuv
from onnxinit.signal.run.supply import Supply
from onnxinit.signal.run.walk import PLAIN, Running


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the passes are told.

    Attributes:
        data: The calibration data.
        calibrate: Whether every weight that is drawn is scaled by LSUV, whatever its scheme.
        recalibrate: Whether running statistics are measured; None for where LSUV scales.
        running: How pieces of the network are run.
    """

    data: DataOptions = field(default_factory=DataOptions)
    calibrate: bool = False
    recalibrate: bool | None = None
    running: Running = PLAIN

    def wanted(self, plan: Plan) -> bool:
        """Whether a plan needs any pass."""
        return self.calibrate or bool(self.recalibrate) or any(e.pending for e in plan.entries)


def settle(
    plan: Plan, analysis: Analysis, file: ModelFile, told: Calibration, donors: Donors | None = None
) -> tuple[Plan, Signal | None]:
    """Let the passes say what pending entries mean.

    Args:
        plan: The plan.
        analysis: What the tensors are.
        file: The model.
        told: The data and how it is run.
        donors: The models that entries are taken from.

    Returns:
        A plan without pending entries, and what was found; the plan as it is, and None, where nothing was to do.

    Raises:
        DataError: The data does not fit the model.
        SchemeError: A base cannot draw a weight.
    """
    if not told.wanted(plan):
        return plan, None
    started = time.perf_counter()
    asked = {e.id: e.scheme for e in plan.entries if e.pending}
    if told.calibrate:
        asked |= {e.id: Spec.of("lsuv") for e in plan.entries if e.role in SIGNAL_ROLES and not e.pending}
    based = replace(plan, entries=tuple(_based(e, analysis) for e in plan.entries))
    feeds = told.data.open(model_inputs(file.proto), plan.seed)
    kept = KeptFeeds(feeds)
    recalibrate = told.recalibrate if told.recalibrate is not None else bool(asked)
    swept = lsuv(Supply(based, analysis, file, donors), asked, kept, told.running, recalibrate=recalibrate)
    settled = fit_plan(swept.plan, analysis)
    settled = replace(settled, warnings=tuple(dict.fromkeys((*plan.warnings, *settled.warnings))))
    signal = Signal(
        feeds.source,
        kept.samples,
        swept.findings,
        swept.norms,
        (*feeds.notes, *swept.notes),
        time.perf_counter() - started,
    )
    return settled, signal


def _based(entry: Entry, analysis: Analysis) -> Entry:
    """The entry with the base's scheme in the place of a pending one."""
    return base_entry(entry, analysis) if entry.pending else entry
