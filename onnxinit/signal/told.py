"""What a user says of passes over the signal."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from onnxinit.analysis import Analysis
from onnxinit.errors import SchemeError
from onnxinit.model import ModelFile
from onnxinit.plan import Plan
from onnxinit.signal.data.options import DataOptions
from onnxinit.signal.run.running import PLAIN, Running


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the passes are told.

    Attributes:
        data: The calibration data.
        calibrate: Whether every weight that is drawn is scaled by LSUV, whatever its scheme.
        recalibrate: Whether running statistics are measured; None for where LSUV scales.
        input_mean: The mean of every float input, for moments carried by rule; None for that of the data, or 0.
        input_var: Its variance; None for that of the data, or 1.
        running: How pieces of the network are run.
        activations: Whether scales of quantised activations are measured; None for where data is given.
    """

    data: DataOptions = field(default_factory=DataOptions)
    calibrate: bool = False
    recalibrate: bool | None = None
    input_mean: float | None = None
    input_var: float | None = None
    running: Running = PLAIN
    activations: bool | None = None

    def wanted(self, plan: Plan) -> bool:
        """Whether a plan needs any pass."""
        measures = self.calibrate or bool(self.recalibrate) or bool(self.activations)
        return measures or any(e.pending for e in plan.entries)

    def with_activations(self, analysis: Analysis, *, planned: bool, kept: bool) -> Calibration:
        """The same with the choice made whether scales of activations are measured.

        Args:
            analysis: The model, which may have none.
            planned: Whether a plan says what is written.
            kept: Whether scales stay by request.

        Raises:
            SchemeError: They shall be measured and stay.
        """
        if self.activations and kept:
            raise SchemeError("--keep-scales leaves what --recalibrate-activations measures: give one of them")
        chosen = self.activations
        if chosen is None:
            chosen = self.data.data is not None and not planned and not kept
        chosen = chosen and any(w.role == "quant_scale" for w in analysis.aside)
        return replace(self, activations=chosen, running=replace(self.running, loose=chosen))

    def opened(self, file: ModelFile) -> Calibration:
        """The same with its data open, so that a generator, which gives its feeds once, serves several passes."""
        from onnxinit.signal.data.inputs import model_inputs

        return replace(self, data=replace(self.data, data=self.data.open(model_inputs(file.proto))))

    def given(self) -> dict[str, object]:
        """What was given besides the data, by the names of `reinit`'s arguments, as JSON values."""
        named = {
            "calibrate": self.calibrate or None,
            "recalibrate_norm": self.recalibrate,
            "recalibrate_activations": self.activations,
            "input_mean": self.input_mean,
            "input_var": self.input_var,
        }
        return {k: v for k, v in named.items() if v is not None}
