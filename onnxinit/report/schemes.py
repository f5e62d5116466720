"""The table of schemes, for reading and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from onnxinit.report.text import Paragraph
from onnxinit.schemes import Parameter, Scheme

_INDENT = 4


def scheme_lines(scheme: Scheme) -> Iterator[Paragraph]:
    """A scheme as a person reads it: names, what it draws, parameters with defaults, formula, source."""
    names = f"  also {', '.join(scheme.aliases)}" if scheme.aliases else ""
    yield Paragraph((scheme.name, "bold green"), (names, "dim"))
    yield Paragraph(scheme.summary, indent=_INDENT)
    for parameter in scheme.parameters:
        default = "" if parameter.default is None else f"={_word(parameter.default)}"
        takes = f"  {parameter.takes}. {parameter.help}"
        yield Paragraph((f"{parameter.name}{default}", "cyan"), takes, indent=_INDENT)
    if scheme.gain:
        yield Paragraph(("gain=paper", "cyan"), "  paper, exact, upstream, or a number, at least 0", indent=_INDENT)
    for text, style in ((scheme.formula, ""), (scheme.source, "dim")):
        if text:
            yield Paragraph((text, style), indent=_INDENT)
    yield Paragraph()


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def scheme_record(scheme: Scheme) -> dict[str, Any]:
    """A scheme as a JSON object."""
    return {
        "name": scheme.name,
        "aliases": {alias: dict(sets) for alias, sets in scheme.aliases.items()},
        "summary": scheme.summary,
        "formula": scheme.formula,
        "source": scheme.source,
        "parameters": [_parameter(p) for p in scheme.parameters],
        "gain": scheme.gain,
        "exact": scheme.exact_to,
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    least, most = parameter.range.least, parameter.range.most
    return {
        "name": parameter.name,
        "kind": parameter.kind,
        "default": parameter.default,
        "choices": list(parameter.choices),
        "least": least if math.isfinite(least) else None,
        "most": most if math.isfinite(most) else None,
        "help": parameter.help,
    }
