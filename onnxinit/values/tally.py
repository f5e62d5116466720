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
    """Counts by tensor; any number of threads may give them, and a run of values that is drawn again counts once.

    Args:
        flush: Whether subnormal numbers become zeros of their sign.
    """

    def __init__(self, flush: bool = False):
        self._flush = flush
        self._runs: dict[tuple[str, str, int], _Count] = {}
        self._lock = threading.Lock()

    def rounded(self, ident: str, stored: Stored, encoded: npt.NDArray[np.generic], at: int) -> npt.NDArray[np.generic]:
        """A run of values as they are stored, subnormal ones counted, and zeros in their place where they are flushed.

        Args:
            ident: The tensor.
            stored: Its type.
            encoded: The run.
            at: Where it begins.
        """
        few = stored.subnormal(encoded)
        if few is None:
            return encoded
        with self._lock:
            self._runs[ident, stored.name, at] = _Count(encoded.size, int(np.count_nonzero(few)))
        return stored.flushed(encoded, few) if self._flush else encoded

    def coded(self, ident: str, dtype: str, at: int, values: int, cut: int, lost: int) -> None:
        """Take a run of codes of a quantised tensor whose scale stays.

        Args:
            ident: The weight.
            dtype: Its type.
            at: Where the run begins.
            values: How many there are.
            cut: How many of them lay beyond the range.
            lost: How many that are not zero have the code of zero.
        """
        with self._lock:
            self._runs[ident, dtype, at] = _Count(values, 0, cut, lost)

    def _counts(self) -> dict[tuple[str, str], _Count]:
        """What was counted of each tensor."""
        counts: dict[tuple[str, str], _Count] = {}
        for (ident, dtype, _), run in self._runs.items():
            total = counts.setdefault((ident, dtype), _Count())
            total.values += run.values
            total.subnormal += run.subnormal
            total.cut += run.cut
            total.lost += run.lost
        return counts

    def warnings(self) -> Iterator[str]:
        """What a reader should know, one line each."""
        counts = self._counts()
        subnormal = {key: c for key, c in counts.items() if c.subnormal}
        if subnormal:
            total = sum(c.subnormal for c in subnormal.values())
            kinds = ", ".join(dict.fromkeys(dtype for _, dtype in subnormal))
            done = (
                "zeros stand in their place"
                if self._flush
                else "such numbers have fewer digits and slow processors down; --flush-subnormals writes zeros instead"
            )
            yield f"{_number(total, 'value')} subnormal in {kinds}, in {_some(ident for ident, _ in subnormal)}: {done}"
        cut = {ident: c.cut / c.values for (ident, _), c in counts.items() if c.cut > _MUCH * c.values}
        if cut:
            share = max(cut.values())
            yield (
                f"the range of a scale that stays cuts off up to {share:.0%} of the values of {_some(cut)}: a smaller "
                "gain by a --rule, or a scale that is fitted, holds them"
            )
        lost = {ident: c.lost / c.values for (ident, _), c in counts.items() if c.lost > c.values / 2}
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
