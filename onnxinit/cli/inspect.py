"""`onnxinit inspect`: what every tensor of a model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from onnxinit.cli import options


@click.command("inspect")
@options.model
@options.plan
@options.ops
@options.as_json
@options.external_root
def command(model: Path, as_json: bool, **asked: Any) -> None:
    """Show what every tensor of MODEL is, and what reinit would draw for it with the same options.

    External data need not be there.
    """
    from onnxinit.reinit import inspect

    found = inspect(model, **asked)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
        return
    from onnxinit.report.text import console, notes, sections, summary

    out = console()
    for part in (*sections(found.plan, found.weights), *notes(found.weights), summary(found)):
        out.print(part)
