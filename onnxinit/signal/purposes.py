"""What an input is for, as far as that decides which values it can be fed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Purpose:
    """What synthetic values an input takes.

    Attributes:
        kind: "signal" (standard normal), "ids" (integers below a bound), "positions" (0, 1, 2 ... along the last axis),
            "lengths" (the length of the sequence), "ones" (masks), "zeros" (states, additive masks).
        below: The bound of ids and positions: rows of the smallest table that they index; 0 where there is none.
        lengths: What the graph asks of each dimension that the file leaves free; None where nothing is asked.
    """

    kind: str = "signal"
    below: int = 0
    lengths: tuple[int | None, ...] = ()
