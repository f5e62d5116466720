"""What a look at the signal and at the gradient of a network found: a value, JSON one way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

FORMAT = "onnxinit.diagnosis/1"
_ROUNDING = 16  # how much more than the floor the values on the way, which are rounded too, may make of nothing

Kind = Literal["non-finite", "exploding", "vanishing", "dead", "saturated"]
Of = Literal["signal", "gradient", "units"]


@dataclass(frozen=True, slots=True)
class Gradient:
    """The mean square of the singular values of a Jacobian J, from n values of a network to its m outputs.

    A standard normal v goes to J v with E|J v|^2 = |J|_F^2, so `mean_square` = |J|_F^2 / n. A standard normal gradient
    u of the outputs goes back to J^T u with E|J^T u|^2 = |J|_F^2 too: `mean_square` is also the mean square of the
    elements of the gradient that arrives, and its growth E|J^T u|^2 / E|u|^2 is mean_square * n / m (`backward`).

    J has at most min(n, m) singular values that are not zero. Their mean square (`ranked`) is what stays 1 where a
    layer keeps all lengths but takes many values to few, so it is what layers of unlike sizes are compared by.

    Attributes:
        mean_square: |J|_F^2 / n; None where the signal or the response is not finite.
        error: The standard error over the probes.
        floor: What the rounding of the outputs alone would give: a smaller figure says no more than that.
        size: n, in one batch.
        outputs: m, likewise: the elements of all float outputs that depend on the n values.
        step: Size of the perturbation, in standard deviations of what is perturbed.
    """

    mean_square: float | None
    error: float | None
    floor: float
    size: int
    outputs: int
    step: float

    @property
    def backward(self) -> float | None:
        """E|J^T u|^2 / E|u|^2 for a standard normal gradient u of the outputs."""
        return None if self.mean_square is None else self.mean_square * self.size / self.outputs

    @property
    def ranked(self) -> float | None:
        """|J|_F^2 / min(n, m)."""
        return None if self.mean_square is None else self.mean_square * self.size / min(self.size, self.outputs)

    @property
    def least(self) -> float:
        """The least figure that is not to be taken for rounding."""
        return _ROUNDING * self.floor

    @property
    def resolved(self) -> bool:
        """Whether the figure is beyond what rounding alone gives."""
        return self.mean_square is not None and self.mean_square > self.least

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        return {
            "mean_square": self.mean_square,
            "error": self.error,
            "floor": _number(self.floor),
            "backward": self.backward,
            "size": self.size,
            "outputs": self.outputs,
            "step": self.step,
        }


@dataclass(frozen=True, slots=True)
class LayerHealth:
    """One layer, that is one use of a weight, on the data.

    Attributes:
        id: The weight.
        op: Operator type of the layer.
        node: Its node.
        std: Std of the pre-activation, the layer's output with its bias; None where it is not finite.
        mean: Its mean, likewise.
        dead: Share of the units (channels) whose values after the activation are the same on all data; None where too
            few values of a unit were seen, or its axis is not known.
        saturated: Share of the values that enter a bounded activation where it is flat; None where there is none.
        non_finite: Share of the values that are NaN or infinite, or that a float16 layer could not hold.
        activation: Operator type of the activation that `dead` and `saturated` look at, "" where there is none.
        gradient: From the layer's output to the model's; None where it was not chosen or could not be measured.
        relative: `gradient.ranked` relative to that of the last layer that has one.
        note: What a reader should know, "" mostly.
    """

    id: str
    op: str
    node: str
    std: float | None
    mean: float | None
    dead: float | None
    saturated: float | None
    non_finite: float
    activation: str = ""
    gradient: Gradient | None = None
    relative: float | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """The layer as a JSON object."""
        return {
            "id": self.id,
            "op": self.op,
            "node": self.node,
            "std": self.std,
            "mean": self.mean,
            "dead": self.dead,
            "saturated": self.saturated,
            "non_finite": self.non_finite,
            "activation": self.activation,
            "gradient": None if self.gradient is None else self.gradient.to_json(),
            "relative": None if self.relative is None else _number(self.relative),
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong.

    Attributes:
        kind: What.
        of: With what: the signal, the gradient or the units of a layer.
        id: The first layer where it turns: in the order of execution for the signal and the units, from the output down
            for the gradient.
        text: In words.
    """

    kind: Kind
    of: Of
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found.

    Attributes:
        source: Where the feeds come from, "synthetic" for made-up ones.
        samples: Number of samples.
        layers: The layers in the order of execution.
        input: From the model's input to its output; None where it could not be measured.
        start: What `input` perturbs, in words.
        troubles: What is wrong, the gravest first.
        missed: By id, why no layer of a weight was reached.
        notes: What a reader should know of the data and the run.
        seconds: How long it took.
    """

    source: str
    samples: int
    layers: tuple[LayerHealth, ...]
    input: Gradient | None
    start: str
    troubles: tuple[Trouble, ...]
    missed: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """One word: what is the gravest, "healthy", or "unknown" where no layer was reached."""
        if self.troubles:
            return self.troubles[0].kind
        return "healthy" if self.layers else "unknown"

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as a JSON object, in the format `onnxinit.diagnosis/1`."""
        return {
            "format": FORMAT,
            "data": {"source": self.source, "samples": self.samples},
            "verdict": self.verdict,
            "troubles": [{"kind": t.kind, "of": t.of, "layer": t.id, "text": t.text} for t in self.troubles],
            "input": None if self.input is None else {"from": self.start, **self.input.to_json()},
            "layers": [layer.to_json() for layer in self.layers],
            "missed": [{"id": ident, "reason": reason} for ident, reason in self.missed],
            "notes": list(self.notes),
            "seconds": self.seconds,
        }


def _number(value: float) -> float | None:
    """A number that JSON has."""
    return value if math.isfinite(value) else None
