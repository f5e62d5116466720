"""What a user says of passes over the signal."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

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
    """

    data: DataOptions = field(default_factory=DataOptions)
    calibrate: bool = False
    recalibrate: bool | None = None
    input_mean: float | None = None
    input_var: float | None = None
    running: Running = PLAIN

    def wanted(self, plan: Plan) -> bool:
        """Whether a plan needs any pass."""
        return self.calibrate or bool(self.recalibrate) or any(e.pending for e in plan.entries)

    def opened(self, file: ModelFile) -> Calibration:
        """The same with its data open, so that a generator, which gives its feeds once, serves several passes."""
        from onnxinit.signal.data.inputs import model_inputs

        return replace(self, data=replace(self.data, data=self.data.open(model_inputs(file.proto))))

    def given(self) -> dict[str, object]:
        """What was given besides the data, by the names of `reinit`'s arguments, as JSON values."""
        named = {
            "calibrate": self.calibrate or None,
            "recalibrate_norm": self.recalibrate,
            "input_mean": self.input_mean,
            "input_var": self.input_var,
        }
        return {k: v for k, v in named.items() if v is not None}
