"""Weights that the graph composes on the way to their use: scaled, masked, normalised, or added up of factors.

What a layer multiplies by is the effective weight. How it follows from the stored one is found by its values, whatever
nodes make it: it is worked out for made-up weights and compared with them, element by element.

    E(W) / W the same for all W    a factor: a number, or one for each index along an axis; zeros are a mask
    E(2 W) = E(W)                  normalised: by its norm where E is a multiple of W in each cell, else standardised

A factor of a normalised kernel (g of a weight norm) and the stored vectors of a spectral norm follow from the weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from onnxinit.analysis.operators import Reading
from onnxinit.analysis.recipes import Copy, Recipe, Singular, Size
from onnxinit.analysis.statics import Array, Leaf, Numbers, evaluate, leaves
from onnxinit.analysis.tables import is_round
from onnxinit.analysis.trail import Trail
from onnxinit.analysis.view import Value
from onnxinit.analysis.walker import DIVISOR, FIXED, Found, Read
from onnxinit.analysis.weight import FAN_ROLES, Factor, Layout, Part

_NEAR = 1e-6  # float64 all the way; an eps beside values near one is 1e-5 at most, and only `_LOOSE` meets it
_LOOSE = 1e-3
_MOST = 1 << 24  # elements of a weight that is worked out; a larger one is followed through numbers only
_MOVES = frozenset({"Identity", "Cast", "CastLike", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Neg"})
_BARE = 0.9, 1.1  # what a bare standardisation makes the root mean square of a kernel, of few values too
_NEUTRAL = {"bias": 0.0, "norm_shift": 0.0, "running_mean": 0.0}

STANDARDISED = "standardised by the graph: the scheme's std has no effect"
GAINED = "standardised by the graph, and scaled by a gain that follows the std of the scheme"
SPECTRAL = "divided by its largest singular value in the graph: the scheme's std has no effect"
NORMALISED = "normalised by the graph: the scheme's std has no effect"
MASKED = "masked in the graph: its fans count what is left"
SCALED = "scaled in the graph: its gain makes up for that"
UNKNOWN = "made into another in the graph, and too large for that to be looked at"
FOLLOWS = {
    Size: "follows the weight that it scales, so that the effective weight has the std of the drawn one",
    Singular: "a singular vector of the weight that it divides, which it follows",
    Copy: "a copy of a weight for the statistics of a kernel, which it follows",
}


@dataclass(slots=True)
class Composition:
    """What the graph makes of one weight.

    Attributes:
        factor: What it multiplies the stored values by; None for 1, or where it normalises them.
        live: Where it does not make zeros of them, in the stored shape; None for everywhere.
        note: What a reader should know.
        whole: Whether the effective weight has the size of the stored one, since what follows from it sees to that.
        effective: The root mean square of the effective weight where that is always the same.
    """

    factor: Factor | None = None
    live: npt.NDArray[np.bool_] | None = None
    note: str = ""
    whole: bool = False
    effective: float | None = None


@dataclass(slots=True)
class Tensor:
    """A stored tensor to the compositions.

    Attributes:
        shape: Its shape.
        role: Its role, "" where it is kept.
        default: The value that it gets where that is not its role's own.
        found: Its uses.
    """

    shape: tuple[int, ...]
    role: str
    default: float | None
    found: tuple[Found, ...]

    @property
    def stale(self) -> bool:
        """Whether it only takes part in a norm of old weights, so that its values mean nothing to fresh ones."""
        return not self.role and any(f.verdict == DIVISOR for f in self.found)


@dataclass(slots=True)
class Compositions:
    """The compositions of a model.

    Attributes:
        of: By path, what is made of a weight.
        recipes: By path, how a tensor follows from weights.
    """

    of: dict[str, Composition] = field(default_factory=dict)
    recipes: dict[str, Recipe] = field(default_factory=dict)


def compositions(tensors: Mapping[str, Tensor], read: Read) -> Compositions:
    """Find what a graph makes of its weights.

    Args:
        tensors: The float tensors by path.
        read: The values of a stored tensor by its path, None where its data is missing.
    """
    work = _Work(tensors, read)
    for path, tensor in tensors.items():
        if tensor.role in FAN_ROLES:
            work.copy(path, tensor)
    for path, tensor in tensors.items():
        if tensor.role in FAN_ROLES and path not in work.made.recipes:
            work.compose(path, tensor)
    return work.made


class _Work:
    def __init__(self, tensors: Mapping[str, Tensor], read: Read):
        self._tensors, self._read = tensors, read
        self.made = Compositions()

    # ------------------------------------------------------------ what tensors are taken to hold

    def _leaf(self, given: Mapping[str, Array], seed: int = 0) -> Leaf:
        """What a tensor holds: what is given, what it follows from, its default, or, where it is kept, its values.

        Args:
            given: By path.
            seed: Of what other weights are taken to hold.
        """

        def leaf(path: str) -> Array | None:
            if path in given:
                return given[path]
            if path in self.made.recipes:
                return self.made.recipes[path].values(leaf)
            tensor = self._tensors.get(path)
            if tensor is None or not (tensor.role or tensor.stale):
                held = self._read(path)
                return held if held is not None or tensor is None or tensor.found else _probe(tensor.shape, seed + 2)
            if tensor.stale or (tensor.role in FAN_ROLES and tensor.default is None):
                return _probe(tensor.shape, seed + 2)
            neutral = _NEUTRAL.get(tensor.role, 1.0) if tensor.default is None else tensor.default
            return np.full(tensor.shape, neutral)

        return leaf

    def _kernel(self, path: str, operand: Value, weight: Numbers, seed: int = 0) -> Numbers | None:
        return evaluate(operand, self._leaf({path: weight}, seed))

    # ------------------------------------------------------------ copies

    def copy(self, path: str, tensor: Tensor) -> None:
        """A kernel that is stored again for the statistics of the first."""
        for reading in (f.verdict for f in tensor.found if isinstance(f.verdict, Reading)):
            if reading.layer is None or reading.tiles is None:
                continue
            owners = [v.tensor for v in leaves(reading.layer) if self._role(v.tensor) in FAN_ROLES]
            outs = [i for i, tiles in enumerate(reading.tiles) if any(kind == "out" for _, kind in tiles)]
            if len(owners) == 1 and owners[0] != path and len(outs) == 1:
                self.made.recipes[path] = Copy(tensor.shape, owners[0], reading.layer, outs[0])

    def _role(self, path: str) -> str:
        tensor = self._tensors.get(path)
        return tensor.role if tensor is not None else ""

    # ------------------------------------------------------------ one weight

    def compose(self, path: str, tensor: Tensor) -> None:
        """Say what the graph makes of a weight at its uses."""
        ends = list(_ends(tensor))
        if not any(trail.derived for _, trail in ends):
            return
        found = self.made.of[path] = Composition()
        numbers = {self._number(path, value, trail) for value, trail in ends}
        number = numbers.pop() if len(numbers) == 1 else None
        if number is not None:
            _settle(found, np.full([1] * len(tensor.shape), number))
            return
        if math.prod(tensor.shape) > _MOST:
            found.note = UNKNOWN
            return
        factors = np.full(math.prod(tensor.shape), np.nan)
        for operand, trail in ends:
            places = trail.places(tensor.shape)
            if places is None:
                continue
            if not trail.derived:
                self._enter(factors, places, np.ones(int((places >= 0).sum())))
                continue
            kernels = [self._kernel(path, operand, _probe(tensor.shape, seed), seed) for seed in (0, 1)]
            first, second = (_ratio(k, _probe(tensor.shape, seed), places) for seed, k in enumerate(kernels))
            if first is None or second is None or kernels[0] is None:
                continue
            if np.allclose(first, second, rtol=_NEAR, atol=1e-12):
                self._enter(factors, places, first)
                continue
            doubled = self._kernel(path, operand, 2 * _probe(tensor.shape, 0))
            if doubled is not None and np.allclose(doubled, kernels[0], rtol=_LOOSE, atol=_LOOSE * _rms(kernels[0])):
                self._normalised(path, tensor, operand, trail, found)
        if np.isfinite(factors).any():
            _settle(found, factors.reshape(tensor.shape))

    def _number(self, path: str, value: Value, trail: Trail) -> float | None:
        """The one number that a weight is multiplied by on the way to a value; None where more becomes of it."""
        number, whole = 1.0, math.prod(trail.extent) == math.prod(n or 0 for n in value.shape or ())
        while value.tensor != path:
            node, operands = value.producer, list[Value]()
            if node is not None and not node.domain:
                operands = [v for v in node.inputs if v is not None]
            if node is not None and operands and node.op in _MOVES:
                value = operands[0]
                continue
            if node is None or len(operands) != 2 or node.op not in ("Mul", "Div"):
                return None
            own, other = operands if node.op == "Div" or self._holds(operands[0], path) else operands[::-1]
            one = other.shape is not None and all(n == 1 for n in other.shape) and not self._holds(other, path)
            held = evaluate(other, self._leaf({})) if one else None
            if held is None or (node.op == "Div" and not held.any()):
                return None
            value, number = own, float(number * held.flat[0] if node.op == "Mul" else number / held.flat[0])
        return number if whole and math.isfinite(number) else None

    @staticmethod
    def _holds(value: Value, path: str) -> bool:
        return any(v.tensor == path for v in leaves(value))

    @staticmethod
    def _enter(factors: Numbers, places: npt.NDArray[np.int64], ratio: Numbers) -> None:
        """Fill in what nothing before did."""
        own = places[places >= 0]
        unread = np.isnan(factors[own])
        factors[own[unread]] = ratio[unread]

    def _normalised(self, path: str, tensor: Tensor, operand: Value, trail: Trail, found: Composition) -> None:
        """A kernel that does not get larger with its weight: what follows from the weight, or a note that it is so."""
        leaf = self._leaf({path: _probe(tensor.shape, 0)})
        others = dict.fromkeys(v.tensor for v in leaves(operand) if v.tensor in self._tensors and v.tensor != path)
        small = [p for p in others if math.prod(self._tensors[p].shape) < math.prod(tensor.shape)]
        scales = [p for p in small if self._role(p) == "other" and p not in self.made.recipes]
        few = [p for p in small if self._is_short_scale(p, len(tensor.shape)) and p not in self.made.recipes]
        kernel, places = evaluate(operand, leaf), trail.places(tensor.shape)
        for factor in (*scales, *few):
            recipe = Size(factor, self._tensors[factor].shape, path, tensor.shape, operand, trail)
            parallel, bare = _fits(recipe, leaf)
            if parallel or (bare and factor in scales):
                self.made.recipes[factor] = replace(recipe, rho=recipe.correlations(leaf))
                found.whole, found.note = True, "" if parallel else GAINED
                if kernel is not None and places is not None and not kernel[places >= 0].all():
                    found.live, found.note = _live(tensor.shape, kernel, places), found.note or MASKED
                return
        ratio = _ratio(kernel, _probe(tensor.shape, 0), places) if places is not None else None
        if kernel is None or ratio is None or len(set(np.sign(ratio).tolist())) > 1:
            found.note = STANDARDISED
            return
        dividing = [p for p in small if self._divides(p, operand, kernel, leaf)]
        pair = dict(self._pair(dividing[0], dividing[1], path)) if len(dividing) == 2 else {}
        self.made.recipes.update(pair)
        found.note = SPECTRAL if pair else NORMALISED
        again = evaluate(operand, leaf) if pair else None
        found.effective = None if again is None else _rms(again)

    def _is_short_scale(self, path: str, rank: int) -> bool:
        """Whether one to three numbers that seem fixed are a learned scale: it was not written down by hand."""
        tensor = self._tensors[path]
        if math.prod(tensor.shape) > 3 or tensor.role or not any(f.verdict == FIXED for f in tensor.found):
            return False
        held = self._read(path)
        if held is None:
            return len(tensor.shape) == rank
        return not all(is_round(partial(np.asarray, x)) for x in held.reshape(-1))

    def _divides(self, path: str, operand: Value, kernel: Numbers, leaf: Leaf) -> bool:
        """Whether a kernel is inversely proportional to a tensor."""
        held = leaf(path)
        halved = None
        if held is not None:
            halved = evaluate(operand, lambda p: 2.0 * held.astype(np.float64) if p == path else leaf(p))
        return halved is not None and np.allclose(2.0 * halved, kernel, rtol=_LOOSE, atol=_LOOSE * _rms(kernel))

    def _pair(self, one: str, two: str, path: str) -> Iterator[tuple[str, Recipe]]:
        """The vectors of a spectral norm: the matrix is what a product has beside one of them, without the other."""
        for right, left in ((one, two), (two, one)):
            for node, at in ((f.site.node, f.site.at) for f in self._tensors[right].found):
                matrix = node.input(1 - at) if node.op in ("MatMul", "Gemm") and at < 2 else None
                if matrix is None or left in {v.tensor for v in leaves(matrix)} or len(matrix.shape or ()) != 2:
                    continue
                flipped = bool(node.int_attribute("transA" if at else "transB", 0))
                turned = (at == 1) == flipped  # the vector meets the rows of what the product has
                yield right, Singular(self._tensors[right].shape, path, matrix, left=False, turned=turned)
                yield left, Singular(self._tensors[left].shape, path, matrix, left=True, turned=turned)
                return


def _ends(tensor: Tensor) -> Iterator[tuple[Value, Trail]]:
    """What the uses that decide a tensor's role read of it, before a signal meets it, and how it stands there."""
    for site in (f.site for f in tensor.found if isinstance(f.verdict, Reading) and f.verdict.role == tensor.role):
        value, trail = site.fixed or (site.node.input(site.at), site.trail)
        if value is not None and value.static:
            yield value, trail


def _probe(shape: tuple[int, ...], seed: int) -> Numbers:
    """A made-up weight, of mean zero and root mean square one."""
    return math.sqrt(12.0) * (np.random.Generator(np.random.SFC64(seed)).random(shape) - 0.5)


def _rms(x: Numbers) -> float:
    return math.sqrt(float(np.mean(x * x))) if x.size else 0.0


def _ratio(kernel: Numbers | None, weight: Numbers, places: npt.NDArray[np.int64]) -> Numbers | None:
    """What a weight is multiplied by at every place of a kernel that it stands at; None where that is no number."""
    if kernel is None or kernel.shape != places.shape:
        return None
    own = places >= 0
    ratio: Numbers = kernel[own] / weight.reshape(-1)[places[own]]
    return ratio if ratio.size and np.isfinite(ratio).all() else None


def _fits(recipe: Size, leaf: Leaf) -> tuple[bool, bool]:
    """Whether a kernel is a multiple of its weight in every cell, and whether it has the size one without a factor."""
    found = recipe.cells(leaf)
    if found is None or not found[1].size:
        return False, False
    weight, made, cell = found
    both, first, second = (np.bincount(cell, x) for x in (weight * made, weight * weight, made * made))
    parallel = bool((both >= (1 - _NEAR) * np.sqrt(first * second)).all())
    return parallel, _BARE[0] <= _rms(made) <= _BARE[1]


def _live(shape: tuple[int, ...], kernel: Numbers, places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which elements of a weight are not zero in its kernel."""
    live = np.ones(math.prod(shape), bool)
    live[places[(places >= 0) & (kernel == 0)]] = False
    return live.reshape(shape)


def _settle(found: Composition, factors: Numbers) -> None:
    """Say what the factors of the elements of a weight come to; those that nothing reads have none."""
    read = np.isfinite(factors)
    live = factors != 0
    if not live[read].any():
        found.note = "multiplied by zero everywhere in the graph"
        return
    factor = _along(np.abs(factors), read & live)
    notes = []
    if not live.all():
        found.live = live
        notes.append(MASKED)
    if factor != Factor(None, (1.0,)):
        found.factor = factor
        notes.append(SCALED)
    found.note = "; ".join(notes)


def _along(factors: Numbers, counted: npt.NDArray[np.bool_]) -> Factor:
    """One number, one for each index of an axis, or where factors differ along several their root mean square."""
    some = factors[counted]
    if np.ptp(some) <= _NEAR * some.max():
        return Factor(None, (_tidy(float(some[0])),))
    for axis in range(factors.ndim):
        moved = np.moveaxis(np.where(counted, factors, np.nan), axis, 0).reshape(factors.shape[axis], -1)
        low = np.where(np.isnan(moved), np.inf, moved).min(axis=1)
        high = np.where(np.isnan(moved), -np.inf, moved).max(axis=1)
        if (high - low <= _NEAR * high).all():
            return Factor(axis, tuple(_tidy(x) if math.isfinite(x) else 1.0 for x in low.tolist()))
    return Factor(None, (_tidy(_rms(some)),))


def _tidy(x: float) -> float:
    """A number as it was before it was multiplied and divided."""
    return float(f"{x:.12g}")


def masked(layout: Layout | None, live: npt.NDArray[np.bool_] | None) -> Layout | None:
    """A layout whose fans count what a mask leaves: the mean number of live inputs of an output, and the reverse."""
    return layout if layout is None or live is None else Layout(tuple(_masked(p, live) for p in layout.parts))


def _masked(part: Part, live: npt.NDArray[np.bool_]) -> Part:
    share = float(live[tuple(slice(a, a + n) for a, n in zip(part.start, part.shape, strict=True))].mean())
    if part.fan_in is None or part.fan_out is None or not share:
        return part
    return replace(part, fan_in=part.fan_in * share, fan_out=part.fan_out * share)
