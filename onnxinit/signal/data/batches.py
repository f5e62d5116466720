"""Samples to batches, whatever the pieces are that they come in, without holding more than a batch.

Axis 0 holds the samples. Where the model leaves it free, batches have the length asked for; where the model fixes it,
batches are made to fit. Three kinds of inputs are handed to every batch whole: single numbers, those of a fixed first
dimension that hold one batch of it while the others hold another number of samples, and all of them where axis 0 is no
batch (its symbol is the length of another axis too, or the inputs have different numbers of samples by right).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxinit.errors import DataError
from onnxinit.signal.data.checks import check_values
from onnxinit.signal.data.inputs import Input
from onnxinit.signal.data.pieces import Feed, Piece

DEFAULT = 32
"""Samples a batch where neither the user nor the files say it."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How a piece is cut.

    Attributes:
        rows: For the inputs that are cut, the rows of axis 0 that make one sample.
        samples: The samples that the piece holds.
        fixed: Samples a batch where the model fixes them; 0 where they are free.
        whole: Why it cannot be cut at all; "" where it can.
        shared: Whether an array goes to every batch whole.
    """

    rows: Mapping[str, int]
    samples: int
    fixed: int = 0
    whole: str = ""
    shared: bool = False


def plan_cut(piece: Piece, inputs: Sequence[Input]) -> Cut:
    """How a piece is cut into samples.

    Raises:
        DataError: Its inputs do not hold the same number of samples.
    """
    counts = {i.name: piece.heads[i.name].shape[0] for i in inputs if piece.heads[i.name].shape}
    free = {i.name: counts[i.name] for i in inputs if i.name in counts and i.batch is None}
    fixed = {i.name: i.batch for i in inputs if i.name in counts and i.batch is not None}
    why = _no_batch(inputs, free)
    if why or not counts:
        return Cut({}, 1, whole=why or "the model takes single numbers")
    if not free:
        return _all_fixed(piece, inputs, counts, fixed)
    n = next(iter(free.values()))
    if any(m != n for m in free.values()):
        raise _unequal(piece.label, inputs, free)
    shared = {k for k, d in fixed.items() if counts[k] == d != n}
    joined = {k: d for k, d in fixed.items() if k not in shared}
    if any(counts[k] != n for k in joined):
        raise _unequal(piece.label, inputs, counts)
    if len(set(joined.values())) > 1:
        return Cut({}, 1, whole="its inputs have different fixed batches")
    return Cut(
        dict.fromkeys([*free, *joined], 1),
        n,
        fixed=next(iter(joined.values()), 0),
        shared=any(np.prod(piece.heads[k].shape) > 1 for k in shared),
    )


def _no_batch(inputs: Sequence[Input], free: Mapping[str, int]) -> str:
    inner = {d for i in inputs for d in (i.dims or ())[1:] if isinstance(d, str)}
    first = [i.dims[0] for i in inputs if i.name in free and i.dims]
    for d in first:
        if d in inner:
            return f"{d!r} is the length of another axis too"
    if len(set(free.values())) > 1 and None not in first and len(set(first)) > 1:
        return f"{first[0]!r} and {next(d for d in first if d != first[0])!r} differ"
    return ""


def _all_fixed(piece: Piece, inputs: Sequence[Input], counts: Mapping[str, int], fixed: Mapping[str, int]) -> Cut:
    if len(set(fixed.values())) == 1:
        if len(set(counts.values())) > 1:
            raise _unequal(piece.label, inputs, counts)
        return Cut(dict.fromkeys(fixed, 1), next(iter(counts.values())), fixed=next(iter(fixed.values())))
    batches = {k: counts[k] / d if d else 1.0 for k, d in fixed.items()}
    if len(set(batches.values())) > 1 or not all(b.is_integer() for b in batches.values()):
        raise _unequal(piece.label, inputs, counts)
    return Cut(dict(fixed), int(next(iter(batches.values()))), fixed=1)


def _unequal(label: str, inputs: Sequence[Input], counts: Mapping[str, int]) -> DataError:
    has = ", ".join(f"{counts[i.name]} for {i}" for i in inputs if i.name in counts)
    return DataError(f"{label}: the inputs have different numbers of samples (axis 0): {has}")


@dataclass(slots=True)
class _Held:
    """Samples that wait until they fill a batch."""

    cut: Cut = field(default_factory=lambda: Cut({}, 0))
    parts: list[Feed] = field(default_factory=list)
    samples: int = 0

    def takes(self, cut: Cut, part: Feed) -> bool:
        """Whether a part goes into one batch with those that are held."""
        first = self.parts[0]
        return self.cut.rows == cut.rows and all(
            first[k].shape[1:] == a.shape[1:] if k in cut.rows else np.array_equal(first[k], a) for k, a in part.items()
        )

    def add(self, cut: Cut, part: Feed, samples: int) -> None:
        self.cut = cut
        self.parts.append(part)
        self.samples += samples

    def take(self) -> Iterator[Feed]:
        """What is held as one batch; nothing where it does not fill one that the model fixes."""
        parts, full = self.parts, self.samples >= self.cut.fixed
        self.parts, self.samples = [], 0
        if parts and full:
            yield {
                k: np.concatenate([p[k] for p in parts]) if k in self.cut.rows and len(parts) > 1 else a
                for k, a in parts[0].items()
            }


def batches(
    pieces: Iterable[Piece], inputs: Sequence[Input], size: int | None, samples: int | None, batched: bool
) -> Iterator[Feed]:
    """Feeds from pieces.

    Args:
        pieces: With heads that fit.
        inputs: The model's.
        size: Samples a batch, where the model leaves it free.
        samples: Stop after so many.
        batched: Without a `size`, whether every piece is a feed as it is.

    Yields:
        Feeds whose values are checked and in the model's types. The last batch may be shorter where the model leaves
        the batch free; where it is fixed, samples that do not fill one are left out.

    Raises:
        DataError: The values do not fit.
    """
    held = _Held()
    left = math.inf if samples is None else samples
    for piece in pieces:
        cut, arrays = plan_cut(piece, inputs), piece.load()
        stop = int(min(cut.samples, left))
        left -= stop
        step = step_of(cut, size, batched)
        at = 0
        while at < stop:
            end = min(stop, at + step - held.samples)
            raw = {k: a[at * cut.rows[k] : end * cut.rows[k]] if k in cut.rows else a for k, a in arrays.items()}
            part = check_values(raw, inputs, piece.label)
            if held.parts and not held.takes(cut, part):
                yield from held.take()
                continue
            held.add(cut, part, end - at)
            at = end
            if held.samples >= step:
                yield from held.take()
        if left <= 0:
            break
    yield from held.take()


def step_of(cut: Cut, size: int | None, batched: bool) -> int:
    """The samples of a batch."""
    if cut.whole or (size is None and not cut.fixed and (batched or cut.shared)):
        return max(1, cut.samples)
    return cut.fixed or size or DEFAULT
