"""The data path in one screen: model file -> analysis -> plan -> values -> model file."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from onnxinit import __version__
from onnxinit.analysis import Analysis, Weight, analyse
from onnxinit.errors import ExpectationError, ModelError, SchemeError
from onnxinit.model import ModelFile, build, write
from onnxinit.plan import Donors, Left, Plan, fit_plan, make_plan
from onnxinit.report import Inspection
from onnxinit.schemes import Spec
from onnxinit.signal import (
    Calibration,
    DataOptions,
    Diagnosis,
    ImageOptions,
    Look,
    Running,
    Signal,
    look_at,
    model_inputs,
    settle,
)
from onnxinit.signal.moments import by_moments, input_moments
from onnxinit.values import fresh

METADATA_KEY = "onnxinit"

File = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Result:
    """What a run made.

    Attributes:
        plan: What was drawn, and the seed.
        weights: The tensors that were rewritten, in file order.
        kept: All others, with the reasons.
        warnings: What a reader should know before using the model.
        nbytes: Bytes of fresh values.
        path: The file that was written; None for a model in memory and for a dry run.
        model: The new model, for a model in memory; else None.
        signal: What passes over calibration data found; None where there was none.
        before: With `diagnose`, the diagnosis of the old weights; why there is none where they are not there.
        after: With `diagnose`, that of the fresh ones; None for a dry run.
    """

    plan: Plan
    weights: tuple[Weight, ...]
    kept: tuple[Left, ...]
    warnings: tuple[str, ...]
    nbytes: int
    path: Path | None = None
    model: onnx.ModelProto | None = None
    signal: Signal | None = None
    before: Diagnosis | str | None = None
    after: Diagnosis | None = None


def reinit(
    model: File | onnx.ModelProto,
    output: File | None = None,
    *,
    scheme: str | Spec | None = None,
    seed: int | str | None = None,
    rules: str | Iterable[str] = (),
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    allow_unmatched: bool = False,
    cascade: int | None = None,
    plan: Plan | File | None = None,
    data: Any = None,
    batch_size: int | None = None,
    samples: int | None = None,
    dims: Mapping[str, int] | None = None,
    images: ImageOptions | None = None,
    calibrate: bool = False,
    recalibrate_norm: bool | None = None,
    strict: bool = False,
    diagnose: bool = False,
    provider: str | None = None,
    spill: File | None = None,
    input_mean: float | None = None,
    input_var: float | None = None,
    metadata: bool = True,
    force: bool = False,
    in_place: bool = False,
    dry_run: bool = False,
    threads: int | None = None,
    external_root: File | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Give a model fresh weights; everything else stays as it is.

    Args:
        model: A file, or a model in memory, which is left untouched.
        output: The file to write. Without it a model in memory gives `Result.model`, and `m.onnx` gives
            `m.reinit.onnx` beside it.
        scheme: The SPEC for kernels, `auto` if not given; other roles have defaults of their own.
        seed: The root seed, 0 if not given; "random" takes one from the system, which `Result.plan.seed` tells.
        rules: PATTERN=SPEC each; the last one that matches a weight wins.
        include: PATTERNs; a weight that none of them matches is kept.
        exclude: PATTERNs; a weight that one of them matches is kept.
        allow_unmatched: Whether a pattern that matches nothing is a warning and not an error.
        cascade: How many levels of layers are rewritten, from the output down; all if not given.
        plan: A plan, or a file that holds one or a report, in place of the arguments above.
        data: Calibration data for schemes that look at signals (`signal.open_feeds` says in what forms); synthetic
            feeds are made if it is not given.
        batch_size: Samples a batch.
        samples: How many samples of the data are taken; all if not given.
        dims: Lengths of symbolic dimensions of the inputs, by name.
        images: How images become arrays.
        calibrate: Whether the weights of any scheme are scaled by LSUV as well.
        recalibrate_norm: Whether batch norms get the statistics of their input on the data; if not given, they do
            where LSUV scales.
        strict: Whether a weight that could not be scaled is an error.
        diagnose: Whether to look at the signal and the gradient before and after (`Result.before`, `Result.after`).
        provider: The execution provider of ONNX Runtime that runs the model; the processor's if not given.
        spill: A folder for activations that are held between layers; memory if not given.
        input_mean: The mean of the float inputs for schemes that carry moments (analytic, and auto in a network
            without norms); that of the data if it is given, else 0.
        input_var: Their variance; that of the data if it is given, else 1.
        metadata: Whether the model's metadata tells how its weights were made, under the key "onnxinit".
        force: Whether an existing file may be overwritten.
        in_place: Whether the input may be overwritten; it is where no output is given.
        dry_run: Whether to stop before anything is drawn.
        threads: How many threads draw and write; all processors if not given. The bytes are the same for any number.
        external_root: A folder besides the model's own that its external data may lie in.
        progress: Is told (bytes drawn and written, bytes in all) again and again, by one thread at a time.

    Returns:
        What was made; always, also where there is nothing to rewrite.

    Raises:
        ModelError: The model cannot be read or the output cannot be written.
        SchemeError: A scheme, rule, pattern, seed or plan is wrong.
        DataError: The data does not fit the model.
        ExpectationError: With `strict`, a weight could not be scaled.
    """
    asked = _Asked(
        *(scheme, seed, _tuple(rules), _tuple(include), _tuple(exclude), allow_unmatched, plan, cascade),
        *(input_mean, input_var),
    )
    workers = _threads(threads)
    told = Calibration(
        DataOptions(data, batch_size, samples, dims or {}, images or ImageOptions()),
        calibrate,
        recalibrate_norm,
        Running(workers, provider, None if spill is None else Path(spill)),
    )
    file = _open(model, external_root)
    analysis = analyse(file)
    donors = Donors(None if external_root is None else Path(external_root))
    made, signal = asked.plan_for(analysis, donors), None
    if diagnose and data is not None:  # a generator gives its feeds once
        told = replace(told, data=replace(told.data, data=told.data.open(model_inputs(file.proto))))
    made = asked.by_moments(made, analysis, None if data is None else (file, told))
    look = Look(told.data, running=told.running)
    before = _look_before(file, look) if diagnose else None
    if not dry_run:
        made, signal = settle(made, analysis, file, told, donors)
    if strict and signal is not None:
        _expect_all(signal)
    values = fresh(made, analysis, file.array, donors)
    nbytes = sum(v.nbytes for v in values.values())
    weights = tuple(analysis.by_id[e.id] for e in made.entries)
    result = Result(made, weights, made.kept, made.warnings, nbytes, signal=signal, before=before)
    notes = {METADATA_KEY: _note(made)} if metadata else None
    if dry_run:
        return result
    if output is None and file.path is None:
        built = build(file, values, metadata=notes, threads=workers)
        return replace(result, model=built, after=look_at(ModelFile.of(built), look) if diagnose else None)
    out = output_path(file.path or "", output, in_place=in_place)
    counted = _counted(progress, nbytes)
    write(file, out, values, metadata=notes, force=force, in_place=in_place, threads=workers, progress=counted)
    return replace(result, path=out, after=look_at(_open(out, external_root), look) if diagnose else None)


def diagnose(
    model: File | onnx.ModelProto,
    *,
    data: Any = None,
    batch_size: int | None = None,
    samples: int | None = None,
    dims: Mapping[str, int] | None = None,
    images: ImageOptions | None = None,
    probes: int = 8,
    gradient_layers: int = 12,
    provider: str | None = None,
    spill: File | None = None,
    threads: int | None = None,
    external_root: File | None = None,
) -> Diagnosis:
    """Say how the signal and the gradient of a model fare with the weights that it has.

    Of every layer, in the order of execution: std and mean of its output before the activation, and the shares of dead
    units, of saturated and of non-finite values (`LayerHealth`). From the input, and from some of the layers, to the
    outputs: the mean squared singular value of the Jacobian, by perturbations (`Gradient`). A verdict in words
    (`Diagnosis.verdict`, `Diagnosis.troubles`). Models of 16-bit floats are run in float32.

    Args:
        model: A file, or a model in memory.
        data: As `reinit` takes it. Synthetic feeds have 32 samples if `samples` does not say otherwise.
        batch_size: Samples a batch.
        samples: How many samples of the data are taken; all if not given.
        dims: Lengths of symbolic dimensions of the inputs, by name.
        images: How images become arrays.
        probes: Perturbations for each Jacobian, at least 2; each costs one run from there to the outputs.
        gradient_layers: From how many layers, evenly spaced in the order of execution.
        provider: The execution provider of ONNX Runtime; the processor's if not given.
        spill: A folder for activations that are held between layers; memory if not given.
        threads: How many threads an operator has; all processors if not given.
        external_root: A folder besides the model's own that its external data may lie in.

    Raises:
        ModelError: The model cannot be read, or values of it are missing.
        DataError: The data does not fit the model.
    """
    running = Running(_threads(threads), provider, None if spill is None else Path(spill))
    options = DataOptions(data, batch_size, samples, dims or {}, images or ImageOptions())
    return look_at(_open(model, external_root), Look(options, probes, gradient_layers, running=running))


def inspect(
    model: File | onnx.ModelProto,
    *,
    scheme: str | Spec | None = None,
    seed: int | str | None = None,
    rules: str | Iterable[str] = (),
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    allow_unmatched: bool = False,
    cascade: int | None = None,
    plan: Plan | File | None = None,
    input_mean: float | None = None,
    input_var: float | None = None,
    external_root: File | None = None,
) -> Inspection:
    """Say of every tensor what it is, and what `reinit` would do to it with the same arguments.

    External data need not be there.

    Raises:
        ModelError: The model cannot be read.
        SchemeError: A scheme, rule, pattern, seed or plan is wrong.
    """
    asked = _Asked(
        *(scheme, seed, _tuple(rules), _tuple(include), _tuple(exclude), allow_unmatched, plan, cascade),
        *(input_mean, input_var),
    )
    file = _open(model, external_root)
    analysis = analyse(file)
    donors = Donors(None if external_root is None else Path(external_root))
    return Inspection.of(file, analysis, asked.by_moments(asked.plan_for(analysis, donors), analysis))


@dataclass(frozen=True, slots=True)
class _Asked:
    """The arguments that make a plan; None or empty where they were left out."""

    scheme: str | Spec | None
    seed: int | str | None
    rules: tuple[str, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    allow_unmatched: bool
    plan: Plan | File | None
    cascade: int | None
    input_mean: float | None = None
    input_var: float | None = None

    def by_moments(self, made: Plan, analysis: Analysis, fed: tuple[ModelFile, Calibration] | None = None) -> Plan:
        """The plan with its analytic entries settled: by the moments given, else those of the data, else 0 and 1."""

        def measured() -> Mapping[str, tuple[float, float]]:
            if fed is None:
                return {}
            file, told = fed
            return input_moments(told.data.open(model_inputs(file.proto), made.seed))

        return by_moments(
            made,
            analysis,
            input_mean=self.input_mean,
            input_var=self.input_var,
            inputs=measured,
            recalibrated=fed is not None and bool(fed[1].recalibrate),
        )

    def plan_for(self, analysis: Analysis, donors: Donors) -> Plan:
        if self.plan is not None:
            if self._given():
                raise SchemeError(f"a plan is given, which says it all: leave out {' and '.join(self._given())}")
            return fit_plan(self.plan if isinstance(self.plan, Plan) else Plan.load(self.plan), analysis)
        made = make_plan(
            analysis,
            scheme="auto" if self.scheme is None else self.scheme,
            seed=_seed(self.seed),
            rules=self.rules,
            include=self.include,
            exclude=self.exclude,
            allow_unmatched=self.allow_unmatched,
            cascade=self.cascade,
            donors=donors,
        )
        return replace(made, arguments=self._given())

    def _given(self) -> dict[str, object]:
        """The arguments that were given, as JSON values."""
        scheme = None if self.scheme is None else str(self.scheme)
        several = {"rules": self.rules, "include": self.include, "exclude": self.exclude}
        given: dict[str, object] = {
            "scheme": scheme,
            "seed": self.seed,
            **{k: list(v) or None for k, v in several.items()},
        }
        given |= {"cascade": self.cascade, "input_mean": self.input_mean, "input_var": self.input_var}
        return {k: v for k, v in given.items() if v is not None}


def _note(plan: Plan) -> str:
    """The metadata entry: versions, the arguments that made the plan, its seed and its digest."""
    entry = {
        "version": __version__,
        "stream": plan.stream,
        "arguments": dict(plan.arguments),
        "seed": plan.seed,
        "plan": plan.digest(),
    }
    return json.dumps(entry, separators=(",", ":"))


def _tuple(texts: str | Iterable[str]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)


def _open(model: File | onnx.ModelProto, external_root: File | None) -> ModelFile:
    if isinstance(model, onnx.ModelProto):
        return ModelFile.of(model)
    return ModelFile.open(model, external_root=None if external_root is None else Path(external_root))


def _look_before(file: ModelFile, look: Look) -> Diagnosis | str:
    """The diagnosis of the weights that a file has; why there is none where they are not there."""
    try:
        return look_at(file, look)
    except ModelError as e:
        return str(e)


def _expect_all(signal: Signal) -> None:
    """See that every weight got what was asked for."""
    if signal.failed:
        first = signal.failed[0]
        raise ExpectationError(
            f"{len(signal.failed)} of {len(signal.layers)} layers did not get what was asked for, the first is "
            f"'{first.id}': {first.note or first.status}; without --strict they keep their base"
        )


def _seed(seed: int | str | None) -> int:
    """The root seed: the number, 0, or for "random" 32 bits of the system's."""
    if seed == "random":
        return secrets.randbits(32)
    try:
        return 0 if seed is None else int(seed)
    except ValueError:
        raise SchemeError(f"the seed '{seed}' is neither a whole number nor 'random'") from None


def _threads(threads: int | None) -> int:
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads < 1:
        raise SchemeError(f"{threads} threads cannot draw anything: give at least 1")
    return threads


def output_path(model: File, output: File | None = None, *, in_place: bool = False) -> Path:
    """The file that a run writes: the output, the model itself in place, or `m.reinit.onnx` beside `m.onnx`."""
    if output is not None:
        return Path(output)
    model = Path(model)
    return model if in_place else model.parent / f"{model.name.removesuffix('.onnx')}.reinit.onnx"


def _counted(progress: Callable[[int, int], None] | None, total: int) -> Callable[[int], None] | None:
    """What the writer calls with every piece, telling `progress` the sum."""
    if progress is None:
        return None
    done = 0

    def told(just: int) -> None:
        nonlocal done
        done += just
        progress(done, total)

    return told
