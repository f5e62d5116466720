"""A plan's entries to bytes: chunk by chunk in stored order, or, for structured schemes, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from onnxinit.analysis.weight import PARAMETER_ROLES, Analysis, Part, Weight
from onnxinit.errors import ModelError, SchemeError
from onnxinit.model import Chunk, Fresh
from onnxinit.plan import (
    REFIT,
    Donors,
    Entry,
    Measured,
    Plan,
    Vector,
    block_of,
    label,
    moves_codes,
    parts_of,
    sampled,
    work_type,
)
from onnxinit.sampling import CHUNK, stream, weight_key
from onnxinit.schemes import Block
from onnxinit.values.codes import Read, real_weight
from onnxinit.values.following import Following
from onnxinit.values.laws import Along, Law, law_of
from onnxinit.values.picked import Picked
from onnxinit.values.quantise import Encoded, Fitting, fitted, given
from onnxinit.values.rounding import STORED, Floats, Stored
from onnxinit.values.sources import Moved, Source
from onnxinit.values.tally import Tally
from onnxinit.values.turned import Turned

Bytes = npt.NDArray[np.uint8]


def fresh(
    plan: Plan,
    analysis: Analysis,
    read: Read | None = None,
    donors: Donors | None = None,
    tally: Tally | None = None,
) -> dict[str, Fresh]:
    """The fresh values of every tensor that the plan rewrites, by the tensor's path; drawn when they are asked for.

    A tensor that is drawn as another one of the plan gets the very bytes of that one, or its values transposed.

    Args:
        plan: What is drawn.
        analysis: What the tensors are.
        read: The values of a stored tensor by its path, for quantised weights whose scales or zero points stay, and for
            schemes that take a tensor's own values.
        donors: Opens the models that weights are taken from.
        tally: Counts what the types hold badly.

    Raises:
        ModelError: A weight is of a type that is not drawn, or a donor cannot be read.
        SchemeError: A donor lacks the weight that the plan names, or it cannot give the values.
    """
    read, donors, tally = read or _nothing, donors or Donors(), tally or Tally(plan.flush_subnormals)
    own: dict[str, Fresh] = {}
    reals: dict[str, Fresh] = {}
    for e in plan.entries:
        weight = sampled(e, analysis)
        if weight.pattern is not None and e.scheme.scheme.origin == "own":  # as they are stored, among themselves
            weight = replace(weight, shape=(weight.stored,), layout=None, pattern=None)
        if e.measured is not None and weight.role in PARAMETER_ROLES:
            own[e.id] = given(weight, e.measured)
        elif moves_codes(e):
            own[e.id] = Moved(weight, e, weight_key(plan.seed, e.draws_as), read)
        elif weight.quantised is not None:
            reals[e.id] = _values(plan, e, weight, read, donors)
        elif e.scheme.name != REFIT:
            values = replace(_values(plan, e, weight, read, donors), tally=tally)
            if weight.paired is not None:
                reals[e.id] = replace(values, tally=None)
            own[e.id] = values if weight.pattern is None else Picked(weight, weight.pattern, values, read)
    fitting = Fitting(plan, analysis, reals, read)
    coded = {ident: real for ident, real in reals.items() if analysis.by_id[ident].quantised is not None}
    own |= {ident: Encoded(analysis.by_id[ident], real, fitting, tally) for ident, real in coded.items()}
    made: dict[str, Fresh] = {}
    for weight in (analysis.by_id[e.id] for e in plan.entries if e.scheme.name == REFIT):
        own[weight.id] = _following(weight, analysis, made, read) if weight.follows else fitted(weight, fitting)
    for e in plan.entries:
        drawn = own.get(e.draws_as, own[e.id])
        made[analysis.by_id[e.id].path] = Turned(drawn, e.shape) if e.turned else drawn
    return made


def _following(weight: Weight, analysis: Analysis, made: Mapping[str, Fresh], read: Read) -> Following:
    assert analysis.graph is not None, "the analysis is made by hand: it has no graph that says what follows"
    return Following(weight, analysis.graph.recipes[weight.path], analysis, made, read)


def _nothing(path: str, run: tuple[int, int] | None = None) -> npt.NDArray[np.generic]:
    raise ModelError(f"{path}: the values that it has are needed: give what reads them")


def _values(plan: Plan, entry: Entry, stored: Weight, read: Read, donors: Donors) -> Values:
    weight = stored if stored.quantised is None else real_weight(stored)
    if weight.dtype not in STORED:
        raise ModelError(f"{label(weight)} is not drawn: keep it with --exclude, or convert it to {', '.join(STORED)}")
    source = None
    if entry.measured is None and entry.scheme.scheme.origin == "own":
        source = Source(weight, stored, read)
    elif entry.measured is None and entry.scheme.scheme.origin == "model":
        donor, held, pairing = donors.give(stored, entry.scheme)
        source = Source(weight, held, donor.file.array, pairing)
    return Values(weight, entry, weight_key(plan.seed, entry.draws_as), source)


@dataclass(frozen=True, slots=True)
class Values:
    """The fresh values of one tensor: `gain * sample`, rounded once to the stored type.

    Attributes:
        weight: The tensor and its layout.
        entry: What draws it.
        key: The key of its streams: one for each chunk of an independent scheme, for each block of a structured one.
        source: Where a scheme that draws from a tensor takes its values.
        tally: Counts subnormal numbers, or puts zeros in their place; None for values on the way to codes.
    """

    weight: Weight
    entry: Entry
    key: bytes
    source: Source | None = None
    tally: Tally | None = None

    @property
    def nbytes(self) -> int:
        """Size as raw little-endian bytes."""
        return self.weight.size * self._stored.itemsize

    @property
    def _stored(self) -> Stored:
        return STORED[self.weight.dtype]

    def chunks(self) -> Iterator[Chunk]:
        """Jobs that draw the values, each for a range of the tensor's bytes. They can run in any order, in any thread.

        Raises (when a job runs):
            ModelError: A value is beyond what the stored type holds.
            SchemeError: The scheme cannot draw a block of this shape.
        """
        if not self.weight.size:
            return
        if self.entry.measured is not None:
            for at in range(0, self.weight.size, CHUNK):
                yield self._job(at, min(CHUNK, self.weight.size - at), partial(self._measured, self.entry.measured, at))
        elif self.source is not None and self.entry.scheme.piece == "chunk":
            for at in range(0, self.weight.size, CHUNK):
                yield self._job(at, min(CHUNK, self.weight.size - at), partial(self._chunk_of, self.source, at))
        elif self.source is not None:
            yield self._job(0, self.weight.size, partial(self._all_blocks, self.source))
        elif not self.entry.scheme.structured:
            law = law_of(self.weight, self.entry)
            for at in range(0, self.weight.size, CHUNK):
                yield self._job(at, min(CHUNK, self.weight.size - at), partial(self._independent, law, at))
        elif (run := _contiguous(self.weight, self.entry)) is not None:
            each = self.weight.size // run.blocks
            step = max(1, CHUNK // each)
            for first in range(0, run.blocks, step):
                count = min(step, run.blocks - first)
                yield self._job(first * each, count * each, partial(self._run_of_blocks, run, first, count))
        else:
            yield self._job(0, self.weight.size, partial(self._all_blocks, None))

    def _job(self, at: int, count: int, draw: Callable[[int], Floats]) -> Chunk:
        size = self._stored.itemsize
        return Chunk(at * size, count * size, partial(self._encoded, draw, count))

    def _encoded(self, draw: Callable[[int], Floats], count: int) -> Bytes:
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # looked for in the result
                encoded = self._stored.encode(draw(count)).reshape(-1)
            if self.tally is not None:
                encoded = self.tally.rounded(self.weight.id, self._stored, encoded)
            return encoded.view(np.uint8)
        except OverflowError as e:
            raise ModelError(
                f"{label(self.weight)} cannot hold the {e.args[0]:g} that {self.entry.scheme} draws, its type ends at "
                f"{self._stored.largest:g}: give it a smaller scale by a --rule, or keep it with --exclude"
            ) from None
        except SchemeError as e:
            raise SchemeError(f"{label(self.weight)} cannot be drawn by {self.entry.scheme}: {e}") from None

    def _independent(self, law: Law, at: int, count: int) -> Floats:
        out = np.empty(count, self._stored.work)
        law.sample(stream(self.key, at // CHUNK), at, out)
        return out

    def _measured(self, held: Measured, at: int, count: int) -> Floats:
        return self._gained(held.values[at : at + count].astype(self._stored.work), at)

    def _gained(self, out: Floats, at: int) -> Floats:
        """A run of the stored order from element `at` on, multiplied by the gain in place."""
        gain = self.entry.gain
        each = Along.axis(gain.values, gain.axis, self.weight.shape).of(at, out) if isinstance(gain, Vector) else gain
        return np.multiply(out, each, out=out)

    def _chunk_of(self, source: Source, at: int, count: int) -> Floats:
        block = Block((count,), dtype=np.dtype(self._stored.work), moments=source.moments)
        drawn = self.entry.scheme.draw_from(block, stream(self.key, at // CHUNK), source.run(at, count))
        return self._gained(drawn.astype(block.dtype), at)

    def _block(self, part: Part | None, index: int, number: int, old: Floats | None = None) -> Floats:
        """One block at the entry's gain, unless that is a vector: (out, in, *kernel)."""
        block, bits, scheme = block_of(self.weight, part, index), stream(self.key, number), self.entry.scheme
        drawn = scheme.draw(block, bits) if old is None else scheme.draw_from(block, bits, old).astype(block.dtype)
        return drawn if isinstance(self.entry.gain, Vector) else drawn * drawn.dtype.type(self.entry.gain)

    def _run_of_blocks(self, run: Part, first: int, count: int, _: int) -> Floats:
        one = _one_block(run)
        out = np.empty((count, *one.shape), self._stored.work)
        for i in range(count):
            one.from_canonical(self._block(run, first + i, first + i)[None], out[i])
        return out

    def _all_blocks(self, source: Source | None, _: int) -> Floats:
        out = np.empty(self.weight.shape, self._stored.work)
        old = source.pieces(self.entry.scheme.piece) if source is not None else []
        if self.weight.layout is None or self.entry.scheme.piece == "tensor":
            out[...] = self._block(None, 0, 0, *old)
        else:
            number = 0
            for part in parts_of(self.weight):
                numbers = range(number, number + part.blocks)
                blocks = [self._block(part, i, n, *old[n : n + 1]) for i, n in enumerate(numbers)]
                part.from_canonical(np.stack(blocks), out)
                number += part.blocks
        return out if not isinstance(self.entry.gain, Vector) else out * _along(self.entry.gain, self.weight)


def _along(gain: Vector, weight: Weight) -> Floats:
    """A vector so that it multiplies along its axes of the stored tensor."""
    shape = [1] * len(weight.shape)
    if len(gain.values) == weight.shape[gain.axis]:
        shape[gain.axis] = -1
    else:
        shape[: gain.axis + 1] = weight.shape[: gain.axis + 1]
    return np.asarray(gain.values, work_type(weight.dtype)).reshape(shape)


def _contiguous(weight: Weight, entry: Entry) -> Part | None:
    """The one part of a weight whose blocks lie one after the other in stored order, or None."""
    parts = parts_of(weight)
    if len(parts) != 1 or isinstance(entry.gain, Vector):
        return None
    axes = zip(parts[0].kinds, parts[0].factors, strict=True)
    kinds = [kind for names, sizes in axes for kind, n in zip(names, sizes, strict=True) if n > 1]
    return parts[0] if kinds == sorted(kinds, key=lambda kind: kind != "block") else None


def _one_block(part: Part) -> Part:
    """The layout of a single block of a part."""
    factors = tuple(
        tuple(1 if kind == "block" else n for n, kind in zip(sizes, kinds, strict=True))
        for sizes, kinds in zip(part.factors, part.kinds, strict=True)
    )
    return replace(part, start=(0,) * len(factors), shape=tuple(map(math.prod, factors)), factors=factors, names=())
