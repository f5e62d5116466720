"""The data path in one screen: model file -> analysis -> plan -> values -> model file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from onnxinit import __version__
from onnxinit.analysis import Analysis, Weight, analyse, with_stored, without_unused
from onnxinit.analysis.operators import Operators, load_operators
from onnxinit.errors import ExpectationError, ModelError, SchemeError
from onnxinit.model import ModelFile, build, write
from onnxinit.plan import Asked, Donors, Left, Plan, several, stale
from onnxinit.report import Inspection
from onnxinit.schemes import Spec
from onnxinit.signal import Calibration, DataOptions, ImageOptions, Running
from onnxinit.values import Tally, fresh

if TYPE_CHECKING:
    from onnxinit.signal import Diagnosis, Signal

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
    keep_scales: bool = False,
    flush_subnormals: bool = False,
    materialize: bool = True,
    densify: bool = False,
    plan: Plan | File | None = None,
    ops: File | Iterable[File] = (),
    tie_equal: bool = False,
    prune_unused: bool = False,
    data: Any = None,
    batch_size: int | None = None,
    samples: int | None = None,
    dims: Mapping[str, int] | None = None,
    images: ImageOptions | None = None,
    calibrate: bool = False,
    recalibrate_norm: bool | None = None,
    recalibrate_activations: bool | None = None,
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
        keep_scales: Whether scales and zero points of quantised weights stay, bit for bit; the weights are then drawn
            within the range that they have.
        flush_subnormals: Whether zeros are written in the place of subnormal numbers.
        materialize: Whether weights that the graph makes whenever it runs (ConstantOfShape, RandomNormal and the like
            where a layer wants its weight) become initializers; they stay as they are if not.
        densify: Whether weights that are stored sparse become dense initializers; they keep their pattern if not.
        plan: A plan, or a file that holds one or a report, in place of the arguments above.
        ops: Files that describe operators which are not known, or otherwise: a path or several. With a plan they stand
            in for those that it was made with.
        tie_equal: Whether weights whose stored values are equal, or equal but for a transposition, stay so.
        prune_unused: Whether initializers that nothing uses are left out, and inputs of the same name.
        data: Calibration data for schemes that look at signals (`signal.open_feeds` says in what forms); synthetic
            feeds are made if it is not given.
        batch_size: Samples a batch.
        samples: How many samples of the data are taken; all if not given.
        dims: Lengths of symbolic dimensions of the inputs, by name.
        images: How images become arrays.
        calibrate: Whether the weights of any scheme are scaled by LSUV as well.
        recalibrate_norm: Whether batch norms get the statistics of their input on the data; if not given, they do
            where LSUV scales.
        recalibrate_activations: Whether quantised activations get scales and zero points for the range that their
            values have on the data; if not given, they do where data is given, and no plan.
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
        SchemeError: A scheme, rule, pattern, seed, plan or described operator is wrong.
        DataError: The data does not fit the model.
        ExpectationError: With `strict`, a weight could not be scaled.
    """
    asked = Asked(
        scheme=scheme,
        seed=seed,
        rules=several(rules),
        include=several(include),
        exclude=several(exclude),
        allow_unmatched=allow_unmatched,
        cascade=cascade,
        materialize=materialize,
        densify=densify,
        plan=plan,
        ops=_paths(ops),
        tie_equal=tie_equal,
        keep_scales=keep_scales,
        prune_unused=prune_unused,
        flush_subnormals=flush_subnormals,
    ).with_plan()
    workers = _threads(threads)
    told = Calibration(
        DataOptions(data, batch_size, samples, dims or {}, images or ImageOptions()),
        calibrate,
        recalibrate_norm,
        input_mean,
        input_var,
        Running(workers, provider, None if spill is None else Path(spill)),
        recalibrate_activations,
    )
    given = _open(model, external_root)
    operators = asked.operators()
    file, analysis, removed = _understood(given, asked, operators)
    donors = Donors(None if external_root is None else Path(external_root), operators)
    made, signal = asked.plan_for(analysis, donors, operators, calibrated=calibrate), None
    if spared := _spared(made, analysis, file):
        file, analysis, removed = _understood(given, asked, operators, spared)
    made = replace(made, arguments={**made.arguments, **told.given()}, removed=removed)
    told = told.with_activations(analysis, planned=plan is not None, kept=keep_scales)
    if data is not None and not dry_run and (diagnose or told.wanted(made)):
        told = told.opened(file)
    before = _look_before(given, told, operators) if diagnose else None
    if told.wanted(made):
        made, signal = _settled(made, analysis, file, told, donors, dry=dry_run)
    if strict and signal is not None:
        _expect_all(signal)
    tally = Tally(made.flush_subnormals)
    values = fresh(made, analysis, file.array, donors, tally)
    nbytes = sum(v.nbytes for v in values.values())
    weights = tuple(analysis.by_id[e.id] for e in made.entries)
    warnings = made.warnings if told.activations else (*made.warnings, *stale(made, analysis))
    result = Result(made, weights, made.kept, warnings, nbytes, signal=signal, before=before)
    notes = {METADATA_KEY: _note(made)} if metadata else None
    if dry_run:
        return result
    if output is None and file.path is None:
        built = build(file, values, metadata=notes, threads=workers)
        result = replace(result, warnings=(*result.warnings, *tally.warnings()))
        return replace(result, model=built, after=_look(ModelFile.of(built), told, operators) if diagnose else None)
    out = output_path(file.path or "", output, in_place=in_place)
    counted = _counted(progress, nbytes)
    write(file, out, values, metadata=notes, force=force, in_place=in_place, threads=workers, progress=counted)
    result = replace(result, warnings=(*result.warnings, *tally.warnings()))
    return replace(result, path=out, after=_look(_open(out, external_root), told, operators) if diagnose else None)


def diagnose(
    model: File | onnx.ModelProto,
    *,
    data: Any = None,
    batch_size: int | None = None,
    samples: int | None = None,
    dims: Mapping[str, int] | None = None,
    images: ImageOptions | None = None,
    ops: File | Iterable[File] = (),
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
        ops: Files that describe operators, as `reinit` takes them.
        probes: Perturbations for each Jacobian, at least 2; each costs one run from there to the outputs.
        gradient_layers: From how many layers, evenly spaced in the order of execution.
        provider: The execution provider of ONNX Runtime; the processor's if not given.
        spill: A folder for activations that are held between layers; memory if not given.
        threads: How many threads an operator has; all processors if not given.
        external_root: A folder besides the model's own that its external data may lie in.

    Raises:
        ModelError: The model cannot be read, or values of it are missing.
        SchemeError: A file that describes operators is wrong.
        DataError: The data does not fit the model.
    """
    running = Running(_threads(threads), provider, None if spill is None else Path(spill))
    options = DataOptions(data, batch_size, samples, dims or {}, images or ImageOptions())
    operators = load_operators(*_paths(ops))
    return _look(_open(model, external_root), Calibration(options, running=running), operators, probes, gradient_layers)


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
    keep_scales: bool = False,
    materialize: bool = True,
    densify: bool = False,
    plan: Plan | File | None = None,
    ops: File | Iterable[File] = (),
    tie_equal: bool = False,
    prune_unused: bool = False,
    input_mean: float | None = None,
    input_var: float | None = None,
    external_root: File | None = None,
) -> Inspection:
    """Say of every tensor what it is, and what `reinit` would do to it with the same arguments.

    External data need not be there, unless `tie_equal` compares it.

    Raises:
        ModelError: The model cannot be read.
        SchemeError: A scheme, rule, pattern, seed, plan or described operator is wrong.
    """
    asked = Asked(
        scheme=scheme,
        seed=seed,
        rules=several(rules),
        include=several(include),
        exclude=several(exclude),
        allow_unmatched=allow_unmatched,
        cascade=cascade,
        materialize=materialize,
        densify=densify,
        plan=plan,
        ops=_paths(ops),
        tie_equal=tie_equal,
        keep_scales=keep_scales,
        prune_unused=prune_unused,
    ).with_plan()
    told = Calibration(input_mean=input_mean, input_var=input_var)
    operators = asked.operators()
    file, analysis, removed = _understood(_open(model, external_root), asked, operators)
    donors = Donors(None if external_root is None else Path(external_root), operators)
    made = replace(asked.plan_for(analysis, donors, operators), removed=removed)
    if told.wanted(made):
        made, _ = _settled(made, analysis, file, told, donors, dry=True)
    return Inspection.of(file, analysis, made)


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


def _open(model: File | onnx.ModelProto, external_root: File | None) -> ModelFile:
    if isinstance(model, onnx.ModelProto):
        return ModelFile.of(model)
    return ModelFile.open(model, external_root=None if external_root is None else Path(external_root))


def _understood(
    file: ModelFile, asked: Asked, operators: Operators, spare: Collection[Weight] = ()
) -> tuple[ModelFile, Analysis, tuple[str, ...]]:
    """What is in a model: with dense stored tensors for its weights, without unused ones, as far as that is asked for.

    Returns:
        The file as it will be, what is in it, and the ids of what is left out.
    """

    def read(file: ModelFile) -> Analysis:
        return analyse(file, operators, tie_equal=asked.tie_equal)

    generated, sparse = asked.set_to("materialize"), asked.set_to("densify")
    file, analysis = with_stored(file, read, generated=generated, sparse=sparse, spare=spare)
    return without_unused(file, analysis, read) if asked.set_to("prune_unused") else (file, analysis, ())


def _spared(plan: Plan, analysis: Analysis, file: ModelFile) -> list[Weight]:
    """The weights that a plan keeps and that were replaced to be drawn: they stay what they are."""
    drawn = {entry.id for entry in plan.entries}
    return [w for w in analysis.weights if w.path in file.replaced and w.id not in drawn]


def _settled(
    plan: Plan, analysis: Analysis, file: ModelFile, told: Calibration, donors: Donors, *, dry: bool
) -> tuple[Plan, Signal | None]:
    """`signal.settle`, imported where a plan needs it."""
    from onnxinit.signal import settle

    return settle(plan, analysis, file, told, donors, dry=dry)


def _paths(files: File | Iterable[File]) -> tuple[str, ...]:
    """One path or several as texts."""
    return (os.fspath(files),) if isinstance(files, str | os.PathLike) else tuple(os.fspath(file) for file in files)


def _look(file: ModelFile, told: Calibration, ops: Operators, probes: int = 8, layers: int = 12) -> Diagnosis:
    """`signal.look_at`, imported where it is asked for."""
    from onnxinit.signal import Look, look_at

    return look_at(file, Look(told.data, probes, layers, running=told.running, operators=ops))


def _look_before(file: ModelFile, told: Calibration, ops: Operators) -> Diagnosis | str:
    """The diagnosis of the weights that a file has; why there is none where they are not there."""
    try:
        return _look(file, told, ops)
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
