"""Calibration data as a set of feeds: read, checked against the model, cut into batches; or made up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxinit.errors import DataError
from onnxinit.signal.data.batches import batches, plan_cut
from onnxinit.signal.data.checks import check_heads
from onnxinit.signal.data.inputs import Input, pin
from onnxinit.signal.data.options import ImageOptions
from onnxinit.signal.data.pieces import Feed, Piece, Pieces
from onnxinit.signal.data.readers import read
from onnxinit.signal.data.synthetic import synthetic

SYNTHETIC = "synthetic"


@dataclass(frozen=True, slots=True)
class Feeds:
    """Feeds, one dict of arrays by input name each; every iteration starts again.

    Attributes:
        source: What to call them in a result: "synthetic", or where they come from.
        notes: What was done to the data that a user should know.
        synthetic: Whether they were made up.
    """

    source: str
    notes: tuple[str, ...]
    synthetic: bool
    _make: Callable[[], Iterator[Feed]] = field(repr=False)

    def __iter__(self) -> Iterator[Feed]:
        return self._make()


def open_feeds(
    data: Any,
    inputs: Sequence[Input],
    *,
    batch_size: int | None = None,
    samples: int | None = None,
    dims: Mapping[str, int] | None = None,
    images: ImageOptions | None = None,
    seed: int = 0,
) -> Feeds:
    """Open calibration data for a model.

    Axis 0 holds the samples. A file or a dict is cut into batches of `batch_size`, 32 if not given; where there is one
    file (or one dict of an iterable) a feed, each is a batch as it is unless a `batch_size` is given. Where the model
    fixes axis 0, batches are made to fit it. Synthetic feeds are one batch of 8, or of what the model fixes, and as
    many batches as `samples` asks for.

    Args:
        data: None for synthetic feeds; a path to a .npz, a .npy, a folder of either, ONNX test data or a folder of
            images; "module:callable"; a dict of arrays, an iterable of dicts, an object with `get_next()`, or a
            callable that gives one of these.
        inputs: From `model_inputs`.
        batch_size: Samples a batch.
        samples: Take the first so many.
        dims: Lengths of symbolic dimensions by name.
        images: How images become arrays.
        seed: The root seed of synthetic feeds.

    Returns:
        The feeds. All that heads tell is checked here; values (NaN, infinity, range) as they are read.

    Raises:
        DataError: The data does not fit the model.
    """
    for name, count in (("--batch-size", batch_size), ("--samples", samples)):
        if count is not None and count < 1:
            raise DataError(f"{name} is {count}: give 1 or more")
    pinned = pin(inputs, dims or {})
    if data is None:
        notes, make = synthetic(inputs, batch_size, samples, dims or {}, seed)
        return Feeds(SYNTHETIC, notes, True, make)
    pieces = read(data, pinned, images or ImageOptions(), samples)
    notes = tuple(dict.fromkeys((*pieces.notes, *_check(pieces, pinned, batch_size, samples))))
    checked = _Checked(pieces.pieces, pinned)
    return Feeds(
        pieces.source,
        notes,
        False,
        lambda: batches(pieces.pieces if pieces.checked else checked, pinned, batch_size, samples, pieces.batched),
    )


class _Checked:
    """Pieces that cannot be looked at beforehand, looked at one after another."""

    def __init__(self, pieces: Iterable[Piece], inputs: Sequence[Input]):
        self._pieces, self._inputs = pieces, inputs

    def __iter__(self) -> Iterator[Piece]:
        for piece in self._pieces:
            check_heads(piece, self._inputs)
            yield piece


def _check(pieces: Pieces, inputs: Sequence[Input], size: int | None, samples: int | None) -> Iterator[str]:
    """Check the heads of all pieces that are needed, and say what is done to them."""
    total, fixed, uncut = 0, 0, ""
    for piece in pieces.pieces:
        yield from check_heads(piece, inputs)
        cut = plan_cut(piece, inputs)
        total, fixed, uncut = total + cut.samples, cut.fixed, cut.whole
        if (samples is not None and total >= samples) or not pieces.checked:
            break
    if not total:
        raise DataError(f"{pieces.source}: holds no samples")
    if uncut and (size or samples):
        yield f"the data cannot be cut into samples: {uncut}; each piece of it is one feed"
    if fixed and size not in (None, fixed):
        yield f"the model takes batches of {fixed}, not of {size}"
    used = min(total, samples or total)
    if fixed > used and pieces.checked:
        raise DataError(f"{pieces.source}: holds {used} samples; the model takes batches of {fixed}")
    if fixed and used % fixed and pieces.checked:
        yield f"the last {used % fixed} of {used} samples are left out: the model takes batches of {fixed}"
