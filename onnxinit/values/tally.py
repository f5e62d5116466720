"""What becomes of values that a stored type holds badly: counted while they are written, told afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxinit.values.rounding import Stored

_SHOWN = 3
_MUCH = 0.01  # share of values that are cut off, or whose code is that of zero, beyond which it is told


@dataclass(slots=True)
class _Count:
    """Values of one tensor, and how many of them were hit."""

    values: int = 0
    subnormal: int = 0
    cut: int = 0
    lost: int = 0


class Tally:
    """Counts by tensor; any number of threads may add to them.

    Args:
        flush: Whether subnormal numbers become zeros of their sign.
    """

    def __init__(self, flush: bool = False):
        self._flush = flush
        self._counts: dict[tuple[str, str], _Count] = {}
        self._lock = threading.Lock()

    def rounded(self, ident: str, stored: Stored, encoded: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Values as they are stored, subnormal ones counted, and zeros in their place where they are flushed."""
        few = stored.subnormal(encoded)
        if few is None:
            return encoded
        with self._lock:
            count = self._counts.setdefault((ident, stored.name), _Count())
            count.values += encoded.size
            count.subnormal += int(np.count_nonzero(few))
        return stored.flushed(encoded, few) if self._flush else encoded

    def coded(self, ident: str, dtype: str, values: int, cut: int, lost: int) -> None:
        """Add the codes of a quantised tensor whose scale stays.

        Args:
            ident: The weight.
            dtype: Its type.
            values: How many.
            cut: How many of them lay beyond the range.
            lost: How many that are not zero have the code of zero.
        """
        with self._lock:
            count = self._counts.setdefault((ident, dtype), _Count())
            count.values += values
            count.cut += cut
            count.lost += lost

    def warnings(self) -> Iterator[str]:
        """What a reader should know, one line each."""
        subnormal = {key: c for key, c in self._counts.items() if c.subnormal}
        if subnormal:
            total = sum(c.subnormal for c in subnormal.values())
            kinds = ", ".join(dict.fromkeys(dtype for _, dtype in subnormal))
            done = (
                "zeros stand in their place"
                if self._flush
                else "such numbers have fewer digits and slow processors down; --flush-subnormals writes zeros instead"
            )
            yield f"{_number(total, 'value')} subnormal in {kinds}, in {_some(ident for ident, _ in subnormal)}: {done}"
        cut = {ident: c.cut / c.values for (ident, _), c in self._counts.items() if c.cut > _MUCH * c.values}
        if cut:
            share = max(cut.values())
            yield (
                f"the range of a scale that stays cuts off up to {share:.0%} of the values of {_some(cut)}: a smaller "
                "gain by a --rule, or a scale that is fitted, holds them"
            )
        lost = {ident: c.lost / c.values for (ident, _), c in self._counts.items() if c.lost > c.values / 2}
        if lost:
            share = max(lost.values())
            yield (
                f"the steps of a scale that stays are so wide that up to {share:.0%} of the values of {_some(lost)} "
                "become zero: a larger gain by a --rule, or a scale that is fitted, holds them"
            )


def _number(count: int, what: str) -> str:
    return f"1 {what} is" if count == 1 else f"{count} {what}s are"


def _some(idents: Iterator[str] | dict[str, float]) -> str:
    ids = sorted(set(idents))
    more = len(ids) - _SHOWN
    return ", ".join(ids[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
