"""The values of a model's stored tensors as a plan makes them, drawn when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from onnxinit.analysis import Analysis, Weight, dense, pattern_of
from onnxinit.model import Fresh, ModelFile
from onnxinit.plan import REFIT, Donors, Entry, Gain, Measured, Plan, Vector
from onnxinit.values import decoded, drawn, fresh, real_values

Array = npt.NDArray[np.generic]

_HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})


class Supply:
    """What every stored tensor holds, by its path; nothing is kept.

    A pass sets entries as it settles them: what is drawn afterwards follows them.

    Args:
        plan: What is drawn.
        analysis: What the tensors are.
        file: Where the values lie that the plan keeps, or takes its own from.
        donors: Opens the models that weights are taken from.
    """

    def __init__(self, plan: Plan, analysis: Analysis, file: ModelFile, donors: Donors | None = None):
        self.analysis = analysis
        self.file = file
        self.donors = donors or Donors()
        self._plan = plan
        self._entries = {e.id: e for e in plan.entries}
        self._shared: dict[str, list[str]] = {}
        for e in plan.entries:
            self._shared.setdefault(e.draws_as, []).append(e.id)
        planned = (w for w in analysis.aside if w.id in self._entries)
        self._by_path = {w.path: w for w in (*analysis.weights, *planned)}
        values = analysis.graph.view.values if analysis.graph is not None else ()
        self._sparse = {v.tensor: tuple(n or 0 for n in v.shape or ()) for v in values if v.where == "sparse"}
        self._followers: dict[str, list[str]] = {}
        for w in analysis.weights:
            for ident in w.follows:
                self._followers.setdefault(ident, []).append(w.id)
        self._together: Mapping[str, Fresh] | None = None  # the values of all weights, for those that follow others

    @property
    def plan(self) -> Plan:
        """The plan with the entries that were set."""
        return replace(self._plan, entries=tuple(self._entries[e.id] for e in self._plan.entries))

    def weight(self, path: str) -> Weight | None:
        """The weight at a path, None for a constant."""
        return self._by_path.get(path)

    def entry(self, path: str) -> Entry | None:
        """What the plan draws at a path, None where it keeps what is there."""
        weight = self._by_path.get(path)
        return None if weight is None else self._entries.get(weight.id)

    def set(self, entry: Entry) -> None:
        """Settle an entry; those that share its values follow."""
        for old in [self._entries[ident] for ident in self._shared[self._entries[entry.id].draws_as]]:
            same = replace(entry, id=old.id, role=old.role, shape=old.shape, draws_as=old.draws_as, turned=old.turned)
            self._entries[old.id] = same
        weight = self.analysis.by_id[entry.id]
        if weight.quantised is not None or weight.id in self._followers:
            self._together = None

    def keeps_size(self, weight: Weight) -> bool:
        """Whether a weight that the graph normalises has its size all the same, since what follows it sees to that."""
        lines = [self._entries.get(ident) for ident in self._followers.get(weight.id, ())]
        return weight.whole and all(e is not None and e.scheme.name == REFIT for e in lines)

    def array(self, path: str, run: tuple[int, int] | None = None) -> Array:
        """The values of a tensor as they are stored, or a run of them, flat; float16 and bfloat16 as float32.

        Those of a sparse tensor are the dense ones, which the graph reads.

        Raises:
            ModelError: They are kept, and not there.
        """
        stored = self.file.tensors[path]
        entry = self.entry(path)
        if entry is None:
            values = self.file.array(path)
        elif entry.scheme.name == "zeros" and self._by_path[path].quantised is None:  # most biases, many of them small
            values = np.zeros(stored.dims, helper.tensor_dtype_to_np_dtype(stored.data_type))
        else:
            values = decoded(drawn(self._values(entry, path)), stored.data_type, stored.dims)
        if path in self._sparse:
            values = dense(values, self.file.array(pattern_of(path)), self._sparse[path], self.file.label(path))
        values = values if run is None else values.reshape(-1)[run[0] : sum(run)]
        return values.astype(np.float32) if stored.data_type in _HALVES else values

    def real(self, path: str) -> Array:
        """The real values that the codes of a quantised weight stand for, float32."""
        weight = self._by_path[path]
        return real_values(weight, self.array)

    def _values(self, entry: Entry, path: str) -> Fresh:
        """What draws a tensor; some follow from others, as scales from the values of all that they are for."""
        if self._by_path[path].quantised is None and entry.scheme.name != REFIT:
            alone = replace(self._plan, entries=(entry,))
            return fresh(alone, self.analysis, self.file.array, self.donors)[path]
        if self._together is None:
            self._together = fresh(self.plan, self.analysis, self.file.array, self.donors)
        return self._together[path]


class Drawn(Supply):
    """What every stored tensor holds, each drawn once and kept: for a network that is run again and again.

    Entries are not set any more.
    """

    def __init__(self, plan: Plan, analysis: Analysis, file: ModelFile, donors: Donors | None = None):
        super().__init__(plan, analysis, file, donors)
        self._arrays: dict[str, Array] = {}

    def array(self, path: str, run: tuple[int, int] | None = None) -> Array:
        """As `Supply.array`."""
        if path not in self._arrays:
            self._arrays[path] = super().array(path)
        return self._arrays[path] if run is None else self._arrays[path].reshape(-1)[run[0] : sum(run)]


def times(gain: Gain, factor: float | Vector) -> Gain:
    """A gain multiplied by a factor, or by one for each index along an axis.

    Two vectors along different axes have no product that is a gain.
    """
    if isinstance(gain, Vector) and isinstance(factor, Vector):
        assert gain.axis == factor.axis, "gains along two axes"
        return Vector(gain.axis, tuple(a * b for a, b in zip(gain.values, factor.values, strict=True)))
    if isinstance(gain, Vector):
        return Vector(gain.axis, tuple(a * float(cast(float, factor)) for a in gain.values))
    if isinstance(factor, Vector):
        return Vector(factor.axis, tuple(gain * b for b in factor.values))
    return gain * factor


def folded(entry: Entry, weight: Weight) -> Entry:
    """An entry of measured values with its gain multiplied into them."""
    held, gain = entry.measured, entry.gain
    if held is None or gain == 1:
        return entry
    shape = weight.shape if weight.quantised is None else weight.quantised.shape
    values = held.values.astype(np.float64).reshape(shape)
    if isinstance(gain, Vector):
        lead = shape[: gain.axis + 1]
        lead = lead if len(gain.values) == math.prod(lead) else lead[-1:]
        values *= np.asarray(gain.values).reshape(*lead, *[1] * len(shape[gain.axis + 1 :]))
    else:
        values *= gain
    measured = Measured.of(values if held.dtype == "double" else values.astype(np.float32))
    return replace(entry, gain=1.0, measured=measured, std=measured.std(1.0))
