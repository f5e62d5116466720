"""How pieces of a network are run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Running:
    """How pieces of a network are run.

    Attributes:
        threads: Threads within an operator; None for ONNX Runtime's own choice.
        provider: An execution provider; None for the processor's.
        spill: A folder for values that are held between pieces; None for memory.
        loose: Whether activations whose scales are to be measured run as real numbers.
    """

    threads: int | None = None
    provider: str | None = None
    spill: Path | None = None
    loose: bool = False


PLAIN = Running()
