"""`onnxinit diagnose`: how signal and gradient fare in a model as it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxinit.cli import options

if TYPE_CHECKING:
    from onnxinit.signal import DataOptions


@click.command("diagnose")
@options.model
@options.data
@click.option(
    "--probes",
    type=click.IntRange(min=2),
    default=8,
    show_default=True,
    metavar="N",
    help="Perturbations for each gradient; more make its error smaller.",
)
@click.option(
    "--gradient-layers",
    type=click.IntRange(min=0),
    default=12,
    show_default=True,
    metavar="N",
    help="From how many layers the gradient is measured, evenly spaced.",
)
@options.ops
@options.provider
@options.spill
@click.option("--threads", type=int, metavar="N", help="Threads within an operator. [default: all processors]")
@options.as_json
@options.external_root
def command(model: Path, data_options: DataOptions, as_json: bool, **asked: Any) -> None:
    """Say how the signal and the gradient of MODEL fare, layer by layer, with the weights that it has.

    Shown are, of every layer, std and mean of its output before the activation, dead units, saturated and non-finite
    values, and from some layers the mean squared singular value of the Jacobian to the model's outputs; then a
    verdict.
    """
    from onnxinit.reinit import diagnose

    found = diagnose(
        model,
        data=data_options.data,
        batch_size=data_options.batch_size,
        samples=data_options.samples,
        dims=data_options.dims,
        images=data_options.images,
        **asked,
    )
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
        return
    from onnxinit.report.diagnosis import diagnosis
    from onnxinit.report.text import console

    out = console()
    for part in diagnosis(found):
        out.print(part)
