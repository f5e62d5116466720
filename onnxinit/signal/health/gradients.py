"""The health of the gradient without automatic differentiation: a perturbation is propagated with the signal.

For a value x of the network (n numbers) with outputs f(x) (m numbers) and a standard normal v,

    E|f(x + eps v) - f(x)|^2 / (eps^2 n)  ->  |J|_F^2 / n  =  the mean squared singular value of J = df/dx.

Of any matrix E|J v|^2 = |J|_F^2 = E|J^T u|^2 for standard normal v and u: the same number says how a gradient comes
back from the outputs, in the mean square of its elements as it is, in squared length times n/m.

Every figure goes end to end, from one value to the outputs: singular values of a product are not the products of
singular values, and estimates layer by layer are off by 40 % after 12 layers.

What is divided by is the squared length of the perturbation as float32 holds it, which is eps^2 n in expectation: with
v / |v| uniform on the sphere the mean is the same, and the length of v is left out of the error.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxinit.sampling import stream, weight_key
from onnxinit.signal.health.diagnosis import Gradient
from onnxinit.signal.run.engine import Engine, Feed, StepError
from onnxinit.signal.run.program import RANDOM, Program, Step
from onnxinit.signal.run.statistics import moments_of

Floats = npt.NDArray[np.floating[Any]]

EPS = 1e-2  # standard deviations of what is perturbed
COARSE = 1e-1  # where signals are quantised on the way, in steps of about 2e-2, or what arrives is rounded off
_LEAST = 1e-5  # below, float32 has no digits left for a difference
_LINEAR = 0.1  # of the outputs' own std: a response beyond is not small, and the perturbation is made smaller
_QUANTISED = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
_BLIND = RANDOM | {"Shape", "Size"}  # steps that look at no values
_MOST = 1 << 28  # bytes of outputs that are held at once


@dataclass(frozen=True, slots=True)
class Cut:
    """What is perturbed.

    Attributes:
        key: What its random stream derives from.
        names: Values, all of them together.
    """

    key: str
    names: tuple[str, ...]


class _ShapeError(Exception):
    """An output that has another shape when what it follows from is perturbed."""

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


class Gradients:
    """Measures Jacobians.

    Args:
        engine: Of the network; its program has been walked, so that the branches that the data takes are laid open.
        outputs: The values that responses are seen in, all together.
        feeds: The batches that the probes take in turn.
        probes: How many perturbations, at least 2.
        seed: The root seed of the perturbations.

    Attributes:
        notes: What was left out, and why.
    """

    def __init__(self, engine: Engine, outputs: Iterable[str], feeds: Sequence[Feed], probes: int, seed: int):
        self._origin, self._program = engine, engine.program
        self._feeds, self._probes, self._seed = feeds, probes, seed
        self._outputs = list(outputs)
        self.notes: list[str] = []

    def measure(self, cuts: Sequence[Cut]) -> dict[str, Gradient]:
        """The figures, by key, of those cuts that the outputs depend on, in the order of execution."""
        while True:
            try:
                return dict(self._sweep(cuts))
            except StepError as e:
                self._leave_out(e)
            except _ShapeError as e:
                self._outputs.remove(e.name)
                self.notes.append(f"no gradient of '{e.name}', whose shape follows from the values")

    def _leave_out(self, error: StepError) -> None:
        """Look at the outputs alone that a step has no part in."""
        at = error.step.place
        left = [name for name in self._outputs if at not in {step.place for step in _before(self._program, [name])}]
        gone = ", ".join(f"'{name}'" for name in self._outputs if name not in left)
        self.notes.append(
            f"no gradient of {gone}: behind {error.step.label}, which cannot be run: {error.reason.rstrip('.')}"
        )
        self._outputs = left

    def _sweep(self, cuts: Sequence[Cut]) -> Iterator[tuple[str, Gradient]]:
        engine = self._origin.fork(self._feeds)
        jobs = [job for cut in cuts if (job := self._job(cut)).outputs]
        engine.expect([name for job in jobs for name in job.held])
        for job in jobs:
            engine.compute(job.held)
            found = self._probe(job, engine)
            if found is not None:
                yield job.cut.key, found
            for name in job.held:
                engine.give_up(name)

    def _job(self, cut: Cut) -> _Job:
        """What is run to see a response: the steps between, and what they read from beside them."""
        after = behind(self._program, cut.names)
        made = {name for step in after for name in step.outputs} | set(cut.names)
        outputs = [name for name in self._outputs if name in made]
        between = _before(self._program, outputs) & after
        read = dict.fromkeys(name for step in between for name in step.inputs)
        beside = [n for n in read if n in self._program.moving and n not in made and n not in self._program.inputs]
        coarse = any(step.op in _QUANTISED for step in between)
        return _Job(cut, outputs, [*cut.names, *beside], COARSE if coarse else EPS)

    # ------------------------------------------------------------ one cut

    def _probe(self, job: _Job, engine: Engine) -> Gradient | None:
        """The figure of a cut."""
        batches = list(zip(self._feeds, *(engine.values(name) for name in job.held), strict=False))
        values = [dict(zip(job.held, held, strict=True)) for _, *held in batches]
        perturbed = [[v[name] for name in job.cut.names] for v in values]
        if any(x.dtype.kind != "f" for some in perturbed for x in some):
            return None
        size = sum(x.size for x in perturbed[0])
        spread = _spread(perturbed)
        if not size or not math.isfinite(spread):
            return Gradient(None, None, math.nan, size, 0, job.eps) if size else None
        eps, tried = job.eps, set[float]()
        while eps not in tried:
            figures = _Figures()
            for number, (feed, held) in enumerate(zip(self._feeds, values, strict=True)):
                mine = range(number, self._probes, len(values))
                self._run(job, feed, held, mine, eps * spread, figures, smaller=eps > _LEAST)
            tried.add(eps)
            if figures.largest > _LINEAR and eps > _LEAST:
                eps = max(eps / 10, _LEAST)
                continue
            found = figures.gradient(size, eps)
            if found is not None and found.mean_square is not None and not found.resolved:
                eps = COARSE
        return found

    def _run(
        self,
        job: _Job,
        feed: Feed,
        held: Mapping[str, Any],
        probes: Sequence[int],
        step: float,
        figures: _Figures,
        *,
        smaller: bool,
    ) -> None:
        """Run one batch as it is, and perturbed; as long as no smaller step is called for, where there is one."""
        todo = list(probes)
        clean: _Clean | None = None
        while todo and (figures.largest <= _LINEAR or not smaller):
            now, todo = todo[: figures.room], todo[figures.room :]
            moved, lengths = zip(*(self._perturb(job.cut, held, probe, step) for probe in now), strict=True)
            runs = moved if clean is not None else ({}, *moved)
            apart = self._origin.fork([feed] * len(runs))
            for name in held:
                apart.hold(name, [run.get(name, held[name]) for run in runs])
            apart.expect(job.outputs)
            apart.compute(job.outputs)
            results = zip(*(apart.values(name) for name in job.outputs), strict=True)
            clean = clean or _Clean(next(results))
            for length, result in zip(lengths, results, strict=True):
                for name, before, after in zip(job.outputs, clean.outputs, result, strict=True):
                    if before.shape != after.shape:
                        raise _ShapeError(name)
                figures.add(clean, result, length)
            figures.nbytes = clean.nbytes + sum(m.nbytes for m in moved[0].values())

    def _perturb(self, cut: Cut, held: Mapping[str, Any], probe: int, step: float) -> tuple[dict[str, Floats], float]:
        """The values of a cut, each with a normal number of its own added, and the squared length of what was added."""
        source = stream(weight_key(self._seed, f"probe\0{cut.key}"), probe)
        moved: dict[str, Floats] = {}
        length = 0.0
        for name in cut.names:
            v: Floats = np.empty(held[name].shape, held[name].dtype)
            source.normal(v)
            v *= v.dtype.type(step)
            moved[name] = v + held[name]
            length += _square(np.subtract(moved[name], held[name], out=v))
        return moved, length


@dataclass(frozen=True, slots=True)
class _Job:
    """A cut with what it takes to probe it: outputs that depend on it, names that are held, eps in stds."""

    cut: Cut
    outputs: list[str]
    held: list[str]
    eps: float


class _Clean:
    """The outputs of a batch as it is.

    Attributes:
        outputs: The values.
        size: How many.
        nbytes: Their bytes.
        spread: Their std.
        rounding: The squared length of what rounding makes of them.
    """

    def __init__(self, outputs: Sequence[Floats]):
        self.outputs = outputs
        self.size, self.nbytes = sum(a.size for a in outputs), sum(a.nbytes for a in outputs)
        self.spread = _spread([outputs])
        self.rounding = sum(_square(a) * float(np.finfo(a.dtype).eps / 2) ** 2 for a in outputs)


@dataclass(slots=True)
class _Figures:
    """What the probes of one cut gave; `nbytes` of each are held at once."""

    ratios: list[float] = field(default_factory=list)
    floors: list[float] = field(default_factory=list)
    largest: float = 0.0  # response in stds of the outputs
    outputs: int = 0
    nbytes: int = 0

    @property
    def room(self) -> int:
        """How many probes are run at once."""
        return max(1, _MOST // self.nbytes) if self.nbytes else 1

    def add(self, clean: _Clean, result: Sequence[Floats], length: float) -> None:
        """Take a response to a perturbation of some squared length."""
        self.outputs = clean.size
        if not self.outputs or not length:
            return
        with np.errstate(invalid="ignore", over="ignore"):
            response = sum(_square(b - a) for a, b in zip(clean.outputs, result, strict=True))
        self.ratios.append(response / length)
        self.floors.append(clean.rounding / length)
        if clean.spread > 0:
            self.largest = max(self.largest, math.sqrt(response / self.outputs) / clean.spread)

    def gradient(self, size: int, eps: float) -> Gradient | None:
        """The mean of the responses and its standard error."""
        if not self.ratios:
            return None
        mean, error = float(np.mean(self.ratios)), float(np.std(self.ratios, ddof=1) / math.sqrt(len(self.ratios)))
        finite = math.isfinite(mean)
        return Gradient(
            mean if finite else None,
            error if finite and math.isfinite(error) else None,
            float(np.mean(self.floors)),
            size,
            self.outputs,
            eps,
        )


def _square(x: Floats) -> float:
    """The squared length."""
    if not x.size:
        return 0.0
    moments = moments_of(x)
    return float(moments.variance + moments.mean**2) * x.size


def _spread(batches: Iterable[Iterable[Floats]]) -> float:
    """The std within the values of each name, all of them together; their root mean square, or 1, where it is zero."""
    count, within, square = 0, 0.0, 0.0
    for x in itertools.chain.from_iterable(batches):
        moments = moments_of(x)
        count += x.size
        within += float(moments.squares)
        square += float(moments.squares + moments.mean**2 * x.size)
    if not count:
        return 0.0
    return math.sqrt(within / count) or math.sqrt(square / count) or 1.0


def behind(program: Program, names: Iterable[str]) -> set[Step]:
    """The steps whose results follow from the values of some names."""
    found: set[Step] = set()
    todo = list(names)
    while todo:
        for step in program.readers.get(todo.pop(), ()):
            if step not in found and step.op not in _BLIND:
                found.add(step)
                todo += [name for name in step.outputs if name]
    return found


def _before(program: Program, names: Iterable[str]) -> set[Step]:
    """The steps that some names follow from."""
    found: set[Step] = set()
    todo = list(names)
    while todo:
        step = program.makers.get(todo.pop())
        if step is not None and step not in found:
            found.add(step)
            todo += step.inputs
    return found
