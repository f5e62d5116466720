"""What a pass over the signal found, layer by layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["set", "later use", "not converged", "dead", "missed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One use of a weight.

    Attributes:
        id: The weight.
        op: Operator type of its layer, "" where none was reached.
        node: The layer's node.
        status: "set": its output has the std that was asked for; "later use": of a weight that was set before; or why
            it is neither: "not converged", "dead" (its output is constant), "missed" (no layer was reached).
        before: Std of the layer's output with the base's weights; None where it was not measured.
        after: Std with what the weight gets.
        mean: Mean of the output, likewise.
        runs: How often the layer was run.
        note: What a reader should know, "" mostly.
    """

    id: str
    op: str = ""
    node: str = ""
    status: Status = "set"
    before: float | None = None
    after: float | None = None
    mean: float | None = None
    runs: int = 0
    note: str = ""

    @property
    def fine(self) -> bool:
        """Whether the weight got what was asked for."""
        return self.status in ("set", "later use")


@dataclass(frozen=True, slots=True)
class Signal:
    """What a pass found.

    Attributes:
        source: Where the feeds come from, "synthetic" for made-up ones.
        samples: Number of samples.
        layers: The layers in the order of execution, then the weights that none was reached for.
        norms: Ids of running statistics that were measured.
        notes: What a reader should know of the data and the run.
        seconds: How long the pass took, drawing included.
        ranges: Ids of scales of quantised activations that were measured.
    """

    source: str
    samples: int
    layers: tuple[Finding, ...]
    norms: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    ranges: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The weights that did not get what was asked for."""
        return tuple(f for f in self.layers if not f.fine)

    def to_json(self) -> dict[str, Any]:
        """The findings as a JSON object."""
        return asdict(self)
