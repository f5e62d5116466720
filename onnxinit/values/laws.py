"""The law of a tensor's independent values in stored order; parts and vectors of gains make it differ along an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxinit.analysis.weight import Part, Weight
from onnxinit.errors import SchemeError
from onnxinit.plan import Entry, Vector, block_of, parts_of
from onnxinit.sampling import Stream
from onnxinit.schemes import Distribution
from onnxinit.values.rounding import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Along:
    """A number for each index along one axis of the stored tensor.

    Attributes:
        values: The numbers, float64.
        inner: How many elements lie between one index and the next.
    """

    values: npt.NDArray[np.float64]
    inner: int

    @classmethod
    def axis(cls, values: Sequence[float] | npt.NDArray[np.float64], axis: int, shape: Sequence[int]) -> Along:
        """The numbers of an axis of a tensor of some shape, or of it and all axes before it."""
        return cls(np.asarray(values, np.float64), math.prod(shape[axis + 1 :]))

    def of(self, at: int, out: Floats) -> Floats:
        """The number of each element of `out`, which begins at element `at` of the stored order; the type of `out`."""
        numbers: Floats = self.values.astype(out.dtype)[np.arange(at, at + out.size) // self.inner % self.values.size]
        return numbers


@dataclass(frozen=True, slots=True, eq=False)
class Law:
    """Values `gain * (centre + scale * z)` with z of one law for the whole tensor; None for no change."""

    z: Distribution
    scale: Along | None = None
    centre: Along | None = None
    gain: Along | None = None

    def sample(self, stream: Stream, at: int, out: Floats) -> None:
        """Fill `out`, float32 or float64, with the values of the stored order from element `at` on."""
        self.z.sample(stream, out)
        if self.scale is not None:
            np.multiply(out, self.scale.of(at, out), out=out)
        if self.centre is not None:
            np.add(out, self.centre.of(at, out), out=out)
        if self.gain is not None:
            np.multiply(out, self.gain.of(at, out), out=out)


def law_of(weight: Weight, entry: Entry) -> Law:
    """The law of all values of a weight, for an entry whose scheme is independent.

    Raises:
        SchemeError: The scheme needs a fan that the weight has not, or gives unlike parts laws of unlike kinds.
    """
    parts = parts_of(weight)
    laws = [entry.scheme.distribution(block_of(weight, part)) for part in parts or (None,)]
    factor = 1.0
    gain = None
    if isinstance(entry.gain, Vector):
        gain = Along.axis(entry.gain.values, entry.gain.axis, weight.shape)
    else:
        factor = entry.gain
    if len(set(laws)) == 1:
        return Law(laws[0].scaled(factor), gain=gain)
    standard = [_standard(law) for law in laws]
    if len({z for z, _, _ in standard}) > 1:
        raise SchemeError("its parts would get laws of different kinds: give it an independent scheme of one kind")
    axis = _axis(parts, laws)
    scales, centres = np.empty((2, weight.shape[axis]))
    for part, (_, scale, centre) in zip(parts, standard, strict=True):
        span = slice(part.start[axis], part.start[axis] + part.shape[axis])
        scales[span], centres[span] = factor * scale, factor * centre
    return Law(
        standard[0][0],
        Along.axis(scales, axis, weight.shape),
        Along.axis(centres, axis, weight.shape) if centres.any() else None,
        gain,
    )


def _standard(law: Distribution) -> tuple[Distribution, float, float]:
    """z, scale and centre so that centre + scale z has the law."""
    if law.kind == "constant":
        return Distribution.constant(1.0), law.mean, 0.0
    if law.kind == "uniform":
        return Distribution.uniform(-1.0, 1.0), law.high / 2 - law.low / 2, law.high / 2 + law.low / 2
    z = Distribution.normal(1.0) if law.kind == "normal" else Distribution.truncated_normal(1.0, 0.0, law.low, law.high)
    return z, law.std, law.mean


def _axis(parts: Sequence[Part], laws: Sequence[Distribution]) -> int:
    """The axis along which the parts' laws differ."""
    for axis in range(len(parts[0].start)):
        if len({(p.start[axis], law) for p, law in zip(parts, laws, strict=True)}) == len(
            {p.start[axis] for p in parts}
        ):
            return axis
    raise SchemeError(
        "its parts have unlike fans along two axes: give it a scheme without fans, such as normal:std=0.02"
    )
