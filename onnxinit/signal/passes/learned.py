"""Filters of a layer learned from what it sees on calibration data: principal components, or centroids of k-means.

The patches x of a layer (`patches`) are centred; C = V diag(l) V^T is their covariance, l_1 the largest eigenvalue.
Directions with l <= 1e-6 l_1 hold nothing; S = diag(1 / sqrt(l + damping l_1)) over the others whitens.

    pca      the first rows of S V^T, one for each unit
    zca      rows of V S V^T: each whitens one input value and has its weight there; the values are those at the
             centre of a kernel first, spread evenly over the channels
    kmeans   centroids of whitened patches of length 1, taken back: c S V^T

Every filter has the std 1 on the patches. What a layer has in units beyond its components, and all of them where there
are fewer patches than centroids, is Gaussian.

Source: Kraehenbuehl, Doersch, Donahue, Darrell: Data-dependent Initializations of Convolutional Neural Networks, ICLR
2016, arXiv:1511.06856. There the damping is absolute, and small against the data; here it goes by the largest
eigenvalue, so that the scale of the input does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxinit.errors import SchemeError
from onnxinit.plan import Entry, Measured, entry_of
from onnxinit.sampling import Stream, stream, weight_key
from onnxinit.schemes import Spec
from onnxinit.signal.passes.patches import reader_of, sample
from onnxinit.signal.run.engine import Engine
from onnxinit.signal.run.layers import Layer
from onnxinit.signal.run.supply import Supply

Floats = npt.NDArray[np.floating[Any]]
Numbers = npt.NDArray[np.float64]

_CUT = 1e-6  # of the largest eigenvalue: what lies below is rounding
_DEAD = 1e-6  # of the largest std of a filter's output: likewise
_MOVES = frozenset(
    {"Identity", "Cast", "CastLike", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "DequantizeLinear"}
)


def learn(layer: Layer, entry: Entry, spec: Spec, engine: Engine, supply: Supply) -> tuple[Entry, str]:
    """The entry of a weight whose values are learned from the input of its layer.

    Args:
        layer: The layer that decides; its input can be computed.
        entry: What the base draws.
        spec: pca, zca or kmeans.
        engine: Runs what leads to the input.
        supply: The weights.

    Returns:
        The entry, that of the base where nothing can be learned; and what a reader should know: then the reason.

    Raises:
        SchemeError: kmeans without scikit-learn.
        StepError: The input cannot be computed.
    """
    reader = reader_of(layer.step, layer.at)
    places = _places(layer, engine)
    if isinstance(reader, str) or isinstance(places, str):
        return entry, f"its base stands: {reader if isinstance(reader, str) else places}"
    weight, values = layer.weight, spec.values
    key = weight_key(supply.plan.seed, weight.id)
    name = layer.step.inputs[reader.signal]
    engine.compute([name])
    blocks, units, seen = reader.form(places.shape)
    patches = sample(reader, engine, name, places.shape, int(values["patches"] or 1), stream(key, 0))
    if patches.shape[::2] != (blocks, seen):
        return entry, f"its base stands: its input has {patches.shape[2]} values where the weight has {seen}"
    if not np.isfinite(patches).all():
        return entry, "its base stands: its input is not finite: a layer before it is not scaled"
    bits, damping = stream(key, 1), float(values["damping"] or 0.0)
    made = [_filters(spec.name, _Seen.of(rows, damping), units, reader.kernel(places.shape), bits) for rows in patches]
    if not any(count for _, count in made):
        return entry, f"its base stands: nothing can be learned from the {patches.shape[1]} patches of its input"
    operand = reader.operand(np.stack([filters for filters, _ in made]).astype(np.float32), places.shape)
    stored = np.empty(weight.size if weight.quantised is None else math.prod(weight.quantised.shape), np.float32)
    stored[places.reshape(-1)] = operand.reshape(-1)
    held = stored.astype(np.float64) if weight.dtype == "double" else stored
    made_of = entry_of(weight, spec, "learned from the data", 1.0, entry.draws_as, Measured.of(held))
    learned = replace(made_of, id=entry.id, role=entry.role, shape=entry.shape)
    short = sum(units - count for _, count in made)
    note = f"{short} of {blocks * units} filters are Gaussian: the data has no more components" if short else ""
    return learned, note


def _places(layer: Layer, engine: Engine) -> npt.NDArray[np.int64] | str:
    """Where in the stored tensor every element of a layer's operand stands; or why it does not stand there."""
    weight = layer.weight
    shape = weight.shape if weight.quantised is None else weight.quantised.shape
    steps = layer.chain[: layer.chain.index(layer.step)]
    for step in steps:
        if step.op not in _MOVES:
            return f"{step.label} makes the layer's filters of the weight"
    places: npt.NDArray[np.int64] = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    if not steps:
        return places
    engine.compute([n for step in steps for n in step.inputs[1:] if n])
    moved = engine.moved(steps, places).astype(np.int64)
    return moved if moved.size == places.size else "only a part of the weight reaches its layer"


@dataclass(frozen=True, slots=True)
class _Seen:
    """Centred patches and the directions that they vary along.

    Attributes:
        rows: Centred patches, (patches, values).
        directions: (values, rank), of length 1, by falling variance.
        whitening: 1 / sqrt(l + damping l_1) of each.
    """

    rows: Floats
    directions: Numbers
    whitening: Numbers

    @classmethod
    def of(cls, rows: Floats, damping: float) -> _Seen:
        """From patches: the eigenvectors of rows^T rows, or those of rows rows^T where that is smaller."""
        rows = rows - rows.mean(axis=0, dtype=np.float64).astype(rows.dtype)
        wide = rows.shape[0] < rows.shape[1]
        product = (rows @ rows.T if wide else rows.T @ rows).astype(np.float64) / max(1, len(rows))
        values, vectors = np.linalg.eigh(product)
        most = max(float(values[-1]), 0.0)
        kept = np.flatnonzero((values > _CUT * most) & (values > 0))[::-1]
        directions = rows.T.astype(np.float64) @ vectors[:, kept] if wide else vectors[:, kept]
        directions = directions / np.linalg.norm(directions, axis=0)
        largest = np.abs(directions).argmax(axis=0) if len(directions) else np.zeros(0, np.intp)
        directions = directions * np.sign(directions[largest, np.arange(len(kept))])  # either sign is an eigenvector
        return cls(rows, directions, 1 / np.sqrt(values[kept] + damping * most))

    @property
    def rank(self) -> int:
        """How many directions there are."""
        return len(self.whitening)

    def whitened(self, count: int) -> Numbers:
        """The matrix S V^T of the first directions: (count, values)."""
        matrix: Numbers = self.whitening[:count, None] * self.directions[:, :count].T
        return matrix

    def unit(self, filters: Numbers) -> Numbers:
        """Filters with the std 1 on the patches, without those that give next to nothing there."""
        std = (self.rows @ filters.T.astype(self.rows.dtype)).std(axis=0, dtype=np.float64)
        live = std > 0 if not std.size else std > _DEAD * std.max()
        unit: Numbers = filters[live] / std[live, None]
        return unit


def _filters(kind: str, seen: _Seen, units: int, kernel: Sequence[int], bits: Stream) -> tuple[Numbers, int]:
    """Filters of one block, (units, values), and how many of them are learned; the others are Gaussian."""
    values = len(seen.directions)
    learned = seen.unit(_KINDS[kind](seen, units, kernel, bits)) if seen.rank else np.zeros((0, values))
    rest = np.empty((units - len(learned), values))
    bits.normal(rest)
    std = (seen.rows @ rest.T.astype(seen.rows.dtype)).std(axis=0, dtype=np.float64)
    rest /= np.where(std > 0, std, 1.0)[:, None]
    if not 0 < len(learned) < units:
        return np.concatenate([learned, rest]), len(learned)
    # Spread, so that none of several projections in one weight (Q, K and V) gets all of what is learned.
    places = np.arange(len(learned)) * units // len(learned)
    made = np.empty((units, values))
    made[places[np.argsort(bits.words(len(learned)), kind="stable")]] = learned
    made[np.setdiff1d(np.arange(units), places)] = rest
    return made, len(learned)


def _pca(seen: _Seen, units: int, kernel: Sequence[int], bits: Stream) -> Numbers:
    return seen.whitened(units)


def _zca(seen: _Seen, units: int, kernel: Sequence[int], bits: Stream) -> Numbers:
    places = _central(len(seen.directions), units, kernel)[: seen.rank]
    filters: Numbers = seen.directions[places] @ seen.whitened(seen.rank)
    return filters


def _kmeans(seen: _Seen, units: int, kernel: Sequence[int], bits: Stream) -> Numbers:
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError:
        raise SchemeError(
            "kmeans needs scikit-learn, which is not installed: pip install 'onnxinit[pretrain]', or take pca or zca, "
            "which need nothing more"
        ) from None
    if len(seen.rows) < units:
        return np.zeros((0, len(seen.directions)))
    back = seen.whitened(units)
    if len(back) == 1:
        return back  # whitened patches of length 1 are 1 and -1 then
    white = seen.rows.astype(np.float64) @ back.T
    white /= np.maximum(np.linalg.norm(white, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    state = int(bits.words(1)[0] >> np.uint64(33))
    size = min(len(white), max(1024, 10 * units))
    found: Any = MiniBatchKMeans(n_clusters=units, batch_size=size, n_init=1, random_state=state).fit(white)
    centres: Numbers = found.cluster_centers_ @ back
    return centres


_KINDS: dict[str, Callable[[_Seen, int, Sequence[int], Stream], Numbers]] = {
    "pca": _pca,
    "zca": _zca,
    "kmeans": _kmeans,
}
LEARNED = frozenset(_KINDS)


def _central(values: int, units: int, kernel: Sequence[int]) -> npt.NDArray[np.intp]:
    """The input values that filters of zca stand for: taps from the centre outwards, of the last only some channels."""
    taps = math.prod(kernel)
    channels = values // max(1, taps)
    at = np.stack(np.unravel_index(np.arange(taps), tuple(kernel) or (1,)))
    away = sum((np.abs(a - (n - 1) / 2) ** 2 for a, n in zip(at, kernel, strict=False)), np.zeros(taps))
    found: list[npt.NDArray[np.intp]] = []
    left = min(units, values)
    for tap in np.argsort(away, kind="stable"):
        some = min(left, channels)
        found.append(np.arange(some) * channels // max(1, some) * taps + tap)
        left -= some
    return np.concatenate(found)
