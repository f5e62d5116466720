"""`onnxinit schemes`: the table of schemes."""

from __future__ import annotations

import json

import click

from onnxinit.cli import options


@click.command("schemes")
@options.as_json
def command(as_json: bool) -> None:
    """List the schemes with their parameters, formulas and sources."""
    from onnxinit import plugins
    from onnxinit.report.schemes import scheme_lines, scheme_record
    from onnxinit.schemes import SCHEMES

    plugins.load_plugins(plugins.SCHEMES)
    if as_json:
        rows = [scheme_record(scheme) for scheme in SCHEMES.values()]
        click.echo(json.dumps({"format": "onnxinit.schemes/1", "schemes": rows}, indent=1))
        return
    from onnxinit.report.text import console

    out = console()
    for scheme in SCHEMES.values():
        for line in scheme_lines(scheme):
            out.print(line)
