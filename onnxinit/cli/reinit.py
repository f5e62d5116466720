"""`onnxinit reinit`: write a model again with fresh weights."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxinit import __version__
from onnxinit.cli import options
from onnxinit.cli.progress import bar
from onnxinit.errors import ModelError

if TYPE_CHECKING:
    from onnxinit.reinit import Result
    from onnxinit.signal import DataOptions


@click.command("reinit")
@options.model
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="The file to write. [default: MODEL with .reinit.onnx for .onnx]",
)
@options.plan
@options.ops
@options.data
@options.running
@click.option("--in-place", is_flag=True, help="Write over MODEL itself.")
@click.option("--force", is_flag=True, help="Overwrite OUT if it exists.")
@click.option("--diagnose", is_flag=True, help="Look at signal and gradient before and after, side by side.")
@click.option("--flush-subnormals", is_flag=True, help="Write zeros in the place of subnormal numbers.")
@click.option("--dry-run", is_flag=True, help="Show the plan and write nothing.")
@click.option("--no-metadata", is_flag=True, help="Leave no note of how the weights were made in the model's metadata.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Write the plan and, for every weight, what was written.",
)
@options.as_json
@click.option("--quiet", is_flag=True, help="Print nothing.")
@click.option(
    "--threads",
    type=int,
    metavar="N",
    help="Threads that draw and write; the bytes are the same for any number. [default: all processors]",
)
@options.external_root
def command(
    model: Path,
    output: Path | None,
    plan: Path | None,
    in_place: bool,
    force: bool,
    dry_run: bool,
    no_metadata: bool,
    report: Path | None,
    as_json: bool,
    quiet: bool,
    threads: int | None,
    external_root: Path | None,
    data_options: DataOptions,
    **asked: Any,
) -> None:
    """Write MODEL again with fresh weights; everything else stays as it is, byte for byte."""
    if in_place and output is not None:
        raise click.UsageError("--in-place writes over MODEL: leave out --output")
    if quiet and as_json:
        raise click.UsageError("--quiet prints nothing: leave out --json")
    from onnxinit.reinit import output_path, reinit
    from onnxinit.report.file import report_file

    started = time.monotonic()
    target = output_path(model, output, in_place=in_place)
    _check_apart(report, [model, target])
    with report_file(report) as write_report:
        with bar() as progress:
            result = reinit(
                model,
                target,
                plan=plan,
                metadata=not no_metadata,
                force=force,
                in_place=in_place,
                dry_run=dry_run,
                threads=threads,
                external_root=external_root,
                progress=progress,
                data=data_options.data,
                batch_size=data_options.batch_size,
                samples=data_options.samples,
                dims=data_options.dims,
                images=data_options.images,
                **asked,
            )
        seconds = time.monotonic() - started
        record = _record(model, result) if report or as_json else {}
        aside: dict[str, Any] = {}
        write_report({**record, "plan": result.plan.to_json(aside)}, aside)
    if as_json:
        click.echo(json.dumps(record, indent=1))
    elif not quiet:
        _print(result, seconds)


def _check_apart(report: Path | None, models: Iterable[Path]) -> None:
    """See that the report does not replace a model."""
    if report is not None and os.path.realpath(report) in map(os.path.realpath, models):
        raise ModelError(f"the report {report} would overwrite the model: give it another name")


def _record(model: Path, result: Result) -> dict[str, Any]:
    """The report as a JSON object: the plan, and what the written file holds."""
    from onnxinit.model import ModelFile
    from onnxinit.report import measure

    written = None
    if result.path is not None:
        written = [w.to_json() for w in measure(ModelFile.open(result.path), result.plan, result.weights)]
    return {
        "format": "onnxinit.report/1",
        "version": __version__,
        "model": str(model),
        "output": None if result.path is None else str(result.path),
        "tensors": len(result.weights),
        "parameters": sum(w.stored for w in result.weights),
        "bytes": result.nbytes,
        "plan": result.plan.to_json(),
        "signal": None if result.signal is None else result.signal.to_json(),
        **_diagnoses(result),
        "warnings": list(result.warnings),
        "written": written,
    }


def _diagnoses(result: Result) -> dict[str, Any]:
    """The diagnoses of the old and the fresh weights, where they were asked for."""
    if result.before is None:
        return {}
    before = result.before if isinstance(result.before, str) else result.before.to_json()
    return {"diagnosis": {"before": before, "after": None if result.after is None else result.after.to_json()}}


def _print(result: Result, seconds: float) -> None:
    from onnxinit.report.diagnosis import compared
    from onnxinit.report.signal import findings
    from onnxinit.report.text import console, outcome, sections, total

    out = console()
    found = findings(result.signal) if result.signal is not None else ()
    last = total(result.plan, result.weights, result.nbytes)
    looked = compared(result.before, result.after)
    for part in (*sections(result.plan, result.weights, result.warnings), *found, *looked, last):
        out.print(part)
    out.print(outcome(result.path, seconds))
